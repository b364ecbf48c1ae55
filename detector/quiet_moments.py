"""Memory goes back to the kernel in moments in which nothing is watched."""

import asyncio
from collections.abc import Awaitable, Callable

from detector.memory import return_garbage

_LOOK_SECONDS = 0.5
_BUSY_LOOKS = 7200
"""Who is never without streams gives back after an hour: it takes some milliseconds, in which nothing else happens."""


async def keep_giving_back(
    is_busy: Callable[[], bool],
    give_back: Callable[[], None] = return_garbage,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Give back when the last stream has gone, for ever: until then the heap is as large as its busiest moment."""
    looks = 0
    while True:
        await sleep(_LOOK_SECONDS)
        is_quiet = not is_busy()
        looks += not is_quiet
        if looks and (is_quiet or looks >= _BUSY_LOOKS):
            give_back()
            looks = 0
