"""Alerts that wait for a cutter's answer: when they are sent, on which way, and when nobody needs to any more."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import pytest

from detector.alerts.clock import Clock
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.alerts.urgency import Urgency
from detector.remote.desk import AnswerDesk, AnswerSettings
from detector.remote.ways import AnsweredSink


@dataclass
class FakeSink:
    name: str = "fake"
    receipt: Receipt = Receipt.ACCEPTED
    is_down: bool = False
    sent: list[tuple[float, str]] = field(default_factory=list)
    now: float = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def wait_ready(self) -> None:
        return

    async def deliver(self, notice: Notice) -> Receipt:
        if self.is_down:
            raise SinkUnavailable("down")
        self.sent.append((self.now, notice.alert_id))
        return self.receipt

    def problems(self) -> list[str]:
        return ["of the sink"]

    def notes(self) -> list[str]:
        return []


class Scene:
    def __init__(self, *, after_seconds: float = 0.0) -> None:
        self.sink = FakeSink()
        self.desk = AnswerDesk(AnswerSettings(overdue_seconds=15.0), lambda: 0.0)
        clock = Clock(monotonic=lambda: self.sink.now)
        self.way = AnsweredSink(self.sink, self.desk, after_seconds=after_seconds, clock=clock)

    async def at(self, now: float, notice: Notice | None = None) -> Receipt:
        self.sink.now = now
        return await self.way.deliver(notice or cut())


def cut(number: int = 1, urgency: int = Urgency.CUT) -> Notice:
    return Notice(f"a{number}", "S", urgency, b'{"incident_id": "i1"}', 10_000_000, float(number))


async def test_what_is_no_cut_is_the_sinks_own_matter() -> None:
    """Reviews, refused cuts and shadow end with the sink's word, and nobody waits for an answer."""
    scene = Scene()
    for urgency in (Urgency.SHADOW, Urgency.REVIEW, Urgency.REFUSED_CUT):
        assert await scene.at(0.0, cut(urgency=urgency)) is Receipt.ACCEPTED
    assert len(scene.desk) == 0


async def test_a_cut_is_sent_again_with_backoff_until_it_is_answered() -> None:
    """After 1, 2, 4 seconds and so on, whoever asks how often; the answer ends it."""
    scene = Scene()
    said = [await scene.at(tenth / 10) for tenth in range(100)]
    assert [at for at, _ in scene.sink.sent] == [0.0, 1.0, 3.0, 7.0]
    assert said.count(Receipt.AWAITED) == 4
    assert set(said) == {Receipt.AWAITED, Receipt.HELD}
    scene.desk.settle("a1")
    assert await scene.at(60.0) is Receipt.ACCEPTED
    assert len(scene.sink.sent) == 4


async def test_received_holds_it_for_half_a_minute_and_a_broken_word_ends_that() -> None:
    """A promise stops resending for 30 s; where it turns out to be none, it is sent as its backoff allows."""
    scene = Scene()
    await scene.at(0.0)
    awaited = scene.desk.find("a1")
    assert awaited is not None
    scene.desk.hold(awaited, 0.5)
    assert {await scene.at(float(second)) for second in range(1, 30)} == {Receipt.HELD}
    assert await scene.at(30.6) is Receipt.AWAITED
    scene.desk.hold(awaited, 31.0)
    scene.desk.release(awaited)
    assert await scene.at(33.0) is Receipt.AWAITED


async def test_the_second_way_waits_and_has_a_backoff_of_its_own() -> None:
    """It takes the alert only when no answer came for so long."""
    scene = Scene(after_seconds=5.0)
    assert [await scene.at(now) for now in (0.0, 4.9, 5.0, 5.5, 6.0)] == [
        Receipt.HELD,
        Receipt.HELD,
        Receipt.AWAITED,
        Receipt.HELD,
        Receipt.AWAITED,
    ]


async def test_a_way_that_refuses_or_is_down_says_so() -> None:
    """Neither counts as sent: the next try is the courier's to time."""
    scene = Scene()
    scene.sink.receipt = Receipt.NOBODY_LISTENS
    assert await scene.at(0.0) is Receipt.NOBODY_LISTENS
    scene.sink.is_down = True
    with pytest.raises(SinkUnavailable):
        await scene.at(0.1)
    scene.sink.is_down, scene.sink.receipt = False, Receipt.ACCEPTED
    assert await scene.at(0.2) is Receipt.AWAITED


async def test_the_desk_tells_what_is_overdue_and_forgets_what_expired() -> None:
    """A promise does not make it less overdue; what expired is delivery's to count."""
    scene = Scene()
    for number in (1, 2):
        await scene.at(0.0, cut(number))
    assert [each.alert_id for each in scene.desk.of_incident("i1")] == ["a1", "a2"]
    assert list(scene.desk.overdue(14.9)) == []
    assert len(list(scene.desk.overdue(15.0))) == 2
    scene.desk.drop_expired(10_000_000)
    assert len(scene.desk) == 0
    scene.way.watch = lambda: ["more"]
    assert scene.way.problems() == ["of the sink", "more"]
