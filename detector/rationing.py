"""Who is looked at how closely while CPU time is short: pure.

All rations lie on one chain, from everything that operators asked for down to the floor, and the order of its steps
rests on the demands alone. A budget only decides how far down the chain one goes: so more of it never means less for
anybody.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique

from streams.sampling import SamplingMode, SamplingSettings

SLOW_STEPS = 5
"""From `detect_within` to the floor it takes so many steps, each by the same factor."""

SHARE_STEPS = 8
"""Shares of bursts shrink and grow by this part of what was asked for."""

_PACE = 0.6
"""While slowed a keyframe is taken at random within the time allowed: on average after this part of it."""

_LEAVES_KEYFRAMES_ABOVE = 1.2
"""A stream whose GOPs are longer than `detect_within` by this factor is decoded through."""


@unique
class Risk(StrEnum):
    """Where a stream stands when CPU time is short: those of `low` risk are slowed first, those of `high` last."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def tier(self) -> int:
        """0 is slowed first."""
        return _TIERS.index(self)

    def raised(self) -> "Risk":
        """One step up; the highest stays."""
        return _TIERS[min(self.tier + 1, len(_TIERS) - 1)]


_TIERS = (Risk.LOW, Risk.NORMAL, Risk.HIGH)


@dataclass(frozen=True, slots=True)
class Rank:
    """What an operator says of one stream beside its sampling.

    `blind_burst_share` (0 to 1) is its share of bursts while packet sizes could show no scene change, and
    `hint_interval_seconds` how densely it is sampled while a strong risk hint holds.
    """

    risk: Risk = Risk.NORMAL
    blind_burst_share: float = 0.0
    hint_interval_seconds: float = 0.2


@dataclass(frozen=True, slots=True)
class Costs:
    """What one stream costs in CPU seconds, its reader and the analysis of its frames together.

    Each second: `reading`, whatever is decoded; `through`, for decoding through as it goes on while the stream is not
    slowed; `closer`, all but reading while it is decoded through for a hint; `whole`, if every GOP were decoded whole.
    One keyframe on its own costs `keyframe_seconds`, and `keyframes_per_second` of them are taken while not slowed.
    `spike_share` (0 to 1) is the share of GOPs whose packet sizes have them decoded whole.
    """

    reading: float = 0.01
    keyframe_seconds: float = 0.015
    keyframes_per_second: float = 0.5
    through: float = 0.0
    whole: float = 0.09
    spike_share: float = 0.0
    closer: float = 0.1
    gop_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Ration:
    """How closely one stream is looked at: as `SamplingSettings` has it, and whether it is decoded through for a hint.

    `slowed_to_seconds` is 0 while the stream is not slowed.
    """

    burst_share: float
    spikes: bool
    slowed_to_seconds: float = 0.0
    is_close: bool = False

    def within(self, settings: SamplingSettings) -> SamplingSettings:
        """What a reader is told."""
        return replace(
            settings,
            burst_share=self.burst_share,
            spikes=self.spikes,
            slowed_to_seconds=self.slowed_to_seconds,
        )

    def word(self, full: "Ration") -> str:
        """One word for operators, beside what the stream would have if there were room."""
        if self.slowed_to_seconds:
            return "slowed"
        return "bursts_reduced" if self.burst_share < full.burst_share or self.spikes < full.spikes else "full"


@dataclass(frozen=True, slots=True)
class Demand:
    """One stream: what its operator asks for and what that costs. `hint_score` above 0 asks for decoding through."""

    stream: str
    settings: SamplingSettings
    rank: Rank
    costs: Costs
    is_spikes_blind: bool = False
    hint_score: float = 0.0

    @property
    def full(self) -> Ration:
        """What it gets while there is room."""
        settings = self.settings
        is_blind = self.is_spikes_blind and settings.mode is not SamplingMode.KEYFRAMES
        share = max(settings.burst_share, self.rank.blind_burst_share) if is_blind else settings.burst_share
        return Ration(share, settings.spikes, is_close=self.hint_score > 0.0)


def predicted(demand: Demand, ration: Ration) -> float:
    """CPU seconds a second that a stream costs on a ration."""
    costs, slowed = demand.costs, ration.slowed_to_seconds
    if ration.is_close:
        return costs.reading + costs.closer
    keyframes, through = costs.keyframes_per_second, costs.through
    if slowed:
        keyframes = min(keyframes, 1.0 / (_PACE * slowed))
        through = _slowed_through(costs, slowed)
    whole = costs.whole * min(1.0, ration.burst_share + (costs.spike_share if ration.spikes else 0.0))
    return costs.reading + costs.keyframe_seconds * keyframes + through + whole


def _slowed_through(costs: Costs, slowed_to_seconds: float) -> float:
    """Keyframes suffice where they come often enough; of longer GOPs what comes after the last look is left out."""
    if 0.0 < costs.gop_seconds <= _LEAVES_KEYFRAMES_ABOVE * slowed_to_seconds:
        return 0.0
    left_out = slowed_to_seconds / (2.0 * costs.gop_seconds) if costs.gop_seconds else 0.0
    return costs.through * (1.0 - min(left_out, 1.0))


@dataclass(frozen=True, slots=True)
class Plan:
    """A ration for each stream, and what all of them together are predicted to cost, in CPU seconds a second.

    `floor_cores` is what they would cost at the floor; `fits` is False where even that is more than the budget.
    """

    rations: dict[str, Ration] = field(default_factory=dict)
    cores: float = 0.0
    floor_cores: float = 0.0
    fits: bool = True


def share_out(demands: Sequence[Demand], budget: float, floor_seconds: float) -> Plan:
    """Share `budget` CPU seconds a second out.

    While it is too little, one thing after the other is given up, each only as far as needed: the extra bursts of
    streams whose packet sizes tell nothing, all other bursts (in proportion), spikes (those of low risk first, the
    dearest first), then streams are slowed down to `floor_seconds` (those of low risk first; the dearest first, until
    it is no dearer than the next). Between the streams of normal and those of high risk decoding through for hints
    ends, the weakest hint first. Nobody is slowed below the floor.
    """
    chain = _Chain(demands, floor_seconds)
    for step in (chain.shrink_blind_bursts, chain.shrink_bursts, chain.drop_spikes):
        if chain.cores > budget:
            step(budget)
    for risk in _TIERS:
        if risk is Risk.HIGH and chain.cores > budget:
            chain.end_hinted_looks(budget)
        if chain.cores > budget:
            chain.slow(risk, budget)
    return Plan(chain.rations, chain.cores, chain.floor_cores, fits=chain.cores <= budget)


class _Chain:
    """How far down the rations are."""

    def __init__(self, demands: Sequence[Demand], floor_seconds: float) -> None:
        self._demands = sorted(demands, key=lambda each: each.stream)
        self._floor_seconds = floor_seconds
        self.rations = {each.stream: each.full for each in self._demands}
        self.cores = self._total()
        self.floor_cores = sum(predicted(each, self._at_floor(each)) for each in self._demands)

    def shrink_blind_bursts(self, budget: float) -> None:
        """Take the extra bursts back, as far as needed."""
        self._shrink(budget, lambda each, part: part * each.full.burst_share + (1.0 - part) * _usual_share(each))

    def shrink_bursts(self, budget: float) -> None:
        """Take the usual bursts back, as far as needed."""
        self._shrink(budget, lambda each, part: part * _usual_share(each))

    def _shrink(self, budget: float, share: Callable[[Demand, float], float]) -> None:
        for step in range(SHARE_STEPS - 1, -1, -1):
            for each in self._demands:
                was = self.rations[each.stream]
                self.rations[each.stream] = replace(was, burst_share=share(each, step / SHARE_STEPS))
            self.cores = self._total()
            if self.cores <= budget:
                return

    def drop_spikes(self, budget: float) -> None:
        """Look for spikes no more, stream by stream."""
        wanted = [each for each in self._demands if each.settings.spikes]
        for each in sorted(wanted, key=lambda one: (one.rank.risk.tier, -one.costs.whole * one.costs.spike_share)):
            self._give(each, replace(self.rations[each.stream], spikes=False))
            if self.cores <= budget:
                return

    def end_hinted_looks(self, budget: float) -> None:
        """Decode no longer through for hints, the weakest first."""
        hinted = [each for each in self._demands if self.rations[each.stream].is_close]
        for each in sorted(hinted, key=lambda one: one.hint_score):
            self._give(each, replace(self.rations[each.stream], is_close=False))
            if self.cores <= budget:
                return

    def slow(self, risk: Risk, budget: float) -> None:
        """Slow the streams of one tier, always the one that is dearest now, step by step."""
        tier = [each for each in self._demands if each.rank.risk is risk and not self.rations[each.stream].is_close]
        heap = [(-_reducible(each, self.rations[each.stream]), number, 0) for number, each in enumerate(tier)]
        heapq.heapify(heap)
        while heap and self.cores > budget:
            _, number, step = heap[0]
            each = tier[number]
            ration = replace(self.rations[each.stream], slowed_to_seconds=slow_step(each, step, self._floor_seconds))
            self._give(each, ration)
            if step < SLOW_STEPS:
                heapq.heapreplace(heap, (-_reducible(each, ration), number, step + 1))
            else:
                heapq.heappop(heap)

    def _give(self, demand: Demand, ration: Ration) -> None:
        self.cores += predicted(demand, ration) - predicted(demand, self.rations[demand.stream])
        self.rations[demand.stream] = ration

    def _at_floor(self, demand: Demand) -> Ration:
        return Ration(0.0, spikes=False, slowed_to_seconds=slow_step(demand, SLOW_STEPS, self._floor_seconds))

    def _total(self) -> float:
        return sum(predicted(each, self.rations[each.stream]) for each in self._demands)


def slow_step(demand: Demand, step: int, floor_seconds: float) -> float:
    """How far apart analysed frames may lie at a step: at 0 what is promised anyway, at `SLOW_STEPS` the floor."""
    begins = min(demand.settings.detect_within_seconds, floor_seconds)
    return floor_seconds if step >= SLOW_STEPS else begins * (floor_seconds / begins) ** (step / SLOW_STEPS)


def _usual_share(demand: Demand) -> float:
    return demand.settings.burst_share


def _reducible(demand: Demand, ration: Ration) -> float:
    """What slowing can save at most: whoever only sends much is not helped by being looked at less."""
    return predicted(demand, ration) - demand.costs.reading


def typical(costs: Iterable[Costs]) -> Costs:
    """What a stream costs of which nothing is known: the median of each part; the defaults where there is none."""
    rows = list(costs)
    return Costs(*(_median(column) for column in _columns(rows))) if rows else Costs()


def _columns(rows: Sequence[Costs]) -> Iterator[list[float]]:
    for name in Costs.__dataclass_fields__:
        yield [getattr(row, name) for row in rows]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
