"""Clips that show something between their keyframes, by the rate controls that people and attackers use. Benign only.

What is hidden is a drawn picture. Clean content is a camera, somebody who speaks, a card that stands still.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from fractions import Fraction
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Final

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from detector.cards import synthetic_card

Picture = NDArray[np.uint8]
Size = tuple[int, int]
Scene = Callable[[int, Size], Picture]
"""Gives the (height, width, 3) RGB picture of each frame, by its number and its size (width, height)."""

SIZE: Final = (256, 144)
RATE: Final = 30
GOP: Final = 60

_BITS_A_PIXEL: Final = 0.226
"""250 kb/s at the size above: what 4.7 Mb/s are at 1280x720."""
_CARD: Final = 77


@unique
class Control(Enum):
    """Rate controls of x264 and x265."""

    ABR = "ABR"
    CBR = "CBR, VBV of 1 s"
    CRF = "CRF"
    LIVE = "zerolatency CBR, NAL-HRD"
    ONE_FRAME = "VBV of one frame"
    FILLER = "VBV of one frame, filler"

    def parameters(self, kbits: int) -> str:
        """Return the encoder's parameters for this rate."""
        one_second = f"bitrate={kbits}:vbv-maxrate={kbits}:vbv-bufsize={kbits}"
        one_frame = f"bitrate={kbits}:vbv-maxrate={kbits}:vbv-bufsize={-(-kbits // RATE)}"
        match self:
            case Control.ABR:
                return f"bitrate={kbits}"
            case Control.CBR:
                return one_second
            case Control.CRF:
                return "crf=23"
            case Control.LIVE:
                return f"{one_second}:nal-hrd=cbr:bframes=0:rc-lookahead=0"
            case Control.ONE_FRAME:
                return one_frame
            case Control.FILLER:
                return f"{one_frame}:nal-hrd=cbr"


USUAL_CONTROLS: Final = (Control.ABR, Control.CBR, Control.CRF, Control.LIVE)
"""Without an attacker's care for the sizes of his packets."""


@unique
class Hiding(Enum):
    """Where the hidden picture is shown: in which frames of a GOP, counted in the order in which they are shown."""

    NOWHERE = "nowhere"
    BETWEEN_KEYFRAMES = "between keyframes"
    LATER = "between keyframes, but for the first frames behind each"
    HALFWAY = "from the middle of each GOP on"
    B_FRAMES = "in B-frames only"
    FADED = "slowly faded in and out between keyframes"
    BESIDE_CUTS = "faded, beside a hard cut in every GOP"
    FLASHES = "for 67 ms every 2 s"
    HALF_SECONDS = "half of the time, never on a whole second"

    def share(self, number: int, gop: int) -> float:
        """How much of frame `number` is the hidden picture, 0 to 1, where each GOP has `gop` frames."""
        return float(_SHARES[self](number, gop))

    def is_cut(self, place: int, gop: int) -> bool:
        """Whether this frame is of the other clean scene, to which is cut hard."""
        return self is Hiding.BESIDE_CUTS and 0.1 <= place / gop < 0.3


def _faded(number: int, gop: int, begins: float) -> float:
    """A ramp up, a fifth of the time at the top, a ramp down; `begins` and the end are shares of the GOP."""
    part = (number % gop / gop - begins) / (0.95 - begins)
    return min(1.0, max(0.0, 2.5 * min(part, 1.0 - part)))


_SHARES: Final[Mapping[Hiding, Callable[[int, int], float]]] = MappingProxyType(
    {
        Hiding.NOWHERE: lambda _number, _gop: 0.0,
        Hiding.BETWEEN_KEYFRAMES: lambda number, gop: number % gop > 0,
        Hiding.LATER: lambda number, gop: number % gop >= max(8, gop // 10),
        Hiding.HALFWAY: lambda number, gop: number % gop >= gop // 2,
        Hiding.B_FRAMES: lambda number, gop: number % gop % 3 != 0 and number % gop != gop - 1,
        Hiding.FADED: lambda number, gop: _faded(number, gop, 0.05),
        Hiding.BESIDE_CUTS: lambda number, gop: _faded(number, gop, 0.35),
        Hiding.FLASHES: lambda number, _gop: (number - 47) % (2 * RATE) in (0, 1),
        Hiding.HALF_SECONDS: lambda number, _gop: 0.25 <= number / RATE % 1.0 < 0.75,
    }
)


@cache
def texture(seed: int, size: Size = SIZE) -> NDArray[np.float64]:
    """Return a cloudy picture, three times as wide and high as a frame, with the spectrum of photographs."""
    width, height = 3 * size[0], 3 * size[1]
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    clouds = np.fft.irfft2(spectrum / frequency, s=(height, width))
    return np.asarray(np.clip(128 + 50 * (clouds - clouds.mean()) / clouds.std(), 0, 255), np.float64)


def camera(number: int, size: Size = SIZE) -> Picture:
    """A camera that pans over a texture, with the noise of its sensor."""
    width, height = size
    x = int((150 + 120 * np.sin(number / 35)) * width / SIZE[0])
    y = int((100 + 50 * np.sin(number / 50)) * height / SIZE[1])
    return _coloured(texture(1, size)[y : y + height, x : x + width], noise_seed=number)


def still(_number: int, size: Size = SIZE) -> Picture:
    """A card that says the stream will start soon, as far as sizes go."""
    card = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    for place in range(12):
        row, column = divmod(place, 4)
        card[20 + 40 * row : 45 + 40 * row, 20 + 58 * column : 60 + 58 * column] = (37 * place % 256, 90, 200)
    return card[_nearest(size[1], SIZE[1])][:, _nearest(size[0], SIZE[0])]


def speaker(number: int, size: Size = SIZE) -> Picture:
    """Something that moves before something that does not."""
    width, height = size
    picture = _coloured(texture(2, size)[:height, :width])
    x, y = int((90 + 20 * np.sin(number / 9)) * width / SIZE[0]), int((40 + 8 * np.sin(number / 13)) * height / SIZE[1])
    wide, high = 70 * width // SIZE[0], 80 * height // SIZE[1]
    picture[y : y + high, x : x + wide] = _coloured(texture(3, size)[:high, :wide], noise_seed=number)
    return picture


def secret(_number: int, size: Size = SIZE) -> Picture:
    """A texture to be hidden: as hard to encode as the clean ones."""
    return _coloured(255.0 - texture(4, size)[: size[1], : size[0]])


@cache
def _card(size: Size) -> Picture:
    return synthetic_card(_CARD, *size)


def card(_number: int, size: Size = SIZE) -> Picture:
    """A drawn card to be hidden, as an operator puts it into a bank."""
    return _card(size)


def text(_number: int, size: Size = SIZE) -> Picture:
    """Lines of writing to be hidden, dark on light, as far as shapes and sizes go."""
    page = np.full((SIZE[1], SIZE[0]), 240, np.uint8)
    draw = np.random.default_rng(_CARD)
    for line in range(6):
        column = 12
        while column < SIZE[0] - 30:
            wide = int(draw.integers(6, 28))
            high = int(draw.integers(6, 14))
            page[28 + 19 * line - high : 28 + 19 * line, column : column + wide : 3] = 25
            column += wide + 7
    return np.repeat(page[_nearest(size[1], SIZE[1])][:, _nearest(size[0], SIZE[0]), None], 3, axis=2)


@dataclass(frozen=True)
class HiddenClip:
    """A clip whose content is clean for `hidden_from` frames, and hides `target` from then on.

    `gop` and `frames` count frames, at `RATE` a second. With `decoy` its hard cuts show that. `kbits` of 0 is a usual
    rate for the size.
    """

    clean: Scene
    hiding: Hiding
    control: Control
    gops: int = 8
    clean_gops: int = 2
    intra_refresh: bool = False
    gop: int = GOP
    size: Size = SIZE
    target: Scene = secret
    decoy: Scene = speaker
    hidden_from: int = 0
    codec: str = "libx264"
    open_gop: bool = False
    kbits: int = 0

    @property
    def frames(self) -> int:
        """Its length."""
        return self.gops * self.gop

    @property
    def first_hidden(self) -> int:
        """The number of the first frame that may hide something."""
        return self.hidden_from or self.clean_gops * self.gop

    def is_shown(self, number: int) -> bool:
        """Whether frame `number` shows the target and nothing else."""
        return number >= self.first_hidden and self.hiding.share(number, self.gop) == 1.0

    def picture(self, number: int) -> Picture:
        """Return the picture of a frame."""
        share = self.hiding.share(number, self.gop) if number >= self.first_hidden else 0.0
        if share == 1.0:
            return self.target(number, self.size)
        scene = self.decoy if self.hiding.is_cut(number % self.gop, self.gop) else self.clean
        clean = scene(number, self.size)
        if share == 0.0:
            return clean
        return (clean * (1.0 - share) + self.target(number, self.size) * share).astype(np.uint8)

    def encoded(self) -> bytes:
        """Return it as MPEG-TS."""
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mpegts") as container:
            stream = self.add_to(container)
            for number in range(self.frames):
                container.mux(stream.encode(self.frame(number)))
            container.mux(stream.encode(None))
        return buffer.getvalue()

    def add_to(self, container: av.container.OutputContainer) -> VideoStream:
        """Add the encoder that this clip is made by to `container`."""
        stream = container.add_stream(self.codec, rate=RATE)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *self.size, "yuv420p"
        context = stream.codec_context
        assert isinstance(context, VideoCodecContext)
        context.gop_size = self.gop
        context.thread_count = 1
        context.options = {"preset": "veryfast", f"{self.codec.removeprefix('lib')}-params": self._parameters()}
        return stream

    def frame(self, number: int) -> VideoFrame:
        """Return a frame as it goes into the encoder."""
        frame = VideoFrame.from_ndarray(self.picture(number), "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, RATE)
        return frame

    def _parameters(self) -> str:
        kbits = self.kbits or round(self.size[0] * self.size[1] * RATE * _BITS_A_PIXEL / 1000)
        fixed = f"scenecut=0:keyint={self.gop}:min-keyint={self.gop}"
        if self.codec == "libx265":
            fixed += f":pools=none:frame-threads=1:log-level=none:open-gop={int(self.open_gop)}"
        else:
            fixed += f":threads=1:intra-refresh={int(self.intra_refresh)}:open-gop={int(self.open_gop)}"
        b_frames = ":bframes=2:b-adapt=0:b-pyramid=0" if self.hiding is Hiding.B_FRAMES else ""
        return f"{fixed}{b_frames}:{self.control.parameters(kbits)}"


@lru_cache(maxsize=64)
def encoded(clip: HiddenClip) -> bytes:
    """Return `clip.encoded()`; what was made once is given again."""
    return clip.encoded()


def _nearest(size: int, of: int) -> NDArray[np.intp]:
    return np.arange(size) * of // size


def _coloured(grey: NDArray[np.float64], noise_seed: int | None = None) -> Picture:
    if noise_seed is not None:
        grey = grey + np.random.default_rng(noise_seed).normal(0, 3, grey.shape)
    return np.stack([np.clip(grey * share, 0, 255) for share in (1.0, 0.9, 0.8)], -1).astype(np.uint8)
