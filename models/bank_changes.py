"""Changes of a bank's rows: what comes, what goes, and which layer takes it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import OPINION_CODES, BankRows, EntryNames, merged, name_keys
from models.generations import Counts, own_radius
from models.hits import is_among
from models.shelves import Base, EntryCounts, Numbers, Overlay, Shelf

FOLDED_AT_ONCE: Final = 20_000
"""A part of a bank with up to so many rows is written anew by each change: that takes some hundredths of a second."""

_REBUILD_ROWS: Final = 4_096
_REBUILD_SHARE: Final = 1 / 64
"""An overlay with more rows than both of these is worth folding into its base: each change writes it anew."""

_QUERIES: Final = 16_384
_NOBODY: Final = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Change:
    """What one part of a bank becomes: `base` is new where it is not None, and then has nothing over it.

    `came` and `went` are the rows by which the counts change; both are empty where nothing does.
    """

    base: Base | None
    overlay: Overlay | None
    came: BankRows
    went: BankRows

    @property
    def is_nothing(self) -> bool:
        """Tell whether all stays as it is."""
        return len(self.came) == len(self.went) == 0


def is_worth_rebuilding(pending: int, rows: int) -> bool:
    """Tell whether so many rows of an overlay are worth folding into their base."""
    return pending > max(_REBUILD_ROWS, rows * _REBUILD_SHARE)


def with_rows(shelf: Shelf | None, added: BankRows, algorithm: str) -> Change:
    """Add rows; a (hash, entry) pair that is there already takes the added opinion and second hash."""
    radius = own_radius(algorithm)
    if shelf is None:
        return Change(Base.build(added, radius), None, added, added.taken(_NOBODY))
    news = _news(shelf, added)
    return _changed(shelf, news.came, news.gone_old, news.gone_new, radius)


def without_entry(shelf: Shelf, entry: str, algorithm: str) -> Change:
    """Remove an entry's rows."""
    key = name_keys(EntryNames.of([entry]))
    is_in_base = bool(shelf.base.counts.of_keys(key)[0])
    gone_old = shelf.base.rows.names.find(entry) if is_in_base else _NOBODY
    gone_new = _NOBODY
    if shelf.overlay is not None:
        gone_old = gone_old[~is_among(gone_old, shelf.overlay.gone)]
        gone_new = shelf.overlay.rows.names.find(entry)
    return _changed(shelf, shelf.base.rows.taken(_NOBODY), gone_old, gone_new, own_radius(algorithm))


@dataclass(frozen=True, eq=False)
class Exchanged:
    """A change by a list: how many rows of it are new, say something else than before, and say nothing new."""

    change: Change
    added: int
    changed: int
    known: int

    @property
    def withdrawn(self) -> int:
        """How many rows go and do not come back as something else."""
        return len(self.change.went) - self.changed


def with_list(shelf: Shelf | None, added: BankRows, leaving: EntryNames, algorithm: str) -> Exchanged:
    """Add rows as `with_rows` does, and remove all other rows of the entries `leaving` in one step."""
    radius = own_radius(algorithm)
    if shelf is None:
        return Exchanged(Change(Base.build(added, radius), None, added, added.taken(_NOBODY)), len(added), 0, 0)
    news = _news(shelf, added)
    gone_old = _leaving(shelf.base, leaving, news.known_old)
    gone_new = _NOBODY
    if shelf.overlay is not None:
        gone_old = gone_old[~is_among(gone_old, shelf.overlay.gone)]
        gone_new = _leaving(shelf.overlay, leaving, news.known_new)
    change = _changed(
        shelf, news.came, np.union1d(news.gone_old, gone_old), np.union1d(news.gone_new, gone_new), radius
    )
    changed = len(news.gone_old) + len(news.gone_new)
    return Exchanged(change, len(news.came) - changed, changed, len(added) - len(news.came))


def rows_of_entries(layer: Base | Overlay, entries: EntryNames) -> Numbers:
    """The numbers of a layer's rows of some entries, ascending; one pass over all names if any is held."""
    keys = name_keys(entries)
    if not len(keys) or not np.any(layer.counts.of_keys(keys)):
        return _NOBODY
    return np.flatnonzero(np.isin(name_keys(layer.rows.names), keys)).astype(np.int64)


def rows_held(shelf: Shelf, entries: EntryNames) -> BankRows:
    """The rows that count of some entries, and perhaps of others whose names share a key with theirs."""
    numbers = rows_of_entries(shelf.base, entries)
    if shelf.overlay is None:
        return shelf.base.rows.taken(numbers)
    held = shelf.base.rows.taken(numbers[~is_among(numbers, shelf.overlay.gone)])
    return held.joined(shelf.overlay.rows.taken(rows_of_entries(shelf.overlay, entries)))


def _leaving(layer: Base | Overlay, entries: EntryNames, staying: Numbers) -> Numbers:
    numbers = rows_of_entries(layer, entries)
    numbers = numbers[~is_among(numbers, staying)]
    if not len(numbers):
        return numbers
    wanted = set(entries)  # names may share a key
    names = layer.rows.names.taken(numbers)
    is_named = np.fromiter((name in wanted for name in names), dtype=np.bool_, count=len(numbers))
    return np.asarray(numbers[is_named])


def _changed(shelf: Shelf, came: BankRows, gone_old: Numbers, gone_new: Numbers, radius: int) -> Change:
    """Put the rows that came, and without those that went, into the layer that takes them."""
    base, over = shelf.base, shelf.overlay
    nothing = base.rows.taken(_NOBODY)
    rows = over.rows if over is not None else nothing
    went = base.rows.taken(gone_old).joined(rows.taken(gone_new))
    kept = np.ones(len(rows), dtype=bool)
    kept[gone_new] = False
    gone = np.union1d(over.gone if over is not None else _NOBODY, gone_old)
    rows = rows.taken(np.flatnonzero(kept)).joined(came)
    if len(base) - len(gone) + len(rows) <= FOLDED_AT_ONCE or len(rows) > len(base):
        live = base.rows.without(gone).joined(rows)
        return Change(Base.build(live, radius), None, came, went)
    # An overlay that has become empty stays: a rebuild on its way must not take its next row for an earlier one.
    first = over.next_serial if over is not None else 0
    serials = np.concatenate([over.serials[kept] if over is not None else _NOBODY, np.arange(len(came)) + first])
    return Change(None, Overlay.of(rows, serials, gone, first + len(came), radius), came, went)


def counts_after(shelves: Mapping[str, Shelf], changes: Mapping[str, Change], before: Counts | None) -> Counts:
    """Count what a bank comes to, from what it came to before and what changes."""
    if before is None:
        before = Counts({}, {}, 0)
    rows = Counter(before.rows)
    opinions = Counter(before.opinions)
    for name, change in changes.items():
        rows[name] += len(change.came) - len(change.went)
        opinions.update(_by_opinion(change.came))
        opinions.subtract(_by_opinion(change.went))
    entries = before.entries + _new_entries(shelves, changes)
    return Counts(rows, opinions, entries)


def _new_entries(shelves: Mapping[str, Shelf], changes: Mapping[str, Change]) -> int:
    changed = [name_keys(rows.names) for change in changes.values() for rows in (change.came, change.went)]
    touched = np.unique(np.concatenate([np.zeros(0, np.uint64), *changed]))
    before = np.zeros(len(touched), dtype=np.int64)
    for shelf in shelves.values():
        before += shelf.rows_of_entries(touched)
    after = before.copy()
    for change in changes.values():
        after += EntryCounts.of(name_keys(change.came.names)).of_keys(touched)
        after -= EntryCounts.of(name_keys(change.went.names)).of_keys(touched)
    return int(np.count_nonzero(after > 0)) - int(np.count_nonzero(before > 0))


def _by_opinion(rows: BankRows) -> dict[str, int]:
    counts = np.bincount(rows.opinions, minlength=len(OPINION_CODES)).tolist()
    return {opinion.value: count for opinion, count in zip(OPINION_CODES, counts, strict=True)}


@dataclass(frozen=True, eq=False)
class _News:
    # What is new in added rows: the rows that come, the numbers of those in base and overlay that they stand in for,
    # and of those that the added ones name at all.
    came: BankRows
    gone_old: Numbers
    gone_new: Numbers
    known_old: Numbers
    known_new: Numbers


def _news(shelf: Shelf, added: BankRows) -> _News:
    """Part added rows into what is new and what says nothing new."""
    gone = shelf.overlay.gone if shelf.overlay is not None else _NOBODY
    came, replaced_old, is_new, known_old = _news_of_layer(shelf.base, added, gone)
    replaced_new = known_new = _NOBODY
    if shelf.overlay is not None:
        changed, replaced_new, is_new_too, known_new = _news_of_layer(shelf.overlay, added, _NOBODY)
        came, is_new = came.joined(changed), is_new & is_new_too
    came = added.taken(np.flatnonzero(is_new)).joined(came)
    return _News(came, replaced_old, replaced_new, known_old, known_new)


def _news_of_layer(
    layer: Base | Overlay, added: BankRows, gone: Numbers
) -> tuple[BankRows, Numbers, NDArray[np.bool_], Numbers]:
    """The layer's rows that take something from an added one, as they become; their numbers; which added are new.

    Last come the numbers of all the layer's rows that are among the added ones, ascending.
    """
    places, numbers = _pairs(layer, added, gone)
    known = np.unique(numbers)
    is_new = np.ones(len(added), dtype=bool)
    is_new[places] = False
    gains_second = is_among(places, added.second_rows) & ~is_among(numbers, layer.rows.second_rows)
    differ = (layer.rows.opinions[numbers] != added.opinions[places]) | gains_second
    places, numbers = places[differ], numbers[differ]
    return merged(layer.rows.taken(numbers), added.taken(places)), np.sort(numbers), is_new, known


def _pairs(layer: Base | Overlay, added: BankRows, gone: Numbers) -> tuple[Numbers, Numbers]:
    """Which added rows have the (hash, entry) of which rows of a layer, both (P,)."""
    found: dict[tuple[bytes, str], int] = {}
    hashes = np.unique(added.hashes, axis=0)
    for start in range(0, len(hashes), _QUERIES):
        same = layer.index.same(hashes[start : start + _QUERIES])
        for number in same[~is_among(same, gone)].tolist():
            found[layer.rows.hashes[number].tobytes(), layer.rows.names[number]] = number
    if not found:
        return _NOBODY, _NOBODY
    numbers = [found.get((row.tobytes(), name), -1) for row, name in zip(added.hashes, added.names, strict=True)]
    all_numbers = np.array(numbers, dtype=np.int64)
    places = np.flatnonzero(all_numbers >= 0)
    return places, all_numbers[places]
