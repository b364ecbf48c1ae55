"""Second opinions on a PDQ match: cheap questions that chance matches answer differently from edited copies.

Two hashes that lie 32-64 bits apart may be copies of one picture or two pictures that happen to agree. For a bare hash
there is the *weighted share*: an edit turns over the bits of small coefficients, chance turns over any. For a picture
at hand there is a *second hash* of 512 bits: the signs of the horizontal and vertical steps of the low-pass picture
that the 16x16 PDQ coefficients describe (a difference hash, D. Wong 2013, `ImageHash.dhash`, on a smoother picture).

Its bits tell less where there is little to see: one outline on plain ground settles nearly all of them, and another
such outline settles them alike. `structures_of_views` says how much there is; how many bits may differ goes by it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

SECOND_BITS: Final = 512
SECOND_BYTES: Final = SECOND_BITS // 8

Seconds = NDArray[np.uint8]
"""(n, 64) second hashes: 16x16 signs of steps to the right, then 16x16 signs of steps down, most significant first."""

_SIDE: Final = 16
_CAP: Final = 3.0
"""In typical deviations: above it a coefficient weighs no more, else a picture's few largest would decide alone."""

_FREQUENCIES: Final = np.arange(1, _SIDE + 1)[:, None]
_CENTRES: Final = (np.arange(_SIDE)[None, :] + 0.5) / _SIDE

# The picture is sampled at the 17 edges of 16 cells along the step, and at the cells' centres across it, so that
# mirroring and turning map samples to samples.
_LEVELS: Final = np.cos(np.pi * _FREQUENCIES * _CENTRES).astype(np.float32)
_STEPS: Final = (
    np.cos(np.pi * _FREQUENCIES * (_CENTRES + 0.5 / _SIDE)) - np.cos(np.pi * _FREQUENCIES * (_CENTRES - 0.5 / _SIDE))
).astype(np.float32)
_LEVELS_T: Final = np.ascontiguousarray(_LEVELS.T)
_STEPS_T: Final = np.ascontiguousarray(_STEPS.T)


def prepare_medians() -> None:
    """Load what `np.median` loads at its first use; a cage lets nothing be loaded later."""
    np.median(_CENTRES)


def weighted_share(deviations: NDArray[np.float32], row: bytes) -> float:
    """The share of a view's weight that lies in bits in which `row`, a 32-byte PDQ hash, disagrees: 0-1.

    `deviations` (256,) are the view's, as in `ViewBatch`. A bit weighs what its coefficient is away from the median,
    at most three times the typical one. A copy at 40 bits has about 0.06 where chance has 0.15.
    """
    rows = np.frombuffer(row, dtype=np.uint8)[None, :]
    return float(weighted_shares(deviations[None, :], np.zeros(1, dtype=np.intp), rows)[0])


def weighted_shares(
    deviations: NDArray[np.float32], queries: NDArray[np.integer], rows: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """`weighted_share` of P pairs: view `queries[p]` of `deviations` (V, 256) with hash `rows[p]` of (P, 32) uint8."""
    used, place = np.unique(queries, return_inverse=True)
    sizes = np.abs(deviations[used])
    weights = np.minimum(sizes, _CAP * np.median(sizes, axis=1, keepdims=True))
    totals = weights.sum(axis=1)
    disagree = np.unpackbits(rows, axis=1) != (deviations > 0).view(np.uint8)[queries]
    shares = np.einsum("ij,ij->i", weights[place], disagree.astype(np.float32))
    # A flat view disagrees wholly: it has nothing to agree with.
    whole = totals[place]
    return np.asarray(np.divide(shares, whole, out=np.ones_like(shares), where=whole > 0), dtype=np.float32)


def difference_hash(spectrum: NDArray[np.float32]) -> bytes:
    """The second hash (64 bytes) of a view with these (16, 16) PDQ coefficients, as `spectrum_of` gives them."""
    steps = np.empty((2, _SIDE, _SIDE), dtype=np.float32)
    np.matmul(_LEVELS_T @ spectrum, _STEPS, out=steps[0])
    np.matmul(_STEPS_T @ spectrum, _LEVELS, out=steps[1])
    return np.packbits(steps > 0).tobytes()


def difference_hashes(spectra: NDArray[np.float32]) -> Seconds:
    """The second hashes (n, 64) uint8 of views with these (n, 16, 16) coefficients."""
    return _hashes(*_steps(spectra))


def difference_hashes_of_views(deviations: NDArray[np.float32]) -> Seconds:
    """The second hashes (V, 64) of views of which only `ViewBatch.deviations` (V, 256) are at hand.

    The median that is missing from them is small beside the low coefficients: 3 bits of 512 on average, 18 at most.
    """
    return difference_hashes(_spectra(deviations))


def structures_of_views(deviations: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of views with these `ViewBatch.deviations` (V, 256) there is to tell them from others by: (V,), 0-1.

    The part of the low-pass picture that its steps are spread over: the participation ratio of their lengths, squared.
    Of copies of photographs nine in ten have more than 0.23, half 0.37; a lone edge or disc on plain ground 0.05-0.17.
    """
    across, down = _steps(_spectra(deviations))
    energy = across * across + down * down
    total = energy.sum(axis=(1, 2))
    lengths = np.sqrt(energy).sum(axis=(1, 2))
    whole = _SIDE * _SIDE * total
    part = np.divide(lengths * lengths, whole, out=np.zeros_like(total), where=whole > 0)
    return np.asarray(part * part, dtype=np.float32)


def second_distances(seconds: Seconds, queries: NDArray[np.integer], rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hamming distances of P pairs: view `queries[p]` of `seconds` (V, 64) with second hash `rows[p]` of (P, 64)."""
    differing = np.ascontiguousarray(seconds[queries] ^ rows).view(np.uint64)
    return np.asarray(np.bitwise_count(differing).sum(axis=1, dtype=np.int64))


def _spectra(deviations: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(deviations[:, ::-1]).reshape(-1, _SIDE, _SIDE)


def _steps(spectra: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Steps to the right and steps down, (n, 16, 16) each."""
    return np.asarray(_LEVELS_T @ spectra @ _STEPS), np.asarray(_STEPS_T @ spectra @ _LEVELS)


def _hashes(across: NDArray[np.float32], down: NDArray[np.float32]) -> Seconds:
    signs = np.stack((across, down), axis=1) > 0
    return np.packbits(signs.reshape(len(across), SECOND_BITS), axis=1)
