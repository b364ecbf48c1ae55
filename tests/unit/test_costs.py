"""What a reader's CPU time is charged to."""

import time

import pytest

from streams.costs import Costs, Purpose


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the thread's CPU clock, to be set."""
    now = [1.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    return now


def test_what_is_used_inside_is_charged_to_the_outermost_purpose(clock: list[float]) -> None:
    """A GOP that is decoded whole pays for decoding through and for its samples, once."""
    costs = Costs()
    with costs.of(Purpose.WHOLE):
        clock[0] += 2.0
        with costs.of(Purpose.THROUGH):
            clock[0] += 3.0
    clock[0] += 10.0
    with costs.of(Purpose.THROUGH):
        clock[0] += 0.5

    assert costs.cpu_seconds == {Purpose.KEYFRAME: 0.0, Purpose.THROUGH: 0.5, Purpose.WHOLE: 5.0}


def test_what_failed_is_charged_too(clock: list[float]) -> None:
    """A packet that cannot be decoded costs as well, and what comes next is charged to its own purpose."""
    costs = Costs()

    def fail() -> None:
        with costs.of(Purpose.KEYFRAME):
            clock[0] += 2.0
            raise ValueError("noise")

    with pytest.raises(ValueError, match="noise"):
        fail()
    with costs.of(Purpose.THROUGH):
        clock[0] += 1.0

    assert costs.cpu_seconds == {Purpose.KEYFRAME: 2.0, Purpose.THROUGH: 1.0, Purpose.WHOLE: 0.0}
