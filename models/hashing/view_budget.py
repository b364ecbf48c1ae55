"""How much CPU time views may cost: buckets that every sample fills and every look empties.

There is one bucket for all streams, and one for each track, which travels with its frames. A stream that is dear to
look at, on purpose or not, empties its own; what is left for the others it cannot touch.
"""

from collections.abc import Mapping
from typing import Final

from models.hashing.scenes import Look, tiers_due
from models.hashing.view_plan import QUARTERS, ViewPlan, due
from models.hashing.view_table import Tier

_SAVED_SAMPLES: Final = 32
"""A quiet stretch saves up for so many samples: a new scene is dearer than what follows."""

_FIRST_SAMPLES: Final = 8
"""A new track has saved so much, and no track can owe more: enough for its first scene."""

_SPARE: Final = 0.5
"""What fills the common bucket beyond this share of it is left by quiet streams: those that have emptied their own may
have it."""

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
        self._first = seconds_per_sample * _FIRST_SAMPLES
        self._tiers = tiers
        self._level = self._most
        self._costs = dict.fromkeys(Tier, 0.0)

    def plan(self, look: Look, identity: bytes) -> tuple[ViewPlan, int]:
        """Choose what is run on a frame with the PDQ hash `identity`, and tell how many due views are left out."""
        wanted = tiers_due(look, identity) & self._tiers
        quarter = look.turn % QUARTERS
        if not look.is_paid:
            return ViewPlan(wanted, quarter), 0
        self._level = min(self._level + self._refill, self._most)
        left = self._level - self._costs[Tier.EVERY_SAMPLE]
        own = self._own(look) - self._costs[Tier.EVERY_SAMPLE]
        chosen = {Tier.EVERY_SAMPLE}
        for tier in sorted(wanted & _WEIGHTS.keys(), key=lambda tier: (-self._waits(look, tier), tier)):
            cost = self._costs[tier]
            if cost <= left and (cost <= own or left - cost >= _SPARE * self._most):
                left -= cost
                own -= cost
                chosen.add(tier)
            else:
                self._costs[tier] *= _FADING
                if self._waits(look, tier):
                    own = min(own, 0.0)  # saved for it
        refused = wanted - chosen
        left_out = due(ViewPlan(frozenset(refused), quarter)) if refused else ()
        return (
            ViewPlan(frozenset(chosen), quarter),
            sum(len(names) for tier, names in left_out if tier is not Tier.EVERY_SAMPLE),
        )

    def spend(self, seconds: Mapping[Tier, float], look: Look) -> float:
        """Pay for the tiers that were run on a frame, by time taken; return what its track has saved after it."""
        own = self._own(look)
        if not look.is_paid:
            return own
        for tier, taken in seconds.items():
            self._level = max(self._level - taken, -self._most)
            before = self._costs[tier]
            self._costs[tier] = before + _SMOOTHING * (taken - before) if before else taken
        return max(own - sum(seconds.values()), -self._first)

    def _own(self, look: Look) -> float:
        # What was saved by another budget, or is told by a process that went mad, is held to what this one allows.
        saved = self._first if look.saved_seconds is None else max(look.saved_seconds, -self._first)
        return min(saved + self._refill, self._most)

    def _waits(self, look: Look, tier: Tier) -> int:
        return look.waited.get(tier, 0) // _WEIGHTS[tier]
