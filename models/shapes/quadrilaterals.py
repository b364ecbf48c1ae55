"""The outermost quadrilateral of a picture: a screen that was filmed at an angle, a picture turned by some degrees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

AUTO_THRESHOLD: Final = 0
"""Stands for the step, in grey levels, that follows from the picture's own contrast."""

PLANE_SIDE: Final = 64


@dataclass(frozen=True, slots=True)
class Quad:
    """Four corners (x, y), clockwise from the top left, in pixels of the gray picture; may lie a little outside."""

    corners: tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
    threshold: int


def quadrilaterals(gray: NDArray[np.uint8], thresholds: Sequence[int] = (AUTO_THRESHOLD,)) -> tuple[Quad, ...]:
    """Find the outermost quadrilateral of a gray (256, 256) uint8 picture at each threshold; those that differ."""
    del gray, thresholds
    return ()


def warp(gray: NDArray[np.uint8], quad: Quad) -> NDArray[np.uint8]:
    """Straighten what lies within a quadrilateral into a (64, 64) uint8 plane."""
    side = 2 * PLANE_SIDE
    target = np.array([(0, 0), (side, 0), (side, side), (0, side)], dtype=np.float32) - np.float32(0.5)
    matrix = cv2.getPerspectiveTransform(np.array(quad.corners, dtype=np.float32), target)
    flat = cv2.warpPerspective(gray, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(flat, (PLANE_SIDE, PLANE_SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
