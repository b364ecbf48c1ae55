"""Sequences: a known video recognised by several of its frames, each of which alone would be too far to act on. Pure.

One frame at 64 bits is chance in a long list; two *different* frames that both come near frames of the same video, in
the order in which it plays, hardly are. What makes two frames different decides everything: a still scene repeats its
chance hit in every sample, and such repeats prove nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Final

import numpy as np

from models.evidence import HashMatch, Opinion, SecondTest
from models.false_matches import HASH_BITS, VIEWS_PER_FRAME, VOTE_TEST_RATE, pair_rate
from models.hashing.plainness import plain
from models.matching import PDQ, TRUSTED_QUALITY

FALSE_PER_FRAME: Final = 1e-7
"""False sequences of one kind (so many frames, in order or not) to expect in one frame against one bank, at most: the
radii of long lists are narrowed to it."""

ROWS_IN_REACH: Final = 42
"""Rows of one video that a second chance hit may meet and still look in order: about 21 s of it, two rows a second."""


@dataclass(frozen=True, slots=True)
class Quorum:
    """So many distinct frames within so many bits (of 256), in order, make a sequence."""

    frames: int
    distance: int

    def __post_init__(self) -> None:
        """Refuse a quorum of one: a single frame acts by the single frame's rules."""
        if self.frames < 2 or not 0 <= self.distance <= HASH_BITS:
            raise ValueError(f"a quorum has 2 frames or more and 0..{HASH_BITS} bits, got {self}")


@dataclass(frozen=True, slots=True)
class SequenceRules:
    """What makes a sequence, and how much is remembered.

    Frames that are out of order count too, as those of a video that is cut up or jumped about in are: they take one
    frame more. `distinct_bits`: less than this apart, two frames are one. `scene_bits`: a known picture has no order
    and looks the same each time, so its frames must show scenes that have nothing to do with each other; unrelated
    ones lie 128 bits apart with a standard deviation of 8.
    """

    quorums: tuple[Quorum, ...] = (Quorum(2, 64), Quorum(3, 72))
    within_seconds: float = 10.0
    slowest: float = 0.5
    fastest: float = 2.0
    tolerance_seconds: float = 1.5
    """Added to what speed allows: rows are half a second apart, and frames near a cut look like those behind it."""
    distinct_bits: int = 24
    scene_bits: int = 96
    samples_per_second: float = 1.0
    """How often frames usually come; only the expected rate of false sequences depends on it."""
    most_items: int = 64
    most_votes: int = 8


@dataclass(frozen=True, slots=True)
class Vote:
    """One frame that came near one row of an item. `frame` is the frame's own hash, `looked` that of the view.

    `is_tested`: its second hash was near too, which few chance hits' are. `quality`, `is_stable` and `opinion` are the
    match's: they bound what a sequence may do as they bound a single frame. What is not tested is not stable either
    where the view has next to no structure (`models.hashing.plainness`): many bare hashes are near such a one.
    """

    at_seconds: float
    frame: int
    looked: int
    view: str
    row: int
    position_seconds: float | None
    distance: int
    is_tested: bool
    quality: int
    is_stable: bool
    opinion: Opinion

    @property
    def is_sound(self) -> bool:
        """Whether it may take part in what cuts."""
        return self.quality >= TRUSTED_QUALITY and self.is_stable and self.opinion is Opinion.POSITIVE


ItemKey = tuple[str, str, str]
"""Bank, entry, algorithm."""


@dataclass(frozen=True, slots=True)
class SequenceHistory:
    """The votes of one stream's last frames by item, the item that was met longest ago first. Bounded by the rules."""

    votes: Mapping[ItemKey, tuple[Vote, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SequenceMatch:
    """A known item recognised by `frames` distinct frames; `match` is the last one's, `distance` the farthest's.

    The quality, stability and opinion of `match` are the worst of all its frames: two that may only ask for a review
    are no cut together with a third.

    `max_distance` is the radius in force for so many frames in a list of that length, under which a frame is expected
    to complete `FALSE_PER_FRAME` such sequences by chance at most. `since_seconds` is the time of the first frame.
    """

    match: HashMatch
    frames: int
    distance: int
    max_distance: int
    in_order: bool
    since_seconds: float


def observe(
    rules: SequenceRules,
    history: SequenceHistory,
    at_seconds: float,
    fingerprint: bytes,
    matches: Sequence[HashMatch],
) -> tuple[SequenceHistory, tuple[SequenceMatch, ...]]:
    """Take in one frame: its time, its own 32-byte hash, and the rows that its views came near.

    Returns the history to pass in with the stream's next frame, and the items of which this frame completed or went on
    with a sequence, the nearest first. Frames may come late, as those of a GOP that is decoded whole do: their order is
    by time.
    """
    votes = {
        key: kept
        for key, past in history.votes.items()
        if (kept := tuple(vote for vote in past if abs(at_seconds - vote.at_seconds) <= rules.within_seconds))
    }
    frame = int.from_bytes(fingerprint)
    found: list[SequenceMatch] = []
    for key, match in _nearest_by_item(rules, matches).items():
        vote = _vote_of(match, at_seconds, frame)
        past = votes.pop(key, ())
        alike = [other for other in past if not _is_distinct(rules, vote, other)]
        if all(vote.distance < other.distance for other in alike):
            past = (*(other for other in past if other not in alike), vote)[-rules.most_votes :]
            found.extend(_sequence(rules, vote, past[:-1], match))
        votes[key] = past  # now the last one
    for key in list(votes)[: max(0, len(votes) - rules.most_items)]:
        del votes[key]
    found.sort(key=lambda one: (-one.frames, one.distance, one.match.bank, one.match.entry))
    return SequenceHistory(votes), tuple(found)


def expected_false(
    rules: SequenceRules, quorum: Quorum, rows: int, *, in_order: bool = True, second_test: bool = False
) -> float:
    """False sequences to expect in one frame: a chance hit on any of `rows`, then others on the same video in time.

    The distances of distinct frames are taken as independent; where the order is not asked for, any row of a video may
    be met, of which ten times as many are reckoned. `second_test`: only rows that pass one count.
    """
    frames = quorum.frames
    hit = pair_rate(quorum.distance) * VIEWS_PER_FRAME * (VOTE_TEST_RATE if second_test else 1.0)
    reach = min(rows, ROWS_IN_REACH * (1 if in_order else 10))
    others = max(frames - 1, round(rules.within_seconds * rules.samples_per_second))
    return rows * hit * comb(others, frames - 1) * float(min(1.0, hit * reach) ** (frames - 1))


def radius_in_force(
    rules: SequenceRules, quorum: Quorum, rows: int, *, in_order: bool = True, second_test: bool = False
) -> int:
    """The widest radius up to the quorum's that keeps a list of so many rows within `FALSE_PER_FRAME`; -1: none."""
    for radius in range(quorum.distance, -1, -1):
        narrowed = Quorum(quorum.frames, radius)
        if expected_false(rules, narrowed, rows, in_order=in_order, second_test=second_test) <= FALSE_PER_FRAME:
            return radius
    return -1


def _nearest_by_item(rules: SequenceRules, matches: Sequence[HashMatch]) -> dict[ItemKey, HashMatch]:
    """One match for each item, the nearest; no more items than are remembered. The curve of chance is PDQ's alone."""
    farthest = max(quorum.distance for quorum in rules.quorums)
    nearest: dict[ItemKey, HashMatch] = {}
    for match in sorted(matches, key=lambda match: match.distance):
        if match.algorithm != PDQ or match.distance > farthest or match.opinion is Opinion.NEGATIVE:
            continue
        nearest.setdefault((match.bank, match.entry, match.algorithm), match)
        if len(nearest) == rules.most_items:
            break
    return nearest


def _vote_of(match: HashMatch, at_seconds: float, frame: int) -> Vote:
    is_tested = _passed(match)
    looked = match.view_hash or frame.to_bytes(HASH_BITS // 8)
    return Vote(
        at_seconds=at_seconds,
        frame=frame,
        looked=int.from_bytes(looked),
        view=match.view,
        row=match.row,
        position_seconds=None if match.position_ms is None else match.position_ms / 1000,
        distance=match.distance,
        is_tested=is_tested,
        quality=match.quality,
        is_stable=match.is_stable and (is_tested or not _is_plain(looked)),
        opinion=match.opinion,
    )


def _passed(match: HashMatch) -> bool:
    """Whether the second hash says so too. The weighted share is no such test: two in three strangers pass it."""
    return (
        match.second_test is SecondTest.SECOND_HASH
        and match.second_value is not None
        and match.second_limit is not None
        and match.second_value <= match.second_limit
    )


def _is_plain(looked: bytes) -> bool:
    return bool(plain(np.frombuffer(looked, dtype=np.uint8)[None])[0])


def _is_distinct(rules: SequenceRules, one: Vote, other: Vote) -> bool:
    """Whether two frames are two pieces of evidence, and not the same look at the same thing twice.

    Of a video: what was looked at differs, and so does the frame, or the same view shows another row of it (a small
    picture in surroundings that stand still). Something that moves over a still scene changes the frame's own hash;
    a view that leaves it out does not change, and repeats its chance hit. Where no second hash bears both frames out
    they must show unrelated scenes: a camera that stands still, with people walking by, met the same stranger again in
    one frame of four.
    """
    frames_apart = (one.frame ^ other.frame).bit_count()
    has_order = one.position_seconds is not None and other.position_seconds is not None
    if not (has_order and one.is_tested and other.is_tested):
        return frames_apart > rules.scene_bits
    if (one.looked ^ other.looked).bit_count() <= rules.distinct_bits:
        return False
    return frames_apart > rules.distinct_bits or (one.view == other.view and one.row != other.row)


@dataclass(frozen=True, slots=True)
class _Limit:
    """How far so many frames may lie, those that did not pass a second test and those that did."""

    frames: int
    in_order: bool
    radii: tuple[int, int]


@lru_cache(maxsize=1024)
def _limits(rules: SequenceRules, rows: int) -> tuple[_Limit, ...]:
    """What makes a sequence in a list of so many rows, in the order in which it is tried."""
    found = []
    for quorum in rules.quorums:
        for in_order in (True, False):
            needed = Quorum(quorum.frames + (not in_order), quorum.distance)
            plain, tested = (
                radius_in_force(rules, needed, rows, in_order=in_order, second_test=is_tested)
                for is_tested in (False, True)
            )
            found.append(_Limit(needed.frames, in_order, (plain, tested)))
    return tuple(found)


def _sequence(rules: SequenceRules, last: Vote, others: Sequence[Vote], match: HashMatch) -> Iterator[SequenceMatch]:
    """The first quorum that the last vote completes with some of the others, at most one; of sound votes if it can."""
    sound = [vote for vote in others if vote.is_sound] if last.is_sound else []
    for candidates in (sound, others):
        found = _quorum(rules, last, candidates, match) if candidates else None
        if found is not None:
            yield found
            return


def _quorum(rules: SequenceRules, last: Vote, others: Sequence[Vote], match: HashMatch) -> SequenceMatch | None:
    for limit in _limits(rules, match.bank_rows):
        if last.distance > limit.radii[last.is_tested]:
            continue
        near = [vote for vote in others if vote.distance <= limit.radii[vote.is_tested]]
        groups = _groups(near, last, limit.frames)
        group = next((one for one in groups if not limit.in_order or _plays(rules, one)), None)
        if group is not None:
            return SequenceMatch(
                match=replace(
                    match,
                    quality=min(vote.quality for vote in group),
                    is_stable=all(vote.is_stable for vote in group),
                    opinion=next(
                        (vote.opinion for vote in group if vote.opinion is not Opinion.POSITIVE), last.opinion
                    ),
                ),
                frames=limit.frames,
                distance=max(vote.distance for vote in group),
                max_distance=max(limit.radii[vote.is_tested] for vote in group),
                in_order=limit.in_order,
                since_seconds=min(vote.at_seconds for vote in group),
            )
    return None


def _groups(others: Sequence[Vote], last: Vote, frames: int) -> Iterator[tuple[Vote, ...]]:
    for group in combinations(others, frames - 1):
        yield (*group, last)


def _plays(rules: SequenceRules, votes: Sequence[Vote]) -> bool:
    """Whether the places in the video go with the times, forwards or backwards; what has no places has no order."""
    in_time = sorted(votes, key=lambda vote: vote.at_seconds)
    return any(
        all(_follows(rules, earlier, later, direction) for earlier, later in combinations(in_time, 2))
        for direction in (1, -1)
    )


def _follows(rules: SequenceRules, earlier: Vote, later: Vote, direction: int) -> bool:
    if earlier.position_seconds is None or later.position_seconds is None:
        return True
    took = later.at_seconds - earlier.at_seconds
    moved = direction * (later.position_seconds - earlier.position_seconds)
    slack = rules.tolerance_seconds
    return rules.slowest * took - slack <= moved <= rules.fastest * took + slack
