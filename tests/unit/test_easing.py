"""From plan to ration: down at once, up slowly, and never beyond the floor that is in force."""

from itertools import pairwise

import pytest

from detector.cpu.easing import HOLD_SECONDS, Easing
from detector.cpu.rationing import Costs, Demand, Rank, Ration
from streams.sampling import SamplingSettings

DEMAND = Demand("a", SamplingSettings(), Rank(), Costs())
AT_ONCE, NEVER = 10.0, 0.0


@pytest.mark.parametrize("lowered", [3.0, 4.0, 5.0])
def test_a_floor_that_was_lowered_holds_at_once(lowered: float) -> None:
    """Who was slowed to ten seconds is slowed to the new floor by the next plan, however short CPU time still is."""
    easing = Easing()
    assert easing.plan([DEMAND], NEVER, 10.0, 0.0).rations["a"].slowed_to_seconds == 10.0
    assert easing.plan([DEMAND], NEVER, lowered, 1.0).rations["a"].slowed_to_seconds == lowered


def test_more_rounds_give_back_no_faster() -> None:
    """Hints have a plan made several times a second; what is given back still comes by one step a second."""
    easing = Easing()
    easing.plan([DEMAND], NEVER, 10.0, 0.0)
    rations = [easing.plan([DEMAND], AT_ONCE, 10.0, at / 5).rations["a"] for at in range(int(5 * HOLD_SECONDS) + 11)]
    given = [ration for before, ration in pairwise(rations) if ration != before]
    assert 1 <= len(given) <= 3


def test_a_stream_that_begins_at_the_floor_is_given_all_in_time() -> None:
    """One step a second after a while of room, until nothing is missing."""
    easing = Easing()
    easing.begin("a", Ration(0.0, spikes=False, slowed_to_seconds=10.0))
    for at in range(30):
        plan = easing.plan([DEMAND], AT_ONCE, 10.0, float(at))
    assert plan.rations["a"] == DEMAND.full
