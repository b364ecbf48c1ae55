"""The cuts that incidents ask for: each in a task of its own, so that no stream waits for another's."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from detector.cut_journal import CutOutcome
from detector.enforcement import CutTarget, Cutting
from detector.events import CutState
from detector.metrics import Metrics
from detector.open_incidents import BLIND, OpenIncident, StreamFacts
from detector.store.faults import StoreUnavailable
from detector.store.incidents import CutProgress, IncidentRecord, Incidents

log = structlog.get_logger()

BY_HAND: Final = "cut by an operator"
"""What an incident tells in place of signals where no signal asked for the cut."""


class IncidentCuts:
    """Begins cuts and notes what becomes of them. `cut_made` is told the incident and session of each that was shown.

    `is_live` says whether anybody may be cut but by hand.
    """

    def __init__(
        self,
        enforcer: Cutting,
        incidents: Incidents,
        metrics: Metrics,
        *,
        is_live: Callable[[], bool],
        cut_made: Callable[[str, str], None],
    ) -> None:
        self._enforcer = enforcer
        self._incidents = incidents
        self._metrics = metrics
        self._is_live = is_live
        self._cut_made = cut_made
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop_waiting(self) -> None:
        """Give up waiting: the enforcer owns the cuts and lets them end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, opened: OpenIncident, stream: StreamFacts) -> None:
        """Cut the stream of an incident, unless that is under way."""
        if not opened.is_cutting:
            opened.is_cutting, opened.outcome = True, None
            if not all(source.startswith(BLIND) for source in opened.sources):
                self._cut_made(opened.incident_id, stream.session)
            target = _target(stream, opened.incident_id, opened.first_arrived_at)
            self._start(target, stream.last_packet_at, opened)

    def goes_on(self, opened: OpenIncident, session: str) -> None:
        """The stream shows again what it is being cut for."""
        if opened.is_cutting:
            self._cut_made(opened.incident_id, session)

    async def by_hand(self, stream: StreamFacts, incident_id: str, hit_at: float) -> CutOutcome:
        """Cut because an operator says so, and wait for what becomes of it."""
        target = replace(_target(stream, incident_id, hit_at), is_by_hand=True)
        outcome = await self._enforcer.cut(target, last_packet_at=stream.last_packet_at)
        self._metrics.cut(outcome.state)
        return outcome

    async def resume(self, record: IncidentRecord) -> None:
        """Go on with the cut of an earlier run, or give it up where nobody may be cut any more."""
        is_by_hand = record.signals == BY_HAND
        if not self._is_live() and not is_by_hand:
            await self._give_up(record)
            return
        log.info("cut.resumed", stream=record.stream_id, incident=record.incident_id)
        target = CutTarget(
            record.stream_id,
            record.session,
            record.key,
            record.connection or None,
            record.incident_id,
            is_by_hand=is_by_hand,
        )
        self._start(target, lambda: None)

    async def _give_up(self, record: IncidentRecord) -> None:
        log.info("cut.given_up", stream=record.stream_id, incident=record.incident_id, why="enforcement.live is false")
        progress = CutProgress(state=CutState.FAILED, detail="enforcement.live was false at the restart")
        with contextlib.suppress(StoreUnavailable):  # then the next start finds it again
            await self._incidents.set_cut(record.incident_id, progress)

    def _start(
        self, target: CutTarget, last_packet_at: Callable[[], float | None], opened: OpenIncident | None = None
    ) -> None:
        task = asyncio.create_task(self._cut(target, last_packet_at, opened), name=f"response.cut[{target.stream_id}]")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cut(
        self, target: CutTarget, last_packet_at: Callable[[], float | None], opened: OpenIncident | None
    ) -> None:
        state, outcome = CutState.FAILED, CutOutcome(CutState.FAILED, 0, 0)
        try:
            outcome = await self._enforcer.cut(target, last_packet_at=last_packet_at)
            state = outcome.state
            if outcome.gone_at is not None and target.hit_at is not None:
                self._metrics.cut_done(outcome.gone_at - target.hit_at)
        except Exception:
            # The task's edge: a fault of ours, or of an adapter from elsewhere, is a cut that failed.
            log.exception("cut.broke", stream=target.stream_id)
        self._metrics.cut(state)
        if opened is not None:
            opened.outcome = outcome
            if state is not CutState.CONFIRMED:
                opened.is_cutting = False  # the next hit tries again


def _target(stream: StreamFacts, incident_id: str, hit_at: float) -> CutTarget:
    return CutTarget(stream.stream_id, stream.session, stream.key, stream.connection or None, incident_id, hit_at)
