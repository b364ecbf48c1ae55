"""Reaps what is left to process 1: in a container the service may be it, and nobody else would.

A process whose forkserver was killed dies with it and is left to process 1, of which the kernel expects that it takes
note of every death. The service's own children are waited for at once by whoever started them.
"""

import asyncio
import contextlib
import os
from collections.abc import Collection
from pathlib import Path

_LOOK_EVERY_SECONDS = 5.0


async def keep_reaping() -> None:
    """Reap orphans for ever, where this is process 1; elsewhere there are none."""
    dead: frozenset[int] = frozenset()
    while True:
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        if os.getpid() == 1:
            dead = reap_orphans(dead)


def reap_orphans(dead_before: Collection[int]) -> frozenset[int]:
    """Reap the children that were dead at the last look and still are: nobody waits for them. Gives the newly dead."""
    dead = frozenset(pid for pid in _children() if _is_dead(pid))
    for pid in dead & frozenset(dead_before):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return dead - frozenset(dead_before)


def _is_dead(pid: int) -> bool:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # gone meanwhile
        return False
    return facts.rpartition(")")[2].split()[0] == "Z"  # proc(5): the name before it may hold anything


def _children() -> list[int]:
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            found += [int(pid) for pid in (thread / "children").read_text("ascii").split()]
    return found
