"""Every PDQ view by name: how it is made of a frame, and how often it is run."""

from collections.abc import Callable
from enum import IntEnum, unique
from typing import Final

import cv2
import numpy as np

from models.hashing.algorithm import PLANE_SIDE
from models.hashing.fills import BARS, CORNERS, SIDES, Fill, pull_push
from models.hashing.linear_views import EXTENSIONS, ZOOM_OUTS, LinearView, LinearViews
from models.hashing.rotations import ROTATIONS, Rotation, rotated
from models.hashing.sample import Made, Sample, made_of
from models.hashing.spectrum import Spectra, flipped, inverted, mirrored, spectra_of, turned
from models.shapes.borders import may_have_borders, uniform_borders
from models.shapes.quadrilaterals import AUTO_THRESHOLD, warp

MIRROR_SUFFIX: Final = "_mirror"


@unique
class Tier(IntEnum):
    """How often a family of views is run on a live stream; a single picture runs them all."""

    EVERY_SAMPLE = 0
    EDGES = 1
    IN_TURN = 2
    PER_SCENE = 3


ALWAYS: Final = ("identity", "mirror")

EDGES: Final = ("zoom_3", "zoom_6", "zoom_9", "trim", "rect_1", "rect_2", "overlay")
"""What undoes the commonest edits: cropping, bars, frames, pictures in pictures, overlays."""

TURNS: Final = (
    (
        *("quad_1", "quad_2", "quad_3", "quad_1_mirror"),
        *("overlay_mirror", "zoom_3_mirror", "zoom_6_mirror", "zoom_9_mirror"),
    ),
    ("rect_3", "rect_4", "rect_1_mirror", "rect_2_mirror", "trim_mirror", "extend_top", "extend_bottom"),
    (
        *("fill_bottom", "fill_top", "fill_top_left", "fill_top_right"),
        *("rotate_left", "rotate_right", "extend_left", "extend_right"),
    ),
    (
        *("fill_left", "fill_right", "fill_bottom_left", "fill_bottom_right"),
        *("rotate_left_zoom", "rotate_right_zoom"),
    ),
)
"""A quarter of these per sample. The search for quadrilaterals is the dearest of all, so it has a quarter to itself."""

_IN_TURN: Final = tuple(name for quarter in TURNS for name in quarter)

SCENE: Final = (
    *("half_turn", "half_turn_mirror", "turn_left", "turn_left_mirror", "turn_right", "turn_right_mirror"),
    *("inverted", "inverted_mirror", "trim_turn_left", "trim_turn_right"),
    *(f"rect_1_{fill.name}" for fill in (*CORNERS, BARS[0])),
    *(
        f"{name}{MIRROR_SUFFIX}"
        for name in _IN_TURN
        if f"{name}{MIRROR_SUFFIX}" not in _IN_TURN and not name.endswith(MIRROR_SUFFIX)
    ),
)
"""The other orientations, what is laid over a picture in the picture, and the mirror images of the views in turn."""

_QUAD_THRESHOLDS: Final = (AUTO_THRESHOLD, 14, 28)

Maker = Callable[[Sample], Made | None]


def make(sample: Sample, name: str) -> Made | None:
    """Make a view of a frame, once; None where this frame has no such view.

    Raises:
        KeyError: No view is called so.
    """
    if name not in sample.made:
        if name.endswith(MIRROR_SUFFIX):
            original = make(sample, name[: -len(MIRROR_SUFFIX)])
            sample.made[name] = original and Made(mirrored(original.spectrum), original.quality)
        else:
            sample.made[name] = _MAKERS[name](sample)
    return sample.made[name]


def _identity(sample: Sample) -> Made:
    return Made(sample.spectrum, sample.quality, sample.plane)


def _mirror(sample: Sample) -> Made:
    return Made(mirrored(sample.spectrum), sample.quality)


def _oriented(base: str, turn: Callable[[Spectra], Spectra]) -> Maker:
    def maker(sample: Sample) -> Made | None:
        found = make(sample, base)
        return found and Made(turn(found.spectrum), found.quality)

    return maker


def _half_turn(spectra: Spectra) -> Spectra:
    return flipped(mirrored(spectra))


def _turned_right(spectra: Spectra) -> Spectra:
    return _half_turn(turned(spectra))


def _linear(looks: tuple[LinearView, ...]) -> dict[str, Maker]:
    views = LinearViews(looks)

    def maker(row: int) -> Maker:
        return lambda sample: Made(sample.linear(views)[row], sample.quality)

    return {look.name: maker(row) for row, look in enumerate(looks)}


def _rotation(rotation: Rotation) -> Maker:
    return lambda sample: made_of(rotated(sample.half, rotation, sample.width, sample.height))


def _fill(base: str, fill: Fill) -> Maker:
    def maker(sample: Sample) -> Made | None:
        found = make(sample, base)
        if found is None or found.plane is None:
            return None
        levels = sample.levels if found.plane is sample.plane else found.plane.astype(np.float32)
        return Made(fill.spectrum(levels, found.spectrum), found.quality)

    return maker


def _trim(sample: Sample) -> Made | None:
    if not may_have_borders(sample.gray):
        return None
    top, bottom, left, right = uniform_borders(sample.gray)
    if top + bottom + left + right == 0:
        return None
    height, width = sample.gray.shape
    return _window(sample, top, height - bottom, left, width - right)


def _rectangle(place: int) -> Maker:
    def maker(sample: Sample) -> Made | None:
        if place >= len(sample.boxes):
            return None
        box = sample.boxes[place]
        return _window(sample, box.top, box.bottom, box.left, box.right)

    return maker


def _window(sample: Sample, top: int, bottom: int, left: int, right: int) -> Made:
    # AREA averages every pixel; bilinear and nearest sampling alias by more bits than the match limit allows.
    inner = sample.gray[top:bottom, left:right]
    plane = cv2.resize(inner, (PLANE_SIDE, PLANE_SIDE), interpolation=cv2.INTER_AREA)
    return made_of(np.asarray(plane, dtype=np.uint8))


def _quadrilateral(threshold: int) -> Maker:
    def maker(sample: Sample) -> Made | None:
        quad = sample.quad(threshold)
        return made_of(warp(sample.gray, quad)) if quad else None

    return maker


def _overlay(sample: Sample) -> Made | None:
    if sample.overlay is None:
        return None
    return Made(spectra_of(pull_push(sample.levels, sample.overlay)), sample.quality)


_MAKERS: Final[dict[str, Maker]] = {
    "identity": _identity,
    "mirror": _mirror,
    **_linear(ZOOM_OUTS),
    **_linear(EXTENSIONS[:2]),  # by pairs, as they are run
    **_linear(EXTENSIONS[2:]),
    "trim": _trim,
    **{f"rect_{place + 1}": _rectangle(place) for place in range(4)},
    **{f"quad_{number}": _quadrilateral(threshold) for number, threshold in enumerate(_QUAD_THRESHOLDS, start=1)},
    "overlay": _overlay,
    **{rotation.name: _rotation(rotation) for rotation in ROTATIONS},
    **{fill.name: _fill("identity", fill) for fill in (*BARS, *SIDES, *CORNERS)},
    **{f"rect_1_{fill.name}": _fill("rect_1", fill) for fill in (*CORNERS, BARS[0])},
    "half_turn": _oriented("identity", _half_turn),
    "turn_left": _oriented("identity", turned),
    "turn_right": _oriented("identity", _turned_right),
    "inverted": _oriented("identity", inverted),
    "trim_turn_left": _oriented("trim", turned),
    "trim_turn_right": _oriented("trim", _turned_right),
}
