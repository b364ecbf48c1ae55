"""Parts of a frame that deserve a look of their own: what stands between borders, the cells of a grid, its quarters.

A wide border makes everything in it small, and a grid of pictures is none of them: a model that sees the whole may miss
what a viewer sees. All work is bounded, whatever the picture holds.
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.cascade import Asking
from models.shapes.borders import may_have_borders, uniform_borders

MOST_PARTS: Final = 4
"""Parts shown per sample: with the whole frame, five times the price of a model at most."""

_SIDE: Final = 256
_WIDE_BORDER: Final = 0.85
"""Borders that leave more of the frame's area than this are not worth a second look."""

_LEAST_SIDE: Final = 48
"""In pixels of 256; a model sees nothing in less."""

_MOST_CELLS: Final = 4
"""Along each side of a grid."""

_STEP: Final = 10
"""Grey levels from which on two neighbouring pixels lie on two sides of a seam."""

_SEAM: Final = 0.5
"""Share of a line's pixels that must step at a seam; cells that look alike in places have no seam there."""

_STANDS_OUT: Final = 1.8
"""A seam steps so many times as often as the lines beside it; texture steps everywhere alike."""

_NEAR: Final = 4
"""Pixels that a seam may lie from where equal cells have it: gutters, uneven cells."""

_BESIDE: Final = 8
_QUARTERS: Final = (("top_left", 0, 0), ("top_right", 0, 1), ("bottom_left", 1, 0), ("bottom_right", 1, 1))
_QUARTER_SHARE: Final = 0.6
"""Of a side: quarters overlap, so that what stands where they meet is in one of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of the frame's 256x256 picture, in its pixels."""

    name: str
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a frame to look at beside the whole; `left_out` more had no room."""

    chosen: tuple[Part, ...] = ()
    left_out: int = 0


def parts_of(picture: NDArray[np.uint8], asking: Asking) -> Parts:
    """The parts of a (256, 256, 3) uint8 RGB picture that deserve a look, in turns where there are too many.

    The picture within wide borders, the cells of a grid of up to 4x4, and where the stream is suspicious and shows no
    grid its overlapping quarters.
    """
    found: list[Part] = []
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    inner = _within_borders(picture, gray)
    if inner is not None:
        found.append(inner)
    place = inner or Part("whole", 0, 0, _SIDE, _SIDE)
    cells = _cells(gray, place)
    if not cells and asking.is_suspicious:
        cells = _quarters(place)
    if not asking.has_room:
        return Parts((), len(found) + len(cells))
    room = MOST_PARTS - len(found)
    first = asking.turn * room % len(cells) if cells else 0
    chosen = [*found, *[*cells[first:], *cells[:first]][:room]]
    return Parts(tuple(chosen), len(found) + len(cells) - len(chosen))


def cut_out(picture: NDArray[np.uint8], part: Part) -> NDArray[np.uint8]:
    """The part as a picture of its own, (256, 256, 3) uint8; of the frame's square picture or of its shaped one."""
    cropped = region(picture, part)
    is_larger = min(cropped.shape[:2]) > _SIDE
    interpolation = cv2.INTER_AREA if is_larger else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(cropped, (_SIDE, _SIDE), interpolation=interpolation), dtype=np.uint8)


def region(picture: NDArray[np.uint8], part: Part) -> NDArray[np.uint8]:
    """The part's pixels, as many as a picture of any size has of them."""
    rows, columns = picture.shape[:2]
    top, left = part.top * rows // _SIDE, part.left * columns // _SIDE
    bottom, right = -(-(part.top + part.height) * rows // _SIDE), -(-(part.left + part.width) * columns // _SIDE)
    return picture[top:bottom, left:right]


def jittered(picture: NDArray[np.uint8], share: float, draw: int) -> NDArray[np.uint8]:
    """The picture without up to `share` (0-0.2) of each side, cut off as the 32 random bits of `draw` say.

    What is left of a 256x256 picture is resized to that; of a shaped one it stays as large as it is.

    A perturbation that is made for one grid of pixels meets another one each time (Xie et al., "Mitigating Adversarial
    Effects Through Randomization", ICLR 2018).
    """
    most = int(_SIDE * share)
    if most <= 0:
        return picture
    left, top, right, bottom = ((draw >> 8 * byte & 0xFF) * (most + 1) >> 8 for byte in range(4))
    part = Part("jittered", left, top, _SIDE - left - right, _SIDE - top - bottom)
    return cut_out(picture, part) if picture.shape[:2] == (_SIDE, _SIDE) else region(picture, part)


def mixed(draw: int, number: int) -> int:
    """32 bits from a draw and a number, each number's unlike any other's (the finalizer of MurmurHash3)."""
    value = (draw ^ (number + 1) * 0x9E3779B9) & 0xFFFFFFFF
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16


def _within_borders(picture: NDArray[np.uint8], gray: NDArray[np.uint8]) -> Part | None:
    if not may_have_borders(picture):
        return None
    top, bottom, left, right = uniform_borders(gray)
    width, height = _SIDE - left - right, _SIDE - top - bottom
    if width * height > _WIDE_BORDER * _SIDE * _SIDE or min(width, height) < _LEAST_SIDE:
        return None
    return Part("within_borders", left, top, width, height)


def _cells(gray: NDArray[np.uint8], place: Part) -> list[Part]:
    inner = gray[place.top : place.top + place.height, place.left : place.left + place.width]
    across, down = _counted(_steps(inner, 1), place.width), _counted(_steps(inner, 0), place.height)
    if across * down < 2:
        return []
    found = []
    for row in range(down):
        for column in range(across):
            left, right = place.width * column // across, place.width * (column + 1) // across
            top, bottom = place.height * row // down, place.height * (row + 1) // down
            name = f"cell_{row + 1}_{column + 1}_of_{down}x{across}"
            found.append(Part(name, place.left + left, place.top + top, right - left, bottom - top))
    return found


def _steps(gray: NDArray[np.uint8], axis: int) -> NDArray[Any]:
    """For each line across `axis` the share of its pixels that step to the next one."""
    ahead, behind = (gray[:, 1:], gray[:, :-1]) if axis else (gray[1:], gray[:-1])
    return np.asarray((cv2.absdiff(ahead, behind) >= _STEP).mean(axis=1 - axis))


def _counted(steps: NDArray[Any], side: int) -> int:
    """How many equal cells the seams make of a side; 1 where there are none."""
    for cells in range(_MOST_CELLS, 1, -1):
        if side // cells >= _LEAST_SIDE and all(_is_seam(steps, side * number // cells) for number in range(1, cells)):
            return cells
    return 1


def _is_seam(steps: NDArray[Any], at: int) -> bool:
    first = max(at - 1 - _NEAR, 0)
    near = steps[first : at + _NEAR]
    best = float(near.max())
    beside = np.concatenate((steps[max(first - _BESIDE, 0) : first], steps[at + _NEAR : at + _NEAR + _BESIDE]))
    return best >= _SEAM and best >= _STANDS_OUT * float(beside.mean())


def _quarters(place: Part) -> list[Part]:
    width, height = int(place.width * _QUARTER_SHARE), int(place.height * _QUARTER_SHARE)
    if min(width, height) < _LEAST_SIDE:
        return []
    across, down = place.width - width, place.height - height
    return [
        Part(name, place.left + across * column, place.top + down * row, width, height)
        for name, row, column in _QUARTERS
    ]
