"""Children that show what a forkserver gives them."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

IMPORTED_BY = os.getpid()


def main(fd: int) -> None:
    """Do what the order says."""
    order = json.loads(os.read(fd, 4096))
    os.write(fd, json.dumps(ACTIONS[order.pop("do")](**order)).encode())


def describe() -> dict[str, Any]:
    return {
        "imported_by": IMPORTED_BY,
        "parent": os.getppid(),
        "descriptors": [number for number in range(64) if _is_open(number)],
        "threads": threading.active_count(),
        "environ": dict(os.environ),
        "modules": sorted(set(sys.modules) & {"asyncio", "av", "detector", "numpy", "structlog", "colorsys"}),
        "ignored": [number for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN],
        "session": os.getsid(0) == os.getpid(),
        "stderr": str(Path("/proc/self/fd/2").readlink()),
    }


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def read_all(descriptors: list[int]) -> list[str]:
    return [os.pread(descriptor, 100, 0).decode() for descriptor in descriptors]


def draw() -> str:
    import random  # noqa: PLC0415 - drawn after the fork, from a generator imported before it

    return str(random.getrandbits(64))


def leave(status: int) -> None:
    sys.exit(status)


def hang() -> None:
    time.sleep(60)


ACTIONS = {"describe": describe, "read_all": read_all, "draw": draw, "leave": leave, "hang": hang}
