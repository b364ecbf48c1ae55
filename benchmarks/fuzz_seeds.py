"""What is damaged: tiny clips in every container and codec that is read, made by PyAV when the fuzzing begins."""

import io
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.video.stream import VideoStream

from benchmarks.mutations import Seed

_RATE = 10
_FRAMES = 6
_WIDTH, _HEIGHT = 96, 64
_OPTIONS: Final = {
    "libx264": {"preset": "ultrafast", "x264-params": "threads=1:scenecut=0:bframes=1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1:bframes=0"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
_PACKED: Final = (
    ("libx264", "mpegts", "ts"),
    ("libx264", "flv", "flv"),
    ("libx264", "mp4", "mp4"),
    ("libx264", "matroska", "mkv"),
    ("libx265", "mpegts", "ts"),
    ("libx265", "flv", "flv"),
    ("libx265", "mp4", "mp4"),
    ("libsvtav1", "mp4", "mp4"),
    ("libsvtav1", "flv", "flv"),
    ("libsvtav1", "matroska", "mkv"),
    ("libvpx", "webm", "mkv"),
    ("libvpx-vp9", "webm", "mkv"),
    ("libvpx-vp9", "mp4", "mp4"),
)
_MUXER_OPTIONS: Final = {"mp4": {"movflags": "frag_keyframe+empty_moov"}}
_SEGMENTS = 2


def make_seeds() -> list[Seed]:
    """Return the clips; the same bytes whenever this build of libav makes them. A playlist of two segments is last."""
    av.logging.set_level(av.logging.PANIC)
    os.environ.setdefault("SVT_LOG", "0")  # the encoder prints its settings for every clip
    seeds = [Seed(f"{codec}/{muxer}", container, _clip(codec, muxer)) for codec, muxer, container in _PACKED]
    seeds.append(Seed("libx264/mp4-fragments", "mp4", _clip("libx264", "mp4", _MUXER_OPTIONS["mp4"])))
    seeds.append(Seed("libx264+aac/mpegts", "ts", _clip("libx264", "mpegts", has_audio=True)))
    segment = seeds[0].content
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0"]
    for number in range(_SEGMENTS):
        lines += [f"#EXTINF:{_FRAMES / _RATE},", f"seg{number}.ts"]
    playlist = "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()
    return [*seeds, Seed("playlist", "hls", playlist, segment)]


def of_container(seeds: Sequence[Seed], *containers: str) -> list[Seed]:
    """Return the seeds that are packed in one of `containers`."""
    return [seed for seed in seeds if seed.container in containers]


def _clip(codec: str, muxer: str, options: dict[str, str] | None = None, *, has_audio: bool = False) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=muxer, options={"fflags": "+bitexact"} | (options or {})) as container:
        stream = container.add_stream(codec, rate=_RATE)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.codec_context.gop_size = _FRAMES // 2
        stream.codec_context.thread_count = 1
        stream.codec_context.options = _OPTIONS[codec]
        if has_audio:
            _add_sound(container)
        for number in range(_FRAMES):
            frame = av.VideoFrame.from_ndarray(_picture(number), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, _RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _add_sound(container: av.container.OutputContainer) -> None:
    stream = container.add_stream("aac", rate=48_000)
    for number in range(_FRAMES * 4):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, number * 1024, Fraction(1, 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _picture(number: int) -> np.ndarray:
    columns = (np.arange(_WIDTH) * 3 + 20 * number) % 256
    rows = np.arange(_HEIGHT)[:, None] * 2 % 256
    return np.stack([columns + 0 * rows, rows + 0 * columns, (columns + rows) % 256], axis=2).astype(np.uint8)
