"""A batch of spectra hashes as its planes do, orientations are free, and the gate knows pictures without structure."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.hashing.pdq import Pdq
from models.hashing.spectrum import Spectra, batch_of, flipped, inverted, mirrored, shape_gate, spectra_of, spectrum_of
from models.hashing.spectrum import turned as turned_left

Plane = NDArray[np.uint8]


def _noise(seed: int, side: int, shades: int = 256) -> Plane:
    coarse = np.random.default_rng(seed).integers(0, shades, (side, side)) * (255 // (shades - 1))
    return np.asarray(cv2.resize(coarse.astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _natural(seed: int) -> Plane:
    """Noise of every scale, the finer the weaker, as in photographs."""
    scales = (3, 6, 12, 24, 48)
    layers = [_noise(seed * 10 + step, side).astype(np.float64) / (step + 1) for step, side in enumerate(scales)]
    total = np.sum(layers, axis=0)
    return np.asarray((total - total.min()) / np.ptp(total) * 255, dtype=np.uint8)


_PLANES = st.one_of(
    st.builds(_noise, st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 16, 64]), st.sampled_from([2, 4, 256])),
    st.binary(min_size=1, max_size=200).map(lambda content: np.resize(np.frombuffer(content, np.uint8), (64, 64))),
)


@given(_PLANES)
@settings(max_examples=200, deadline=None)
def test_identity_and_mirror_hash_as_pdq_does(plane: Plane) -> None:
    """Bit for bit, ties with the median included, and with PDQ's verdict on stability."""
    spectrum = spectrum_of(plane)
    batch = batch_of(("identity", "mirror"), np.stack((spectrum, mirrored(spectrum))), (7, 7), (0, 0), plane=plane)

    for row, expected in enumerate(Pdq().hash_both_ways(plane)):
        assert batch.values[row].tobytes() == expected.value
        assert batch.is_stable[row] == expected.is_stable


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_bit_is_set_where_its_deviation_is_above_zero(seeds: list[int]) -> None:
    """Deviations stand in the order of the unpacked bits; half of them, but for ties, are above the median."""
    planes = np.stack([_natural(seed) for seed in seeds]).astype(np.float32)
    batch = batch_of(["v"] * len(seeds), spectra_of(planes), [50] * len(seeds), [1] * len(seeds))

    assert np.array_equal(np.unpackbits(batch.values, axis=1) == 1, batch.deviations > 0)
    assert np.all(np.abs(np.count_nonzero(batch.deviations > 0, axis=1) - 128) <= 1)
    assert (len(batch), batch.values.shape, batch.tiers.tolist()) == (len(seeds), (len(seeds), 32), [1] * len(seeds))


_ORIENTATIONS: list[tuple[Callable[[Spectra], Spectra], Callable[[Plane], Plane]]] = [
    (mirrored, lambda plane: plane[:, ::-1]),
    (flipped, lambda plane: plane[::-1]),
    (turned_left, np.rot90),
    (inverted, lambda plane: 255 - plane),
    (lambda spectra: flipped(mirrored(spectra)), lambda plane: plane[::-1, ::-1]),
    (lambda spectra: turned_left(turned_left(turned_left(spectra))), lambda plane: np.rot90(plane, 3)),
]


@pytest.mark.parametrize("way", range(len(_ORIENTATIONS)))
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_orientations_are_those_of_the_plane(way: int, seed: int) -> None:
    """Signs and transposes of the coefficients hash as the transformed pixels do, but for bits that tie."""
    of_spectra, of_pixels = _ORIENTATIONS[way]
    plane = _natural(seed)
    expected = spectra_of(np.ascontiguousarray(of_pixels(plane)).astype(np.float32))
    found = of_spectra(spectrum_of(plane))

    assert np.abs(found - expected).max() < 0.01
    batch = batch_of(("found", "expected"), np.stack((found, expected)), (0, 0), (0, 0))
    bits = np.unpackbits(batch.values, axis=1)
    assert np.all(np.abs(batch.deviations[1][bits[0] != bits[1]]) < 0.03)


def _gate_by_definition(deviations: NDArray[np.float32]) -> bool:
    sizes = np.sort(np.abs(deviations.astype(np.float64)))[::-1]
    carriers = int(np.argmax(np.cumsum(sizes) >= 0.8 * sizes.sum())) + 1
    participation = (sizes**2).sum() ** 2 / (sizes**4).sum() if sizes.any() else 0.0
    return bool(carriers >= 75 and (sizes < 2).mean() <= 0.15 and participation <= 60 and np.median(sizes) >= 5)


@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    strength=st.floats(0.5, 60),
    steep=st.floats(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_the_shape_gate_is_its_definition(seeds: list[int], strength: float, steep: float) -> None:
    """Batched and sorted once, the gate says what its four plain conditions say."""
    weights = np.arange(1, 257, dtype=np.float64) ** -steep
    rows = [np.random.default_rng(seed).normal(size=256) * weights * strength * 10**steep for seed in seeds]
    deviations = np.array(rows, dtype=np.float32)

    assert shape_gate(deviations).tolist() == [_gate_by_definition(row) for row in deviations]


def test_the_shape_gate_tells_structure_from_patterns() -> None:
    """Photograph-like pictures pass; chessboards, stripes, flat pictures and lone shapes do not."""
    rows, columns = np.indices((64, 64))
    lone = np.full((64, 64), 30)
    lone[20:40, 20:40] = 220
    patterns = [(rows // 8 + columns // 8) % 2 * 255, rows // 4 % 2 * 255, np.full((64, 64), 90), lone, rows * 4]
    dull = np.stack([np.asarray(each, dtype=np.float32) for each in patterns])
    rich = np.stack([_natural(seed) for seed in range(20)]).astype(np.float32)

    assert not batch_of(["v"] * 5, spectra_of(dull), [0] * 5, [0] * 5).passes_shape.any()
    assert np.count_nonzero(batch_of(["v"] * 20, spectra_of(rich), [0] * 20, [0] * 20).passes_shape) >= 18
