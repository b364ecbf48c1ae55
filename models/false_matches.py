"""How many matches happen by chance: the measured tail of distances between unrelated pictures, and what follows.

Unrelated PDQ hashes lie 128 bits apart with a standard deviation of 8, as fair bits would; but pictures share
structure (a horizon, a dark suit, a slide), and below 80 bits the measured tail falls only tenfold for each 8 bits,
where fair bits would fall a millionfold. So the chance model is of no use here, and a measured curve stands in for it.
Pure arithmetic; nothing here is ever a promise about one frame.
"""

from dataclasses import dataclass
from typing import Final

TAIL_RADIUS: Final = 56
TAIL_RATE: Final = 5e-9
"""False matches for each (view, row) pair at `TAIL_RADIUS` bits: 690 million pairs of benign frames, each through
about 70 views, with rows that are windows of benign pictures; the worse of the sets that were measured."""

BITS_PER_DECADE: Final = 8.0
"""So many bits more let through ten times as many."""

SECOND_TEST_RATE: Final = 1e-3
"""The part of false pairs that also passes a second test: their mean lies three to four deviations beyond its limit."""

VIEWS_PER_FRAME: Final = 40
"""Views of one frame that are looked up, on average: all of them at a scene's first frame, a dozen afterwards."""

HASH_BITS: Final = 256
"""The curve is one of 256-bit hashes. Shorter ones never act alone, and their chance is another one."""

WIDEST_RADIUS: Final = 72
"""Beyond this nothing ever counts, not even as one vote of several."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much is looked at: streams that are live at once, and the frames a second analysed of each."""

    streams: float
    frames_per_second: float

    @property
    def frames_per_day(self) -> float:
        """Frames of all streams in a day."""
        return self.streams * self.frames_per_second * 86_400


def pair_rate(radius: int) -> float:
    """The chance that an unrelated 256-bit pair lies within `radius` bits: a pessimistic curve, at most 1."""
    return min(1.0, TAIL_RATE * float(10 ** ((radius - TAIL_RADIUS) / BITS_PER_DECADE)))


def expected(radius: int, rows: int, *, views: float = VIEWS_PER_FRAME, second_test: bool) -> float:
    """False matches to expect in one frame: the pair's chance times views times rows.

    `second_test` says whether a match within the radius must pass a second test to count.
    """
    return pair_rate(radius) * views * rows * (SECOND_TEST_RATE if second_test else 1.0)


def expected_per_day(
    radius: int, rows: int, traffic: Traffic, *, views: float = VIEWS_PER_FRAME, second_test: bool
) -> float:
    """False matches to expect in a day of `traffic`."""
    return expected(radius, rows, views=views, second_test=second_test) * traffic.frames_per_day


def widest_radius(
    rows: int, traffic: Traffic, budget_per_day: float, *, views: float = VIEWS_PER_FRAME, second_test: bool
) -> int | None:
    """The widest radius that keeps to a budget of false matches a day, at most `WIDEST_RADIUS`; None if none does."""
    for radius in range(WIDEST_RADIUS, -1, -1):
        if expected_per_day(radius, rows, traffic, views=views, second_test=second_test) <= budget_per_day:
            return radius
    return None
