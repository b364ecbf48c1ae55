"""Sides in the dark: a dark picture in a dark room differs from it by two or three grey levels, noise of bright ones.

Encoders keep such a step where it is long, and cameras have less noise where there is little light (photon noise grows
with the square root of the light). So steps are looked for in a picture whose darkest levels are spread.
"""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

_DARK: Final = 24
"""Grey levels that are spread."""

_TOP: Final = 255


def spreading(times: float) -> NDArray[np.uint8]:
    """The table (256,) for `spread_dark` by which the dark has so many times its contrast, and the rest a little less.

    Levels keep their order. Twice leaves nine tenths of a bright step, three times eight tenths.
    """
    return np.interp(np.arange(_TOP + 1), (0, _DARK, _TOP), (0, times * _DARK, _TOP)).astype(np.uint8)


def spread_dark(gray: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[Any]:
    """A gray uint8 picture of any size with its dark spread by a table."""
    return cv2.LUT(gray, table)
