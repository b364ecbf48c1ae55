"""How much of what one frame shows beside another is more than movement: pure.

A camera that pans makes every frame differ from the one before it, and nothing new is to be seen. What was cut in, laid
over or shown in its place is not to be had by moving the picture.
"""

from typing import Final

import numpy as np
from numpy.fft import irfft2, rfft2  # numpy would load it at its first use, in the cage
from numpy.typing import NDArray

_FARTHEST_SHIFT: Final = 8
"""Pixels of 64 by which the whole picture may have moved; what came in at the edge by then is not compared."""

_LARGEST_MOVE: Final = 40
"""Grey levels that moving by a pixel may change one: else a fine pattern laid over all would explain anything."""

_WINDOW: Final = np.outer(np.hanning(64), np.hanning(64)).astype(np.float32)

Plane = NDArray[np.uint8]


def unexplained(before: Plane, after: Plane) -> float:
    """Return the mean grey levels by which two hash planes, (64, 64) uint8, differ beyond movement.

    Movement is: the whole picture shifted by up to `_FARTHEST_SHIFT` pixels, and on top of that each place by one. The
    shift is found by phase correlation (Kuglin and Hines, 1975); none at all is tried too, and the better one counts.
    Neither plane may hold what the other does not have nearby, so the order of the two does not matter much.
    """
    shifts = {(0, 0), _shift(before, after)}
    return min(_residual(*_overlap(before, after, down, right)) for down, right in shifts)


def difference(before: Plane, after: Plane, negligible: float) -> float:
    """Return the mean grey levels by which two hash planes differ; beyond movement, if that is not `negligible`."""
    levels = float(np.abs(before.astype(np.int16) - after).mean())
    return unexplained(before, after) if levels > negligible else levels


def _shift(before: Plane, after: Plane) -> tuple[int, int]:
    """Rows and columns by which `after` lies lower and farther right; (0, 0) where that is too far to count."""
    spectra = [rfft2((plane - np.float32(plane.mean())) * _WINDOW) for plane in (before, after)]
    cross = np.conj(spectra[0]) * spectra[1]
    peaks = irfft2(cross / np.maximum(np.abs(cross), 1e-6), s=before.shape)
    down, right = (int(place) for place in np.unravel_index(int(peaks.argmax()), peaks.shape))
    down, right = (place - 64 if place > 32 else place for place in (down, right))
    return (down, right) if max(abs(down), abs(right)) <= _FARTHEST_SHIFT else (0, 0)


def _overlap(before: Plane, after: Plane, down: int, right: int) -> tuple[Plane, Plane]:
    one = before[max(0, -down) : 64 - max(0, down), max(0, -right) : 64 - max(0, right)]
    other = after[max(0, down) : 64 - max(0, -down), max(0, right) : 64 - max(0, -right)]
    return one, other


def _residual(one: Plane, other: Plane) -> float:
    return float(np.maximum(_beyond(one, other), _beyond(other, one)).mean())


def _beyond(one: Plane, other: Plane) -> NDArray[np.int16]:
    """How far each pixel of `other` but those at the edge lies outside of what `one` has there and around it."""
    low, high = (
        bound(bound(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        for bound in (np.minimum, np.maximum)
        for rows in (bound(bound(one[:-2], one[1:-1]), one[2:]),)
    )
    middle, seen = one[1:-1, 1:-1].astype(np.int16), other[1:-1, 1:-1].astype(np.int16)
    above = seen - np.minimum(high, middle + _LARGEST_MOVE)
    below = np.maximum(low, middle - _LARGEST_MOVE) - seen
    outside: NDArray[np.int16] = np.maximum(np.maximum(above, below), 0)
    return outside
