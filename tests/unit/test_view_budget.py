"""What is run on each sample: everything in time, nothing twice on a still picture, and never more than the budget."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.hashing.scenes import SCENE_BITS, STILL_BITS, Look, SceneWatch, tiers_due
from models.hashing.view_budget import ViewBudget
from models.hashing.view_table import Tier

_ALL = frozenset(Tier)
_COSTS = {Tier.EVERY_SAMPLE: 0.0005, Tier.EDGES: 0.001, Tier.IN_TURN: 0.001, Tier.PER_SCENE: 0.0025}


def _hash(seed: int, flipped: int = 0) -> bytes:
    bits = np.random.default_rng(seed).integers(0, 2, 256, dtype=np.uint8)
    bits[:flipped] ^= 1
    return np.packbits(bits).tobytes()


def _watch(budget: ViewBudget, hashes: list[bytes]) -> list[tuple[frozenset[Tier], int | None, int]]:
    watch, found = SceneWatch(), []
    for identity in hashes:
        plan, left_out = budget.plan(watch.look(), identity)
        budget.spend({tier: _COSTS[tier] for tier in plan.tiers})
        watch.heard(identity, plan.tiers)
        found.append((plan.tiers, plan.quarter, left_out))
    return found


def test_a_moving_picture_gets_everything_and_its_views_in_turn_within_four_samples() -> None:
    """Where every sample is another picture, quarter after quarter runs, and with each fourth a scene's views."""
    found = _watch(ViewBudget(1.0), [_hash(seed) for seed in range(9)])

    assert [tiers for tiers, _, _ in found] == [_ALL, *[_ALL - {Tier.PER_SCENE}] * 3] * 2 + [_ALL]
    assert [quarter for _, quarter, _ in found] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert sum(left_out for _, _, left_out in found) == 0


def test_a_still_picture_is_looked_at_once_in_a_while() -> None:
    """Edges each fourth sample, all views in turn at first and now and then, a scene's views not again for a minute."""
    found = _watch(ViewBudget(1.0), [_hash(1, seed % 2) for seed in range(60)])
    runs = Counter(tier for tiers, _, _ in found for tier in tiers)

    assert all(Tier.IN_TURN in tiers for tiers, _, _ in found[:4])
    assert [quarter for tiers, quarter, _ in found[:4] if Tier.IN_TURN in tiers] == [0, 1, 2, 3]
    assert runs == {Tier.EVERY_SAMPLE: 60, Tier.EDGES: 15, Tier.IN_TURN: 18, Tier.PER_SCENE: 1}
    quarters = {quarter for tiers, quarter, _ in found[4:] if Tier.IN_TURN in tiers}
    assert quarters == {0, 1, 2, 3}


def test_a_look_at_a_still_scene_is_not_good_for_ever() -> None:
    """The lists change although the picture does not: after 64 samples a scene's views are run again."""
    found = _watch(ViewBudget(1.0), [_hash(1)] * 130)

    assert [at for at, (tiers, _, _) in enumerate(found) if Tier.PER_SCENE in tiers] == [0, 64, 128]


@given(moved=st.integers(0, 60))
@settings(max_examples=61, deadline=None)
def test_what_rests_wakes_with_the_picture(moved: int) -> None:
    """Up to 8 bits a picture is still, beyond 24 it is another scene."""
    look = Look(5, _hash(3), frozenset({Tier.EDGES, Tier.IN_TURN, Tier.PER_SCENE}), 4)
    due = tiers_due(look, _hash(3, moved))

    assert (Tier.EDGES in due) == (Tier.IN_TURN in due) == (moved > STILL_BITS)
    assert (Tier.PER_SCENE in due) == (moved > SCENE_BITS)
    assert Tier.PER_SCENE not in tiers_due(replace(look, scene_age=3), _hash(3, moved))
    assert tiers_due(Look(), _hash(3)) == _ALL


@pytest.mark.parametrize("budget", [0.0006, 0.001, 0.002, 0.003, 0.004])
def test_the_budget_holds_on_average_and_leaves_nothing_out_for_good(budget: float) -> None:
    """What is spent stays within what is allowed, but for what is always run; each tier and quarter has its turn."""
    hashes = [_hash(seed) for seed in range(600)]
    found = _watch(ViewBudget(budget), hashes)
    spent = sum(_COSTS[tier] for tiers, _, _ in found for tier in tiers)
    runs = Counter((tier, quarter) for tiers, quarter, _ in found for tier in tiers)

    assert spent <= (600 + 32) * budget + sum(_COSTS.values())
    assert all(Tier.EVERY_SAMPLE in tiers for tiers, _, _ in found)
    assert min(runs[Tier.IN_TURN, quarter] for quarter in range(4)) >= 2
    assert sum(Tier.PER_SCENE in tiers for tiers, _, _ in found) >= 2
    assert all((len(tiers) < 3) <= (left_out > 0) for tiers, _, left_out in found)
    if budget == 0.003:
        assert min(sum(tier in tiers for tiers, _, _ in found) for tier in (Tier.EDGES, Tier.IN_TURN)) >= 300


def test_a_quiet_stretch_saves_up_for_a_scene() -> None:
    """A budget that would never do for every sample is enough for a film of still scenes."""
    hashes = [_hash(sample // 20, sample % 3) for sample in range(400)]
    found = _watch(ViewBudget(0.002), hashes)

    # The first sample of each scene, and those that end its round of views in turn.
    assert all(found[at][0] == _ALL and found[at][2] == 0 for at in range(0, 400, 20))


def test_one_slow_look_does_not_end_a_tier() -> None:
    """An estimate that is far too high fades while its tier waits."""
    budget = ViewBudget(0.003)
    budget.spend({Tier.PER_SCENE: 0.05})
    found = [budget.plan(Look(), _hash(seed))[0].tiers for seed in range(400)]

    assert Tier.PER_SCENE in found[-1]


def test_tiers_that_are_switched_off_are_not_left_out_but_gone() -> None:
    """An operator's choice is no shortage."""
    found = _watch(ViewBudget(1.0, frozenset({Tier.EVERY_SAMPLE, Tier.IN_TURN})), [_hash(seed) for seed in range(5)])

    assert {(tiers, left_out) for tiers, _, left_out in found} == {(frozenset({Tier.EVERY_SAMPLE, Tier.IN_TURN}), 0)}
