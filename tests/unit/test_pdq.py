"""PDQ: the reference's bits and quality, and a verdict on stability."""

import importlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.hashing.pdq import Pdq

Plane = NDArray[np.uint8]

VECTORS = Path(__file__).parent / "pdq_vectors.json"
"""Hash and quality that the reference gave for `_noise(seed, side, shades)`, so that no build can do without it."""


def _reference(plane: Plane) -> tuple[bytes, int]:
    pdqhash = importlib.import_module("pdqhash")
    # pdqhash takes 64x64 input as it is; equal channels give back the gray value.
    bits, quality = pdqhash.compute(np.repeat(plane[:, :, None], 3, axis=2))
    return np.packbits(bits.astype(np.uint8)).tobytes(), int(quality)


def _assert_equals_reference(plane: Plane) -> None:
    fingerprint = Pdq().hash_plane(plane)

    assert _reference(plane) == (fingerprint.value, fingerprint.quality)


def _noise(seed: int, side: int, shades: int = 256) -> Plane:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, shades, (side, side)) * (255 // (shades - 1))
    return np.asarray(cv2.resize(coarse.astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


@pytest.mark.needs_pdqhash
@given(
    seed=st.integers(0, 2**32 - 1),
    side=st.sampled_from([2, 3, 5, 8, 16, 33, 64]),
    shades=st.sampled_from([2, 4, 256]),
)
@settings(max_examples=300, deadline=None)
def test_hash_and_quality_equal_the_reference(seed: int, side: int, shades: int) -> None:
    """Smooth, rough and two-tone pictures hash to the reference's very bits and quality."""
    _assert_equals_reference(_noise(seed, side, shades))


@pytest.mark.needs_pdqhash
@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_hash_equals_the_reference_on_bytes_of_any_kind(content: bytes) -> None:
    """Repeated bytes that no camera ever gave hash to the reference's bits too."""
    _assert_equals_reference(np.resize(np.frombuffer(content, dtype=np.uint8), (64, 64)))


@pytest.mark.needs_pdqhash
@pytest.mark.parametrize("cell", [1, 2, 3, 4, 5, 8, 13, 16, 32])
@pytest.mark.parametrize("levels", [(0, 255), (16, 17), (100, 151)])
def test_hash_equals_the_reference_where_coefficients_tie(cell: int, levels: tuple[int, int]) -> None:
    """Chessboards, stripes and flat planes, whose coefficients are rounding errors, agree with the reference."""
    rows, columns = np.indices((64, 64)) // cell
    dark, light = levels
    for pattern in ((rows + columns) % 2, rows % 2, columns % 2, np.zeros_like(rows)):
        _assert_equals_reference(np.where(pattern == 1, light, dark).astype(np.uint8))


_PLANES = st.one_of(
    st.builds(_noise, st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 16, 64]), st.sampled_from([2, 4, 256])),
    st.binary(min_size=1, max_size=200).map(lambda content: np.resize(np.frombuffer(content, np.uint8), (64, 64))),
)


@given(_PLANES)
@settings(max_examples=400, deadline=None)
def test_both_ways_equal_the_hashes_of_plane_and_mirror_image(plane: Plane) -> None:
    """One transform gives both fingerprints, bit for bit, ties and qualities included."""
    pdq = Pdq()
    mirrored = np.ascontiguousarray(plane[:, ::-1])

    assert pdq.hash_both_ways(plane) == (pdq.hash_plane(plane), pdq.hash_plane(mirrored))


@pytest.mark.needs_pdqhash
@given(_PLANES)
@settings(max_examples=100, deadline=None)
def test_the_mirror_image_equals_the_reference(plane: Plane) -> None:
    """The mirrored half has the bits and the quality that the reference gives the mirrored plane."""
    mirrored = Pdq().hash_both_ways(plane)[1]

    assert _reference(np.ascontiguousarray(plane[:, ::-1])) == (mirrored.value, mirrored.quality)


def test_hash_and_quality_equal_what_the_reference_once_gave() -> None:
    """Two hundred pictures of every roughness, bit by bit, also where the reference cannot be installed."""
    vectors = json.loads(VECTORS.read_text())

    assert len(vectors) == 200
    for seed, side, shades, value, quality in vectors:
        fingerprint = Pdq().hash_plane(_noise(seed, side, shades))
        assert (fingerprint.value.hex(), fingerprint.quality) == (value, quality), (seed, side, shades)


def test_hash_takes_views_of_other_arrays() -> None:
    """A mirrored, non-contiguous view hashes as its copy does."""
    mirrored = _noise(7, 12)[:, ::-1]

    assert Pdq().hash_plane(mirrored) == Pdq().hash_plane(np.ascontiguousarray(mirrored))


def _encoded(picture: Plane, quality: int, side: int) -> Plane:
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
    return np.asarray(cv2.resize(decoded, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _worst_drift(picture: Plane) -> int:
    own = Pdq().hash_plane(np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8))
    return max(
        (
            int.from_bytes(own.value) ^ int.from_bytes(Pdq().hash_plane(_encoded(picture, quality, side)).value)
        ).bit_count()
        for quality, side in ((30, 512), (60, 360), (40, 200), (90, 333))
    )


def test_stability_tells_pictures_from_patterns() -> None:
    """What is called stable stays within the match limit when re-encoded; regular patterns are called unstable."""
    generator = np.random.default_rng(5)
    for _ in range(12):
        coarse = generator.integers(0, 256, (9, 9), dtype=np.uint8)
        picture = np.asarray(cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        small = np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        assert Pdq().hash_plane(small).is_stable
        assert _worst_drift(picture) <= Pdq.max_distance
    for cell in (8, 16, 32, 64):
        rows, columns = np.indices((512, 512)) // cell
        board = np.where((rows + columns) % 2 == 1, 230, 10).astype(np.uint8)
        small = np.asarray(cv2.resize(board, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        assert not Pdq().hash_plane(small).is_stable
        assert _worst_drift(board) > Pdq.max_distance


def test_flat_plane_has_no_quality_and_no_stability() -> None:
    """A flat plane is neither of quality nor stable."""
    fingerprint = Pdq().hash_plane(np.full((64, 64), 90, dtype=np.uint8))

    assert (fingerprint.quality, fingerprint.is_stable) == (0, False)


@pytest.mark.parametrize(
    "plane", [np.zeros((32, 32), np.uint8), np.zeros((64, 64), np.float32), np.zeros((64, 64, 3), np.uint8)]
)
def test_other_planes_are_refused(plane: Plane) -> None:
    """A plane of another shape or type is refused by name."""
    with pytest.raises(ValueError, match="a hash plane is"):
        Pdq().hash_plane(plane)
