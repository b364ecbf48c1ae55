"""What is lost, and for how long, when a part of the service or its broker is taken away?

Readers, analysis processes, forkservers and the whole service are killed or frozen while streams are published; a
mosquitto is stopped and started. Every time is measured from the loss; every alert is counted where it arrives.
"""

import asyncio
import random
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.brokers import Mosquitto, ServerMissing
from benchmarks.clips import Clip, encode_clip
from benchmarks.crowd import encode_all, percentile
from benchmarks.losses import (
    CLEAN_SCRIPT,
    GOP_SECONDS,
    HARMFUL_SCRIPT,
    LOADED,
    LOADED_GOP_SECONDS,
    AnalysisLosses,
    Losses,
    WatchedStreams,
    kill_before_delivery,
    lose_analysts,
    lose_broker,
)
from benchmarks.ports import free_port
from benchmarks.processes import ANALYSIS_ENTRY, READER_ENTRY
from benchmarks.publishers import PacedPublishers
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.running import RunningService

_STREAMS = 4
_LOADED_STREAMS = 12

_KILLED_LIMIT_SECONDS = GOP_SECONDS + 0.5
_STOPPED_LIMIT_SECONDS = GOP_SECONDS + 3.0
_FORKSERVER_LIMIT_SECONDS = GOP_SECONDS + 5.0
_REPLACED_LIMIT_SECONDS = {signal.SIGKILL: 1.0, signal.SIGSTOP: 3.0}
# A frame is looked at only within a second of its decoding. A killed process holds none up; behind a frozen one they
# wait, and what is looked at in the last moment has its verdict a little later than a second after the frame arrived.
_LATE_SECONDS = {signal.SIGKILL: 1.0, signal.SIGSTOP: 1.5}
_CUT_LIMIT_SECONDS = 3.0
_RESENT_LIMIT_SECONDS = 30.0
_STOP_LIMIT_SECONDS = 5.0

_NO_ALERT_LOST: Final = "broker away: alerts lost"
_RESTART_LOST: Final = "service killed before delivery: alerts lost"


@dataclass(frozen=True, slots=True)
class Plan:
    """How often each loss is tried, and how long the broker stays away."""

    kills: int
    stops: int
    forkservers: int
    analysts: int
    worker_counts: Sequence[int]
    restarts: int
    away_seconds: float
    harmful: int


_FULL = Plan(16, 8, 3, 10, (2, 1), 4, 60.0, 5)  # five: one entry more often and the breaker would refuse
_QUICK = Plan(4, 2, 1, 4, (1,), 1, 5.0, 3)


@dataclass(slots=True)
class _Findings:
    results: list[dict[str, Any]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def times(self, what: str, values: Sequence[float], limit: float, **more: Any) -> None:
        """Note the times of several trials, and check the longest."""
        row = {"what": what, "measured": len(values), "p50_s": percentile(values, 50), "max_s": max(values), **more}
        self.results.append(row)
        self.checks.append(at_most(f"{what}, max", max(values), "s", limit))


def measure(options: Options) -> Report:
    """Take away one part after another; a quick run does fewer trials, and two things beside each other."""
    plan = _QUICK if options.is_quick else _FULL
    if options.trials:
        count = options.trials
        plan = Plan(count, count, count, count, plan.worker_counts, count, plan.away_seconds, plan.harmful)
    settings = {
        "streams": _STREAMS,
        "streams_under_load": _LOADED_STREAMS,
        "gop_seconds": GOP_SECONDS,
        "gop_seconds_under_load": LOADED_GOP_SECONDS,
        "reader_kills": plan.kills,
        "reader_stops": plan.stops,
        "forkserver_kills": plan.forkservers,
        "analysis_kills": plan.analysts,
        "service_kills": plan.restarts,
        "broker_away_seconds": plan.away_seconds,
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("recovery", settings)
    findings = asyncio.run(_measure(plan, options))
    left_out = []
    if options.is_quick:
        left_out = ["broker away for 60 s (5 s here)", "analysis processes lost with two of them"]
    return Report("recovery", settings, findings.results, findings.checks, left_out)


async def _measure(plan: Plan, options: Options) -> _Findings:
    findings = _Findings()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="stopframe-recovery-") as scratch:
        folder = Path(scratch)
        clips = await encode_all({"clean": CLEAN_SCRIPT, "harmful": HARMFUL_SCRIPT}, folder)
        loading = await asyncio.to_thread(encode_clip, CLEAN_SCRIPT, folder=folder, gop_seconds=LOADED_GOP_SECONDS)

        async def processes() -> None:
            await _readers(plan, draw, clips["clean"], folder / "readers", findings)
            for workers in plan.worker_counts:
                await _analysts(plan, workers, draw, loading, folder / f"analysts-{workers}", findings)

        if options.is_quick:
            await asyncio.gather(processes(), _broker(plan, clips["harmful"], folder, findings))
        else:
            await processes()
            await _broker(plan, clips["harmful"], folder, findings)
    return findings


async def _readers(plan: Plan, draw: random.Random, clip: Clip, folder: Path, findings: _Findings) -> None:
    killed, stopped, forked, blinded = Losses(), Losses(), Losses(), Losses()
    service = RunningService(folder, _embedded_broker())
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        watched = WatchedStreams(service, publishers)
        await watched.begin(_STREAMS, clip)
        # The relay hands a new reader the beginning of a young stream: a picture of the past would count as back.
        await asyncio.sleep(12.0)
        paths = list(watched.readers)
        for trial in range(plan.kills):
            await asyncio.sleep(draw.uniform(0.0, GOP_SECONDS))
            await watched.lose_reader(paths[trial % len(paths)], signal.SIGKILL, killed)
        for trial in range(plan.stops):
            await asyncio.sleep(draw.uniform(0.0, GOP_SECONDS))
            await watched.lose_reader(paths[trial % len(paths)], signal.SIGSTOP, stopped)
        for _ in range(plan.forkservers):
            await watched.lose_forkserver(READER_ENTRY, forked)
            await watched.lose_forkserver(ANALYSIS_ENTRY, blinded)
    async with RunningService(folder / "leaving", _embedded_broker()) as leaving:
        async with PacedPublishers("127.0.0.1", leaving.ingest_port) as publishers:
            publishers.start_many(_STREAMS, clip, spread_seconds=0.5)
            await leaving.wait_live(_STREAMS, 30.0)
        stop_seconds = await leaving.stop()
    others = {"others_longest_gap_s": killed.others_gap_seconds}
    findings.times("reader killed: next frame of its stream", killed.back_seconds, _KILLED_LIMIT_SECONDS, **others)
    others = {"others_longest_gap_s": stopped.others_gap_seconds}
    findings.times("reader stopped: next frame of its stream", stopped.back_seconds, _STOPPED_LIMIT_SECONDS, **others)
    gap = max(killed.others_gap_seconds, stopped.others_gap_seconds)
    findings.checks.append(at_most("reader lost: longest gap of the other streams", gap, "s", _KILLED_LIMIT_SECONDS))
    what = "forkserver of the readers killed: next frame of each stream"
    findings.times(what, forked.back_seconds, _FORKSERVER_LIMIT_SECONDS)
    what = "forkserver of analysis killed: next frame of each stream"
    findings.times(what, blinded.back_seconds, _FORKSERVER_LIMIT_SECONDS)
    findings.checks.append(
        at_most("told to end while publishers leave: gone after", stop_seconds, "s", _STOP_LIMIT_SECONDS)
    )


async def _analysts(
    plan: Plan, workers: int, draw: random.Random, clip: Clip, folder: Path, findings: _Findings
) -> None:
    service = RunningService(folder, f"analysis: {{workers: {workers}}}\n{LOADED}{_embedded_broker()}")
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        publishers.start_many(_LOADED_STREAMS, clip, spread_seconds=LOADED_GOP_SECONDS)
        await service.wait_live(_LOADED_STREAMS, 30.0)
        for number, trials in ((signal.SIGKILL, plan.analysts), (signal.SIGSTOP, max(1, plan.analysts // 2))):
            losses = await lose_analysts(service, number, workers=workers, trials=trials, draw=draw)
            word = "killed" if number is signal.SIGKILL else "stopped"
            _note_analysts(f"analysis process {word}, {workers} in all", number, losses, findings)


def _note_analysts(name: str, number: signal.Signals, losses: AnalysisLosses, findings: _Findings) -> None:
    findings.times(
        f"{name}: another runs",
        losses.replaced_seconds,
        _REPLACED_LIMIT_SECONDS[number],
        verdicts=losses.verdicts,
        verdicts_later_than_1_s=losses.late,
        dropped=dict(losses.dropped),
    )
    findings.checks += [
        at_most(f"{name}: every verdict within (by histogram)", losses.within_seconds, "s", _LATE_SECONDS[number]),
        at_most(f"{name}: frames with neither verdict nor counted drop", losses.unaccounted, "frames", 0),
    ]


async def _broker(plan: Plan, clip: Clip, folder: Path, findings: _Findings) -> None:
    try:
        Mosquitto(folder)
    except ServerMissing as missing:
        findings.checks += [
            not_measured(_NO_ALERT_LOST, "alerts", 0, str(missing)),
            not_measured(_RESTART_LOST, "alerts", 0, str(missing)),
        ]
        return
    await _broker_away(plan, clip, folder, findings)
    await _restarts(plan, clip, folder, findings)


async def _broker_away(plan: Plan, clip: Clip, folder: Path, findings: _Findings) -> None:
    with Mosquitto(folder) as broker:
        away = await lose_broker(
            folder / "away", clip, away_seconds=plan.away_seconds, harmful=plan.harmful, broker=broker
        )
    findings.results.append(
        {
            "what": f"broker away for {plan.away_seconds:g} s",
            "alerts": away.alerts,
            "lost": away.lost,
            "most_copies": away.most_copies,
            "last_alert_after_return_s": away.last_alert_seconds,
            "switch_to_closed_max_s": percentile(away.switch_to_closed_seconds, 100),
        }
    )
    findings.checks += [
        at_least("broker away: publishers cut meanwhile", len(away.switch_to_closed_seconds), "cuts", away.harmful),
        at_most(_NO_ALERT_LOST, away.lost, "alerts", 0),
        at_least("broker away: alerts raised", away.alerts, "alerts", away.harmful),
        at_most("broker back: last alert after", away.last_alert_seconds, "s", _RESENT_LIMIT_SECONDS),
    ]
    if away.switch_to_closed_seconds:
        slowest = max(away.switch_to_closed_seconds)
        what = "broker away: harmful card sent to connection closed, max"
        findings.checks.append(at_most(what, slowest, "s", _CUT_LIMIT_SECONDS))


async def _restarts(plan: Plan, clip: Clip, folder: Path, findings: _Findings) -> None:
    restarts = []
    for trial in range(plan.restarts):
        async with AsyncExitStack() as stack:
            broker = stack.enter_context(Mosquitto(folder))
            place = folder / f"restart-{trial}"
            restarts.append(await kill_before_delivery(place, clip, waits_for_cut=trial % 2 == 1, broker=broker))
    findings.times(
        "service killed before delivery: alert after its start",
        [one.alert_seconds for one in restarts],
        _RESENT_LIMIT_SECONDS,
        start_s=max(one.start_seconds for one in restarts),
        alerts=sum(one.alerts for one in restarts),
    )
    findings.checks += [
        at_least("service killed before delivery: alerts raised, fewest", min(o.alerts for o in restarts), "alerts", 1),
        at_most(_RESTART_LOST, sum(one.lost for one in restarts), "alerts", 0),
        at_most(
            "service killed before delivery: copies of an alert", max(o.most_copies for o in restarts), "copies", 1
        ),
        at_most("service killed: processes that outlived it", sum(o.outlived for o in restarts), "processes", 0),
        at_least(
            "service killed: cut keys still refused afterwards",
            sum(one.is_key_refused for one in restarts),
            "keys",
            len(restarts),
        ),
    ]


def _embedded_broker() -> str:
    return f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}'
