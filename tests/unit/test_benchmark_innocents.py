"""The benchmark of innocents counts what it says: each stream's time, and a cut wherever the rules would make one."""

from benchmarks.innocents import Frames, judged
from detector.events import Step
from detector.policy import ClassRule, PolicySettings
from models.evidence import ClassScore, Inspection

POLICY = PolicySettings(classes={"m/bad": ClassRule(Step.CUT, 0.7, 0.9)}, live=True)


def frame(score: float) -> Inspection:
    return Inspection(
        90, is_stable=True, is_low_information=False, fingerprint=bytes(32),
        scores=(ClassScore("m", "bad", score, "0" * 64),),
    )  # fmt: skip


def test_the_time_is_shared_out_and_a_clean_clip_is_never_cut() -> None:
    """Two clips take half of the time each, looped; scores below the thresholds ask for nothing."""
    clean = [Frames(name, 2.0, [(0.0, frame(0.1)), (1.0, frame(0.6))]) for name in ("a", "b")]
    outcome = judged(clean, POLICY, 600.0, seed=1)
    assert (outcome.seconds, outcome.judged) == (600.0, 600)
    assert (sum(outcome.cuts.values()), sum(outcome.reviews.values())) == (0, 0)
    assert outcome.highest == {"m/bad": 0.6}


def test_a_cut_would_be_seen() -> None:
    """A clip that scores high throughout is cut at its third frame, and every third one after that."""
    outcome = judged([Frames("bad", 1.0, [(0.0, frame(0.95))])], POLICY, 30.0, seed=1)
    assert outcome.cuts["bad"] == 10
