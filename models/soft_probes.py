"""Reliability-ordered probes: which keys of a slot a copy's hash most likely has, given the query's coefficients.

A bit of a DCT hash says on which side of the median a coefficient lies. An edit moves coefficients a little, so the
bits that differ in a copy are mostly those whose coefficients lie next to the median: flipping these first meets copies
far beyond the radius that probing all near keys can afford. The order is that of soft-decision decoding (Chase: A Class
of Algorithms for Decoding Block Codes With Channel Measurement Information, 1972).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

DEFAULT_PATTERNS: Final = 32
"""Keys probed per slot ..."""

_LONGER_LISTS: Final = ((200_000, 64), (4_000_000, 96))
"""... and in lists of more rows, whose wide slots are less likely to be free of flips."""

_RANKS: Final = 12
"""Only so many of a slot's weakest bits are flipped ..."""

_MOST_FLIPS: Final = 4
"""... and at most so many of them at once."""

_POWERS: Final = np.ldexp(1.0, np.arange(53))
_SHORT_POWERS: Final = _POWERS[:24].astype(np.float32)
"""Those of which float32, twice as fast, holds every sum of distinct ones."""


def patterns_for(row_count: int) -> int:
    """How many keys to probe per slot in a list of so many rows."""
    return max([DEFAULT_PATTERNS, *(patterns for rows, patterns in _LONGER_LISTS if row_count >= rows)])


@lru_cache(maxsize=32)
def flip_patterns(count: int, width: int) -> NDArray[np.float64]:
    """Give the (count, ranks) 0/1 patterns of weak bits to flip, the likeliest first; the first flips none.

    Fewer than `count` where a slot of `width` bits has no more.
    """
    ranks = min(_RANKS, width)
    subsets = [chosen for flips in range(_MOST_FLIPS + 1) for chosen in combinations(range(ranks), flips)]
    # Half a rank per flip beside the rank itself: one bit a little less weak is likelier than two weak ones.
    subsets.sort(key=lambda chosen: (sum(rank + 1.5 for rank in chosen), len(chosen), chosen))
    patterns = np.zeros((min(count, len(subsets)), ranks))
    for number, chosen in enumerate(subsets[: len(patterns)]):
        patterns[number, list(chosen)] = 1
    return patterns


@lru_cache(maxsize=32)
def _bit_places(widths: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where each slot's bits lie in `np.unpackbits` of a row, (slots, widest), and 0, or infinity where there is none.

    Slots count bits from the lowest of the little-endian words, `np.unpackbits` from the highest of each byte.
    """
    widest = max(widths)
    places = np.zeros((len(widths), widest), dtype=np.intp)
    padding = np.full((len(widths), widest), np.inf, dtype=np.float32)
    offset = 0
    for slot, width in enumerate(widths):
        bits = np.arange(offset, offset + width)
        places[slot, :width] = (bits >> 3 << 3) + 7 - (bits & 7)
        padding[slot, :width] = 0
        offset += width
    return places, padding


def flip_masks(deviations: NDArray[np.float32], widths: Sequence[int], count: int) -> NDArray[np.int64]:
    """Give the masks to flip each slot's key with, (views, slots, patterns), the likeliest first.

    `deviations` is (views, bits): how far each coefficient lies from the median, in the order of `np.unpackbits`.
    """
    patterns = flip_patterns(count, min(widths))
    places, padding = _bit_places(tuple(widths))
    weights = np.abs(deviations, dtype=np.float32).take(places, axis=1)
    weights += padding
    weakest = np.argsort(weights, axis=2)[:, :, : patterns.shape[1]]
    # Sums of distinct powers of two, exact in floats, where a product is much faster than in integers, and one large
    # product than many small ones.
    powers = _SHORT_POWERS if max(widths) <= len(_SHORT_POWERS) else _POWERS
    masks = powers.take(weakest).reshape(-1, patterns.shape[1]) @ patterns.T.astype(powers.dtype)
    return np.asarray(masks.reshape(len(weights), len(widths), -1).astype(np.int64))
