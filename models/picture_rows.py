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
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE
from models.hashing.pdq import MEDIAN_RANK, Pdq
from models.hashing.second_tests import difference_hashes
from models.hashing.spectrum import Spectra, shape_gate, spectra_of
from models.shapes.borders import may_have_borders, uniform_borders

MIN_QUALITY: Final = 50
"""PDQ quality (0-100) below which facebook/ThreatExchange advises not to put a hash on a list."""

MIN_WINDOW_QUALITY: Final = 65
"""A window of which little can be seen matches strangers: the few false pairs known had 53 and 54."""

_MIN_TYPICAL: Final = 8.0
"""The typical deviation from the median, in PDQ's units, that a window's coefficients must have."""

_PICTURE_GRID: Final = ((0.94, 2), (0.88, 4), (0.82, 5), (0.76, 6), (0.70, 7))
"""Sides of windows in shares of the picture's, and how many stand beside each other in either direction."""

_VIDEO_GRID: Final = ((0.94, 2), (0.86, 3))

_PICTURE_CUTS: Final = (9 / 16, 4 / 5, 1.0, 4 / 3)
"""Width to height of cuts that other screens ask for; full height from a wider picture, full width from a taller."""

_VIDEO_CUTS: Final = (9 / 16,)
_HASH_BYTES: Final = 32
_CUT_STEP: Final = 0.08
"""Of the cut's own width: half of it is what the views of a query make up for."""

_VIDEO_CUT_STEP: Final = 0.16


@dataclass(frozen=True, slots=True, eq=False)
class PictureRows:
    """N rows of a bank: `hashes` (N, 32) uint8 PDQ, `seconds` (N, 64) uint8 second hashes, `is_window` (N,) bool.

    The first row is the picture as it is, the second the same without its own borders if it has any, each where its
    quality suffices; no row at all where nothing does.
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
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    wholes = [plane, *_without_borders(gray)]
    prints = [Pdq().hash_plane(whole) for whole in wholes]
    kept = [number for number, one in enumerate(prints) if one.quality >= MIN_QUALITY]
    own = np.array([list(prints[number].value) for number in kept], dtype=np.uint8).reshape(-1, _HASH_BYTES)
    own_second = difference_hashes(spectra_of(np.stack(wholes).astype(np.float32)))[kept]
    spectra, qualities = _windows(gray, _plan(_shape(width, height), is_video=is_video))
    hashes, fit = _gated(spectra)
    fit &= qualities >= MIN_WINDOW_QUALITY
    return PictureRows(
        hashes=np.concatenate((own, hashes[fit])),
        seconds=np.concatenate((own_second, difference_hashes(spectra[fit]))),
        is_window=np.arange(len(own) + np.count_nonzero(fit)) >= len(own),
    )


def _without_borders(gray: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The picture without its own borders, if it has any: whoever looks for bars around a copy takes these off too."""
    top, bottom, left, right = uniform_borders(gray) if may_have_borders(gray) else (0, 0, 0, 0)
    if top + bottom + left + right == 0:
        return []
    inner = gray[top : gray.shape[0] - bottom, left : gray.shape[1] - right]
    scaled = cv2.resize(inner, (PLANE_SIDE, PLANE_SIDE), interpolation=cv2.INTER_AREA)
    return [np.asarray(scaled, dtype=np.uint8)]


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Windows of one size: planes at every pair of `tops` and `lefts` of the picture scaled to `size` (width, height).

    The places are whole pixels there, at most half a pixel of a plane from where they would stand evenly.
    """

    size: tuple[int, int]
    tops: NDArray[np.intp]
    lefts: NDArray[np.intp]


def _grid(rows: tuple[float, int], columns: tuple[float, int]) -> _Grid:
    # Of each direction a window's share of the side, and how many stand beside each other.
    height, width = (round(PLANE_SIDE / share) for share, _ in (rows, columns))
    return _Grid(
        size=(width, height),
        tops=np.linspace(0, height - PLANE_SIDE, rows[1]).round().astype(np.intp),
        lefts=np.linspace(0, width - PLANE_SIDE, columns[1]).round().astype(np.intp),
    )


def _shape(width: int, height: int) -> float:
    # In steps of a hundredth, so that a bank of many sizes needs few plans.
    return min(max(round(width / height, 2), _NARROWEST), 1 / _NARROWEST)


_NARROWEST: Final = 0.1
"""Width to height, or height to width, of the narrowest picture that still has cuts of its own."""


@lru_cache(maxsize=64)
def _plan(shape: float, *, is_video: bool) -> tuple[_Grid, ...]:
    grids = [_grid(square, square) for square in (_VIDEO_GRID if is_video else _PICTURE_GRID)]
    step = _VIDEO_CUT_STEP if is_video else _CUT_STEP
    for cut in _VIDEO_CUTS if is_video else _PICTURE_CUTS:
        share = cut / shape  # of the width of a wide picture
        if _LEAST_CUT <= share <= _MOST_CUT:
            grids.append(_grid((1.0, 1), (share, _count(share, step))))
        share = cut * shape  # of the height of an upright one
        if _LEAST_CUT <= share <= _MOST_CUT:
            grids.append(_grid((share, _count(share, step)), (1.0, 1)))
    return tuple(grids)


_LEAST_CUT: Final = 0.25
_MOST_CUT: Final = 0.9


def _count(share: float, step: float) -> int:
    return max(2, 1 + round((1 - share) / (share * step)))


def _windows(gray: NDArray[np.uint8], grids: Sequence[_Grid]) -> tuple[Spectra, NDArray[np.int64]]:
    spectra, qualities = [], []
    for grid in grids:
        whole = np.asarray(cv2.resize(gray, grid.size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        planes = sliding_window_view(whole, (PLANE_SIDE, PLANE_SIDE))[grid.tops][:, grid.lefts]
        # One small product each: a large one would wake threads of the numerics library that cost more than they do.
        spectra.append(spectra_of(planes.reshape(-1, PLANE_SIDE, PLANE_SIDE).astype(np.float32)))
        qualities.append(_qualities(whole, grid))
    return np.concatenate(spectra), np.concatenate(qualities)


def _qualities(whole: NDArray[np.uint8], grid: _Grid) -> NDArray[np.int64]:
    # PDQ's metric of all windows at once, by sums over the steps of the picture that they are cut from.
    total = np.zeros((len(grid.tops), len(grid.lefts)), dtype=np.int64)
    for down, right in ((1, 0), (0, 1)):
        steps = cv2.absdiff(whole[down:, right:], whole[: len(whole) - down, : grid.size[0] - right])
        sums: NDArray[Any] = cv2.integral(cv2.LUT(steps, _HUNDREDTHS))
        bottoms, rights = grid.tops + PLANE_SIDE - down, grid.lefts + PLANE_SIDE - right
        total += sums[bottoms][:, rights] - sums[grid.tops][:, rights]
        total += sums[grid.tops][:, grid.lefts] - sums[bottoms][:, grid.lefts]
    return np.minimum(total.ravel() // 90, 100)


_HUNDREDTHS: Final = (np.arange(256) * 100 // 255).astype(np.uint8)


def _gated(spectra: Spectra) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    flat = spectra.reshape(len(spectra), -1)[:, ::-1]
    deviations = flat - np.partition(flat, MEDIAN_RANK, axis=1)[:, MEDIAN_RANK : MEDIAN_RANK + 1]
    is_fit = shape_gate(deviations) & (np.median(np.abs(deviations), axis=1) >= _MIN_TYPICAL)
    return np.packbits(deviations > 0, axis=1), is_fit
