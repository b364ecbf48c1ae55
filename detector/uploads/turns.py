"""Whose turn it is: few uploads are decoded at once, and of the analysis they have what live streams leave."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from detector.analysis.pool import AnalysisPool, FrameDropped
from models.evidence import Inspection
from models.hashing.scenes import Look
from streams.frame import Frame

LARGE_BYTES: Final = 16 * 1024 * 1024
"""From so many bytes on a file is a long clip rather than a picture, and must not keep pictures waiting."""

_LEAST_WANTED: Final = -1
"""The risk of an upload's frame: below that of any stream, so that it is the first to go where too many wait."""

_BLAMED: Final = "uploads"
"""All of them count as one stream where a model ends its process: one client must not have it taken from all."""

_PAUSE_SECONDS: Final = 0.25


@dataclass(slots=True, eq=False)
class _Waiting:
    is_large: bool
    called: asyncio.Future[None]


class NoTurn(Exception):
    """Raised by `Turns.turn`: none came in time."""


class Turns:
    """At most `places()` have their turn at once, in the order in which they came.

    Large ones leave one place to the others, if there is more than one: a few long clips are not all that is looked at.
    """

    def __init__(self, places: Callable[[], int]) -> None:
        self._places = places
        self._waiting: deque[_Waiting] = deque()
        self._taken = {True: 0, False: 0}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, *, is_large: bool, wait_seconds: float) -> AsyncIterator[None]:
        """Have a turn for as long as the block lasts; raises `NoTurn` where none came in time."""
        one = _Waiting(is_large, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._call()
        try:
            async with asyncio.timeout(wait_seconds):
                await one.called
        except BaseException as error:
            if one in self._waiting:
                self._waiting.remove(one)
            else:  # called at the very moment
                self._end(is_large=is_large)
            if isinstance(error, TimeoutError):
                raise NoTurn from None
            raise
        try:
            yield
        finally:
            self._end(is_large=is_large)

    def _end(self, *, is_large: bool) -> None:
        self._taken[is_large] -= 1
        self._call()

    def _call(self) -> None:
        places = self._places()
        for one in list(self._waiting):
            if sum(self._taken.values()) >= places:
                return
            if one.is_large and self._taken[True] >= max(1, places - 1):
                continue
            self._waiting.remove(one)
            self._taken[one.is_large] += 1
            if not one.called.done():
                one.called.set_result(None)


class UploadShare:
    """Analysis for uploads: half of the processes at most, and behind every frame of a live stream."""

    def __init__(self, pool: AnalysisPool) -> None:
        self._pool = pool
        self._places = asyncio.Semaphore(max(1, pool.workers // 2))

    async def inspect(self, frame: Frame, *, deadline_at: float, look: Look | None) -> Inspection:
        """As `detector.looking.Inspects`; what has to go because live frames wait is asked for again."""
        async with self._places:
            while True:
                try:
                    return await self._pool.inspect(
                        frame, deadline_at=deadline_at, look=look, stream=_BLAMED, risk=_LEAST_WANTED
                    )
                except FrameDropped as drop:
                    if drop.cause != "overload":
                        raise
                await asyncio.sleep(_PAUSE_SECONDS)
