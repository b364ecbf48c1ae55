"""Does anything grow? Two thousand reconnects and 200,000 samples, and what the service holds after a tenth of them.

Fourteen publishers at once stay for a hundred samples each, or a few more, and come back. Memory, descriptors, threads,
tasks and processes are counted at rest, ten times. With `--traced 1` the report names the lines of the service that
hold most of what it took since the first count.

Beside it, with a service and a broker of its own, a broker stays away for ten minutes (`benchmarks.outage`).
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import outage
from benchmarks.brokers import ServerMissing
from benchmarks.clips import encode_clip
from benchmarks.ports import free_port
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.soaking import FPS, SCRIPT, SETTINGS, Holdings, Soak, SoakedService

ARGUMENTS: Final = {
    "sessions": "how often somebody comes and goes (default 2000, 56 if quick; 0 leaves them out)",
    "away": "seconds that the broker is away (default 600, 16 if quick; 0 leaves that out)",
    "traced": "1 has the service trace its memory, which slows it, and the report name the lines that hold most",
}

_SESSIONS, _QUICK_SESSIONS = 2000, 56
_KEYS = 14
_STEPS, _QUICK_STEPS = 10, 4
_SAMPLES_EACH = 100
_GROWTH_LIMIT_MIB = 3.0


def measure(options: Options) -> Report:
    """Let 2,000 sessions (or `--sessions`, or `--trials` times as many) come and go; a quick run takes 56."""
    sessions = (_QUICK_SESSIONS if options.is_quick else _SESSIONS) * (options.trials or 1)
    sessions = options.more.get("sessions", sessions)
    away_seconds = float(options.more.get("away", outage.QUICK_SECONDS if options.is_quick else outage.SECONDS))
    steps = _QUICK_STEPS if options.is_quick else _STEPS
    settings: dict[str, Any] = {
        "sessions": sessions,
        "at_once": _KEYS,
        "picture": "160x90",
        "samples_each": _SAMPLES_EACH,
        "broker_away_seconds": away_seconds,
        "traced": bool(options.more.get("traced")),
        "machine": machine(),
    }
    print_settings("soak", settings)
    results: list[dict[str, Any]] = []
    done: list[Check] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="stopframe-soak-") as scratch:
        folder, traces = Path(scratch), bool(options.more.get("traced"))
        series, away = asyncio.run(_both(sessions, steps, away_seconds, folder, traces=traces))
    if series:
        results += [row(one) for one in series]
        done += checks(series, sessions)
    if isinstance(away, ServerMissing):
        done.append(not_measured("broker away: alerts lost", "alerts", 0, str(away)))
    elif away is not None:
        results.append(outage.row(away))
        done += outage.checks(away, away_seconds)
    if sessions < _SESSIONS:
        left_out.append(f"{_SESSIONS} sessions ({sessions} here)")
    if away_seconds < outage.SECONDS:
        left_out.append(f"broker away for {outage.SECONDS:g} s ({away_seconds:g} s here), and its service's memory")
    return Report("soak", settings, results, done, left_out)


async def _both(
    sessions: int, steps: int, away_seconds: float, folder: Path, *, traces: bool
) -> tuple[list[Holdings], outage.Away | ServerMissing | None]:
    """Run what was asked for of the two, beside each other."""
    async with asyncio.TaskGroup() as group:
        away = group.create_task(_outage(folder, away_seconds), name="outage") if away_seconds else None
        series = group.create_task(soak(sessions, folder, keys=_KEYS, steps=steps, traces=traces)) if sessions else None
    return series.result() if series else [], away.result() if away else None


async def _outage(folder: Path, seconds: float) -> outage.Away | ServerMissing:
    place = folder / "outage"
    place.mkdir()
    try:
        return await outage.outage(place, seconds)
    except ServerMissing as missing:
        return missing


async def soak(sessions: int, folder: Path, *, keys: int, steps: int, traces: bool = False) -> list[Holdings]:
    """Let `sessions` come and go, `keys` at once; return what was held at rest after each of `steps` equal parts."""
    clip = await asyncio.to_thread(encode_clip, SCRIPT, folder=folder, fps=FPS, gop_seconds=1 / FPS, size="160x90")
    service = SoakedService(folder / "service", SETTINGS % f'"mqtt://127.0.0.1:{free_port()}"', traces=traces)
    series = []
    async with service:
        soaking = Soak(service, clip, keys)
        ends = [sessions * step // steps for step in range(1, steps + 1)]
        while ends:
            held = await soaking.until(ends.pop(0))
            print("  " + "  ".join(f"{key}={value}" for key, value in row(held).items()), flush=True)
            series.append(held)
            if not ends and held.samples < sessions * _SAMPLES_EACH and held.sessions < 2 * sessions:
                ends.append(held.sessions + sessions // steps)  # a busy machine took too few samples: some more
    return series


def row(held: Holdings) -> dict[str, Any]:
    """Return one row of the report."""
    shown: dict[str, Any] = {
        "sessions": held.sessions,
        "samples": held.samples,
        "seconds": round(held.seconds, 1),
        "resident_mib": {name: round(size / 2**20, 2) for name, size in held.resident.items()},
        "descriptors": sum(held.descriptors.values()),
        "threads": sum(held.threads.values()),
        "tasks": held.task_count,
        "processes": held.processes,
    }
    return shown | ({"traced": held.traced} if held.traced else {})


def checks(series: Sequence[Holdings], sessions: int) -> list[Check]:
    """Return one check for each promised figure: the end beside the first tenth."""
    first, last = series[0], series[-1]
    growths = [
        at_most(
            f"{name}: memory at the end beyond that after a tenth",
            (last.resident.get(name, 0) - first.resident[name]) / 2**20,
            "MiB",
            _GROWTH_LIMIT_MIB,
        )
        for name in first.resident
    ]
    grown = _grown(first, last)
    return [
        at_least("sessions", last.sessions, "sessions", sessions),
        at_least("samples judged", last.samples, "samples", sessions * _SAMPLES_EACH),
        *growths,
        at_most("descriptors more than after a tenth", grown["descriptors"], "descriptors", 0),
        at_most("threads more than after a tenth", grown["threads"], "threads", 0),
        at_most("tasks more than after a tenth", grown["tasks"], "tasks", 0),
        at_most("processes more than after a tenth", grown["processes"], "processes", 0),
    ]


def _grown(first: Holdings, last: Holdings) -> dict[str, int]:
    return {
        "descriptors": sum(last.descriptors.values()) - sum(first.descriptors.values()),
        "threads": sum(last.threads.values()) - sum(first.threads.values()),
        "tasks": last.task_count - first.task_count,
        "processes": last.processes - first.processes,
    }
