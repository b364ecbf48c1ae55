"""Tables by which a multi-index finds the rows that share a key with a query in at least one slot of the hash.

Which slots, and how far each has to be probed, is for `models.slots`.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from models.arrays import ArrayFolder, IndexCorrupt
from models.slots import WIDEST, Slots
from models.soft_probes import flip_masks, flip_patterns

Rows = NDArray[np.uint8]
"""(N, bits / 8) uint8: one hash a row, most significant bit first."""

_MOST_PER_KEY: Final = 2048
"""Rows taken of one key by a likely probe: near twins share their other keys too, and are met there."""

_MOST_PER_QUERY: Final = 32_768
"""Rows compared per query by likely probes. Random lists meet about 700."""


_NOBODY: Final = np.zeros(0, np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class _Probes:
    # One entry per probe of an exact search, over all slots: which slot's key to take, which bits of it to flip.
    # `bases` is where that slot's table begins.
    slot: NDArray[np.intp]
    flips: NDArray[np.int64]
    bases: NDArray[np.int64]


@lru_cache(maxsize=64)
def _probes_for(slots: Slots, radius: int, row_count: int) -> _Probes:
    numbers: list[NDArray[np.intp]] = []
    flips: list[NDArray[np.int64]] = []
    for number, (width, reach) in enumerate(zip(slots.widths, slots.radii(radius, row_count), strict=True)):
        patterns = [
            sum(1 << bit for bit in chosen)
            for count in range(min(reach, width) + 1)
            for chosen in combinations(range(width), count)
        ]
        flips.append(np.array(patterns, dtype=np.int64))
        numbers.append(np.full(len(patterns), number, dtype=np.intp))
    slot = np.concatenate(numbers)
    return _Probes(slot, np.concatenate(flips), slots.bases[slot])


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    # How all probes of one look-up lie in a row: a line of all likely probes for each of the `others`, then for each of
    # the `exact` queries a line of the likely probes that are `far`, then for each of these one of the exact probes.
    # `ends` is where each line ends, `queries` whose it is; `begins` where the numbers of each probe's slot begin.
    others: NDArray[np.intp]
    exact: NDArray[np.intp]
    far: NDArray[np.intp]
    begins: NDArray[np.int64]
    ends: NDArray[np.intp]
    queries: NDArray[np.intp]


@lru_cache(maxsize=32)
def _layout(slots: Slots, row_count: int, patterns: int, radius: int, exact: bytes) -> _Layout:
    """The layout for queries of which the bytes of `exact` tell, one by one, whether every near row is wanted."""
    is_exact = np.frombuffer(exact, dtype=np.bool_)
    others, asked = np.flatnonzero(~is_exact), np.flatnonzero(is_exact)
    weak = flip_patterns(patterns, min(slots.widths))
    # What an exact search probes anyway is not probed twice; the likeliest come first.
    is_far = np.count_nonzero(weak, axis=1)[:, None] > np.array(slots.radii(radius, row_count))
    pattern, far_slot = np.nonzero(is_far)
    lines = [np.repeat(np.arange(len(slots.widths)), len(weak))] * len(others) + [far_slot] * len(asked)
    if len(asked):
        lines += [_probes_for(slots, radius, row_count).slot] * len(asked)
    return _Layout(
        others=others,
        exact=asked,
        far=far_slot * len(weak) + pattern,
        begins=np.concatenate(lines).astype(np.int64) * row_count,
        ends=np.cumsum([len(line) for line in lines]),
        queries=np.concatenate([others, asked, asked]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows that share a probed key with a query, with repeats.

    `row` joins runs of so many rows as `met` says, one for each of `queries`, in which one may be named twice. The
    queries in `overfull` met more than was asked for and have none here. `cut` rows were left out.
    """

    row: NDArray[np.uint32]
    queries: NDArray[np.intp]
    met: NDArray[np.int64]
    overfull: NDArray[np.intp]
    cut: int = 0

    def query_at(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Whose the rows at some places are."""
        return self.queries.take(np.searchsorted(np.cumsum(self.met), places, side="right"))


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
        # A slot lies in one word, or its upper bits lie in the next: those of the others are masked away.
        offsets, widths = np.array(slots.offsets), np.array(slots.widths)
        self._words = offsets >> 6
        self._shifts = (offsets & 63).astype(np.uint64)
        self._masks = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
        is_split = (offsets & 63) + widths > 64
        self._next_words = np.where(is_split, self._words + 1, 0)
        self._next_shifts = np.where(is_split, 64 - (offsets & 63), 0).astype(np.uint64)
        self._next_masks = np.where(is_split, self._masks, np.uint64(0))
        self._bases = slots.bases
        self._begins = np.arange(len(slots.widths), dtype=np.int64) * ids.shape[1]

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
        if not isinstance(widths, list) or not all(isinstance(width, int) and 0 < width <= WIDEST for width in widths):
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
        keys = words.take(self._words, axis=1)
        keys >>= self._shifts
        beyond = words.take(self._next_words, axis=1)
        beyond <<= self._next_shifts
        beyond &= self._next_masks
        keys |= beyond
        keys &= self._masks
        return keys.view(np.int64)

    def candidates(self, words: NDArray[np.uint64], radius: int, *, most: int) -> Candidates:
        """Give every row that lies within `radius` of a query, among others, for (V, words) queries.

        A query that meets more than `most` is `overfull` and has none: lists with large clusters of like hashes can
        fill one key with most of their rows, and a scan is cheaper then.
        """
        probes = _probes_for(self.slots, radius, self.ids.shape[1])
        places = self._exact_places(self.keys(words), probes)
        first, counts = self._runs(places)
        overfull = np.flatnonzero(counts.sum(axis=1) > most)
        counts[overfull] = 0
        runs = _Runs.of(counts.reshape(-1), np.arange(1, len(words) + 1) * len(probes.slot))
        begins = np.broadcast_to(self._begins[probes.slot], counts.shape).reshape(-1)
        return self._met(runs, first.reshape(-1), begins, np.arange(len(words)), overfull=overfull)

    def same_candidates(self, words: NDArray[np.uint64]) -> Candidates:
        """Give every row that equals a query, among others: by the slot in which fewest rows share its key."""
        places = self.keys(words) + self._bases
        first = self.starts.take(places).astype(np.int64)
        counts = self.starts.take(places + 1) - first
        queries = np.arange(len(words))
        slots = np.argmin(counts, axis=1)
        fewest = counts[queries, slots]
        shift = first[queries, slots] + self._begins[slots] - (np.cumsum(fewest) - fewest)
        rows = self._flat_ids.take(np.repeat(shift, fewest) + np.arange(int(fewest.sum())))
        return Candidates(rows, queries, fewest.astype(np.int64), _NOBODY)

    def likely_candidates(
        self,
        words: NDArray[np.uint64],
        deviations: NDArray[np.float32],
        patterns: int,
        *,
        exact: NDArray[np.bool_],
        radius: int,
        most: int,
    ) -> Candidates:
        """Give the rows that share one of the `patterns` likeliest keys of a slot with a query.

        What one key or one query meets beyond a bound is left out and counted, the likeliest keys first. The queries
        flagged in `exact` get every row within `radius` too, as from `candidates`, in the same pass.
        """
        keys, likely = self.keys(words), flip_masks(deviations, self.slots.widths, patterns)
        likely ^= keys[:, :, None]
        likely += self._bases[:, None]
        layout = _layout(self.slots, self.ids.shape[1], patterns, radius, exact.tobytes())
        first, counts = self._runs(self._places(keys, likely.reshape(len(likely), -1), layout, radius))
        runs = _Runs.of(counts, layout.ends)
        lines, asked = len(layout.others), layout.exact
        is_overfull = runs.met[lines + len(asked) :] > most
        if is_overfull.any():  # then the likely probes that were left out are needed after all
            rest = exact.copy()
            rest[asked[is_overfull]] = False
            found = self.likely_candidates(words, deviations, patterns, exact=rest, radius=radius, most=most)
            return replace(found, overfull=asked[is_overfull])
        cut = 0
        if runs.longest > _MOST_PER_KEY or runs.met[: lines + len(asked)].max() > _MOST_PER_QUERY:
            ends = layout.ends[: lines + len(asked)].tolist()
            for number, (begin, end) in enumerate(pairwise([0, *ends])):
                cut += _bound(counts[begin:end], len(self.slots.widths) if number < lines else 1)
            runs = _Runs.of(counts, layout.ends)
        return self._met(runs, first, layout.begins, layout.queries, cut=cut)

    def _places(
        self, keys: NDArray[np.int64], likely: NDArray[np.int64], layout: _Layout, radius: int
    ) -> NDArray[np.int64]:
        """The places in `starts` of all probes, in their layout; `likely` are those of (queries, likely probes)."""
        if len(layout.exact) == 0:
            return likely.reshape(-1)
        places = np.empty(len(layout.begins), dtype=np.int64)
        end = len(layout.others) * likely.shape[1]
        likely.take(layout.others, axis=0, out=places[:end].reshape(-1, likely.shape[1]), mode="clip")
        far = likely.take(layout.exact, axis=0).take(layout.far, axis=1)
        places[end : end + far.size] = far.reshape(-1)
        probes = _probes_for(self.slots, radius, self.ids.shape[1])
        places[end + far.size :] = self._exact_places(keys.take(layout.exact, axis=0), probes).reshape(-1)
        return places

    def _exact_places(self, keys: NDArray[np.int64], probes: _Probes) -> NDArray[np.int64]:
        places = keys.take(probes.slot, axis=1)
        places ^= probes.flips
        places += probes.bases
        return places

    def _runs(self, places: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Where each probed key's run of rows starts in its slot, and how long it is. `places` are spoilt."""
        # All places exist: with nothing to raise (`clip`), a tenth to a sixth of the time of a fetch is saved.
        first = self.starts.take(places, mode="clip")
        places += 1
        counts = self.starts.take(places, mode="clip")
        counts -= first
        return first, counts

    def _met(
        self,
        runs: "_Runs",
        first: NDArray[np.uint32],
        begins: NDArray[np.int64],
        queries: NDArray[np.intp],
        *,
        overfull: NDArray[np.intp] | None = None,
        cut: int = 0,
    ) -> Candidates:
        # A run of places first..first+count-1 per probe, all in one array: steps of 1 but for those to the next run,
        # added up. `np.repeat` takes twice as long, as processors cannot foresee how long the runs are.
        jumps = (begins + first).take(runs.probe)
        last = jumps + runs.count
        last -= 1
        jumps[1:] -= last[:-1]
        places = np.ones(runs.total, dtype=np.int64)
        places[runs.before] = jumps
        np.cumsum(places, out=places)
        nobody = _NOBODY if overfull is None else overfull
        return Candidates(self._flat_ids.take(places, mode="clip"), queries, runs.met, nobody, cut)


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    # The probes that meet rows, how many each meets, and how many those before it; how many each line of probes meets,
    # and all of them.
    probe: NDArray[np.intp]
    count: NDArray[np.int64]
    before: NDArray[np.int64]
    met: NDArray[np.int64]
    total: int

    @classmethod
    def of(cls, counts: NDArray[np.uint32], ends: NDArray[np.intp]) -> Self:
        probe = (counts != 0).nonzero()[0]  # of booleans it is several times faster
        count = counts.take(probe).astype(np.int64)
        before = np.zeros(len(count) + 1, dtype=np.int64)
        np.cumsum(count, out=before[1:])
        met = before.take(probe.searchsorted(ends))
        met[1:] -= met[:-1].copy()
        return cls(probe, count, before[:-1], met, int(before[-1]))

    @property
    def longest(self) -> int:
        return int(self.count.max(initial=0))


def _bound(counts: NDArray[np.uint32], slots: int) -> int:
    """Hold the runs of a line of likely probes, (slots x patterns), to their bounds; return how many rows that cuts."""
    met = int(counts.sum(dtype=np.int64))
    np.minimum(counts, _MOST_PER_KEY, out=counts)
    if counts.sum(dtype=np.int64) > _MOST_PER_QUERY:
        by_rank = counts.reshape(slots, -1).T.reshape(-1).astype(np.int64)
        room = np.maximum(_MOST_PER_QUERY - (np.cumsum(by_rank) - by_rank), 0)
        counts[:] = np.minimum(by_rank, room).reshape(-1, slots).T.reshape(-1)
    return met - int(counts.sum(dtype=np.int64))


def _keys(words: NDArray[np.uint64], offset: int, width: int) -> NDArray[np.uint32]:
    word, shift = offset >> 6, np.uint64(offset & 63)
    values = words[..., word] >> shift
    if (offset & 63) + width > 64:
        values = values | (words[..., word + 1] << np.uint64(64 - (offset & 63)))
    return np.asarray(values & np.uint64((1 << width) - 1)).astype(np.uint32)
