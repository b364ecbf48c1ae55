"""The outermost quadrilateral of a picture: a screen that was filmed at an angle, a picture turned by some degrees.

From each of the four edges inwards the first clear step of every line of pixels is taken; where enough of these lie on
one straight line, that line is a side (RANSAC: M. Fischler, R. Bolles, 1981, here over a fixed table of pairs, so that
equal pictures give equal answers). A side without such a line is the frame's own edge. The work is the same for every
picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.shapes.dark import spread_dark, spreading

AUTO_THRESHOLD: Final = 0
"""Stands for the step, in grey levels, that follows from the picture's own contrast."""

PLANE_SIDE: Final = 64

_SIDE: Final = 128
"""Steps are looked for at half size, their places refined to parts of a pixel."""

_AUTO_LEAST: Final = 6.0
_AUTO_FACTOR: Final = 2.5
"""The automatic threshold: this many times the typical step of the picture."""

_REACH: Final = 4
"""The step proper is the largest of so many pixels from the first crossing on: blurred edges rise slowly."""

_TOLERANCE: Final = 0.7
"""In half-size pixels, how far a point may lie from its line."""

_MAX_SLOPE: Final = 0.22
_MIN_INLIERS: Final = 0.3
"""Share of the lines of pixels whose points lie on a side. At 0.2 nearly every picture has a quadrilateral, at 0.3 one
in three, and no fewer true ones are found; from 0.4 on they are."""

_MIN_AREA: Final = 0.15
_MIN_MOVE: Final = 1.0
"""In half-size pixels: a quadrilateral whose corners all lie nearer to the frame's than that is the frame."""

_SPREAD: Final = spreading(3)
"""Of 300 pictures filmed off screens 278 were cut by one frame without it, and 290 with it."""

_PAIRS: Final = 80
_LEAST_APART: Final = 16


@dataclass(frozen=True, slots=True)
class Quad:
    """Four corners (x, y), clockwise from the top left, in pixels of the gray picture; may lie a little outside."""

    corners: tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
    threshold: int


def _pair_table() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    # Spread over lengths and places; the same in every process.
    rng = np.random.default_rng(1)
    first = rng.integers(0, _SIDE - _LEAST_APART, _PAIRS)
    return first, first + rng.integers(_LEAST_APART, _SIDE - first)


_FIRST, _SECOND = _pair_table()
_APART: Final = (_SECOND - _FIRST).astype(np.float32)
_LINES: Final = np.arange(_SIDE, dtype=np.float32)
_LINES_AND_ONES: Final = np.stack((_LINES, np.ones_like(_LINES)))


def quadrilaterals(gray: NDArray[np.uint8], thresholds: Sequence[int] = (AUTO_THRESHOLD,)) -> tuple[Quad, ...]:
    """Find the outermost quadrilateral of a gray (256, 256) uint8 picture at each threshold; those that differ.

    `thresholds` are steps in grey levels between neighbouring pixels at half size, `AUTO_THRESHOLD` one of them where
    the picture shall decide.
    """
    outlines = Outlines(gray)
    found: list[Quad] = []
    for quad in (outlines.outermost(threshold) for threshold in thresholds):
        if quad is not None and not any(_are_one(quad, other) for other in found):
            found.append(quad)
    return tuple(found)


class Outlines:
    """The quadrilaterals of one gray (256, 256) uint8 picture. Its steps are computed once for all thresholds."""

    def __init__(self, gray: NDArray[np.uint8]) -> None:
        self._steps = _steps_from_edges(gray)

    def outermost(self, threshold: int) -> Quad | None:
        """The outermost quadrilateral at a threshold, as `quadrilaterals` takes it."""
        level = _auto_level(self._steps) if threshold == AUTO_THRESHOLD else threshold
        corners = _corners(*_sides(self._steps, level))
        if corners is None:
            return None
        (a, b), (c, d), (e, f), (g, h) = (2 * corners).tolist()
        return Quad(((a, b), (c, d), (e, f), (g, h)), threshold)


def _are_one(quad: Quad, other: Quad) -> bool:
    return bool(np.abs(np.subtract(quad.corners, other.corners)).max() < 2 * _MIN_MOVE)


def warp(gray: NDArray[np.uint8], quad: Quad) -> NDArray[np.uint8]:
    """Straighten what lies within a quadrilateral into a (64, 64) uint8 plane."""
    side = 2 * PLANE_SIDE
    target = np.array([(0, 0), (side, 0), (side, side), (0, side)], dtype=np.float32) - np.float32(0.5)
    source = np.array(quad.corners, dtype=np.float32) - np.float32(0.5)  # cv2 counts from a pixel's centre
    matrix = cv2.getPerspectiveTransform(source, target)
    flat = cv2.warpPerspective(gray, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(flat, (PLANE_SIDE, PLANE_SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _steps_from_edges(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The steps between neighbours as each edge of the frame sees them: (4 edges, 128 lines, 127 steps inwards).

    The edges are left, right, top and bottom; a line's number counts from the top or the left.
    """
    half = cv2.resize(spread_dark(gray, _SPREAD), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    half = cv2.GaussianBlur(half, (3, 3), 0)
    both = cv2.vconcat((half, cv2.transpose(half)))
    steps = cv2.absdiff(both[:, 1:], both[:, :-1])
    seen = np.empty((4, _SIDE, _SIDE - 1), dtype=np.uint8)
    seen[0], seen[2] = steps[:_SIDE], steps[_SIDE:]
    flipped = cv2.flip(steps, 1)
    seen[1], seen[3] = flipped[:_SIDE], flipped[_SIDE:]
    return seen


def _auto_level(steps: NDArray[np.uint8]) -> int:
    counts: NDArray[Any] = cv2.calcHist([steps[0]], [0], None, [256], [0, 256])
    median = int(np.searchsorted(np.cumsum(counts), steps[0].size / 2))
    return int(max(_AUTO_LEAST, _AUTO_FACTOR * median))


def _sides(steps: NDArray[np.uint8], level: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The line of each edge, place = slope * line + offset in half-size pixels from that edge: (4, 2); and if any."""
    crosses = steps >= min(level, 255)
    first = crosses.argmax(axis=2).ravel()
    flat = steps.ravel()
    has_point = (flat[first + _STARTS] >= min(level, 255)).reshape(4, _SIDE)
    # The largest step soon after the first crossing, to a part of a pixel by the parabola through its neighbours.
    reach = np.minimum(first, _SIDE - _REACH - 2) + _STARTS
    peak = flat[reach[:, None] + _OFFSETS].argmax(axis=1) + reach
    middle = flat[peak].astype(np.float32)
    before, after = flat[np.maximum(peak - 1, _STARTS)].astype(np.float32), flat[peak + 1].astype(np.float32)
    bend = np.maximum(2 * middle - before - after, np.float32(0.5))
    part = np.clip((after - before) / (2 * bend), np.float32(-0.5), np.float32(0.5))
    # Step i lies at the edge between pixels i and i + 1.
    places = (peak - _STARTS + 1) + part
    return _fitted(places.astype(np.float32).reshape(4, _SIDE), has_point)


_STARTS: Final = np.arange(4 * _SIDE) * (_SIDE - 1)
_OFFSETS: Final = np.arange(_REACH)


def _fitted(places: NDArray[np.float32], has_point: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    slopes = (places[:, _SECOND] - places[:, _FIRST]) / _APART
    offsets = places[:, _FIRST] - slopes * _LINES[_FIRST]
    usable = has_point[:, _FIRST] & has_point[:, _SECOND] & (np.abs(slopes) <= _MAX_SLOPE)
    known = np.where(has_point, places, np.float32(-1e6))
    away_from = known[:, None, :] - np.stack((slopes, offsets), axis=2) @ _LINES_AND_ONES
    near = np.abs(away_from, out=away_from) <= np.float32(_TOLERANCE)
    inliers = cv2.reduce(near.view(np.uint8).reshape(-1, _SIDE), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    counts = np.asarray(inliers).reshape(4, _PAIRS) * usable
    best = counts.argmax(axis=1)
    four = np.arange(4)
    enough = counts[four, best] >= _MIN_INLIERS * _SIDE
    # Least squares over the points of the best pair's line.
    weights = near[four, best].astype(np.float32)
    total = np.maximum(weights.sum(axis=1), 1)
    mean_line = weights @ _LINES / total
    mean_place = np.einsum("ij,ij->i", weights, places) / total
    away = _LINES - mean_line[:, None]
    spread = np.maximum(np.einsum("ij,ij,ij->i", weights, away, away), np.float32(1e-3))
    slope = np.einsum("ij,ij,ij->i", weights, away, places) / spread
    fitted = np.stack((slope, mean_place - slope * mean_line), axis=1)
    fitted[~enough] = 0  # the frame's own edge
    return fitted.astype(np.float32), enough


def _corners(lines: NDArray[np.float32], is_found: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Where the four lines meet, clockwise from the top left, (4, 2) half-size pixels; None where it is no picture."""
    if not is_found.any():
        return None
    # Pixel numbers count from pixel centres, half a pixel into the frame; the frame's edges are 0 and _SIDE.
    (left_slope, left), (right_slope, right), (top_slope, top), (bottom_slope, bottom) = _in_frame(lines)
    corners = np.array(
        [
            _meeting(left_slope, left, top_slope, top),
            _meeting(right_slope, right, top_slope, top),
            _meeting(right_slope, right, bottom_slope, bottom),
            _meeting(left_slope, left, bottom_slope, bottom),
        ],
        dtype=np.float32,
    )
    frame = np.array([(0, 0), (_SIDE, 0), (_SIDE, _SIDE), (0, _SIDE)], dtype=np.float32)
    if np.abs(corners - frame).max() <= _MIN_MOVE or np.abs(corners - _SIDE / 2).max() > _SIDE:
        return None
    if not cv2.isContourConvex(corners) or cv2.contourArea(corners) < _MIN_AREA * _SIDE * _SIDE:
        return None
    return corners


def _in_frame(lines: NDArray[np.float32]) -> list[tuple[float, float]]:
    # From "place of the step seen from that edge, by the line's number" to coordinates with the frame at [0, _SIDE].
    left, right, top, bottom = lines.astype(np.float64).tolist()
    near = [(slope, offset - 0.5 * slope) for slope, offset in (left, top)]
    far = [(-slope, _SIDE - offset + 0.5 * slope) for slope, offset in (right, bottom)]
    return [near[0], far[0], near[1], far[1]]


def _meeting(across_slope: float, across: float, down_slope: float, down: float) -> tuple[float, float]:
    # x = across_slope * y + across meets y = down_slope * x + down; the slopes are small, so they do meet.
    x = (across_slope * down + across) / (1 - across_slope * down_slope)
    return x, down_slope * x + down
