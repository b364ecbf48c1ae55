"""The one format in which every benchmark reports: what was set, what was measured, and which promises held."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks of a benchmark. `trials` of None means the benchmark's own number.

    `more` has the values of options that only this benchmark has, `folders` those that name one, where they were given.
    """

    is_quick: bool = False
    trials: int | None = None
    seed: int = 1
    json_path: Path | None = None
    more: Mapping[str, int] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One promised figure. `value` is None where nothing could be measured; `reason` says why."""

    what: str
    value: float | None
    unit: str
    limit: float
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one benchmark. `left_out` names checks that a quick run does not make."""

    name: str
    settings: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    checks: Sequence[Check]
    left_out: Sequence[str] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` writes: `{name, settings, results[], checks[], left_out[]}`."""
        checks = [{key: value for key, value in asdict(check).items() if value != ""} for check in self.checks]
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "results": [dict(result) for result in self.results],
            "checks": checks,
            "left_out": list(self.left_out),
        }

    def write(self, path: Path) -> None:
        """Write the object to a file."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")


def at_most(what: str, value: float, unit: str, limit: float) -> Check:
    """Check a figure that must not exceed its limit."""
    return Check(what, value, unit, limit, value <= limit)


def at_least(what: str, value: float, unit: str, limit: float) -> Check:
    """Check a figure that must reach its limit."""
    return Check(what, value, unit, limit, value >= limit)


def not_measured(what: str, unit: str, limit: float, reason: str) -> Check:
    """A promised figure that could not be measured: never passed over in silence."""
    return Check(what, None, unit, limit, ok=False, reason=reason)


def machine() -> dict[str, Any]:
    """What a reader needs to know of the machine to place the figures."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    cores = sum(line.startswith("processor") for line in _cpu_lines())
    return {"cpu": model, "cores": cores, "python": platform.python_version(), "kernel": platform.release()}


def print_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Print what a benchmark is about to do, before it does it."""
    print(f"{name}: " + ", ".join(f"{key}={value}" for key, value in settings.items()), flush=True)


def print_report(report: Report) -> None:
    """Print the results as a table, then every check."""
    for result in report.results:
        print("  " + "  ".join(f"{key}={_shown(value)}" for key, value in result.items()))
    for check in report.checks:
        verdict = "ok  " if check.ok else "FAIL"
        print(
            f"  {verdict} {check.what}: {_shown(check.value)} {check.unit} (limit {_shown(check.limit)}) {check.reason}"
        )
    for what in report.left_out:
        print(f"  left out of a quick run: {what}")


def _shown(value: object) -> str:
    if isinstance(value, dict) and value and all(isinstance(one, float) for one in value.values()):
        return "/".join(f"{one:.3g}" for one in value.values())
    if isinstance(value, list) and len(value) > 6:
        return f"[{len(value)} values]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
