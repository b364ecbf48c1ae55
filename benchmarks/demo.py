"""The demo, again and again: are its cuts always confirmed, and how soon are the publishers gone?"""

import json
import statistics
import subprocess
import sys
import time
from typing import Any, Final

from benchmarks.report import Options, Report, at_least, at_most, machine, print_settings

_TRIALS: Final = 10
_QUICK_TRIALS: Final = 2
_LONGEST_SECONDS: Final = 60.0
_SLOWEST_CUT_SECONDS: Final = 4.0
_SLOW_CUT_SECONDS: Final = 2.0


def measure(options: Options) -> Report:
    """Run `stopframe demo --json` in processes of its own and judge what it reports of itself."""
    trials = options.trials or (_QUICK_TRIALS if options.is_quick else _TRIALS)
    settings = {"trials": trials, **machine()}
    print_settings("demo", settings)
    results = [_run_once(number) for number in range(1, trials + 1)]
    cuts = sorted(result["time_to_cut_s"] for result in results if result["time_to_cut_s"] is not None)
    alerts = sorted(result["time_to_alert_s"] for result in results if result["time_to_alert_s"] is not None)
    checks = [
        at_least("demos that confirmed both cuts", sum(r["cut_confirmed"] for r in results), "demos", trials),
        at_most("longest demo", max(result["seconds"] for result in results), "s", _LONGEST_SECONDS),
    ]
    if cuts:
        checks += [
            at_most("slowest cut", cuts[-1], "s", _SLOWEST_CUT_SECONDS),
            at_most("time to cut, p95", _p95(cuts), "s", _SLOW_CUT_SECONDS),
            at_most("time to alert, p95", _p95(alerts), "s", _SLOW_CUT_SECONDS),
        ]
    return Report("demo", settings, results, checks)


def _run_once(number: int) -> dict[str, Any]:
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "detector", "demo", "--json"], capture_output=True, text=True, check=False, timeout=180
    )
    seconds = time.monotonic() - began
    lines = ran.stdout.splitlines()
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {
        "demo": number,
        "exit": ran.returncode,
        "cut_confirmed": ran.returncode == 0 and told.get("cut_confirmed") is True,
        "time_to_alert_s": told.get("time_to_alert_s"),
        "time_to_cut_s": told.get("time_to_cut_s"),
        "seconds": round(seconds, 1),
    }


def _p95(values: list[float]) -> float:
    return values[0] if len(values) == 1 else statistics.quantiles(values, n=20, method="inclusive")[-1]
