"""The promised cases of the evasion benchmark once more, live: fed at real pace into the real service."""

import asyncio
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from benchmarks.clips import Clip, ClipChunk
from benchmarks.evasion_cells import SIZE
from benchmarks.hidden_clips import RATE, Control, HiddenClip, Hiding, camera, secret
from benchmarks.ports import free_port
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService
from detector.publisher import Muxed
from models.bank_store import add_entries
from models.hashing.registry import ALGORITHMS
from streams.decoder import PixelReader

_BANK: Final = "HIDDEN_PICTURES"
_HIDDEN: Final = "hidden"
_PATIENCE_SECONDS: Final = 12.0
_POLL_SECONDS: Final = 0.05

_BASE: Final = HiddenClip(
    camera, Hiding.BETWEEN_KEYFRAMES, Control.CBR, gops=8, size=SIZE, target=secret, hidden_from=197
)
LIVE_CASES: Final = {
    "all frames but keyframes": _BASE,
    "B-frames only": replace(_BASE, hiding=Hiding.B_FRAMES),
    "GOP of 20 s": replace(_BASE, gop=600, gops=1, hidden_from=250),
    "intra refresh": replace(_BASE, intra_refresh=True),
}


def live_rows() -> list[dict[str, Any]]:
    """Publish each case once, all at the same time; say how long after the first bytes that show it each was matched.

    Matched is: an incident of the stream is written down.
    """
    return asyncio.run(_live_rows())


def replayed(clip: HiddenClip) -> Clip:
    """Return a clip as chunks to be sent at real pace, one packet each; the first hidden one is marked."""
    muxed = Muxed()
    chunks: list[ClipChunk] = []
    is_marked = False
    with av.open(muxed, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = clip.add_to(container)
        frames = [clip.frame(number) for number in range(clip.frames)]
        for frame in [*frames, None]:
            for packet in stream.encode(frame):
                assert packet.pts is not None
                shown = round(packet.pts * (packet.time_base or Fraction(1, RATE)) * RATE)
                marks = not is_marked and shown >= clip.first_hidden and clip.is_shown(shown)
                is_marked |= marks
                is_keyframe = packet.is_keyframe
                container.mux(packet)
                card = _HIDDEN if marks else None
                chunks.append(ClipChunk(len(chunks) / RATE, muxed.take(), is_keyframe, card))
    return Clip(clip.frames / RATE, tuple(chunks))


async def _live_rows() -> list[dict[str, Any]]:
    clips = {case: await asyncio.to_thread(replayed, clip) for case, clip in LIVE_CASES.items()}
    with tempfile.TemporaryDirectory(prefix="stopframe-evasion-") as scratch:
        service = RunningService(
            Path(scratch),
            f"banks: {{{_BANK}: {{step: review}}}}\n"
            f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}", embedded_broker: true}}}}',
        )
        _fill_bank(service.state_dir)
        async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            paths = {f"live/c{number}": case for number, case in enumerate(clips)}
            for number, (path, case) in enumerate(paths.items()):
                publishers.start(path, clips[case], delay_seconds=0.3 * number, rounds=1)
            matched = await _watch(service, publishers, list(paths))
            return [
                {
                    "kind": "live",
                    "hidden": case,
                    "control": LIVE_CASES[case].control.value,
                    "matched_after_s": matched.get(path),
                    "publisher_late_s": publishers.publications[path].latest_seconds,
                }
                for path, case in paths.items()
            ]


async def _watch(service: RunningService, publishers: PacedPublishers, paths: list[str]) -> dict[str, float]:
    """Return how long after its first hidden bytes each stream had an incident."""
    until = time.monotonic() + max(clip.first_hidden for clip in LIVE_CASES.values()) / RATE + _PATIENCE_SECONDS
    matched: dict[str, float] = {}
    known: dict[str, str] = {}
    while time.monotonic() < until and len(matched) < len(paths):
        await asyncio.sleep(_POLL_SECONDS)
        known |= {row.stream_id: path for path, row in (await service.streams()).items()}
        for incident in await service.incidents():
            path = known.get(incident.stream_id, "")
            hidden_at = publishers.publications[path].switched_at(_HIDDEN) if path else None
            if path and path not in matched and hidden_at is not None:
                matched[path] = time.monotonic() - hidden_at
    return matched


def _fill_bank(state_dir: Path) -> None:
    """Put what is hidden into the bank, hashed as the reader would see it."""
    frame = av.VideoFrame.from_ndarray(secret(0, SIZE), format="rgb24").reformat(format="yuv420p")
    row = np.frombuffer(ALGORITHMS["pdq"].hash_plane(PixelReader().plane(frame)).value, np.uint8)
    (state_dir / "banks").mkdir(mode=0o700, parents=True)
    add_entries(state_dir / "banks" / _BANK, row[None], ["hidden"])
