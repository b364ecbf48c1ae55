"""From what was found in a frame to what should be done about its stream: pure.

No clock, no network, no state but the `History` that goes in and comes out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from detector.banks.rollout import place_of
from detector.events import Observation, SecondTestResult, Signal, Step
from models.bank_store import INCIDENT_BANK
from models.evidence import ClassScore, HashMatch, Opinion, SecondTest, Strength
from models.sequence import SequenceHistory, SequenceMatch, SequenceRules, observe

MIN_QUALITY_TO_CUT = 50
"""PDQ quality (0-100) below which facebook/ThreatExchange advises not to trust a hash; no rule can go lower."""

BITS_TO_CUT = 256
"""Shorter perceptual hashes collide by chance too often to act on alone."""

CHANCE_WORTH_A_LOOK = 1e-3
"""A hit that chance brings to more frames than one in so many is no reason to look closer: looking costs a burst."""

_OWN_HASH = "pdq"

_KINDS = ("hash", "sequence", "class")
"""What names a frame best first."""


@dataclass(frozen=True, slots=True)
class BankRule:
    """How far a bank's matches may go. `max_distance` in bits narrows the bank's own limit; None leaves it.

    `ratio` (0-1) is the part of the streams on which the bank may do what its step says; on the others it is a shadow.
    `plugins_may_cut` lets hashes of other packages act alone, as far as their matches may at all.
    """

    step: Step = Step.REVIEW
    max_distance: int | None = None
    min_quality: int = MIN_QUALITY_TO_CUT
    ratio: float = 1.0
    plugins_may_cut: bool = False


@dataclass(frozen=True, slots=True)
class ClassRule:
    """How far a class may go, and the scores (0-1, `>=` votes) from which a frame votes for review and for a cut."""

    step: Step
    review: float
    cut: float

    def __post_init__(self) -> None:
        """Refuse thresholds that would let a frame vote for a cut but not for review."""
        if not 0 <= self.review <= self.cut <= 1:
            raise ValueError(f"thresholds must hold 0 <= review <= cut <= 1, got {self.review} and {self.cut}")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What an operator decided.

    `banks` by bank name; a bank that is not named is at step review. `classes` by `model/label`; a class that is not
    named is off. A class acts when `votes_k` of a stream's last `votes_of` frames that its model judged voted for it.
    """

    banks: Mapping[str, BankRule] = field(default_factory=dict)
    classes: Mapping[str, ClassRule] = field(default_factory=dict)
    votes_k: int = 3
    votes_of: int = 5
    live: bool = True
    sequences: SequenceRules = field(default_factory=SequenceRules)

    def __post_init__(self) -> None:
        """Refuse a quorum that can never or always be reached."""
        if not 1 <= self.votes_k <= self.votes_of:
            raise ValueError(f"votes must hold 1 <= k <= of, got {self.votes_k} of {self.votes_of}")

    def bank_rule(self, bank: str, stream_id: str) -> BankRule:
        """How far a bank may go on one stream: the same stream always falls on the same side of a bank's ratio."""
        rule = self.banks.get(bank, BankRule())
        if rule.ratio >= 1 or rule.step <= Step.SHADOW or place_of(bank, stream_id) < rule.ratio:
            return rule
        return replace(rule, step=Step.SHADOW)


@dataclass(frozen=True, slots=True)
class History:
    """What one stream's last frames voted, by class, oldest first; at most `votes_of` votes for each class.

    `sequences` are their votes for known videos and pictures.
    """

    votes: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    sequences: SequenceHistory = field(default_factory=SequenceHistory)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one frame, with those before it, calls for.

    `signals` are strongest first; `action` is the strongest one's step, OFF without any. `votes` are (votes, of) of
    that signal: (1, 1) for a hash match, the distinct frames of a sequence. `is_live` is False where enforcement is
    off: then nothing is cut, whatever `action` says. `weak_hit`: something hit, but too weakly for what its rule would
    do: look closer. `is_at_cut`: the frame itself reached the threshold of a cut, quorum or not, and not by the
    incident bank: what is only like something that was cut must not stand for it.
    """

    action: Step
    is_live: bool
    signals: tuple[Signal, ...]
    votes: tuple[int, int]
    weak_hit: bool
    is_low_information: bool
    is_at_cut: bool = False


@dataclass(frozen=True, slots=True)
class _Reached:
    signal: Signal | None
    is_weak: bool
    votes: tuple[int, int] = (1, 1)


def decide(settings: PolicySettings, history: History, observation: Observation) -> tuple[History, Verdict]:
    """Judge one frame; returns the history to pass in with the stream's next frame, and the verdict."""
    inspection = observation.inspection
    after = _record(settings, history, observation)
    voters = tuple(match for match in inspection.matches if _may_vote(settings, observation, match))
    sequences, found = observe(
        settings.sequences, history.sequences, observation.arrived_at, inspection.fingerprint, voters
    )
    after = replace(after, sequences=sequences)
    reached = [
        *(_judge_sequence(settings, observation, sequence) for sequence in found),
        *(_judge_match(settings, observation, match) for match in inspection.matches),
        *(_judge_class(settings, after, score) for score in _valid_scores(settings, observation)),
    ]
    best: dict[tuple[str, str], _Reached] = {}
    for one in reached:
        if one.signal is None:
            continue
        other = best.get((one.signal.kind, one.signal.source))
        if other is None or other.signal is None or _strength(one.signal) < _strength(other.signal):
            best[one.signal.kind, one.signal.source] = one
    ordered = sorted(best.items(), key=lambda item: _strength(item[1].signal))
    signals = tuple(one.signal for _, one in ordered if one.signal is not None)
    action = signals[0].step if signals else Step.OFF
    verdict = Verdict(
        action=action,
        is_live=settings.live,
        signals=signals,
        votes=ordered[0][1].votes if ordered else (0, settings.votes_of),
        # A weak hit beside a cut needs no closer look: the stream is about to be gone.
        weak_hit=action is not Step.CUT and any(one.is_weak for one in reached),
        is_low_information=inspection.is_low_information,
        is_at_cut=any(one.step is Step.CUT and one.kind != "class" and one.bank != INCIDENT_BANK for one in signals)
        or any(_votes_for_cut(settings, after, score) for score in _valid_scores(settings, observation)),
    )
    return after, verdict


def for_pictures(settings: PolicySettings) -> PolicySettings:
    """The same rules for single pictures, where one sample is all there is: one vote of one decides."""
    return PolicySettings(settings.banks, settings.classes, votes_k=1, votes_of=1, live=settings.live)


def is_verified(rule: BankRule, observation: Observation, match: HashMatch) -> bool:
    """Whether one frame's match is good enough to act on alone, provided that it lies within the limit."""
    return (
        match.strength is Strength.CUT
        and match.opinion is Opinion.POSITIVE
        and match.bits >= BITS_TO_CUT
        and (match.algorithm == _OWN_HASH or rule.plugins_may_cut)
        and match.quality >= max(rule.min_quality, MIN_QUALITY_TO_CUT)
        and match.is_stable
        and not observation.inspection.is_low_information
        and not observation.is_corrupt
    )


def _judge_match(settings: PolicySettings, observation: Observation, match: HashMatch) -> _Reached:
    rule = settings.bank_rule(match.bank, observation.stream_id)
    if rule.step is Step.OFF or match.opinion is Opinion.NEGATIVE:
        return _Reached(None, is_weak=False)
    limit = match.max_distance if rule.max_distance is None else min(rule.max_distance, match.max_distance)
    may_act = rule.step >= Step.REVIEW and match.expected_false <= CHANCE_WORTH_A_LOOK
    if match.distance > limit or match.strength is Strength.VOTE:
        return _Reached(None, is_weak=may_act)
    reaches = Step.CUT if is_verified(rule, observation, match) else Step.REVIEW
    step = min(rule.step, reaches)
    signal = Signal(
        kind="hash",
        name=match.algorithm,
        source=f"{match.bank}/{match.entry}",
        step=step,
        threshold=limit,
        bank=match.bank,
        entry=match.entry,
        distance=match.distance,
        view=match.view,
        quality=match.quality,
        generation=match.generation,
        opinion=match.opinion.value,
        second_test=_second_test(match),
        expected_false=match.expected_false if match.expected_false > 0 else None,
        reaches=reaches,
    )
    return _Reached(signal, is_weak=may_act and step < rule.step)


def _second_test(match: HashMatch) -> SecondTestResult | None:
    if match.second_test is SecondTest.NONE or match.second_value is None or match.second_limit is None:
        return None
    return SecondTestResult(match.second_test.value, match.second_value, match.second_limit)


def _may_vote(settings: PolicySettings, observation: Observation, match: HashMatch) -> bool:
    rule = settings.bank_rule(match.bank, observation.stream_id)
    is_near = rule.max_distance is None or match.distance <= rule.max_distance
    is_seen = not observation.is_corrupt and not observation.inspection.is_low_information
    return rule.step is not Step.OFF and is_near and is_seen


def _judge_sequence(settings: PolicySettings, observation: Observation, sequence: SequenceMatch) -> _Reached:
    match = sequence.match
    rule = settings.bank_rule(match.bank, observation.stream_id)
    # What one frame may do by its distance does not bound what several may.
    is_sure = is_verified(rule, observation, replace(match, strength=Strength.CUT))
    step = rule.step if is_sure else min(rule.step, Step.REVIEW)
    signal = Signal(
        kind="sequence",
        name=match.algorithm,
        source=f"{match.bank}/{match.entry}",
        step=step,
        threshold=sequence.max_distance,
        bank=match.bank,
        entry=match.entry,
        distance=sequence.distance,
        view=match.view,
        quality=match.quality,
        generation=match.generation,
        opinion=match.opinion.value,
        frames=sequence.frames,
        reaches=Step.CUT if is_sure else Step.REVIEW,
    )
    return _Reached(signal, rule.step >= Step.REVIEW and step < rule.step, (sequence.frames, sequence.frames))


def _judge_class(settings: PolicySettings, history: History, score: ClassScore) -> _Reached:
    source = _class_name(score)
    rule = settings.classes[source]
    votes = history.votes[source]
    counts = {level: sum(vote >= level for vote in votes) for level in (Step.REVIEW, Step.CUT)}
    # Only a frame that votes itself can raise a signal: the quorum is reached by the vote that completes it.
    level = max((s for s, n in counts.items() if n >= settings.votes_k and votes[-1] >= s), default=Step.OFF)
    wanted = min(votes[-1], rule.step)
    step = min(level, rule.step)
    is_weak = rule.step >= Step.REVIEW and step < wanted
    if step is Step.OFF:
        return _Reached(None, is_weak)
    deciding = level if step is Step.SHADOW else step  # a shadow tells what it would have done
    signal = Signal(
        kind="class",
        name=source,
        source=source,
        step=step,
        threshold=rule.cut if deciding is Step.CUT else rule.review,
        score=score.score,
        view=score.view,
        model_sha256=score.model_sha256,
        provider=score.provider or None,
        precision=score.precision or None,
        is_reused=score.is_reused,
        reaches=level,
    )
    return _Reached(signal, is_weak, (counts[deciding], settings.votes_of))


def _votes_for_cut(settings: PolicySettings, history: History, score: ClassScore) -> bool:
    source = _class_name(score)
    return settings.classes[source].step is Step.CUT and history.votes[source][-1] is Step.CUT


def _valid_scores(settings: PolicySettings, observation: Observation) -> Iterator[ClassScore]:
    """The scores that may vote: of a named class, from a model that worked, on a frame with something to see."""
    inspection = observation.inspection
    if inspection.is_low_information:
        return
    seen: set[str] = set()
    for score in inspection.scores:
        name = _class_name(score)
        rule = settings.classes.get(name)
        if rule is None or rule.step is Step.OFF or score.model in inspection.failed_models or name in seen:
            continue
        if 0 <= score.score <= 1:  # also refuses NaN
            seen.add(name)
            yield score


def _record(settings: PolicySettings, history: History, observation: Observation) -> History:
    votes = {name: past for name, past in history.votes.items() if name in settings.classes}
    for score in _valid_scores(settings, observation):
        name = _class_name(score)
        rule = settings.classes[name]
        vote = Step.CUT if score.score >= rule.cut else Step.REVIEW if score.score >= rule.review else Step.OFF
        votes[name] = (*votes.get(name, ()), vote)[-settings.votes_of :]
    return replace(history, votes=votes)


def _class_name(score: ClassScore) -> str:
    return f"{score.model}/{score.label}"


def _strength(signal: Signal | None) -> tuple[int, int, float, str]:
    """Sort key: strongest step first; hashes, sequences, classes; nearest or surest first, then by name."""
    assert signal is not None
    margin = signal.distance if signal.distance is not None else -(signal.score or 0.0)
    return (-signal.step, _KINDS.index(signal.kind), margin, signal.source)
