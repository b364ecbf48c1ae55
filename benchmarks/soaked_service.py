"""The service with a window into it: `python -m benchmarks.soaked_service run -c FILE`, as `stopframe` else.

On SIGUSR2 it writes what it holds to the file that STOPFRAME_HOLDINGS names, in one line of JSON: its asyncio tasks by
name, its threads, its objects by type and, with STOPFRAME_TRACEMALLOC=1, the lines that hold most of the memory that
was taken since the first such signal.
"""

import asyncio
import gc
import json
import os
import re
import signal
import sys
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

PLACE = "STOPFRAME_HOLDINGS"
TRACES = "STOPFRAME_TRACEMALLOC"

_MOST = 25
_VARYING = re.compile(r"\[.*?\]|\d+")


def _tell(_: int, __: FrameType | None) -> None:
    gc.collect()
    told: dict[str, Any] = {
        "tasks": dict(Counter(_VARYING.sub("", task.get_name()) for task in _tasks())),
        "threads": threading.active_count(),
        "objects": dict(Counter(type(one).__qualname__ for one in gc.get_objects()).most_common(_MOST)),
        "traced": _traced(),
    }
    place = Path(os.environ[PLACE])
    draft = place.with_suffix(".draft")
    draft.write_text(json.dumps(told))
    draft.replace(place)


def _tasks() -> "set[asyncio.Task[Any]]":
    try:
        return asyncio.all_tasks()
    except RuntimeError:  # between loops
        return set()


def _traced() -> list[str]:
    if not tracemalloc.is_tracing():
        if os.environ.get(TRACES) == "1":
            tracemalloc.start()
        return []
    top = tracemalloc.take_snapshot().statistics("lineno")[:_MOST]
    return [f"{one.size / 1024:.0f} KiB in {one.count}: {one.traceback}" for one in top]


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _tell)
    from detector.cli.main import main

    sys.argv[0] = "stopframe"
    main()
