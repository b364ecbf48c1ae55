"""`python -m benchmarks NAME [--quick] [--trials N] [--seed S] [--json OUT]`."""

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from benchmarks.report import Options, Report, print_report

BENCHMARKS: Final = {
    "accuracy": "benchmarks.accuracy",
    "alerts": "benchmarks.alerts",
    "churn": "benchmarks.churn",
    "crowd": "benchmarks.crowd",
    "delay": "benchmarks.delay",
    "demo": "benchmarks.demo",
    "evasion": "benchmarks.evasion",
    "faults": "benchmarks.faults",
    "fuzz": "benchmarks.fuzz",
    "imports": "benchmarks.imports",
    "inference": "benchmarks.inference",
    "innocents": "benchmarks.innocents",
    "latency": "benchmarks.latency",
    "lookup": "benchmarks.lookup",
    "neighbours": "benchmarks.neighbours",
    "recovery": "benchmarks.recovery",
    "restreams": "benchmarks.restreams",
    "returns": "benchmarks.returns",
    "scale": "benchmarks.scale",
    "soak": "benchmarks.soak",
    "throughput": "benchmarks.throughput",
    "upkeep": "benchmarks.upkeep",
    "uploads": "benchmarks.uploads",
    "views": "benchmarks.views",
}
"""Each names a module with `measure(options: Options) -> Report`.

One may have options of its own: `ARGUMENTS`, a name and its help for each; their values are whole numbers, and what was
given is in `options.more`. Likewise `FOLDERS` and `options.folders`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; 0 when it ran, whatever the figures say, 2 for a wrong command line."""
    about = "Measure the product beside references. benchmarks/README.md says what each measures."
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=about, add_help=False)
    parser.add_argument("name", nargs="?", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="end within 60 seconds; leaves out what needs longer")
    parser.add_argument("--trials", type=_positive, help="how often each figure is measured")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn (default 1)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the report to this file")
    chosen, _ = parser.parse_known_args(arguments)
    parser.add_argument("-h", "--help", action="help", help="show this help message, with a NAME its own options, too")
    if chosen.name is None:
        parser.parse_args(arguments)  # where help is asked for
        parser.error(f"no benchmark is named; choose one of: {', '.join(BENCHMARKS)}")
    if chosen.name not in BENCHMARKS:
        parser.error(f"there is no benchmark {chosen.name!r}; choose one of: {', '.join(BENCHMARKS)}")
    # Figures are per thread: BLAS and OpenMP read this when they are first loaded, which the import below does.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    benchmark = import_module(BENCHMARKS[chosen.name])
    own: Mapping[str, str] = getattr(benchmark, "ARGUMENTS", {})
    for name, text in own.items():
        parser.add_argument(f"--{name}", type=_natural, metavar="N", dest=name, help=text)
    named: Mapping[str, str] = getattr(benchmark, "FOLDERS", {})
    for name, text in named.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=text)
    chosen = parser.parse_args(arguments)
    if chosen.json is not None and not chosen.json.absolute().parent.is_dir():
        parser.error(f"{chosen.json.parent} is no folder; create it or name another file for --json")
    if chosen.json is not None and chosen.json.is_dir():
        parser.error(f"{chosen.json} is a folder; name a file in it for --json")
    more = {name: getattr(chosen, name) for name in own if getattr(chosen, name) is not None}
    folders = {name: getattr(chosen, name) for name in named if getattr(chosen, name) is not None}
    missing = next((folder for folder in folders.values() if not folder.is_dir()), None)
    if missing is not None:
        parser.error(f"{missing} is no folder; name one with pictures or clips in it")
    options = Options(chosen.quick, chosen.trials, chosen.seed, chosen.json, more, folders)
    report: Report = benchmark.measure(options)
    print_report(report)
    if chosen.json is not None:
        report.write(chosen.json)
    return 0


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("give a whole number of at least 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give a whole number of at least 1")
    return number


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; no figure is kept", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
