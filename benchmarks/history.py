"""The history of the figures: `python -m benchmarks.history add FILE` adds a row, and draws a picture.

One row for each commit, benchmark and machine; adding the same again replaces the row. The table is kept as Markdown,
newest first, in `benchmarks/results/history.md`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.throughput_picture import draw_costs

TABLE: Final = Path(__file__).resolve().parent / "results" / "history.md"
MOST_FIGURES: Final = 8

_TITLE = "# Figures by commit\n\nEach row is one full run: `python -m benchmarks.history add FILE`. Newest first.\n"
_HEAD = ("date", "commit", "benchmark", "machine", "figures", "checks")


@dataclass(frozen=True, slots=True)
class Row:
    """One run. `figures` are its checks' values, `checks` how many of them held."""

    date: str
    commit: str
    benchmark: str
    machine: str
    figures: str
    checks: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As in the table."""
        return (self.date, self.commit, self.benchmark, self.machine, self.figures, self.checks)

    def is_of_same_run(self, other: "Row") -> bool:
        """Whether both tell of the same benchmark at the same commit on the same machine."""
        return self.cells[1:4] == other.cells[1:4]


def row_of(report: dict[str, Any], commit: str, date: str) -> Row:
    """Make the row of a report as `--json` wrote it; names of checks are cut to what tells them apart."""
    machine = report["settings"].get("machine", {})
    checks = report["checks"]
    failed = [check["what"] for check in checks if not check["ok"]]
    held = f"{len(checks) - len(failed)} of {len(checks)}"
    kind = " (quick)" if report.get("left_out") else ""
    return Row(
        date=date,
        commit=commit,
        benchmark=_cell(report["name"]) + kind,
        machine=_cell(f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores"),
        figures="; ".join(_figure(check) for check in _telling(checks)),
        checks=held,
    )


def _telling(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What failed first: it is what a reader of the table looks for."""
    return sorted(checks, key=lambda check: bool(check["ok"]))[:MOST_FIGURES]


def _figure(check: dict[str, Any]) -> str:
    value = check.get("value")
    shown = "not measured" if value is None else f"{value:.3g} {check['unit']}"
    mark = "" if check["ok"] else "**"
    return f"{mark}{_cell(check['what'])}: {shown} (limit {check['limit']:g}){mark}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def parse(table: str) -> Iterator[Row]:
    """Yield the rows of a table."""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == len(_HEAD) and cells[0] != _HEAD[0] and set(cells[0]) - set("-: "):
            yield Row(*cells)


def render(rows: Sequence[Row]) -> str:
    """Write the table."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(row.cells for row in rows)]
    return _TITLE + "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def add(report_path: Path, table: Path, *, commit: str, date: str) -> Row:
    """Put a report's row on top of the table, in place of one of the same run, and draw its picture beside it."""
    report = json.loads(report_path.read_text())
    new = row_of(report, commit, date)
    rows = list(parse(table.read_text())) if table.exists() else []
    table.write_text(render([new, *(row for row in rows if not row.is_of_same_run(new))]))
    return new


def _commit() -> str:
    folder = Path(__file__).resolve().parent
    told = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return told.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """Add report after report; 2 where one is none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description="Keep figures by commit.")
    parser.add_argument("word", choices=["add"])
    parser.add_argument("reports", nargs="+", type=Path, metavar="FILE", help="what a benchmark wrote with --json")
    parser.add_argument("--table", type=Path, default=TABLE, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    for path in chosen.reports:
        try:
            row = add(path, chosen.table, commit=_commit(), date=f"{datetime.now(UTC):%Y-%m-%d}")
            report = json.loads(path.read_text())
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"{path} is no report of a benchmark ({type(error).__name__}); write one with --json")
        print(f"{row.benchmark} at {row.commit}: {row.checks} checks held")
        if report["name"] in {"throughput", "scale"}:
            print(f"picture: {draw_costs(report, path.with_suffix('.png'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
