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


def taken_and_kept(how: str, program: str = _PROGRAM) -> list[int]:
    ended = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True)
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


_COLLECTING = """
import gc, sys
from detector.memory import keep_what_is_loaded

loaded = [[] for _ in range(500_000)]
gc.collect()
if sys.argv[1] == "keeping":
    keep_what_is_loaded()
begun = gc.get_stats()[2]["collections"]
for _ in range(200):
    streams = [[] for _ in range(500)]  # each its own, and only a full collection ends it once it has lived for a while
    for stream in streams:
        stream.append(stream)
print(gc.get_freeze_count(), gc.get_stats()[2]["collections"] - begun)
"""

_THREADS = """
import sys, threading
from pathlib import Path
from detector.memory import share_one_heap

def virtual():
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096

if sys.argv[1] == "sharing" and not share_one_heap():
    sys.exit("no mallopt here")
threading.stack_size(256 * 1024)
before, go_on, taken = virtual(), threading.Event(), threading.Semaphore(0)

def take():
    kept = [bytes(3000) for _ in range(20)]
    taken.release()
    go_on.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    taken.acquire()
print(virtual() - before, 0)
go_on.set()
"""


def test_what_is_loaded_does_not_put_off_the_collection_of_garbage() -> None:
    """Beside 500,000 things that were there at the start, 100,000 that end are collected on the way, else never."""
    frozen, collections = taken_and_kept("keeping", _COLLECTING)

    assert frozen >= 500_000
    assert collections >= 1
    assert taken_and_kept("leaving", _COLLECTING) == [0, 0]


def test_threads_share_one_heap() -> None:
    """A thread that takes memory reserves no heap of its own, which are 64 MiB of addresses each."""
    assert taken_and_kept("sharing", _THREADS)[0] < 64 * 2**20
    assert taken_and_kept("parting", _THREADS)[0] > 64 * 2**20
