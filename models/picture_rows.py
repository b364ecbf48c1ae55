"""The rows that a picture at hand is worth in a bank: itself, and windows of it in which crops of it are found.

A hash keeps no trace of where a crop was cut from its picture, so a crop that loses more than a tenth of a side is out
of reach of every view of the query. Where the picture itself is at hand, its windows are indexed instead: a crop then
lies near one of them. Upright cuts of wide pictures (and wide cuts of upright ones) have windows of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE
from models.hashing.linear_views import box_matrix
from models.hashing.pdq import DCT, Pdq
from models.hashing.second_tests import difference_hashes
from models.hashing.spectrum import Spectra, shape_gate, spectrum_of

MIN_QUALITY: Final = 50
"""PDQ quality (0-100) below which facebook/ThreatExchange advises not to put a hash on a list."""

MIN_WINDOW_QUALITY: Final = 65
"""A window of which little can be seen matches strangers: the few false pairs known had 53 and 54."""

_MIN_TYPICAL: Final = 8.0
"""The typical deviation from the median, in PDQ's units, that a window's coefficients must have."""

_GRAY_SIDE: Final = 256

_PICTURE_GRID: Final = ((0.94, 2), (0.88, 4), (0.82, 5), (0.76, 6), (0.70, 7))
"""Sides of windows in shares of the picture's, and how many stand beside each other in either direction."""

_VIDEO_GRID: Final = ((0.94, 2), (0.86, 3))

_PICTURE_CUTS: Final = (9 / 16, 4 / 5, 1.0, 4 / 3)
"""Width to height of cuts that other screens ask for; full height from a wider picture, full width from a taller."""

_VIDEO_CUTS: Final = (9 / 16,)
_CUT_STEP: Final = 0.08
"""Of the cut's own width: half of it is what the views of a query make up for."""

_VIDEO_CUT_STEP: Final = 0.16


@dataclass(frozen=True, slots=True, eq=False)
class PictureRows:
    """N rows of a bank: `hashes` (N, 32) uint8 PDQ, `seconds` (N, 64) uint8 second hashes, `is_window` (N,) bool.

    Row 0 is the picture as it is, where its own quality suffices; no row at all where nothing does.
    """

    hashes: NDArray[np.uint8]
    seconds: NDArray[np.uint8]
    is_window: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.hashes)


def picture_rows(
    plane: NDArray[np.uint8], picture: NDArray[np.uint8], width: int, height: int, *, is_video: bool = False
) -> PictureRows:
    """Hash a picture and windows of it.

    `plane` is its (64, 64) uint8 full-range luma, `picture` the same as (256, 256, 3) uint8 RGB, `width` and `height`
    its true size. `is_video` where it is one frame of many: it then has fewer windows, since its neighbours, in which
    the camera or the scene has moved a little, stand for the others.

    Raises:
        ValueError: `plane` has another shape or type.
    """
    fingerprint = Pdq().hash_plane(plane)
    own = np.frombuffer(fingerprint.value, dtype=np.uint8)[None]
    own_second = difference_hashes(spectrum_of(plane)[None])
    if fingerprint.quality < MIN_QUALITY:
        own, own_second = own[:0], own_second[:0]
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    spectra, qualities = _windows(gray, _plan(_shape(width, height), is_video=is_video))
    hashes, fit = _gated(spectra)
    fit &= qualities >= MIN_WINDOW_QUALITY
    return PictureRows(
        hashes=np.concatenate((own, hashes[fit])),
        seconds=np.concatenate((own_second, difference_hashes(spectra[fit]))),
        is_window=np.arange(len(own) + np.count_nonzero(fit)) >= len(own),
    )


Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Windows of one size at every pair of places; matrices (k * 16, 256) per direction, and their pixels' places."""

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]
    size: tuple[int, int]
    """(width, height) of the whole picture at which a window is a plane."""
    tops: NDArray[np.intp]
    lefts: NDArray[np.intp]


def _grid(tops: Sequence[float], height: float, lefts: Sequence[float], width: float) -> _Grid:
    size = (round(PLANE_SIDE / width), round(PLANE_SIDE / height))
    return _Grid(
        rows=np.concatenate([DCT @ box_matrix(_GRAY_SIDE, top, top + height) for top in tops]),
        columns=np.concatenate([DCT @ box_matrix(_GRAY_SIDE, left, left + width) for left in lefts]),
        size=size,
        tops=np.array([min(round(top * size[1]), size[1] - PLANE_SIDE) for top in tops], dtype=np.intp),
        lefts=np.array([min(round(left * size[0]), size[0] - PLANE_SIDE) for left in lefts], dtype=np.intp),
    )


def _shape(width: int, height: int) -> float:
    # In steps of a hundredth of the longer side, so that a bank of many sizes needs few plans.
    return round(100 * width / height) / 100 if width <= height else 100 / max(1, round(100 * height / width))


@lru_cache(maxsize=64)
def _plan(shape: float, *, is_video: bool) -> tuple[_Grid, ...]:
    grids = []
    for side, count in _VIDEO_GRID if is_video else _PICTURE_GRID:
        places = _places(side, count)
        grids.append(_grid(places, side, places, side))
    for cut in _VIDEO_CUTS if is_video else _PICTURE_CUTS:
        step = _VIDEO_CUT_STEP if is_video else _CUT_STEP
        share = cut / shape  # of the width of a wide picture
        if _LEAST_CUT <= share <= _MOST_CUT:
            grids.append(_grid((0.0,), 1.0, _places(share, _count(share, step)), share))
        share = cut * shape  # of the height of an upright one
        if _LEAST_CUT <= share <= _MOST_CUT:
            grids.append(_grid(_places(share, _count(share, step)), share, (0.0,), 1.0))
    return tuple(grids)


_LEAST_CUT: Final = 0.25
_MOST_CUT: Final = 0.9


def _places(share: float, count: int) -> list[float]:
    return [(1 - share) * number / (count - 1) for number in range(count)]


def _count(share: float, step: float) -> int:
    return max(2, 1 + round((1 - share) / (share * step)))


def _windows(gray: NDArray[np.uint8], grids: Sequence[_Grid]) -> tuple[Spectra, NDArray[np.int64]]:
    levels = gray.astype(np.float32)
    spectra, qualities = [], []
    for grid in grids:
        both = grid.rows @ levels @ grid.columns.T
        apart = both.reshape(len(grid.tops), 16, len(grid.lefts), 16).transpose(0, 2, 1, 3)
        spectra.append(apart.reshape(-1, 16, 16))
        qualities.append(_qualities(gray, grid))
    return np.concatenate(spectra), np.concatenate(qualities)


def _qualities(gray: NDArray[np.uint8], grid: _Grid) -> NDArray[np.int64]:
    # PDQ's metric of every window from one resized picture: its planes lie in it to half a pixel.
    whole = cv2.resize(gray, grid.size, interpolation=cv2.INTER_AREA)
    total = np.zeros((len(grid.tops), len(grid.lefts)))
    for down, right in ((1, 0), (0, 1)):
        steps = cv2.absdiff(whole[down:, right:], whole[: len(whole) - down, : grid.size[0] - right])
        sums: NDArray[Any] = cv2.integral(cv2.LUT(steps, _HUNDREDTHS))
        bottoms, rights = grid.tops + PLANE_SIDE - down, grid.lefts + PLANE_SIDE - right
        total += sums[bottoms][:, rights] - sums[grid.tops][:, rights]
        total += sums[grid.tops][:, grid.lefts] - sums[bottoms][:, grid.lefts]
    return np.minimum(total.ravel() // 90, 100).astype(np.int64)


_HUNDREDTHS: Final = (np.arange(256) * 100 // 255).astype(np.uint8)


def _gated(spectra: Spectra) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    flat = spectra.reshape(len(spectra), -1)[:, ::-1]
    deviations = flat - np.partition(flat, 127, axis=1)[:, 127:128]
    is_fit = shape_gate(deviations) & (np.median(np.abs(deviations), axis=1) >= _MIN_TYPICAL)
    return np.packbits(deviations > 0, axis=1), is_fit
