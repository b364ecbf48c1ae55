"""What the self-test makes of a model's answers, and what live frames say of one whose scores never vary."""

from dataclasses import replace
from pathlib import Path

import pytest

from detector.analysis.answers import ScoreDrift, without_canary
from detector.model_check import CheckedModel, ModelChecks, checked_models, told
from models.bank_store import CANARY_BANK
from models.cascade import TEST
from models.evidence import ClassScore, HashMatch, Inspection, Opinion
from models.manifest import ParityCheck, load_manifest

_LABELS = frozenset({"a", "b"})
_PLAIN = CheckedModel("m", _LABELS)
_CHECKED = CheckedModel("m", _LABELS, check=ParityCheck(Path("x.png"), {"a": 0.8}, 0.05))


def _seen(share: float, *, model: str = "m", fingerprint: bytes = bytes(32)) -> Inspection:
    said = {"a": share, "b": 1 - share}
    scores = tuple(ClassScore(model, label, score, "ab", "cpu", "fp32") for label, score in said.items())
    return Inspection(90, True, False, fingerprint, scores=scores)


def _what(checks: ModelChecks, canary: Inspection, decoy: Inspection, check: Inspection | None = None) -> list[str]:
    return [fault.what for fault in checks.judge(0, canary, decoy, {} if check is None else {"m": check})]


def test_a_sound_model_has_no_fault() -> None:
    """It gives what was promised, and other scores for other pictures."""
    assert _what(ModelChecks([_CHECKED]), _seen(0.1), _seen(0.3), _seen(0.82)) == []


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ((0.8, 0.8, 0.8), "answers the same to every picture"),
        ((0.1, 0.3, 0.5), "gives a 0.5000 for its check picture, where 0.8 is right"),
    ],
)
def test_constants_and_wrong_scores_are_told_at_once(answers: tuple[float, float, float], what: str) -> None:
    """Even a constant that is just what the check asks for."""
    assert _what(ModelChecks([_CHECKED]), *map(_seen, answers)) == [what]


def test_a_model_without_a_check_picture_is_held_to_what_it_said_at_first() -> None:
    """A constant that comes later is told at once, and so is another model in its place."""
    checks = ModelChecks([_PLAIN])
    assert _what(checks, _seen(0.1), _seen(0.3)) == []
    assert _what(checks, _seen(0.2), _seen(0.2)) == ["answers the same to every picture"]
    assert _what(checks, _seen(0.4), _seen(0.3)) == ["gives a 0.4000 for a picture to which it gave 0.1000"]
    assert _what(checks, _seen(0.12), _seen(0.7)) == []


def test_a_model_that_was_never_seen_to_vary_is_told_after_four_pictures() -> None:
    """Two alike may be chance where nothing else is known; a detector that finds nothing is right to say so."""
    checks = ModelChecks([_PLAIN])
    assert _what(checks, _seen(0.2), _seen(0.2)) == []
    assert _what(checks, _seen(0.2), _seen(0.2)) == []
    assert _what(checks, _seen(0.2), _seen(0.2)) == ["answers the same to every picture"]

    nothing = replace(_seen(0.0), scores=(ClassScore("m", "a", 0.0, "ab"), ClassScore("m", "b", 0.0, "ab")))
    detector = ModelChecks([replace(_PLAIN, is_detector=True)])
    assert [_what(detector, nothing, nothing) for _ in range(9)] == [[]] * 9


def test_a_classifier_that_says_nothing_at_all_is_a_constant() -> None:
    """Weights of zeros give zeros: what a detector may say of most pictures is a fault of what has no boxes."""
    dead = replace(_seen(0.0), scores=(ClassScore("m", "a", 0.0, "ab"), ClassScore("m", "b", 0.0, "ab")))
    checks = ModelChecks([_PLAIN])
    assert _what(checks, _seen(0.1), _seen(0.3)) == []
    assert _what(checks, dead, dead) == ["answers the same to every picture"]


def test_eight_bits_that_are_sure_are_no_constant() -> None:
    """Their scores have 255 steps: 1 and 0 come back bit by bit for all that is harmless; in between they do not."""

    def sure(share: float) -> Inspection:
        of = (ClassScore("m", "a", share, "ab", "cpu", "int8"), ClassScore("m", "b", 1 - share, "ab", "cpu", "int8"))
        return replace(_seen(0.0), scores=of)

    checks, drift = ModelChecks([_PLAIN]), ScoreDrift()
    assert [_what(checks, sure(1 / 255), sure(1 / 255)) for _ in range(9)] == [[]] * 9
    stuck = ModelChecks([_PLAIN])
    assert [_what(stuck, sure(0.3), sure(0.3)) for _ in range(3)][-1] == ["answers the same to every picture"]

    for number in range(250):
        drift.heard(0, f"s{number % 6}", replace(sure(1 / 255), fingerprint=number.to_bytes(32)))
        drift.heard(1, f"s{number % 6}", replace(sure(0.3), fingerprint=number.to_bytes(32)))
    assert list(drift.constant()) == [(1, "m")]


def test_what_is_no_answer_is_told_for_any_of_the_pictures() -> None:
    """A failure, no scores at all, labels of another model."""
    broken = replace(_seen(0.1), failed_models=("m",))
    for answers in ((broken, _seen(0.3)), (_seen(0.1), broken), (_seen(0.1), _seen(0.3, model="n"))):
        assert _what(ModelChecks([_PLAIN]), *answers) == ["gave no valid answer"]
    half = replace(_seen(0.1), scores=_seen(0.1).scores[:1])
    assert _what(ModelChecks([_PLAIN]), half, _seen(0.3)) == ["gave an answer that does not fit its labels"]


def test_the_sentence_names_model_processes_and_remedy() -> None:
    """One sentence for one fault of one model, wherever it shows."""
    checks = ModelChecks([_CHECKED])
    faults = [fault for process in (0, 3) for fault in checks.judge(process, _seen(0.8), _seen(0.8), {"m": _seen(0.8)})]
    (sentence,) = told(faults)
    assert "model m answers the same to every picture in analysis process 0 and 3" in sentence
    assert "stopframe models check" in sentence
    assert str(faults[1]) == "model m in analysis process 3 answers the same to every picture"


def test_the_check_pictures_of_manifests_are_asked_of_their_models_alone() -> None:
    """The picture goes to one model, whatever others there are; one that is not in use is not asked."""
    manifest = load_manifest("standin-cards")
    (model,) = checked_models([manifest], ["other", "standin-cards"])
    asking = model.asking
    assert (asking.lone_place, asking.rested & 1, asking.is_test, asking.shows_check) == (1, 1, True, True)
    assert TEST.lone_place == 0
    assert checked_models([manifest], ["other"]) == ()


def test_scores_that_never_vary_over_many_streams_are_told() -> None:
    """200 different frames of five streams; other scores, one stream alone, one picture again and again are not."""
    drift = ScoreDrift()
    for number in range(250):
        drift.heard(0, f"s{number % 6}", _seen(0.25, fingerprint=number.to_bytes(32)))
        drift.heard(1, f"s{number % 6}", _seen(0.25 + number % 2 / 1e6, fingerprint=number.to_bytes(32)))
        drift.heard(2, "alone", _seen(0.25, fingerprint=number.to_bytes(32)))
        drift.heard(3, f"s{number % 6}", _seen(0.25))
        drift.heard(
            4,
            f"s{number % 6}",
            replace(_seen(0), scores=(ClassScore("m", "a", 0.0, ""),), fingerprint=number.to_bytes(32)),
        )
    assert list(drift.constant()) == [(0, "m")]
    (problem,) = drift.problems()
    assert "model m in analysis process 0" in problem
    assert "restart" in problem

    drift.heard(0, "s1", _seen(0.26))
    assert drift.problems() == []
    drift.forget(2)
    assert all(process != 2 for process, _ in drift._same)


def test_no_streams_frame_is_about_the_canary() -> None:
    """Its match is taken out, all others stay."""
    canary = HashMatch(CANARY_BANK, "canary", "pdq", 256, 0, 31, "identity", 100, Opinion.POSITIVE, "gen-1")
    found = replace(_seen(0.1), matches=(canary, replace(canary, bank="CARDS")))
    assert [match.bank for match in without_canary(found).matches] == ["CARDS"]
    assert without_canary(_seen(0.1)) == _seen(0.1)
