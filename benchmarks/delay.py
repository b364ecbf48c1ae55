"""How much later than a full decode is a sample handed over, for each way in which a stream can be looked at?

One feed is sent at real pace to a caged reader for each way, and to a plain PyAV process that decodes every frame. A
sample is late by what lies between the moment at which it reaches the service and the moment at which the plain decoder
gave the same frame. What stands for a GOP that was decoded whole is handed over when the GOP is over, which the next
keyframe tells: it is held against that one, and shown without a limit, for a sample of it may be as late as its GOP is
long, by design. What is told because the feed ends is not counted.
"""

import asyncio
import bisect
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

from benchmarks.crowd import percentile
from benchmarks.evasion_live import replayed
from benchmarks.hidden_clips import Control, HiddenClip, Hiding, Size, camera
from benchmarks.paced_feed import PacedFeed
from benchmarks.report import Check, Options, Report, at_most, machine, not_measured, print_settings
from streams.frame import Frame, SampleReason
from streams.job import Job, SandboxMode, SourceKind
from streams.keeper import Keeper
from streams.nursery import Nursery
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import Burst

_ROOT: Final = Path(__file__).resolve().parents[1]
_SIZE: Final[Size] = (640, 360)
_LIMIT_SECONDS: Final = 0.1
_WHOLE: Final = "after its GOP"
_SETTLED_SECONDS: Final = 4.0
"""What comes before is not counted: opening reads ahead."""

WAYS: Final = {
    "keyframes": SamplingSettings(mode=SamplingMode.KEYFRAMES),
    "decoded through": SamplingSettings(interval_seconds=0.2, mode=SamplingMode.FULL),
    "GOP too long for detect_within": SamplingSettings(1.0, 0.5),
    "every GOP whole": SamplingSettings(burst_share=1.0),
    "spikes": SamplingSettings(detect_within_seconds=2.0, spikes=True),
    "slowed": SamplingSettings(slowed_to_seconds=6.0),
}
CLIPS: Final = {
    "B-frames": HiddenClip(camera, Hiding.HALFWAY, Control.ABR, gops=6, clean_gops=0, size=_SIZE),
    "no B-frames": HiddenClip(camera, Hiding.HALFWAY, Control.LIVE, gops=6, clean_gops=0, size=_SIZE),
}


@dataclass(slots=True)
class Plain:
    """When the plain decoder gave each frame, and which of them are keyframes, by presentation time in ms."""

    given_at: dict[int, float] = field(default_factory=dict)
    keyframes: list[int] = field(default_factory=list)

    def note(self, line: bytes) -> None:
        """Take what the process said about a frame."""
        seconds, is_keyframe, at = json.loads(line)
        self.given_at[_ms(seconds)] = at
        if is_keyframe:
            self.keyframes.append(_ms(seconds))

    def next_keyframe(self, pts_ms: int) -> int | None:
        """The first keyframe after a frame."""
        place = bisect.bisect_right(self.keyframes, pts_ms)
        return self.keyframes[place] if place < len(self.keyframes) else None


@dataclass(frozen=True, slots=True)
class Heard:
    """What one reader said and when it was heard."""

    way: str
    at: float
    frames: Sequence[Frame]


def measure(options: Options) -> Report:
    """Feed both clips, one after the other."""
    rounds = options.trials or (1 if options.is_quick else 3)
    settings = {
        "picture": f"{_SIZE[0]}x{_SIZE[1]}, 30 fps, GOP of 2 s, a cut in the middle of each",
        "feed_seconds": rounds * 12.0,
        "ways": list(WAYS),
        "machine": machine(),
    }
    print_settings("delay", settings)
    rows = []
    for name, clip in CLIPS.items():
        rows += asyncio.run(_measure(name, clip, rounds))
    return Report("delay", settings, rows, checks_of(rows))


def checks_of(rows: Sequence[dict[str, Any]]) -> list[Check]:
    """One check for each way of looking and each clip."""
    checks = []
    for row in rows:
        if _WHOLE in row["sample"]:
            continue
        what = f"{row['clip']}, {row['way']}: {row['sample']} later than a full decode, p95"
        if row["p95_s"] is None:
            checks.append(not_measured(what, "s", _LIMIT_SECONDS, "no sample of this kind came"))
        else:
            checks.append(at_most(what, row["p95_s"], "s", _LIMIT_SECONDS))
    return checks


def added_delays(plain: Plain, heard: Sequence[Heard]) -> dict[tuple[str, str], list[float]]:
    """Return by how many seconds each sample was later than a full decode, by way and kind of sample."""
    delays: dict[tuple[str, str], list[float]] = defaultdict(list)
    begun_ms, ended_at = min(plain.given_at, default=0), max(plain.given_at.values(), default=0.0)
    spiked: set[tuple[str, int | None]] = set()
    for message in heard:
        last_ms = max(_ms(frame.pts_seconds or 0.0) for frame in message.frames)
        if last_ms - begun_ms < 1000 * _SETTLED_SECONDS or message.at > ended_at:
            continue
        kind, at_ms = message.frames[0].reason.value, last_ms
        if message.frames[0].reason in (SampleReason.BURST, SampleReason.SPIKE):
            ends_ms = plain.next_keyframe(last_ms)
            is_first = (message.way, ends_ms) not in spiked
            spiked.add((message.way, ends_ms))
            if message.frames[0].reason is SampleReason.BURST or not is_first:
                if ends_ms is None:
                    continue
                kind, at_ms = f"{kind}, {_WHOLE}", ends_ms
        if at_ms in plain.given_at:
            delays[message.way, kind].append(message.at - plain.given_at[at_ms])
    return delays


async def _measure(name: str, clip: HiddenClip, rounds: int) -> list[dict[str, Any]]:
    replay = await asyncio.to_thread(replayed, clip)
    plain = Plain()
    heard: list[Heard] = []
    async with PacedFeed(replay, rounds, len(WAYS) + 1) as feed, Nursery(entry="streams.reader:main") as nursery:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_decode_plainly(feed.url, plain), name="delay.plain")
            for way, sampling in WAYS.items():
                tasks.create_task(_listen(nursery, feed, way, sampling, heard), name=f"delay.{way}")
        late = feed.latest_seconds
    delays = added_delays(plain, heard)
    kinds = [(way, kind) for way in WAYS for kind in sorted({kind for one, kind in delays if one == way} or {"sample"})]
    return [
        {
            "clip": name,
            "way": way,
            "sample": kind,
            "samples": len(delays.get((way, kind), ())),
            "p50_s": percentile(delays.get((way, kind), ()), 50),
            "p95_s": percentile(delays.get((way, kind), ()), 95),
            "max_s": percentile(delays.get((way, kind), ()), 100),
            "feed_latest_s": late,
        }
        for way, kind in kinds
    ]


async def _listen(nursery: Nursery, feed: PacedFeed, way: str, sampling: SamplingSettings, heard: list[Heard]) -> None:
    job = Job(SourceKind.HTTP_TS, feed.url, feed.port, live=True, sampling=sampling, sandbox=SandboxMode.PREFER)
    async with Keeper(nursery, job) as keeper:
        async for message in keeper.messages():
            if isinstance(message, Frame):
                heard.append(Heard(way, monotonic(), (message,)))
            elif isinstance(message, Burst):
                heard.append(Heard(way, monotonic(), message.frames))


async def _decode_plainly(url: str, plain: Plain) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.plain_decode", url, cwd=_ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async for line in process.stdout:
        plain.note(line)
    await process.wait()


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
