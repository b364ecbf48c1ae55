"""How a hash is cut into slots for a multi-index, and how far each slot is probed: the general pigeonhole.

Cut the hash into slots and give slot i the radius t_i; if the t_i + 1 add up to at least R + 1, a row within R of the
query is within t_i of it in at least one slot (Norouzi, Punjani, Fleet: Fast Exact Search in Hamming Space with
Multi-Index Hashing, 2012).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.soft_probes import DEFAULT_PATTERNS

WIDEST: Final = 26
"""Bits of a slot at most: a table has two to the power of them entries."""

_LONG_BITS: Final = 128
"""Hashes of so many bits are searched by likely keys too."""

_CANDIDATES: Final = 750
"""Rows that likely probes of a query may meet. Measured, a probe costs some 20 ns and a candidate some 30."""

_CANDIDATE_COST: Final = 2.0
"""A candidate costs about so many probes: it is fetched by number and then compared in full."""


@dataclass(frozen=True, slots=True)
class Slots:
    """How a hash is cut: slot i covers `widths[i]` bits from bit `offsets[i]` of the little-endian words of a row."""

    offsets: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def bases(self) -> NDArray[np.int64]:
        """Where each slot's table begins among all of them, one behind the other."""
        sizes = [(1 << width) + 1 for width in self.widths]
        return np.array([sum(sizes[:i]) for i in range(len(sizes))], dtype=np.int64)

    def radii(self, radius: int, row_count: int) -> tuple[int, ...]:
        """The radius of each slot, -1 where it needs no probe.

        Either the wide slots, which come first, get the larger or the narrow ones, whichever is cheaper for a list of
        random rows: a wide slot has more keys to probe, but fewer rows share each of them.
        """
        base, extra = divmod(radius + 1, len(self.widths))
        plain = len(self.widths) - extra
        ways = [(base,) * extra + (base - 1,) * plain, (base - 1,) * plain + (base,) * extra]
        return min(ways, key=lambda radii: self._cost(radii, row_count))

    def _cost(self, radii: Sequence[int], row_count: int) -> float:
        total = 0.0
        for width, reach in zip(self.widths, radii, strict=True):
            probes = sum(math.comb(width, flips) for flips in range(reach + 1))
            total += probes * (1 + _CANDIDATE_COST * row_count / (1 << width))
        return total

    def exact_cost(self, row_count: int, radius: int) -> float:
        """What an exact search for one hash costs in a list of random rows, in probes."""
        return self._cost(self.radii(radius, row_count), row_count)


def slots_for(row_count: int, bits: int, radius: int) -> Slots:
    """Choose the slots for a list.

    Short hashes are only searched exactly: as many slots as make probes and candidates together cheapest. Long ones are
    searched by likely keys far more often, and the narrower the slots, the likelier a copy shares a probed key: as many
    as keep the candidates few. For random rows both come to about `bits / log2(rows)`. A slot is never wider than the
    list can fill (tables would outgrow the rows) nor wider than 26 bits.
    """
    widest = min(WIDEST, max(8, math.ceil(math.log2(max(row_count, 2))) + 1))
    fewest = max(1, math.ceil(bits / widest))
    choices = [_even_slots(count, bits) for count in range(fewest, max(fewest, bits // 8) + 1)]
    if bits < _LONG_BITS:
        return min(choices, key=lambda slots: slots.exact_cost(row_count, radius))
    return max(choices, key=lambda slots: (-max(_likely_candidates(slots, row_count), _CANDIDATES), len(slots.widths)))


def _likely_candidates(slots: Slots, row_count: int) -> float:
    """How many rows likely probes meet in a list of random rows."""
    return sum(DEFAULT_PATTERNS * row_count / (1 << width) for width in slots.widths)


def _even_slots(count: int, bits: int) -> Slots:
    base, extra = divmod(bits, count)
    widths = [base + 1] * extra + [base] * (count - extra)
    offsets = [sum(widths[:i]) for i in range(count)]
    return Slots(tuple(offsets), tuple(widths))
