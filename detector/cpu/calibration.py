"""Measures on this machine what looking at a stream costs: a made-up clip through the caged reader and the analysis."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detector.analysis.looks import TrackLooks
from detector.analysis.pool import AnalysisPool, FrameDropped
from detector.cpu.cores import usable_cores
from detector.cpu.costs import CostTable, VideoCosts
from detector.media_files import Medium, reading
from streams.frame import Frame
from streams.job import Job
from streams.keeper import Nursery, ReaderFailed
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import Burst, Heartbeat, Opened

SIZES = {"1080p": (1920, 1080), "720p": (1280, 720)}
"""What can be measured: width and height in pixels."""

_FPS = 30
_GOP_SECONDS = 1.0
_CLIP_SECONDS = 4.5
_SETTLED_SECONDS = 0.9
_CLIP_TIMEOUT_SECONDS = 120.0
_MANY_FRAMES = 12


class CalibrationFailed(Exception):
    """Raised by `measure`; one sentence with the remedy."""


@dataclass(slots=True)
class _Watched:
    """What one reader reported: the first heartbeat after its start, the last one, and what it handed over."""

    first: Heartbeat
    last: Heartbeat
    bursts: int
    burst_frames: int
    frames: list[Frame]


async def measure(sizes: Sequence[str], job: Job, pool: AnalysisPool) -> CostTable:
    """Measure h264 at 30 frames a second in each of `sizes`; about ten seconds each, most of them spent waiting.

    `job` says how readers read. Raises `CalibrationFailed`.
    """
    videos: list[VideoCosts] = []
    frames: list[Frame] = []
    with tempfile.TemporaryDirectory(prefix="stopframe-plan-") as folder:
        async with Nursery("streams.reader:main", silences_children=True) as nursery:
            for size in sizes:
                path = Path(folder) / f"{size}.ts"
                await _write_clip(path, size)
                whole, through = await _watch_both(path, nursery, job)
                videos.append(_costs(size, whole, through))
                frames += whole.frames
    return CostTable(usable_cores(), await _analysis_seconds(frames, pool), tuple(videos))


async def _write_clip(path: Path, size: str) -> None:
    width, height = SIZES[size]
    command = [sys.executable, "-m", "detector.sample_clip", "--size", f"{width}x{height}", "--fps", str(_FPS)]
    command += ["--gop", str(_GOP_SECONDS), "--seconds", str(_CLIP_SECONDS)]
    with path.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=subprocess.DEVNULL)
        try:
            async with asyncio.timeout(_CLIP_TIMEOUT_SECONDS):
                code = await process.wait()
        except TimeoutError:
            code = 1
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if code:
        raise CalibrationFailed("no clip to measure on could be encoded here; name costs of such a machine by --costs")


async def _watch_both(path: Path, nursery: Nursery, job: Job) -> tuple[_Watched, _Watched]:
    whole = SamplingSettings(60.0, 1.0, SamplingMode.AUTO, burst_share=1.0)
    through = SamplingSettings(1.0, 1.0, SamplingMode.FULL)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_watch(path, nursery, replace(job, sampling=each))) for each in (whole, through)]
    return tasks[0].result(), tasks[1].result()


async def _watch(path: Path, nursery: Nursery, job: Job) -> _Watched:
    first = last = None
    watched_from, bursts, kept = time.monotonic(), 0, 0
    frames: list[Frame] = []
    try:
        async with reading(nursery, job, Medium(path.name, path)) as keeper:
            async for message in keeper.messages():
                if isinstance(message, Opened):
                    watched_from = time.monotonic()
                elif isinstance(message, Frame):
                    frames.append(message)
                elif isinstance(message, Burst):
                    bursts, kept = bursts + 1, kept + len(message.frames)
                    frames += message.frames
                elif isinstance(message, Heartbeat) and time.monotonic() > watched_from + _SETTLED_SECONDS:
                    first, last = first or message, message
    except ReaderFailed as error:
        raise CalibrationFailed(
            f"the reader could not be measured: {error}; try again, or name costs by --costs"
        ) from None
    if first is None or last is None or last.sent_at - first.sent_at < 1.0:
        raise CalibrationFailed("the reader said too little to be measured; try again on a machine that is less busy")
    return _Watched(first, last, bursts, kept, frames)


def _costs(size: str, whole: _Watched, through: _Watched) -> VideoCosts:
    begin, end = whole.first, whole.last
    keyframes = max(1, end.keyframes_decoded - begin.keyframes_decoded)
    in_keyframes = end.keyframe_cpu_seconds - begin.keyframe_cpu_seconds
    gops = max(1, end.bursts - begin.bursts)
    in_gops = end.whole_cpu_seconds - begin.whole_cpu_seconds
    through_seconds = through.last.sent_at - through.first.sent_at
    in_through = through.last.through_cpu_seconds - through.first.through_cpu_seconds
    return VideoCosts(
        size=size,
        codec="h264",
        fps=float(_FPS),
        keyframe_seconds=max(1e-5, in_keyframes / keyframes),
        # Decoding through is charged packet by packet; a GOP decoded whole at once, between two reports.
        reading=max(0.0, _beside(through)),
        through=max(1e-5, in_through / through_seconds),
        whole=max(1e-5, in_gops / gops / _GOP_SECONDS),
        frames_per_gop=whole.burst_frames / whole.bursts if whole.bursts else 0.0,
    )


def _beside(watched: _Watched) -> float:
    """CPU seconds a second of a reader that went into no picture."""
    begin, end = watched.first, watched.last
    parts = ("keyframe_cpu_seconds", "through_cpu_seconds", "whole_cpu_seconds")
    pictures = sum(float(getattr(end, part) - getattr(begin, part)) for part in parts)
    return (end.cpu_seconds - begin.cpu_seconds - pictures) / (end.sent_at - begin.sent_at)


async def _analysis_seconds(frames: Sequence[Frame], pool: AnalysisPool) -> float:
    """CPU time for one frame by the configured banks and models. The first warms up."""
    spent: list[float] = []
    looks = TrackLooks()  # what a stream's frames were looked at before makes the next one cheaper
    for frame in list(frames[:_MANY_FRAMES]):
        try:
            inspection = await pool.inspect(frame, deadline_at=time.monotonic() + 30.0, look=looks.look(frame))
        except FrameDropped:
            continue
        looks.heard(inspection)
        spent.append(inspection.cpu_seconds)
    measured = sorted(spent[1:])
    if not measured:
        raise CalibrationFailed("no frame could be analysed; 'stopframe check' and 'stopframe models check' say why")
    return max(1e-5, measured[len(measured) // 2])
