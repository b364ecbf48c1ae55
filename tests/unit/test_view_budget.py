"""What is run on each sample: everything in time, nothing twice on a still picture, and never more than the budget."""

import math
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.hashing.scenes import SCENE_BITS, STILL_BITS, Look, SceneWatch, tiers_due
from models.hashing.view_budget import ViewBudget
from models.hashing.view_plan import ViewPlan
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
        saved = budget.spend({tier: _COSTS[tier] for tier in plan.tiers}, watch.look())
        watch.heard(identity, plan.tiers, saved)
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
    look = Look(1, dict.fromkeys((Tier.EDGES, Tier.IN_TURN, Tier.PER_SCENE), _hash(3)), 4)
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
    budget.spend({Tier.PER_SCENE: 0.05}, Look())
    found = [budget.plan(Look(), _hash(seed))[0].tiers for seed in range(400)]

    assert Tier.PER_SCENE in found[-1]


def test_tiers_that_are_switched_off_are_not_left_out_but_gone() -> None:
    """An operator's choice is no shortage."""
    found = _watch(ViewBudget(1.0, frozenset({Tier.EVERY_SAMPLE, Tier.IN_TURN})), [_hash(seed) for seed in range(5)])

    assert {(tiers, left_out) for tiers, _, left_out in found} == {(frozenset({Tier.EVERY_SAMPLE, Tier.IN_TURN}), 0)}


def test_a_picture_that_drifts_is_another_scene_in_the_end() -> None:
    """Step by step within what counts as still: what matters is how far it came since it was looked at."""
    slow = _watch(ViewBudget(1.0), [_hash(1, 6 * sample) for sample in range(20)])
    slower = _watch(ViewBudget(1.0), [_hash(1, 2 * sample) for sample in range(40)])

    assert [at for at, (tiers, _, _) in enumerate(slow) if Tier.PER_SCENE in tiers] == [0, 5, 10, 15]
    assert all(Tier.IN_TURN in tiers for tiers, _, _ in slow)
    assert [at for at, (tiers, _, _) in enumerate(slower) if Tier.PER_SCENE in tiers] == [0, 13, 26, 39]


@pytest.mark.parametrize("period", [2, 4])
def test_no_picture_that_takes_turns_with_others_misses_a_view(period: int) -> None:
    """Whoever shows pictures by turns cannot know which of them meets which quarter, or is looked at in every way."""
    watch, budget = SceneWatch(Random(5).random), ViewBudget(1.0)
    runs: Counter[tuple[int, Tier, int | None]] = Counter()
    for sample in range(240):
        place = sample % period
        plan, _ = budget.plan(watch.look(), _hash(place))
        watch.heard(_hash(place), plan.tiers)
        runs.update((place, tier, plan.quarter if tier is Tier.IN_TURN else None) for tier in plan.tiers)

    for place in range(period):
        assert runs[place, Tier.PER_SCENE, None] >= 6
        assert min(runs[place, Tier.IN_TURN, quarter] for quarter in range(4)) >= 6


def test_other_banks_make_everything_due_again() -> None:
    """A picture that stands still is held against a new entry in every way within four samples, not within 64."""
    watch, budget = SceneWatch(), ViewBudget(1.0)
    found = []
    for sample in range(40):
        if sample == 30:
            watch.forget()
        plan, _ = budget.plan(watch.look(), _hash(1))
        watch.heard(_hash(1), plan.tiers)
        found.append(plan.tiers)

    assert found[30] == _ALL
    assert all(Tier.IN_TURN in tiers for tiers in found[30:34])
    assert sum(Tier.PER_SCENE in tiers for tiers in found) == 2


@pytest.mark.parametrize("hostile", [1, 10])
def test_a_dear_stream_takes_nothing_from_the_others(hostile: int) -> None:
    """Frames that are three times as dear and another scene each time, ten for each of another stream's."""
    refill, calm_scene = 0.003, 5
    budget, watches = ViewBudget(refill), [SceneWatch(), SceneWatch()]
    left_out, spent = [0, 0], [0.0, 0.0]
    for sample in range(400):
        for who in (0, *[1] * hostile):
            watch, factor = watches[who], (1, 3)[who]
            identity = _hash(sample // calm_scene) if who == 0 else _hash(10_000 + int(spent[1] * 1e7))
            look = watch.look()
            plan, without = budget.plan(look, identity)
            seconds = {tier: factor * _COSTS[tier] for tier in plan.tiers}
            watch.heard(identity, plan.tiers, budget.spend(seconds, look))
            spent[who] += sum(seconds.values())
            left_out[who] += without if sample >= 40 else 0

    assert left_out[0] <= 0.02 * 400 * 30
    assert left_out[1] > 0
    assert sum(spent) <= (400 * (1 + hostile) + 32) * refill + 3 * sum(_COSTS.values())


def test_a_stream_may_have_what_others_leave() -> None:
    """A lively stream among quiet ones has all its views, though they cost more than its own part."""
    budget, lively, quiet = ViewBudget(0.003), SceneWatch(), [SceneWatch() for _ in range(5)]
    left_out = 0
    for sample in range(300):
        for watch in (lively, *quiet):
            identity = _hash(sample) if watch is lively else _hash(1)
            look = watch.look()
            plan, without = budget.plan(look, identity)
            watch.heard(identity, plan.tiers, budget.spend({tier: 1.5 * _COSTS[tier] for tier in plan.tiers}, look))
            left_out += without

    assert left_out == 0


def test_what_is_at_nobodys_expense_is_looked_at_whatever_it_costs() -> None:
    """A recording's samples are looked at alike each time, however slow the machine; live frames pay none of it."""
    budget = ViewBudget(1e-6)
    look = Look(saved_seconds=math.inf)
    for seed in range(20):
        assert budget.plan(look, _hash(seed)) == (ViewPlan(_ALL, 0), 0)
        budget.spend(dict.fromkeys(Tier, 1.0), look)

    assert budget._level == pytest.approx(32e-6)


def test_no_track_owes_more_than_it_can_make_good() -> None:
    """Whatever a process that went mad said of it, some samples later the track has its views again."""
    budget, look, found = ViewBudget(0.003), Look(saved_seconds=-1e300), []
    for tier, seconds in _COSTS.items():
        budget.spend({tier: seconds}, Look())
    budget._level = 0.0  # and nobody leaves anything
    for seed in range(20):
        plan, _ = budget.plan(look, _hash(seed))
        look = Look(saved_seconds=budget.spend({tier: _COSTS[tier] for tier in plan.tiers}, look))
        found.append(plan.tiers)

    assert found[0] == {Tier.EVERY_SAMPLE}
    assert Tier.EDGES in found[-1]
