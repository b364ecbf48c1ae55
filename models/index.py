"""Exact search for the hashes within a Hamming distance of a query.

Multi-index hashing (Norouzi, Punjani, Fleet: Fast Exact Search in Hamming Space with Multi-Index Hashing, 2012), with
the general pigeonhole: cut the hash into slots and give slot i the radius t_i; if the t_i + 1 add up to at least R + 1,
a row within R of the query is within t_i of it in at least one slot. So probing every key within t_i of each slot's key
meets every match, and comparing what was met in full leaves only matches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.arrays import ArrayFolder, IndexCorrupt, open_arrays, save_arrays

Rows = NDArray[np.uint8]
"""(N, bits / 8) uint8: one hash a row, most significant bit first."""

Found = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Row numbers and their distances."""

FORMAT: Final = 1

LINEAR_ROWS: Final = 20_000
"""Below this many rows a scan of them all is as fast as probing, and needs no tables."""

_CHUNK_ROWS: Final = 32_768
"""A scan's working set per chunk stays within a core's second-level cache."""

_CANDIDATE_COST: Final = 2.0
"""A candidate costs about so many probes: it is fetched by number and then compared in full."""

_DTYPES: Final = {"rows": "|u1", "ids": "<u4", "starts": "<u4"}


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
    """Choose the slots for a list: as many as make probes and candidates together cheapest.

    For random rows that comes to about `bits / log2(rows)` slots. A slot is never wider than the list can fill (tables
    would outgrow the rows) nor wider than 26 bits.
    """
    widest = min(26, max(8, math.ceil(math.log2(max(row_count, 2))) + 1))
    fewest = max(1, math.ceil(bits / widest))
    choices = (_even_slots(count, bits) for count in range(fewest, max(fewest, bits // 8) + 1))
    return min(choices, key=lambda slots: _cost(slots, row_count, radius))


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
    flips: NDArray[np.uint32]
    bases: NDArray[np.int64]


@lru_cache(maxsize=64)
def _probes_for(slots: Slots, radius: int) -> _Probes:
    numbers: list[NDArray[np.intp]] = []
    flips: list[NDArray[np.uint32]] = []
    for number, (width, reach) in enumerate(zip(slots.widths, slots.radii(radius), strict=True)):
        patterns = [
            sum(1 << bit for bit in chosen)
            for count in range(min(reach, width) + 1)
            for chosen in combinations(range(width), count)
        ]
        flips.append(np.array(patterns, dtype=np.uint32))
        numbers.append(np.full(len(patterns), number, dtype=np.intp))
    sizes = [(1 << width) + 1 for width in slots.widths]
    starts = np.array([sum(sizes[:i]) for i in range(len(sizes))], dtype=np.int64)
    slot = np.concatenate(numbers)
    return _Probes(slot, np.concatenate(flips), starts[slot])


class HammingIndex:
    """An immutable list of hashes that answers which rows lie within a distance of a query: exactly, always.

    Safe to use from several threads. Build one with `build`, or open a saved one with `open`.
    """

    def __init__(self, rows: Rows, max_radius: int, tables: "SlotTables | None") -> None:
        self._rows = rows
        self._words: NDArray[np.uint64] = rows.view("<u8")
        self._tables = tables
        self.max_radius: Final = max_radius

    @classmethod
    def build(cls, rows: Rows, max_radius: int) -> Self:
        """Index (N, bits / 8) uint8 rows for look-ups up to `max_radius` (further ones are answered by scanning).

        Raises:
            ValueError: The rows are no such array, or their length is no multiple of 8 bytes.
        """
        if rows.ndim != 2 or rows.dtype != np.uint8 or rows.shape[1] == 0 or rows.shape[1] % 8:
            raise ValueError(f"hash rows are (N, multiple of 8) uint8, got {rows.shape} {rows.dtype}")
        if not 0 <= max_radius <= rows.shape[1] * 8:
            raise ValueError(f"a radius lies between 0 and {rows.shape[1] * 8} bits, got {max_radius}")
        rows = np.ascontiguousarray(rows)
        if len(rows) < LINEAR_ROWS:
            return cls(rows, max_radius, None)
        return cls(rows, max_radius, SlotTables.build(rows, slots_for(len(rows), rows.shape[1] * 8, max_radius)))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `save` wrote, by memory map.

        Raises:
            FileNotFoundError: There is no such folder.
            IndexCorrupt: The folder is not what was written.
        """
        return cls.from_folder(open_arrays(folder, _DTYPES), folder)

    @classmethod
    def from_folder(cls, opened: ArrayFolder, folder: Path) -> Self:
        """Take the index out of an opened folder, which may hold further arrays.

        Raises:
            IndexCorrupt: The arrays do not fit each other.
        """
        facts, rows = opened.facts, opened.arrays["rows"]
        bits, max_radius = facts.get("bits"), facts.get("max_radius")
        if facts.get("format") != FORMAT or not isinstance(bits, int) or not isinstance(max_radius, int):
            raise IndexCorrupt(folder, f"its format is {facts.get('format')!r}, this version reads {FORMAT}")
        if rows.ndim != 2 or bits <= 0 or bits % 64 or rows.shape[1] * 8 != bits or not 0 <= max_radius <= bits:
            raise IndexCorrupt(folder, f"its rows have the shape {rows.shape}, expected (N, {bits} / 8)")
        return cls(rows, max_radius, SlotTables.from_folder(opened, folder, bits))

    def save(self, folder: Path) -> None:
        """Write the index to a new folder of plain arrays and wait until it is on disk."""
        save_arrays(folder, self.arrays(), self.facts())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `save` writes, by file name."""
        tables = self._tables
        nothing = np.zeros(0, dtype="<u4")
        return {
            "rows": self._rows,
            "ids": tables.ids if tables else nothing.reshape(0, 0),
            "starts": tables.starts if tables else nothing,
        }

    def facts(self) -> dict[str, Any]:
        """What `save` writes into the manifest."""
        widths = list(self._tables.slots.widths) if self._tables else []
        return {"format": FORMAT, "bits": self.bits, "max_radius": self.max_radius, "widths": widths}

    @property
    def bits(self) -> int:
        """Length of a hash."""
        return int(self._rows.shape[1]) * 8

    @property
    def rows(self) -> Rows:
        """The hashes, read-only where they are memory-mapped."""
        return self._rows

    @property
    def slot_widths(self) -> tuple[int, ...]:
        """How the hash is cut; empty where the list is short enough to be scanned."""
        return self._tables.slots.widths if self._tables else ()

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, query: bytes, radius: int) -> Found:
        """Give (row numbers, distances) of every row with distance <= radius, the nearest first, then by row number.

        Raises:
            ValueError: The query has another length than the rows.
        """
        return self.search_all([query], radius)[0]

    def search_all(self, queries: Sequence[bytes], radius: int) -> list[Found]:
        """As `search` for each of some queries, in that order; together they cost little more than one.

        Raises:
            ValueError: A query has another length than the rows.
        """
        for query in queries:
            if len(query) * 8 != self.bits:
                raise ValueError(f"this index holds hashes of {self.bits} bits, the query has {len(query) * 8}")
        words: NDArray[np.uint64] = np.frombuffer(b"".join(queries), dtype="<u8").reshape(len(queries), -1)
        if self._tables is None or radius > self.max_radius:
            return [_nearest_first(*self._scan(query, radius)) for query in words]
        candidates, counts = self._tables.candidates(queries, radius, most=len(self._rows) // 4)
        found = []
        # `take` fetches rows in a sixth of the time of `rows[numbers]`.
        fetched = self._words.take(candidates, axis=0)
        begin = 0
        for query, count in zip(words, counts, strict=True):
            if count is None:
                found.append(_nearest_first(*self._scan(query, radius)))
                continue
            rows, numbers = fetched[begin : begin + count], candidates[begin : begin + count]
            begin += count
            found.append(_nearest_first(*_compare(query, radius, rows, numbers)))
        return found

    def _scan(self, words: NDArray[np.uint64], radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # The first half of the words rules nearly every row out already: a partial distance never shrinks.
        half = (len(words) + 1) // 2
        numbers, distances = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for start in range(0, len(self._words), _CHUNK_ROWS):
            chunk = self._words[start : start + _CHUNK_ROWS]
            partial = np.bitwise_count(chunk[:, 0] ^ words[0]).astype(np.uint16)
            for column in range(1, half):
                partial += np.bitwise_count(chunk[:, column] ^ words[column])
            alive = np.flatnonzero(partial <= radius)
            total = partial[alive].astype(np.int64)
            for column in range(half, len(words)):
                total += np.bitwise_count(chunk[alive, column] ^ words[column])
            near = total <= radius
            numbers.append(alive[near] + start)
            distances.append(total[near])
        return np.concatenate(numbers), np.concatenate(distances)


def _compare(
    query: NDArray[np.uint64], radius: int, rows: NDArray[np.uint64], numbers: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts = np.bitwise_count(rows ^ query)
    distances = counts[:, 0].astype(np.uint16)
    for column in range(1, counts.shape[1]):  # a third of the time of a sum over so short an axis
        distances += counts[:, column]
    near = np.flatnonzero(distances <= radius)
    if len(near) == 0:  # so it is for nearly every frame
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found, first = np.unique(numbers[near], return_index=True)
    return found.astype(np.int64), distances[near[first]].astype(np.int64)


def _nearest_first(numbers: NDArray[np.int64], distances: NDArray[np.int64]) -> Found:
    order = np.lexsort((numbers, distances)) if len(numbers) > 1 else slice(None)
    return numbers[order], distances[order]


class SlotTables:
    """Per slot the row numbers sorted by their key, and where each key's run of them starts.

    `ids` is (slots, N) uint32. `starts` joins the slots' tables of 2 ** width + 1 entries each; its entries count from
    the start of the flattened `ids`.
    """

    def __init__(self, slots: Slots, ids: NDArray[np.uint32], starts: NDArray[np.uint32]) -> None:
        self.slots: Final = slots
        self.ids: Final = ids
        self.starts: Final = starts
        self._flat_ids = ids.reshape(-1)

    @classmethod
    def build(cls, rows: Rows, slots: Slots) -> Self:
        """Sort the rows by each slot's key."""
        words = rows.view("<u8")
        ids = np.empty((len(slots.widths), len(rows)), dtype="<u4")
        starts: list[NDArray[np.uint32]] = []
        for number, (offset, width) in enumerate(zip(slots.offsets, slots.widths, strict=True)):
            keys = _keys(words, offset, width)
            ids[number] = np.argsort(keys, kind="stable")
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
        if not isinstance(widths, list) or not all(isinstance(width, int) and 0 < width <= 32 for width in widths):
            raise IndexCorrupt(folder, "its slot widths are no list of whole numbers")
        if not widths:
            return None
        row_count = len(opened.arrays["rows"])
        sizes = sum((1 << width) + 1 for width in widths)
        if sum(widths) != bits or ids.shape != (len(widths), row_count) or starts.shape != (sizes,):
            raise IndexCorrupt(folder, f"its tables of shape {ids.shape} and {starts.shape} do not fit its rows")
        offsets = tuple(sum(widths[:i]) for i in range(len(widths)))
        return cls(Slots(offsets, tuple(widths)), ids, starts)

    def candidates(
        self, queries: Sequence[bytes], radius: int, *, most: int
    ) -> tuple[NDArray[np.uint32], list[int | None]]:
        """Give the rows that share a probed key with each query (with repeats), all in one array, and how many of each.

        A query with more than `most` has None, and no rows in the array: lists with large clusters of like hashes can
        fill one key with most of their rows, and a scan is cheaper then.
        """
        probes = _probes_for(self.slots, radius)
        keys = np.array([self._keys_of(query) for query in queries], dtype=np.uint32)
        places = (keys.take(probes.slot, axis=1) ^ probes.flips) + probes.bases
        first = self.starts.take(places)
        counts = (self.starts.take(places + 1) - first).astype(np.int64)
        totals: list[int | None] = counts.sum(axis=1).tolist()
        for number, total in enumerate(totals):
            if total is not None and total > most:
                totals[number] = None
                counts[number] = 0
        hit = np.flatnonzero(counts)
        counts = counts.ravel()[hit]
        # A run of places first..first+count-1 per probe, all in one array: running number minus the run's own start.
        run_ends = np.cumsum(counts)
        slot = probes.slot.take(hit % len(probes.slot))
        shift = first.ravel()[hit] + slot * self.ids.shape[1] - (run_ends - counts)
        total_count = int(run_ends[-1]) if len(run_ends) else 0
        return self._flat_ids.take(np.repeat(shift, counts) + np.arange(total_count)), totals

    def _keys_of(self, query: bytes) -> list[int]:
        # One Python integer is cut faster than an array of four words.
        bits = int.from_bytes(query, "little")
        slots = zip(self.slots.offsets, self.slots.widths, strict=True)
        return [bits >> offset & (1 << width) - 1 for offset, width in slots]


def _keys(words: NDArray[np.uint64], offset: int, width: int) -> NDArray[np.uint32]:
    word, shift = offset >> 6, np.uint64(offset & 63)
    values = words[..., word] >> shift
    if (offset & 63) + width > 64:
        values = values | (words[..., word + 1] << np.uint64(64 - (offset & 63)))
    return np.asarray(values & np.uint64((1 << width) - 1)).astype(np.uint32)
