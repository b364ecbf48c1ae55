"""Banks: named lists of known hashes, matched against the views of a frame.

A bank is kept on disk in generations (`models.bank_store`, `models.generations`); a `Bank` here is one of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.annotations import NO_NOTE, EntryNote
from models.bank_rows import BankRows
from models.evidence import Opinion
from models.explaining import ViewVerdict, explain
from models.harmless import Harmless, harmless_rows
from models.hashing.algorithm import HashAlgorithm
from models.hashing.plugins import Plugin, PluginFailed
from models.hashing.registry import hash_algorithms
from models.hashing.view_batch import ViewBatch
from models.hits import Hits
from models.matching import NOTHING, PDQ, Judged, judge, noise_views
from models.naming import AskedViews, BankMatches, Met, Naming, ViewHash, other_ranks
from models.radii import Radii, chosen, radii_for
from models.shelf_rows import NearRows, OwnDistances, look_up, met_rows, nearest_of_each
from models.shelves import Shelf

_MOST_READ: Final = 4096
"""Rows read at most to find one that counts."""

_TAKES_BACK: Final = frozenset({Opinion.POSITIVE, Opinion.SEED})


@dataclass(frozen=True, slots=True)
class BankLimits:
    """What an operator says of a bank, as far as matching goes.

    `max_distances` in bits by algorithm. One for PDQ stands in for the limits by length of list (see
    `models.radii.chosen`): up to it a frame may act, beyond it nothing is a match, not even a vote; of other algorithms
    it replaces the own limit. A view below `min_quality` whose hash is unstable too is noise and is not looked up.
    `is_negative`: what the bank holds is known to be harmless, so it takes matches of others back and has none itself.
    Until `disabled_until_seconds` (Unix time) nothing of the bank counts.
    """

    max_distances: Mapping[str, int] = field(default_factory=dict)
    min_quality: int = 50
    is_negative: bool = False
    disabled_until_seconds: float | None = None

    def is_disabled(self, now_seconds: float) -> bool:
        """Whether nothing of the bank counts at this Unix time."""
        return self.disabled_until_seconds is not None and now_seconds < self.disabled_until_seconds

    def radii(self, counted_rows: int) -> Radii:
        """The limits in force for PDQ hashes of a list that counts as so many rows."""
        by_length, most = radii_for(counted_rows), self.max_distances.get(PDQ)
        return by_length if most is None else chosen(by_length, most)


class Bank:
    """One generation of a bank, memory-mapped and unchanging. `load_bank` makes it.

    `harmless` are its rows of negative opinion; given where the shelves are a part of the bank alone.
    """

    def __init__(
        self,
        folder: Path,
        generation: str,
        shelves: Mapping[str, Shelf],
        notes: Mapping[str, EntryNote] | None = None,
        *,
        harmless: Mapping[str, Harmless] | None = None,
    ) -> None:
        self.folder: Final = folder
        self.name: Final = folder.name
        self.generation: Final = generation
        self.shelves: Final[Mapping[str, Shelf]] = dict(shelves)
        self.notes: Final[Mapping[str, EntryNote]] = dict(notes or {})
        known = hash_algorithms()
        self._distances = {name: known[name].max_distance for name in shelves if name in known}
        self._near: dict[str, NearRows] = {name: _near(known.get(name), shelf) for name, shelf in shelves.items()}
        self.harmless: Final[Mapping[str, Harmless]] = (
            harmless if harmless is not None else harmless_rows(shelves, self._near)
        )

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self.shelves.values())

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Whose hashes it holds."""
        return tuple(self.shelves)

    def rows_of(self, algorithm: str) -> int:
        """How many rows it holds of an algorithm."""
        return len(self.shelves[algorithm]) if algorithm in self.shelves else 0

    def match(
        self,
        batch: ViewBatch,
        others: Sequence[ViewHash] = (),
        limits: BankLimits | None = None,
        *,
        most: int = 16,
        now_seconds: float = 0.0,
        beside: "Beside | None" = None,
    ) -> BankMatches:
        """Look up all views of a frame at once; give at most `most` entries.

        Views in `others` of algorithms that the bank does not hold are passed over; their matches ask for review at
        most, unless the algorithm's package vouches for them. So do those of entries that are quarantined, disputed or
        seeds. Entries of negative opinion match nothing and take back what is no nearer to the same view; so do
        negative banks `beside` this one. `now_seconds` is Unix time, for entries that are disabled for a while.
        """
        beside = beside or Beside()
        limits = limits or BankLimits()
        if limits.is_negative or limits.is_disabled(now_seconds):
            return BankMatches()
        naming = Naming(self, most, now_seconds)
        for met in self._met(batch, others, limits, beside.counted_rows):
            naming.take(met, self._taken_back(met, beside.negatives, now_seconds))
        return naming.matches()

    def explain(
        self,
        batch: ViewBatch,
        others: Sequence[ViewHash] = (),
        limits: BankLimits | None = None,
        *,
        now_seconds: float = 0.0,
        beside: "Beside | None" = None,
    ) -> tuple[ViewVerdict, ...]:
        """Why each view did or did not match, by its nearest row, beyond every limit too.

        The arguments are those of `match`. It reads every row several times: for single frames, at leisure.
        """
        return tuple(explain(self, batch, others, limits or BankLimits(), beside or Beside(), now_seconds))

    def nearest(
        self, algorithm: str, values: NDArray[np.uint8], radius: int, now_seconds: float = 0.0
    ) -> NDArray[np.int64]:
        """The distance from each hash of `values` (V, bits / 8) to the nearest row that counts, exactly: (V,) int64.

        `radius` + 1 where none is within it. Disputed, negative and disabled entries do not count.
        """
        found = np.full(len(values), radius + 1, dtype=np.int64)
        near = self.near(algorithm)
        if near is None:
            return found
        answers = near.search_nearest([value.tobytes() for value in values], radius)
        for place, (numbers, distances) in enumerate(answers):
            rows = near.rows_at(numbers[:_MOST_READ])
            for number, distance in enumerate(distances[:_MOST_READ].tolist()):
                if rows.opinion(number) in _TAKES_BACK and not self.is_disabled(rows.names[number], now_seconds):
                    found[place] = distance
                    break
        return found

    def nearest_negative(
        self, algorithm: str, values: NDArray[np.uint8], radius: int, now_seconds: float = 0.0
    ) -> NDArray[np.int64]:
        """The same to the nearest row of an entry of negative opinion, exactly: what takes a match back is not missed.

        Look-ups of long lists do not meet every row that is far, and of a hash that many entries have not all of them.
        """
        rows = self.harmless.get(algorithm)
        if rows is None:
            return np.full(len(values), radius + 1, dtype=np.int64)
        return rows.nearest(values, radius, lambda entry: self.is_disabled(entry, now_seconds))

    def is_disabled(self, entry: str, now_seconds: float) -> bool:
        """Whether an entry does not count at this Unix time."""
        return self.notes.get(entry, NO_NOTE).is_disabled(now_seconds)

    def is_quarantined(self, entry: str) -> bool:
        """Whether an entry may only ask for review, until an operator says otherwise."""
        return self.notes.get(entry, NO_NOTE).quarantined

    def entries(self) -> Iterator[tuple[str, str, Opinion]]:
        """Every row's (entry, algorithm, opinion)."""
        for algorithm, shelf in self.shelves.items():
            rows = shelf.live()
            for number, entry in enumerate(rows.names):
                yield entry, algorithm, rows.opinion(number)

    def rows(self, algorithm: str) -> BankRows | None:
        """The rows of one algorithm, or None."""
        shelf = self.shelves.get(algorithm)
        return None if shelf is None else shelf.live()

    def near(self, algorithm: str) -> NearRows | None:
        """Its rows of an algorithm by that algorithm's distance; None where it has none."""
        return self._near.get(algorithm) if self.rows_of(algorithm) else None

    def own_reach(self, algorithm: str, limits: BankLimits) -> int:
        """The limit in force for an algorithm other than PDQ."""
        return limits.max_distances.get(algorithm, self._distances.get(algorithm, 0))

    def _met(
        self, batch: ViewBatch, others: Sequence[ViewHash], limits: BankLimits, counted_rows: int | None
    ) -> Iterator[Met]:
        """What each algorithm's look-up met; of most frames nothing."""
        for algorithm, shelf in self.shelves.items():
            if len(shelf) == 0:
                continue
            if algorithm == PDQ:
                met = _met_by_batch(batch, shelf, limits, len(shelf) if counted_rows is None else counted_rows)
            else:
                hashes = [item for item in others if item.algorithm == algorithm and not _is_noise(item, limits)]
                reach = self.own_reach(algorithm, limits)
                met = _met_by_hashes(hashes, self._near[algorithm], reach, limits.min_quality) if hashes else None
            if met is not None:
                yield met

    def _taken_back(self, met: Met, negatives: "Negatives | None", now_seconds: float) -> NDArray[np.bool_]:
        """Tell of which hits a negative entry is at least as near to the same view: (P,) bool."""
        hits = met.hits
        views, places = np.unique(hits.query, return_inverse=True)
        nearest = np.full(len(views), met.asked.values.shape[1] * 8 + 1, dtype=np.int64)
        counts = met.judged.ranks > NOTHING
        if counts.any():
            asked = np.unique(places[counts])
            values, farthest = met.asked.values[views[asked]], int(hits.distance[counts].max())
            nearest[asked] = self.nearest_negative(met.asked.algorithm, values, farthest, now_seconds)
            if negatives is not None:
                nearest[asked] = np.minimum(nearest[asked], negatives.nearest(met.asked.algorithm, values, farthest))
        return np.asarray(hits.distance >= nearest[places])


class Negatives:
    """The negative banks, asked only about views that came near something, and then exactly.

    Args:
        banks: Those that count now.
        now_seconds: Unix time, for entries that are disabled for a while.
    """

    def __init__(self, banks: Sequence[Bank], now_seconds: float = 0.0) -> None:
        self._banks = tuple(banks)
        self._now_seconds = now_seconds

    def nearest(self, algorithm: str, values: NDArray[np.uint8], radius: int) -> NDArray[np.int64]:
        """As `Bank.nearest`, over all of them."""
        found = np.full(len(values), radius + 1, dtype=np.int64)
        for bank in self._banks:
            found = np.minimum(found, bank.nearest(algorithm, values, radius, self._now_seconds))
        return found


@dataclass(frozen=True, slots=True)
class Beside:
    """The other banks that a frame is held against together with this one.

    `counted_rows` is how many PDQ rows the list counts as beside theirs (`models.radii.counted_rows`); None for the
    bank alone.
    """

    counted_rows: int | None = None
    negatives: Negatives | None = None


def _met_by_batch(batch: ViewBatch, shelf: Shelf, limits: BankLimits, counted_rows: int) -> Met | None:
    radii = limits.radii(counted_rows)
    asked = np.flatnonzero(~noise_views(batch, limits.min_quality))
    hits = look_up(shelf, batch, asked, radii.vote)
    if len(hits) == 0:
        return None
    rows = shelf.rows_at(hits.row)
    judged = judge(batch, hits, met_rows(rows), radii, limits.min_quality)
    return Met(AskedViews.of_batch(batch), hits, rows, judged, len(shelf), counted_rows)


def _met_by_hashes(hashes: Sequence[ViewHash], near: NearRows, radius: int, min_quality: int) -> Met | None:
    asked = AskedViews.of_hashes(hashes)
    try:
        answers = near.search_nearest([item.fingerprint.value for item in hashes], radius)
    except PluginFailed:  # a stranger's algorithm: its fault costs its own matches alone
        return None
    hits = nearest_of_each(
        Hits.of(
            np.repeat(np.arange(len(answers)), [len(rows) for rows, _ in answers]),
            np.concatenate([rows for rows, _ in answers]),
            np.concatenate([distances for _, distances in answers]),
        )
    )
    if len(hits) == 0:
        return None
    count = len(hits)
    judged = Judged(
        ranks=other_ranks(asked, min_quality)[hits.query],
        limits=np.full(count, radius, dtype=np.int64),
        values=np.zeros(count),
        has_second=np.zeros(count, dtype=bool),
        is_sure=np.zeros(count, dtype=bool),
        second_limits=np.zeros(count, dtype=np.int64),
        is_plain=np.zeros(count, dtype=bool),
    )
    return Met(asked, hits, near.rows_at(hits.row), judged, len(near))


def _near(algorithm: HashAlgorithm | None, shelf: Shelf) -> NearRows:
    return OwnDistances(algorithm, shelf) if isinstance(algorithm, Plugin) and algorithm.has_index else shelf


def _is_noise(item: ViewHash, limits: BankLimits) -> bool:
    return item.fingerprint.quality < limits.min_quality and not item.fingerprint.is_stable
