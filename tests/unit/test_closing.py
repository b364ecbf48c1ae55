"""Incidents end once, in order, and say how; the same account goes on in its open one."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import jsonschema

from detector.alerts.alert import alert_schema
from detector.cut_journal import CutOutcome
from detector.events import CutState, Step, StreamKey
from detector.open_incidents import StreamFacts
from detector.response import Responder, ResponseSettings
from detector.store.incidents import IncidentRecord
from tests.fixtures_response import Scene, decision, facts


class Ends:
    """A store's part that hears of ends, beside the scene's."""

    def __init__(self, earlier: list[IncidentRecord]) -> None:
        self.earlier = earlier
        self.closed: list[str] = []

    async def close(self, incident_id: str, at_ms: int) -> None:
        self.closed.append(incident_id)

    async def not_closed(self, since_ms: int) -> list[IncidentRecord]:
        return self.earlier


class Stage(Scene):
    """A responder on a clock of its own that closes what is over."""

    def __init__(self, earlier: list[IncidentRecord] | None = None, cool_down: float = 60.0) -> None:
        super().__init__()
        self.now = 100.0
        self.ends = Ends(earlier or [])
        self.sent: list[dict[str, Any]] = []
        self.incidents.close = self.ends.close  # type: ignore[attr-defined]
        self.incidents.not_closed = self.ends.not_closed  # type: ignore[attr-defined]
        submit = self.delivery.submit

        async def take(alert: Any, incident: IncidentRecord | None = None) -> Any:
            self.sent.append(json.loads(alert.encode(len(self.sent) + 1, durable=True)))
            return await submit(alert, incident or self.delivery.sent[-1][1] if self.delivery.sent else RECORD)

        self.delivery.submit = take  # type: ignore[method-assign]
        self.responder = Responder(
            delivery=self.delivery, incidents=self.incidents, enforcer=self.enforcer,  # type: ignore[arg-type]
            breaker=self.responder._breaker, metrics=self.metrics,
            settings=ResponseSettings(60_000, "sha256:0", is_live=True, cool_down_seconds=cool_down),
            live_streams=lambda: 40, clock=lambda: self.now, closes=True,
        )  # fmt: skip

    def types(self) -> list[str]:
        return [one["type"] for one in self.sent]


RECORD = IncidentRecord(
    incident_id="0199-old", stream_id="STREAM1", session="s0", key=StreamKey("embedded", "live", "k"), opened_at_ms=1,
    action=Step.CUT, is_live=True, signals="x", cut_state=CutState.CONFIRMED, gone_at_ms=2, confirmed_at_ms=3,
    time_to_cut_ms=1,
)  # fmt: skip


def of(session: str, stream: str = "STREAM1", account: str = "account") -> StreamFacts:
    return replace(facts(session, stream), account=account)


def check(alert: dict[str, Any]) -> None:
    """Hold what was built to the schema, with a signature's fields filled in."""
    signed = alert | {"node": "n", "key_id": "0" * 16, "sig": "A" * 86, "alert_id": alert["alert_id"]}
    jsonschema.validate(signed, alert_schema())


async def test_a_review_is_over_when_nobody_came_back() -> None:
    """After the cool-down, once; the alert is valid, asks for nothing, and says that the stream left."""
    stage = Stage()
    await stage.responder.respond(decision(Step.REVIEW), of("s1"))
    stage.responder.session_ended("s1")
    await stage.responder.closing.close_due()
    assert stage.types() == ["open"]
    stage.now += 61
    await stage.responder.closing.close_due()
    await stage.responder.closing.close_due()
    assert stage.types() == ["open", "close"]
    told = stage.sent[-1]
    check(told)
    assert (told["action"], told["outcome"]["ended"], told["outcome"]["cut"]) == ("none", "left", "none")
    assert told["incident_id"] == stage.sent[0]["incident_id"]
    assert stage.ends.closed == [told["incident_id"]]


async def test_a_cut_is_over_with_its_stream_and_says_who_proved_it() -> None:
    """No cool-down: what was cut and proved goes on in no other session."""
    stage = Stage()
    stage.enforcer.outcome = CutOutcome(CutState.CONFIRMED, 1, 1, gone_at=100.2, confirmed_at=101.2)
    await stage.responder.respond(decision(Step.CUT), of("s1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stage.responder.session_ended("s1")
    await stage.responder.closing.close_due()
    assert stage.types() == ["open", "close"]
    check(stage.sent[-1])
    outcome = stage.sent[-1]["outcome"]
    assert (outcome["action"], outcome["ended"], outcome["confirmed_by"]) == ("cut", "cut", "service")
    assert stage.sent[-1]["action"] == "none"


async def test_the_same_account_goes_on_in_its_incident_and_another_does_not() -> None:
    """Thirty sessions under new keys that say the same are one alert; a new reason is an update; strangers are new."""
    stage = Stage()
    for number in range(30):
        await stage.responder.respond(decision(Step.REVIEW, session=f"s{number}"), of(f"s{number}", f"STREAM{number}"))
        stage.responder.session_ended(f"s{number}")
        stage.now += 1
    assert stage.types() == ["open"]
    await stage.responder.respond(decision(Step.REVIEW, session="t", entry="two"), of("t", "STREAM99"))
    await stage.responder.respond(decision(Step.REVIEW, session="u"), of("u", "STREAM98", "another"))
    assert stage.types() == ["open", "update", "open"]
    stage.responder.session_ended("t")
    stage.now += 61
    await stage.responder.closing.close_due()
    assert stage.sent[-1]["outcome"]["sessions"] == 31


async def test_two_live_streams_of_one_account_are_two_incidents() -> None:
    """Nothing that is still on air is hidden behind another stream's incident."""
    stage = Stage()
    await stage.responder.respond(decision(Step.REVIEW, session="a"), of("a"))
    await stage.responder.respond(decision(Step.REVIEW, session="b"), of("b", "STREAM2"))
    assert stage.types() == ["open", "open"]


async def test_another_key_that_is_cut_has_an_incident_of_its_own() -> None:
    """What is undone is one key: the review of the first key is closed beside it, not turned into the other's cut."""
    stage = Stage(cool_down=1.0)
    await stage.responder.respond(decision(Step.REVIEW, session="a"), of("a"))
    stage.responder.session_ended("a")
    await stage.responder.respond(decision(Step.CUT, session="b", entry="two"), of("b", "STREAM2"))
    assert stage.types() == ["open", "open"]
    assert len({one["incident_id"] for one in stage.sent}) == 2
    assert [target.key.name for target in stage.enforcer.targets] in ([], ["b"])
    stage.now += 2
    await stage.responder.closing.close_due()
    assert stage.sent[-1]["incident_id"] == stage.sent[0]["incident_id"]


async def test_what_an_earlier_run_left_is_closed_at_the_start() -> None:
    """From what the store holds: the cut that was proved is told as such."""
    stage = Stage([RECORD])
    async with stage.responder:
        for _ in range(10):
            await asyncio.sleep(0)
    check(stage.sent[0])
    assert stage.sent[0]["outcome"]["time_to_cut_ms"] == 1
    assert stage.ends.closed == ["0199-old"]
