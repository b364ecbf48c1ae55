"""Is there anything to see? Frames without information are counted and shown to no model.

Classifiers answer to black and flat frames with middling scores (a public NSFW model gives black 0.47), and every
stream starts and fades in black.
"""

import math
from enum import StrEnum, unique
from typing import Final

import numpy as np
from numpy.typing import NDArray


@unique
class LowInformation(StrEnum):
    """Why a frame holds nothing to look at. The value stands in metrics."""

    BLACK = "black"
    FLAT = "flat"
    GRID = "grid"


_LEVELS: Final = 8
"""Differences up to this many of 256 grey levels are encoder noise to the eye."""

_SPECKS: Final = 16
"""So many of the 4096 pixels may differ: a blot of 4x4, a sixteenth of the side."""

_BLACK: Final = 24
"""A frame whose typical level lies below this is called black: limited-range black read as full range is 16."""

_GRID_NOISE: Final = 2.5
"""Root mean square, in grey levels, of what a regular pattern may leave unexplained."""

_LONGEST_PERIOD: Final = 24
"""In pixels of the plane: at least two whole periods and a half must show."""

_MOST_UNEXPLAINED: Final = 64 * 64 * _GRID_NOISE**2
"""The same as energy: of all pixels together."""

_MOST_OF_FLAT: Final = 64 * 64 * _LEVELS**2 + _SPECKS * 255**2
"""The energy about its level that a flat plane can have."""

_ROUNDING: Final = 1.01
"""What float32 sums are off by, and far more."""

_MEAN: Final = np.full(64, 1 / 64, dtype=np.float32)

_LIKENESS: Final = 0.85
"""Correlation of a profile with itself one period on; re-encoded and fractionally sampled grids reach 0.9."""


def low_information(plane: NDArray[np.uint8], spectrum: NDArray[np.float32] | None = None) -> LowInformation | None:
    """Tell why a (64, 64) uint8 luma plane holds nothing to look at; None when it does hold something.

    `spectrum`, the plane's (16, 16) PDQ coefficients for who has them, makes the answer cheaper and no other.

    Deliberately narrow, since what it names goes unseen by the models: a dim scene, a gradient, colour bars or a grid
    drawn over a picture all pass. Only the luma is judged: `has_colour_detail` tells whether the colours say more.
    """
    if spectrum is not None and _is_surely_a_picture(spectrum):
        return None
    if _is_surely_not_flat(plane):
        return LowInformation.GRID if _is_regular_grid(plane) else None
    below = np.cumsum(np.bincount(plane.ravel(), minlength=256))  # and equal
    level = int(np.searchsorted(below, 2048, side="right"))
    differing = plane.size - below[min(level + _LEVELS, 255)] + (below[level - _LEVELS - 1] if level > _LEVELS else 0)
    if differing < _SPECKS:
        return LowInformation.BLACK if level < _BLACK else LowInformation.FLAT
    return LowInformation.GRID if _is_regular_grid(plane) else None


def has_colour_detail(picture: NDArray[np.uint8]) -> bool:
    """Tell whether an RGB picture (H, W, 3) uint8 differs in colour where its luma may be flat.

    A picture of equal brightness is easily made; without this test it would slip past every model as "flat".
    """
    sampled = picture[::4, ::4].astype(np.int16)
    for difference in (sampled[..., 0] - sampled[..., 1], sampled[..., 2] - sampled[..., 1]):
        middle = int(np.median(difference))
        if np.count_nonzero(np.abs(difference - middle) > 2 * _LEVELS) >= _SPECKS:
            return True
    return False


def _is_surely_a_picture(spectrum: NDArray[np.float32]) -> bool:
    # Sixteen cosines each way, without the constant, are an orthonormal part of the plane. Functions of x or of y alone
    # vanish in it, a product of two stays one, so what no product explains there the whole plane cannot explain either.
    # The best product takes the largest squared singular value, at most the root of the sum of all their squares.
    flat = spectrum.ravel()
    energy = float(flat @ flat)
    if energy <= _ROUNDING * _MOST_OF_FLAT:
        return False
    squares = (spectrum @ spectrum.T).ravel()
    return energy - _ROUNDING * math.sqrt(squares @ squares) > _ROUNDING * _MOST_UNEXPLAINED


def _is_surely_not_flat(plane: NDArray[np.uint8]) -> bool:
    # Of every 16th pixel more than `_SPECKS` are darker than what more than `_SPECKS` are brighter than, by more than
    # what lies within `_LEVELS` of any level: a tenth of the price of counting them all.
    sampled = plane[::4, ::4].ravel()
    sampled.partition((_SPECKS, sampled.size - 1 - _SPECKS))
    return int(sampled[-1 - _SPECKS]) - int(sampled[_SPECKS]) > 2 * _LEVELS


def _is_regular_grid(plane: NDArray[np.uint8]) -> bool:
    # Stripes and line grids are a sum of a function of x and one of y, chessboards add a product of such functions:
    # what is left after taking these out must be noise, and the functions themselves must repeat.
    rest = plane.astype(np.float32)
    by_row: NDArray[np.float32] = rest @ _MEAN
    by_column: NDArray[np.float32] = _MEAN @ rest
    by_row -= by_row @ _MEAN
    rest -= by_column
    rest -= by_row[:, None]
    across: NDArray[np.float32] = by_column - by_column @ _MEAN
    down = by_row
    energies = np.einsum("ij,ij->i", rest, rest)
    energy, most = float(energies.sum()), _MOST_UNEXPLAINED
    if energy > most:
        strongest = int(energies.argmax())
        across = rest[strongest] / np.sqrt(energies[strongest])
        down = rest @ across
        # What is left without the product: by Pythagoras, as `across` has length 1. The rows need not be subtracted.
        if energy - float(down @ down) > most:
            return False
        across *= np.float32(_norm(down))
    profiles = [profile for profile in (across, down) if _rms(profile) > _GRID_NOISE]
    return bool(profiles) and all(_repeats(profile) for profile in profiles)


def _repeats(profile: NDArray[np.float32]) -> bool:
    # Past its first anticorrelated lag a periodic profile comes back to itself; a ramp or a staircase never does.
    centred = profile - profile.mean()
    has_turned = False
    for lag in range(1, _LONGEST_PERIOD + 1):
        ahead, behind = centred[lag:], centred[:-lag]
        scale = float(np.sqrt((ahead @ ahead) * (behind @ behind)))
        likeness = float(ahead @ behind) / scale if scale > 0 else 0.0
        if likeness < 0:
            has_turned = True
        elif has_turned and likeness >= _LIKENESS:
            return True
    return False


def _rms(values: NDArray[np.float32]) -> float:
    return _norm(values) / math.sqrt(values.size)


def _norm(values: NDArray[np.float32]) -> float:
    flat = values.ravel()
    return math.sqrt(flat @ flat)
