"""A responder among fakes: what it stored, sent and cut, in order."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from detector.alerts.delivery import Submitted
from detector.breaker import Breaker, BreakerSettings
from detector.cut_journal import CutOutcome
from detector.enforcement import CutTarget
from detector.events import CutState, Decision, Observation, Signal, Step, StreamKey
from detector.metrics import Metrics
from detector.open_incidents import StreamFacts
from detector.response import Responder, ResponseSettings
from detector.store.faults import StoreUnavailable
from detector.store.incidents import CutProgress, IncidentRecord
from models.evidence import Inspection


def decision(
    action: Step = Step.CUT, *, session: str = "s1", stream: str = "STREAM1", entry: str = "one", live: bool = True
) -> Decision:
    signal = Signal(
        kind="hash", name="pdq", source=f"CARDS/{entry}", step=action, threshold=31, bank="CARDS", entry=entry,
        distance=4, view="identity", quality=90, generation="gen-1",
    )  # fmt: skip
    seen = Observation(
        stream, session, 1, "keyframe", 10.0, 10.1, 10.2, None, is_corrupt=False,
        inspection=Inspection(90, is_stable=True, is_low_information=False, fingerprint=bytes(32)),
    )  # fmt: skip
    return Decision(stream, session, seen, action, live, (signal,), (1, 1))


def facts(session: str = "s1", stream: str = "STREAM1") -> StreamFacts:
    return StreamFacts(stream, session, StreamKey("embedded", "live", session), "c1", {"seen_s": 1.0}, lambda: 5.0)


@dataclass
class FakeDelivery:
    journal: list[str]
    sent: list[tuple[Any, IncidentRecord]] = field(default_factory=list)
    is_durable: bool = True
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def submit(self, alert: Any, incident: IncidentRecord | None = None) -> Submitted:
        assert incident is not None
        await self.gate.wait()
        self.journal.append("stored")
        self.sent.append((alert, incident))
        return Submitted(alert.alert_id, len(self.sent), self.is_durable)


@dataclass
class FakeEnforcer:
    journal: list[str]
    targets: list[CutTarget] = field(default_factory=list)
    outcome: CutOutcome = field(default_factory=lambda: CutOutcome(CutState.CONFIRMED, 1, 1, gone_at=10.5))
    fault: Exception | None = None

    async def cut(self, target: CutTarget, *, last_packet_at: Any) -> CutOutcome:
        self.journal.append("cut")
        self.targets.append(target)
        if self.fault is not None:
            raise self.fault
        return self.outcome


@dataclass
class FakeIncidents:
    pending: list[IncidentRecord] = field(default_factory=list)
    opened: list[IncidentRecord] = field(default_factory=list)
    cuts: list[tuple[str, CutState]] = field(default_factory=list)
    is_broken: bool = False
    asked: int = 0

    async def pending_cuts(self) -> list[IncidentRecord]:
        self.asked += 1
        if self.is_broken:
            raise StoreUnavailable("the disk is full: free space where state_dir lies")
        return self.pending

    async def set_cut(self, incident_id: str, progress: CutProgress) -> None:
        self.cuts.append((incident_id, progress.state))

    async def open(self, record: IncidentRecord) -> None:
        if self.is_broken:
            raise StoreUnavailable("the disk is full: free space where state_dir lies")
        self.opened.append(record)


class Scene:
    def __init__(self, *, breaker: BreakerSettings | None = None, live_streams: int = 40, live: bool = True) -> None:
        self.journal: list[str] = []
        self.delivery = FakeDelivery(self.journal)
        self.enforcer = FakeEnforcer(self.journal)
        self.incidents = FakeIncidents()
        self.metrics = Metrics()
        self.cuts_made: list[tuple[str, str]] = []
        self.responder = Responder(
            delivery=self.delivery,  # type: ignore[arg-type]
            incidents=self.incidents,  # type: ignore[arg-type]
            enforcer=self.enforcer,  # type: ignore[arg-type]
            breaker=Breaker(breaker or BreakerSettings()),
            metrics=self.metrics,
            settings=ResponseSettings(600_000, "digest", is_live=live),
            live_streams=lambda: live_streams,
            cut_made=lambda incident, session: self.cuts_made.append((incident, session)),
            clock=lambda: 11.0,
        )

    @property
    def actions(self) -> list[str]:
        return [alert.body["action"] for alert, _ in self.delivery.sent]

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
