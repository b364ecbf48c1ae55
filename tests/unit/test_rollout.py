"""Staged roll-out: a bank acts on a part of the streams, always the same ones, and is a shadow on the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.banks.rollout import place_of
from detector.config.config import Config
from detector.events import Step
from detector.policy import BankRule, PolicySettings
from detector.settings import policy_settings

NAMES = st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=26, max_size=26)


@given(stream=NAMES, low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_stream_that_is_taken_in_stays_in(stream: str, low: float, high: float) -> None:
    """A larger ratio never drops a stream that a smaller one took in."""
    small, large = sorted((low, high))
    steps = [
        PolicySettings(banks={"CARDS": BankRule(Step.CUT, ratio=ratio)}).bank_rule("CARDS", stream).step
        for ratio in (small, large, small)
    ]
    assert steps[0] == steps[2]
    assert steps[0] <= steps[1]


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_a_ratio_takes_in_that_part_of_the_streams(ratio: float) -> None:
    """Of many streams about as many fall inside as the ratio says."""
    inside = sum(place_of("CARDS", f"stream-{number}") < ratio for number in range(4000))
    assert inside / 4000 == pytest.approx(ratio, abs=0.03)


def test_two_banks_take_in_different_streams() -> None:
    """The first tenth of one bank's roll-out is not the first tenth of another's."""
    both = sum(place_of("A", f"s{number}") < 0.1 and place_of("B", f"s{number}") < 0.1 for number in range(4000))
    assert both < 100


@pytest.mark.parametrize(
    ("ratio", "step", "found"),
    [
        (0.0, Step.CUT, Step.SHADOW),
        (1.0, Step.CUT, Step.CUT),
        (0.0, Step.REVIEW, Step.SHADOW),
        (0.0, Step.OFF, Step.OFF),
    ],
)
def test_outside_the_ratio_a_bank_is_a_shadow(ratio: float, step: Step, found: Step) -> None:
    """Only the step changes, and nothing that was off begins to tell."""
    rule = BankRule(step, max_distance=20, ratio=ratio)
    on_stream = PolicySettings(banks={"CARDS": rule}).bank_rule("CARDS", "any")
    assert (on_stream.step, on_stream.max_distance) == (found, 20)


def test_a_stream_stands_where_it_always_stood() -> None:
    """The place is the same in every process, version and machine: it is a published hash of two names."""
    assert place_of("CARDS", "AAAABBBBCCCC") == 0.7448424278410433


def test_a_config_s_ratio_holds_for_streams_and_not_for_files() -> None:
    """A scan says what a bank would do: there are no streams to roll it out on."""
    config = Config.model_validate({"banks": {"CARDS": {"step": "cut", "ratio": "25%"}}})
    assert policy_settings(config).banks["CARDS"].ratio == 0.25
    assert policy_settings(config, is_staged=False).banks["CARDS"].ratio == 1.0
