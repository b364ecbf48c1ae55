"""From the first bad frame leaving a real encoder to the publisher's connection closed, on nginx-rtmp and mosquitto.

x264 encodes live, nginx-rtmp takes it, the service (its own process, the shipped files) reads it in the cage, finds a
banked card, tells mosquitto and has nginx drop the publisher. Every trial is a new publisher that shows a clean card
and then the bad one, at a random place in its GOP. The places are spread evenly over the GOP, one drawn in each part,
and are the same with and without B-frames, so that a difference between two cells is none of the draw's.
"""

import asyncio
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.brokers import ServerMissing
from benchmarks.crowd import BANKED, percentile
from benchmarks.latency_picture import draw_picture
from benchmarks.latency_trials import (
    DETECT_WITHIN_SECONDS,
    FPS,
    HEIGHT,
    STAGES,
    WIDTH,
    Cell,
    Clocks,
    Measured,
    Plan,
    Trial,
    run_trials,
)
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings

_GOPS = (1.0, 2.0, 4.0)
_BFRAMES = (0, 2)

_BFRAMES_LIMIT_SECONDS = 0.2
_ALERT_TO_CUT_LIMIT_MS = 60.0
_FIRST_SAMPLE_LIMIT_SECONDS = {True: 0.5, False: 2.0}
_CONFIRMED_LIMIT_SECONDS = 1.5


@dataclass(slots=True)
class _Outcome:
    measured: list[Measured] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)


def measure(options: Options) -> Report:
    """Run every cell. A quick run takes two trials of each, all attached in the hook."""
    trials = options.trials or (2 if options.is_quick else 20)
    plan = (
        Plan(trials, publishers=6, attaches=(True,), silent_trials=0)
        if options.is_quick
        else Plan(trials, publishers=8, attaches=(True, False), silent_trials=trials)
    )
    settings = {
        "trials_per_cell": plan.trials,
        "publishers_at_once": plan.publishers,
        "picture": f"{WIDTH}x{HEIGHT}",
        "fps": FPS,
        "encoder": "x264 veryfast with its look-ahead, keyframes at their distance alone; AAC",
        "ingest": "nginx-rtmp, shipped example",
        "broker": "mosquitto",
        "detect_within": "3s",
        "interval": "1s",
        "breaker": "out of the way (10000 cuts in 60 s)",
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("latency", settings)
    clocks = Clocks.now()
    try:
        outcome = asyncio.run(_measure(plan, options.seed))
    except ServerMissing as missing:
        return Report("latency", settings, [], [not_measured("everything", "s", 0, str(missing))])
    results = list(_results(outcome.measured, clocks))
    left_out = []
    if options.is_quick:
        left_out = ["attached after the publisher began", "B-frames against none", "first sample without sound"]
    picture = _drawn(results, options.json_path)
    report_settings = {**settings, "load": outcome.loads, "picture_file": picture}
    return Report("latency", report_settings, results, _checks(results, is_quick=options.is_quick), left_out)


async def _measure(plan: Plan, seed: int) -> _Outcome:
    outcome = _Outcome()
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="stopframe-latency-") as scratch:
        for is_attached in plan.attaches:
            trials = list(_trials(plan, draw, is_attached=is_attached))
            draw.shuffle(trials)
            folder = Path(scratch) / ("in-hook" if is_attached else "after")
            folder.mkdir()
            outcome.measured += await run_trials(trials, plan, folder, outcome.loads, is_attached=is_attached)
    return outcome


def _trials(plan: Plan, draw: random.Random, *, is_attached: bool) -> Iterator[Trial]:
    for gop in _GOPS:
        phases = [(part + draw.random()) / plan.trials for part in range(plan.trials)]
        for bframes in _BFRAMES:
            cell = Cell(gop, bframes, is_attached)
            for number, phase in enumerate(phases):
                yield Trial(cell, f"g{gop:g}b{bframes}n{number}", phase, BANKED[number % len(BANKED)])
    for number in range(plan.silent_trials if is_attached else 0):
        yield Trial(Cell(2.0, 0, is_attached, has_audio=False), f"silent{number}", 0.0, None)


def _results(measured: Sequence[Measured], clocks: Clocks) -> Iterator[dict[str, Any]]:
    cells = dict.fromkeys(one.trial.cell for one in measured)
    for cell in sorted(cells, key=lambda c: (not c.has_audio, not c.is_attached_in_hook, c.gop_seconds, c.bframes)):
        trials = [one for one in measured if one.trial.cell == cell]
        stages = [one.stages(clocks) for one in trials]
        row: dict[str, Any] = {
            "cell": cell.name,
            "gop_seconds": cell.gop_seconds,
            "bframes": cell.bframes,
            "attached_in_hook": cell.is_attached_in_hook,
            "has_audio": cell.has_audio,
            "trials": len(trials),
            "cut": sum("total_s" in one for one in stages),
            "confirmed": sum("proof_s" in one for one in stages),
            "by_keyframe": sum("transport_s" in one for one in stages),
            "faults": sorted({one.account.fault for one in trials if one.account.fault}),
            "encoder_latest_s": round(max(one.account.latest_seconds for one in trials), 3),
        }
        for stage in STAGES:
            values = [one[stage] for one in stages if stage in one]
            if values:
                row[stage] = {f"p{share}": round(_percentile(values, share), 4) for share in (50, 95, 99)}
        row["totals_s"] = sorted(round(one["total_s"], 4) for one in stages if "total_s" in one)
        yield row


def _checks(results: Sequence[dict[str, Any]], *, is_quick: bool) -> list[Check]:
    loud = [row for row in results if row["has_audio"]]
    everyone = sum(row["trials"] for row in loud)
    checks = [
        at_least("publishers cut", sum(row["cut"] for row in loud), "cuts", everyone),
        at_least("cuts confirmed", sum(row["confirmed"] for row in loud), "cuts", everyone),
    ]
    for row in loud:
        cell = Cell(row["gop_seconds"], row["bframes"], row["attached_in_hook"])
        what = f"{cell.name}: bad frame left encoder to connection closed"
        checks.append(_p95(row, "total_s", what, cell.limit_seconds))
    if not is_quick:
        checks += _bframes_checks(loud)
    for row in loud:
        what = f"{row['cell']}: alert queued to connection closed"
        checks.append(_p95(row, "alert_to_cut_s", what, _ALERT_TO_CUT_LIMIT_MS, unit="ms"))
    for row in results:
        if row["attached_in_hook"]:
            limit = _FIRST_SAMPLE_LIMIT_SECONDS[row["has_audio"]]
            checks.append(_p95(row, "first_sample_s", f"{row['cell']}: publish to first sample", limit))
    for row in loud:
        what = f"{row['cell']}: connection closed to cut confirmed"
        checks.append(_p95(row, "proof_s", what, _CONFIRMED_LIMIT_SECONDS))
    return checks


def _bframes_checks(rows: Sequence[dict[str, Any]]) -> Iterator[Check]:
    """Compare with and without B-frames, both attaches together.

    Where keyframes are waited for, the places in the GOP are the same on both sides, and so are the tails. Where the
    service decodes through, its own draws decide how long the wait is: there only the mean of so few trials is steady.
    """
    for gop in _GOPS:
        ours = [row for row in rows if row["gop_seconds"] == gop]
        late, usual = (
            [total for row in ours if bool(row["bframes"]) is has for total in row["totals_s"]] for has in (True, False)
        )
        is_drawn = gop > DETECT_WITHIN_SECONDS
        what = f"GOP {gop:g} s: B-frames later than none, {'mean' if is_drawn else 'p95'} of all trials"
        if not late or not usual:
            yield not_measured(what, "s", _BFRAMES_LIMIT_SECONDS, "nobody was cut")
        else:
            later = fmean(late) - fmean(usual) if is_drawn else _percentile(late, 95) - _percentile(usual, 95)
            yield at_most(what, later, "s", _BFRAMES_LIMIT_SECONDS)


def _percentile(values: Sequence[float], share: float) -> float:
    found = percentile(values, share)
    assert found is not None
    return found


def _p95(row: dict[str, Any], stage: str, what: str, limit: float, *, unit: str = "s") -> Check:
    what = f"{what}, p95"
    if stage not in row:
        return not_measured(what, unit, limit, "no trial came so far")
    return at_most(what, row[stage]["p95"] * (1000 if unit == "ms" else 1), unit, limit)


def _drawn(results: Sequence[dict[str, Any]], json_path: Path | None) -> str:
    if json_path is None:
        return "none: it is written beside --json OUT"
    path = json_path.with_suffix(".png")
    return draw_picture([row for row in results if row["has_audio"]], path)
