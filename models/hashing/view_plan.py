"""Which views of a frame are made and hashed this time, and hashing them as one batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from models.hashing.sample import Sample
from models.hashing.spectrum import batch_of
from models.hashing.view_batch import ViewBatch
from models.hashing.view_table import ALWAYS, EDGES, SCENE, TURNS, Tier, make

QUARTERS: Final = len(TURNS)


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """What is run on one frame: `tiers`, and the `quarter` (0-3) of the views in turn that it is for; None for all."""

    tiers: frozenset[Tier]
    quarter: int | None = None


EVERY_VIEW: Final = ViewPlan(frozenset(Tier))
"""For single pictures."""

SHORTEST_PLAN: Final = ViewPlan(frozenset({Tier.EVERY_SAMPLE}))
"""Identity and mirror."""


@lru_cache(maxsize=64)
def due(plan: ViewPlan) -> tuple[tuple[Tier, tuple[str, ...]], ...]:
    """The names of the views of a plan, tier by tier; a frame has those of them that there is something for."""
    turns = TURNS if plan.quarter is None else (TURNS[plan.quarter],)
    names = {
        Tier.EVERY_SAMPLE: ALWAYS,
        Tier.EDGES: EDGES,
        Tier.IN_TURN: tuple(name for quarter in turns for name in quarter),
        Tier.PER_SCENE: SCENE,
    }
    return tuple((tier, names[tier]) for tier in Tier if tier in plan.tiers or tier is Tier.EVERY_SAMPLE)


def view_batch(
    sample: Sample,
    plan: ViewPlan = EVERY_VIEW,
    *,
    clock: Callable[[], float] | None = None,
    seconds: dict[Tier, float] | None = None,
) -> ViewBatch:
    """Make and hash the views of a frame that a plan names; equal frames and plans give equal batches.

    `identity` is always the first; it and `mirror` equal `Pdq.hash_plane` of the plane bit for bit. With a `clock`,
    what making each tier took is added to `seconds`; hashing all of them goes by their number.
    """
    names: list[str] = []
    spectra = []
    qualities: list[int] = []
    tiers: list[int] = []
    spent: dict[Tier, float] = {}
    at = clock() if clock else 0.0
    for tier, wanted in due(plan):
        for name in wanted:
            made = make(sample, name)
            if made is not None:
                names.append(name)
                spectra.append(made.spectrum)
                qualities.append(made.quality)
                tiers.append(tier)
        if clock:
            before, at = at, clock()
            spent[tier] = at - before
    together = np.concatenate(spectra).reshape(-1, *spectra[0].shape)  # a sixth of the time of `np.stack`
    batch = batch_of(names, together, qualities, tiers, plane=sample.plane)
    if clock and seconds is not None:
        each = (clock() - at) / len(batch)
        for tier, taken in spent.items():
            seconds[tier] = seconds.get(tier, 0.0) + taken + each * tiers.count(tier)
    return batch
