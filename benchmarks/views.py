"""What does looking a frame up in many views cost, from the decoded 1080p frame to the matches?

Frames of several kinds (plain, framed, with bars, with a picture in the picture, covered) are scaled to the two sizes
that analysis gets, then inspected against lists of random 256-bit hashes, tier by tier, on one thread. Then comes a
feed: of ten samples seven show the scene of the one before, moved a little, and three another, whose views of once a
scene are run as well. `--rows N`: one list of that length instead.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from benchmarks.report import Check, Options, Report, at_most, machine, print_settings
from models.bank_store import add_entries, open_bank
from models.hashing.scenes import Look, SceneWatch
from models.hashing.view_budget import ViewBudget
from models.hashing.view_table import TURNS, Tier
from models.hashing.viewing import Viewer
from models.inspector import Inspector
from streams.decoder import PixelReader

ARGUMENTS: Final = {"rows": "hashes in the list (default: one million, and ten million in a full run)"}

_ROWS: Final = (1_000_000, 10_000_000)
_LIMITS_MS: Final = {1_000_000: 3.0, 10_000_000: 6.0}
_TWO_VIEWS_MS: Final = 0.6
_ENTRIES: Final = 1000
_WIDTH, _HEIGHT = 1920, 1080

_PLANS: Final = {
    "identity, mirror": frozenset({Tier.EVERY_SAMPLE}),
    "+ edges": frozenset({Tier.EVERY_SAMPLE, Tier.EDGES}),
    "+ a quarter of in turn": frozenset({Tier.EVERY_SAMPLE, Tier.EDGES, Tier.IN_TURN}),
    "new scene": frozenset(Tier),
}
_PER_SAMPLE: Final = "+ a quarter of in turn"

_FEED: Final = "feed, 3 of 10 new"
_NEW_SCENES: Final = (0, 4, 7)
"""Which of ten samples of the feed are new scenes ..."""
_MOVED_PIXELS: Final = 4
"""... and by how many of 256 pixels the others are moved against the one before."""
_FEED_SAMPLES: Final = 200

_UNLIMITED: Final = 1e9

Pixels = tuple[bytes, bytes]


def measure(options: Options) -> Report:
    """Measure the CPU time of a sample by what is run on it; a quick run takes the shorter list alone."""
    rows = (options.more["rows"],) if "rows" in options.more else _ROWS[: 1 if options.is_quick else None]
    trials = options.trials or (12 if options.is_quick else 40)
    settings = {
        "frames": f"{trials} of {_WIDTH}x{_HEIGHT}, each in every quarter of the turn",
        "rows": list(rows),
        "threads": 1,
        "clock": "CPU time of the thread",
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("views", settings)
    cv2.setNumThreads(1)
    frames = [_frame(number, options.seed) for number in range(trials)]
    scaling, pixels = _scaled(frames)
    results: list[dict[str, Any]] = [{"part": "scaling to plane and picture", "cpu_ms": scaling}]
    for count in rows:
        for result in _inspected(pixels, count, options.seed):
            print(f"  {count:>10,} rows  {result['part']:<24} {result['cpu_ms']:6.3f} ms", flush=True)
            results.append(result)
    return Report("views", settings, results, _checks(results, scaling))


def _scaled(frames: list[VideoFrame]) -> tuple[float, list[Pixels]]:
    reader = PixelReader()
    reader.pixels(frames[0])  # makes its tables
    found: list[Pixels] = []
    millis = []
    for frame in frames:
        began = time.thread_time()
        pixels = reader.pixels(frame)
        millis.append((time.thread_time() - began) * 1000)
        found.append((pixels.plane.tobytes(), pixels.picture.tobytes()))
    return statistics.mean(millis), found


def _inspected(pixels: list[Pixels], count: int, seed: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "LIST"
        names = [f"entry-{number}" for number in range(_ENTRIES)]
        entries = [names[number % _ENTRIES] for number in range(count)]
        add_entries(folder, generator.integers(0, 256, (count, 32), dtype=np.uint8), entries)
        del entries
        bank = open_bank(folder)
        gc.freeze()  # as analysis processes do
        found = []
        for part, tiers in _PLANS.items():
            viewer = Viewer(ViewBudget(_UNLIMITED, tiers), time.thread_time)
            inspector = Inspector(clock=time.thread_time, banks=[bank], viewer=viewer)
            found.append({"part": part, "rows": count} | _timed(inspector, pixels))
        viewer = Viewer(ViewBudget(_UNLIMITED), time.thread_time)
        inspector = Inspector(clock=time.thread_time, banks=[bank], viewer=viewer)
        found.append({"part": _FEED, "rows": count} | _fed(inspector, pixels))
    return found


def _fed(inspector: Inspector, pixels: list[Pixels]) -> dict[str, Any]:
    """The mean of a feed of which most samples are no new scenes; nothing is left out for its price."""
    watch, millis, views, scene = SceneWatch(), [], 0, -1
    for number in range(_FEED_SAMPLES):
        scene += number % 10 in _NEW_SCENES
        plane, picture = _moved(pixels[scene % len(pixels)], _MOVED_PIXELS * (number % 10))
        began = time.thread_time()
        inspection = inspector.inspect(plane, picture, _WIDTH, _HEIGHT, watch.look())
        millis.append((time.thread_time() - began) * 1000)
        watch.heard(inspection.fingerprint, (Tier(tier) for tier in inspection.tier_seconds), inspection.saved_seconds)
        views += inspection.views_run
    return {
        "cpu_ms": statistics.mean(millis),
        "cpu_median_ms": statistics.median(millis),
        "cpu_p95_ms": sorted(millis)[int(len(millis) * 0.95)],
        "views": views / len(millis),
    }


def _moved(pixels: Pixels, by: int) -> Pixels:
    picture = np.roll(np.frombuffer(pixels[1], dtype=np.uint8).reshape(256, 256, 3), by, axis=1)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA).tobytes(), picture.tobytes()


def _timed(inspector: Inspector, pixels: list[Pixels]) -> dict[str, Any]:
    millis, views, stages = [], 0, {"views": 0.0, "hash": 0.0, "match": 0.0}
    for plane, picture in pixels[:2]:
        inspector.inspect(plane, picture, _WIDTH, _HEIGHT)  # makes what is made once, and reads the list
    for turn in range(len(TURNS)):
        for plane, picture in pixels:
            began = time.thread_time()
            inspection = inspector.inspect(plane, picture, _WIDTH, _HEIGHT, Look(turn=turn))
            millis.append((time.thread_time() - began) * 1000)
            views += inspection.views_run
            for stage in stages:
                stages[stage] += inspection.stage_seconds[stage] * 1000
    return {
        "cpu_ms": statistics.mean(millis),
        "cpu_median_ms": statistics.median(millis),
        "cpu_p95_ms": sorted(millis)[int(len(millis) * 0.95)],
        "views": views / len(millis),
        **{f"{stage}_ms": total / len(millis) for stage, total in stages.items()},
    }


def _checks(results: list[dict[str, Any]], scaling: float) -> list[Check]:
    checks = []
    for result in results:
        rows = result.get("rows", 0)
        if result["part"] == _PER_SAMPLE and rows in _LIMITS_MS:
            what = f"decoded frame to per-sample tiers matched, {rows:,} rows, CPU mean"
            checks.append(at_most(what, scaling + result["cpu_ms"], "ms", _LIMITS_MS[rows]))
        if result["part"] == "identity, mirror" and rows == _ROWS[0]:
            what = f"identity and mirror hashed and matched, {rows:,} rows, CPU mean"
            checks.append(at_most(what, result["cpu_ms"], "ms", _TWO_VIEWS_MS))
    return checks


# What is shown


def _frame(number: int, seed: int) -> VideoFrame:
    picture = _KINDS[number % len(_KINDS)](seed * 1000 + number)
    return VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuv420p")


def _natural(seed: int) -> NDArray[np.uint8]:
    """Noise of every scale, the finer the weaker, as in photographs."""
    generator = np.random.default_rng(seed)
    total = np.zeros((_HEIGHT // 2, _WIDTH // 2, 3), dtype=np.float32)
    for step, cells in enumerate((4, 9, 18, 40, 90)):
        coarse = generator.integers(0, 256, (cells, cells + 3, 3)).astype(np.float32)
        total += cv2.resize(coarse, (_WIDTH // 2, _HEIGHT // 2), interpolation=cv2.INTER_CUBIC) / (step + 1)
    small = np.asarray((total - total.min()) / np.ptp(total) * 255, dtype=np.uint8)
    return np.asarray(cv2.resize(small, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _placed(seed: int, canvas: NDArray[np.uint8], top: int, left: int, share: float) -> NDArray[np.uint8]:
    height, width = round(_HEIGHT * share), round(_WIDTH * share)
    canvas[top : top + height, left : left + width] = cv2.resize(
        _natural(seed), (width, height), interpolation=cv2.INTER_AREA
    )
    return canvas


def _in_a_picture(seed: int) -> NDArray[np.uint8]:
    return _placed(seed, _natural(seed + 500) // 2, 120, 300, 0.6)


def _framed(seed: int) -> NDArray[np.uint8]:
    return _placed(seed, np.full((_HEIGHT, _WIDTH, 3), 14, dtype=np.uint8), 108, 192, 0.8)


def _covered(seed: int) -> NDArray[np.uint8]:
    shown = _natural(seed)
    shown[640:, 1400:] = 24
    for line in range(670, 1060, 34):
        cv2.putText(shown, "a line of a chat", (1420, line), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (230, 230, 230), 2)
    return shown


_KINDS: Final[tuple[Callable[[int], NDArray[np.uint8]], ...]] = (_natural, _in_a_picture, _natural, _framed, _covered)
