"""What a frame, with those before it, calls for."""

from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.events import Observation, SecondTestResult, Signal, Step
from detector.policy import BankRule, ClassRule, History, PolicySettings, Verdict, decide, for_pictures
from models.evidence import ClassScore, HashMatch, Inspection, Opinion, SecondTest, Strength

MATCH = HashMatch(
    bank="CARDS",
    entry="card-1",
    algorithm="pdq",
    bits=256,
    distance=10,
    max_distance=31,
    view="identity",
    quality=80,
    opinion=Opinion.POSITIVE,
    generation="g1",
)
CUTTING = PolicySettings(banks={"CARDS": BankRule(Step.CUT)})
VOTING = PolicySettings(classes={"cards/red": ClassRule(Step.CUT, review=0.6, cut=0.9)})


def _score(score: float, label: str = "red") -> ClassScore:
    return ClassScore("cards", label, score, "abc")


def _observation(
    *matches: HashMatch, scores: tuple[ClassScore, ...] = (), is_corrupt: bool = False, **inspection: object
) -> Observation:
    seen = replace(Inspection(80, True, False, b"", matches, scores), **inspection)  # type: ignore[arg-type]
    return Observation("s", "1", 0, "keyframe", 1.0, 1.0, 1.0, None, is_corrupt, seen)


def _one(settings: PolicySettings, observation: Observation) -> Verdict:
    return decide(settings, History(), observation)[1]


def _vote(settings: PolicySettings, *scores: float) -> Verdict:
    history = History()
    for score in scores:
        history, verdict = decide(settings, history, _observation(scores=(_score(score),)))
    return verdict


def test_a_verified_match_cuts_on_one_frame() -> None:
    """A sure match takes its bank's full step at once, and its signal says all that an alert tells."""
    verdict = _one(CUTTING, _observation(MATCH))
    assert (verdict.action, verdict.is_live, verdict.votes, verdict.weak_hit) == (Step.CUT, True, (1, 1), False)
    (signal,) = verdict.signals
    assert (signal.kind, signal.name, signal.source) == ("hash", "pdq", "CARDS/card-1")
    assert (signal.distance, signal.threshold, signal.quality, signal.generation) == (10, 31, 80, "g1")


@pytest.mark.parametrize(
    "observation",
    [
        _observation(replace(MATCH, bits=64, algorithm="phash")),
        _observation(replace(MATCH, opinion=Opinion.DISPUTED)),
        _observation(replace(MATCH, opinion=Opinion.SEED)),
        _observation(replace(MATCH, quality=49)),
        _observation(replace(MATCH, is_stable=False)),
        _observation(replace(MATCH, strength=Strength.REVIEW, distance=45, max_distance=56, expected_false=1e-5)),
        _observation(MATCH, is_low_information=True),
        _observation(MATCH, is_corrupt=True),
    ],
    ids=["64-bit", "disputed", "seed", "low-quality", "unstable", "far", "low-information", "corrupt"],
)
def test_a_match_that_is_not_sure_only_asks_for_review(observation: Observation) -> None:
    """Whatever makes a match doubtful caps it at review, and asks for a closer look."""
    verdict = _one(CUTTING, observation)
    assert (verdict.action, verdict.weak_hit) == (Step.REVIEW, True)


def test_the_view_that_matched_must_be_stable() -> None:
    """A picture in flat surroundings is found by the view that shows it alone; that one's stability decides."""
    assert _one(CUTTING, _observation(MATCH, is_stable=False)).action is Step.CUT


@pytest.mark.parametrize(("chance", "looks_closer"), [(1e-6, True), (1e-3, True), (2e-3, False), (5.0, False)])
def test_what_chance_often_brings_is_no_reason_to_look_closer(chance: float, looks_closer: object) -> None:
    """A hit that may only vote raises no signal; it asks for a closer look where strangers seldom come so near."""
    vote = replace(MATCH, strength=Strength.VOTE, distance=70, max_distance=72, expected_false=chance)
    for step in (Step.REVIEW, Step.CUT):
        verdict = _one(PolicySettings(banks={"CARDS": BankRule(step)}), _observation(vote))
        assert (verdict.action, verdict.signals, verdict.weak_hit) == (Step.OFF, (), looks_closer)
    review = replace(vote, strength=Strength.REVIEW)
    verdict = _one(CUTTING, _observation(review))
    assert (verdict.action, verdict.weak_hit) == (Step.REVIEW, looks_closer)


def test_a_signal_tells_what_decided() -> None:
    """The limit in force, the second test with its limit, and the chance of such a hit go with the signal."""
    tested = replace(
        MATCH,
        distance=44,
        max_distance=48,
        second_test=SecondTest.SHARE,
        second_value=0.05,
        second_limit=0.17,
        expected_false=1e-7,
    )
    (signal,) = _one(CUTTING, _observation(tested)).signals
    assert (signal.step, signal.threshold, signal.expected_false) == (Step.CUT, 48, 1e-7)
    assert signal.second_test == SecondTestResult("share", 0.05, 0.17)
    assert _one(CUTTING, _observation(MATCH)).signals[0].second_test is None


def test_no_rule_lowers_the_quality_that_a_cut_needs() -> None:
    """An operator can ask for more quality than 50, never for less."""
    for floor, quality, action in [(0, 49, Step.REVIEW), (0, 50, Step.CUT), (90, 80, Step.REVIEW), (90, 90, Step.CUT)]:
        settings = PolicySettings(banks={"CARDS": BankRule(Step.CUT, min_quality=floor)})
        assert _one(settings, _observation(replace(MATCH, quality=quality))).action is action


def test_a_narrower_limit_holds() -> None:
    """A match beyond the rule's own limit is no match, only a reason to look closer; a wider limit widens nothing."""
    narrow = PolicySettings(banks={"CARDS": BankRule(Step.CUT, max_distance=10)})
    assert _one(narrow, _observation(MATCH)).action is Step.CUT
    beyond = _one(narrow, _observation(replace(MATCH, distance=11)))
    assert (beyond.action, beyond.signals, beyond.weak_hit) == (Step.OFF, (), True)
    wide = PolicySettings(banks={"CARDS": BankRule(Step.CUT, max_distance=99)})
    assert _one(wide, _observation(replace(MATCH, distance=32))).signals == ()


@pytest.mark.parametrize(
    ("step", "action", "signals"),
    [(Step.OFF, Step.OFF, 0), (Step.SHADOW, Step.SHADOW, 1), (Step.REVIEW, Step.REVIEW, 1)],
)
def test_a_bank_goes_no_further_than_its_step(step: Step, action: Step, signals: int) -> None:
    """Off says nothing, shadow is only recorded, review never cuts; none of them asks for a closer look."""
    verdict = _one(PolicySettings(banks={"CARDS": BankRule(step)}), _observation(MATCH))
    assert (verdict.action, len(verdict.signals), verdict.weak_hit) == (action, signals, False)


def test_a_bank_that_nobody_named_is_reviewed() -> None:
    """A bank made on the command line works before any config speaks of it, but cannot cut."""
    assert _one(PolicySettings(), _observation(MATCH)).action is Step.REVIEW


def test_a_negative_entry_is_ignored() -> None:
    """An entry that its list calls harmless says nothing; what it takes back is gone before."""
    harmless = replace(MATCH, entry="harmless", opinion=Opinion.NEGATIVE, distance=0)
    assert _one(CUTTING, _observation(harmless)).signals == ()
    assert _one(CUTTING, _observation(harmless, MATCH)).action is Step.CUT


def test_one_entry_gives_one_signal() -> None:
    """An entry that several views hit is told once, by the view that carries furthest and lies nearest."""
    weak = replace(MATCH, view="mirror", distance=2, quality=10)
    near = replace(MATCH, view="trim", distance=8)
    verdict = _one(CUTTING, _observation(weak, MATCH, near, replace(MATCH, entry="card-2", distance=20)))
    assert [(s.entry, s.view, s.step) for s in verdict.signals] == [
        ("card-1", "trim", Step.CUT),
        ("card-2", "identity", Step.CUT),
    ]
    assert not verdict.weak_hit


def test_with_enforcement_off_a_cut_is_not_live() -> None:
    """The action stays what it would be; only `is_live` says that nothing happens."""
    verdict = _one(replace(CUTTING, live=False), _observation(MATCH))
    assert (verdict.action, verdict.is_live) == (Step.CUT, False)


@pytest.mark.parametrize(
    ("scores", "action", "votes", "weak"),
    [
        ((0.95,), Step.OFF, (0, 5), True),
        ((0.5,), Step.OFF, (0, 5), False),
        ((0.95, 0.95), Step.OFF, (0, 5), True),
        ((0.95, 0.95, 0.95), Step.CUT, (3, 5), False),
        ((0.9, 0.9, 0.9), Step.CUT, (3, 5), False),
        ((0.89, 0.95, 0.95), Step.REVIEW, (3, 5), True),
        ((0.6, 0.6, 0.6), Step.REVIEW, (3, 5), False),
        ((0.95, 0.1, 0.95, 0.1, 0.95), Step.CUT, (3, 5), False),
        ((0.95, 0.1, 0.1, 0.95, 0.1, 0.95), Step.OFF, (0, 5), True),
        ((0.95, 0.95, 0.95, 0.7), Step.REVIEW, (4, 5), False),
        ((0.95, 0.95, 0.95, 0.1), Step.OFF, (0, 5), False),
        ((0.95,) * 7, Step.CUT, (5, 5), False),
    ],
)
def test_a_class_needs_k_of_the_last_n(
    scores: tuple[float, ...], action: Step, votes: tuple[int, int], weak: object
) -> None:
    """Three votes among the last five frames act, at the strongest threshold that three reach; fewer look closer."""
    verdict = _vote(VOTING, *scores)
    assert (verdict.action, verdict.votes, verdict.weak_hit) == (action, votes, weak)


@pytest.mark.parametrize(("step", "threshold"), [(Step.SHADOW, 0.9), (Step.REVIEW, 0.6), (Step.CUT, 0.9)])
def test_a_class_goes_no_further_than_its_step(step: Step, threshold: float) -> None:
    """The signal carries the step that was reached and the threshold that it was reached by."""
    settings = PolicySettings(classes={"cards/red": ClassRule(step, 0.6, 0.9)})
    (signal,) = _vote(settings, 0.95, 0.95, 0.95).signals
    assert (signal.step, signal.threshold, signal.source, signal.score) == (step, threshold, "cards/red", 0.95)
    off = PolicySettings(classes={"cards/red": ClassRule(Step.OFF, 0.6, 0.9)})
    assert (_vote(off, 0.95, 0.95, 0.95).signals, _vote(off, 0.95).weak_hit) == ((), False)


def test_frames_that_showed_nothing_do_not_vote() -> None:
    """Low-information frames, failed models, other classes and impossible scores neither count nor age a vote."""
    blanks = [
        _observation(is_low_information=True),
        _observation(scores=(_score(0.99),), is_low_information=True),
        _observation(scores=(_score(0.99),), failed_models=("cards",)),
        _observation(scores=(_score(0.99, "blue"),)),
        _observation(scores=(_score(float("nan")),)),
        _observation(scores=(_score(7.0),)),
        _observation(),
    ]
    history = History()
    for hit in range(3):
        for blank in blanks:
            history, verdict = decide(VOTING, history, blank)
            assert (verdict.action, verdict.weak_hit) == (Step.OFF, False)
        history, verdict = decide(VOTING, history, _observation(scores=(_score(0.95),)))
        assert verdict.action is (Step.CUT if hit == 2 else Step.OFF)


def test_a_picture_counts_as_one_sample() -> None:
    """Where one sample is all there is, one vote decides."""
    assert _vote(for_pictures(VOTING), 0.95).action is Step.CUT


def test_the_strongest_signal_comes_first() -> None:
    """A shadow class beside a cutting hash changes nothing; the alert leads with what decides."""
    settings = PolicySettings(CUTTING.banks, {"cards/red": ClassRule(Step.SHADOW, 0.1, 0.2)}, votes_k=1, votes_of=1)
    verdict = _one(settings, _observation(MATCH, scores=(_score(0.9),)))
    assert [(s.kind, s.step) for s in verdict.signals] == [("hash", Step.CUT), ("class", Step.SHADOW)]
    assert (verdict.action, verdict.votes) == (Step.CUT, (1, 1))


@pytest.mark.parametrize(("review", "cut"), [(0.9, 0.6), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_thresholds_that_make_no_sense_are_refused(review: float, cut: float) -> None:
    """A class rule must hold 0 <= review <= cut <= 1."""
    with pytest.raises(ValueError, match="review <= cut"):
        ClassRule(Step.CUT, review, cut)


@pytest.mark.parametrize(("k", "of"), [(0, 5), (6, 5)])
def test_a_quorum_that_cannot_be_is_refused(k: int, of: int) -> None:
    """K of n must be reachable, and not always reached."""
    with pytest.raises(ValueError, match="k <= of"):
        PolicySettings(votes_k=k, votes_of=of)


@given(
    st.lists(st.floats(0, 1), max_size=40),
    st.sampled_from(list(Step)),
    st.integers(1, 5).flatmap(lambda of: st.tuples(st.integers(1, of), st.just(of))),
)
def test_votes_match_a_plain_count(scores: list[float], step: Step, quorum: tuple[int, int]) -> None:
    """For any run of scores the action is what counting the last n frames by hand gives, within the rule's step."""
    k, of = quorum
    settings = PolicySettings(classes={"cards/red": ClassRule(step, 0.4, 0.7)}, votes_k=k, votes_of=of)
    history = History()
    for end in range(1, len(scores) + 1):
        before = dict(history.votes)
        later, verdict = decide(settings, history, _observation(scores=(_score(scores[end - 1]),)))
        assert history.votes == before
        history = later
        last = scores[max(0, end - of) : end]
        reached = [
            level
            for level, threshold in ((Step.REVIEW, 0.4), (Step.CUT, 0.7))
            if sum(s >= threshold for s in last) >= k and last[-1] >= threshold
        ]
        assert verdict.action is min(max(reached, default=Step.OFF), step)
        assert all(len(votes) <= of for votes in history.votes.values())


@given(st.sampled_from(list(Step)), st.data())
def test_adding_doubt_never_raises_the_action(step: Step, data: st.DataObject) -> None:
    """Each doubt about a match keeps or lowers what one without it would do, in any combination."""
    doubts = [
        lambda o, m: (o, replace(m, bits=64)),
        lambda o, m: (o, replace(m, quality=30)),
        lambda o, m: (o, replace(m, opinion=Opinion.DISPUTED)),
        lambda o, m: (replace(o, is_corrupt=True), m),
        lambda o, m: (o, replace(m, distance=40)),
        lambda o, m: (o, replace(m, strength=min(m.strength, Strength.REVIEW, key=lambda s: s.rank))),
        lambda o, m: (o, replace(m, strength=Strength.VOTE)),
    ]
    chosen = data.draw(st.sampled_from([c for n in range(8) for c in combinations(doubts, n)]))
    settings = PolicySettings(banks={"CARDS": BankRule(step)})
    observation, match = _observation(), MATCH
    last = _one(settings, _observation(MATCH)).action
    for doubt in chosen:
        observation, match = doubt(observation, match)
        now = replace(observation, inspection=replace(observation.inspection, matches=(match,)))
        action = _one(settings, now).action
        assert action <= last
        last = action


def _film(number: int, **change: Any) -> Observation:
    """A frame of a known video in a bank of 500 rows, 60 bits away: too far to act on alone."""
    own, looked = (Random(f"{what} {number}").randbytes(32) for what in ("frame", "view"))
    match = replace(
        MATCH, distance=60, max_distance=72, strength=Strength.VOTE, row=number, position_ms=1000 * number,
        bank_rows=500, view_hash=looked, second_test=SecondTest.SECOND_HASH, second_value=60.0, second_limit=96.0,
    )  # fmt: skip
    seen = _observation(replace(match, **change.pop("match", {})), fingerprint=own, **change)
    return replace(seen, arrived_at=float(number))


def _sequences(settings: PolicySettings, *frames: Observation) -> list[Signal]:
    history, found = History(), []
    for frame in frames:
        history, verdict = decide(settings, history, frame)
        found += [signal for signal in verdict.signals if signal.kind == "sequence"]
    return found


def test_a_sequence_takes_its_banks_step() -> None:
    """Two frames of a video act as one sure frame does, and say how many they were and how far the farthest was."""
    (signal,) = _sequences(CUTTING, _film(1, match={"distance": 62}), _film(2))
    assert (signal.step, signal.source, signal.name) == (Step.CUT, "CARDS/card-1", "pdq")
    assert (signal.frames, signal.distance, signal.threshold) == (2, 62, 64)


@pytest.mark.parametrize(
    "change",
    [{"match": {"opinion": Opinion.DISPUTED}}, {"match": {"quality": 49}}, {"match": {"is_stable": False}}],
    ids=["disputed", "low-quality", "unstable"],
)
def test_a_sequence_that_is_not_sure_asks_for_review(change: dict[str, Any]) -> None:
    """What caps a single frame at review caps several."""
    (signal,) = _sequences(CUTTING, _film(1, **change), _film(2, **change))
    assert signal.step is Step.REVIEW


@pytest.mark.parametrize(
    "rule", [BankRule(Step.OFF), BankRule(Step.CUT, max_distance=59)], ids=["off", "narrowed below"]
)
def test_a_bank_that_would_not_look_has_no_sequences(rule: BankRule) -> None:
    """A bank that is off, or whose operator wants nearer matches, gets no votes."""
    assert not _sequences(PolicySettings(banks={"CARDS": rule}), _film(1), _film(2))


@pytest.mark.parametrize("change", [{"is_corrupt": True}, {"is_low_information": True}])
def test_frames_that_show_nothing_do_not_vote(change: dict[str, Any]) -> None:
    """A damaged or empty frame is no part of a sequence."""
    assert not _sequences(CUTTING, _film(1, **change), _film(2))
