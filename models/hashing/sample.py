"""One frame, as its views are made of it: what several of them need is computed once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import Plane, gradient_quality
from models.hashing.linear_views import GRAY_SIDE, LinearViews
from models.hashing.pdq import MEDIAN_RANK
from models.hashing.spectrum import Spectra, spectra_of, spectrum_of
from models.shapes.quadrilaterals import Outlines, Quad
from models.shapes.rectangles import Box, rectangles

MOST_BOXES: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """One view of a frame: its (16, 16) coefficients and its quality; what was made of pixels has its plane too."""

    spectrum: NDArray[np.float32]
    quality: int
    plane: Plane | None = None


class Sample:
    """One frame that is being looked at. Not for two threads.

    Args:
        plane: (64, 64) uint8 full-range luma.
        picture: (256, 256, 3) uint8 RGB, the whole frame squeezed to a square.
        width: Of the frame before that, in pixels.
        height: Likewise.
        overlay: (64, 64) bool, where the stream lays something over its picture; None where nothing is known of it.
    """

    def __init__(
        self,
        plane: Plane,
        picture: NDArray[np.uint8],
        width: int,
        height: int,
        overlay: NDArray[np.bool_] | None = None,
    ) -> None:
        self.plane = plane
        self.picture = picture
        self.width = width
        self.height = height
        self.overlay = overlay
        self.made: dict[str, Made | None] = {}
        """The views made so far by name; None for what this frame does not have."""
        self._linear: dict[LinearViews, Spectra] = {}
        self._quads: dict[int, Quad | None] = {}

    @cached_property
    def levels(self) -> NDArray[np.float32]:
        """The plane as float32."""
        return self.plane.astype(np.float32)

    @cached_property
    def spectrum(self) -> NDArray[np.float32]:
        """The plane's (16, 16) coefficients."""
        return spectrum_of(self.plane)

    @cached_property
    def rough_value(self) -> bytes:
        """The plane's hash but for ties, 32 bytes: to tell whether the picture changed, never to match it."""
        flat = self.spectrum.ravel()[::-1]
        return np.packbits(flat > np.partition(flat, MEDIAN_RANK)[MEDIAN_RANK]).tobytes()

    @cached_property
    def quality(self) -> int:
        """PDQ's quality of the plane, 0-100."""
        return gradient_quality(self.plane)

    @cached_property
    def gray(self) -> NDArray[np.uint8]:
        """The picture's luma, (256, 256) uint8."""
        return np.asarray(cv2.cvtColor(self.picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)

    @cached_property
    def half(self) -> NDArray[np.uint8]:
        """The picture's luma at half its size, (128, 128) uint8."""
        return np.asarray(cv2.resize(self.gray, (GRAY_SIDE, GRAY_SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    @cached_property
    def half_levels(self) -> NDArray[np.float32]:
        """`half` as float32."""
        return self.half.astype(np.float32)

    @cached_property
    def boxes(self) -> tuple[Box, ...]:
        """The rectangles in the picture, best first."""
        return rectangles(self.gray, MOST_BOXES)

    @cached_property
    def _outlines(self) -> Outlines:
        return Outlines(self.gray)

    def quad(self, threshold: int) -> Quad | None:
        """The outermost quadrilateral at one threshold."""
        if threshold not in self._quads:
            self._quads[threshold] = self._outlines.outermost(threshold)
        return self._quads[threshold]

    def linear(self, views: LinearViews) -> Spectra:
        """The coefficients of a set of linear views."""
        if views not in self._linear:
            self._linear[views] = views.spectra(self.half_levels)
        return self._linear[views]


def made_of(plane: Plane) -> Made:
    """A view from its own (64, 64) uint8 plane."""
    return Made(spectra_of(plane.astype(np.float32)), gradient_quality(plane), plane)
