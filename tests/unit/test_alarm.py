"""What wakes an operator who has no broker: when an alarm goes out, and what becomes of it."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import jsonschema
import pytest

from detector.alerts.alarm import Alarms, HearsAlarms
from detector.alerts.clock import Clock
from detector.alerts.jsonl import JsonlSettings, JsonlSink
from detector.alerts.messages import message_schema
from detector.alerts.sink import Receipt, SinkUnavailable
from detector.alerts.webhook import WebhookSettings, WebhookSink
from tests.fixtures_endpoint import SECRET, Endpoint

BROKEN = "model m answers the same to every picture in analysis process 0: restart stopframe"


@dataclass
class Listener:
    """A sink that answers as it is told to."""

    name: str = "listener"
    answers: list[Receipt | None] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)

    async def tell(self, alarm_id: str, payload: bytes) -> Receipt:
        self.heard.append(json.loads(payload))
        answer = self.answers.pop(0) if self.answers else Receipt.ACCEPTED
        if answer is None:
            raise SinkUnavailable("away")
        return answer


class Desk:
    """Alarms whose clock stands until it is moved on, with their work beside them."""

    def __init__(self, *sinks: HearsAlarms) -> None:
        self.now = 0.0
        self.alarms = Alarms(sinks, "node-1", Clock(monotonic=lambda: self.now))

    async def __aenter__(self) -> Self:
        self._work = asyncio.create_task(self.alarms.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def red(self, problems: Iterable[str], seconds: float) -> None:
        """Health says so every second for so long."""
        for _ in range(int(seconds)):
            self.now += 1
            self.alarms.hear(tuple(problems))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)


async def test_what_stands_for_ten_seconds_wakes_somebody_and_its_end_too() -> None:
    """Red and green are told once each, as the schema says; what mends itself sooner is not told."""
    listener = Listener()
    async with Desk(listener) as desk:
        await desk.red([BROKEN], 9)
        await desk.red([], 100)
        assert listener.heard == []
        await desk.red([BROKEN], 300)
        assert [(one["ok"], one["problems"]) for one in listener.heard] == [(False, [BROKEN])]
        await desk.red([], 300)
    assert [one["ok"] for one in listener.heard] == [False, True]
    for alarm in listener.heard:
        jsonschema.validate(alarm, message_schema("alarm"))


async def test_a_new_problem_is_told_where_health_was_red_already() -> None:
    """Other numbers in a sentence are no new problem, and however many come and go there is a minute between alarms."""
    listener = Listener()
    async with Desk(listener) as desk:
        for number in range(120):
            await desk.red([f"{number} alerts expired"], 1)
        assert len(listener.heard) == 1
        await desk.red(["3 alerts expired", BROKEN], 12)
        assert listener.heard[-1]["problems"] == ["3 alerts expired", BROKEN]
        for number in range(20):
            await desk.red([f"problem {chr(97 + number)}"], 15)
    assert len(listener.heard) <= 2 + 20 * 15 / 60


async def test_a_sink_that_is_away_gets_the_newest_and_one_that_refuses_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was not taken is sent again with the same id; a refusal ends it; no sink holds up another."""
    monkeypatch.setattr("detector.alerts.alarm.backoff_seconds", lambda *_, **__: 0.01)
    away, refusing = Listener("away", [None, None]), Listener("refusing", [Receipt.REFUSED])
    async with Desk(away, refusing) as desk:
        await desk.red([BROKEN], 12)
        async with asyncio.timeout(10):
            while len(away.heard) < 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    assert len(away.heard) == 3
    assert len({one["alarm_id"] for one in away.heard}) == 1
    assert len(refusing.heard) == 1


@pytest.mark.parametrize(("status", "answer"), [(204, Receipt.ACCEPTED), (404, Receipt.REFUSED), (503, None)])
async def test_a_webhook_that_takes_no_alarms_is_no_outage_of_alerts(status: int, answer: Receipt | None) -> None:
    """It is signed as alerts are and has a header of its own; what the endpoint makes of it turns nothing red."""
    async with Endpoint(status=status) as endpoint:
        settings = WebhookSettings(url=endpoint.url, secret=lambda: SECRET, ca_file=None, timeout_seconds=5)
        async with WebhookSink(settings) as sink:
            assert isinstance(sink, HearsAlarms)
            if answer is None:
                with pytest.raises(SinkUnavailable):
                    await sink.tell("id-1", b"{}")
            else:
                assert await sink.tell("id-1", b"{}") is answer
            assert sink.problems() == []
        head = endpoint.heads[0]
    assert head["stopframe-alarm"] == "id-1"
    assert "stopframe-alert" not in head
    assert "v1=" in head["stopframe-signature"]


async def test_a_file_gets_a_line(tmp_path: Path) -> None:
    """Among the alerts, told apart by its schema."""
    async with JsonlSink(JsonlSettings(path=tmp_path / "alerts.jsonl")) as sink, Desk(sink) as desk:
        await desk.red([BROKEN], 12)
        async with asyncio.timeout(10):
            while not (tmp_path / "alerts.jsonl").exists() or not (tmp_path / "alerts.jsonl").read_text():
                await asyncio.sleep(0.01)
    assert json.loads((tmp_path / "alerts.jsonl").read_text())["schema"] == "stopframe/alarm/1"


async def test_without_a_sink_the_work_stays() -> None:
    """A node with a broker alone has nobody to tell here, and that is no fault."""
    alarms = Alarms((), "node-1")
    alarms.hear([BROKEN])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(alarms.run(), 0.05)
