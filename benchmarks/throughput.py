"""CPU time for each second of a stream, by mode, beside what one would use instead: streams for each core.

Whole product path: caged reader with its forkserver, session, analysis against a bank of a million hashes. In keyframe
mode each frame and its mirror image are looked up, and all views in a row of its own; as shipped, what ships.
References look at the same clips in the same run, in turn with ours, so that whatever else the machine does hits all of
them. "On files" is the same path with a clip handed over in place of a connection; keyframes, and the settings as
shipped, are read as fast as packets come, as the references read theirs, so that neither side waits: the media's clock
says what is sampled and when a heartbeat is due, and a check says whether anything was left out on the way. What
waiting for a network adds is in the figures over RTMP. What it costs to start is in none of the figures: everything is
run on two lengths of a clip, and the difference counts. (Where places are drawn, the longer run alone is as long as the
draw needs to come out even, and the start is that of the keyframe mode on the same clip.)
"""

import asyncio
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.brokers import ServerMissing
from benchmarks.camera_clips import ALL_INTRA, CLIPS, OBS_LIKE, UNIT_SECONDS, CameraClip, MadeClip, make
from benchmarks.decode_references import FLOOR, GRAB, PIPE, READ, Reference, ReferenceMissing, cpu_seconds
from benchmarks.file_watcher import BANK_ROWS, FileWatcher
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.running import ServiceFailed
from benchmarks.throughput_live import LiveCost, LivePlan, watch_live
from benchmarks.watched_files import Account
from streams.job import UNPACED

ARGUMENTS: Final = {"live": "measure over RTMP alone, with so many streams at once"}

_FLOOR_LIMIT, _LIVE_LIMIT = 1.15, 1.3
_GRAB_LIMIT, _READ_LIMIT, _SHIPPED_LIMIT = 10.0, 13.0, 5.0
_INTRA_LIMIT = 2.0
_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to sample. Watched for `rounds` times the clip's length, `speed` times as fast as it was shown.

    `sampling` and `matching` are those sections of the config, in one line each.
    """

    name: str
    sampling: str
    rounds: int
    speed: float
    matching: str = "{}"


_DECODING_ROUNDS = 2
_TRIES = 4

_KEYFRAMES_ALONE = "{mode: keyframes, bursts: 0%, spikes: false}"

KEYFRAMES: Final = Mode("keyframes", _KEYFRAMES_ALONE, 10, UNPACED, "{tiers: []}")
ALL_VIEWS: Final = Mode("keyframes, all views", _KEYFRAMES_ALONE, 10, UNPACED)
SHIPPED: Final = Mode("as shipped (bursts 5 %, spikes)", "{}", 20, UNPACED)
BURSTS: Final = Mode("bursts 33 %", "{bursts: 33%}", 3, 8.0)
FULL: Final = Mode("full", "{mode: full}", 3, 5.0)


@dataclass(slots=True)
class Cost:
    """CPU milliseconds for each second of a stream, trial by trial; of ours by part as well."""

    total: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    samples_per_second: list[float] = field(default_factory=list)
    left_out: int = 0
    """Keyframes that were decoded, or samples, that nobody judged."""

    @property
    def milliseconds(self) -> float:
        """The median."""
        return statistics.median(self.total)

    @property
    def streams_per_core(self) -> float:
        """How many streams one core carries at the median."""
        return 1000.0 / self.milliseconds


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run measures.

    A trial runs each of the ways once, in an order that is drawn. What decodes everything takes part in the first
    `decoding_trials` alone: it is dear, and steady for that. Clips without sound go without the last trial, the pipe
    and the dearer modes: what they are there for is the comparison of encodings.
    """

    clips: Sequence[CameraClip]
    trials: int
    modes: Sequence[Mode]
    references: Sequence[Reference]
    floor_rounds: int
    decoding_trials: int
    live: LivePlan | None
    live_modes: Sequence[Mode] = (KEYFRAMES,)


@dataclass(slots=True)
class Measured:
    """Costs by clip and way, what was missing and why, and the keyframes that all-intra costs in each interval."""

    costs: dict[tuple[CameraClip, str], Cost] = field(default_factory=lambda: defaultdict(Cost))
    missing: dict[str, str] = field(default_factory=dict)
    intra_keyframes: float | None = None
    live: dict[str, list[LiveCost]] = field(default_factory=lambda: defaultdict(list))

    def ratios(self, clip: CameraClip, way: str, reference: str) -> list[float]:
        """Return how many times the cost of `reference` is that of `way`, by trial; empty where one is missing."""
        ours, theirs = self.costs.get((clip, way)), self.costs.get((clip, reference))
        if ours is None or theirs is None:
            return []
        return [their / our for our, their in zip(ours.total, theirs.total, strict=False)]


def measure(options: Options) -> Report:
    """Measure every clip. A quick run takes one clip and all-intra, and the modes that the tightest checks are of."""
    plan = _plan(options)
    made = make([*dict.fromkeys([*plan.clips, OBS_LIKE, ALL_INTRA])])
    settings = {
        "clips": {one.clip.name: one.sha256 for one in made.values()},
        "clip_seconds": UNIT_SECONDS,
        "bank_rows": BANK_ROWS,
        "views": {mode.name: "identity and mirror" if mode is KEYFRAMES else "as shipped" for mode in plan.modes},
        "models": "none",
        "start": "left out: two lengths of each clip, and their difference",
        "trials": plan.trials,
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("throughput", settings)
    with tempfile.TemporaryDirectory(prefix="stopframe-throughput-") as scratch:
        measured = _measured(plan, made, Path(scratch), random.Random(options.seed))
    left_out = []
    if plan.live is not None and not plan.clips:
        left_out = ["everything on files"]
    elif options.is_quick:
        left_out = ["other clips", "modes full and bursts 33 %", PIPE.name, "live over RTMP (alone: --live 6)"]
    results = [*_results(plan, measured), *_live_results(measured)]
    return Report("throughput", settings, results, _checks(plan, measured), left_out)


def _plan(options: Options) -> Plan:
    if streams := options.more.get("live"):
        window_seconds = 12.0 if options.is_quick else 24.0
        return Plan([], options.trials or 1, [], [], 0, 0, LivePlan(streams, window_seconds), (KEYFRAMES, SHIPPED))
    if options.is_quick:
        return Plan([OBS_LIKE], options.trials or 3, [KEYFRAMES, SHIPPED, ALL_VIEWS], [FLOOR, GRAB, READ], 10, 1, None)
    modes, references = [KEYFRAMES, SHIPPED, ALL_VIEWS, BURSTS, FULL], [FLOOR, PIPE, GRAB, READ]
    return Plan(CLIPS, options.trials or 3, modes, references, 15, 1, LivePlan(12, 20.0))


def _measured(plan: Plan, made: dict[CameraClip, MadeClip], scratch: Path, draw: random.Random) -> Measured:
    measured = Measured()
    for number in range(min(2, plan.trials) if plan.live else 0):
        for mode in plan.live_modes:
            _trial_live(plan, mode, made[OBS_LIKE], scratch / f"live-{number}-{mode.rounds}", measured)
    if not plan.clips:
        return measured
    with FileWatcher(scratch / "files") as watcher:
        for number in range(plan.trials):
            for clip in plan.clips:
                if number and number == plan.trials - 1 and not clip.has_audio:
                    continue
                print(f"  trial {number + 1} of {plan.trials}: {clip.name}", flush=True)
                decodes = number < plan.decoding_trials
                _trial(plan, made[clip], watcher, measured, draw, decodes=decodes)
        account = watcher.watch([made[ALL_INTRA].lengthened(3)], SHIPPED.sampling, speed=5.0)
        measured.intra_keyframes = account.keyframes_decoded * _INTERVAL_SECONDS / (3 * UNIT_SECONDS)
    return measured


def _trial(
    plan: Plan, made: MadeClip, watcher: FileWatcher, measured: Measured, draw: random.Random, *, decodes: bool
) -> None:
    """Run every way once on one clip: keyframes and the floor side by side, then the others in any order."""
    start = _watch_keyframes(plan, made, watcher, measured)
    _refer(plan, FLOOR, made, measured)
    ways: list[Mode | Reference] = [*plan.modes[1:], *plan.references[1:]] if decodes else [*plan.modes[1:2]]
    if not made.clip.has_audio:
        ways = [way for way in ways if way not in {ALL_VIEWS, BURSTS, FULL, PIPE}]
    draw.shuffle(ways)
    for way in ways:
        if isinstance(way, Reference):
            _refer(plan, way, made, measured)
        else:
            account = watcher.watch([made.lengthened(way.rounds)], way.sampling, speed=way.speed, matching=way.matching)
            _note(measured.costs[made.clip, way.name], account, start, way.rounds * UNIT_SECONDS)


def _trial_live(plan: Plan, mode: Mode, made: MadeClip, scratch: Path, measured: Measured) -> None:
    assert plan.live is not None
    scratch.mkdir()
    try:
        live = watch_live(plan.live, made.path, scratch, sampling=mode.sampling, matching=mode.matching)
        measured.live[mode.name].append(asyncio.run(live))
    except (ServerMissing, ServiceFailed) as error:
        measured.missing["live"] = str(error)


def _watch_keyframes(plan: Plan, made: MadeClip, watcher: FileWatcher, measured: Measured) -> Account:
    """Return what the start alone costs."""
    short, long = (_watch_whole(watcher, made.lengthened(rounds)) for rounds in (1, plan.floor_rounds))
    _note(measured.costs[made.clip, KEYFRAMES.name], long, short, (plan.floor_rounds - 1) * UNIT_SECONDS)
    share = 1 / (plan.floor_rounds - 1)
    return Account(
        service=short.service - share * (long.service - short.service),
        readers=short.readers - share * (long.readers - short.readers),
        analysis=short.analysis - share * (long.analysis - short.analysis),
    )


def _watch_whole(watcher: FileWatcher, path: Path) -> Account:
    """Watch in keyframe mode; again, a few times, where other load on the machine had samples left out."""
    for _ in range(_TRIES):
        account = watcher.watch([path], KEYFRAMES.sampling, speed=KEYFRAMES.speed, matching=KEYFRAMES.matching)
        if not account.left_out:
            break
    return account


def _note(cost: Cost, account: Account, start: Account, seconds: float) -> None:
    cost.total.append(1000 * (account.total - start.total) / seconds)
    for part in ("readers", "service", "analysis"):
        cost.parts[part].append(1000 * (getattr(account, part) - getattr(start, part)) / seconds)
    cost.left_out += account.left_out
    cost.samples_per_second.append((account.judged - start.judged) / seconds)


def _refer(plan: Plan, reference: Reference, made: MadeClip, measured: Measured) -> None:
    rounds = plan.floor_rounds if reference is FLOOR else _DECODING_ROUNDS
    try:
        short, long = (cpu_seconds(reference, made.lengthened(count)) for count in (1, rounds))
    except ReferenceMissing as error:
        measured.missing[reference.name] = str(error)
        return
    measured.costs[made.clip, reference.name].total.append(1000 * (long - short) / ((rounds - 1) * UNIT_SECONDS))


def _results(plan: Plan, measured: Measured) -> Iterator[dict[str, Any]]:
    for clip in plan.clips:
        for way in [one.name for one in plan.modes] + [one.name for one in plan.references]:
            cost = measured.costs.get((clip, way))
            if cost is None:
                continue
            floors = [1 / ratio for ratio in measured.ratios(clip, way, FLOOR.name)]
            row: dict[str, Any] = {
                "clip": clip.name,
                "way": way,
                "cpu_ms_per_s": round(cost.milliseconds, 3),
                "spread_ms": [round(min(cost.total), 3), round(max(cost.total), 3)],
                "streams_per_core": round(cost.streams_per_core, 1),
            }
            if floors:
                row["times_floor"] = round(statistics.median(floors), 3)
            if cost.parts:
                row |= {part: round(statistics.median(values), 3) for part, values in cost.parts.items()}
                row["left_out"] = cost.left_out
                row["samples_per_s"] = round(statistics.median(cost.samples_per_second), 3)
            yield row


def _live_results(measured: Measured) -> Iterator[dict[str, Any]]:
    for way, costs in measured.live.items():
        totals = [1000 * cost.ours.total / cost.stream_seconds for cost in costs]
        yield {
            "clip": OBS_LIKE.name,
            "way": f"live over RTMP: {way}",
            "streams": costs[0].streams,
            "cpu_ms_per_s": round(statistics.median(totals), 3),
            "spread_ms": [round(min(totals), 3), round(max(totals), 3)],
            "streams_per_core": round(1000 / statistics.median(totals), 1),
            "times_floor": round(statistics.median(cost.times_floor for cost in costs), 3),
            **{
                part: round(
                    statistics.median(1000 * getattr(cost.ours, part) / cost.stream_seconds for cost in costs), 3
                )
                for part in ("readers", "service", "analysis")
            },
            "samples_per_s": round(statistics.median(cost.judged / cost.stream_seconds for cost in costs), 3),
            "floor_ms_per_s": round(statistics.median(1000 * cost.floor / cost.stream_seconds for cost in costs), 3),
            "idle_service_ms_per_s": round(1000 * statistics.median(cost.idle for cost in costs), 3),
        }


def _checks(plan: Plan, measured: Measured) -> list[Check]:
    checks = []
    if plan.live is not None:
        what = "1080p30: CPU per stream-second in keyframe mode live over RTMP, in the floor's"
        costs = measured.live.get(KEYFRAMES.name)
        checks.append(
            at_most(what, statistics.median(cost.times_floor for cost in costs), "times", _LIVE_LIMIT)
            if costs
            else not_measured(what, "times", _LIVE_LIMIT, measured.missing.get("live", "it was not run"))
        )
    if not plan.clips:
        return checks
    for height in sorted({clip.height for clip in plan.clips}, reverse=True):
        clips = [clip for clip in plan.clips if clip.height == height]
        name = f"{height}p30"
        what = f"{name}: CPU per stream-second in keyframe mode on files, in the floor's, worst clip"
        floors = [statistics.median(1 / one for one in ratios) for ratios in _all(measured, clips, KEYFRAMES, FLOOR)]
        checks.append(
            at_most(what, max(floors), "times", _FLOOR_LIMIT)
            if floors
            else not_measured(what, "times", _FLOOR_LIMIT, _why(measured, FLOOR))
        )
        left_out = sum(measured.costs[clip, KEYFRAMES.name].left_out for clip in clips)
        checks.append(at_most(f"{name}: keyframes in keyframe mode that were not looked at", left_out, "keyframes", 0))
        for mode, reference, limit in (
            (KEYFRAMES, GRAB, _GRAB_LIMIT),
            (KEYFRAMES, READ, _READ_LIMIT),
            (SHIPPED, GRAB, _SHIPPED_LIMIT),
        ):
            what = f"{name}: streams per core, {mode.name}, in those of {reference.name}, worst clip"
            ratios = [statistics.median(one) for one in _all(measured, clips, mode, reference)]
            checks.append(
                at_least(what, min(ratios), "times", limit)
                if ratios
                else not_measured(what, "times", limit, _why(measured, reference))
            )
    what = "all-intra: keyframes decoded in each interval"
    if measured.intra_keyframes is None:
        checks.append(not_measured(what, "keyframes", _INTRA_LIMIT, "it was not watched to its end"))
    else:
        checks.append(at_most(what, measured.intra_keyframes, "keyframes", _INTRA_LIMIT))
    return checks


def _all(measured: Measured, clips: Sequence[CameraClip], mode: Mode, reference: Reference) -> list[list[float]]:
    return [ratios for clip in clips if (ratios := measured.ratios(clip, mode.name, reference.name))]


def _why(measured: Measured, reference: Reference) -> str:
    return measured.missing.get(reference.name, "it was not run")
