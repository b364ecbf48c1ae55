"""Waiting in tests: for what they are about, never for a time to pass."""

import asyncio
import time
from collections.abc import Callable

_LOOK_SECONDS = 0.01


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when something is so; it fails where that takes far longer than a busy machine explains."""
    ends_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends_at, f"not so within {seconds:g} s"
        await asyncio.sleep(_LOOK_SECONDS)


def until_in_thread(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """As `until`, for tests without an event loop."""
    ends_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends_at, f"not so within {seconds:g} s"
        time.sleep(_LOOK_SECONDS)
