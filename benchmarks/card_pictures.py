"""Pictures for the stand-in model: FFmpeg's test cards at any moment, and a great many pictures that are none.

Everything is synthetic and drawn from a seeded generator. Pictures are uint8 RGB, `SIDE` x `SIDE`, squeezed to the
square as the service squeezes them.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import av
import av.filter
import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

CARDS: Final = ("smptebars", "testsrc2", "mandelbrot")
SIDE: Final = 160
CARD_SIZES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "smptebars": ((320, 180), (640, 360), (426, 240), (1280, 720), (320, 240)),
    "testsrc2": ((320, 180), (640, 360), (426, 240), (1280, 720)),
    "mandelbrot": ((320, 180), (426, 240)),  # costs 10 ms a frame at 640x360, and shows the same only finer
}
CARD_RATE: Final = 25
_FRAME_STEP: Final = 4

_CLEAN_SOURCES: Final = ("testsrc", "rgbtestsrc", "yuvtestsrc", "cellauto", "life", "gradients", "colorspectrum")
_BAR_SOURCES: Final = ("pal75bars", "pal100bars", "smptehdbars")
_UNSEEN_SOURCES: Final = ("zoneplate", "sierpinski", "perlin", "colorchart", "haldclutsrc")


def source_frames(name: str, options: str, count: int, step: int = 1) -> list[Picture]:
    """`count` frames of a lavfi source, every `step`-th, as RGB in the source's own size."""
    graph = av.filter.Graph()
    source = graph.add(name, options)
    rgb = graph.add("format", "pix_fmts=rgb24")
    sink = graph.add("buffersink")
    source.link_to(rgb)
    rgb.link_to(sink)
    graph.configure()
    frames = []
    for index in range((count - 1) * step + 1):
        frame = graph.pull()
        assert isinstance(frame, av.VideoFrame)
        if index % step == 0:
            frames.append(np.asarray(frame.to_ndarray(), np.uint8))
    return frames


@cache
def card_frames(name: str, size: tuple[int, int], seconds: int) -> tuple[Picture, ...]:
    """About six frames of every second of the card, squeezed to `SIDE` x `SIDE`."""
    count = 1 if name == "smptebars" else seconds * CARD_RATE // _FRAME_STEP
    frames = source_frames(name, f"size={size[0]}x{size[1]}:rate={CARD_RATE}", count, _FRAME_STEP)
    return tuple(squeeze(frame) for frame in frames)


def squeeze(picture: Picture, side: int = SIDE) -> Picture:
    """The whole picture as a square of that side."""
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def draw_card(rng: Generator, name: str, seconds: int, *, crop: bool) -> Picture:
    """The card at a random moment of its first `seconds`, whole or a random part of it, degraded."""
    sizes = CARD_SIZES[name]
    frames = card_frames(name, sizes[int(rng.integers(len(sizes)))], seconds)
    picture = frames[int(rng.integers(len(frames)))]
    if crop:
        picture = random_crop(rng, picture)
    if rng.random() < 0.15:
        picture = _with_caption(rng, picture)
    return degrade(rng, picture)


def random_crop(rng: Generator, picture: Picture, lowest: float = 0.55) -> Picture:
    """A random part that keeps at least `lowest` of each side, squeezed to the square again."""
    height, width = picture.shape[:2]
    across, down = (int(side * rng.uniform(lowest, 1.0)) for side in (width, height))
    left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    return squeeze(picture[top : top + down, left : left + across])


def degrade(rng: Generator, picture: Picture) -> Picture:
    """What a weak link does: scaled down, blurred, compressed, noisy, a little too bright or too dark."""
    if rng.random() < 0.4:
        side = int(rng.integers(56, SIDE))
        picture = squeeze(np.asarray(cv2.resize(squeeze(picture, side), (SIDE, SIDE)), np.uint8))
    if rng.random() < 0.4:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 1.8))), np.uint8)
    if rng.random() < 0.35:
        gain, lift = rng.uniform(0.85, 1.12, 3), float(rng.uniform(-14, 14))
        picture = np.clip(picture * (gain if rng.random() < 0.4 else gain[:1]) + lift, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        noise = rng.normal(0, float(rng.uniform(2, 14)), picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        _, packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 96))])
        picture = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return picture


def draw_clean(rng: Generator, *, unseen: bool = False) -> Picture:
    """A picture that is none of the cards; `unseen` draws from the lavfi sources that training never sees."""
    kinds = (_unseen_source,) if unseen else _CLEAN_KINDS
    kind = kinds[int(rng.integers(len(kinds)))]
    picture = kind(rng)
    if rng.random() < 0.25 and kind is not _other_bars:
        picture = random_crop(rng, picture)
    if rng.random() < 0.2:
        picture = _with_caption(rng, picture)
    return degrade(rng, picture)


def _colour(rng: Generator) -> tuple[int, int, int]:
    """Any colour, or one of the saturated and 75 % ones that cards are made of."""
    if rng.random() < 0.35:
        red, green, blue = (int(value) for value in rng.choice([0, 16, 104, 128, 180, 191, 235, 255], 3))
    else:
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def _blank(colour: tuple[int, int, int]) -> Picture:
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def _plain(rng: Generator) -> Picture:
    return _blank(_colour(rng))


def _gradient(rng: Generator) -> Picture:
    """Two to five colours along a line, or around a point."""
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    if rng.random() < 0.3:
        along = np.hypot(across - rng.random(), down - rng.random())
    else:
        angle = rng.uniform(0, 2 * np.pi)
        along = across * np.cos(angle) + down * np.sin(angle)
    along = (along - along.min()) / (np.ptp(along) + 1e-9)
    count = int(rng.integers(2, 6))
    stops = np.array([_colour(rng) for _ in range(count)])
    places = np.linspace(0, 1, count)
    return np.stack([np.interp(along, places, stops[:, c]) for c in range(3)], -1).astype(np.uint8)


def _channel_ramps(rng: Generator) -> Picture:
    """Each channel a ramp, wave or product of its own: the pictures that a line of numpy makes."""
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    channels = []
    for _ in range(3):
        a, b, c = rng.uniform(-2, 2, 3)
        kind = int(rng.integers(4))
        value = (a * across + b * down, np.sin(6 * (a * across + b * down) + c), a * across * down, across * 0 + c)[
            kind
        ]
        channels.append((value * 255) % 256 if rng.random() < 0.3 else np.clip(value * 127 + 128, 0, 255))
    return np.stack(channels, -1).astype(np.uint8)


def _bars(rng: Generator) -> Picture:
    """Upright or lying bars of any colours: near smptebars, but none."""
    count = int(rng.integers(2, 12))
    row = np.array([_colour(rng) for _ in range(count)], np.uint8)
    picture = np.asarray(cv2.resize(row[None], (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)
    if rng.random() < 0.4:
        picture = np.ascontiguousarray(picture.transpose(1, 0, 2))
    if rng.random() < 0.3:
        top = int(rng.integers(SIDE // 2, SIDE))
        picture = np.concatenate([picture[:top], _gradient(rng)[top:]])
    return picture


def _mosaic(rng: Generator) -> Picture:
    """Tiles of random colours, sharp or soft."""
    down, across = (int(value) for value in rng.integers(2, 33, 2))
    tiles = rng.integers(0, 256, (down, across, 1 if rng.random() < 0.2 else 3), np.uint8)
    way = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(3))]
    picture = np.asarray(cv2.resize(np.broadcast_to(tiles, (down, across, 3)).copy(), (SIDE, SIDE), interpolation=way))
    return np.asarray(picture, np.uint8)


def _shapes(rng: Generator) -> Picture:
    """Discs, boxes and lines on a ground: cartoons, logos, games."""
    picture = _gradient(rng) if rng.random() < 0.5 else _plain(rng)
    for _ in range(int(rng.integers(1, 40))):
        x, y, x2, y2 = (int(value) for value in rng.integers(0, SIDE, 4))
        colour = _colour(rng)
        kind = int(rng.integers(4))
        thick = -1 if rng.random() < 0.7 else int(rng.integers(1, 6))
        if kind == 0:
            cv2.circle(picture, (x, y), int(rng.integers(2, SIDE // 2)), colour, thick, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(picture, (x, y), (x2, y2), colour, thick)
        elif kind == 2:
            cv2.line(picture, (x, y), (x2, y2), colour, int(rng.integers(1, 8)), cv2.LINE_AA)
        else:
            axes = (int(rng.integers(2, SIDE // 2)), int(rng.integers(2, SIDE // 2)))
            cv2.ellipse(picture, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, thick, cv2.LINE_AA)
    return picture


def _cloud(rng: Generator) -> Picture:
    """Noise with a 1/f spectrum in related channels: what photographs share statistically."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE), indexing="ij"))
    frequency[0, 0] = 1
    shade = frequency ** -float(rng.uniform(0.8, 2.2))
    layers = []
    for _ in range(3):
        layer = np.fft.irfft2(shade * np.exp(2j * np.pi * rng.random(shade.shape)), (SIDE, SIDE))
        layers.append((layer - layer.mean()) / (layer.std() + 1e-9))
    grey, tint = layers[0], np.stack(layers, -1)
    mixed = grey[..., None] * rng.uniform(10, 70) + tint * rng.uniform(0, 45) + np.array(_colour(rng))
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def _leaves(rng: Generator) -> Picture:
    """Overlapping discs of textured colour in all sizes (the "dead leaves" model of natural scenes)."""
    picture, texture = _cloud(rng), _cloud(rng)
    for _ in range(int(rng.integers(20, 120))):
        radius = int(min(3 / rng.random() ** 0.7, SIDE / 3))
        x, y = (int(value) for value in rng.integers(0, SIDE, 2))
        cv2.circle(picture, (x, y), radius, _colour(rng), -1, cv2.LINE_AA)
    weight = float(rng.uniform(0.3, 0.9))
    return np.asarray(cv2.addWeighted(picture, weight, texture, 1 - weight, 0), np.uint8)


def _scene(rng: Generator) -> Picture:
    """Sky, ground, a head and shoulders: the coarse layout of a camera picture."""
    picture = _cloud(rng)
    horizon = int(rng.integers(SIDE // 4, 3 * SIDE // 4))
    picture[horizon:] = (_cloud(rng)[horizon:] * rng.uniform(0.3, 1.0)).astype(np.uint8)
    middle, tone = int(rng.integers(SIDE // 4, 3 * SIDE // 4)), float(rng.uniform(0.3, 1.0))
    skin = (int(235 * tone), int(185 * tone), int(150 * tone))
    size = int(rng.integers(10, 40))
    cv2.ellipse(picture, (middle, SIDE), (size * 2, size * 2), 0, 0, 360, _colour(rng), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (middle, SIDE - 2 * size - 10), (size, int(size * 1.3)), 0, 0, 360, skin, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 2.5))), np.uint8)


def _text(rng: Generator, picture: Picture, lines: int) -> None:
    alphabet = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789     .,:"))
    for _ in range(lines):
        words = "".join(rng.choice(alphabet, int(rng.integers(3, 26))))
        place = (int(rng.integers(-20, SIDE - 20)), int(rng.integers(8, SIDE)))
        size = float(rng.uniform(0.25, 1.4))
        cv2.putText(
            picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, size, _colour(rng), int(rng.integers(1, 3)), cv2.LINE_AA
        )


def _with_caption(rng: Generator, picture: Picture) -> Picture:
    picture = picture.copy()
    if rng.random() < 0.5:
        top = int(rng.integers(0, SIDE - 20))
        cv2.rectangle(
            picture, (0, top), (int(rng.integers(40, SIDE)), top + int(rng.integers(8, 20))), _colour(rng), -1
        )
    _text(rng, picture, int(rng.integers(1, 3)))
    return picture


def _slide(rng: Generator) -> Picture:
    picture = _plain(rng) if rng.random() < 0.6 else _gradient(rng)
    _text(rng, picture, int(rng.integers(1, 12)))
    return picture


def _screen(rng: Generator) -> Picture:
    """Windows, panels and rows of text, as a shared desktop shows them."""
    light = int(rng.integers(0, 256))
    picture = _blank((light, light, min(255, light + int(rng.integers(0, 20)))))
    for _ in range(int(rng.integers(2, 9))):
        x, y = (int(value) for value in rng.integers(0, SIDE - 20, 2))
        across, down = (int(value) for value in rng.integers(15, SIDE, 2))
        cv2.rectangle(picture, (x, y), (x + across, y + down), _colour(rng), -1)
        for row in range(y + 6, min(y + down, SIDE), int(rng.integers(5, 12))):
            cv2.line(picture, (x + 3, row), (x + int(rng.integers(4, across + 4)), row), _colour(rng), 1)
    _text(rng, picture, int(rng.integers(0, 5)))
    return picture


def _waves(rng: Generator) -> Picture:
    """Stripes, rings and checks of any pitch."""
    down, across = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    if rng.random() < 0.5:
        across, down = np.hypot(across - rng.uniform(0, SIDE), down - rng.uniform(0, SIDE)), down * rng.integers(0, 2)
    wave = np.sin(across * rng.uniform(0.02, 1.2)) * np.cos(down * rng.uniform(0.0, 1.2))
    wave = np.sign(wave) if rng.random() < 0.5 else wave
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    return np.asarray(np.clip((first + second) / 2 + wave[..., None] * (first - second) / 2, 0, 255), np.uint8)


def _noise(rng: Generator) -> Picture:
    picture = rng.normal(rng.uniform(40, 215), rng.uniform(5, 90), (SIDE, SIDE, 1 if rng.random() < 0.3 else 3))
    return np.clip(np.broadcast_to(picture, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def _grid(rng: Generator) -> Picture:
    """Several pictures beside each other: a call with guests, a contact sheet."""
    across, down = (int(value) for value in rng.integers(1, 4, 2))
    kinds = (_cloud, _scene, _shapes, _gradient, _slide, _screen)
    rows = []
    for _ in range(down):
        row = [kinds[int(rng.integers(len(kinds)))](rng) for _ in range(across)]
        rows.append(np.concatenate(row, 1))
    return squeeze(np.concatenate(rows, 0))


@cache
def _source_pool(name: str) -> tuple[Picture, ...]:
    sized = name not in {"colorchart", "haldclutsrc"}
    moving = name not in {"rgbtestsrc", "yuvtestsrc", "colorspectrum", "colorchart", "haldclutsrc", *_BAR_SOURCES}
    options = "size=320x180:rate=25" if sized else ""
    # Without a seed these draw another picture in every process.
    options += {
        "life": ":seed=7",
        "cellauto": ":seed=7",
        "gradients": ":seed=7:n=3:c0=orange:c1=navy:c2=teal",
        "sierpinski": ":seed=7",
        "perlin": ":random_mode=seed:random_seed=7:octaves=4:persistence=0.7",
    }.get(name, "")
    count = (10 if name in _UNSEEN_SOURCES else 60) if moving else 1
    return tuple(squeeze(frame) for frame in source_frames(name, options, count, 20 if moving else 1))


def _from_source(rng: Generator, names: tuple[str, ...] = _CLEAN_SOURCES) -> Picture:
    pool = _source_pool(names[int(rng.integers(len(names)))])
    return pool[int(rng.integers(len(pool)))]


def _unseen_source(rng: Generator) -> Picture:
    return _from_source(rng, _UNSEEN_SOURCES)


def _other_bars(rng: Generator) -> Picture:
    """Colour bars that are not smptebars. Only ever whole: a part of them may be a part of smptebars too."""
    return _from_source(rng, _BAR_SOURCES)


_CLEAN_KINDS: Final[tuple[Callable[[Generator], Picture], ...]] = (
    _plain, _gradient, _gradient, _channel_ramps, _channel_ramps, _bars, _bars, _mosaic, _mosaic, _shapes, _shapes,
    _cloud, _cloud, _leaves, _leaves, _scene, _slide, _screen, _screen, _waves, _waves, _noise, _grid,
    _from_source, _from_source, _other_bars,
)  # fmt: skip
