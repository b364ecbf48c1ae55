"""A playlist's packets are spread by their times, and whoever writes those cannot keep the reader behind."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from streams.pacing import LONGEST_LAG_SECONDS, Pace
from streams.scan_sampling import MediaClock

RATE = 10


@dataclass
class Read:
    """When each frame was published with its segment, and when it arrived."""

    frames: list[tuple[float, float]]

    def lag(self, from_seconds: float = 0.0) -> float:
        return max(arrived - published for published, arrived in self.frames if arrived >= from_seconds)

    def longest_gap(self, from_seconds: float) -> float:
        arrived = [arrived for _, arrived in self.frames if arrived >= from_seconds]
        return max(later - earlier for earlier, later in pairwise(arrived))


def read(claim: Callable[[int], float], *, seconds: float, segment_seconds: float = 4.0, offset: float = 1.0) -> Read:
    """Read a live playlist from its newest segment on; a segment is there `segment_seconds` after the one before."""
    clock, pace, now, has_had = MediaClock(1 / RATE, 3.0), Pace(0.0), 0.0, 0.0
    frames: list[tuple[float, float]] = []
    number = 0
    while now < seconds:
        published = (number // round(segment_seconds * RATE)) * segment_seconds - offset
        waited = max(0.0, published - has_had)
        now = max(has_had, published)
        now = pace.due_at(now, clock.advance(claim(number)), waited)
        frames.append((published, now))
        has_had = now
        number += 1
    return Read(frames)


@pytest.mark.parametrize("segment_seconds", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("offset", [0.1, 0.9])
def test_honest_playlist_is_read_evenly_about_a_segment_behind(segment_seconds: float, offset: float) -> None:
    """No moment comes all at once, and the reader is never more than two segments behind."""
    honest = read(
        lambda number: number / RATE, seconds=160.0, segment_seconds=segment_seconds, offset=offset * segment_seconds
    )
    assert honest.lag() <= 2 * segment_seconds
    assert honest.longest_gap(0.0) <= max(1.2, 0.3 * segment_seconds)
    assert honest.longest_gap(110.0) <= max(1.1, 0.15 * segment_seconds)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("a tick for each frame", lambda number: number / 90_000),
        ("thirty times too fast", lambda number: 3.0 * number),
        ("steps of a second", lambda number: 1.0 * number),
        ("all the same", lambda _: 5.0),
        ("back and forth", lambda number: float(-number % 7)),
        ("first honest, then fast", lambda number: number / RATE + max(0, number - 300) * 0.9),
        ("a jump in each second", lambda number: number / RATE + number // RATE * 100.0),
    ],
)
def test_who_writes_the_times_cannot_keep_the_reader_behind(name: str, claim: Callable[[int], float]) -> None:
    """Whatever frames claim, the lag is bounded at once; after a while they arrive evenly and a segment late."""
    lying = read(claim, seconds=180.0)
    assert lying.lag() <= LONGEST_LAG_SECONDS + 2 * 4.0, name
    assert lying.lag(120.0) <= 2 * 4.0, name
    assert lying.longest_gap(120.0) <= 1.2, name


def test_a_stall_of_the_publisher_makes_nobody_slow() -> None:
    """One segment that comes late leaves the pace: the next ones are not read as slowly."""
    pace = Pace(0.0)
    for edge in range(1, 5):
        pace.due_at(4.0 * edge, 4.0 * edge, 0.5)
    before = pace.speed
    pace.due_at(40.0, 20.0, 20.0)
    assert pace.speed == before
