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
"""Strangers for each (view, row) pair within `TAIL_RADIUS` bits, of views that pass the gates, before any other test.

690 million pairs of benign frames with windows of benign pictures gave it; 6e9 pairs of other frames with a million
rows gave 7e-9, and 1.2e-6 within 80 bits where the curve has 5e-6. Nearer, that material was worse than the curve:
7e-10 within 40 bits and 2e-10 within 31, nearly all of them outlines and plain ground, which what follows counts in."""

BITS_PER_DECADE: Final = 8.0
"""So many bits more let through ten times as many."""

SECOND_TEST_RATE: Final = 0.1
"""The part of the curve that may cut by a bare hash beyond 31 bits: what gates, structure and weighted share leave.

8,500 edited benign frames (500 of film, pictures, drawings and pans, in 17 edits), 59 views each, held against a
million bare rows, 5e11 pairs: 0 within 40 bits, 8 within 44, 23 within 48, 56 within 52, 140 within 56, 481 within 64,
each reckoned by how far a view of its structure reaches. That is 0.09 of the curve at 48, 0.06 at 56, 0.02 at 64. Six
of the 140 were of film."""

SECOND_HASH_RATE: Final = 4e-5
"""The part of the curve that may cut by a second hash at `TAIL_RADIUS`. Nearer it is more, since two outlines that
agree so far agree in their second hashes as well: `second_hash_part`.

49,249 edited benign frames in 2.9e12 pairs, kept hits of which were judged by the rule that was chosen on them: within
48, 56 and 64 bits 0, 0 and 1 frame could cut with the limits of lists that reach so far; with second hashes 1.2 times
as far off as allowed 0, 2 and 9, 1.5 times 6, 27 and 42. So 7e-14, 1.7e-13 and 3.4e-13 a pair, of which the first two
are what these counts lead down to."""

SECOND_BITS_PER_DECADE: Final = 23.0
"""So many bits nearer, a tenth as many pairs may cut by their second hash."""

NEAR_RATE: Final = 0.03
"""The part of the curve that may cut within PDQ's own limit of 31, where no second test is held. Of those 5e11 pairs
none was within 40 bits, nor of 1e12 others within 31; 0.7 pairs, at which to see none is as likely as not, are 1.4e-12
at 40 bits, and the curve leads from there to 31."""

VOTE_TEST_RATE: Final = 2e-4
"""The part of the curve whose second hashes are within the limits for a cut, among votes within 64 bits.

6,126 edited benign frames of film and pans, in 3.7e11 pairs with second hashes: none, where the curve has 18,500. So
1.6e-4 at most, at 95 in 100. The weighted share is not asked: of 1,745 bare votes 1,114 passed it."""

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


def second_hash_part(radius: int) -> float:
    """The part of strangers within `radius` bits whose second hashes are within the limits too.

    At most `NEAR_RATE`: with a test more there are no more of them than without.
    """
    slope = 1 / BITS_PER_DECADE - 1 / SECOND_BITS_PER_DECADE
    return min(NEAR_RATE, SECOND_HASH_RATE * float(10 ** ((TAIL_RADIUS - radius) * slope)))


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a frame may act: within `radius` bits, which a false pair does by the chance `rate`."""

    radius: int
    rate: float
    test: str


def ways(radii: Radii) -> tuple[Way, Way, Way]:
    """The ways in which a frame may act, and the chance of each for a pair of strangers.

    The share is asked beyond `radii.plain` alone.
    """
    by_share = pair_rate(radii.share) * SECOND_TEST_RATE if radii.share > radii.plain else 0.0
    return (
        Way(radii.plain, pair_rate(radii.plain) * NEAR_RATE, "without a second test"),
        Way(radii.share, by_share, "by the weighted share"),
        Way(radii.second, pair_rate(radii.second) * second_hash_part(radii.second), "by the second hash"),
    )


def expected(radii: Radii, rows: int, *, views: float = VIEWS_PER_FRAME) -> float:
    """Matches that may act and are false, to expect in one frame against a list of so many rows.

    A row has a second hash or has none, and what is within a narrower limit is within a wider one: so the way that lets
    most through counts, for all rows.
    """
    return max(way.rate for way in ways(radii)) * views * rows


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
