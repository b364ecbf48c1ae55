"""An account of what was seen that is kept from outside, by looking often at when the latest frame was judged."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from detector.api.view import StreamRow

UNDER_WAY_SECONDS: Final = 1.0
"""The longest from a frame's arrival to its verdict; later ones are dropped as stale."""


@dataclass(slots=True)
class _Seen:
    first: StreamRow
    begun_at: float
    last: StreamRow
    ended_at: float
    samples: list[float] = field(default_factory=list)


class SightAccount:
    """Looked at often, it knows the samples of every stream, and what the service's own account must say.

    The service tells how old a sample is at an instant between the question and the answer: a gap counts as the least
    that it can have been. One that is still open counts when the frame that would end it cannot be under way any more.
    """

    def __init__(self, detect_within_seconds: float) -> None:
        self.gap_seconds = 0.0
        """The longest between the arrivals of two analysed frames of one stream."""
        self._within = detect_within_seconds
        self._streams: dict[str, _Seen] = {}

    def look(self, rows: Mapping[str, StreamRow], asked_at: float, now: float) -> None:
        """Take what the service was asked for at `asked_at` and had answered at `now` (monotonic)."""
        for path, row in rows.items():
            age = row.last_sample_age_seconds
            if age is None:
                continue
            seen = self._streams.setdefault(path, _Seen(row, now, row, now, [now - age]))
            self.gap_seconds = max(self.gap_seconds, age - UNDER_WAY_SECONDS)
            if row.judged > seen.last.judged:
                sampled_at = now - age
                if row.judged == seen.last.judged + 1:
                    self.gap_seconds = max(self.gap_seconds, asked_at - age - seen.samples[-1])
                seen.samples.append(sampled_at)
            seen.last, seen.ended_at = row, now

    def alive_error_percent(self) -> float:
        """By how much seen, skipped and blind differ from the time that passed, the worst stream's."""
        return max(
            (100 * abs(_accounted(each) / (each.ended_at - each.begun_at) - 1) for each in self._long()), default=100.0
        )

    def seen_error_percent(self) -> float:
        """By how much the seen time of all streams differs from what their samples give, in percent of the time."""
        told = sum(each.last.seen_seconds - each.first.seen_seconds for each in self._long())
        found = sum(self._found(each) for each in self._long())
        alive = sum(each.ended_at - each.begun_at for each in self._long())
        return 100 * abs(told - found) / alive if alive else 100.0

    def _long(self) -> list[_Seen]:
        return [each for each in self._streams.values() if each.ended_at > each.begun_at]

    def _found(self, each: _Seen) -> float:
        """A gap between samples is seen up to `detect_within`; so is the one that is open at either end."""
        moments = [*sorted(each.samples), each.ended_at]
        gaps = itertools.pairwise(moments)
        before = min(self._within, each.begun_at - each.samples[0])
        return sum(min(self._within, later - sooner) for sooner, later in gaps) - before


def _accounted(each: _Seen) -> float:
    def whole(row: StreamRow) -> float:
        return row.seen_seconds + row.skipped_seconds + row.blind_seconds

    return whole(each.last) - whole(each.first)
