"""How many matches happen by chance: the measured tail of distances between unrelated pictures, and what follows.

Unrelated PDQ hashes lie 128 bits apart with a standard deviation of 8, as fair bits would; but pictures share
structure (a horizon, a dark suit, a slide), and below 80 bits the measured tail falls only tenfold for each 8 bits,
where fair bits would fall a millionfold. So the chance model is of no use here, and a measured curve stands in for it.
Pure arithmetic; nothing here is ever a promise about one frame.
"""

from dataclasses import dataclass, replace
from typing import Final

from models.radii import Radii

TAIL_RADIUS: Final = 56
TAIL_RATE: Final = 5e-9
"""False matches for each (view, row) pair at `TAIL_RADIUS` bits: 690 million pairs of benign frames, each through
about 70 views, with rows that are windows of benign pictures; the worse of the sets that were measured."""

BITS_PER_DECADE: Final = 8.0
"""So many bits more let through ten times as many."""

SECOND_TEST_RATE: Final = 1e-3
"""The part of false pairs that also passes the test of the weighted share: their mean lies three to four deviations
beyond its limit. An estimate: few false pairs exist."""

SECOND_HASH_RATE: Final = 1e-5
"""The same for the second hash. An estimate: of false pairs within 64 bits none came nearer than 182 bits of 512, where
160 is the limit."""

NEAR_RATE: Final = 1e-3
"""What is taken off the curve within PDQ's own limit of 31, where no second test is held: the curve is measured down to
52 bits, the nearest that two strangers came, and pairs so near agree in seven of eight bits."""

VIEWS_PER_FRAME: Final = 40
"""Views of one frame that are looked up, on average: all of them at a scene's first frame, a dozen afterwards."""

HASH_BITS: Final = 256
"""The curve is one of 256-bit hashes. Shorter ones never act alone, and their chance is another one."""


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


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a frame may act: within `radius` bits, which a false pair does by the chance `rate`."""

    radius: int
    rate: float
    test: str


def ways(radii: Radii) -> tuple[Way, Way, Way]:
    """The ways in which a frame may act, and the chance of each for a pair of strangers."""
    return (
        Way(radii.plain, pair_rate(radii.plain) * NEAR_RATE, "without a second test"),
        Way(radii.share, pair_rate(radii.share) * SECOND_TEST_RATE, "by the weighted share"),
        Way(radii.second, pair_rate(radii.second) * SECOND_HASH_RATE, "by the second hash"),
    )


def expected(radii: Radii, rows: int, *, views: float = VIEWS_PER_FRAME) -> float:
    """Matches that may act and are false, to expect in one frame against a list of so many rows.

    Each way in which a frame may act counts for all rows.
    """
    return sum(way.rate for way in ways(radii)) * views * rows


def expected_per_day(radii: Radii, rows: int, traffic: Traffic) -> float:
    """The same in a day of `traffic`."""
    return expected(radii, rows) * traffic.frames_per_day


def within(radii: Radii, most: int) -> Radii:
    """The same limits, but nothing acts further off than `most`. What asks for reviews or votes stays as it is."""
    return replace(radii, plain=min(radii.plain, most), share=min(radii.share, most), second=min(radii.second, most))


def widest_radius(radii: Radii, rows: int, traffic: Traffic, budget_per_day: float) -> int | None:
    """The widest limit on `radii` that keeps to a budget of false matches a day; None where not even 0 does."""
    for most in range(max(radii.plain, radii.share, radii.second), -1, -1):
        if expected_per_day(within(radii, most), rows, traffic) <= budget_per_day:
            return most
    return None
