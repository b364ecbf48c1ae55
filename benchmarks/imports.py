"""How long a list of a million hashes takes to come in, by format, and how soon what a list takes back stops matching.

Each list is written by the format itself, random hashes with names of their own, and read by `stopframe hashes import`
in a process of its own: what counts is the whole command. Then pictures are shown on a live stream of the real service,
one after the other, until a list that is imported withdraws them.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.crowd import percentile
from benchmarks.lookup_acting import still_clip
from benchmarks.lookup_banks import write_list
from benchmarks.publishers import PacedPublishers
from benchmarks.report import Check, Options, Report, at_most, machine, not_measured, print_settings
from benchmarks.restream_clips import FPS, scene
from benchmarks.running import RunningService
from models.bank_rows import EntryNames
from models.bank_store import bank_stats
from models.generations import POINTER
from models.lists.contents import ListContents, ListedRows
from models.lists.registry import FORMATS

ARGUMENTS: Final = {"lists": "0 leaves the lists out", "live": "0 leaves the live stream out"}

WITHDRAWN: Final = "withdrawn on a live stream"

_ROWS: Final = 1_000_000
_QUICK_ROWS: Final = 50_000
_LIMIT_S: Final = 60.0
_LIMIT_MB: Final = 1000.0
_LIMIT_WITHDRAWN_S: Final = 1.0
_TRIALS: Final = 5
_FRAMES: Final = 500
"""Rows of one video in the list of videos."""

_FIRST_SCENE: Final = 1_200
_BANK: Final = "LIST"
_START_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 30.0
_QUIET_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.02
_SETTINGS: Final = """
matching: {false_matches_per_day: 10000}
alerts: {mqtt: {url: "mqtt://127.0.0.1:0"}}
enforcement: {live: false}
sampling: {detect_within: 400ms, interval: 200ms, mode: full}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command took: wall and CPU seconds, and the most memory it held, in MB."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def measure(options: Options) -> Report:
    """Measure the import of each format, and withdrawals; a quick run takes shorter lists and no live stream."""
    rows = _QUICK_ROWS if options.is_quick else _ROWS
    trials = options.trials or _TRIALS
    settings = {"rows": rows, "formats": list(FORMATS), "seed": options.seed, "trials": trials, "machine": machine()}
    print_settings("imports", settings)
    with tempfile.TemporaryDirectory(prefix="stopframe-imports-") as scratch:
        folder = Path(scratch)
        listed = _listed(rows, options.seed)
        formats = FORMATS if options.more.get("lists", 1) else ()
        results = [_imported(name, listed, folder) for name in formats]
        is_live = options.more.get("live", 0 if options.is_quick else 1)
        if is_live:
            results.append(asyncio.run(_withdrawals(listed, folder / "live", trials)))
    left_out = [*([] if formats else ["hashes imported from lists"]), *([] if is_live else [_WITHDRAWN_CHECK])]
    return Report("imports", settings, results, checks(results), left_out)


_WITHDRAWN_CHECK: Final = "from the end of an intake to the last match of what it withdrew, at worst"


def checks(results: list[dict[str, Any]]) -> list[Check]:
    """What was promised of lists that come in."""
    made = []
    for one in results:
        if one["method"] == WITHDRAWN:
            made.append(at_most(_WITHDRAWN_CHECK, one["last_match_max_s"], "s", _LIMIT_WITHDRAWN_S))
            continue
        what = f"{one['rows']:,} hashes imported from {one['method']}"
        if one["is_complete"]:
            made.append(at_most(what, one["import_s"], "s", _LIMIT_S))
        else:
            made.append(not_measured(what, "s", _LIMIT_S, "the bank does not hold what was written"))
        made.append(at_most(f"memory for {one['rows']:,} hashes from {one['method']}", one["peak_mb"], "MB", _LIMIT_MB))
    return made


def _listed(count: int, seed: int) -> ListedRows:
    draw = np.random.default_rng(seed)
    return ListedRows(
        draw.integers(0, 256, (count, 32), dtype=np.uint8),
        np.arange(1, count + 1),
        EntryNames.of(
            [f"{41 + number % 3}-entry-{number // _FRAMES}-{number % _FRAMES:03}" for number in range(count)]
        ),
        positions_ms=(np.arange(count) % _FRAMES * 1000).astype(np.int32),
    )


def _imported(name: str, listed: ListedRows, folder: Path) -> dict[str, Any]:
    path = folder / f"list-{name}"
    began = time.perf_counter()
    with path.open("wb") as file:
        written = FORMATS[name].write(file, ListContents({"pdq": listed}, as_of_seconds=1.7e9))
    export_s = time.perf_counter() - began
    config = folder / "stopframe.yaml"
    config.write_text(f"state_dir: {folder / 'state'}\n")
    first = _run("import", "-c", str(config), "--format", name, name.upper(), str(path))
    held = bank_stats(folder / "state" / "banks" / name.upper())
    again = _run("import", "-c", str(config), "--format", name, name.upper(), str(path))
    size = path.stat().st_size
    path.unlink()
    return {
        "method": name,
        "rows": len(listed),
        "file_mb": size / 1e6,
        "export_s": export_s,
        "import_s": first.seconds,
        "import_cpu_s": first.cpu_seconds,
        "rows_per_cpu_s": len(listed) / first.cpu_seconds,
        "peak_mb": max(first.peak_mb, again.peak_mb),
        "import_again_s": again.seconds,
        "import_again_cpu_s": again.cpu_seconds,
        "is_complete": written == len(listed) == held.rows["pdq"],
    }


def _run(*words: str) -> Ran:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "detector", "hashes", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"`stopframe hashes {' '.join(words)}` failed: {said.decode(errors='replace')[-300:]}")
    return Ran(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


async def _withdrawals(listed: ListedRows, folder: Path, trials: int) -> dict[str, Any]:
    service = RunningService(folder, _SETTINGS)
    banks = service.state_dir / "banks"
    banks.mkdir(mode=0o700, parents=True)
    await asyncio.to_thread(write_list, banks / _BANK, listed.hashes)
    pictures = [scene(_FIRST_SCENE + number, 1 / FPS, is_landscape=True)[0] for number in range(trials)]
    for number, picture in enumerate(pictures):
        path = folder / f"shown-{number}.png"
        cv2.imwrite(str(path), picture[:, :, ::-1])
        await asyncio.to_thread(_run, "add", "-c", str(service.config), "--bare", _BANK, str(path))
    clips = [await asyncio.to_thread(still_clip, picture, number) for number, picture in enumerate(pictures)]
    last = []
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        for number, clip in enumerate(clips):
            publishers.start(f"live/still{number}", clip)
            await service.wait_live(1, _START_SECONDS)
            last.append(await _withdrawn(service, folder, f"shown-{number}"))
            await publishers.stop(f"live/still{number}")
    return {
        "method": WITHDRAWN,
        "rows": len(listed),
        "trials": trials,
        "last_match_p50_s": percentile(last, 50),
        "last_match_max_s": max(last),
    }


async def _withdrawn(service: RunningService, folder: Path, entry: str) -> float:
    """Withdraw an entry that matches now; gives how long after the intake the service last counted a match of it."""
    await _matches_more(service, await _matches(service))
    path = folder / f"{entry}.csv"
    path.write_text(f"hash,entry,opinion\n,{entry},withdrawn\n")
    command = [sys.executable, "-m", "detector", "hashes", "import", "-c", str(service.config), "--format", "csv"]
    importing = await asyncio.create_subprocess_exec(*command, _BANK, str(path), stderr=asyncio.subprocess.PIPE)
    count, grown_at = await _matches(service), time.time()
    while importing.returncode is None or time.time() - grown_at < _QUIET_SECONDS:
        now = await _matches(service)
        if now > count:
            count, grown_at = now, time.time()
        await asyncio.sleep(_POLL_SECONDS)
    if importing.returncode:
        raise RuntimeError("`stopframe hashes import` failed")
    written_at = (service.state_dir / "banks" / _BANK / POINTER).stat().st_mtime
    return max(grown_at - written_at, 0.0)


async def _matches(service: RunningService) -> float:
    samples = await service.metrics()
    return sum(value for name, value in samples.items() if name.startswith("stopframe_matches_total"))


async def _matches_more(service: RunningService, count: float) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while await _matches(service) <= count:  # noqa: ASYNC110 - another process's word
            await asyncio.sleep(_POLL_SECONDS)
