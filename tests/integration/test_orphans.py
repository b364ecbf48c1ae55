"""Orphans are reaped by whoever is process 1; a child subreaper gets them just so."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

_SUBREAPER = """
import ctypes, subprocess, sys, time
from detector.orphans import _children, reap_orphans
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
parent = subprocess.Popen([sys.executable, "-c", "import os; os.fork() and os.fork(); os._exit(7)"])
time.sleep(1.0)
print(parent.wait(), len(_children()))
first = reap_orphans([])
print(len(first), len(_children()))
print(len(reap_orphans(first)), len(_children()))
"""


def test_orphans_are_reaped_at_the_second_look() -> None:
    """What whoever started it waits for is left to them; what is dead at two looks is nobody's and is taken."""
    done = subprocess.run([sys.executable, "-c", _SUBREAPER], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["7 2", "2 2", "0 0"]
