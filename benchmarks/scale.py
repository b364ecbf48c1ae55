"""From a few live streams to many on one machine: does each go on costing the same, and who suffers when time is short?

One feeder replays a pre-encoded clip to the embedded ingest at real pace, once for each stream. CPU time is counted in
keyframe mode, in which no draw makes one window dearer than another, and of the whole service, its relay included.
Then the shipped mode is given half of the CPU time that it needs: every stream must go on being looked at within the
floor, and the accounts of what was seen must be those that the frames themselves give.
"""

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from benchmarks.camera_clips import CameraClip, MadeClip, make
from benchmarks.camera_feed import feed_of
from benchmarks.file_watcher import BANK_ROWS, fill_large_bank
from benchmarks.ports import free_port
from benchmarks.processes import CpuSeconds, pss_bytes
from benchmarks.publishers import PacedPublishers
from benchmarks.report import Check, Options, Report, at_most, machine, not_measured, print_settings
from benchmarks.running import RunningService, ServiceFailed
from benchmarks.sight_account import SightAccount
from detector.api.view import StreamRow

CLIP: Final = CameraClip(720, 2500, is_cbr=True, bframes=2, has_audio=True)
LARGE: Final = CameraClip(1080, 4500, is_cbr=True, bframes=2, has_audio=True)

_KEYFRAMES = "mode: keyframes, bursts: 0%, spikes: false"
_GROWTH_LIMIT_PERCENT = 10.0
_PSS_LIMIT_MB = 35.0
_LEDGER_LIMIT_PERCENT = 1.0
_DETECT_WITHIN_SECONDS = 3.0
_FLOOR_SECONDS = 10.0
_LIVE_SECONDS = 90.0
_LOOK_SECONDS = 0.25
_RETURN_SECONDS = 60.0
_GOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many streams, one step after the other, and how long each step is watched after it has settled."""

    counts: Sequence[int]
    window_seconds: float
    settle_seconds: float
    large: int
    short_seconds: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """What `streams` cost together in one window; `latest_seconds`: how far the feeder was behind its pace."""

    streams: int
    seconds: float
    cpu: CpuSeconds
    samples: int
    pss: Sequence[int]
    latest_seconds: float

    @property
    def milliseconds(self) -> float:
        """CPU milliseconds for each second of one stream."""
        return 1000 * self.cpu.total / (self.streams * self.seconds)


@dataclass(slots=True)
class Shortage:
    """What came of half the CPU time."""

    streams: int
    needed_cores: float
    used_cores: float
    gap_seconds: float
    account_error_percent: float
    seen_error_percent: float
    rations: dict[str, int] = field(default_factory=dict)
    returned_seconds: float | None = None


@dataclass(slots=True)
class Outcome:
    """Steps in their order; what could not be measured, and why."""

    steps: list[Step] = field(default_factory=list)
    large_pss: Sequence[int] = ()
    shortage: Shortage | None = None
    fault: str = ""


def measure(options: Options) -> Report:
    """Go up step by step. A quick run stops at 15 streams and leaves the shortage out."""
    plan = Plan((5, 15), 6.0, 3.0, 3, None) if options.is_quick else Plan((5, 15, 30, 60), 20.0, 5.0, 5, 60.0)
    made = make([CLIP, LARGE])
    settings = {
        "clips": {one.clip.name: one.sha256 for one in made.values()},
        "streams": list(plan.counts),
        "window_seconds": plan.window_seconds,
        "mode": "keyframes for the cost of a stream, as shipped for the shortage",
        "picture": f"{CLIP.width}x{CLIP.height} for the steps, {LARGE.width}x{LARGE.height} for memory",
        "ingest": "embedded",
        "bank_rows": BANK_ROWS,
        "floor": f"{_FLOOR_SECONDS:g}s",
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("scale", settings)
    with tempfile.TemporaryDirectory(prefix="stopframe-scale-") as scratch:
        outcome = asyncio.run(_measured(plan, made, Path(scratch)))
    left_out = [] if plan.short_seconds else ["30 and 60 streams", "half of the CPU time that is needed"]
    return Report("scale", settings, list(_results(outcome)), checks(plan, outcome), left_out)


async def _measured(plan: Plan, made: Mapping[CameraClip, MadeClip], scratch: Path) -> Outcome:
    outcome = Outcome()
    try:
        outcome.large_pss = await _large_pss(plan, made[LARGE], scratch / "large")
        await _go_up(plan, made[CLIP], scratch / "steps", outcome)
    except (ServiceFailed, OSError) as error:
        outcome.fault = str(error)
    return outcome


async def _large_pss(plan: Plan, made: MadeClip, folder: Path) -> Sequence[int]:
    service = _service(folder, "")
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        publishers.start_many(plan.large, feed_of(made), spread_seconds=_GOP_SECONDS)
        await service.wait_live(plan.large, _LIVE_SECONDS)
        await asyncio.sleep(3 * _GOP_SECONDS)
        return _pss(service)


async def _go_up(plan: Plan, made: MadeClip, folder: Path, outcome: Outcome) -> None:
    feed = feed_of(made)
    service = _service(folder, _KEYFRAMES)
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        published = 0
        for count in plan.counts:
            more = count - published
            publishers.start_many(more, feed, spread_seconds=_GOP_SECONDS, prefix=f"live/n{count}-")
            published = count
            await service.wait_live(count, _LIVE_SECONDS)
            await asyncio.sleep(plan.settle_seconds)
            outcome.steps.append(await _step(plan, service, publishers, count))
        if plan.short_seconds is not None:
            outcome.shortage = await _shortage(plan, plan.short_seconds, service, publishers)


async def _step(plan: Plan, service: RunningService, publishers: PacedPublishers, count: int) -> Step:
    for publication in publishers.publications.values():
        publication.latest_seconds = 0.0
    judged, before, begun_at = await _judged(service), service.tree.cpu_seconds(), time.monotonic()
    await asyncio.sleep(plan.window_seconds)
    cpu, seconds = service.tree.cpu_seconds() - before, time.monotonic() - begun_at
    latest = max(publication.latest_seconds for publication in publishers.publications.values())
    return Step(count, seconds, cpu, await _judged(service) - judged, _pss(service), latest)


async def _shortage(plan: Plan, seconds: float, service: RunningService, publishers: PacedPublishers) -> Shortage:
    """Give the shipped mode half of what it needs, watch, and end most of the load."""
    await _change(service, "")
    await asyncio.sleep(plan.settle_seconds)
    before, begun_at = service.tree.cpu_seconds(), time.monotonic()
    await asyncio.sleep(plan.window_seconds)
    needed = (service.tree.cpu_seconds() - before).total / (time.monotonic() - begun_at)
    cores = machine()["cores"]
    await _change(service, f"max_cpu: {max(1, round(100 * needed / 2 / cores))}%")
    await asyncio.sleep(2 * plan.settle_seconds)
    account = SightAccount(_DETECT_WITHIN_SECONDS)
    before, begun_at = service.tree.cpu_seconds(), time.monotonic()
    rows: dict[str, StreamRow] = {}
    while time.monotonic() - begun_at < seconds:
        asked_at = time.monotonic()
        rows = await service.streams()
        account.look(rows, asked_at, time.monotonic())
        await asyncio.sleep(_LOOK_SECONDS)
    used = (service.tree.cpu_seconds() - before).total / (time.monotonic() - begun_at)
    rations: dict[str, int] = {}
    for row in rows.values():
        rations[row.ration] = rations.get(row.ration, 0) + 1
    shortage = Shortage(
        streams=len(rows),
        needed_cores=needed,
        used_cores=used,
        gap_seconds=account.gap_seconds,
        account_error_percent=account.alive_error_percent(),
        seen_error_percent=account.seen_error_percent(),
        rations=rations,
    )
    left = plan.counts[0]
    for path in list(publishers.publications)[left:]:
        await publishers.stop(path)
    shortage.returned_seconds = await _returned(service, left)
    return shortage


async def _returned(service: RunningService, left: int) -> float | None:
    """Return after how long everybody who is left is looked at as closely as before."""
    begun_at = time.monotonic()
    while time.monotonic() - begun_at < _RETURN_SECONDS:
        live = [row for row in (await service.streams()).values() if row.state != "ended"]
        if len(live) == left and all(row.ration == "full" for row in live):
            return time.monotonic() - begun_at
        await asyncio.sleep(_LOOK_SECONDS)
    return None


def _service(folder: Path, sampling: str) -> RunningService:
    service = RunningService(folder, _settings(sampling, free_port()))
    fill_large_bank(service.state_dir)
    return service


def _settings(sampling: str, broker_port: int) -> str:
    return (
        f"models: []\nsampling: {{{sampling}}}\n"
        f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{broker_port}", embedded_broker: true}}}}'
    )


async def _change(service: RunningService, sampling: str) -> None:
    """Have the running service sample by `sampling`: it follows its file."""
    lines = service.config.read_text().splitlines()
    changed = [f"sampling: {{{sampling}}}" if line.startswith("sampling:") else line for line in lines]
    service.config.write_text("\n".join(changed) + "\n")
    await service.reload()


async def _judged(service: RunningService) -> int:
    return sum(row.judged for row in (await service.streams()).values())


def _pss(service: RunningService) -> list[int]:
    sizes = [pss_bytes(reader.pid) for reader in service.tree.readers()]
    return [size for size in sizes if size is not None]


def _results(outcome: Outcome) -> Sequence[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "streams": step.streams,
            "cpu_ms_per_s": round(step.milliseconds, 3),
            **{
                part: round(1000 * getattr(step.cpu, part) / (step.streams * step.seconds), 3)
                for part in ("readers", "service", "analysis")
            },
            "samples_per_s": round(step.samples / (step.streams * step.seconds), 3),
            "pss_mb": round(fmean(step.pss) / 1e6, 2) if step.pss else None,
            "feeder_latest_s": round(step.latest_seconds, 3),
        }
        for step in outcome.steps
    ]
    if outcome.large_pss:
        rows.append({"streams": len(outcome.large_pss), "picture": "1080p", "pss_mb": _largest_mean(outcome.large_pss)})
    if outcome.shortage is not None:
        short = outcome.shortage
        rows.append({name: getattr(short, name) for name in Shortage.__slots__})
    return rows


def _largest_mean(sizes: Sequence[int]) -> float:
    return round(fmean(sizes) / 1e6, 2)


def checks(plan: Plan, outcome: Outcome) -> list[Check]:
    """One for each promise; what could not be measured says why."""
    first, last = plan.counts[0], plan.counts[-1]
    what = f"CPU per stream, {last} streams more than {first}"
    why = outcome.fault or "it was not reached"
    by_count = {step.streams: step.milliseconds for step in outcome.steps}
    made = [
        at_most(what, 100 * (by_count[last] / by_count[first] - 1), "percent", _GROWTH_LIMIT_PERCENT)
        if first in by_count and last in by_count
        else not_measured(what, "percent", _GROWTH_LIMIT_PERCENT, why)
    ]
    what = "PSS of the reader of a 1080p stream, mean"
    made.append(
        at_most(what, _largest_mean(outcome.large_pss), "MB", _PSS_LIMIT_MB)
        if outcome.large_pss
        else not_measured(what, "MB", _PSS_LIMIT_MB, outcome.fault or "the kernel does not show it to this user")
    )
    return made if plan.short_seconds is None else [*made, *_shortage_checks(outcome.shortage, why)]


def _shortage_checks(short: Shortage | None, why: str) -> list[Check]:
    promises = (
        ("half the CPU time: longest time without a sample", "gap_seconds", "s", _FLOOR_SECONDS),
        (
            "half the CPU time: accounts against the time alive",
            "account_error_percent",
            "percent",
            _LEDGER_LIMIT_PERCENT,
        ),
        (
            "half the CPU time: accounts against the frames judged",
            "seen_error_percent",
            "percent",
            _LEDGER_LIMIT_PERCENT,
        ),
        ("load gone: everybody looked at as before after", "returned_seconds", "s", _RETURN_SECONDS),
    )
    made = []
    for what, name, unit, limit in promises:
        value = None if short is None else getattr(short, name)
        made.append(
            not_measured(what, unit, limit, why if short is None else "not within that time")
            if value is None
            else at_most(what, value, unit, limit)
        )
    return made
