"""Following a server that is asked rather than listened to: its list of publishers, again and again."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from detector.events import Publisher
from detector.ingest.adapter import IngestUnavailable, PublisherChange
from detector.ingest.board import PublisherBoard

log = structlog.get_logger()

_HURRIED_SECONDS = 0.1
_GAP_SECONDS = 0.02
"""However much there is to hurry for, the server gets this much rest between two questions."""


class PublisherPoll:
    """`async with PublisherPoll(name, ask, interval_seconds=1.0) as poll`: asks until the block ends.

    While the server does not answer, the last list stands: who was live is watched on, and `fault` says why.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[list[Publisher]]],
        *,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fault: str | None = None
        """Why the last question failed, in one sentence; None where it was answered."""
        self.failures_total = 0
        self._name = name
        self._ask = ask
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._board = PublisherBoard()
        self._asked = 0
        self._shown = 0
        self._hurried_until = float("-inf")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to ask."""
        self._task = asyncio.create_task(self._poll_forever(), name=f"ingest[{self._name}].poll")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more; every `changes()` ends."""
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._board.close()

    def hurry(self, seconds: float = 3.0) -> None:
        """Ask now, and for `seconds` more often than else: something is about to change."""
        self._hurried_until = self._clock() + seconds
        self._wake.set()

    def changes(self) -> AsyncIterator[PublisherChange]:
        """As `IngestServer.changes`; later than the truth by up to the interval."""
        return self._board.changes()

    async def now(self) -> list[Publisher]:
        """Ask the server and return what it says; raises `IngestUnavailable`.

        A publisher keeps the `since_at` at which it was first seen. An answer that a later question overtook is
        returned, but no longer told to those who follow.
        """
        self._asked += 1
        number = self._asked
        found = await self._ask()
        self.fault = None
        if number > self._shown:
            self._shown = number
            self._board.replace(found)
        return self._board.as_known(found)

    def _failed(self, why: str) -> None:
        self.failures_total += 1
        if self.fault is None:
            log.warning("ingest.unavailable", server=self._name, why=why)
        self.fault = why

    async def _poll_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.now()
            except IngestUnavailable as error:
                self._failed(str(error))
            except Exception as error:  # noqa: BLE001 - the task's edge: an answer that an adapter cannot bear must not
                # be the last one that is asked for; the error's text could hold a key.
                self._failed(f"its list of publishers cannot be read ({type(error).__name__}): see the server's log")
            is_hurried = self._clock() < self._hurried_until
            with suppress(TimeoutError):
                async with asyncio.timeout(_HURRIED_SECONDS if is_hurried else self._interval_seconds):
                    await self._wake.wait()
            await asyncio.sleep(_GAP_SECONDS)
