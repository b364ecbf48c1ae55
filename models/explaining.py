"""Why a view of a frame did or did not match what a bank holds: the nearest row of each view, however far it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import BankRows
from models.evidence import Opinion, SecondTest, Strength
from models.hashing.registry import may_cut_alone
from models.hashing.view_batch import ViewBatch
from models.hits import Hits
from models.matching import (
    NOTHING,
    PDQ,
    Judged,
    acting_views,
    chance,
    judge,
    noise_views,
    trusted_views,
)
from models.naming import AskedViews, ViewHash, other_ranks
from models.radii import FAR_WINDOW_LIMIT, NEAR_WINDOW, PLAIN_REACH, SECOND_LIMIT, UNGATED, VOTE_SHARE_LIMIT, Radii
from models.shelf_rows import NearRows, look_up, met_rows
from models.shelves import Shelf

if TYPE_CHECKING:
    from models.banks import Bank, BankLimits, Beside

_CIRCLES: Final = (0.28, 0.4, 0.5, 1.0)
"""Parts of the hash's length within which the nearest row is sought; half of it is as far as chance lies."""

_CONSIDERED: Final = 32
"""Rows of each view that are considered, the nearest: one that matches is told before a nearer one that does not."""

_STRENGTHS: Final = tuple(Strength)


@unique
class Reason(StrEnum):
    """Why a row did or did not match a view."""

    MATCH = "match"
    TOO_FAR = "too_far"
    GATE = "gate"
    SECOND_TEST = "second_test"
    NOT_MET = "not_met"
    NOISE = "noise"
    OPINION = "opinion"
    TAKEN_BACK = "taken_back"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class ViewVerdict:
    """What one view of a frame came to in one bank, by the row that came nearest to a match.

    `limit` is the radius in force in bits: of the `strength` that was reached, else the widest there is for this view
    and list. `strength` is None where nothing matched. `expected_false` is 0 for other hashes than PDQ. `told` is the
    reason as one sentence.
    """

    bank: str
    view: str
    algorithm: str
    entry: str
    row: int
    bits: int
    distance: int
    limit: int
    quality: int
    is_stable: bool
    passes_shape: bool
    tier: int
    opinion: Opinion
    second_test: SecondTest
    second_value: float | None
    second_limit: float | None
    expected_false: float
    strength: Strength | None
    reason: Reason
    told: str


def explain(
    bank: "Bank",
    batch: ViewBatch,
    others: Sequence[ViewHash],
    limits: "BankLimits",
    beside: "Beside",
    now_seconds: float,
) -> Iterator[ViewVerdict]:
    """One verdict for each view, in the order of the batch and then of the others; none where there are no rows."""
    shelf = bank.shelves.get(PDQ)
    if shelf is not None:
        counted = bank.rows_of(PDQ) if beside.counted_rows is None else beside.counted_rows
        yield from _Explainer(bank, limits, beside, now_seconds).of_batch(batch, shelf, limits.radii(counted), counted)
    for algorithm in dict.fromkeys(item.algorithm for item in others):
        near = bank.near(algorithm)
        if near is not None and algorithm != PDQ:
            hashes = [item for item in others if item.algorithm == algorithm]
            yield from _Explainer(bank, limits, beside, now_seconds).of_hashes(hashes, near)


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """The rows near each view, judged.

    `widest` (V,) is the limit for anything at all, `is_met` (P,) whether a look-up meets the row, `is_noise` (V,)
    whether there is none, `may_act` (V,) whether a match by it may cut. `radii` are None for other hashes than PDQ.
    """

    asked: AskedViews
    hits: Hits
    rows: BankRows
    judged: Judged
    widest: NDArray[np.int64]
    is_met: NDArray[np.bool_]
    is_noise: NDArray[np.bool_]
    may_act: NDArray[np.bool_]
    counted_rows: int = 0
    radii: Radii | None = None


class _Explainer:
    def __init__(self, bank: "Bank", limits: "BankLimits", beside: "Beside", now_seconds: float) -> None:
        self._bank = bank
        self._limits = limits
        self._negatives = beside.negatives
        self._now_seconds = now_seconds

    def of_batch(self, batch: ViewBatch, shelf: Shelf, radii: Radii, counted: int) -> Iterator[ViewVerdict]:
        hits = _nearest(shelf, batch.values)
        rows = shelf.rows_at(hits.row)
        met = look_up(shelf, batch, np.arange(len(batch)), radii.vote)
        pairs = set(zip(met.query.tolist(), met.row.tolist(), strict=True))
        is_met = [pair in pairs for pair in zip(hits.query.tolist(), hits.row.tolist(), strict=True)]
        near = _Near(
            AskedViews.of_batch(batch),
            hits,
            rows,
            judge(batch, hits, met_rows(rows), radii, self._limits.min_quality),
            np.where(trusted_views(batch), radii.vote, min(UNGATED, radii.vote)),
            np.array(is_met, dtype=np.bool_) | (hits.distance > radii.vote),
            noise_views(batch, self._limits.min_quality),
            acting_views(batch.qualities, batch.is_stable, self._limits.min_quality),
            counted,
            radii,
        )
        yield from self._verdicts(near)

    def of_hashes(self, hashes: Sequence[ViewHash], rows: NearRows) -> Iterator[ViewVerdict]:
        asked = AskedViews.of_hashes(hashes)
        hits = _nearest(rows, asked.values)
        radius = self._bank.own_reach(asked.algorithm, self._limits)
        count = len(hits)
        ranks = np.where(hits.distance <= radius, other_ranks(asked, self._limits.min_quality)[hits.query], NOTHING)
        nothing, limits = np.zeros(count, dtype=np.bool_), np.full(count, radius, dtype=np.int64)
        near = _Near(
            asked,
            hits,
            rows.rows_at(hits.row),
            Judged(ranks.astype(np.int8), limits, np.zeros(count), nothing, nothing, limits, nothing),
            np.full(len(hashes), radius, dtype=np.int64),
            ~nothing,
            (np.asarray(asked.qualities) < self._limits.min_quality) & ~np.asarray(asked.is_stable),
            acting_views(asked.qualities, asked.is_stable, self._limits.min_quality),
        )
        yield from self._verdicts(near)

    def _verdicts(self, near: _Near) -> Iterator[ViewVerdict]:
        for view in range(len(near.asked.names)):
            places = np.flatnonzero(near.hits.query == view).tolist()
            verdicts = [self._verdict(near, view, place) for place in places]
            if verdicts:
                yield min(verdicts, key=_matches_first)

    def _verdict(self, near: _Near, view: int, place: int) -> ViewVerdict:
        asked, judged = near.asked, near.judged
        entry, opinion = near.rows.names[place], near.rows.opinion(place)
        distance = int(near.hits.distance[place])
        reason, why = self._reason(near, view, place)
        strength = _STRENGTHS[judged.ranks[place]] if reason is Reason.MATCH else None
        if strength is Strength.CUT and (opinion is not Opinion.POSITIVE or self._bank.is_quarantined(entry)):
            strength = Strength.REVIEW
            why = "its entry is quarantined" if opinion is Opinion.POSITIVE else f"its opinion is {opinion.value}"
        limit = int(judged.limits[place] if strength is not None else near.widest[view])
        test, value, second_limit, expected_false = SecondTest.NONE, None, None, 0.0
        if asked.algorithm == PDQ:
            test, second_limit = judged.second_test(place)
            value, is_sure = round(float(judged.values[place]), 6), bool(judged.is_sure[place])
            expected_false = chance(distance, near.counted_rows, len(asked.names), test, is_sure=is_sure)
        return ViewVerdict(
            bank=self._bank.name,
            view=asked.names[view],
            algorithm=asked.algorithm,
            entry=entry,
            row=int(near.hits.row[place]),
            bits=asked.values.shape[1] * 8,
            distance=distance,
            limit=limit,
            quality=int(asked.qualities[view]),
            is_stable=bool(asked.is_stable[view]),
            passes_shape=bool(asked.passes_shape[view]),
            tier=int(asked.tiers[view]),
            opinion=opinion,
            second_test=test,
            second_value=value,
            second_limit=second_limit,
            expected_false=expected_false,
            strength=strength,
            reason=reason,
            told=f"{_ASKS[strength]}: {why}" if strength is not None else why,
        )

    def _reason(self, near: _Near, view: int, place: int) -> tuple[Reason, str]:
        distance = int(near.hits.distance[place])
        if near.is_noise[view]:
            quality = int(near.asked.qualities[view])
            return Reason.NOISE, f"the view is not looked up: its quality is {quality} and its hash unstable"
        if distance > near.widest[view]:
            return self._too_far(near, view, distance)
        if not near.is_met[place]:
            return Reason.NOT_MET, "near enough, but the probes of a list so long do not meet it by this view"
        return self._within_reach(near, view, place)

    def _within_reach(self, near: _Near, view: int, place: int) -> tuple[Reason, str]:
        if near.judged.ranks[place] == NOTHING:
            limit = SECOND_LIMIT if near.judged.has_second[place] else VOTE_SHARE_LIMIT
            return Reason.SECOND_TEST, self._failed_test(near, place, limit, "to count at this distance")
        does_not_count = self._does_not_count(near, place)
        if does_not_count is not None:
            return does_not_count
        taken_by = self._taken_by(near, view, int(near.hits.distance[place]))
        if taken_by is not None:
            return Reason.TAKEN_BACK, f"taken back: a negative entry is {taken_by} bits from the same view"
        return Reason.MATCH, self._held_to(near, view, place)

    def _does_not_count(self, near: _Near, place: int) -> tuple[Reason, str] | None:
        if self._limits.is_disabled(self._now_seconds):
            return Reason.DISABLED, "the bank is disabled for now"
        if self._bank.is_disabled(near.rows.names[place], self._now_seconds):
            return Reason.DISABLED, "its entry is disabled for now"
        if self._limits.is_negative:
            return Reason.OPINION, "the bank is negative: it takes matches of others back and has none"
        if near.rows.opinion(place) is Opinion.NEGATIVE:
            return Reason.OPINION, "its opinion is negative: it takes matches back and is none"
        return None

    def _too_far(self, near: _Near, view: int, distance: int) -> tuple[Reason, str]:
        widest = int(near.widest[view])
        if near.radii is not None and distance <= near.radii.vote:
            return Reason.GATE, f"beyond {widest} bits, the limit for views of low quality or with too little structure"
        if near.radii is None:
            return Reason.TOO_FAR, f"beyond {widest} bits, the limit of {near.asked.algorithm}"
        return Reason.TOO_FAR, f"beyond {widest} bits, the widest limit of a list of {near.counted_rows} rows"

    def _failed_test(self, near: _Near, place: int, limit: float, what_for: str) -> str:
        value = float(near.judged.values[place])
        if near.judged.has_second[place]:
            return f"the second hash is {value:.0f} bits off, {limit:.0f} would do {what_for}"
        return f"{value:.3f} of the view's weight differs, {limit:g} would do {what_for}"

    def _held_to(self, near: _Near, view: int, place: int) -> str:
        """What holds a match to its strength."""
        limit = int(near.judged.limits[place])
        if near.radii is None:
            more = "vouch for themselves" if may_cut_alone(near.asked.algorithm) else "ask for no more"
            return f"within {limit} bits; hashes of {near.asked.algorithm} {more}"
        strength = _STRENGTHS[near.judged.ranks[place]]
        if strength is Strength.REVIEW and not near.may_act[view]:
            quality = int(near.asked.qualities[view])
            unstable = "" if near.asked.is_stable[view] else " and whose hash is unstable"
            return f"no cut by a view whose quality is {quality}{unstable}"
        if strength is Strength.CUT:
            tested = " with its second test passed" if near.judged.is_sure[place] else ""
            return f"within {limit} bits{tested}"
        return self._not_cut(near, view, place)

    def _not_cut(self, near: _Near, view: int, place: int) -> str:
        """What a match that a view could act on lacks for a cut."""
        assert near.radii is not None
        distance = int(near.hits.distance[place])
        if near.judged.is_plain[place]:
            most = near.radii.plain if near.judged.has_second[place] else min(PLAIN_REACH, near.radii.plain)
            return f"a row of next to no structure cuts within {most} bits of the frame as it is alone"
        if not near.judged.is_sure[place]:
            return self._failed_test(near, place, near.judged.second_test(place)[1], "for more")
        if near.rows.shows_window(place) and distance > NEAR_WINDOW:
            value = float(near.judged.values[place])
            if value > FAR_WINDOW_LIMIT:
                return f"a window so far off may cut with a second hash {FAR_WINDOW_LIMIT} bits off, not {value:.0f}"
        has_second = bool(near.judged.has_second[place])
        if not has_second and distance <= min(int(near.widest[view]), near.radii.share):
            return f"{distance} bits are too many for a cut by a view with so little in it"
        cut = min(int(near.widest[view]), near.radii.second if has_second else near.radii.share)
        return (
            f"{distance} bits are beyond {cut}, the limit for a cut by one frame in a list of {near.counted_rows} rows"
        )

    def _taken_by(self, near: _Near, view: int, distance: int) -> int | None:
        """The distance of a negative entry at least as near to a view, in this bank or a negative one."""
        algorithm, values = near.asked.algorithm, near.asked.values[view : view + 1]
        found = int(self._bank.nearest_negative(algorithm, values, distance, self._now_seconds)[0])
        if self._negatives is not None:
            found = min(found, int(self._negatives.nearest(algorithm, values, distance)[0]))
        return found if found <= distance else None


_ASKS: Final = {
    Strength.VOTE: "counts as one vote of several frames",
    Strength.REVIEW: "asks for a review",
    Strength.CUT: "may cut",
}


def _matches_first(verdict: ViewVerdict) -> tuple[int, int]:
    return (-1 - verdict.strength.rank if verdict.strength is not None else 0, verdict.distance)


def _nearest(rows: NearRows, values: NDArray[np.uint8]) -> Hits:
    """The nearest rows of each hash, sought in widening circles; none only where there are no rows."""
    left = list(range(len(values)))
    parts: list[Hits] = []
    for share in _CIRCLES:
        if not left:
            break
        radius = int(values.shape[1] * 8 * share)
        answers = rows.search_all([values[view].tobytes() for view in left], radius)
        for view, (numbers, distances) in zip(left, answers, strict=True):
            few = min(len(numbers), _CONSIDERED)
            parts.append(Hits(np.full(few, view, dtype=np.int64), numbers[:few], distances[:few]))
        left = [view for view, (numbers, _) in zip(left, answers, strict=True) if len(numbers) == 0]
    return Hits.joined(parts) if parts else Hits.none()
