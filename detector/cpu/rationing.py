"""Who is looked at how closely while CPU time is short: pure.

All rations lie on one chain, from everything that operators asked for down to the floor, and the order of its steps
rests on the demands alone. A budget only decides how far down the chain one goes: so more of it never means less for
anybody.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique
from functools import cache

from streams.sampling import SamplingMode, SamplingSettings

SLOW_STEPS = 5
"""From `detect_within` to the floor it takes so many steps, each by the same factor."""

SHARE_STEPS = 8
"""Shares of bursts shrink and grow by this part of what was asked for."""

_PACE = 0.6
"""While slowed a keyframe is taken at random within the time allowed: on average after this part of it."""

_NOTHING = 1e-9
"""What sums of many small costs are off by, in cores, and more."""

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
    slowed; `closer`, all but reading while it is decoded through for a hint; `whole`, if every GOP were decoded whole;
    `slowed_through`, for decoding through while it was slowed and keyframes should have sufficed.
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
    slowed_through: float = 0.0


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
    """One stream: what its operator asks for and what that costs.

    `hint_score` above 0 asks for decoding through, for a risk hint or after a weak hit.
    """

    stream: str
    settings: SamplingSettings
    rank: Rank
    costs: Costs
    is_spikes_blind: bool = False
    hint_score: float = 0.0
    full: Ration = field(init=False)
    """What it gets while there is room."""

    def __post_init__(self) -> None:
        """Work out `full`, which is asked for often."""
        settings = self.settings
        is_blind = self.is_spikes_blind and settings.mode is not SamplingMode.KEYFRAMES
        share = max(settings.burst_share, self.rank.blind_burst_share) if is_blind else settings.burst_share
        object.__setattr__(self, "full", Ration(share, settings.spikes, is_close=self.hint_score > 0.0))

    @property
    def tier(self) -> Risk:
        """Where it stands: a hint that asks for decoding through asks for the highest tier, too."""
        return Risk.HIGH if self.hint_score > 0.0 else self.rank.risk


def predicted(demand: Demand, ration: Ration) -> float:
    """CPU seconds a second that a stream costs on a ration."""
    costs = demand.costs
    if ration.is_close:
        return costs.reading + _closer(costs)
    share = ration.burst_share + (costs.spike_share if ration.spikes else 0.0)
    return costs.reading + _looking(costs, ration.slowed_to_seconds) + costs.whole * min(1.0, share)


def _closer(costs: Costs) -> float:
    """What decoding through for a hint costs: no less than looking as usual, whatever was measured when."""
    return max(costs.closer, _looking(costs, 0.0))


def keyframes_suffice(gop_seconds: float, slowed_to_seconds: float) -> bool:
    """Whether keyframes come often enough for a stream that is slowed; GOPs of 0 seconds are not known."""
    return 0.0 < gop_seconds <= _LEAVES_KEYFRAMES_ABOVE * slowed_to_seconds


def _looking(costs: Costs, slowed_to_seconds: float) -> float:
    """What the looks cost that the promise asks for."""
    if not slowed_to_seconds:
        return costs.keyframe_seconds * costs.keyframes_per_second + costs.through
    keyframes = costs.keyframe_seconds * min(costs.keyframes_per_second, 1.0 / (_PACE * slowed_to_seconds))
    gop_seconds = costs.gop_seconds
    # Keyframes suffice where they come often enough; of longer GOPs what comes after the last look is left out.
    if not costs.through or keyframes_suffice(gop_seconds, slowed_to_seconds):
        return keyframes + costs.slowed_through
    left_out = slowed_to_seconds / (2.0 * gop_seconds) if gop_seconds else 0.0
    return keyframes + max(costs.through * (1.0 - left_out), costs.slowed_through)


def resting(costs: Costs, floor_seconds: float) -> Costs:
    """The costs of a stream that has no reader for now, as they count: its floor is kept for it, and no more."""
    looking = _looking(costs, floor_seconds)
    return Costs(costs.reading + looking, 0.0, 0.0, 0.0, 0.0, 0.0, looking, costs.gop_seconds)


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
    for tier in _TIERS:
        if tier is Risk.HIGH and chain.cores > budget:
            chain.end_hinted_looks(budget)
        if chain.cores > budget:
            chain.slow(tier, budget)
    return chain.plan(budget)


@dataclass(slots=True)
class _Row:
    """What one stream is left with so far. `extra` costs what is looked at beyond the promise."""

    demand: Demand
    costs: Costs
    full: Ration
    usual_share: float
    share: float
    spikes: bool
    is_close: bool
    slowed_to_seconds: float = 0.0

    @property
    def ration(self) -> Ration:
        ration = Ration(self.share, self.spikes, self.slowed_to_seconds, self.is_close)
        return self.full if ration == self.full else ration

    @property
    def extra(self) -> float:
        share = self.share + (self.costs.spike_share if self.spikes else 0.0)
        return 0.0 if self.is_close else self.costs.whole * min(1.0, share)

    @property
    def cores(self) -> float:
        costs = self.costs
        if self.is_close:
            return costs.reading + _closer(costs)
        return costs.reading + _looking(costs, self.slowed_to_seconds) + self.extra


class _Chain:
    """How far down the rations are."""

    def __init__(self, demands: Sequence[Demand], floor_seconds: float) -> None:
        self._floor_seconds = floor_seconds
        self._rows = [_row(each) for each in sorted(demands, key=lambda each: each.stream)]
        self.cores = self._total()

    def plan(self, budget: float) -> Plan:
        """What it has come to."""
        rations = {row.demand.stream: row.ration for row in self._rows}
        at_floor = sum(row.costs.reading + _looking(row.costs, self._floor_seconds) for row in self._rows)
        cores = self._total()
        return Plan(rations, cores, at_floor, fits=cores <= budget + _NOTHING)

    def shrink_blind_bursts(self, budget: float) -> None:
        """Take the extra bursts back, as far as needed."""
        if any(row.full.burst_share > row.usual_share for row in self._rows):
            self._shrink(budget, lambda row, part: part * row.full.burst_share + (1.0 - part) * row.usual_share)

    def shrink_bursts(self, budget: float) -> None:
        """Take the usual bursts back, as far as needed."""
        self._shrink(budget, lambda row, part: part * row.usual_share)

    def _shrink(self, budget: float, share: Callable[[_Row, float], float]) -> None:
        without = self.cores - sum(row.extra for row in self._rows)
        for step in (0, *range(SHARE_STEPS - 1, 0, -1)):  # mostly either nothing is left, or a little is taken
            for row in self._rows:
                row.share = share(row, step / SHARE_STEPS)
            self.cores = without + sum(row.extra for row in self._rows)
            if (self.cores > budget) == (step == 0):
                return
        for row in self._rows:
            row.share = share(row, 0.0)
        self.cores = without + sum(row.extra for row in self._rows)

    def drop_spikes(self, budget: float) -> None:
        """Look for spikes no more, stream by stream."""
        wanted = [row for row in self._rows if row.spikes]
        for row in sorted(wanted, key=lambda one: (one.demand.tier.tier, -one.costs.whole * one.costs.spike_share)):
            self.cores -= row.extra
            row.spikes = False
            self.cores += row.extra
            if self.cores <= budget:
                return

    def end_hinted_looks(self, budget: float) -> None:
        """Decode no longer through for hints, the weakest first."""
        hinted = [row for row in self._rows if row.is_close]
        for row in sorted(hinted, key=lambda one: one.demand.hint_score):
            self.cores -= row.cores
            row.is_close = False
            self.cores += row.cores
            if self.cores <= budget:
                return

    def slow(self, tier: Risk, budget: float) -> None:
        """Slow the streams of one tier, always the one that is dearest now, step by step.

        Reading does not count: whoever only sends much is not helped by being looked at less.
        """
        rows = [row for row in self._rows if row.demand.tier is tier and not row.is_close]
        at_floor = sum(_looking(row.costs, self._floor_seconds) for row in rows)
        if self.cores - sum(_looking(row.costs, 0.0) for row in rows) + at_floor > budget:
            for row in rows:
                row.slowed_to_seconds = self._floor_seconds
            self.cores = self._total()
            return
        steps = [step for number, row in enumerate(rows) for step in self._steps(number, row)]
        for dearness, number, step, cheaper in sorted(steps, key=lambda each: (-each[0], each[1], each[2])):
            rows[number].slowed_to_seconds = slow_step(rows[number].demand, step, self._floor_seconds)
            self.cores -= dearness - cheaper
            if self.cores <= budget:
                return

    def _steps(self, number: int, row: _Row) -> Iterator[tuple[float, int, int, float]]:
        """What each step saves: what looking costs before it, whose it is, which it is, and what it costs after it."""
        before = _looking(row.costs, 0.0)
        steps = _slow_steps(row.demand.settings.detect_within_seconds, self._floor_seconds)
        for step, seconds in enumerate(steps):
            after = _looking(row.costs, seconds)
            yield before, number, step, after
            before = after

    def _total(self) -> float:
        return sum(row.cores for row in self._rows)


def _row(demand: Demand) -> _Row:
    full = demand.full
    return _Row(demand, demand.costs, full, demand.settings.burst_share, full.burst_share, full.spikes, full.is_close)


def slow_step(demand: Demand, step: int, floor_seconds: float) -> float:
    """How far apart analysed frames may lie at a step: at 0 what is promised anyway, at `SLOW_STEPS` the floor."""
    return _slow_steps(demand.settings.detect_within_seconds, floor_seconds)[step]


@cache
def _slow_steps(within_seconds: float, floor_seconds: float) -> tuple[float, ...]:
    begins = min(within_seconds, floor_seconds)
    steps = [begins * (floor_seconds / begins) ** (step / SLOW_STEPS) for step in range(SLOW_STEPS)]
    return (*steps, floor_seconds)


def typical(costs: Iterable[Costs]) -> Costs:
    """What a stream costs of which nothing is known: the median of each part; the defaults where there is none."""
    rows = list(costs)
    return Costs(*(_median(column) for column in _columns(rows))) if rows else Costs()


def _columns(rows: Sequence[Costs]) -> Iterator[list[float]]:
    for name in Costs.__dataclass_fields__:
        yield [getattr(row, name) for row in rows]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
