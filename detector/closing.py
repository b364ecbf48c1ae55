"""The end of incidents: some time after their stream did, unless the same account goes on; then an alert says how."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from detector.alerts.alert import Alert
from detector.alerts.closing import Outcome
from detector.alerts.delivery import Submitted
from detector.events import CutState, Step
from detector.open_incidents import OpenIncident
from detector.store.faults import StoreUnavailable
from detector.store.incidents import IncidentRecord

log = structlog.get_logger()

_LOOK_SECONDS: Final = 0.25
_KEPT: Final = 20_000
"""Incidents that wait for their end at once; the oldest is closed at once where there are more."""

_EARLIER_MS: Final = 24 * 3600 * 1000
"""For the end of what an earlier run left open longer ago nobody waits any more."""


class ClosedIncidents(Protocol):
    """Where ends are written down; `detector.store.incidents.Incidents` is one."""

    async def close(self, incident_id: str, at_ms: int) -> None:
        """Write down that an incident is over. Raises `StoreUnavailable`."""

    async def not_closed(self, since_ms: int) -> list[IncidentRecord]:
        """Return what an earlier run did not bring to its end since then. Raises `StoreUnavailable`."""


@dataclass(frozen=True, slots=True)
class ClosingParts:
    """What tells of ends: `build` makes the alert, `submit` sends it; `unix_ms` dates a monotonic time."""

    incidents: ClosedIncidents
    build: Callable[[Outcome], Alert]
    submit: Callable[[Alert], Awaitable[Submitted]]
    cool_down_seconds: Callable[[], float]
    confirmed_by: Callable[[], str]
    unix_ms: Callable[[float], int]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Closing:
    """Incidents whose stream has ended. What was cut is over as soon as the cut is; the rest may go on for a while."""

    def __init__(self, parts: ClosingParts) -> None:
        self.closed_total = 0
        self._parts = parts
        self._waiting: OrderedDict[str, tuple[OpenIncident, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def left(self, opened: OpenIncident) -> None:
        """Its stream has ended, or something else took its place."""
        cool_down = 0.0 if opened.is_being_cut else self._parts.cool_down_seconds()
        self._waiting[opened.incident_id] = (opened, self._parts.clock() + cool_down)

    def take_up(self, account: str) -> OpenIncident | None:
        """The newest incident of this account that may go on, which waits no more."""
        if not account:
            return None
        for incident_id, (opened, _) in reversed(self._waiting.items()):
            is_its = opened.stream is not None and opened.stream.account == account
            if is_its and not opened.is_being_cut:
                del self._waiting[incident_id]
                opened.sessions += 1
                return opened
        return None

    async def run(self) -> None:
        """Close what an earlier run left, then what is due, for ever."""
        await self._close_earlier()
        while True:
            await self._parts.sleep(_LOOK_SECONDS)
            await self.close_due()

    async def close_due(self) -> None:
        """Close every incident whose time has come and whose cut, if any, is over."""
        now = self._parts.clock()
        due = [one for one, at in self._waiting.values() if at <= now and not (one.is_cutting and one.outcome is None)]
        surplus = len(self._waiting) - _KEPT
        if surplus > 0:
            due += [one for one, _ in list(self._waiting.values())[:surplus] if one not in due]
        for opened in due:
            del self._waiting[opened.incident_id]
            if opened.told is not None:  # the order in which they are numbered is the order in which they are told
                await asyncio.wait([opened.told])
            await self._close(self._outcome(opened))

    async def _close_earlier(self) -> None:
        try:
            since_ms = self._parts.unix_ms(self._parts.clock()) - _EARLIER_MS
            records = await self._parts.incidents.not_closed(since_ms)
        except StoreUnavailable:  # told by health; the next start finds them
            return
        for record in reversed(records):
            if record.incident_id in self._waiting:
                continue
            await self._close(_outcome_of_record(record, self._parts.confirmed_by()))

    async def _close(self, outcome: Outcome) -> None:
        alert = self._parts.build(outcome)
        await self._parts.submit(alert)
        self.closed_total += 1
        log.info("incident.closed", stream=outcome.stream_id, incident=outcome.incident_id, ended=outcome.ended,
                 cut=outcome.cut.value)  # fmt: skip
        try:
            await self._parts.incidents.close(outcome.incident_id, self._parts.unix_ms(self._parts.clock()))
        except StoreUnavailable:
            log.warning("incident.unrecorded", stream=outcome.stream_id, why="its end waits for the disk")

    def _outcome(self, opened: OpenIncident) -> Outcome:
        assert opened.stream is not None
        cut, unix_ms = opened.outcome, self._parts.unix_ms
        gone_at = None if cut is None else cut.gone_at
        confirmed_at = None if cut is None else cut.confirmed_at
        return Outcome(
            incident_id=opened.incident_id,
            stream_id=opened.stream.stream_id,
            session=opened.stream.session,
            action=opened.action,
            is_live=opened.is_live,
            ended="cut" if cut is not None and cut.state is CutState.CONFIRMED else "left",
            cut=CutState.NONE if cut is None else cut.state,
            confirmed_by=self._parts.confirmed_by(),
            opened_at_ms=opened.opened_at_ms,
            refused_by=opened.refused_by,
            gone_at_ms=None if gone_at is None else unix_ms(gone_at),
            confirmed_at_ms=None if confirmed_at is None else unix_ms(confirmed_at),
            time_to_cut_ms=None if gone_at is None else max(0, round(1000 * (gone_at - opened.first_arrived_at))),
            updates=opened.updates,
            sessions=opened.sessions,
            coverage=opened.stream.coverage,
        )


def _outcome_of_record(record: IncidentRecord, confirmed_by: str) -> Outcome:
    return Outcome(
        incident_id=record.incident_id,
        stream_id=record.stream_id,
        session=record.session,
        action=max(record.action, Step.SHADOW),
        is_live=record.is_live,
        ended="cut" if record.cut_state is CutState.CONFIRMED else "restart",
        cut=record.cut_state,
        confirmed_by=confirmed_by,
        opened_at_ms=record.opened_at_ms,
        refused_by=record.refused_by,
        gone_at_ms=record.gone_at_ms,
        confirmed_at_ms=record.confirmed_at_ms,
        time_to_cut_ms=record.time_to_cut_ms,
    )
