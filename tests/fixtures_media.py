"""Benign clips, made in memory: coloured cards and moving ramps, in whatever codec and container a test asks for."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_OPTIONS = {
    "libx264": {"preset": "ultrafast", "x264-params": "scenecut=0:threads=1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:scenecut=0:pools=none:frame-threads=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


@dataclass(frozen=True)
class Clip:
    """How a clip is encoded. Lengths are in frames; `gop` is the distance of keyframes, `size` (width, height)."""

    frames: int = 60
    gop: int = 30
    b_frames: int = 0
    rate: int = 30
    size: tuple[int, int] = (320, 240)
    codec: str = "libx264"
    container: str = "mpegts"
    pixel_format: str = "yuv420p"
    intra_refresh: bool = False
    title: str = ""
    tracks: int = 1

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.rate


class MediaMaker:
    """Makes clips and pictures; what was made once in a session is given again."""

    def __init__(self) -> None:
        self._made: dict[Clip, bytes] = {}

    def clip(self, clip: Clip = Clip(), draw: Callable[[int], Picture] | None = None) -> bytes:
        """Return the bytes of `clip`; `draw` gives the RGB picture of each frame, else a ramp moves slowly."""
        if draw is not None:
            return self._encode(clip, draw)
        if clip not in self._made:
            self._made[clip] = self._encode(clip, lambda number: self.ramp(number, clip.size))
        return self._made[clip]

    def ramp(self, number: int, size: tuple[int, int] = (320, 240)) -> Picture:
        """Return frame `number` of a ramp that moves by four pixels a frame."""
        width, height = size
        row = ((np.arange(width) + 4 * number) * 255 // width % 256).astype(np.uint8)
        return np.repeat(np.broadcast_to(row, (height, width))[:, :, None], 3, axis=2).copy()

    def card(self, grey: int | Sequence[int], size: tuple[int, int] = (320, 240)) -> Picture:
        """Return a picture of one colour."""
        return np.full((size[1], size[0], 3), grey, np.uint8)

    def picture(self, codec: str, picture: Picture, pixel_format: str) -> bytes:
        """Return `picture` as a file: codec `png`, `mjpeg` or `libwebp`. With `pal8` it becomes grey, by a palette."""
        context = av.CodecContext.create(codec, "w")
        context.width, context.height, context.pix_fmt = picture.shape[1], picture.shape[0], pixel_format
        context.time_base = Fraction(1, 25)
        if pixel_format == "pal8":
            greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
            greys[:, 0] = 255  # opaque
            frame = av.VideoFrame.from_ndarray((np.ascontiguousarray(picture[:, :, 0]), greys), "pal8")
        else:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixel_format)
        return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])

    def _encode(self, clip: Clip, draw: Callable[[int], Picture]) -> bytes:
        buffer = io.BytesIO()
        self.write(clip, draw, buffer)
        return buffer.getvalue()

    def write(
        self,
        clip: Clip,
        draw: Callable[[int], Picture],
        target: io.BytesIO | str,
        options: dict[str, str] | None = None,
    ) -> None:
        """Write `clip` to a file, or to several: a playlist names its segments."""
        with av.open(target, "w", format=clip.container, options=options or {}) as container:
            if clip.title:
                container.metadata["title"] = clip.title
            streams = [self._stream(container, clip) for _ in range(clip.tracks)]
            for number in range(clip.frames):
                for stream in streams:
                    frame = av.VideoFrame.from_ndarray(draw(number), "rgb24").reformat(format=clip.pixel_format)
                    frame.pts, frame.time_base = number, Fraction(1, clip.rate)
                    container.mux(stream.encode(frame))
            for stream in streams:
                container.mux(stream.encode(None))

    def _stream(self, container: av.container.OutputContainer, clip: Clip) -> av.VideoStream:
        stream = container.add_stream(clip.codec, rate=clip.rate)
        stream.width, stream.height = clip.size
        stream.pix_fmt = clip.pixel_format
        stream.gop_size = clip.gop
        stream.codec_context.max_b_frames = clip.b_frames
        stream.codec_context.thread_count = 1
        options = dict(_OPTIONS.get(clip.codec, {}))
        if clip.codec == "libx264":
            options |= {"bf": str(clip.b_frames), "intra-refresh": str(int(clip.intra_refresh))}
        stream.codec_context.options = options
        return stream


@pytest.fixture(scope="session")
def media() -> MediaMaker:
    """Return the maker of clips and pictures."""
    return MediaMaker()
