"""PDQ's 16x16 coefficients of many views at once: hashes, gates, and the orientations that cost no transform.

A view's hash is which of its 256 low cosine coefficients lie above their median, so every linear edit of a picture is a
linear edit of the coefficients; mirroring, turning and inverting are mere signs and transposes of them.
Public source of the hash: facebook/ThreatExchange, pdq/cpp/hashing/pdqhashing.cpp.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import Plane, checked_plane
from models.hashing.pdq import (
    DCT,
    DCT_T,
    MAX_NEAR_SHARE,
    MEDIAN_RANK,
    MIRRORED,
    NEAR_MEDIAN,
    TIE_MARGIN,
    in_reference_order,
)
from models.hashing.view_batch import ViewBatch

Spectra = NDArray[np.float32]
"""(V, 16, 16): rows are vertical frequencies 1-16, columns horizontal ones."""

_SIDE: Final = 16
_BITS: Final = _SIDE * _SIDE

_AS_REFERENCE: Final = frozenset({"identity", "mirror"})

_MIN_CARRIERS: Final = 75
_MOST_NEAR: Final = int(0.15 * _BITS)
_MAX_PARTICIPATION: Final = np.float32(60)
_MIN_TYPICAL: Final = np.float32(5)


def spectrum_of(plane: Plane) -> NDArray[np.float32]:
    """The (16, 16) float32 coefficients of a (64, 64) uint8 full-range luma plane, as PDQ's hash takes them.

    Raises:
        ValueError: The plane has another shape or type.
    """
    return np.asarray(DCT @ checked_plane(plane).astype(np.float32) @ DCT_T)


def spectra_of(planes: NDArray[np.float32]) -> Spectra:
    """The coefficients of (n, 64, 64) float32 planes."""
    return np.asarray(DCT @ planes @ DCT_T)


def mirrored(spectra: Spectra) -> Spectra:
    """Coefficients (..., 16, 16) of the same views mirrored left to right."""
    return spectra * MIRRORED


def flipped(spectra: Spectra) -> Spectra:
    """Coefficients of the same views upside down."""
    return spectra * MIRRORED.T


def turned(spectra: Spectra) -> Spectra:
    """Coefficients of the same views after a quarter turn to the left, as `np.rot90` does it to their pixels."""
    return spectra.swapaxes(-1, -2) * MIRRORED.T


def inverted(spectra: Spectra) -> Spectra:
    """Coefficients of the negatives of the same views."""
    return -spectra


def batch_of(
    names: Sequence[str],
    spectra: Spectra,
    qualities: Sequence[int] | NDArray[np.int16],
    tiers: Sequence[int] | NDArray[np.int8],
    *,
    plane: Plane | None = None,
) -> ViewBatch:
    """Hash (V, 16, 16) float32 coefficients, named one by one.

    `plane` is the frame's own: views called `identity` and `mirror` then equal `Pdq.hash_plane` of it and of its
    mirror image bit for bit, for which coefficients that tie with the median are summed in the reference's order.
    """
    # A hash lists the last coefficient first.
    flat = np.ascontiguousarray(spectra.reshape(len(spectra), _BITS)[:, ::-1])
    deviations = flat - _medians(flat)
    ordered = np.abs(deviations)
    ordered.sort(axis=1)
    if plane is not None:
        for row, name in enumerate(names):
            if name not in _AS_REFERENCE or ordered[row, 1] >= TIE_MARGIN:  # fewer than two tie
                continue
            levels = plane if name == "identity" else plane[:, ::-1]
            near = np.flatnonzero(np.abs(deviations[row]) < TIE_MARGIN)
            exact = flat[row].copy()
            exact[near] = in_reference_order(levels.astype(np.float32), _BITS - 1 - near)
            deviations[row] = exact - _medians(exact[None])[0]
    return ViewBatch(
        names=tuple(names),
        values=np.packbits(deviations > 0, axis=1),
        deviations=deviations,
        qualities=np.asarray(qualities, dtype=np.int16),
        is_stable=ordered[:, int(MAX_NEAR_SHARE * _BITS)] >= NEAR_MEDIAN,
        passes_shape=shape_gate(deviations, ordered),
        tiers=np.asarray(tiers, dtype=np.int8),
    )


def shape_gate(deviations: NDArray[np.float32], ordered: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
    """Tell of each view (V, 256) whether a distance beyond the usual limit means anything: (V,) bool.

    Few, large coefficients (chessboards, bars, flat pictures with a caption) bring unrelated pictures near each other.
    A view passes where 75 coefficients or more are needed for 80 % of the sum of deviations, at most 15 % of them lie
    within 2 grey levels of the median, the participation ratio is at most 60, and the typical one is 5 or more.

    `ordered` are the absolute deviations, ascending, for who has them already.
    """
    ordered = np.sort(np.abs(deviations), axis=1) if ordered is None else ordered
    # 75 or more are needed for 80 % of the sum where all but the largest 74 hold more than a fifth of it.
    carried = ordered[:, : _BITS - _MIN_CARRIERS + 1].sum(axis=1) > np.float32(0.2) * ordered.sum(axis=1)
    is_clear = ordered[:, _MOST_NEAR] >= NEAR_MEDIAN
    squares = ordered * ordered
    energy = squares.sum(axis=1)
    is_uneven = energy * energy <= _MAX_PARTICIPATION * np.einsum("ij,ij->i", squares, squares)
    is_strong = ordered[:, _BITS // 2 - 1] + ordered[:, _BITS // 2] >= 2 * _MIN_TYPICAL
    return np.asarray(carried & is_clear & is_uneven & is_strong, dtype=np.bool_)


def _medians(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    # The lower of the two middle coefficients, as the reference takes it.
    return np.partition(flat, MEDIAN_RANK, axis=1)[:, MEDIAN_RANK : MEDIAN_RANK + 1]
