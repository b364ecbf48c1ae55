"""Dark pictures in dark rooms have sides, too; soft dark ramps have none."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.shapes.dark import spread_dark, spreading
from models.shapes.quadrilaterals import quadrilaterals
from models.shapes.rectangles import rectangles


def _soft(seed: int, low: float, high: float) -> NDArray[np.float32]:
    """Blobs (256, 256) of the levels between two."""
    grain = np.random.default_rng(seed).standard_normal((256, 256)).astype(np.float32)
    blobs = np.asarray(cv2.GaussianBlur(grain, (0, 0), 24))
    return np.asarray(np.interp(blobs, (blobs.min(), blobs.max()), (low, high)), dtype=np.float32)


def _levels(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(picture.round(), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_a_dark_picture_in_a_dark_room_has_sides(seed: int) -> None:
    """Four levels between a window and what is around it are enough, and its place is right to a pixel."""
    room = _soft(seed, 4, 9)
    room[60:200, 50:220] = _soft(seed + 10, 13, 17)[60:200, 50:220]
    assert any(
        max(abs(box.top - 60), abs(box.bottom - 200), abs(box.left - 50), abs(box.right - 220)) <= 1
        for box in rectangles(_levels(room))
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_dark_screen_filmed_aside_has_corners(seed: int) -> None:
    """The same for a quadrilateral."""
    corners = np.array([(40, 50), (215, 35), (225, 210), (50, 220)], dtype=np.float32)
    mask = np.zeros((256, 256), dtype=np.uint8)
    cv2.fillConvexPoly(mask, corners.astype(np.int32), 1)
    shown = np.where(mask == 1, _soft(seed + 10, 14, 18), _soft(seed, 4, 9)).astype(np.float32)
    (quad,) = quadrilaterals(_levels(shown))
    assert np.abs(np.array(quad.corners) - corners).max() <= 3


@pytest.mark.parametrize("height", [24, 60, 100])
def test_a_soft_dark_ramp_has_no_sides(height: int) -> None:
    """Light that falls off over a wall is no picture in a picture."""
    ramp = np.linspace(0, height, 256, dtype=np.float32)[:, None].repeat(256, axis=1)
    assert rectangles(_levels(ramp)) == ()
    assert quadrilaterals(_levels(ramp)) == ()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_levels_keep_their_order(times: int) -> None:
    """What is brighter stays brighter or as bright, and black and white stay black and white."""
    spread = spread_dark(np.arange(256, dtype=np.uint8)[None], spreading(times)).astype(int).ravel()
    assert (spread[0], spread[-1]) == (0, 255)
    assert (np.diff(spread) >= 0).all()
