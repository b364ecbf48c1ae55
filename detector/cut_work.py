"""What whoever cuts has in common: clocks, a journal, the tasks of cuts under way, and the wait until packets end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from detector.cut_journal import CutJournal, CutRecords
from detector.ingest.adapter import IngestServer

if TYPE_CHECKING:
    from detector.enforcement import EnforcerSettings

T = TypeVar("T")


class Clocks(TypedDict, total=False):
    """What time it is; what is left out is the machine's.

    `clock` is the monotonic clock that packets are told in, `wall_clock` the one incidents are dated by, in Unix
    seconds; `sleep` waits on `clock`.
    """

    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


class CutWork:
    """The base of `Enforcer` and `RemoteCuts`."""

    def __init__(
        self, ingest: IngestServer, records: CutRecords, settings: "EnforcerSettings", **clocks: Unpack[Clocks]
    ) -> None:
        self._ingest = ingest
        self._settings = settings
        self._clock = clocks.get("clock", time.monotonic)
        self._wall_clock = clocks.get("wall_clock", time.time)
        self._sleep = clocks.get("sleep", asyncio.sleep)
        self.journal = CutJournal(
            records, lambda: self._settings.record_seconds, clock=self._clock, wall_clock=self._wall_clock
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    async def settle(self) -> None:
        """Let the cuts under way end, for a while; the next start goes on with those that do not."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.drain_seconds)

    def reconfigure(self, settings: "EnforcerSettings") -> None:
        """Go by other limits; a cut under way keeps the deadline that it began with."""
        self._settings = settings

    async def _give_up(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _is_quiet(
        self,
        last_packet_at: Callable[[], float | None],
        answered_at: float,
        *,
        give_up_at: float,
        is_over: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Whether no packet came for `quiet_seconds` after the answer; False once packets came for too long."""
        while True:
            last_at = last_packet_at()
            quiet_at = max(answered_at, answered_at if last_at is None else last_at) + self._settings.quiet_seconds
            now = self._clock()
            if now >= quiet_at:
                return True
            if quiet_at > give_up_at or now >= give_up_at or is_over():
                return False
            await self._sleep(min(self._settings.poll_seconds, quiet_at - now))

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
