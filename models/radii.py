"""How near is near enough: the limits of PDQ distances, by the length of the list.

Copies that were cropped, overlaid or filmed lie 32-64 bits from their original; unrelated pictures come as near by
chance, the oftener the longer the list (`models.false_matches`). So a long list has narrower limits. This is the one
place that holds them; all figures are bits of Hamming distance, and a match is distance <= limit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

WIDEST: Final = 72
"""What is looked up at most: a vote of several frames lies no further."""

EXACT: Final = 31
"""The limit that PDQ's authors recommend (facebook/ThreatExchange, pdq/README.md), looked up exactly."""

UNGATED: Final = 40
"""No match goes further by a view that fails the shape gate or the quality gate: chessboards and flat pictures come
within 46-64 bits of each other by the hundred."""

SHARE_LIMIT: Final = 0.17
"""The second test of a bare hash: the bits that differ carry at most this share of the view's coefficients. Copies at
32-56 bits had 0.16 at most, strangers within 64 bits 0.197 at least."""

VOTE_SHARE_LIMIT: Final = 0.19
"""The same for a vote: copies at 57-64 bits had 0.188 at most."""

SECOND_LIMIT: Final = 160
"""The second test of a row with a second hash: bits of 512, at most; long lists are stricter (`Radii.second_bits`).

Of copies within 56 bits of their picture's own row 97 % or more pass it in each band of 8 bits, and 94 % at 57-64.
Strangers pass it too where there are many: of 127 pictures in 3,937 edited frames, none of which a list of a million
rows shows, 14 had a row within 56 bits and 160 of the second hash, nine one within 148, four within 136; of copies in
the promised edits 85.7, 85.5 and 85.5 % had their own.
"""

LEAST_PART: Final = 0.2
PART_BY_STRUCTURE: Final = 2.0
"""Which part of `Radii.second_bits` a second hash may be off where a frame is to cut: `LEAST_PART`, and so much more by
how much there is in the view (`second_tests.structures_of_views`), all of them from a structure of 0.4 on. Outlines on
plain ground come near each other: two lone edges of different things lay 36 bits apart, 67 by the second hash.

Of 49,249 edited benign frames of 2,897 pictures, clips and drawings, held against a million rows, none comes nearer
than 1.3 times what is allowed, six within 1.5 times, 26 within 1.8 times, once pictures that are the same are left out.
The rule was chosen on these, by judging kept hits again; afterwards 8,500 more edited frames of film were held against
lists once, and 7,000 of film, stills and pans: no stranger could cut. Of copies one in a hundred is lost by it.
"""

LEAST_REACH: Final = 0.3
REACH_BY_STRUCTURE: Final = 3.0
"""The same for bare hashes, of which only the distance is known: which part of the limit for a cut a view reaches that
is not the frame as it is or mirrored. Of 8,500 edited benign frames 16 rows within 40 bits could cut in a list of a
million, none of which are so near; of copies two in a thousand are lost by it, six at 40 bits.
"""

PLAIN_REACH: Final = 15
"""How far a bare hash of next to no structure (`models.hashing.plainness`) may be for a cut, by the frame as it is or
mirrored: such a hash is told by a sign for each of 16 rows and columns, and with one more of them turned it is another,
16 bits off. A logo on fluted wood came within 26 bits of a star in a corner, mirrored, and black between two bars
within 24 of a panel with a line across: two of 14,000 edited benign frames, in a list of a million bare hashes."""

NEAR_WINDOW: Final = 48
"""Further than this a window of a picture may cut only with its second hash within `FAR_WINDOW_LIMIT`: a rectangle of a
screen and a window of a plain picture are both little more than an edge and a blot, and there are many of each."""

FAR_WINDOW_LIMIT: Final = 136
"""The second hash of such a window. Of 6,000 made-up screens of rectangles, discs and insets, held against the windows
of 50 plain and 100 rich pictures, seven came within 54-64 bits with 141-158 bits of 512; of 91 crops at 49-64 bits six
had more than 136."""


@dataclass(frozen=True, slots=True)
class Radii:
    """The limits for lists of up to `rows` rows (`counted_rows`).

    `plain`: a frame may ask for a cut without a second test. `share` and `second`: likewise, where the weighted share
    or the second hash is within its limit. `review`: a frame may ask for a review, the second test passed where it is
    further than `plain`. `vote`: the second test passed there too, unless `votes_untested`. `second_bits`: of how many
    bits a second hash may differ where a frame is to ask for a cut, at most, or a review; for a vote `SECOND_LIMIT`.
    """

    rows: int
    plain: int
    share: int
    second: int
    review: int
    vote: int
    votes_untested: bool = False
    second_bits: int = SECOND_LIMIT


TABLE: Final = (
    Radii(500, plain=31, share=56, second=64, review=64, vote=72, votes_untested=True),
    Radii(5_000, plain=31, share=48, second=64, review=64, vote=72, votes_untested=True),
    Radii(50_000, plain=31, share=40, second=64, review=64, vote=72),
    Radii(150_000, plain=31, share=36, second=64, review=64, vote=72, second_bits=148),
    Radii(500_000, plain=31, share=31, second=56, review=56, vote=72, second_bits=136),
    Radii(2_000_000, plain=31, share=31, second=48, review=56, vote=72, second_bits=120),
    Radii(6_500_000, plain=27, share=27, second=40, review=48, vote=64, second_bits=120),
    Radii(20_000_000, plain=23, share=23, second=28, review=48, vote=64, second_bits=120),
    Radii(50_000_000, plain=20, share=20, second=20, review=40, vote=64, second_bits=120),
)
"""Shortest lists first; the last row holds for all that are longer. A picture at hand brings up to 190 rows (itself and
its windows), so 150,000 are 800 pictures or more."""


def radii_for(rows: int) -> Radii:
    """The limits for a list that counts as so many rows."""
    return next((radii for radii in TABLE if rows <= radii.rows), TABLE[-1])


def chosen(radii: Radii, most_bits: int) -> Radii:
    """The limits of a list for which an operator chose one.

    Up to it a frame may act, its second test passed beyond what needs none; beyond it nothing is a match.
    """
    return Radii(
        radii.rows,
        plain=min(radii.plain, most_bits),
        share=most_bits,
        second=most_bits,
        review=most_bits,
        vote=most_bits,
        votes_untested=radii.votes_untested,
        second_bits=radii.second_bits,
    )


def counted_rows(rows: int, others: Iterable[int]) -> int:
    """How long a bank's list counts as, beside other banks with `others` rows of the same algorithm.

    A frame is held against all of them, so its false matches add up. Each other bank adds its rows, but at most as many
    as this one has: a bank that is longer has narrower limits for that very reason. So one million-row import does not
    narrow the limits of a house list of a hundred pictures, and a list cut into ten banks is no wider than in one.
    """
    return rows + sum(min(rows, other) for other in others)
