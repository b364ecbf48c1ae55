"""The choice among providers is arithmetic: the cheapest whose scores are right, and no other for a few percent."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.trial import LEAST_GAIN, Trial, choose, largest_difference, runs_within

RIGHT = ({"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.8})


def trial(provider: str, milliseconds: float, shift: float = 0.0, refused: str = "") -> Trial:
    scores = tuple({label: score + shift for label, score in one.items()} for one in RIGHT)
    return Trial(provider, "fp32", milliseconds / 1000, () if refused else scores, refused)


def test_the_cheapest_provider_with_right_scores_is_taken() -> None:
    """One that is faster and wrong is passed over with the figure; one that does not start, with its sentence."""
    choice = choose(
        [trial("cpu", 20), trial("openvino", 10), trial("tensorrt", 1, shift=0.2), trial("cuda", 0, refused="no GPU")]
    )

    assert choice.provider == "openvino"
    assert choice.passed_over == {"tensorrt": "its scores lie 0.200 from those of cpu", "cuda": "no GPU"}
    assert choice.milliseconds == {"cpu": 20.0, "openvino": 10.0, "tensorrt": 1.0}


def test_a_few_percent_change_nothing() -> None:
    """Noise would else choose another provider at each start."""
    assert choose([trial("cpu", 10), trial("openvino", 9.5)]).provider == "cpu"
    assert choose([trial("cpu", 10), trial("openvino", 8.9)]).provider == "openvino"


def test_scores_that_are_no_numbers_or_of_other_labels_are_wrong() -> None:
    """NaN is near nothing, and a label that is missing is no label that agrees."""
    broken = Trial("openvino", "bf16", 0.001, ({"a": math.nan, "b": 0.1}, RIGHT[1]))
    short = Trial("cuda", "fp32", 0.001, RIGHT[:1])

    assert choose([trial("cpu", 10), broken, short]).provider == "cpu"


def test_no_scores_at_all_are_an_error_with_the_first_reason() -> None:
    """Whoever asks has a sentence for the operator."""
    with pytest.raises(ValueError, match="no memory"):
        choose([trial("cpu", 1, refused="no memory"), trial("openvino", 1, refused="no library")])


@given(st.lists(st.tuples(st.floats(0.01, 1000), st.floats(0, 0.2)), min_size=1, max_size=6))
def test_what_is_chosen_is_right_and_nearly_the_cheapest(measured: list[tuple[float, float]]) -> None:
    """Whatever the figures: within the tolerance, and no right one is cheaper by more than the margin of a chain."""
    trials = [trial(f"p{number}", cost, shift) for number, (cost, shift) in enumerate(measured)]
    chosen = next(one for one in trials if one.provider == choose(trials, 0.05).provider)

    right = [one for one in trials if largest_difference(trials[0].scores, one.scores) <= 0.05]
    assert chosen in right
    assert chosen.seconds * (1 - LEAST_GAIN) <= min(one.seconds for one in right) * (1 + 1e-9)


@given(st.floats(0.001, 10), st.floats(0, 100))
def test_a_trial_is_short(budget: float, first: float) -> None:
    """It keeps to its time, but for the few runs without which a figure says nothing."""
    runs = runs_within(budget, first)

    assert 3 <= runs <= 200
    assert runs == 3 or runs * first <= budget * (1 + 1e-9)
