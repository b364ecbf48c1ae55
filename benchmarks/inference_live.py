"""Scores of pictures that came the whole way: encoded as H.264, read in the cage, scored in an analysis process."""

import asyncio
import math
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Final

import av
import numpy as np
from av.video.stream import VideoStream

from benchmarks.inference_pictures import Picture, squeezed
from detector.analysis.pool import AnalysisPool
from detector.analysis.setup import load_manifests, pool_settings
from detector.config.config import Config
from detector.config.loading import load_config
from detector.media_files import Medium, reading
from detector.settings import reader_job
from models.evidence import Inspection
from streams.frame import Frame
from streams.job import SourceKind
from streams.keeper import Nursery
from streams.wire import Burst

WIDTH: Final = 1280
"""What a stream shows, with `HEIGHT`; a picture of another shape is pressed into it, for both sides alike."""
HEIGHT: Final = 720

_FPS: Final = 2
_PATIENCE_SECONDS: Final = 60.0


def shown(picture: Picture) -> Picture:
    """The frame as its publisher has it, before it is encoded."""
    return squeezed(picture, WIDTH, HEIGHT)


def live_scores(
    pictures: Mapping[str, Picture], models: Sequence[str], config: str = ""
) -> dict[str, dict[tuple[str, str], float]]:
    """By picture, what each label of each model got as (model, label); a picture with nothing to see has no scores.

    Each picture is a GOP of one second of one file (x264, quality 20), which is scanned. `config` is more of what a
    config says.
    """
    with tempfile.TemporaryDirectory(prefix="stopframe-inference-") as folder:
        media = Path(folder) / "pictures.mp4"
        encode(list(pictures.values()), media)
        listed = ", ".join(f"'{model}'" for model in models)
        chosen = f"models: [{listed}]\n{config}" if models else config
        path = Path(folder) / "stopframe.yaml"
        path.write_text(f"state_dir: {folder}/state\nanalysis: {{model_timeout: 30s}}\n{chosen}\n")
        (Path(folder) / "state/banks").mkdir(parents=True)
        found = asyncio.run(_scan(media, load_config(str(path))))
    return {
        name: {(score.model, score.label): score.score for score in found[place].scores}
        for place, name in enumerate(pictures)
        if place in found and not found[place].is_low_information
    }


def decoded(pictures: Mapping[str, Picture]) -> dict[str, Picture]:
    """What is left of each picture when `encode` has encoded it: its frame of 1280x720 as any player decodes it."""
    with tempfile.TemporaryDirectory(prefix="stopframe-inference-") as folder:
        media = Path(folder) / "pictures.mp4"
        encode(list(pictures.values()), media)
        with av.open(str(media)) as container:
            frames = [np.asarray(one.to_ndarray(format="rgb24"), np.uint8) for one in container.decode(video=0)]
    return dict(zip(pictures, frames[_FPS - 1 :: _FPS], strict=True))


def encode(pictures: Sequence[Picture], path: Path) -> None:
    """One second of each picture, with a keyframe at its beginning, as common streaming software marks its colours."""
    with av.open(str(path), "w") as container:
        video: VideoStream = container.add_stream("libx264", rate=_FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"preset": "veryfast", "crf": "20", "x264-params": f"keyint={_FPS}:scenecut=0:bframes=0"}
        for place, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(shown(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            for number in range(_FPS):
                frame.pts, frame.time_base = place * _FPS + number, Fraction(1, _FPS)
                container.mux(video.encode(frame))
        container.mux(video.encode(None))


async def _scan(media: Path, config: Config) -> dict[int, Inspection]:
    """The last inspection of each second."""
    manifests = load_manifests(config)
    job = reader_job(config, "pictures", SourceKind.FILE, "", live=False, manifests=manifests)
    settings = pool_settings(config, manifests, workers=1)
    found: dict[int, Inspection] = {}
    async with (
        Nursery("streams.reader:main") as nursery,
        AnalysisPool(settings) as pool,
        reading(nursery, job, Medium(media.name, media)) as keeper,
    ):
        async for message in keeper.messages():
            for frame in message.frames if isinstance(message, Burst) else [message]:
                if isinstance(frame, Frame) and frame.pts_seconds is not None:
                    inspection = await pool.inspect(frame, deadline_at=monotonic() + _PATIENCE_SECONDS)
                    found[math.floor(frame.pts_seconds + 1e-6)] = inspection
    return found
