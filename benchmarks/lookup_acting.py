"""How soon a hash that is added to a long bank acts on streams that run: the real service, and the command for adding.

Three streams are live, each shows a picture of its own, and none is in the bank. Then one picture after the other is
added by `stopframe hashes add`, until there is an incident about it. Streams are sampled densely, so that what is
measured is hardly the wait for the next sample.
"""

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import Clip
from benchmarks.crowd import percentile
from benchmarks.lookup_banks import write_list
from benchmarks.publishers import PacedPublishers
from benchmarks.restream_clips import FPS, Picture, encoded, scene
from benchmarks.running import RunningService
from models.generations import POINTER

METHOD: Final = "stopframe service"
TRIALS: Final = 10

_LIVE: Final = 3
_BANK: Final = "LIST"
_FIRST_SCENE: Final = 900
_CLIP_SECONDS: Final = 4.0
_START_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_SETTINGS: Final = """
banks: {LIST: {step: cut}}
enforcement: {live: false}
sampling: {detect_within: 400ms, interval: 200ms, mode: full}
"""

Rows = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Acted:
    """Seconds from the command's start, and from when the bank was written, to the incident."""

    command_seconds: float
    written_seconds: float


def acting_results(rows: Rows, seed: int, trials: int = TRIALS) -> dict[str, Any]:
    """Measure how soon pictures added to a bank of these rows are found in live streams."""
    with tempfile.TemporaryDirectory(prefix="stopframe-acting-") as scratch:
        acted = asyncio.run(_run(rows, Path(scratch), random.Random(seed), trials))
    written, commands = [one.written_seconds for one in acted], [one.command_seconds for one in acted]
    return {
        "method": METHOD,
        "rows": len(rows),
        "live_streams": _LIVE,
        "trials": trials,
        "written_to_incident_p50_s": percentile(written, 50),
        "written_to_incident_p95_s": percentile(written, 95),
        "command_to_incident_p50_s": percentile(commands, 50),
        "command_to_incident_p95_s": percentile(commands, 95),
    }


async def _run(rows: Rows, folder: Path, draw: random.Random, trials: int) -> list[Acted]:
    service = RunningService(folder, _SETTINGS)
    banks = service.state_dir / "banks"
    banks.mkdir(mode=0o700, parents=True)
    write_list(banks / _BANK, rows)
    shown = [scene(_FIRST_SCENE + number, 1 / FPS, is_landscape=True)[0] for number in range(trials)]
    clips = [await asyncio.to_thread(still_clip, picture, number) for number, picture in enumerate(shown)]
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        acted = []
        for number, picture in enumerate(shown):
            # The next ones run already, so that nothing starts while it is measured.
            for later in range(number and number + _LIVE - 1, min(number + _LIVE, trials)):
                publishers.start(f"live/still{later}", clips[later], delay_seconds=0.3 * (later - number))
            await service.wait_live(min(_LIVE, trials - number), _START_SECONDS)
            path = folder / f"shown-{number}.png"
            cv2.imwrite(str(path), picture[:, :, ::-1])
            await asyncio.sleep(draw.uniform(0.5, 1.5))  # at any phase of whatever looks at the banks in turns
            acted.append(await _added(service, path))
            await publishers.stop(f"live/still{number}")
        return acted


async def _added(service: RunningService, picture: Path) -> Acted:
    began_at = time.time()
    command = [sys.executable, "-m", "detector", "hashes", "add", "-c", str(service.config), _BANK, str(picture)]
    adding = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await _is_found(service, f"{_BANK}/{picture.stem}"):  # noqa: ASYNC110 - another process's word
            await asyncio.sleep(_POLL_SECONDS)
        found_at = time.time()
        _, said = await adding.communicate()
    if adding.returncode:
        raise RuntimeError(f"`stopframe hashes add` failed: {said.decode(errors='replace')[-300:]}")
    written_at = (service.state_dir / "banks" / _BANK / POINTER).stat().st_mtime
    return Acted(found_at - began_at, found_at - written_at)


async def _is_found(service: RunningService, entry: str) -> bool:
    return any(entry in row.signals for row in await service.incidents())


def still_clip(picture: Picture, seed: int) -> Clip:
    """A clip of one picture with the noise of a camera."""
    draw = np.random.default_rng(seed)
    noise = (draw.integers(-3, 4, picture.shape, np.int16) for _ in range(round(_CLIP_SECONDS * FPS)))
    return encoded((np.clip(picture + one, 0, 255).astype(np.uint8) for one in noise), kilobits=400)
