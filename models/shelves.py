"""One algorithm's rows of a bank in two layers: a large base that rarely changes, and a small overlay that often does.

Adding a row writes it to the overlay; withdrawing one that is in the base marks it as gone there. Look-ups go through
both layers and number the rows through: those of the base first. Folding the overlay into a new base (see
`models.rebuild`) changes no answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from models.arrays import MANIFEST, ArrayFolder, IndexCorrupt, open_arrays, save_arrays
from models.bank_rows import BankRows, name_keys
from models.evidence import Opinion
from models.hits import Hits, is_among
from models.index import Found, HammingIndex

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]

_ROW_DTYPES: Final = {
    "rows": "|u1",
    "ids": "<u4",
    "starts": "<u4",
    "entry_offsets": "<i8",
    "entry_bytes": "|u1",
    "opinions": "|u1",
    "positions_ms": "<i4",
    "is_window": "|b1",
    "second_rows": "<u4",
    "seconds": "|u1",
}
_BASE_DTYPES: Final = {**_ROW_DTYPES, "entry_keys": "<u8", "entry_rows": "<u4"}
_OVERLAY_DTYPES: Final = {**_ROW_DTYPES, "serials": "<i8", "gone": "<i8"}

_SINCE_LAYERS: Final = ("positions_ms", "is_window", "second_rows", "seconds", "entry_keys", "entry_rows")
"""Files that releases before the layers did not write."""

_NONE: Final = np.zeros(0, dtype=np.int64)

_LONG_BYTES: Final = 128 << 20
"""Some 800,000 hashes. Reading so much and verifying it takes a core 0.15 s."""


class EntryCounts(NamedTuple):
    """The distinct entries by `bank_rows.name_keys`, ascending, and how many rows each has."""

    keys: Keys
    rows: NDArray[np.uint32]

    @classmethod
    def of(cls, keys: Keys) -> "EntryCounts":
        """Count the keys of rows."""
        distinct, counts = np.unique(keys, return_counts=True)
        return cls(distinct, counts.astype(np.uint32))

    def of_keys(self, keys: Keys) -> Numbers:
        """How many rows each of some entries has."""
        if len(self.keys) == 0:
            return np.zeros(len(keys), dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.rows[places], 0).astype(np.int64)


class Base:
    """Rows with the index over them; never changes."""

    def __init__(self, index: HammingIndex, rows: BankRows, counts: EntryCounts | None = None) -> None:
        self.index: Final = index
        self.rows: Final = rows
        self._counts = counts

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def build(cls, rows: BankRows, max_radius: int) -> "Base":
        """Index rows for look-ups up to `max_radius`."""
        return cls(HammingIndex.build(rows.hashes, max_radius), rows)

    @cached_property
    def counts(self) -> EntryCounts:
        """Its entries."""
        return self._counts if self._counts is not None else EntryCounts.of(name_keys(self.rows.names))

    def save(self, folder: Path) -> None:
        """Write it to a new folder and wait until it is on disk."""
        keys = {"entry_keys": self.counts.keys.astype("<u8"), "entry_rows": self.counts.rows.astype("<u4")}
        save_arrays(folder, {**self.index.arrays(), **self.rows.columns(), **keys}, self.index.facts())


@dataclass(frozen=True, eq=False)
class Overlay:
    """What came and went since the base was built.

    `gone` are the base's rows that count no more, ascending. Each row has a serial number of its own, (M,) ascending;
    a row that changes takes a new one, so that two states of an overlay can be told apart row by row.
    """

    index: HammingIndex
    rows: BankRows
    serials: Numbers
    gone: Numbers
    next_serial: int

    @classmethod
    def of(cls, rows: BankRows, serials: Numbers, gone: Numbers, next_serial: int, max_radius: int) -> "Overlay":
        """Index the rows of an overlay."""
        return cls(HammingIndex.build(rows.hashes, max_radius), rows, serials, gone, next_serial)

    @cached_property
    def counts(self) -> EntryCounts:
        """Its entries."""
        return EntryCounts.of(name_keys(self.rows.names))

    @property
    def pending(self) -> int:
        """How much there is to fold."""
        return len(self.rows) + len(self.gone)

    def save(self, folder: Path) -> None:
        """Write it to a new folder and wait until it is on disk."""
        arrays: dict[str, NDArray[Any]] = {**self.index.arrays(), **self.rows.columns()}
        arrays |= {"serials": self.serials.astype("<i8"), "gone": self.gone.astype("<i8")}
        save_arrays(folder, arrays, {**self.index.facts(), "next_serial": self.next_serial})


class Shelf:
    """One algorithm's part of a bank, unchanging: a base and perhaps an overlay over it.

    Rows are numbered through both layers, those that are gone too; look-ups give only rows that count.
    """

    def __init__(self, base: Base, overlay: Overlay | None = None) -> None:
        self.base: Final = base
        self.overlay: Final = overlay

    def __len__(self) -> int:
        """How many rows count."""
        return (
            len(self.base) if self.overlay is None else len(self.base) - len(self.overlay.gone) + len(self.overlay.rows)
        )

    @property
    def bits(self) -> int:
        """Length of a hash."""
        return self.base.index.bits

    def search_all(self, queries: Sequence[bytes], radius: int) -> list[Found]:
        """As `HammingIndex.search_all`, through both layers."""
        overlay = self.overlay
        found = self.base.index.search_all(queries, radius)
        if overlay is None:
            return found
        kept = [_kept(one, overlay.gone) for one in found]
        newer = overlay.index.search_all(queries, radius)
        return [_merged_found(old, new, len(self.base)) for old, new in zip(kept, newer, strict=True)]

    def search_nearest(self, queries: Sequence[bytes], radius: int) -> list[Found]:
        """As `HammingIndex.search_nearest`, through both layers, each of which gives so many."""
        overlay = self.overlay
        if overlay is None:
            return self.base.index.search_nearest(queries, radius)
        old = self.base.index.search_nearest(queries, radius, overlay.gone)
        new = overlay.index.search_nearest(queries, radius)
        return [_merged_found(one, newer, len(self.base)) for one, newer in zip(old, new, strict=True)]

    def search_soft(
        self,
        values: NDArray[np.uint8],
        deviations: NDArray[np.float32],
        radius: int,
        *,
        exact: NDArray[np.bool_],
        patterns: int | None = None,
    ) -> Hits:
        """As `HammingIndex.search_soft`, through both layers."""
        overlay = self.overlay
        if overlay is None:
            return self.base.index.search_soft(values, deviations, radius, exact=exact, patterns=patterns)
        old = self.base.index.search_soft(
            values, deviations, radius, exact=exact, patterns=patterns, without=overlay.gone
        )
        if len(overlay.rows) == 0:
            return old
        new = overlay.index.search_soft(values, deviations, radius, exact=exact, patterns=patterns)
        return Hits.joined([old, Hits(new.query, new.row + len(self.base), new.distance, new.cut)])

    def entry(self, number: int) -> str:
        """The name of a row's entry."""
        rows, place = self._layer(number)
        return str(rows.names[place])

    def opinion(self, number: int) -> Opinion:
        """What is thought of a row."""
        rows, place = self._layer(number)
        return rows.opinion(place)

    def position_ms(self, number: int) -> int | None:
        """Where in its video a row was seen, or None."""
        rows, place = self._layer(number)
        return rows.position_ms(place)

    def rows_at(self, numbers: Numbers) -> BankRows:
        """Some rows with all their columns, in that order."""
        count = len(self.base)
        if self.overlay is None or not np.any(numbers >= count):
            return self.base.rows.taken(numbers)
        is_new = numbers >= count
        rows = self.base.rows.taken(numbers[~is_new]).joined(self.overlay.rows.taken(numbers[is_new] - count))
        order = np.empty(len(numbers), dtype=np.int64)
        order[np.concatenate([np.flatnonzero(~is_new), np.flatnonzero(is_new)])] = np.arange(len(numbers))
        return rows.taken(order)

    def live(self) -> BankRows:
        """All rows that count, in the order in which they were added. A copy of them where there is an overlay."""
        if self.overlay is None:
            return self.base.rows
        kept = self.base.rows.without(self.overlay.gone) if len(self.overlay.gone) else self.base.rows
        return kept.joined(self.overlay.rows)

    def rows_of_entries(self, keys: Keys) -> Numbers:
        """How many rows that count each of some entries (by `bank_rows.name_keys`) has."""
        counts = self.base.counts.of_keys(keys)
        if self.overlay is not None:
            gone = name_keys(self.base.rows.names.taken(self.overlay.gone))
            counts -= EntryCounts.of(gone).of_keys(keys)
            counts += self.overlay.counts.of_keys(keys)
        return counts

    def _layer(self, number: int) -> tuple[BankRows, int]:
        if number < len(self.base):
            return self.base.rows, number
        if self.overlay is None:
            raise IndexError(number)
        return self.overlay.rows, number - len(self.base)


@dataclass(frozen=True, slots=True)
class Trust:
    """Bases that another process has read whole and found sound, by `state_of`: they are opened without reading them.

    A long base that is not among them is read here, or, where this process `has_no_time`, raises `NotRead`.
    """

    states: frozenset[str]
    has_no_time: bool = False


class NotRead(Exception):
    """Raised where a long base would have to be read by a process that has no time for it. Nothing was opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} has not been read by anyone yet; it is opened once it has been")


def state_of(folder: Path) -> str:
    """What tells the files of a layer from any others, without reading them.

    Raises:
        FileNotFoundError: The folder is gone.
    """
    files = sorted((path.name, path.stat()) for path in folder.iterdir())
    return sha256(repr([(name, one.st_ino, one.st_size, one.st_mtime_ns) for name, one in files]).encode()).hexdigest()


def is_long(folder: Path) -> bool:
    """Tell whether reading a base takes so long that frames would be late. Raises `FileNotFoundError`."""
    return sum(path.stat().st_size for path in folder.iterdir()) > _LONG_BYTES


_Key = tuple[str, int, int]

_open_bases: "WeakValueDictionary[_Key, Base]" = WeakValueDictionary()
_open_overlays: "WeakValueDictionary[_Key, Overlay]" = WeakValueDictionary()


def open_shelf(
    base_folder: Path, overlay_folder: Path | None, *, is_verified: bool = True, trust: Trust | None = None
) -> Shelf:
    """Open one algorithm's layers by memory map. A layer that is open in this process is not read again.

    Not `is_verified`: of the base nothing is read but what is asked for, for who adds to what others verify. `trust`
    says which bases were verified elsewhere.

    Raises:
        FileNotFoundError: A folder is gone.
        IndexCorrupt: Files are not what was written.
        NotRead: As `trust` says.
    """
    overlay = None
    if overlay_folder is not None:  # first: two changes remove it, while reading a long base takes seconds
        key = _key(overlay_folder)
        overlay = _open_overlays.get(key)
        if overlay is None:
            mapped = _open_base(base_folder, is_verified=False, trust=None)
            overlay = _open_overlays[key] = _open_overlay(overlay_folder, mapped)
    return Shelf(_open_base(base_folder, is_verified=is_verified, trust=trust), overlay)


def _key(folder: Path) -> _Key:
    """What tells a folder from another that once had its name: files are never changed, but banks are made anew."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist")
    try:
        status = (folder / MANIFEST).stat()
    except FileNotFoundError:
        raise IndexCorrupt(folder, f"its {MANIFEST} is missing") from None
    return str(folder.resolve()), status.st_ino, status.st_mtime_ns


def _open_base(folder: Path, *, is_verified: bool, trust: Trust | None) -> Base:
    key = _key(folder)
    base = _open_bases.get(key)
    if base is not None:
        return base
    is_read = is_verified and not (trust is not None and _is_trusted(folder, trust))
    opened = open_arrays(folder, _BASE_DTYPES, optional=_SINCE_LAYERS, is_verified=is_read)
    base = _base_of(opened, folder)
    if is_verified:
        if is_read and (not base.rows.is_sound() or not base.index.is_sound()):
            raise IndexCorrupt(folder, "its entries or opinions do not fit its rows")
        _open_bases[key] = base
    return base


def _is_trusted(folder: Path, trust: Trust) -> bool:
    if not is_long(folder):
        return False
    if state_of(folder) in trust.states:
        return True
    if trust.has_no_time:
        raise NotRead(folder)
    return False


def _base_of(opened: ArrayFolder, folder: Path) -> Base:
    index, rows = _index_and_rows(opened, folder)
    arrays = opened.arrays
    if "entry_keys" not in arrays or "entry_rows" not in arrays:
        return Base(index, rows)
    counts = EntryCounts(arrays["entry_keys"], arrays["entry_rows"])
    if counts.keys.ndim != 1 or counts.keys.shape != counts.rows.shape:
        raise IndexCorrupt(folder, "its entries do not fit each other")
    return Base(index, rows, counts)


def _open_overlay(folder: Path, base: Base) -> Overlay:
    opened = open_arrays(folder, _OVERLAY_DTYPES)
    index, rows = _index_and_rows(opened, folder)
    serials, gone, next_serial = opened.arrays["serials"], opened.arrays["gone"], opened.facts.get("next_serial")
    is_sound = rows.is_sound() and index.is_sound() and serials.shape == (len(rows),) and _ascends(serials, next_serial)
    if not is_sound or not isinstance(next_serial, int) or gone.ndim != 1 or not _ascends(gone, len(base)):
        raise IndexCorrupt(folder, "its rows do not fit each other or the base")
    if index.bits != base.index.bits:
        raise IndexCorrupt(folder, f"its hashes have {index.bits} bits, those of the base {base.index.bits}")
    return Overlay(index, rows, serials, gone, next_serial)


def _index_and_rows(opened: ArrayFolder, folder: Path) -> tuple[HammingIndex, BankRows]:
    index = HammingIndex.from_folder(opened, folder)
    rows = BankRows.from_columns(index.rows, opened.arrays)
    if not rows.has_sound_shapes():
        raise IndexCorrupt(folder, "its entries or opinions do not fit its rows")
    return index, rows


def _ascends(numbers: Numbers, end: object) -> bool:
    """Tell whether whole numbers ascend strictly from 0 or more to below `end`."""
    if not isinstance(end, int):
        return False
    return len(numbers) == 0 or bool(numbers[0] >= 0 and numbers[-1] < end and np.all(numbers[1:] > numbers[:-1]))


def _kept(found: Found, gone: Numbers) -> Found:
    numbers, distances = found
    if len(numbers) == 0 or len(gone) == 0:
        return found
    kept = ~is_among(numbers, gone)
    return numbers[kept], distances[kept]


def _merged_found(old: Found, new: Found, count: int) -> Found:
    if len(new[0]) == 0:
        return old
    numbers, distances = np.concatenate([old[0], new[0] + count]), np.concatenate([old[1], new[1]])
    order = np.lexsort((numbers, distances))
    return numbers[order], distances[order]
