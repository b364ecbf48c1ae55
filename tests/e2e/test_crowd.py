"""A small crowd against the whole service: harmful ones are cut, others are not, one picture cuts only so many."""

from pathlib import Path

import pytest

from benchmarks.crowd import Crowd, encode_all, mixed_scripts, run_mixed, run_same, same_scripts
from detector.events import CutState

pytestmark = pytest.mark.e2e

CROWD = Crowd(each=1, window_seconds=1.0, switch_spread_seconds=1.0, same_card=8, seed=5)


@pytest.mark.slow
async def test_every_harmful_publisher_is_cut_and_no_other(tmp_path: Path) -> None:
    """Of ten publishers the five who turn to a banked picture or a forbidden class are cut, with proof and alert."""
    clips = await encode_all(mixed_scripts(CROWD), tmp_path)
    outcome, cost = await run_mixed(CROWD, clips, tmp_path / "service")
    assert (outcome.cut, outcome.clean_cut) == (5, 0)
    assert [one.cut_state for one in outcome.incidents.values()] == [CutState.CONFIRMED] * 5
    assert set(outcome.incidents) == {one.path for one in outcome.harmful}
    assert outcome.alerts == 5
    assert len(outcome.switch_to_closed_seconds) == 5
    assert max(outcome.switch_to_closed_seconds) < 6, "found within detect_within, with room for a busy machine"
    assert min(cost.cpu.readers, cost.cpu.analysis, cost.cpu.service) > 0
    assert cost.samples >= cost.stream_seconds / 2, "about one sample in each GOP of a second"


async def test_one_entry_cuts_five_publishers_and_then_asks(tmp_path: Path) -> None:
    """One banked picture shown by eight publishers cuts five; the other three are reviews that name the entry."""
    clips = await encode_all(same_scripts(), tmp_path)
    outcome = await run_same(CROWD, clips, tmp_path / "service")
    assert (outcome.cut, outcome.count(CutState.CONFIRMED), outcome.refused) == (5, 5, 3)
    held = [one for one in outcome.incidents.values() if one.refused_by]
    assert {one.refused_by for one in held} == {"CROWD_CARDS/card-11"}
    assert {one.action for one in held} == {"review"}
    assert outcome.alerts == 8
