"""What is wrong with a publisher's times is told when it begins, once a minute, and never for a steady stream."""

import math

from detector.publisher_times import PublisherTimes, TimeFault
from streams.wire import Heartbeat


def beat(at: float, skew: float = 0.0, jumps: int = 0) -> Heartbeat:
    return Heartbeat(
        at, at, math.nan, round(100 * at), 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, time_skew_seconds=skew, time_jumps=jumps
    )


def told(times: PublisherTimes, beats: list[Heartbeat]) -> list[tuple[float, TimeFault]]:
    return [(one.sent_at, fault) for one in beats if (fault := times.beat(one)) is not None]


def test_times_that_stand_still_are_told_before_they_are_far_off() -> None:
    """A skew that grows as time goes by is told within 3 s, and as a skew when it is one."""
    told_of = told(PublisherTimes(), [beat(n / 2, -n / 2) for n in range(20)])
    assert [fault for _, fault in told_of] == [TimeFault.STANDSTILL, TimeFault.SKEW]
    assert [at for at, _ in told_of] == [2.0, 5.5]


def test_skew_either_way_is_told_once_a_minute() -> None:
    """A skew that stays is told again after a minute."""
    for skew in (6.0, -6.0):
        told_of = told(PublisherTimes(), [beat(float(n), skew) for n in range(100)])
        assert told_of == [(0.0, TimeFault.SKEW), (60.0, TimeFault.SKEW)]


def test_jumps_are_summed_over_readers_and_told_at_once() -> None:
    """A reader counts from its start; two jumps of two readers are two."""
    times = PublisherTimes()
    assert told(times, [beat(0.0), beat(0.5, jumps=1), beat(1.0, jumps=1)]) == [(0.5, TimeFault.JUMP)]
    times.ended()
    assert told(times, [beat(70.0, jumps=1)]) == [(70.0, TimeFault.JUMP)]
    assert times.jumps == 2


def test_small_skews_jitter_and_silence_are_not_told() -> None:
    """Up to 5 s either way, a late second, and no packet at all: nothing to tell."""
    assert not told(PublisherTimes(), [beat(n / 2, 4.9 if n % 9 else 4.0) for n in range(60)])
    assert not told(PublisherTimes(), [beat(n / 2, -1.5 if n == 8 else 0.0) for n in range(60)])
    silent = [beat(1.0)] * 3 + [Heartbeat(n, 1.0, math.nan, 100, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0) for n in (2.0, 9.0)]
    assert not told(PublisherTimes(), silent)
