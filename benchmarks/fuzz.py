"""What do damaged inputs do to the service? Nothing: each ends in time, with a cause that is counted.

A reader that libav crashes is such a cause: it takes nobody along. It is named by the number of its input.

Tiny clips of every codec and container that is read, and playlists, are damaged by seeded numbers and read by the real
reader: as files, as files at live pace, from the embedded ingest and as HLS. `--replay N` runs input N alone.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.fuzzing import HANG_SECONDS, Outcome, open_fuzzer, run_all, unhandled
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, print_settings

ARGUMENTS: Final = {
    "inputs": "how many damaged inputs (default 20000, 300 if quick)",
    "replay": "run this one input alone, and say what became of it",
}

_INPUTS, _QUICK_INPUTS = 20_000, 300
_WORKERS = 8
_TOLD_SECONDS = 30.0
_SHOWN = 20


@dataclass(slots=True)
class Findings:
    """Every outcome counted, and those that are findings by number."""

    seconds: float = 0.0
    inputs: int = 0
    frames: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0
    crashes: list[Outcome] = field(default_factory=list)
    hangs: list[Outcome] = field(default_factory=list)
    faults: list[Outcome] = field(default_factory=list)
    service_faults: list[str] = field(default_factory=list)

    def note(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.inputs += 1
        self.frames += outcome.frames
        self.ends[outcome.end] += 1
        self.causes[outcome.cause] += 1
        self.ways[outcome.way] += 1
        self.longest_seconds = max(self.longest_seconds, outcome.late_seconds)
        if outcome.is_crash:
            self.crashes.append(outcome)
        if outcome.is_hang:
            self.hangs.append(outcome)
        if outcome.is_ours:
            self.service_faults.append(f"{outcome.fault} by input {outcome.number}")
        elif outcome.fault:
            self.faults.append(outcome)


def measure(options: Options) -> Report:
    """Run them all; a quick run takes 300."""
    replayed = options.more.get("replay")
    inputs = options.more.get("inputs") or options.trials or (_QUICK_INPUTS if options.is_quick else _INPUTS)
    settings: dict[str, Any] = {"inputs": inputs, "at_once": _WORKERS, "seed": options.seed, "machine": machine()}
    if replayed is not None:
        settings |= {"inputs": 1, "replay": replayed}
    print_settings("fuzz", settings)
    findings = asyncio.run(fuzz(range(inputs) if replayed is None else [replayed], options.seed))
    left_out = [f"{_INPUTS} inputs ({inputs} here)"] if inputs < _INPUTS else []
    return Report("fuzz", settings, [result(findings)], checks(findings, len(findings.ways) and inputs), left_out)


async def fuzz(numbers: Sequence[int], seed: int) -> Findings:
    """Run these inputs of `seed`; say now and then how far it is."""
    findings = Findings()
    asyncio.get_running_loop().set_exception_handler(unhandled(findings.service_faults))
    with tempfile.TemporaryDirectory(prefix="stopframe-fuzz-") as scratch:
        async with open_fuzzer(seed, Path(scratch)) as fuzzer:
            begun_at = told_at = time.monotonic()
            async for outcome in run_all(fuzzer, numbers, _WORKERS):
                findings.note(outcome)
                if outcome.is_crash or outcome.is_hang or outcome.fault or len(numbers) == 1:
                    print(f"  {outcome}", flush=True)
                if time.monotonic() - told_at > _TOLD_SECONDS:
                    told_at = time.monotonic()
                    print(f"  {findings.inputs} inputs, {findings.inputs / (told_at - begun_at):.0f}/s", flush=True)
            findings.seconds = time.monotonic() - begun_at
    return findings


def result(findings: Findings) -> dict[str, Any]:
    """Return the one row of the report."""
    return {
        "inputs": findings.inputs,
        "seconds": round(findings.seconds, 1),
        "inputs_a_second": round(findings.inputs / findings.seconds, 1) if findings.seconds else 0.0,
        "ways": dict(findings.ways),
        "frames": findings.frames,
        "ends": dict(findings.ends.most_common()),
        "causes": dict(findings.causes.most_common()),
        "longest_s": round(findings.longest_seconds, 2),
        "crashed_by": [one.number for one in findings.crashes[:_SHOWN]],
        "hung_by": [one.number for one in findings.hangs[:_SHOWN]],
        "unexpected": [f"{one.fault} by input {one.number}" for one in findings.faults[:_SHOWN]],
        "service_faults": findings.service_faults[:_SHOWN],
    }


def checks(findings: Findings, inputs: int) -> list[Check]:
    """Return one check for each promised figure."""
    return [
        at_least("inputs that ended with a counted cause", _accounted(findings), "inputs", inputs),
        at_most("crashes of the service", len(findings.service_faults), "crashes", 0),
        at_most(f"inputs that took {HANG_SECONDS:g} s longer than their media", len(findings.hangs), "inputs", 0),
        at_most("exceptions that no reader expected", len(findings.faults), "inputs", 0),
    ]


def _accounted(findings: Findings) -> int:
    return findings.inputs - len(findings.hangs) - len(findings.faults) - len(findings.service_faults)
