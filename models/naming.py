"""From judged hits to named matches: one for each entry, a bounded number of them, the rest counted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import OPINION_CODES, BankRows
from models.evidence import HashMatch, Opinion, SecondTest, Strength
from models.hashing.algorithm import Fingerprint
from models.hashing.registry import may_cut_alone
from models.hashing.view_batch import ViewBatch
from models.hits import Hits
from models.matching import NOTHING, PDQ, Judged, acting_views, chance

_ROWS_PER_MATCH: Final = 8
"""Rows looked at for each match that is wanted: a video's entry has many rows alike."""

_MOST_READ: Final = 4096
"""Names read at most: a careless list can hold one hash a million times under entries that do not count."""

_STRENGTHS: Final = tuple(Strength)
_NEGATIVE: Final = OPINION_CODES.index(Opinion.NEGATIVE)


@dataclass(frozen=True, slots=True)
class ViewHash:
    """The fingerprint of one view of a frame under one algorithm."""

    view: str
    algorithm: str
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class BankMatches:
    """The strongest matches, the nearest first among like ones, one per entry and algorithm with its best view.

    `left_out` is how many more there were. `suppressed` entries came near too, and were taken back because a negative
    entry is at least as near to the same view.
    """

    matches: tuple[HashMatch, ...] = ()
    left_out: int = 0
    suppressed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class AskedViews:
    """The views of one frame under one algorithm, as arrays: what a look-up asks with and a match tells."""

    algorithm: str
    names: Sequence[str]
    values: NDArray[np.uint8]
    qualities: Sequence[int] | NDArray[np.int16]
    is_stable: Sequence[bool] | NDArray[np.bool_]
    passes_shape: Sequence[bool] | NDArray[np.bool_]
    tiers: Sequence[int] | NDArray[np.int8]

    @classmethod
    def of_batch(cls, batch: ViewBatch) -> "AskedViews":
        """The PDQ views."""
        return cls(PDQ, batch.names, batch.values, batch.qualities, batch.is_stable, batch.passes_shape, batch.tiers)

    @classmethod
    def of_hashes(cls, hashes: Sequence[ViewHash]) -> "AskedViews":
        """Views under one other algorithm; stability is the only gate that they have."""
        prints = [item.fingerprint for item in hashes]
        stable = [each.is_stable for each in prints]
        return cls(
            algorithm=hashes[0].algorithm,
            names=[item.view for item in hashes],
            values=np.frombuffer(b"".join(each.value for each in prints), np.uint8).reshape(len(prints), -1),
            qualities=[each.quality for each in prints],
            is_stable=stable,
            passes_shape=stable,
            tiers=[0] * len(prints),
        )


def other_ranks(asked: AskedViews, min_quality: int) -> NDArray[np.int8]:
    """What each view (V,) under another algorithm than PDQ may at most ask for, as `Strength.rank`."""
    best = Strength.CUT if may_cut_alone(asked.algorithm) else Strength.REVIEW
    fit = acting_views(asked.qualities, asked.is_stable, min_quality)
    return np.where(fit, best.rank, Strength.REVIEW.rank).astype(np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """The hits of one algorithm's look-up in a list of `list_rows`, their rows, and what they may ask for.

    `counted_rows` is how long a PDQ list counts as, else 0.
    """

    asked: AskedViews
    hits: Hits
    rows: BankRows
    judged: Judged
    list_rows: int
    counted_rows: int = 0


class EntryFacts(Protocol):
    """What naming asks of a bank."""

    @property
    def name(self) -> str:
        """The bank's."""
        ...

    @property
    def generation(self) -> str:
        """The bank's."""
        ...

    def is_disabled(self, entry: str, now_seconds: float) -> bool:
        """Whether an entry does not count at this Unix time."""
        ...

    def is_quarantined(self, entry: str) -> bool:
        """Whether an entry may only ask for review."""
        ...


class Naming:
    """Collects the matches of one frame in one bank."""

    def __init__(self, bank: EntryFacts, most: int, now_seconds: float) -> None:
        self._bank = bank
        self._most = most
        self._now_seconds = now_seconds
        self._best: dict[tuple[str, str], HashMatch] = {}
        self._suppressed: set[tuple[str, str]] = set()
        self._unread = 0

    def take(self, met: Met, taken_back: NDArray[np.bool_]) -> None:
        """Name what was met, the strongest and nearest first, and count what was taken back (P,) bool."""
        hits, ranks = met.hits, met.judged.ranks
        counts = np.flatnonzero((ranks > NOTHING) & (met.rows.opinions != _NEGATIVE))
        order = counts[
            np.lexsort(
                (hits.row[counts], hits.query[counts], hits.distance[counts], -ranks[counts], taken_back[counts])
            )
        ]
        read = 0
        named = 0
        for place in order[:_MOST_READ].tolist():
            if named == self._most * _ROWS_PER_MATCH:
                break
            read += 1
            entry = met.rows.names[place]
            if self._bank.is_disabled(entry, self._now_seconds):
                continue
            named += 1
            if taken_back[place]:
                self._suppressed.add((entry, met.asked.algorithm))
            else:
                self._take(met, place, entry)
        if hits.cut or read < len(order):
            seen = np.unique(hits.row[order[:read]])
            # A look-up that met too much counts a row again for each way in which it met it.
            unread = hits.cut + len(np.setdiff1d(hits.row[order[read:]], seen))
            self._unread += min(unread, met.list_rows - len(seen))

    def matches(self) -> BankMatches:
        """What was found, the strongest and nearest first."""
        found = strongest(self._best.values(), self._most)
        return BankMatches(
            found,
            len(self._best) - len(found) + self._unread,
            len(self._suppressed - self._best.keys()),
        )

    def _take(self, met: Met, place: int, entry: str) -> None:
        key = (entry, met.asked.algorithm)
        known = self._best.get(key)
        if known is None:
            # Hits come in the order of their weight, and what holds an entry back holds all its rows back alike, but
            # for their opinions.
            self._best[key] = self._match(met, place, entry)
        elif known.opinion is not Opinion.POSITIVE:
            self._best[key] = min(known, self._match(met, place, entry), key=by_weight)

    def _match(self, met: Met, place: int, entry: str) -> HashMatch:
        hits, judged, asked = met.hits, met.judged, met.asked
        view, row, distance = int(hits.query[place]), int(hits.row[place]), int(hits.distance[place])
        opinion = met.rows.opinion(place)
        if opinion is Opinion.POSITIVE and self._bank.is_quarantined(entry):
            opinion = Opinion.DISPUTED  # votes as well: several frames of it must not cut either
        strength = _STRENGTHS[judged.ranks[place]]
        if strength is Strength.CUT and opinion is not Opinion.POSITIVE:
            strength = Strength.REVIEW
        test, value, limit, expected_false = SecondTest.NONE, None, None, 0.0
        if asked.algorithm == PDQ:
            test, limit = judged.second_test(place)
            value, is_sure = round(float(judged.values[place]), 6), bool(judged.is_sure[place])
            expected_false = chance(distance, met.counted_rows, len(asked.names), test, is_sure=is_sure)
        return HashMatch(
            bank=self._bank.name,
            entry=entry,
            algorithm=asked.algorithm,
            bits=asked.values.shape[1] * 8,
            distance=distance,
            max_distance=int(judged.limits[place]),
            view=asked.names[view],
            quality=int(asked.qualities[view]),
            opinion=opinion,
            generation=self._bank.generation,
            strength=strength,
            second_test=test,
            second_value=value,
            second_limit=limit,
            position_ms=met.rows.position_ms(place),
            row=row,
            passes_shape=bool(asked.passes_shape[view]),
            is_stable=bool(asked.is_stable[view]),
            tier=int(asked.tiers[view]),
            bank_rows=met.counted_rows,
            expected_false=expected_false,
            view_hash=asked.values[view].tobytes(),
        )


def strongest(matches: Iterable[HashMatch], most: int) -> tuple[HashMatch, ...]:
    """At most so many matches, the strongest and nearest first, with the best of each bank and algorithm among them.

    What the others may do is not known here: a bank that only watches must not crowd out one that cuts, nor a hash that
    may not act one that may.
    """
    ordered = sorted(matches, key=by_weight)
    firsts: dict[tuple[str, str], int] = {}
    for place, match in enumerate(ordered):
        firsts.setdefault((match.bank, match.algorithm), place)
    first = set(firsts.values())
    chosen = sorted(range(len(ordered)), key=lambda place: (place not in first, place))[:most]
    return tuple(ordered[place] for place in sorted(chosen))


def by_weight(match: HashMatch) -> tuple[int, float, str, str]:
    """Sort key: the strongest first, then the nearest, then by name."""
    return (-match.strength.rank, match.distance / match.bits, match.bank, match.entry)
