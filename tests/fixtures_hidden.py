"""Clips that show something between their keyframes, encoded by the rate controls that people use."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import cache

import av
import numpy as np
from numpy.typing import NDArray

from tests.fixtures_media import Picture

SIZE = (256, 144)
RATE = 30
GOP = 60
_KBITS = 250


class Control(Enum):
    """Rate controls of x264, as its parameters."""

    ABR = f"bitrate={_KBITS}"
    CBR = f"bitrate={_KBITS}:vbv-maxrate={_KBITS}:vbv-bufsize={_KBITS}"
    CRF = "crf=23"
    LIVE = f"bitrate={_KBITS}:vbv-maxrate={_KBITS}:vbv-bufsize={_KBITS}:nal-hrd=cbr:bframes=0:rc-lookahead=0"


class Hiding(Enum):
    """Where the hidden picture is shown: in which frames of a GOP, counted in the order in which they are shown."""

    NOWHERE = "nowhere"
    BETWEEN_KEYFRAMES = "between keyframes"
    HALFWAY = "from the middle of each GOP on"
    B_FRAMES = "in B-frames only"

    def holds(self, place: int) -> bool:
        """Whether the frame at `place` in its GOP shows it."""
        match self:
            case Hiding.NOWHERE:
                return False
            case Hiding.BETWEEN_KEYFRAMES:
                return place > 0
            case Hiding.HALFWAY:
                return place >= GOP // 2
            case Hiding.B_FRAMES:
                return place % 3 != 0 and place != GOP - 1


@cache
def texture(seed: int) -> NDArray[np.float64]:
    """Return a cloudy picture, three times as wide and high as a frame, with the spectrum of photographs."""
    width, height = 3 * SIZE[0], 3 * SIZE[1]
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    clouds = np.fft.irfft2(spectrum / frequency, s=(height, width))
    return np.clip(128 + 50 * (clouds - clouds.mean()) / clouds.std(), 0, 255)


def _coloured(grey: NDArray[np.float64], noise_seed: int | None = None) -> Picture:
    if noise_seed is not None:
        grey = grey + np.random.default_rng(noise_seed).normal(0, 3, grey.shape)
    return np.stack([np.clip(grey * share, 0, 255) for share in (1.0, 0.9, 0.8)], -1).astype(np.uint8)


def camera(number: int) -> Picture:
    """A camera that pans over a texture, with the noise of its sensor."""
    x, y = int(150 + 120 * np.sin(number / 35)), int(100 + 50 * np.sin(number / 50))
    return _coloured(texture(1)[y : y + SIZE[1], x : x + SIZE[0]], noise_seed=number)


def still(_number: int) -> Picture:
    """A card that says the stream will start soon, as far as sizes go."""
    card = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    for place in range(12):
        row, column = divmod(place, 4)
        card[20 + 40 * row : 45 + 40 * row, 20 + 58 * column : 60 + 58 * column] = (37 * place % 256, 90, 200)
    return card


def speaker(number: int) -> Picture:
    """Something that moves before something that does not."""
    picture = _coloured(texture(2)[: SIZE[1], : SIZE[0]])
    x, y = int(90 + 20 * np.sin(number / 9)), int(40 + 8 * np.sin(number / 13))
    picture[y : y + 80, x : x + 70] = _coloured(texture(3)[:80, :70], noise_seed=number)
    return picture


def secret(_number: int) -> Picture:
    """What is hidden."""
    return _coloured(255.0 - texture(4)[: SIZE[1], : SIZE[0]])


@dataclass(frozen=True)
class HiddenClip:
    """A clip of 2 s GOPs whose content is clean for `clean_gops` and hides something from then on."""

    clean: Callable[[int], Picture]
    hiding: Hiding
    control: Control
    gops: int = 8
    clean_gops: int = 2
    intra_refresh: bool = False

    def encoded(self) -> bytes:
        """Return it as MPEG-TS."""
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            stream.codec_context.gop_size = GOP
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"preset": "veryfast", "x264-params": self._parameters()}
            for number in range(self.gops * GOP):
                gop, place = divmod(number, GOP)
                is_hidden = gop >= self.clean_gops and self.hiding.holds(place)
                picture = secret(number) if is_hidden else self.clean(number)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return buffer.getvalue()

    def _parameters(self) -> str:
        fixed = f"threads=1:scenecut=0:keyint={GOP}:min-keyint={GOP}:intra-refresh={int(self.intra_refresh)}"
        b_frames = ":bframes=2:b-adapt=0:b-pyramid=0" if self.hiding is Hiding.B_FRAMES else ""
        return f"{fixed}{b_frames}:{self.control.value}"
