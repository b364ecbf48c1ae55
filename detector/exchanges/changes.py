"""What a list would change in its bank, and how much of that is taken over without anybody's word."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import BankRows, EntryNames, name_keys
from models.banks import Bank
from models.lists.contents import ListContents, ListedRows

LEAST_ROWS: Final = 100
"""So many rows may come or go in a day: a tenth of a short list is no number at all."""

REMEMBERED: Final = 20
"""Days that say what is usual. It is their median: one large change that was accepted makes no second one usual."""

DayChange = tuple[int, int, int]
"""A UTC day since the epoch, and how many rows came and went in it. Whole days: who takes a list away in many small
steps is stopped like one who takes as much at once."""

_ACCEPTED: Final = -1
"""The day of what somebody has let pass: the count begins anew."""

_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_NO_KEYS: Final = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Change:
    """Rows of a bank, and how many of them would come (new or otherwise than before) and go."""

    held: int
    came: int
    went: int

    @property
    def rows_after(self) -> int:
        """How many rows the bank would hold."""
        return self.held + self.came - self.went

    def takes_too_much(self, usual: Sequence[DayChange], most_change: float, today: int) -> bool:
        """The same of what would go alone."""
        return Change(self.held, 0, self.went).exceeds(usual, most_change, today)

    def exceeds(self, usual: Sequence[DayChange], most_change: float, today: int) -> bool:
        """Whether it is, with what else changed `today`, more than may pass in a day. A first list may be any."""
        if self.held == 0:
            return False
        came, went = _of_day(usual, today)
        beyond = max(LEAST_ROWS, math.ceil((self.held - came + went) * most_change))
        often_came, often_went = (median([one[side] for one in usual if one[0] != today] or [0]) for side in (1, 2))
        is_too_much_more = self.came and came + self.came > often_came + beyond
        return bool(is_too_much_more or (self.went and went + self.went > often_went + beyond))

    def noted(self, usual: Sequence[DayChange], today: int, *, is_accepted: bool) -> tuple[DayChange, ...]:
        """`usual` with this; what came and went on a day counts as one."""
        if self.held == 0 or not self.came + self.went:
            return tuple(usual)
        came, went = _of_day(usual, today)
        noted = (_ACCEPTED if is_accepted else today, came + self.came, went + self.went)
        return (*(one for one in usual if one[0] != today), noted)[-REMEMBERED:]

    def is_within(self, accepted: tuple[int, int] | None) -> bool:
        """Whether somebody accepted as much (`LEAST_ROWS` more may have come since)."""
        return accepted is not None and self.came <= accepted[0] + LEAST_ROWS and self.went <= accepted[1] + LEAST_ROWS


def _of_day(usual: Sequence[DayChange], day: int) -> tuple[int, int]:
    of_day = [one for one in usual if one[0] == day]
    return sum(one[1] for one in of_day), sum(one[2] for one in of_day)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A list beside its bank: what it changes, which of its rows are new by signal, which entries it leaves out."""

    change: Change
    new_rows: dict[str, NDArray[np.int64]]
    left_out: tuple[str, ...]


def compare(bank: Bank | None, contents: ListContents, *, is_everything: bool) -> Comparison:
    """Hold a list against what its bank holds; `is_everything`: what the list does not name is gone."""
    held: dict[str, BankRows] = {}
    for algorithm in bank.algorithms if bank is not None else ():
        rows = bank.rows(algorithm) if bank is not None else None
        if rows is not None and len(rows):
            held[algorithm] = rows
    listed = {
        signal: _row_keys(rows.hashes, EntryNames.of(rows.entries), rows.dense_opinions())
        for signal, rows in contents.rows.items()
    }
    known = {name: _row_keys(rows.hashes, rows.names, rows.opinions) for name, rows in held.items()}
    new_rows = {signal: np.flatnonzero(~np.isin(keys, known.get(signal, _NO_KEYS))) for signal, keys in listed.items()}
    named = np.concatenate([_NO_KEYS, *(name_keys(EntryNames.of(rows.entries)) for rows in contents.rows.values())])
    withdrawn = name_keys(EntryNames.of(contents.withdrawn)) if contents.withdrawn else _NO_KEYS
    went, left_out = 0, []
    for name, rows in held.items():
        entries = name_keys(rows.names)
        is_gone = np.isin(entries, withdrawn) & ~np.isin(known[name], listed.get(name, _NO_KEYS))
        if is_everything:
            is_left_out = ~np.isin(entries, named)
            left_out.append(rows.names.taken(_firsts(entries, is_left_out & ~is_gone)))
            is_gone |= is_left_out
        is_gone |= np.isin(entries, named) & ~np.isin(known[name], listed.get(name, _NO_KEYS)) & contents.is_whole
        went += int(np.count_nonzero(is_gone))
    change = Change(sum(map(len, held.values())), sum(map(len, new_rows.values())), went)
    return Comparison(change, new_rows, tuple(dict.fromkeys(name for names in left_out for name in names)))


def _firsts(keys: NDArray[np.uint64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first place of each different key among the chosen."""
    places = np.flatnonzero(chosen)
    return places[np.unique(keys[places], return_index=True)[1]]


def _row_keys(hashes: NDArray[np.uint8], names: EntryNames, opinions: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A 64-bit key of each (hash, entry, opinion): equal rows agree, others hardly ever."""
    keys = name_keys(names) * _FACTOR + opinions.astype(np.uint64)
    for word in np.ascontiguousarray(hashes).view("<u8").T:
        keys = (keys ^ word) * _FACTOR
        keys ^= keys >> np.uint64(29)
    return keys


def with_withdrawn(contents: ListContents, more: Sequence[str]) -> ListContents:
    """The list with further entries taken back."""
    if not more:
        return contents
    return ListContents(
        rows=contents.rows,
        bad=contents.bad,
        withdrawn=(*contents.withdrawn, *more),
        left_out=contents.left_out,
        is_whole=contents.is_whole,
        as_of_seconds=contents.as_of_seconds,
    )


def rows_at(rows: ListedRows, places: NDArray[np.int64]) -> tuple[NDArray[np.uint8], EntryNames]:
    """The hashes and names of some rows."""
    return rows.hashes[places], EntryNames.of(rows.entries).taken(places)
