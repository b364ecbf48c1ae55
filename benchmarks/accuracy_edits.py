"""What people do to known pictures before they show them: each edit once, with random places, sizes, colours, angles.

All work on (height, width, 3) uint8 BGR at true proportions and give the frame that a stream would carry; whoever asks
re-encodes it (`encoded`). `scene` is another picture, for what lies around or over the known one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Rng = np.random.Generator
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit: its name, what is promised of its recall (0: nothing, it is told all the same), and how it is made.

    `has_scene` where it shows some of the scene, which need not be one otherwise.
    """

    name: str
    goal: float
    make: Callable[[Frame, Rng, Frame], Frame]
    has_scene: bool = False

    @property
    def is_promised(self) -> bool:
        """Whether a floor stands behind it."""
        return self.goal > 0


def encoded(frame: Frame, rng: Rng) -> av.VideoFrame:
    """As a JPEG of quality 45-85 leaves it, in the planes that decoders of streams give too."""
    packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 86))])[1]
    decoder = av.CodecContext.create("mjpeg", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    return decoder.decode(av.Packet(packed.tobytes()))[0]


def as_stream(frame: Frame, height: int = 360, bits_per_second: int = 300_000, pictures: int = 3) -> Frame:
    """As H.264 at that height and rate leaves it, after a few pictures."""
    width = max(2, round(frame.shape[1] * height / frame.shape[0] / 2) * 2)
    small = _area(frame, width, height)
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.bit_rate = Fraction(1, 25), Fraction(25), bits_per_second
    encoder.thread_count = 1
    encoder.options = {"preset": "veryfast", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    packets: list[av.Packet[Any]] = []
    found: list[av.VideoFrame] = []
    for number in range(pictures):
        picture = av.VideoFrame.from_ndarray(small, format="bgr24")
        picture.pts = number
        packets += encoder.encode(picture)
    for packet in [*packets, *encoder.encode(None), None]:
        found += decoder.decode(packet)
    return np.asarray(found[-1].to_ndarray(format="bgr24"), dtype=np.uint8)


def _plain(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del rng, scene
    return frame


def _reencoded(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del rng, scene
    return as_stream(frame)


def _mirrored(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del rng, scene
    return np.ascontiguousarray(frame[:, ::-1])


def _bordered(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    bar = rng.uniform(0.06, 0.12)
    return _framed(frame, bar, bar, bar, bar, _plain_colour(rng))


def _letterboxed(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    bar = rng.uniform(0.08, 0.2)
    return _framed(frame, bar, bar, 0, 0, _plain_colour(rng))


def _pillarboxed(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    bar = rng.uniform(0.1, 0.3)
    return _framed(frame, 0, 0, bar, bar, _plain_colour(rng))


def _cropped(share: float) -> Callable[[Frame, Rng, Frame], Frame]:
    def crop(frame: Frame, rng: Rng, scene: Frame) -> Frame:
        del scene
        top, bottom, left, right = share * rng.uniform(0.85, 1.15, 4)
        return _window(frame, top, bottom, left, right)

    return crop


def _one_side_cut(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    cuts = [0.0] * 4
    cuts[int(rng.integers(0, 4))] = rng.uniform(0.05, 0.1)
    return _window(frame, *cuts)


def _crop_anywhere(least: float, most: float) -> Callable[[Frame, Rng, Frame], Frame]:
    def crop(frame: Frame, rng: Rng, scene: Frame) -> Frame:
        del scene
        kept = rng.uniform(least, most)
        left, top = rng.uniform(0, 1 - kept, 2)
        return _window(frame, top, 1 - kept - top, left, 1 - kept - left)

    return crop


def _upright_cut(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    height, width = frame.shape[:2]
    kept = min(1.0, height * 9 / 16 / width)
    left = rng.uniform(0, 1 - kept)
    return _window(frame, 0, 0, left, 1 - kept - left)


def _text_and_logo(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    shown = frame.copy()
    height, width = shown.shape[:2]
    lines = ("BREAKING: watch this now", "follow for more @streamer", "LIVE 24/7 - part 3 of 5", "subscribe & share")
    y = rng.uniform(0.1, 0.75) * height
    for line in range(int(rng.integers(1, 3))):
        size = rng.uniform(0.045, 0.075) * height / 22
        text = lines[int(rng.integers(0, len(lines)))]
        where = (round(rng.uniform(0.02, 0.25) * width), round(y + line * size * 34))
        thick = max(1, round(size * 2))
        cv2.putText(shown, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), thick * 3, cv2.LINE_AA)
        cv2.putText(shown, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, _bright(rng), thick, cv2.LINE_AA)
    radius = round(rng.uniform(0.05, 0.08) * height)
    x = radius * 1.4 if rng.uniform() < 0.5 else width - radius * 1.4
    centre = (round(x), round(radius * 1.4))
    cv2.circle(shown, centre, radius, _any_colour(rng), -1, cv2.LINE_AA)
    cv2.circle(shown, centre, radius // 2, _bright(rng), -1, cv2.LINE_AA)
    return shown


def _bottom_bar(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    shown = frame.copy()
    height, width = shown.shape[:2]
    top = round(height * (1 - rng.uniform(0.11, 0.13)))
    shown[top:] = _any_colour(rng)
    size = (height - top) / 55
    where = (round(rng.uniform(0.02, 0.1) * width), round(top + (height - top) * 0.65))
    text = "NEWS  markets up 2 percent  weather: sunny spells  traffic on the ring road"
    cv2.putText(shown, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, _bright(rng), max(1, round(size * 2)), cv2.LINE_AA)
    return shown


def _chat_box(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    shown = frame.copy()
    height, width = shown.shape[:2]
    w, h = round(width * rng.uniform(0.24, 0.26)), round(height * rng.uniform(0.39, 0.42))
    left = 0 if rng.uniform() < 0.5 else width - w
    top = 0 if rng.uniform() < 0.5 else height - h
    box = shown[top : top + h, left : left + w]
    cover = rng.uniform(0.75, 1.0)
    box[:] = (box * (1 - cover) + np.array(_any_colour(rng)) * cover * 0.6).astype(np.uint8)
    size = h / 420
    for line in range(8):
        y = round((line + 0.8) * h / 8.3)
        name = (
            f"user{int(rng.integers(10, 999))}: "
            + ["hello", "lol", "nice", "wow", "gg", "what"][int(rng.integers(0, 6))]
        )
        cv2.putText(box, name, (6, y), cv2.FONT_HERSHEY_SIMPLEX, size, _bright(rng), max(1, round(size * 2)))
    return shown


def _in_picture(least: float, most: float) -> Callable[[Frame, Rng, Frame], Frame]:
    def put(frame: Frame, rng: Rng, scene: Frame) -> Frame:
        share = rng.uniform(least, most)
        canvas = _surroundings(frame.shape[:2], rng, scene)
        left, top = rng.uniform(0.02, max(0.021, 1 - share - 0.02), 2)
        return _put(canvas, frame, left, top, share)

    return put


def _with_face_camera(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    canvas = _in_picture(0.63, 0.67)(frame, rng, scene)
    face = _area(scene, frame.shape[1] // 5, frame.shape[0] // 5)
    x, y = (round(place) for place in rng.uniform(0.3, 0.6, 2) * [frame.shape[1], frame.shape[0]])
    canvas[y : y + face.shape[0], x : x + face.shape[1]] = face
    return canvas


def _quarter_turn(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    return np.ascontiguousarray(np.rot90(frame, 1 if rng.uniform() < 0.5 else 3))


def _quarter_turn_between_bars(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    turned = _quarter_turn(frame, rng, scene)
    bar = max(0.0, (turned.shape[0] * 16 / 9 / turned.shape[1] - 1) / 2)
    return _framed(turned, 0, 0, bar, bar, (0, 0, 0))


def _rotated(degrees: float, zoom: float = 1.0) -> Callable[[Frame, Rng, Frame], Frame]:
    def rotate(frame: Frame, rng: Rng, scene: Frame) -> Frame:
        del scene
        height, width = frame.shape[:2]
        angle = degrees * rng.uniform(0.9, 1.1) * rng.choice((-1, 1))
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(angle), zoom)
        return np.asarray(cv2.warpAffine(frame, turn, (width, height), flags=cv2.INTER_LINEAR), dtype=np.uint8)

    return rotate


def _filmed(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    """A camera in a dark room: perspective, light from the screen on its surroundings, blur, glare, noise."""
    height, width = frame.shape[:2]
    canvas = (_soft(scene, width, height, 18) * rng.uniform(0.05, 0.2)).astype(np.uint8)
    shown = _tilted(frame, canvas, rng, 0.05)
    return _through_camera(shown, rng, blur=0.0022, noise=3.0, glare=25)


def _filmed_bright_room(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    """The same in a room that is lit and in focus, with moire over the screen."""
    height, width = frame.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = 8 * np.sin(x * rng.uniform(0.1, 0.3) + y * rng.uniform(0.05, 0.2))
    rippled = np.clip(frame + waves[:, :, None], 0, 255).astype(np.uint8)
    shown = _tilted(rippled, _area(scene, width, height), rng, 0.05)
    return _through_camera(shown, rng, blur=0.0015, noise=4.0, glare=60)


def _colour_filter(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del scene
    gains = rng.uniform(0.7, 1.2, 3)
    gamma = rng.uniform(0.7, 1.6)
    return np.clip(255 * (np.clip(frame * gains, 0, 255) / 255) ** gamma, 0, 255).astype(np.uint8)


def _inverted(frame: Frame, rng: Rng, scene: Frame) -> Frame:
    del rng, scene
    return np.asarray(255 - frame, dtype=np.uint8)


def _both(
    first: Callable[[Frame, Rng, Frame], Frame], second: Callable[[Frame, Rng, Frame], Frame]
) -> Callable[[Frame, Rng, Frame], Frame]:
    def edit(frame: Frame, rng: Rng, scene: Frame) -> Frame:
        return second(first(frame, rng, scene), rng, scene)

    return edit


PROMISED: Final = (
    Edit("re-encode 360p 300 kb/s", 0.99, _reencoded),
    Edit("mirror", 0.97, _mirrored),
    Edit("border", 0.97, _bordered),
    Edit("letterbox", 0.97, _letterboxed),
    Edit("pillarbox", 0.97, _pillarboxed),
    Edit("crop 2 %", 0.95, _cropped(0.02)),
    Edit("crop 5 %", 0.90, _cropped(0.05)),
    Edit("crop 10 %", 0.80, _cropped(0.10)),
    Edit("one side cut", 0.90, _one_side_cut),
    Edit("text + logo", 0.90, _text_and_logo),
    Edit("bottom bar 12 %", 0.85, _bottom_bar),
    Edit("chat box 25x40 %", 0.85, _chat_box),
    Edit("picture in picture 70 %", 0.95, _in_picture(0.66, 0.74), has_scene=True),
    Edit("picture in picture 50 %", 0.90, _in_picture(0.47, 0.53), has_scene=True),
    Edit("quarter turn", 0.97, _quarter_turn),
    Edit("rotate 2 degrees", 0.95, _rotated(2)),
    Edit("filmed screen (simulated)", 0.85, _filmed, has_scene=True),
)

ASIDE: Final = (
    Edit("no edit", 0, _plain),
    Edit("crop to 75-85 %, anywhere", 0, _crop_anywhere(0.75, 0.85)),
    Edit("crop to 60-70 %, anywhere", 0, _crop_anywhere(0.6, 0.7)),
    Edit("9:16 cut", 0, _upright_cut),
    Edit("mirror + crop 5 %", 0, _both(_cropped(0.05), _mirrored)),
    Edit("crop 3 % + chat box", 0, _both(_cropped(0.03), _chat_box)),
    Edit("picture in picture 35 %", 0, _in_picture(0.33, 0.37), has_scene=True),
    Edit("picture in picture + face", 0, _with_face_camera, has_scene=True),
    Edit("rotate 4 degrees", 0, _rotated(4)),
    Edit("rotate 2 degrees + zoom", 0, _rotated(2, 1.08)),
    Edit("quarter turn between bars", 0, _quarter_turn_between_bars),
    Edit("filmed in a lit room", 0, _filmed_bright_room, has_scene=True),
    Edit("colour filter", 0, _colour_filter),
    Edit("inverted", 0, _inverted),
)
"""What nothing is promised of; what fails stands here."""


def _area(frame: Frame, width: int, height: int) -> Frame:
    shrinks = width <= frame.shape[1] and height <= frame.shape[0]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=kind), dtype=np.uint8)


def _window(frame: Frame, top: float, bottom: float, left: float, right: float) -> Frame:
    """Cut shares of the sides off and stretch the rest to the old size."""
    height, width = frame.shape[:2]
    rows = slice(round(top * height), height - round(bottom * height))
    return _area(frame[rows, round(left * width) : width - round(right * width)], width, height)


def _framed(frame: Frame, top: float, bottom: float, left: float, right: float, colour: Colour) -> Frame:
    """Add bars, in shares of the frame's own sides."""
    height, width = frame.shape[:2]
    sides = (round(top * height), round(bottom * height), round(left * width), round(right * width))
    return np.asarray(cv2.copyMakeBorder(frame, *sides, cv2.BORDER_CONSTANT, value=colour), dtype=np.uint8)


def _put(canvas: Frame, frame: Frame, left: float, top: float, share: float) -> Frame:
    height, width = canvas.shape[:2]
    small = _area(frame, round(width * share), round(height * share))
    y = min(round(top * height), height - small.shape[0])
    x = min(round(left * width), width - small.shape[1])
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
    return canvas


def _surroundings(size: tuple[int, ...], rng: Rng, scene: Frame) -> Frame:
    """What a streamer has around a window: one colour, a soft picture, or a sharp one."""
    height, width = size
    kind = int(rng.integers(0, 3))
    if kind == 0:
        return np.full((height, width, 3), _any_colour(rng), dtype=np.uint8)
    return _soft(scene, width, height, 40) if kind == 1 else _area(scene, width, height)


def _soft(scene: Frame, width: int, height: int, parts: float) -> Frame:
    """A picture out of focus: blurred by one `parts`-th of its height, at a quarter of the size, which nobody sees."""
    small = cv2.GaussianBlur(_area(scene, width // 4, height // 4), (0, 0), height / 4 / parts)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _tilted(frame: Frame, canvas: Frame, rng: Rng, lean: float) -> Frame:
    """The frame as a screen in a room, its corners moved by up to `lean` of the width."""
    height, width = canvas.shape[:2]
    margin = rng.uniform(0.06, 0.14)
    corners = np.array([[margin, margin], [1 - margin, margin], [1 - margin, 1 - margin], [margin, 1 - margin]])
    corners += rng.uniform(-lean, lean, (4, 2)) + rng.uniform(-0.03, 0.03, 2)
    target = (corners * [width, height]).astype(np.float32)
    lines, columns = frame.shape[:2]
    source = np.array([[0, 0], [columns, 0], [columns, lines], [0, lines]], dtype=np.float32)
    turn = cv2.getPerspectiveTransform(source, target)
    cv2.warpPerspective(
        frame, turn, (width, height), dst=canvas, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT
    )
    return canvas


def _through_camera(frame: Frame, rng: Rng, *, blur: float, noise: float, glare: float) -> Frame:
    height, width = frame.shape[:2]
    soft = cv2.GaussianBlur(frame, (0, 0), max(0.5, blur * height)).astype(np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] - np.float32(rng.uniform(-0.8, 0.8))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.uniform(-0.8, 0.8))
    light = np.float32(rng.uniform(0, glare)) * np.exp(-(x * x + y * y) / 0.3)
    grain = np.float32(noise) * rng.standard_normal((height, width, 1), dtype=np.float32)
    seen = soft * np.float32(rng.uniform(0.7, 1.05)) + light[:, :, None] + grain
    return np.asarray(np.clip(seen, 0, 255), dtype=np.uint8)


def _plain_colour(rng: Rng) -> Colour:
    """Mostly black or white, as bars are."""
    kind = rng.uniform()
    if kind < 0.5:
        return (0, 0, 0)
    return (255, 255, 255) if kind < 0.7 else _any_colour(rng)


def _any_colour(rng: Rng) -> Colour:
    blue, green, red = (int(level) for level in rng.integers(0, 256, 3))
    return blue, green, red


def _bright(rng: Rng) -> Colour:
    blue, green, red = (int(level) for level in rng.integers(170, 256, 3))
    return blue, green, red
