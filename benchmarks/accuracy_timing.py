"""What looking at one decoded 1080p frame costs: scaling, views, hashes and look-ups, averaged over a stream."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation

from benchmarks.accuracy_material import clip_frames, drawn_picture, pan
from detector.config.matching import MatchingSection
from models.banks import Bank
from models.hashing.scenes import SceneWatch
from models.hashing.view_budget import ViewBudget
from models.hashing.view_table import Tier
from models.hashing.viewing import Viewer
from models.inspector import Inspector
from streams.decoder import PixelReader

_SIZE: Final = (1920, 1080)
_WARM: Final = 8


def decoded_samples(clips: Sequence[Path], most: int) -> list[VideoFrame]:
    """Frames of clips a second apart as a decoder gives them; of a made clip where there are none."""
    frames: list[Any] = []
    for clip in clips:
        frames += [frame for _, frame in clip_frames(clip, every_seconds=1.0)]
        if len(frames) >= most:
            break
    if not frames:
        frames = pan(drawn_picture(np.random.default_rng(1), 1280, 720), np.random.default_rng(1), most, 1.0)
    packed = [VideoFrame.from_ndarray(frame, format="bgr24") for frame in frames[:most]]
    return [frame.reformat(*_SIZE, "yuv420p", interpolation=Interpolation.BILINEAR) for frame in packed]


def cost_of_samples(frames: Sequence[VideoFrame], bank: Bank, what: str) -> dict[str, Any]:
    """CPU time for a sample in milliseconds, averaged, as a live stream's are looked at with the budget that ships.

    The frames differ, a second or more lies between them: most are new scenes, so `all_ms` holds a scene's views too.
    `per_sample_tiers_ms` is without these, which run once a scene.
    """
    every = _costs(frames, bank, frozenset(Tier))
    per_sample = _costs(frames, bank, frozenset(Tier) - {Tier.PER_SCENE})
    least = _costs(frames, bank, frozenset({Tier.EVERY_SAMPLE}))
    return {
        "list": what,
        "rows": len(bank),
        "samples": len(every["all"]),
        "all_ms": mean(every["all"]),
        "scaling_ms": mean(every["scaling"]),
        "views_run": mean(every["views"]),
        "per_sample_tiers_ms": mean(per_sample["all"]),
        "per_sample_views_run": mean(per_sample["views"]),
        "identity_and_mirror_ms": mean(least["all"]) - mean(least["scaling"]),
        "identity_and_mirror_with_scaling_ms": mean(least["all"]),
    }


def _costs(frames: Sequence[VideoFrame], bank: Bank, tiers: frozenset[Tier]) -> dict[str, list[float]]:
    budget = MatchingSection().budget.seconds
    viewer = Viewer(ViewBudget(budget, tiers), time.process_time)
    inspector = Inspector(clock=time.process_time, banks=[bank], viewer=viewer)
    reader, watch = PixelReader(), SceneWatch()
    found: dict[str, list[float]] = {"all": [], "scaling": [], "views": []}
    for number, frame in enumerate([*frames[:_WARM], *frames]):
        began = time.process_time()
        pixels = reader.pixels(frame)
        scaled = time.process_time()
        planes = (pixels.plane.tobytes(), pixels.picture.tobytes())
        seen = inspector.inspect(*planes, pixels.width, pixels.height, watch.look())
        ended = time.process_time()
        watch.heard(seen.fingerprint, [Tier(tier) for tier in seen.tier_seconds], seen.saved_seconds)
        if number >= _WARM:
            found["all"].append((ended - began) * 1000)
            found["scaling"].append((scaled - began) * 1000)
            found["views"].append(float(seen.views_run))
    return found
