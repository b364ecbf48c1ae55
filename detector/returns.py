"""Publishers who come back with a revoked key: whoever starts to publish one is cut, as long as the service runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from detector.events import StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable, PublisherStarted, answer_within

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """When a cut is overdue, how long to wait for one answer, and how long between tries; all in seconds."""

    deadline_seconds: float
    call_seconds: float
    first_backoff_seconds: float
    longest_backoff_seconds: float


class ReturnWatch:
    """Follows the changes of one ingest server; an async context manager that owns what it starts.

    `wait_for_cut(key)` returns when no cut of `key` is under way: such a cut deals with returns itself.
    """

    def __init__(
        self,
        ingest: IngestServer,
        pace: Pace,
        wait_for_cut: Callable[[StreamKey], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.returns_total = 0
        """Publishers of a revoked key that were cut here."""
        self.unavailable_total = 0
        self._ingest = ingest
        self.pace = pace
        """May be replaced: what is begun afterwards goes by it."""
        self._wait_for_cut = wait_for_cut
        self._clock = clock
        self._sleep = sleep
        self._returning: dict[str, asyncio.Task[None]] = {}
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to watch, if the server can cut at all; those who publish a revoked key already are cut at once."""
        if self._ingest.can_cut:
            self._follower = asyncio.create_task(self._follow(), name="enforcer.watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch no more."""
        tasks = [*self._returning.values(), *([self._follower] if self._follower else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        backoff = self.pace.first_backoff_seconds
        while True:
            try:
                async for change in self._ingest.changes():
                    backoff = self.pace.first_backoff_seconds
                    if isinstance(change, PublisherStarted):
                        self._notice(change.publisher.key, change.publisher.connection)
                return  # the server was left
            except IngestUnavailable as error:
                self.unavailable_total += 1
                log.warning("enforcer.watch_interrupted", why=str(error))
            await self._sleep(backoff)
            backoff = min(2 * backoff, self.pace.longest_backoff_seconds)

    def _notice(self, key: StreamKey, connection: str) -> None:
        if connection in self._returning or not self._ingest.is_revoked(key):
            return
        task = asyncio.create_task(self._cut_again(key, connection), name=f"enforcer.return[{connection}]")
        self._returning[connection] = task
        task.add_done_callback(lambda _: self._returning.pop(connection, None))

    async def _cut_again(self, key: StreamKey, connection: str) -> None:
        await self._wait_for_cut(key)
        backoff = self.pace.first_backoff_seconds
        overdue_at = self._clock() + self.pace.deadline_seconds
        while self._ingest.is_revoked(key):
            try:
                if await self._is_gone(key, connection):
                    return
            except IngestUnavailable:
                self.unavailable_total += 1
            if self._clock() >= overdue_at:
                log.warning("cut.return_overdue", server=key.server, connection=connection)
                overdue_at = float("inf")  # said once, tried until it is gone or allowed again
            await self._sleep(backoff)
            backoff = min(2 * backoff, self.pace.longest_backoff_seconds)

    async def _is_gone(self, key: StreamKey, connection: str) -> bool:
        result = await answer_within(self.pace.call_seconds, self._ingest.cut(key, connection))
        if result.count:
            self.returns_total += 1
            log.warning("cut.returned", server=key.server, connection=connection)
            return True
        listed = await answer_within(self.pace.call_seconds, self._ingest.publishers())
        return all(publisher.connection != connection for publisher in listed)
