"""Real publishers, the real service: who streams again what was just cut is cut, and a rival who was shown is not."""

from pathlib import Path

import pytest

from benchmarks.restreams import Plan, run

pytestmark = [pytest.mark.e2e, pytest.mark.needs_cage]


async def test_what_was_just_cut_is_cut_again(tmp_path: Path) -> None:
    """Mirrored, cropped and encoded anew, after the list has forgotten it: only the incident bank still knows it."""
    outcome = await run(Plan(restreams=2, rivals=0, spread_seconds=0.6), tmp_path)
    assert outcome.first_cut_seconds is not None
    assert len(outcome.cut_seconds) == outcome.by_incident == 2
    assert max(outcome.cut_seconds) < 15  # the benchmark measures how soon; here much else runs beside it


async def test_a_rival_beside_a_known_card_goes_on(tmp_path: Path) -> None:
    """Whoever shows a live rival's picture with a known card in its corner is cut; the rival is not, nor on return."""
    outcome = await run(Plan(restreams=0, rivals=1, spread_seconds=0.1, seed=3, watch_seconds=2.5), tmp_path)
    assert outcome.imitators_cut == 1
    assert outcome.rivals_cut == 0
