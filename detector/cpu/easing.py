"""From plan to ration without flapping: cut at once, give back slowly. Pure, on a passed-in clock."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from detector.cpu.rationing import SHARE_STEPS, SLOW_STEPS, Demand, Plan, Ration, share_out

GIVES_BACK_AT = 0.92
"""What is given back must fit into this part of the budget: between the two nothing changes."""

HOLD_SECONDS = 5.0
"""There must have been room for so long before anything is given back; then one step a second."""


STEP_SECONDS = 0.9
"""However often it is asked, steps follow each other no sooner; a round is a little early now and then."""


@dataclass(slots=True)
class _Given:
    ration: Ration
    room_since: float = math.inf
    stepped_at: float = -math.inf


class Easing:
    """What each stream has now, plan after plan."""

    def __init__(self) -> None:
        self._given: dict[str, _Given] = {}

    def of(self, stream: str) -> Ration | None:
        """What a stream has; None while no plan held it."""
        given = self._given.get(stream)
        return None if given is None else given.ration

    def begin(self, stream: str, ration: Ration) -> None:
        """A new stream begins with this."""
        self._given[stream] = _Given(ration)

    def keep_only(self, streams: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(streams)
        for stream in [each for each in self._given if each not in kept]:
            del self._given[stream]

    def plan(self, demands: list[Demand], budget: float, floor_seconds: float, now: float) -> Plan:
        """Share `budget` out, and move every ration towards that: down at once, up by one step after a while.

        To be asked once a second, or more often. The plan's rations are those that hold now.
        """
        plan = share_out(demands, budget, floor_seconds)
        roomy: Mapping[str, Ration] = plan.rations
        if any(self._is_short(each) for each in demands):
            roomy = share_out(demands, GIVES_BACK_AT * budget, floor_seconds).rations
        rations = {
            each.stream: self._move(each, plan.rations[each.stream], roomy[each.stream], floor_seconds, now)
            for each in demands
        }
        return replace(plan, rations=rations)

    def _is_short(self, demand: Demand) -> bool:
        given = self._given.get(demand.stream)
        return given is not None and given.ration != demand.full

    def _move(self, demand: Demand, worst: Ration, best: Ration, floor_seconds: float, now: float) -> Ration:
        """At most `worst`, which just fits, and at least `best` sooner or later, which fits well."""
        given = self._given.setdefault(demand.stream, _Given(worst))
        if given.ration == worst and worst == best:
            given.room_since = math.inf
            return worst
        held = _least(given.ration, worst, demand)
        # A floor that was lowered holds at once.
        held = replace(held, slowed_to_seconds=min(held.slowed_to_seconds, max(floor_seconds, worst.slowed_to_seconds)))
        held = replace(held, is_close=worst.is_close and (given.ration.is_close or best.is_close))
        if _least(held, best, demand) == best or held == best:
            given.room_since = math.inf
        elif given.room_since == math.inf:
            given.room_since = now
        if now - given.room_since >= HOLD_SECONDS and now - given.stepped_at >= STEP_SECONDS:
            held = _one_step(demand, held, best, floor_seconds)
            given.stepped_at = now
        given.ration = held
        return held


def _least(one: Ration, other: Ration, demand: Demand) -> Ration:
    """The less of each, but never more than what the stream's operator asks for now."""
    full = demand.full
    return Ration(
        burst_share=min(one.burst_share, other.burst_share, full.burst_share),
        spikes=one.spikes and other.spikes and full.spikes,
        slowed_to_seconds=max(one.slowed_to_seconds, other.slowed_to_seconds),
        is_close=other.is_close,
    )


def _one_step(demand: Demand, held: Ration, wanted: Ration, floor_seconds: float) -> Ration:
    """A little more of what is missed most: first speed, then spikes, then bursts."""
    if held.slowed_to_seconds > wanted.slowed_to_seconds:
        begins = min(demand.settings.detect_within_seconds, floor_seconds)
        faster = held.slowed_to_seconds / (floor_seconds / begins) ** (1.0 / SLOW_STEPS)
        is_over = held.slowed_to_seconds <= begins * (1.0 + 1e-9)
        least = wanted.slowed_to_seconds
        return replace(held, slowed_to_seconds=least if is_over else max(faster, begins, least))
    if wanted.spikes and not held.spikes:
        return replace(held, spikes=True)
    step = demand.full.burst_share / SHARE_STEPS
    return replace(held, burst_share=min(wanted.burst_share, held.burst_share + step))
