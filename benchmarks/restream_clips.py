"""Moving pictures for the benchmark of re-streams: scenes, what re-streamers do to them, rivals beside known cards.

All of it is drawn: cards under a slow camera with the noise of its sensor, and something that moves before them.
"""

import random
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Final

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from benchmarks.clips import Clip, ClipChunk
from detector.cards import synthetic_card
from detector.publisher import Muxed

Picture = NDArray[np.uint8]

WIDTH: Final = 320
HEIGHT: Final = 180
FPS: Final = 15
MARK: Final = "bad"
"""What the first bytes of the scene in question are marked with in a clip."""

_ROOM: Final = 1.15
_GOP: Final = 2 * FPS


def scene(seed: int, seconds: float, *, is_landscape: bool = False) -> list[Picture]:
    """Frames of one scene, (HEIGHT, WIDTH, 3) RGB: a camera drifts over a card or a landscape, a ball moves before it.

    A landscape has the spectrum of photographs and no straight lines.
    """
    size = round(WIDTH * _ROOM), round(HEIGHT * _ROOM)
    world = _landscape(seed, *size) if is_landscape else synthetic_card(seed, *size)
    draw = np.random.default_rng(seed)
    start, pace = draw.uniform(0, 2 * np.pi, 2), draw.uniform(0.02, 0.04, 2)
    frames = []
    for number in range(round(seconds * FPS)):
        at = number / FPS
        x, y = (np.sin(start + 2 * np.pi * pace * at) + 1) / 2 * ((_ROOM - 1) * np.array([WIDTH, HEIGHT]) - 1)
        frame = world[int(y) : int(y) + HEIGHT, int(x) : int(x) + WIDTH].copy()
        ball = (int(WIDTH * (0.5 + 0.4 * np.sin(at))), int(HEIGHT * (0.5 + 0.4 * np.cos(1.3 * at))))
        cv2.circle(frame, ball, 10, (250, 240, 60), -1)
        noise = draw.integers(-4, 5, frame.shape, np.int16)
        frames.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
    return frames


def _landscape(seed: int, width: int, height: int) -> Picture:
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height / width, np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    planes = np.fft.irfft2(spectrum / frequency**1.4, s=(height, width))
    grey, tint = planes[0] / planes[0].std(), planes / planes.std(axis=(1, 2), keepdims=True)
    return np.asarray(np.clip(128 + 45 * grey + 15 * tint, 0, 255).transpose(1, 2, 0), np.uint8)


def restreamed(frames: Sequence[Picture], draw: random.Random) -> list[Picture]:
    """The same, mirrored and cropped by 5-10 % of each side."""
    top, bottom = (round(HEIGHT * draw.uniform(0.05, 0.10)) for _ in range(2))
    left, right = (round(WIDTH * draw.uniform(0.05, 0.10)) for _ in range(2))
    return [
        cv2.resize(
            np.ascontiguousarray(frame[top : HEIGHT - bottom, left : WIDTH - right][:, ::-1]),
            (WIDTH, HEIGHT),
            interpolation=cv2.INTER_AREA,
        ).astype(np.uint8)
        for frame in frames
    ]


def beside_card(frames: Sequence[Picture], card: Picture, draw: random.Random) -> list[Picture]:
    """A rival's picture, with a card of half to 60 % of its sides in one corner."""
    share = draw.uniform(0.5, 0.6)
    wide, high = round(WIDTH * share), round(HEIGHT * share)
    small = cv2.resize(card, (wide, high), interpolation=cv2.INTER_AREA)
    x, y = draw.choice((0, WIDTH - wide)), draw.choice((0, HEIGHT - high))
    shown = []
    for frame in frames:
        copy = frame.copy()
        copy[y : y + high, x : x + wide] = small
        shown.append(copy)
    return shown


def encoded(frames: Iterable[Picture], *, kilobits: int, marked: int | None = None) -> Clip:
    """Encode frames as a publisher would; the bytes of frame `marked` bear the mark."""
    muxed, chunks = Muxed(), list[ClipChunk]()
    count = 0
    with av.open(muxed, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 1000 * kilobits
        params = f"keyint={_GOP}:min-keyint={_GOP}:scenecut=0:bframes=0:threads=1"
        stream.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": params}
        for picture in (*frames, None):
            frame = None
            if picture is not None:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = count, Fraction(1, FPS)
                count += 1
            for packet in stream.encode(frame):
                is_keyframe = packet.is_keyframe
                container.mux(packet)
                number = len(chunks)
                chunks.append(ClipChunk(number / FPS, muxed.take(), is_keyframe, MARK if number == marked else None))
    return Clip(count / FPS, tuple(chunks))


def decoded(clip: Clip) -> list[Picture]:
    """The frames of a clip as its viewers see them, and as those who stream it again take them."""
    with av.open(_Packets(clip), "r", format="mpegts") as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


class _Packets:
    """A clip as a file."""

    def __init__(self, clip: Clip) -> None:
        self._left = b"".join(chunk.payload for chunk in clip.chunks)

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most so many."""
        piece, self._left = self._left[:count], self._left[count:]
        return piece
