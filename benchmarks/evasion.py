"""Is what a publisher hides from a look at keyframes found, how soon, and is the chance what `stopframe plan` says?

Clips are encoded here, their packets go through the real sampler, ring and decoder on a virtual clock, and what is
handed over for analysis is hashed and compared as the product does: found is a frame within the PDQ limit of what was
hidden. Publishers with usual rate control must be found in time; for one who knows this code, and lets nothing show in
his sizes, the share found must be the one that was worked out. Some cases run again live, through the real service.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from benchmarks.evasion_cells import (
    HORIZONS_SECONDS,
    SIZE,
    Knowing,
    Usual,
    as_shipped,
    control_row,
    knowing_rows,
    moment_row,
    usual_row,
)
from benchmarks.evasion_live import LIVE_CASES, live_rows
from benchmarks.evasion_picture import draw_picture
from benchmarks.hidden_clips import RATE, Control, Hiding
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from detector.config.config import Config

IN_TIME_SLACK_SECONDS: Final = 2.0
_PICTURE: Final = Path(__file__).parent / "results" / "evasion.png"
_FOUND_LIMIT: Final = 0.95
_PLAN_LIMIT_POINTS: Final = 5.0
_RISKY_SHARE: Final = 0.33
_SURE_SECONDS: Final = {0.05: 60.0, _RISKY_SHARE: 10.0}
"""By burst share: what GOPs of 2 s hide is found so soon, all but surely."""

BETWEEN: Final = Hiding.BETWEEN_KEYFRAMES
PROMISED: Final = tuple(
    Usual(name, hiding, control, gop=gop, intra_refresh=intra_refresh, is_promised=True)
    for name, hiding, gop, intra_refresh in (
        ("all frames but keyframes", BETWEEN, 60, False),
        ("B-frames only", Hiding.B_FRAMES, 60, False),
        ("GOP of 20 s", BETWEEN, 600, False),
        ("intra refresh", BETWEEN, 60, True),
    )
    for control in (Control.ABR, Control.CBR)
) + tuple(
    Usual(name, hiding, control, target=target, is_promised=True)
    for name, hiding in (("all frames but keyframes", BETWEEN), ("B-frames only", Hiding.B_FRAMES))
    for target in ("card", "text")
    for control in (Control.ABR, Control.CBR)
)
MORE: Final = (
    Usual("all frames but keyframes", BETWEEN, Control.LIVE),
    Usual("all frames but keyframes, GOP of 1 s", BETWEEN, Control.ABR, gop=30),
    Usual("all frames but keyframes, open GOP", BETWEEN, Control.ABR, open_gop=True),
    Usual("all frames but keyframes, x265", BETWEEN, Control.ABR, codec="libx265"),
    Usual("from the middle of each GOP on", Hiding.HALFWAY, Control.ABR),
    Usual("from the middle of each GOP on", Hiding.HALFWAY, Control.ABR, target="card"),
)
ATTACKS: Final = tuple(
    Knowing(hiding, control, gop)
    for hiding, control in (
        (Hiding.LATER, Control.ONE_FRAME),
        (Hiding.LATER, Control.FILLER),
        (Hiding.FADED, Control.LIVE),
        (Hiding.BESIDE_CUTS, Control.ABR),
    )
    for gop in (30, 60, 120)
)

_QUICK_CONTROLS: Final = (Control.ONE_FRAME, Control.ABR)

Task = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run: the cells, how often each, and whether the live runs are made."""

    usual: Sequence[Usual]
    attacks: Sequence[Knowing]
    usual_runs: int
    contents: int
    knowing_runs: int
    sure_runs: int
    is_live: bool

    def tasks(self, within_seconds: float, seed: int) -> list[Task]:
        """Every cell, the longest first."""
        shares = tuple(_SURE_SECONDS)
        tasks: list[Task] = [
            (knowing_rows, (attack, shares, self.runs_of(attack), seed))
            for attack in sorted(self.attacks, key=lambda one: -one.gop)
        ]
        tasks += [(usual_row, (case, self.usual_runs, self.contents, within_seconds, seed)) for case in self.usual]
        moments = (Hiding.FLASHES, Hiding.HALF_SECONDS) if self.is_live else (Hiding.HALF_SECONDS,)
        # No chance that was planned is held against these: a quick run can do with fewer.
        runs = self.knowing_runs if self.is_live else self.sure_runs
        tasks += [(moment_row, (hiding, share, runs, seed)) for hiding in moments for share in shares]
        return [*tasks, (control_row, (seed,))]

    def runs_of(self, attack: Knowing) -> int:
        """So many; `sure_runs` where nearly every run finds it, and chance blurs nothing."""
        is_sure = attack.hiding is Hiding.BESIDE_CUTS or attack.gop > 2 * RATE
        return self.sure_runs if is_sure else self.knowing_runs


def plan_for(options: Options) -> Plan:
    """Return what is run: a quick run leaves out most cells."""
    if options.is_quick:
        attacks = tuple(attack for attack in ATTACKS if attack.gop == 2 * RATE and attack.control in _QUICK_CONTROLS)
        return Plan(
            PROMISED,
            attacks,
            usual_runs=options.trials or 20,
            contents=2,
            knowing_runs=options.trials or 1000,
            sure_runs=options.trials or 60,
            is_live=False,
        )
    return Plan(
        PROMISED + MORE,
        ATTACKS,
        usual_runs=options.trials or 50,
        contents=3,
        knowing_runs=options.trials or 1600,
        sure_runs=options.trials or 400,
        is_live=True,
    )


def measure(options: Options) -> Report:
    """Run every cell, two at a time, then the live cases one beside the other."""
    plan, shipped = plan_for(options), as_shipped()
    within_seconds = shipped.detect_within_seconds + IN_TIME_SLACK_SECONDS
    settings = {
        "detect_within_seconds": shipped.detect_within_seconds,
        "bursts": shipped.burst_share,
        "spikes": shipped.spikes,
        "blind_bursts": Config().sampling.blind_bursts.ratio,
        "found": "a frame within the PDQ limit is handed over",
        "picture": f"{SIZE[0]}x{SIZE[1]}, {RATE} fps",
        "runs": plan.usual_runs,
        "runs_knowing": plan.knowing_runs,
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("evasion", settings)
    rows = run_tasks(plan.tasks(within_seconds, options.seed))
    checks = [*usual_checks(rows, within_seconds), *knowing_checks(rows), *control_checks(rows)]
    left_out: list[str] = []
    if plan.is_live:
        live = live_rows()
        rows += live
        checks += live_checks(live, within_seconds)
        settings["drawn"] = draw_picture([row for row in rows if row["kind"] == "knowing"], _PICTURE)
    else:
        left_out = ["GOPs of 1 and 4 s, filler, fades and flashes", "one live run of each promised case", "the picture"]
    return Report("evasion", settings, rows, checks, left_out)


def run_tasks(tasks: Sequence[Task], workers: int = 0) -> list[dict[str, Any]]:
    """Run every task in processes, as many at once as there are cores; return their rows in the order of the tasks."""
    count = workers or max(1, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in tasks]
        found = [future.result() for future in futures]
    return [row for each in found for row in (each if isinstance(each, list) else [each])]


def usual_checks(rows: Sequence[dict[str, Any]], within_seconds: float) -> list[Check]:
    """What is promised of usual rate control."""
    return [
        at_least(
            f"{row['target']} in {row['hidden']}, {row['control']}: found within {within_seconds:g} s",
            row["found_in_time"],
            "of runs",
            _FOUND_LIMIT,
        )
        for row in rows
        if row["kind"] == "usual" and row["is_promised"]
    ]


def knowing_checks(rows: Sequence[dict[str, Any]]) -> list[Check]:
    """What is promised about a publisher who knows the code: the chance, and that it is enough."""
    knowing = [row for row in rows if row["kind"] == "knowing"]
    checks = []
    for share, sure_seconds in _SURE_SECONDS.items():
        mine = [row for row in knowing if row["bursts"] == share]
        off = max((points_off(row) for row in mine), default=None)
        what = f"bursts {share:.0%}: found share off the planned one, at most"
        checks.append(
            not_measured(what, "points", _PLAN_LIMIT_POINTS, "no cell has this share")
            if off is None
            else at_most(what, off, "points", _PLAN_LIMIT_POINTS)
        )
        least = [row[f"found_in_{sure_seconds:g}_s"] for row in mine if row["gop_s"] == 2.0]
        if least:
            what = f"bursts {share:.0%}, GOP of 2 s: found within {sure_seconds:g} s, worst attack"
            checks.append(at_least(what, min(least), "of runs", _FOUND_LIMIT))
    return checks


def points_off(row: dict[str, Any]) -> float:
    """How far what was found lies from what was planned, at the worst horizon, in percentage points."""
    worst: float = max(
        abs(row[f"found_in_{within:g}_s"] - row[f"planned_in_{within:g}_s"]) for within in HORIZONS_SECONDS
    )
    return 100.0 * worst


def control_checks(rows: Sequence[dict[str, Any]]) -> list[Check]:
    """What a look that a publisher can foresee must miss, else the clips hide nothing."""
    alone = sum(row.get("found_by_keyframes_alone") or 0 for row in rows)
    fixed = sum(row["found_by_whole_seconds"] for row in rows if row["kind"] == "control" or _avoids_seconds(row))
    return [
        at_most("control: found by keyframes alone", alone, "runs", 0),
        at_most("control: found by a look at each whole second", fixed, "frames", 0),
    ]


def live_checks(rows: Sequence[dict[str, Any]], within_seconds: float) -> list[Check]:
    """What is promised of the live cases."""
    checks = []
    for case in LIVE_CASES:
        row = next((one for one in rows if one["hidden"] == case), None)
        what = f"live, {case}: matched after"
        if row is None or row["matched_after_s"] is None:
            checks.append(not_measured(what, "s", within_seconds, "it was not found" if row else "it did not run"))
        else:
            checks.append(at_most(what, row["matched_after_s"], "s", within_seconds))
    return checks


def _avoids_seconds(row: dict[str, Any]) -> bool:
    return bool(row["kind"] == "moments" and row["hidden"] == Hiding.HALF_SECONDS.value)
