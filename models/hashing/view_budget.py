"""How much CPU time views may cost: a bucket that every sample fills and every look empties."""

from collections.abc import Mapping
from typing import Final

from models.hashing.scenes import Look, tiers_due
from models.hashing.view_plan import QUARTERS, ViewPlan, due
from models.hashing.view_table import Tier

_SAVED_SAMPLES: Final = 32
"""A quiet stretch saves up for so many samples: a new scene is dearer than what follows."""

_SMOOTHING: Final = 0.1
_FADING: Final = 0.98
"""An estimate that nobody checks, as its tier is not run, fades by this each time: one slow look must not end it."""

_WEIGHTS: Final = {Tier.EDGES: 1, Tier.IN_TURN: 1, Tier.PER_SCENE: 8}
"""Where the time does not reach, edges and turns take turns, and a scene's views wait for eight of either."""


class ViewBudget:
    """Chooses the views of each sample so that all of them together cost what they may. For one thread.

    Args:
        seconds_per_sample: CPU time that making, hashing and looking up the views of a sample may take on average.
            Identity and mirror are run whatever they cost.
        tiers: Those that may be run at all.
    """

    def __init__(self, seconds_per_sample: float, tiers: frozenset[Tier] = frozenset(Tier)) -> None:
        self._refill = seconds_per_sample
        self._most = seconds_per_sample * _SAVED_SAMPLES
        self._tiers = tiers
        self._level = self._most
        self._costs = dict.fromkeys(Tier, 0.0)
        self._waited = dict.fromkeys(_WEIGHTS, 0)

    def plan(self, look: Look, identity: bytes) -> tuple[ViewPlan, int]:
        """Choose what is run on a frame with the PDQ hash `identity`, and tell how many due views are left out."""
        self._level = min(self._level + self._refill, self._most)
        wanted = tiers_due(look, identity) & self._tiers
        left = self._level - self._costs[Tier.EVERY_SAMPLE]
        chosen = {Tier.EVERY_SAMPLE}
        refused = set()
        for tier in sorted(wanted & _WEIGHTS.keys(), key=self._urgency):
            if self._costs[tier] <= left:
                left -= self._costs[tier]
                chosen.add(tier)
                self._waited[tier] = 0
            else:
                refused.add(tier)
                self._waited[tier] += 1
                self._costs[tier] *= _FADING
        quarter = look.turn % QUARTERS
        left_out = due(ViewPlan(frozenset(refused), quarter)) if refused else ()
        return (
            ViewPlan(frozenset(chosen), quarter),
            sum(len(names) for tier, names in left_out if tier is not Tier.EVERY_SAMPLE),
        )

    def spend(self, seconds: Mapping[Tier, float]) -> None:
        """Take from the bucket what the tiers that were run took."""
        for tier, taken in seconds.items():
            self._level = max(self._level - taken, -self._most)
            before = self._costs[tier]
            self._costs[tier] = before + _SMOOTHING * (taken - before) if before else taken

    def _urgency(self, tier: Tier) -> tuple[float, Tier]:
        return -self._waited[tier] / _WEIGHTS[tier], tier
