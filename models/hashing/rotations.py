"""Views of a frame turned by two degrees: what a camera held askew, or an editor who wants to be missed, did to it."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE

_RENDERED_SIDE: Final = 2 * PLANE_SIDE
_ZOOM: Final = 1.08
"""How far a picture turned by two degrees is zoomed in to hide the wedges at its corners."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A view turned clockwise by `degrees` as the frame is seen, and shrunk by `zoom` around its middle."""

    name: str
    degrees: float
    zoom: float = 1.0


ROTATIONS: Final = (
    Rotation("rotate_right", 2.0),
    Rotation("rotate_left", -2.0),
    Rotation("rotate_right_zoom", 2.0, _ZOOM),
    Rotation("rotate_left_zoom", -2.0, _ZOOM),
)
"""Two degrees either way reach pictures that are askew by up to four."""


def rotated(gray: NDArray[np.uint8], rotation: Rotation, width: int, height: int) -> NDArray[np.uint8]:
    """Return the (64, 64) uint8 plane of a view of a frame of `width` x `height` pixels.

    `gray` is the whole frame squeezed to a square of 128 pixels or more, uint8. The frame is turned in its own
    proportions; what the turn brings in from beyond its edges repeats them.
    """
    turn = _turn(rotation, gray.shape[0], width / height)
    size = (_RENDERED_SIDE, _RENDERED_SIDE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    rendered = cv2.warpAffine(gray, turn, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(rendered, (PLANE_SIDE, PLANE_SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


@lru_cache(maxsize=256)  # streams come in few shapes
def _turn(rotation: Rotation, side: int, aspect: float) -> NDArray[np.float64]:
    # Where each pixel of the view comes from: from the view's square to the frame, turned back, to the frame's square.
    angle = math.radians(-rotation.degrees)
    cosine, sine = math.cos(angle) * rotation.zoom, math.sin(angle) * rotation.zoom
    linear = np.array([[cosine, -sine / aspect], [sine * aspect, cosine]]) * (side / _RENDERED_SIDE)
    middle_of_view, middle = (_RENDERED_SIDE - 1) / 2, (side - 1) / 2
    offset = middle - linear @ np.full(2, middle_of_view)
    matrix = np.column_stack((linear, offset))
    matrix.flags.writeable = False
    return matrix
