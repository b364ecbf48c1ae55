"""Views of a frame with a part of it painted over smoothly, from what surrounds it.

Where a caption bar, a chat box or a logo covers a known picture, its own edges are what moves the hash; the soap film
that is spanned over the same place (the harmonic fill: each pixel the mean of its neighbours) moves it less. For a
place that is known beforehand the film is linear in the pixels around it, and so are the coefficients.
"""

from functools import cached_property
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE
from models.hashing.pdq import DCT, DCT_T

_NEIGHBOURS: Final = ((-1, 0), (1, 0), (0, -1), (0, 1))


class Fill:
    """The harmonic fill of one rectangle of the (64, 64) plane: rows `top` to `bottom`, columns `left` to `right`.

    The film's edges are the pixels around the rectangle; where it touches an edge of the frame, the film ends freely.
    """

    def __init__(
        self, name: str, *, top: float = 0.0, bottom: float = 1.0, left: float = 0.0, right: float = 1.0
    ) -> None:
        self.name: Final = name
        self._rows = slice(round(top * PLANE_SIDE), round(bottom * PLANE_SIDE))
        self._columns = slice(round(left * PLANE_SIDE), round(right * PLANE_SIDE))

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The (64, 64) pixels that are filled."""
        mask = np.zeros((PLANE_SIDE, PLANE_SIDE), dtype=np.bool_)
        mask[self._rows, self._columns] = True
        return mask

    def filled(self, levels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (64, 64) float32 levels with the rectangle filled."""
        found = levels.copy()
        found[self._rows, self._columns] = (self._film @ levels.ravel()[self._ring]).reshape(
            found[self._rows, self._columns].shape
        )
        return found

    def spectrum(self, levels: NDArray[np.float32], spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (16, 16) coefficients of the filled levels, from the levels and their own coefficients."""
        rows, columns = self._rows, self._columns
        covered = DCT[:, rows] @ levels[rows, columns] @ DCT_T[columns]
        return np.asarray(spectrum - covered + (self._operator @ levels.ravel()[self._ring]).reshape(spectrum.shape))

    def prepare(self) -> None:
        """Work out what filling needs, some 5-40 ms, which the first use would do else."""
        self._operator  # noqa: B018 - kept by reading it

    @cached_property
    def _ring(self) -> NDArray[np.int64]:
        # The pixels that hold the film, as places in the flat plane.
        mask = self.mask
        near = cv2.dilate(mask.astype(np.uint8), np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8))
        return np.flatnonzero((near.astype(np.bool_) & ~mask).ravel())

    @cached_property
    def _film(self) -> NDArray[np.float32]:
        # (pixels of the rectangle, ring): each pixel times the number of its neighbours in the frame is their sum.
        inside = np.flatnonzero(self.mask.ravel())
        place = np.full(PLANE_SIDE * PLANE_SIDE, -1)
        place[inside] = np.arange(len(inside))
        on_ring = np.full(PLANE_SIDE * PLANE_SIDE, -1)
        on_ring[self._ring] = np.arange(len(self._ring))
        film = np.zeros((len(inside), len(inside)))
        pull = np.zeros((len(inside), len(self._ring)))
        rows, columns = np.divmod(inside, PLANE_SIDE)
        for down, right in _NEIGHBOURS:
            y, x = rows + down, columns + right
            mine = np.flatnonzero((y >= 0) & (y < PLANE_SIDE) & (x >= 0) & (x < PLANE_SIDE))
            other = y[mine] * PLANE_SIDE + x[mine]
            film[mine, mine] += 1
            filled = place[other] >= 0
            film[mine[filled], place[other[filled]]] -= 1
            pull[mine[~filled], on_ring[other[~filled]]] += 1
        return np.linalg.solve(film, pull).astype(np.float32)

    @cached_property
    def _operator(self) -> NDArray[np.float32]:
        # (256, ring): what each pixel around the rectangle brings to the coefficients through the film.
        heights, widths = DCT[:, self._rows], DCT[:, self._columns]
        return np.kron(heights, widths) @ self._film


_BAR: Final = 0.14
_SIDE: Final = 0.25
_CORNER_WIDTH: Final = 0.28
_CORNER_HEIGHT: Final = 0.45

BARS: Final = (Fill("fill_bottom", top=1 - _BAR), Fill("fill_top", bottom=_BAR))
SIDES: Final = (Fill("fill_left", right=_SIDE), Fill("fill_right", left=1 - _SIDE))
CORNERS: Final = (
    Fill("fill_top_left", bottom=_CORNER_HEIGHT, right=_CORNER_WIDTH),
    Fill("fill_top_right", bottom=_CORNER_HEIGHT, left=1 - _CORNER_WIDTH),
    Fill("fill_bottom_left", top=1 - _CORNER_HEIGHT, right=_CORNER_WIDTH),
    Fill("fill_bottom_right", top=1 - _CORNER_HEIGHT, left=1 - _CORNER_WIDTH),
)
"""Where captions, chats, cameras and logos are laid: bars along an edge, columns at a side, boxes in a corner."""


def prepare_fills() -> None:
    """Make all of these ready; to be done before a process forks others, else each of them does."""
    for fill in (*BARS, *SIDES, *CORNERS):
        fill.prepare()


def pull_push(levels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill any mask of (64, 64) float32 levels smoothly: each hole from the finest coarser level that knows it.

    The pyramid of Gortler et al., The Lumigraph (SIGGRAPH 1996). A plane that is masked as a whole stays as it is.
    """
    if mask.all():
        return levels
    weights = 1 - mask.astype(np.float32)
    pyramid = [(levels * weights, weights)]
    while pyramid[-1][1].shape[0] > 1 and not pyramid[-1][1].all():
        size = (pyramid[-1][1].shape[1] // 2, pyramid[-1][1].shape[0] // 2)
        sums = [np.atleast_2d(cv2.resize(part, size, interpolation=cv2.INTER_AREA)) for part in pyramid[-1]]
        pyramid.append((np.asarray(sums[0]), np.asarray(sums[1])))
    total, known = pyramid.pop()
    found = total / np.maximum(known, _LEAST_WEIGHT)
    while pyramid:
        total, known = pyramid.pop()
        coarse = np.asarray(cv2.resize(found, total.shape[::-1], interpolation=cv2.INTER_LINEAR))
        found = total + (1 - known) * coarse
    return np.asarray(found, dtype=np.float32)


_LEAST_WEIGHT: Final = np.float32(1e-6)
