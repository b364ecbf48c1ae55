"""Exact and soft search for the hashes within a Hamming distance of queries.

Multi-index hashing (see `models.slot_tables`): probing every key within a slot's radius of each slot's key meets every
match, and comparing what was met in full leaves only matches. Short lists are scanned.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.arrays import ArrayFolder, IndexCorrupt, open_arrays, save_arrays
from models.hits import MOST_HITS, Hits, is_among
from models.slot_tables import Candidates, Rows, SlotTables
from models.slots import slots_for
from models.soft_probes import patterns_for

Found = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Row numbers and their distances."""

_Met = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Queries, rows and distances, in any order."""

FORMAT: Final = 1

LINEAR_ROWS: Final = 3_000
"""Below this many rows a scan of them all is as fast as probing, and needs no tables."""

_SCANNED_AT_ONCE: Final = 65_536
"""Distances computed at once where several queries scan: they stay within a core's second-level cache."""

_HITS_WAITING: Final = 262_144
"""Hits of a scan held before they are cut down to the nearest."""

_ADD_BYTES: Final = np.uint32(0x01010101)
_HIGHEST_BYTE: Final = np.uint32(24)

_NO_ROWS: Final = np.zeros(0, np.int64)

_DTYPES: Final = {"rows": "|u1", "ids": "<u4", "starts": "<u4"}


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

    def is_sound(self) -> bool:
        """Tell whether the tables name rows and nothing else; reads them all."""
        return self._tables is None or self._tables.is_sound()

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
        words = self._words_of(queries)
        met = self._exact(words, radius)
        if len(met[0]) == 0:
            return [(met[1], met[2])] * len(queries)
        return [_nearest_first(*_unique_rows(met[1][met[0] == i], met[2][met[0] == i])) for i in range(len(queries))]

    def search_nearest(
        self, queries: Sequence[bytes], radius: int, without: NDArray[np.int64] | None = None
    ) -> list[Found]:
        """As `search_all`, but of each query at most the nearest `hits.MOST_HITS`: however a list is made, it is quick.

        Rows `without`, ascending, do not count.

        Raises:
            ValueError: A query has another length than the rows.
        """
        words = self._words_of(queries)
        search = self._exact_nearest if radius <= self.max_radius else self._scan_nearest
        met = search(words, radius, without)
        ends = np.searchsorted(met.query, np.arange(len(queries) + 1))
        return [(met.row[begin:end], met.distance[begin:end]) for begin, end in pairwise(ends.tolist())]

    def search_soft(
        self,
        values: NDArray[np.uint8],
        deviations: NDArray[np.float32],
        radius: int,
        *,
        exact: NDArray[np.bool_],
        patterns: int | None = None,
        without: NDArray[np.int64] | None = None,
    ) -> Hits:
        """Look up all views of a sample at once, further than exact probes can: the likeliest keys of each slot.

        `values` is (V, bits / 8) uint8; `deviations` (V, bits), how far each coefficient lies from the view's median,
        in the order of `np.unpackbits(values, axis=1)`. Every hit lies within `radius`. Of the views flagged in `exact`
        all rows within the smaller of `radius` and `max_radius` are found, of the rest those that the probes meet
        (nearly all near ones; a list short enough to be scanned is searched exactly). `patterns` keys are probed per
        slot, by the list's length without it. At most `hits.MOST_HITS` rows are given per view, the nearest. Rows
        `without`, ascending, do not count.

        Raises:
            ValueError: The arrays do not fit each other or the index.
        """
        views = len(values)
        shapes = (values.shape, deviations.shape, exact.shape)
        if shapes != ((views, self.bits // 8), (views, self.bits), (views,)) or values.dtype != np.uint8:
            raise ValueError(f"an index of {self.bits} bits was asked with arrays of the shapes {shapes}")
        if views == 0:
            return Hits.none()
        words = np.ascontiguousarray(values).view("<u8")
        if self._tables is None:
            return Hits.of(*_without(self._scan_all(words, radius), without))  # short, so the hits are few
        found = self._tables.likely_candidates(
            words,
            deviations,
            patterns or patterns_for(len(self)),
            exact=exact,
            radius=min(radius, self.max_radius),
            most=len(self._rows) // 4,
        )
        met = Hits.of(*_without(self._compared(words, found, radius), without), found.cut)
        if len(found.overfull) == 0:
            return met
        scanned = self._scan_nearest(words[found.overfull], min(radius, self.max_radius), without)
        return Hits.joined([met, Hits(found.overfull[scanned.query], scanned.row, scanned.distance, scanned.cut)])

    def same(self, values: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Give the numbers of all rows that equal one of the (V, bits / 8) uint8 `values`, ascending."""
        words = np.ascontiguousarray(values).view("<u8")
        if self._tables is None:
            return np.unique(self._scan_all(words, 0)[1])
        found = self._tables.same_candidates(words)
        return np.unique(self._compared(words, found, 0)[1])

    def _words_of(self, queries: Sequence[bytes]) -> NDArray[np.uint64]:
        for query in queries:
            if len(query) * 8 != self.bits:
                raise ValueError(f"this index holds hashes of {self.bits} bits, the query has {len(query) * 8}")
        return np.frombuffer(b"".join(queries), dtype="<u8").reshape(len(queries), self.bits // 64)

    def _exact_nearest(self, words: NDArray[np.uint64], radius: int, without: NDArray[np.int64] | None) -> Hits:
        """The rows within the radius of each query, which is at most `max_radius`: all, or the nearest `MOST_HITS`."""
        if self._tables is None:
            return self._scan_nearest(words, radius, without)
        found = self._tables.candidates(words, radius, most=len(self._rows) // 4)
        met = Hits.of(*_without(self._compared(words, found, radius), without))
        if len(found.overfull) == 0:
            return met
        scanned = self._scan_nearest(words[found.overfull], radius, without)
        return Hits.joined([met, Hits(found.overfull[scanned.query], scanned.row, scanned.distance, scanned.cut)])

    def _exact(self, words: NDArray[np.uint64], radius: int) -> _Met:
        """Every row within the radius of each query, with repeats."""
        if self._tables is None or radius > self.max_radius:
            return self._scan_all(words, radius)
        found = self._tables.candidates(words, radius, most=len(self._rows) // 4)
        met = self._compared(words, found, radius)
        if len(found.overfull) == 0:
            return met
        query, row, distance = self._scan_all(words[found.overfull], radius)
        parts = zip(met, (found.overfull[query], row, distance), strict=True)
        query, row, distance = (np.concatenate(part) for part in parts)
        return query, row, distance

    def _compared(self, words: NDArray[np.uint64], found: Candidates, radius: int) -> _Met:
        # `take` fetches rows in a sixth of the time of `rows[numbers]`. All of them exist (see `SlotTables._runs`).
        different = self._words.take(found.row, axis=0, mode="clip")
        different ^= words.take(found.queries, axis=0).repeat(found.met, axis=0)
        if different.shape[1] == 4:
            near = _maybe_within(np.bitwise_count(different), radius)
            if len(near) == 0:  # so it is for nearly every frame
                return _NO_ROWS, _NO_ROWS, _NO_ROWS
            distances = np.bitwise_count(different[near]).sum(axis=1, dtype=np.int64)
            is_near = distances <= radius
            near, distances = near[is_near], distances[is_near]
        else:
            counts = np.bitwise_count(different)
            totals = counts[:, 0].astype(np.uint16)
            for column in range(1, counts.shape[1]):  # a third of the time of a sum over so short an axis
                totals += counts[:, column]
            near = np.flatnonzero(totals <= radius)
            distances = totals[near].astype(np.int64)
        return found.query_at(near).astype(np.int64), found.row[near].astype(np.int64), distances

    def _scan_all(self, words: NDArray[np.uint64], radius: int) -> _Met:
        """Compare every row with every query."""
        nothing = np.zeros(0, np.int64)
        parts: list[_Met] = [(nothing, nothing, nothing)]
        parts += (self._scan_chunk(words, start, radius) for start in range(0, len(self._words), self._chunk(words)))
        query, row, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
        return query, row, distance

    def _scan_nearest(self, words: NDArray[np.uint64], radius: int, without: NDArray[np.int64] | None = None) -> Hits:
        """As `_scan_all`, of hits beyond `MOST_HITS` a query the nearest alone, however many there are.

        Rows `without` must not take the places of others. `cut` leaves out what was never among the nearest.
        """
        found, parts, waiting = Hits.none(), [], 0
        nearer_than = np.full((len(words), 1), radius + 1)
        for start in range(0, len(self._words), self._chunk(words)):
            met = _without(self._scan_chunk(words, start, nearer_than - 1), without)
            waiting += len(met[0])
            parts.append(Hits(*met))
            if waiting > _HITS_WAITING:
                found, parts, waiting = Hits.joined([found, *parts]), [], 0
                # Of a full query's rows only nearer ones still count: else each of millions of twins would be sorted.
                ends = np.searchsorted(found.query, np.arange(len(words)), side="right")
                is_full = np.bincount(found.query, minlength=len(words)) == MOST_HITS
                nearer_than[is_full, 0] = found.distance[ends[is_full] - 1]
        return Hits.joined([found, *parts])

    def _chunk(self, words: NDArray[np.uint64]) -> int:
        return max(256, _SCANNED_AT_ONCE // max(len(words), 1))

    def _scan_chunk(self, words: NDArray[np.uint64], start: int, radius: int | NDArray[np.int64]) -> _Met:
        columns = np.ascontiguousarray(self._words[start : start + self._chunk(words)].T)
        distances = np.bitwise_count(words[:, :1] ^ columns[0]).astype(np.uint16)
        for column in range(1, len(columns)):
            distances += np.bitwise_count(words[:, column : column + 1] ^ columns[column])
        query, row = np.nonzero(distances <= radius)
        return query, row + start, distances[query, row].astype(np.int64)


def _maybe_within(counts: NDArray[np.uint8], radius: int) -> NDArray[np.intp]:
    """Which of (n, 4) bytes add up to no more than a radius, or to 256. `counts` are spoilt."""
    # Four bytes added by one product, in their highest.
    sums = counts.view(np.uint32).reshape(-1)
    sums *= _ADD_BYTES
    sums >>= _HIGHEST_BYTE
    return np.flatnonzero(sums <= radius)


def _without(met: _Met, rows: NDArray[np.int64] | None) -> _Met:
    if rows is None or len(rows) == 0 or len(met[1]) == 0:
        return met
    kept = ~is_among(met[1], rows)
    return met[0][kept], met[1][kept], met[2][kept]


def _unique_rows(numbers: NDArray[np.int64], distances: NDArray[np.int64]) -> Found:
    found, first = np.unique(numbers, return_index=True)
    return found, distances[first]


def _nearest_first(numbers: NDArray[np.int64], distances: NDArray[np.int64]) -> Found:
    order = np.lexsort((numbers, distances)) if len(numbers) > 1 else slice(None)
    return numbers[order], distances[order]
