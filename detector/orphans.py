"""Reaps what is left to process 1: in a container the service may be it, and nobody else would.

A reader whose forkserver was killed dies with it and is left to process 1, which the kernel wants to take note of every
death. Forkservers themselves lead sessions of their own and are waited for by the nursery that started them.
"""

import asyncio
import contextlib
import os
from pathlib import Path

_LOOK_EVERY_SECONDS = 5.0


async def keep_reaping() -> None:
    """Reap orphans for ever, where this is process 1; elsewhere there are none."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        if os.getpid() == 1:
            reap_orphans()


def reap_orphans() -> int:
    """Reap every dead child that another process had started; tell how many there were."""
    found = 0
    for pid in _children():
        try:
            facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # gone meanwhile
            continue
        state, _, _, session = facts.rpartition(")")[2].split()[:4]  # proc(5): the name before may hold anything
        if state == "Z" and int(session) not in (pid, os.getsid(0)):
            with contextlib.suppress(ChildProcessError):
                found += os.waitpid(pid, os.WNOHANG)[0] == pid
    return found


def _children() -> list[int]:
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            found += [int(pid) for pid in (thread / "children").read_text("ascii").split()]
    return found
