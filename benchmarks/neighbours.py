"""What do ten healthy streams lose while an eleventh attacks the service, and what does the attack cost its own reader?

One attack after the other is published beside them, each after a stretch without any: a resolution bomb, a switch of
resolution, crowds of tracks, pictures, slices and sound, streams that stall or turn to noise, a reader that crashes
again and again. Samples are counted by the service for each stream; the neighbours' keyframes are as frequent as their
samples, so that none is missing by chance.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import hostile_clips
from benchmarks.clips import Clip, encode_clip
from benchmarks.crowd import percentile
from benchmarks.neighbourhood import GOP_SECONDS, Attack, Blow, Neighbourhood, in_folder
from benchmarks.ports import free_port
from benchmarks.report import Check, Options, Report, at_most, machine, not_measured, print_settings

_SCRIPT: Final = "card:100:4"
_CRASHES_A_MINUTE = 100.0

_LOSS_LIMIT_PERCENT = 5.0
_MEMORY_LIMIT_MIB = 150.0
_BLIND_LIMIT_SECONDS = 3.0
_TURNED_BLIND_LIMIT_SECONDS = 10.0
"""Of a stream that began well: a reader that opens it again is given its young beginning, and sees that."""

_CRASH_LOOP: Final = "crash loop"
_PROMISED: Final = ("bomb", "resolution switch", "1000 PIDs", "240 fps", _CRASH_LOOP, "drip feed")
"""The attacks whose figures are promised; the others are measured beside them."""
_IN_MEMORY: Final = ("bomb", "resolution switch")
_BLINDING: Final = ("bomb", "resolution switch", _CRASH_LOOP, "drip feed", "hollow keyframes", "garbage")
_LEAD: Final = ("resolution switch", "drip feed", "hollow keyframes", "garbage")
"""The attacks that begin as an ordinary stream."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which attacks, beside how many neighbours, for how long."""

    neighbours: int
    baseline_seconds: float
    attack_seconds: float
    names: Sequence[str]
    rounds: int = 1


_EVERY: Final = (*_PROMISED, *(name for name in hostile_clips.CLIPS if name not in _PROMISED))
_FULL: Final = Plan(10, 6.0, 12.0, _EVERY)
_QUICK: Final = Plan(10, 4.0, 6.0, ("bomb", "resolution switch", _CRASH_LOOP))


def measure(options: Options) -> Report:
    """Every attack once (or `--trials` times); a quick run makes three of them, briefly."""
    plan = _QUICK if options.is_quick else _FULL
    plan = Plan(plan.neighbours, plan.baseline_seconds, plan.attack_seconds, plan.names, options.trials or 1)
    settings: dict[str, Any] = {
        "neighbours": plan.neighbours,
        "picture": "320x180",
        "samples_a_second_each": 1 / GOP_SECONDS,
        "baseline_seconds": plan.baseline_seconds,
        "attack_seconds": plan.attack_seconds,
        "crashes_a_minute": _CRASHES_A_MINUTE,
        "rounds": plan.rounds,
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("neighbours", settings)
    with tempfile.TemporaryDirectory(prefix="stopframe-neighbours-") as scratch:
        blows = asyncio.run(run(plan, Path(scratch)))
    left_out = [f"{name} beside the others" for name in _EVERY if name not in plan.names]
    return Report("neighbours", settings, [result(blow) for blow in blows], checks(blows, plan.names), left_out)


async def run(plan: Plan, folder: Path) -> list[Blow]:
    """Let the attackers in, one after the other."""
    clip = await asyncio.to_thread(encode_clip, _SCRIPT, folder=folder, gop_seconds=GOP_SECONDS)
    attacks = [await asyncio.to_thread(_attack, name, clip) for name in plan.names]
    service = in_folder(folder / "service", free_port())
    blows = []
    async with service, Neighbourhood(service, clip, plan.neighbours) as street:
        for number in range(plan.rounds):
            for attack in attacks:
                one = Attack(f"{attack.name} {number}", attack.clip, attack.lead_seconds, attack.kills_a_minute)
                blow = await street.blow(
                    one, baseline_seconds=plan.baseline_seconds, attack_seconds=plan.attack_seconds
                )
                blow.name = attack.name
                print("  " + "  ".join(f"{key}={value}" for key, value in result(blow).items()), flush=True)
                blows.append(blow)
    return blows


def _attack(name: str, clean: Clip) -> Attack:
    if name == _CRASH_LOOP:
        return Attack(name, clean, kills_a_minute=_CRASHES_A_MINUTE)
    return Attack(name, hostile_clips.CLIPS[name](), hostile_clips.VALID_SECONDS if name in _LEAD else 0.0)


def result(blow: Blow) -> dict[str, Any]:
    """Return one row of the report."""
    return {
        "attack": blow.name,
        "baseline_samples_a_second": round(blow.baseline.rate, 2),
        "samples_a_second": round(blow.window.rate, 2),
        "lost_percent": round(blow.window.loss_percent(blow.baseline), 2),
        "worst_neighbour_lost_percent": round(blow.window.worst_loss_percent(blow.baseline), 2),
        "baseline_delay_p95_s": _p95(blow.baseline.delays_seconds),
        "delay_p95_s": _p95(blow.window.delays_seconds),
        "baseline_gap_max_s": round(blow.baseline.gap_seconds, 3),
        "gap_max_s": round(blow.window.gap_seconds, 3),
        "baseline_publishers_late_s": round(blow.baseline.late_seconds, 3),
        "publishers_late_s": round(blow.window.late_seconds, 3),
        "baseline_foreign_cores": round(blow.baseline.foreign_cores, 2),
        "foreign_cores": round(blow.window.foreign_cores, 2),
        "attacker_peak_mib": round(blow.peak_bytes / 2**20, 1),
        "blind_alert_s": None if blow.blind_seconds is None else round(blow.blind_seconds, 2),
        "blind_causes": blow.blind_causes,
        "readers": blow.readers,
        "reader_ends": blow.ends,
        "crashes": blow.crashes,
        "kills": blow.kills,
    }


def checks(blows: Sequence[Blow], names: Sequence[str]) -> list[Check]:
    """Return one check for each promised figure, by the worst round."""
    found = []
    for name in names:
        rounds = [blow for blow in blows if blow.name == name]
        lost = max(blow.window.loss_percent(blow.baseline) for blow in rounds)
        found.append(at_most(f"{name}: samples the others lose", lost, "%", _LOSS_LIMIT_PERCENT))
        if name in _IN_MEMORY:
            peak = max(blow.peak_bytes for blow in rounds) / 2**20
            found.append(at_most(f"{name}: memory of its reader, peak", peak, "MiB", _MEMORY_LIMIT_MIB))
        if name in _BLINDING:
            found.append(_blind_check(name, rounds))
        if name != _CRASH_LOOP:
            crashes = sum(sum(blow.crashes.values()) for blow in rounds)
            found.append(at_most(f"{name}: crashes", crashes, "processes", 0))
    return found


def _blind_check(name: str, rounds: Sequence[Blow]) -> Check:
    what = f"{name}: told as blind after"
    limit = _BLIND_LIMIT_SECONDS if name == "bomb" else _TURNED_BLIND_LIMIT_SECONDS
    told = [blow.blind_seconds for blow in rounds]
    times = [seconds for seconds in told if seconds is not None]
    if len(times) < len(told):
        return not_measured(what, "s", limit, "no blind alert came while it went on")
    return at_most(what, max(times), "s", limit)


def _p95(seconds: Sequence[float]) -> float | None:
    p95 = percentile(seconds, 95)
    return None if p95 is None else round(p95, 4)
