"""Memory that is no longer needed goes back to the kernel."""

import subprocess
import sys

_PROGRAM = """
import sys
from pathlib import Path
from detector.memory import return_freed, return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "returning" and not return_large_blocks():
    sys.exit("no mallopt here")
bytearray(200_000)
before = resident()
samples = [bytearray(b"x" * 200_000) for _ in range(200)]
small = [bytes(3000) for _ in range(200)]  # what lives on behind them
largest = resident()
del samples
if sys.argv[1] == "trimming" and not return_freed():
    sys.exit("no malloc_trim here")
print(largest - before, resident() - before)
"""


def taken_and_kept(how: str) -> list[int]:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
    return [int(word) for word in ended.stdout.split()]


def test_busy_moment_leaves_no_memory_behind() -> None:
    """Forty megabytes of samples that were there at once are given back though small things were made after them."""
    taken, kept = taken_and_kept("returning")

    assert taken > 35_000_000
    assert kept < 3_000_000
    assert taken_and_kept("learning")[1] > kept


def test_what_loading_left_behind_is_given_back_at_once() -> None:
    """Where large blocks are not returned by themselves, one call returns all that is free between small things."""
    taken, kept = taken_and_kept("trimming")

    assert taken > 35_000_000
    assert kept < 3_000_000
