"""Uniform borders around a picture: letterbox, pillarbox and plain frames."""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

_MAX_SPREAD: Final = 5.0
"""Standard deviation, in grey levels, up to which a line of pixels counts as uniform."""

_MAX_STEP: Final = 8.0
"""A border has one colour: its lines' means stay this close to that of the outermost line, in grey levels."""

_MAX_SHARE: Final = 0.36
"""How much of a side may be peeled: upright video between bars on a 16:9 canvas has 34 % of it on either side."""


def uniform_borders(gray: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Count the lines of uniform border of a gray picture: (top, bottom, left, right), each at most 36 % of the side.

    From each side lines are peeled while they are uniform and of the outermost line's level. A border's last, blended
    line goes with it.
    """
    # Sums over any stretch of any line are differences of these.
    sums, squares = cv2.integral2(gray)
    height, width = gray.shape
    top, bottom = _peel(sums[:, width], squares[:, width], width)
    left, right = _across(sums, squares, top, height - bottom)
    # Bars at the sides hide those above and below from this first look, and those again bars at the sides.
    if left + right:
        last = width - right
        again = _peel(sums[:, last] - sums[:, left], squares[:, last] - squares[:, left], last - left)
        if again != (top, bottom):
            top, bottom = again
            left, right = _across(sums, squares, top, height - bottom)
    return top, bottom, left, right


def may_have_borders(picture: NDArray[np.uint8]) -> bool:
    """Tell whether any outermost line is uniform: peeling begins there, so without one nothing is peeled at all.

    Most frames have none, and a fortieth of the time shows it. `picture` is square, gray or (N, N, 3) RGB.
    """
    edges = np.stack((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    gray = edges if edges.ndim == 2 else np.asarray(cv2.cvtColor(edges, cv2.COLOR_RGB2GRAY))
    levels = gray.astype(np.float64)
    return bool(np.any(_are_uniform(levels.sum(axis=1), np.einsum("ij,ij->i", levels, levels), levels.shape[1])))


def _across(sums: NDArray[Any], squares: NDArray[Any], first: int, last: int) -> tuple[int, int]:
    return _peel(sums[last] - sums[first], squares[last] - squares[first], last - first)


def _peel(sums: NDArray[Any], squares: NDArray[Any], length: int) -> tuple[int, int]:
    totals = np.diff(sums).astype(np.float64)
    uniform = _are_uniform(totals, np.diff(squares), length)
    return _leading(totals, uniform, length), _leading(totals[::-1], uniform[::-1], length)


def _are_uniform(totals: NDArray[np.float64], squares: NDArray[np.float64], length: int) -> NDArray[np.bool_]:
    # In whole numbers, which float64 holds exactly: length * squares - totals ** 2 is the variance * length ** 2.
    return np.asarray(length * squares - np.square(totals) < (_MAX_SPREAD * length) ** 2)


def _leading(totals: NDArray[np.float64], uniform: NDArray[np.bool_], length: int) -> int:
    if not uniform[0]:
        return 0
    most = int(len(totals) * _MAX_SHARE)
    alike = uniform[: most + 1] & (np.abs(totals[: most + 1] - totals[0]) < _MAX_STEP * length)
    peeled = most if alike.all() else int(np.argmin(alike))
    return min(peeled + 1, most)
