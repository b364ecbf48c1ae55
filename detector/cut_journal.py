"""How cuts go, written down: a cut waits for the disk for a moment at most, and for none that refuses."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from detector.events import CutState, StreamKey
from detector.store.incidents import CutProgress

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CutOutcome:
    """How a cut ended, in monotonic seconds.

    `CONFIRMED` is proved: the server dropped at least one publisher (`count`), denies the key, lists it no more, and no
    packet reached our reader afterwards. `gone_at` is the last media byte that the server accepted, as the server or
    else our reader saw it. `has_left` tells of a `FAILED` cut that the publisher was gone before the server could act:
    its key is denied and nothing arrives. `returns` are publishers of the key that were cut again meanwhile.
    """

    state: CutState
    attempts: int
    count: int
    gone_at: float | None = None
    confirmed_at: float | None = None
    returns: int = 0
    has_left: bool = False
    detail: str = ""


class CutRecords(Protocol):
    """Where the progress of a cut is written down; `detector.store.incidents.Incidents` is one."""

    async def set_cut(self, incident_id: str, progress: CutProgress) -> None:
        """Write down how far the cut of an incident got."""

    async def withdraw(self, incident_id: str, key: StreamKey) -> None:
        """Write down that no cut of `key` is under way: the one of this incident is taken back."""


class CutJournal:
    """Writes to `records`, in Unix milliseconds, what cuts tell in monotonic seconds; nothing that fails is raised.

    `patience_seconds` is how long a cut waits for one entry; `wall_clock` is in Unix seconds.
    """

    def __init__(
        self,
        records: CutRecords,
        patience_seconds: Callable[[], float],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.unrecorded_total = 0
        self._records = records
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._wall_clock = wall_clock

    async def note(self, incident_ids: Iterable[str], outcome: CutOutcome, *, hit_at: float | None) -> None:
        """Write down for each incident how far its cut got; `hit_at` is the arrival of the frame that asked for it."""
        gone_at = outcome.gone_at
        progress = CutProgress(
            state=outcome.state,
            gone_at_ms=self._unix_ms(gone_at),
            confirmed_at_ms=self._unix_ms(outcome.confirmed_at),
            time_to_cut_ms=None if gone_at is None or hit_at is None else max(0, round((gone_at - hit_at) * 1000)),
            detail=outcome.detail or None,
        )
        for incident_id in tuple(incident_ids):
            await self._write(incident_id, self._records.set_cut(incident_id, progress))

    async def withdraw(self, incident_id: str, key: StreamKey) -> None:
        """Write down that the cut of this incident is taken back, so that no restart goes on with one of `key`."""
        await self._write(incident_id, self._records.withdraw(incident_id, key))

    async def _write(self, incident_id: str, writing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._patience_seconds()):
                await writing
        except Exception as error:  # noqa: BLE001 - a disk or a bug in the store must hold up neither cut nor undo
            self.unrecorded_total += 1
            log.warning("cut.unrecorded", incident=incident_id, why=type(error).__name__)

    def _unix_ms(self, at: float | None) -> int | None:
        return None if at is None else round((self._wall_clock() - (self._clock() - at)) * 1000)
