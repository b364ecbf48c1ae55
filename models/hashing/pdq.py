"""PDQ, the 256-bit perceptual hash that exchanges use, from a 64x64 luma plane.

Public source: facebook/ThreatExchange, pdq/cpp/hashing/pdqhashing.cpp, whose path for 64x64 input is meant for video.
The result is equal to the reference bit for bit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import Fingerprint, Plane, checked_plane, gradient_quality

_FREQUENCIES: Final = np.arange(1, 17)[:, None]
_PIXELS: Final = np.arange(64)[None, :]

# The reference rounds the scale to float32 first and the product last; one rounding elsewhere changes bits of the hash.
DCT: Final = (
    np.float64(np.float32(np.sqrt(2 / 64))) * np.cos((np.pi / 2 / 64) * _FREQUENCIES * (2 * _PIXELS + 1))
).astype(np.float32)
"""Frequencies 1-16 of 64 samples, (16, 64) float32."""

DCT_T: Final = np.ascontiguousarray(DCT.T)

MIRRORED: Final = np.where(_FREQUENCIES.T % 2 == 1, np.float32(-1), np.float32(1))
"""cos(f * (pi - x)) is (-1)^f cos(f * x): what mirroring does to each column of coefficients."""

MEDIAN_RANK: Final = 127
"""The reference takes the lower of the two middle coefficients."""

TIE_MARGIN: Final = 0.03
"""Coefficients that lie this close to the median are summed again in the reference's order.

BLAS adds in an order of its own; against the reference's the coefficients differ by at most 0.0008 in random, smooth,
flat and high-contrast pictures. About one plane in ten has such a neighbour of the median and pays for slow sums.
"""

NEAR_MEDIAN: Final = 2.0
"""How far a re-encode (JPEG 30-90, halved and restored sizes) typically moves a coefficient, in its own units."""

MAX_NEAR_SHARE: Final = 0.25
"""The share of coefficients within `NEAR_MEDIAN` of the median above which a hash is called unstable.

Measured on 140 synthetic pictures (1/f noise of every contrast, cards, text, chessboards, stripes, line grids), each
re-encoded four ways: the share predicts the worst drift (correlation 0.96; PDQ's own quality gives a chessboard 100).
Up to a quarter the drift stayed within 22 bits, well inside the usual limit of 31; above it went from 22 to 192.
"""


class Pdq:
    """PDQ with its quality and a verdict on its stability; its authors recommend the limit 31 (pdq/README.md)."""

    name: Final = "pdq"
    bits: Final = 256
    max_distance: Final = 31

    def hash_plane(self, plane: Plane) -> Fingerprint:
        """Fingerprint a (64, 64) uint8 full-range luma plane.

        Raises:
            ValueError: The plane has another shape or type.
        """
        levels = checked_plane(plane).astype(np.float32)
        return _fingerprint(levels, (DCT @ levels @ DCT_T).ravel(), gradient_quality(plane))

    def hash_both_ways(self, plane: Plane) -> tuple[Fingerprint, Fingerprint]:
        """Fingerprint a plane and its mirror image `plane[:, ::-1]`.

        Mirroring turns the sign of every coefficient whose horizontal frequency is odd, and leaves the quality alone.
        """
        levels = checked_plane(plane).astype(np.float32)
        coefficients = DCT @ levels @ DCT_T
        quality = gradient_quality(plane)
        return (
            _fingerprint(levels, coefficients.ravel(), quality),
            _fingerprint(levels[:, ::-1], (coefficients * MIRRORED).ravel(), quality),
        )


def _fingerprint(levels: NDArray[np.float32], coefficients: NDArray[np.float32], quality: int) -> Fingerprint:
    median = np.partition(coefficients, MEDIAN_RANK)[MEDIAN_RANK]
    distances = np.abs(coefficients - median)
    near = np.flatnonzero(distances < TIE_MARGIN)
    if len(near) > 1:
        coefficients = coefficients.copy()
        coefficients[near] = in_reference_order(levels, near)
        median = np.partition(coefficients, MEDIAN_RANK)[MEDIAN_RANK]
    bits = coefficients > median
    return Fingerprint(
        value=np.packbits(bits[::-1]).tobytes(),
        quality=quality,
        is_stable=int(np.count_nonzero(distances < NEAR_MEDIAN)) <= MAX_NEAR_SHARE * distances.size,
    )


def in_reference_order(levels: NDArray[np.float32], places: NDArray[np.intp]) -> NDArray[np.float32]:
    """Take some coefficients of (64, 64) float32 levels, every sum in the order of the reference's loops.

    `places` are their places in the flat (256,). Whatever lies farther from the median than `TIE_MARGIN` stays on its
    side of it, so these few are enough to know every bit.
    """
    rows, columns = np.divmod(places, len(DCT))
    wanted = rows if len(places) < len(DCT) else np.arange(len(DCT))
    lines = _added_in_order(DCT_T[:, wanted, None], levels[:, None, :])
    if len(places) >= len(DCT):
        lines = lines[rows]
    return _added_in_order(lines.T, DCT_T[:, columns])


def _added_in_order(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    # A reduction over the outermost axis in memory adds line after line, as the reference's loop over k does; over any
    # other it may add in pairs. So the products need an array of their own, whatever the factors' layouts.
    products = np.empty(np.broadcast_shapes(one.shape, other.shape), dtype=np.float32)
    sums: NDArray[np.float32] = np.add.reduce(np.multiply(one, other, out=products), axis=0)
    return sums
