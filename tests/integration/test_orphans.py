"""Orphans are reaped by whoever is process 1; a child subreaper gets them just so."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

_SUBREAPER = """
import ctypes, os, subprocess, sys, time
from detector.orphans import reap_orphans
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
parent = subprocess.Popen(  # as a forkserver: a session of its own, and two children that outlive it
    [sys.executable, "-c", "import os; [os.fork() or os._exit(0) for _ in range(2)]; os._exit(7)"], start_new_session=True
)
time.sleep(1.0)
print(reap_orphans(), reap_orphans(), parent.wait())
"""


def test_orphans_are_reaped_and_own_children_left() -> None:
    """Both orphans are taken note of, once; the one that we started keeps its status for whoever waits for it."""
    done = subprocess.run([sys.executable, "-c", _SUBREAPER], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "0", "7"]
