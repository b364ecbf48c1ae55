"""Cuts that an earlier run began and did not finish: found at the start, or as soon as the store can be read."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from detector.store.faults import StoreUnavailable
from detector.store.incidents import IncidentRecord

log = structlog.get_logger()

_AGAIN_SECONDS: Final = 1.0


class PendingCuts(Protocol):
    """Where cuts under way are written down; `detector.store.incidents.Incidents` is one."""

    async def pending_cuts(self) -> list[IncidentRecord]:
        """Return the cuts begun, not finished and not taken back. Raises `StoreUnavailable`."""


class Resumption:
    """`async with`: hands each cut of an earlier run to `resume`, once.

    A store that cannot be read at the start, full or damaged, does not hold up the start: it is asked again until it
    answers. What this run began meanwhile is not the earlier one's: `first_id` is less than any id of this run.
    """

    def __init__(
        self,
        incidents: PendingCuts,
        resume: Callable[[IncidentRecord], Awaitable[None]],
        *,
        first_id: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._incidents = incidents
        self._resume = resume
        self._first_id = first_id
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Go on with what is found; where nothing can be read, that happens later."""
        try:
            found = await self._incidents.pending_cuts()
        except StoreUnavailable as error:
            log.warning("response.pending_cuts_unknown", why=str(error))
            self._task = asyncio.create_task(self._find_later(), name="response.resume")
        else:
            await self._go_on(found)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up waiting: the next start looks again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _find_later(self) -> None:
        while True:
            await self._sleep(_AGAIN_SECONDS)
            try:
                found = await self._incidents.pending_cuts()
            except StoreUnavailable:  # told at the start, and by health for as long as it lasts
                continue
            await self._go_on([record for record in found if record.incident_id < self._first_id])
            return

    async def _go_on(self, found: list[IncidentRecord]) -> None:
        for record in found:
            await self._resume(record)
