"""A publisher's times against arrival: what is off is told, what is usual is not."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.times import TrackTimes

RATE = 30
WRAP_SECONDS = 2**33 / 90_000


def hear(times: TrackTimes, pairs: list[tuple[float, float | None]]) -> TrackTimes:
    for arrived_at, time_seconds in pairs:
        times.hear(arrived_at, time_seconds)
    return times


def steady(seconds: float, speed: float = 1.0, start: float = 0.0) -> list[tuple[float, float | None]]:
    return [(number / RATE, start + speed * number / RATE) for number in range(round(seconds * RATE))]


def test_times_that_go_as_packets_come_are_not_off() -> None:
    """A steady stream has no skew and no jump, wherever its clock begins."""
    times = hear(TrackTimes(), steady(60.0, start=36_000.0))
    assert abs(times.skew_seconds) < 0.01
    assert times.jumps == 0


@pytest.mark.parametrize(("speed", "skew"), [(0.0, -5.0), (1 / 3000, -5.0), (0.5, -2.5), (3.0, 6.0)])
def test_times_that_run_slow_or_fast_are_told_as_they_do(speed: float, skew: float) -> None:
    """Slow times count from the first packet on, fast ones from when a burst at the start must be over."""
    seconds = 5.0 if speed < 1 else 3.0 + 3.0
    times = hear(TrackTimes(), steady(seconds, speed))
    assert times.skew_seconds == pytest.approx(skew, abs=1.1)
    assert times.jumps == 0


def test_what_a_server_had_kept_and_a_jittery_network_are_no_skew() -> None:
    """Eight seconds that come at once, delays of up to half a second, and a stall of 3 s leave it within a second."""
    draw = random.Random(7).random
    times = TrackTimes()
    hear(times, [(0.001 * number, number / RATE) for number in range(8 * RATE)])
    worst = 0.0
    for number in range(60 * RATE):
        sent_at = number / RATE
        held_until = 33.0 if 30.0 < sent_at < 33.0 else 0.0
        times.hear(0.3 + max(sent_at, held_until) + 0.5 * draw() ** 2, 8.0 + sent_at)
        if not 30.0 < sent_at < 34.0:
            worst = max(worst, abs(times.skew_seconds))
    assert worst < 1.0
    assert times.jumps == 0


@pytest.mark.parametrize("step", [36_000.0, 6.0, -36_000.0, -2.0, 1e9])
def test_jump_is_counted_once_and_is_no_skew(step: float) -> None:
    """A step that no stream takes by itself is a jump, either way; what comes after goes on from there."""
    before = steady(4.0)
    after = [(at + 4.0, claimed + 4.0 + step) for at, claimed in steady(4.0)]
    times = hear(TrackTimes(), before + after)
    assert times.jumps == 1
    assert abs(times.skew_seconds) < 0.1


@pytest.mark.parametrize("wrap", [2**33 / 90_000, 2**32 / 1_000])
def test_counter_that_wraps_is_no_jump(wrap: float) -> None:
    """MPEG-TS counts 26.5 hours and FLV 49 days, then both begin anew; frames around that moment are reordered."""
    claimed = [wrap - 2.0 + at + (0.1 if number % 3 == 1 else 0.0) for number, (at, _) in enumerate(steady(4.0))]
    pairs: list[tuple[float, float | None]] = [(number / RATE, one % wrap) for number, one in enumerate(claimed)]
    times = hear(TrackTimes(), pairs)
    assert times.jumps == 0
    assert abs(times.skew_seconds) < 0.2


def test_frames_out_of_order_and_slow_streams_are_no_jumps() -> None:
    """B-frames go back by some frames, and a stream of one frame in ten seconds takes long steps."""
    reordered = [(number / RATE, (number + (3, -1, -2)[number % 3]) / RATE) for number in range(300)]
    assert hear(TrackTimes(), reordered).jumps == 0
    slow = hear(TrackTimes(), [(10.0 * number, 10.0 * number) for number in range(20)])
    assert (slow.jumps, round(slow.skew_seconds, 3)) == (0, 0.0)


def test_times_left_out_stand_still() -> None:
    """Without any time the skew grows as if none went by; a few that are left out change nothing."""
    assert hear(TrackTimes(), [(number / RATE, None) for number in range(5 * RATE)]).skew_seconds < -3.9
    some = [(at, claimed if number % 4 else None) for number, (at, claimed) in enumerate(steady(20.0))]
    assert abs(hear(TrackTimes(), some).skew_seconds) < 0.1


def test_clocks_that_drift_apart_are_forgiven() -> None:
    """An hour of a clock that is wrong by a tenth of a thousandth is no skew; a hundredth soon is one."""
    hour = [(float(second), second * 1.0001) for second in range(3600)]
    assert abs(hear(TrackTimes(), hour).skew_seconds) < 0.2
    assert hear(TrackTimes(), [(float(second), second * 1.01) for second in range(1800)]).skew_seconds > 5.0


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.one_of(st.none(), st.floats())), max_size=60))
def test_any_times_give_a_finite_skew(steps: list[tuple[float, float | None]]) -> None:
    """Whatever is claimed, the figures can be sent: finite, and no longer than what a step may be."""
    times, now = TrackTimes(), 0.0
    for elapsed, claimed in steps:
        now += elapsed
        times.hear(now, claimed)
        assert math.isfinite(times.skew_seconds)
        assert abs(times.skew_seconds) <= now + 7.0 * len(steps)
    assert 0 <= times.jumps <= len(steps)
