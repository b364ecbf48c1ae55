"""Tables by which a multi-index finds the rows that share a key with a query in at least one slot of the hash.

The general pigeonhole (Norouzi, Punjani, Fleet: Fast Exact Search in Hamming Space with Multi-Index Hashing, 2012): cut
the hash into slots and give slot i the radius t_i; if the t_i + 1 add up to at least R + 1, a row within R of the query
is within t_i of it in at least one slot.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from models.arrays import ArrayFolder, IndexCorrupt
from models.soft_probes import DEFAULT_PATTERNS, flip_masks

Rows = NDArray[np.uint8]
"""(N, bits / 8) uint8: one hash a row, most significant bit first."""

_MOST_PER_KEY: Final = 2048
"""Rows taken of one key by a likely probe: near twins share their other keys too, and are met there."""

_MOST_PER_QUERY: Final = 32_768
"""Rows compared per query by likely probes. Random lists meet about 700."""

_WIDEST: Final = 26
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

    def radii(self, radius: int) -> tuple[int, ...]:
        """The radius of each slot, -1 where it needs no probe; wide slots, whose probes are dear, get the smaller."""
        base, extra = divmod(radius + 1, len(self.widths))
        plain = len(self.widths) - extra
        return tuple(base - 1 if i < plain else base for i in range(len(self.widths)))


def slots_for(row_count: int, bits: int, radius: int) -> Slots:
    """Choose the slots for a list.

    Short hashes are only searched exactly: as many slots as make probes and candidates together cheapest. Long ones are
    searched by likely keys far more often, and the narrower the slots, the likelier a copy shares a probed key: as many
    as keep the candidates few. For random rows both come to about `bits / log2(rows)`. A slot is never wider than the
    list can fill (tables would outgrow the rows) nor wider than 26 bits.
    """
    widest = min(_WIDEST, max(8, math.ceil(math.log2(max(row_count, 2))) + 1))
    fewest = max(1, math.ceil(bits / widest))
    choices = [_even_slots(count, bits) for count in range(fewest, max(fewest, bits // 8) + 1)]
    if bits < _LONG_BITS:
        return min(choices, key=lambda slots: _cost(slots, row_count, radius))
    return max(choices, key=lambda slots: (-max(_likely_candidates(slots, row_count), _CANDIDATES), len(slots.widths)))


def _likely_candidates(slots: Slots, row_count: int) -> float:
    """How many rows likely probes meet in a list of random rows."""
    return sum(DEFAULT_PATTERNS * row_count / (1 << width) for width in slots.widths)


def _even_slots(count: int, bits: int) -> Slots:
    base, extra = divmod(bits, count)
    widths = [base + 1] * extra + [base] * (count - extra)
    offsets = [sum(widths[:i]) for i in range(count)]
    return Slots(tuple(offsets), tuple(widths))


def _cost(slots: Slots, row_count: int, radius: int) -> float:
    total = 0.0
    for width, reach in zip(slots.widths, slots.radii(radius), strict=True):
        probes = sum(math.comb(width, flips) for flips in range(reach + 1))
        total += probes * (1 + _CANDIDATE_COST * row_count / (1 << width))
    return total


@dataclass(frozen=True, slots=True)
class _Probes:
    # One entry per probe, over all slots: which slot's key to take, which bits of it to flip.
    # `bases` is where that slot's table begins.
    slot: NDArray[np.intp]
    flips: NDArray[np.int64]
    bases: NDArray[np.int64]


@lru_cache(maxsize=64)
def _probes_for(slots: Slots, radius: int) -> _Probes:
    numbers: list[NDArray[np.intp]] = []
    flips: list[NDArray[np.int64]] = []
    for number, (width, reach) in enumerate(zip(slots.widths, slots.radii(radius), strict=True)):
        patterns = [
            sum(1 << bit for bit in chosen)
            for count in range(min(reach, width) + 1)
            for chosen in combinations(range(width), count)
        ]
        flips.append(np.array(patterns, dtype=np.int64))
        numbers.append(np.full(len(patterns), number, dtype=np.intp))
    sizes = [(1 << width) + 1 for width in slots.widths]
    starts = np.array([sum(sizes[:i]) for i in range(len(sizes))], dtype=np.int64)
    slot = np.concatenate(numbers)
    return _Probes(slot, np.concatenate(flips), starts[slot])


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows that share a probed key with a query, with repeats: `query` and `row` pair up.

    The queries in `overfull` met more than was asked for and have none here. `cut` rows were left out.
    """

    query: NDArray[np.intp]
    row: NDArray[np.uint32]
    overfull: NDArray[np.intp]
    cut: int = 0


class SlotTables:
    """Per slot the row numbers sorted by their key, and where each key's run of them starts.

    `ids` is (slots, N) uint32. `starts` joins the slots' tables of 2 ** width + 1 entries each; its entries count from
    the start of the slot's row of `ids`.
    """

    def __init__(self, slots: Slots, ids: NDArray[np.uint32], starts: NDArray[np.uint32]) -> None:
        self.slots: Final = slots
        self.ids: Final = ids
        self.starts: Final = starts
        self._flat_ids = ids.reshape(-1)
        sizes = [(1 << width) + 1 for width in slots.widths]
        self._powers = np.zeros((sum(slots.widths), len(slots.widths)))
        for number, (offset, width) in enumerate(zip(slots.offsets, slots.widths, strict=True)):
            self._powers[offset : offset + width, number] = np.ldexp(1.0, np.arange(width))
        self._bases = np.array([sum(sizes[:i]) for i in range(len(sizes))], dtype=np.int64)

    @classmethod
    def build(cls, rows: Rows, slots: Slots) -> Self:
        """Sort the rows by each slot's key."""
        words = rows.view("<u8")
        ids = np.empty((len(slots.widths), len(rows)), dtype="<u4")
        starts: list[NDArray[np.uint32]] = []
        for number, (offset, width) in enumerate(zip(slots.offsets, slots.widths, strict=True)):
            keys = _keys(words, offset, width)
            # Keys and row numbers in one word: numpy sorts words several times faster than it finds an order.
            sorted_words = keys.astype(np.uint64) << np.uint64(32) | np.arange(len(rows), dtype=np.uint64)
            sorted_words.sort()
            ids[number] = sorted_words.astype(np.uint32)
            table = np.empty((1 << width) + 1, dtype="<u4")
            table[0] = 0
            np.cumsum(np.bincount(keys, minlength=1 << width), out=table[1:])
            starts.append(table)
        return cls(slots, ids, np.concatenate(starts))

    @classmethod
    def from_folder(cls, opened: ArrayFolder, folder: Path, bits: int) -> Self | None:
        """Take the tables out of an opened folder; None where the list is short enough to be scanned.

        Raises:
            IndexCorrupt: The tables do not fit the rows.
        """
        widths, ids, starts = opened.facts.get("widths"), opened.arrays["ids"], opened.arrays["starts"]
        if not isinstance(widths, list) or not all(isinstance(width, int) and 0 < width <= _WIDEST for width in widths):
            raise IndexCorrupt(folder, "its slot widths are no list of whole numbers")
        if not widths:
            return None
        row_count = len(opened.arrays["rows"])
        sizes = sum((1 << width) + 1 for width in widths)
        if sum(widths) != bits or ids.shape != (len(widths), row_count) or starts.shape != (sizes,):
            raise IndexCorrupt(folder, f"its tables of shape {ids.shape} and {starts.shape} do not fit its rows")
        offsets = tuple(sum(widths[:i]) for i in range(len(widths)))
        return cls(Slots(offsets, tuple(widths)), ids, starts)

    def is_sound(self) -> bool:
        """Tell whether all that the tables name are rows; reads them all."""
        row_count, begin = self.ids.shape[1], 0
        for ids, width in zip(self.ids, self.slots.widths, strict=True):
            starts = self.starts[begin : begin + (1 << width) + 1]
            begin += len(starts)
            if starts[0] != 0 or starts[-1] != row_count or np.any(starts[1:] < starts[:-1]):
                return False
            if row_count and ids.max() >= row_count:
                return False
        return True

    def keys(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Cut (V, words) little-endian words into (V, slots) keys."""
        # One product with powers of two, exact in floats, instead of four operations for each slot.
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        return np.asarray((bits.astype(np.float64) @ self._powers).astype(np.int64))

    def candidates(self, words: NDArray[np.uint64], radius: int, *, most: int) -> Candidates:
        """Give every row that lies within `radius` of a query, among others, for (V, words) queries.

        A query that meets more than `most` is `overfull` and has none: lists with large clusters of like hashes can
        fill one key with most of their rows, and a scan is cheaper then.
        """
        probes = _probes_for(self.slots, radius)
        places = self.keys(words).take(probes.slot, axis=1)
        places ^= probes.flips
        places += probes.bases
        first, counts = self._runs(places)
        overfull = np.flatnonzero(counts.sum(axis=1) > most)
        counts[overfull] = 0
        return self._met(first, counts, probes.slot, overfull=overfull)

    def same_candidates(self, words: NDArray[np.uint64]) -> Candidates:
        """Give every row that equals a query, among others: by the slot in which fewest rows share its key."""
        first, counts = self._runs(self.keys(words) + self._bases)
        queries = np.arange(len(words))
        slots = np.argmin(counts, axis=1)
        fewest = counts[queries, slots]
        shift = first[queries, slots] + slots * self.ids.shape[1] - (np.cumsum(fewest) - fewest)
        rows = self._flat_ids.take(np.repeat(shift, fewest) + np.arange(int(fewest.sum())))
        return Candidates(np.repeat(queries, fewest), rows, np.zeros(0, np.intp))

    def likely_candidates(
        self, words: NDArray[np.uint64], deviations: NDArray[np.float32], patterns: int
    ) -> Candidates:
        """Give the rows that share one of the `patterns` likeliest keys of a slot with a query.

        What one key or one query meets beyond a bound is left out and counted, the likeliest keys first.
        """
        places = self.keys(words)[:, :, None] ^ flip_masks(deviations, self.slots.widths, patterns)
        views, slots, count = places.shape
        places += self._bases[:, None]
        first, counts = self._runs(places.reshape(views, slots * count))
        met = int(counts.sum())
        if met > _MOST_PER_KEY:  # else no bound can be touched
            np.minimum(counts, _MOST_PER_KEY, out=counts)
            if np.any(counts.sum(axis=1) > _MOST_PER_QUERY):
                by_rank = counts.reshape(views, slots, count).transpose(0, 2, 1).reshape(views, -1)
                room = np.maximum(_MOST_PER_QUERY - (np.cumsum(by_rank, axis=1) - by_rank), 0)
                kept = np.minimum(by_rank, room).reshape(views, count, slots).transpose(0, 2, 1)
                counts = np.ascontiguousarray(kept).reshape(views, -1)
        return self._met(first, counts, np.repeat(np.arange(slots), count), cut=met - int(counts.sum()))

    def _runs(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each probed key's run of rows starts in its slot, and how long it is."""
        first = self.starts.take(places)
        counts = self.starts.take(places + 1) - first
        return first.astype(np.int64), counts.astype(np.int64)

    def _met(
        self,
        first: NDArray[np.int64],
        counts: NDArray[np.int64],
        slot: NDArray[np.intp],
        *,
        overfull: NDArray[np.intp] | None = None,
        cut: int = 0,
    ) -> Candidates:
        probe_count = counts.shape[1]
        hit = np.flatnonzero(counts)
        counts = counts.ravel()[hit]
        # A run of places first..first+count-1 per probe, all in one array: running number minus the run's own start.
        run_ends = np.cumsum(counts)
        shift = first.ravel()[hit] + slot.take(hit % probe_count) * self.ids.shape[1] - (run_ends - counts)
        total = int(run_ends[-1]) if len(run_ends) else 0
        rows = self._flat_ids.take(np.repeat(shift, counts) + np.arange(total))
        nobody = np.zeros(0, np.intp) if overfull is None else overfull
        return Candidates(np.repeat(hit // probe_count, counts), rows, nobody, cut)


def _keys(words: NDArray[np.uint64], offset: int, width: int) -> NDArray[np.uint32]:
    word, shift = offset >> 6, np.uint64(offset & 63)
    values = words[..., word] >> shift
    if (offset & 63) + width > 64:
        values = values | (words[..., word + 1] << np.uint64(64 - (offset & 63)))
    return np.asarray(values & np.uint64((1 << width) - 1)).astype(np.uint32)
