"""What follows a decision: an incident and its alert on disk, the alert on its way, and the cut."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import structlog

from detector.alerts.alert import Alert, AlertFacts, AlertType, Sign, WallAnchor, build_alert, unsigned
from detector.alerts.arrivals import Arrivals
from detector.alerts.closing import Outcome, build_closing
from detector.alerts.delivery import Delivery
from detector.alerts.ids import RisingIds
from detector.breaker import Breaker, BreakerSettings
from detector.closing import Closing, ClosingParts
from detector.cut_journal import CutOutcome
from detector.enforcement import Cutting
from detector.events import CutState, Decision, Step, StreamKey
from detector.incident_cuts import BY_HAND, IncidentCuts
from detector.metric_words import AlertState
from detector.metrics import Metrics
from detector.open_incidents import BLIND, OpenIncident, StreamFacts, is_blind, summary, thread
from detector.resumption import Resumption
from detector.store.faults import StoreUnavailable
from detector.store.incidents import IncidentRecord, Incidents

log = structlog.get_logger()

MAX_UPDATES = 10
"""Updates of one incident that are sent: a stream that flaps must not fill the outbox."""


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """How long an alert is of use, which config decided, and whether it lets anybody be cut.

    An incident is over `cool_down_seconds` after its stream ended; at most `updates` of it are sent.
    """

    expires_after_ms: int
    config_digest: str
    is_live: bool
    cool_down_seconds: float = 60.0
    updates: int = MAX_UPDATES
    is_cut_elsewhere: bool = False


class Responder:
    """Turns decisions into incidents, alerts and cuts: one incident per session, raised but never repeated.

    A stream that cannot be seen has an incident of its own each time that it is to be told: nobody knows what it shows.

    The incident and its alert are on disk before the first byte is sent and before the publisher is cut; if the disk
    refuses, both still happen. Cuts run in tasks of their own (`async with`), so that no stream waits for another's.
    """

    def __init__(  # noqa: PLR0913 - the parts it joins, by name
        self,
        *,
        delivery: Delivery,
        incidents: Incidents,
        enforcer: Cutting,
        breaker: Breaker,
        metrics: Metrics,
        settings: ResponseSettings,
        live_streams: Callable[[], int],
        cut_made: Callable[[str, str], None] = lambda _incident_id, _session: None,
        sign: Sign = unsigned,
        closes: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        self._delivery = delivery
        self._incidents = incidents
        self._breaker = breaker
        self._metrics = metrics
        self._settings = settings
        self._live_streams = live_streams
        self._cuts = IncidentCuts(
            enforcer, incidents, metrics, is_live=lambda: self._settings.is_live, cut_made=cut_made
        )
        self._sign = sign
        self._clock = clock
        self._wall_ms = wall_ms or _wall_ms
        self._ids = RisingIds(self._wall_ms)
        self._resumption = Resumption(incidents, self._cuts.resume, first_id=self._ids.next())
        self._open: dict[str, OpenIncident] = {}
        self.closing = Closing(
            ClosingParts(
                incidents=incidents,
                build=self._closing_alert,
                submit=delivery.submit,
                cool_down_seconds=lambda: self._settings.cool_down_seconds,
                confirmed_by=lambda: "cutter" if self._settings.is_cut_elsewhere else "service",
                unix_ms=lambda at: WallAnchor(self._clock(), self._wall_ms()).wall_ms_of(at),
                clock=clock,
            )
        )
        self._closes = closes
        self._closer: asyncio.Task[None] | None = None
        self._alerts: set[asyncio.Task[None]] = set()
        self.arrivals = Arrivals(metrics, clock)
        self.updates_left_out_total = 0

    async def __aenter__(self) -> Self:
        """Go on with the cuts that an earlier run began and did not finish."""
        await self._resumption.__aenter__()
        if self._closes:
            self._closer = asyncio.create_task(self.closing.run(), name="response.close")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the alerts in hand; give up waiting for cuts: the enforcer owns them and lets them end."""
        await self._resumption.__aexit__(kind, error, trace)
        if self._closer is not None:
            self._closer.cancel()
            await asyncio.gather(self._closer, return_exceptions=True)
        await asyncio.gather(*self._alerts, return_exceptions=True)
        await self._cuts.stop_waiting()

    def reconfigure(self, settings: ResponseSettings, breaker: BreakerSettings) -> None:
        """Go by other settings from the next decision on."""
        self._settings = settings
        self._breaker.reconfigure(breaker)

    async def settle(self) -> None:
        """Return when every alert in hand is on disk, or with the sinks, and its cut has begun."""
        await asyncio.gather(*self._alerts, return_exceptions=True)
        await asyncio.sleep(0)  # a cut begins in a task of its own

    async def respond(self, decision: Decision, stream: StreamFacts) -> None:
        """Do what `decision` asks for, unless this session's incident says it already."""
        for signal in decision.signals:
            self._metrics.signal(signal.kind, signal.step)
        known = self._known(decision) or self._taken_up(decision, stream)
        if known is not None and not known.is_news(decision):
            if _must_cut(decision) and not is_blind(decision):
                self._cuts.goes_on(known, decision.session)
            return
        judged = self._breaker.judge(
            decision,
            now=self._clock(),
            live_streams=self._live_streams(),
        )
        is_refusal = judged.refused_by is not None and decision.refused_by is None
        is_first_refusal = is_refusal and (known is None or known.refused_by is None)
        if is_refusal:
            if known is not None and not (is_first_refusal or known.is_news(judged)):
                return
            self._metrics.breaker_refused()
            log.warning("cut.refused_by_breaker", stream=judged.stream_id, source=judged.refused_by)
        if known is not None and _must_cut(judged) and _begun_as(known) != stream.key:
            self._part(known, decision)  # what is cut, and given back, is one key
            known = None
        if known is not None and judged.action <= known.action:
            if known.updates >= self._settings.updates and not is_first_refusal:
                self.updates_left_out_total += 1
                if _must_cut(judged):  # enough was said of it, not done
                    self._cuts.begin(known, stream)
                return
            known.updates += 1
        work = asyncio.create_task(
            self._alert_and_cut(*self._open_incident(judged, stream, known), stream),
            name=f"response.alert[{judged.stream_id}]",
        )
        self._alerts.add(work)
        work.add_done_callback(self._alerts.discard)
        self._open[thread(decision.session, is_blind=is_blind(decision))].told = work
        # Whoever ends the stream ends the session that waits here, and must not end what was decided.
        await asyncio.shield(work)

    def _known(self, decision: Decision) -> OpenIncident | None:
        """The incident that a decision may raise. Blindness has its own, and each that people look at is a new one."""
        if is_blind(decision) and decision.action is not Step.CUT:
            return None
        return self._open.get(thread(decision.session, is_blind=is_blind(decision)))

    def session_ended(self, session: str) -> None:
        """The stream ended: what comes under the same key afterwards is another incident."""
        for blind in (False, True):
            opened = self._open.pop(thread(session, is_blind=blind), None)
            if opened is not None and self._closes:
                self.closing.left(opened)

    def _taken_up(self, decision: Decision, stream: StreamFacts) -> OpenIncident | None:
        """The incident that the same account's last stream left open, which goes on in this one."""
        if is_blind(decision):
            return None
        found = self.closing.take_up(stream.account)
        if found is not None:
            self._open[thread(decision.session, is_blind=False)] = found
        return found

    def _part(self, opened: OpenIncident, decision: Decision) -> None:
        """Another incident takes the place of this one."""
        place = thread(decision.session, is_blind=is_blind(decision))
        if self._open.get(place) is opened:
            del self._open[place]
        if self._closes:
            self.closing.left(opened)

    async def release(self, source: str, streams: Callable[[str], StreamFacts | None]) -> bool:
        """An operator trusts `source` again: cut what it was refused and is still live. False if nothing was held."""
        refusals = self._breaker.release(source)
        for refusal in refusals:
            stream = streams(refusal.stream_id)
            known = self._open.get(thread(refusal.session, is_blind=source.startswith(BLIND)))
            if stream is None or known is None:
                continue
            known.action = Step.CUT
            self._cuts.begin(known, stream)
        return bool(refusals)

    def forget(self, source: str) -> None:
        """An entry of a list is gone for good: the breaker need not count it any more."""
        self._breaker.forget(source)

    def refused(self) -> list[str]:
        """One sentence for each source that the breaker stopped."""
        return [
            f"{one.source} may cut nothing more after {one.refused_total} refused cuts; look at them "
            f"('stopframe incidents') and say yes with 'stopframe incidents release {one.source}'"
            for one in self._breaker.tripped()
        ]

    async def cut_by_hand(self, stream: StreamFacts) -> tuple[str, CutOutcome]:
        """Cut because an operator says so, whatever `enforcement.live` is; returns the incident and the outcome."""
        record = self._record(stream, signals=BY_HAND, action=Step.CUT, is_live=True)
        try:
            await self._incidents.open(record)
        except StoreUnavailable as error:
            log.warning("incident.unrecorded", stream=stream.stream_id, why=str(error))
        self._metrics.decision(Step.CUT)
        return record.incident_id, await self._cuts.by_hand(stream, record.incident_id, self._clock())

    def _open_incident(
        self, decision: Decision, stream: StreamFacts, known: OpenIncident | None
    ) -> tuple[AlertFacts, IncidentRecord, OpenIncident]:
        """Note the incident, new or raised, and what is to be told and written of it."""
        words = summary(decision.signals)
        record = self._record(
            stream,
            signals=words,
            action=decision.action,
            is_live=decision.is_live and decision.action > Step.SHADOW,
            known=known,
        )
        refused_before = None if known is None else known.refused_by
        record = replace(record, refused_by=decision.refused_by or refused_before)
        if _must_cut(decision):
            record = replace(record, refused_by=decision.refused_by, cut_state=CutState.PENDING)
        arrived_at = self._clock() if decision.observation is None else decision.observation.arrived_at
        first_arrived_at = known.first_arrived_at if known else arrived_at
        opened = known or OpenIncident(
            record.incident_id, Step.OFF, {}, first_arrived_at, stream=stream, opened_at_ms=record.opened_at_ms
        )
        opened.note(decision)
        place = thread(decision.session, is_blind=is_blind(decision))
        before = self._open.get(place)
        if before is not None and before is not opened:
            self._part(before, decision)
        self._open[place] = opened
        facts = AlertFacts.of_decision(
            decision,
            config_digest=self._settings.config_digest,
            alert_type=AlertType.UPDATE if known else AlertType.OPEN,
            incident_id=record.incident_id,
            coverage=stream.coverage,
        )
        return facts, record, opened

    async def _alert_and_cut(
        self, facts: AlertFacts, record: IncidentRecord, opened: OpenIncident, stream: StreamFacts
    ) -> None:
        self._metrics.decision(record.action)
        await self._submit(facts, record)
        if record.cut_state is CutState.PENDING:
            self._cuts.begin(opened, stream)

    async def _submit(self, facts: AlertFacts, record: IncidentRecord) -> None:
        """Put incident and alert on disk and the alert on its way."""
        queued_at = self._clock()
        alert = build_alert(
            facts,
            alert_id=self._ids.next(),
            anchor=WallAnchor(queued_at, self._wall_ms()),
            queued_at=queued_at,
            expires_after_ms=self._settings.expires_after_ms,
            sign=self._sign,
        )
        if facts.arrived_at is not None:
            self.arrivals.sent(alert.alert_id, facts.arrived_at)
        submitted = await self._delivery.submit(alert, record)
        self._metrics.stage("store", self._clock() - queued_at)
        self._metrics.alert(AlertState.QUEUED if submitted.is_durable else AlertState.NOT_DURABLE)
        log.info(
            "alert.queued",
            stream=facts.stream_id,
            alert=alert.alert_id,
            action=facts.action.word,
            live=facts.is_live,
            signals=record.signals,
        )

    def _closing_alert(self, outcome: Outcome) -> Alert:
        return build_closing(
            outcome,
            alert_id=self._ids.next(),
            at_ms=self._wall_ms(),
            expires_after_ms=self._settings.expires_after_ms,
            config_digest=self._settings.config_digest,
            sign=self._sign,
        )

    def _record(
        self, stream: StreamFacts, *, signals: str, action: Step, is_live: bool, known: OpenIncident | None = None
    ) -> IncidentRecord:
        return IncidentRecord(
            incident_id=known.incident_id if known else self._ids.next(),
            stream_id=stream.stream_id,
            session=stream.session,
            key=stream.key,
            connection=stream.connection,
            opened_at_ms=self._wall_ms(),
            action=action,
            is_live=is_live,
            signals=signals,
        )


def _begun_as(opened: OpenIncident) -> StreamKey | None:
    return None if opened.stream is None else opened.stream.key


def _must_cut(decision: Decision) -> bool:
    return decision.action is Step.CUT and decision.is_live


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
