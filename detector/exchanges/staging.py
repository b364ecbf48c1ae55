"""The pages of one chain, put together before any of it counts: the last page that speaks of an entry is right."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.exchanges.client import NotAdopted
from models.bank_rows import SECOND_BYTES, EntryNames, name_keys
from models.lists.contents import BadRows, ListContents, ListedRows

_RECORDS_PER_ROW: Final = 20
"""An entry may bring hashes of kinds that nobody here matches; an endless chain brings them without end."""

_COLUMNS: Final = {"opinions": np.uint8, "positions_ms": np.int32, "is_window": np.bool_}
_ABSENT: Final = {"positions_ms": -1, "is_window": 0}


@dataclass(slots=True)
class Staged:
    """A chain as it comes. `stem` names rows whose list names none."""

    stem: str
    most_rows: int
    pages: int = 0
    records: int = 0
    rows: int = 0
    _parts: list[tuple[int, str, ListedRows, EntryNames]] = field(default_factory=list)
    _withdrawn: list[tuple[int, EntryNames]] = field(default_factory=list)
    _bad: BadRows = field(default_factory=BadRows)
    _left_out: Counter[str] = field(default_factory=Counter)
    _is_whole: bool = True
    _as_of_seconds: float = 0.0

    def take(self, contents: ListContents) -> None:
        """Add one page.

        Raises:
            NotAdopted: The list is longer than it may be.
            ValueError: A name in it is none for an entry.
        """
        self.pages += 1
        self.rows += len(contents)
        bad, left_out = contents.bad, sum(contents.left_out.values())
        self.records += len(contents) + len(contents.withdrawn) + bad.count + left_out
        if self.rows > self.most_rows or self.records > self.most_rows * _RECORDS_PER_ROW:
            raise NotAdopted(
                f"the list is longer than most_rows ({self.most_rows:,}); raise that if the exchange says it is right"
            )
        for signal, rows in contents.rows.items():
            if len(rows):
                self._parts.append((self.pages, signal, rows, rows.entry_names(self.stem)))
        if contents.withdrawn:
            self._withdrawn.append((self.pages, EntryNames.of(contents.withdrawn)))
        first = self._bad if self._bad.count else bad
        self._bad = BadRows(self._bad.count + bad.count, first.first_line_number, first.first_reason)
        self._left_out.update(contents.left_out)
        self._is_whole &= contents.is_whole
        self._as_of_seconds = max(self._as_of_seconds, contents.as_of_seconds)

    def contents(self) -> ListContents:
        """The chain as one list."""
        latest = self._latest()
        rows = {}
        for signal in dict.fromkeys(signal for _, signal, _, _ in self._parts):
            parts = [(page, rows, names) for page, name, rows, names in self._parts if name == signal]
            kept = [np.flatnonzero(latest(names) == page) for page, _, names in parts]
            rows[signal] = _joined([(part, names, where) for (_, part, names), where in zip(parts, kept, strict=True)])
        withdrawn = [names.taken(np.flatnonzero(latest(names) == page)) for page, names in self._withdrawn]
        return ListContents(
            rows={signal: part for signal, part in rows.items() if len(part)},
            bad=self._bad,
            withdrawn=tuple(dict.fromkeys(name for names in withdrawn for name in names)),
            left_out=dict(self._left_out),
            is_whole=self._is_whole,
            as_of_seconds=self._as_of_seconds,
        )

    def _latest(self) -> Callable[[EntryNames], NDArray[np.int64]]:
        """For names, the number of the last page that speaks of each."""
        spoken = [(page, names) for page, _, _, names in self._parts] + self._withdrawn
        keys = np.concatenate([np.zeros(0, np.uint64), *(name_keys(names) for _, names in spoken)])
        pages = np.concatenate([np.zeros(0, np.int64), *(np.full(len(names), page) for page, names in spoken)])
        known, places = np.unique(keys, return_inverse=True)
        last = np.zeros(len(known), np.int64)
        np.maximum.at(last, places, pages)

        def latest(names: EntryNames) -> NDArray[np.int64]:
            return last[np.searchsorted(known, name_keys(names))]

        return latest


def _joined(parts: Sequence[tuple[ListedRows, EntryNames, NDArray[np.int64]]]) -> ListedRows:
    """Some rows of each part, one part behind the other."""
    columns: dict[str, Any] = {
        name: _column(name, [(rows, where) for rows, _, where in parts], kind) for name, kind in _COLUMNS.items()
    }
    second_rows, seconds, before = [], [], 0
    for rows, _, where in parts:
        places = np.searchsorted(where, rows.second_rows.astype(np.int64))
        is_kept = places < len(where)
        is_kept[is_kept] = where[places[is_kept]] == rows.second_rows[is_kept]
        second_rows.append((places[is_kept] + before).astype(np.uint32))
        seconds.append(rows.seconds[is_kept])
        before += len(where)
    return ListedRows(
        hashes=np.concatenate([rows.hashes[where] for rows, _, where in parts]),
        line_numbers=np.concatenate([rows.line_numbers[where] for rows, _, where in parts]),
        entries=joined_names([names.taken(where) for _, names, where in parts]),
        second_rows=np.concatenate(second_rows),
        seconds=np.concatenate([np.zeros((0, SECOND_BYTES), np.uint8), *seconds]),
        **columns,
    )


def _column(name: str, parts: Sequence[tuple[ListedRows, NDArray[np.int64]]], kind: Any) -> NDArray[Any]:
    """A column that is empty where no part has it."""
    given = [getattr(rows, name) for rows, _ in parts]
    if not any(len(one) for one in given):
        return np.zeros(0, kind)
    dense = [
        rows.dense_opinions() if name == "opinions" else one if len(one) else np.full(len(rows), _ABSENT[name], kind)
        for one, (rows, _) in zip(given, parts, strict=True)
    ]
    return np.concatenate([one[where] for one, (_, where) in zip(dense, parts, strict=True)])


def joined_names(parts: Sequence[EntryNames]) -> EntryNames:
    """All names, one part behind the other, in one step."""
    lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(names.offsets) for names in parts)])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    content = [names.content[names.offsets[0] : names.offsets[-1]] for names in parts]
    return EntryNames(offsets, np.concatenate([np.zeros(0, np.uint8), *content]))
