"""What a config costs, how late it can be and what it leaves to chance, before it runs: pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from detector.config.config import Config
from detector.cpu.costs import CostTable
from detector.cpu.planning import (
    StreamShape,
    chance_between_keyframes,
    chance_of_flash,
    look_at,
    reorder_seconds,
    seen_within_seconds,
)
from detector.cpu.rationing import Demand, Rank, Ration, predicted
from streams.sampling import SamplingSettings

GOPS_SECONDS = (1.0, 2.0, 4.0, 8.0, 20.0)
"""Keyframe intervals that are compared."""

TIMES_SECONDS = (3.0, 10.0, 30.0, 60.0)
"""How long something is shown between keyframes, in the table of chances."""

SIZES_SHOW = 0.95
"""Share of GOPs whose packet sizes give away what they hide, with usual rate control; see `streams.spikes`."""

FLASH_SECONDS = 0.067

DEFAULTS = "(all others)"
"""The row of the streams that no entry of `streams:` matches."""


@dataclass(frozen=True, slots=True)
class Question:
    """So many streams of this size and shape; `matching` says how many of them an entry of `streams:` matches."""

    streams: int
    size: str
    shape: StreamShape
    matching: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tier:
    """The streams of one entry of `streams:`, or all others. `cores` is for one of them, while there is room.

    The delays are the longest, in seconds: until what stays on screen is in a frame that is handed over, and until that
    is decided by a hash alone and by a class's votes, analysis waiting for nothing.
    """

    name: str
    streams: int
    risk: str
    look: str
    detect_within_s: float
    burst_share: float
    cores: float
    seen_within_s: float
    hash_within_s: float
    class_within_s: float


@dataclass(frozen=True, slots=True)
class GopRow:
    """What an encoder's keyframe interval does to the streams of the last tier. `factor` is against 2 s."""

    gop_s: float
    look: str
    cores: float
    factor: float
    seen_within_s: float


@dataclass(frozen=True, slots=True)
class ChanceRow:
    """Chances (0-1) at one burst share, and the cores of one stream. Lists go by `TIMES_SECONDS`.

    `every_frame` is for what is in all frames but keyframes, whatever the sizes; the two before it, for what spares the
    first few behind each keyframe, too.
    """

    setting: str
    burst_share: float
    cores: float
    flattened: tuple[float, ...]
    sizes_show: tuple[float, ...]
    every_frame: tuple[float, ...]
    one_frame: float
    flash: float


@dataclass(frozen=True, slots=True)
class Report:
    """The answer. `fits` is False where not even the floor fits; the three numbers say from how many streams on."""

    streams: int
    size: str
    gop_s: float
    fps: float
    cores: float
    max_cpu: float
    budget_cores: float
    needed_cores: float
    floor_cores: float
    floor_s: float
    verdict: str
    fits: bool
    bursts_shrink_from: int
    slowed_from: int
    refused_from: int
    analysis_cpu_s: float
    tiers: tuple[Tier, ...]
    gops: tuple[GopRow, ...]
    chances: tuple[ChanceRow, ...]
    times_s: tuple[float, ...] = TIMES_SECONDS


def plan(config: Config, table: CostTable, question: Question) -> Report:
    """Answer `question` for a config, by what was measured."""
    floor = config.sampling.floor.seconds
    counts = [(name, count) for name, count in question.matching.items()]
    names = [*counts, (DEFAULTS, question.streams - sum(count for _, count in counts))]
    demands = [(_demand(config, table, question, name), name, count) for name, count in names]
    full = sum(count * predicted(each, each.full) for each, _, count in demands)
    plain = sum(count * predicted(each, Ration(0.0, spikes=False)) for each, _, count in demands)
    least = sum(
        count * predicted(each, Ration(0.0, spikes=False, slowed_to_seconds=floor)) for each, _, count in demands
    )
    budget = table.cores * config.sampling.max_cpu.ratio
    usual = demands[-1][0]
    return Report(
        streams=question.streams,
        size=question.size,
        gop_s=question.shape.gop_seconds,
        fps=question.shape.fps,
        cores=table.cores,
        max_cpu=config.sampling.max_cpu.ratio,
        budget_cores=budget,
        needed_cores=full,
        floor_cores=least,
        floor_s=floor,
        verdict=_verdict(budget, full, plain, least),
        fits=least <= budget,
        bursts_shrink_from=_from(budget, full, question.streams),
        slowed_from=_from(budget, plain, question.streams),
        refused_from=_from(budget, least, question.streams),
        analysis_cpu_s=table.analysis_seconds,
        tiers=tuple(_tier(config, table, question, each, name, count) for each, name, count in demands),
        gops=tuple(_gops(table, question, usual)),
        chances=tuple(_chances(table, question, usual)),
    )


def _verdict(budget: float, full: float, plain: float, least: float) -> str:
    if full <= budget:
        return "fits"
    if plain <= budget:
        return "bursts_shrink"
    return "slowed" if least <= budget else "refused"


def _from(budget: float, cores: float, streams: int) -> int:
    return math.floor(budget / (cores / streams)) + 1


def _demand(config: Config, table: CostTable, question: Question, match: str) -> Demand:
    settings, rank = _settings(config, match)
    costs = table.stream(question.size, settings, question.shape, hint_interval_seconds=rank.hint_interval_seconds)
    return Demand(match, settings, rank, costs)


def _settings(config: Config, match: str) -> tuple[SamplingSettings, Rank]:
    """As the config has it for a stream that this entry matches; entries before it are taken not to."""
    alone = _alone(config, match)
    return alone.sampling_for("any/any"), alone.rank_for("any/any")


def _alone(config: Config, match: str) -> Config:
    own = tuple(each.model_copy(update={"match": "*"}) for each in config.streams if each.match == match)
    return config.model_copy(update={"streams": own})


def _tier(config: Config, table: CostTable, question: Question, demand: Demand, name: str, count: int) -> Tier:
    settings = demand.settings
    seen = seen_within_seconds(settings, question.shape)
    closer = _alone(config, name).closer_look_for("any/any").interval_seconds
    by_hash = seen + table.analysis_seconds
    votes = (config.votes.k - 1) * (2 * closer + reorder_seconds(question.shape) + table.analysis_seconds)
    return Tier(
        name=name,
        streams=count,
        risk=demand.rank.risk.value,
        look=look_at(settings, question.shape.gop_seconds).value,
        detect_within_s=settings.detect_within_seconds,
        burst_share=settings.burst_share,
        cores=predicted(demand, demand.full),
        seen_within_s=seen,
        hash_within_s=by_hash,
        class_within_s=by_hash + votes,
    )


def _gops(table: CostTable, question: Question, usual: Demand) -> list[GopRow]:
    def cores(gop: float) -> float:
        shape = replace(question.shape, gop_seconds=gop)
        demand = replace(usual, costs=table.stream(question.size, usual.settings, shape))
        # Without what comes by chance: it is the same share of any stream.
        return predicted(demand, Ration(0.0, spikes=False))

    usually = cores(2.0)
    return [
        GopRow(
            gop,
            look_at(usual.settings, gop).value,
            cores(gop),
            cores(gop) / usually,
            seen_within_seconds(usual.settings, replace(question.shape, gop_seconds=gop)),
        )
        for gop in GOPS_SECONDS
    ]


def _chances(table: CostTable, question: Question, usual: Demand) -> list[ChanceRow]:
    shape = question.shape
    rows = []
    for name, share, has_spikes in (
        ("none", 0.0, False),
        ("bursts", usual.settings.burst_share, usual.settings.spikes),
        ("blind_bursts", usual.rank.blind_burst_share, usual.settings.spikes),
    ):
        settings = replace(usual.settings, burst_share=share, spikes=has_spikes)
        demand = replace(usual, settings=settings, costs=table.stream(question.size, settings, shape))

        def over_time(
            shows: float, settings: SamplingSettings = settings, *, in_first_frames: bool = False
        ) -> tuple[float, ...]:
            return tuple(
                chance_between_keyframes(
                    settings, shape.gop_seconds, each, sizes_show=shows, in_first_frames=in_first_frames
                )
                for each in TIMES_SECONDS
            )

        rows.append(
            ChanceRow(
                setting=name,
                burst_share=share,
                cores=predicted(demand, demand.full),
                flattened=over_time(0.0),
                sizes_show=over_time(SIZES_SHOW),
                every_frame=over_time(0.0, in_first_frames=True),
                one_frame=chance_of_flash(settings, shape, 0.0, sizes_show=0.0),
                flash=chance_of_flash(settings, shape, FLASH_SECONDS, sizes_show=0.0),
            )
        )
    return rows
