"""Zooms, extensions and rotations by matrix are those of the pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.hashing.linear_views import EXTENSIONS, GRAY_SIDE, ZOOM_OUTS, LinearView, LinearViews, box_matrix
from models.hashing.pdq import Pdq
from models.hashing.rotations import ROTATIONS, rotated
from models.hashing.spectrum import batch_of, spectra_of

Picture = NDArray[np.uint8]


def _picture(seed: int, width: int = 960, height: int = 540) -> Picture:
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for step, cells in enumerate((4, 9, 18, 40)):
        coarse = generator.integers(0, 256, (cells, cells + 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / (step + 1)
    return np.asarray((total - total.min()) / np.ptp(total) * 255, dtype=np.uint8)


def _squeezed(picture: Picture, side: int) -> Picture:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


@given(start=st.floats(-0.5, 0.8), length=st.floats(0.05, 1.5), samples=st.sampled_from([64, 128, 256]))
@settings(max_examples=100, deadline=None)
def test_box_weights_are_an_average(start: float, length: float, samples: int) -> None:
    """Every output is an average of the line, so a constant stays what it is, and a ramp is met where it lies."""
    matrix = box_matrix(samples, start, start + length).astype(np.float64)
    places = np.clip(start + length * (np.arange(64) + 0.5) / 64, 0.5 / samples, 1 - 0.5 / samples)

    assert matrix.min() >= -1e-6
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-5)
    assert np.abs(matrix @ ((np.arange(samples) + 0.5) / samples) - places).max() <= 1 / samples + length / 128


def test_a_view_spans_something() -> None:
    """A stretch without length has no average."""
    with pytest.raises(ValueError, match="spans a stretch"):
        box_matrix(64, 0.5, 0.5)


@given(top=st.integers(0, 5), bottom=st.integers(0, 5), left=st.integers(0, 5), right=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_a_linear_view_hashes_as_its_pixels_do(top: int, bottom: int, left: int, right: int) -> None:
    """Repeating the edges and shrinking the picture that results gives the coefficients that the matrices give."""
    gray = _squeezed(_picture(top * 31 + left), 32)
    padded = cv2.copyMakeBorder(gray, top, bottom, left, right, cv2.BORDER_REPLICATE)
    # Enlarged to whole multiples of 64, so that its own shrinking is exact.
    exact = np.repeat(np.repeat(padded, 64, axis=0), 64, axis=1).astype(np.float32)
    height, width = padded.shape
    small = exact.reshape(64, height, 64, width).mean(axis=(1, 3))
    view = LinearView("view", (-top / 32, 1 + bottom / 32), (-left / 32, 1 + right / 32))

    found = LinearViews([view], side=32).spectra(gray.astype(np.float32))[0]
    assert np.abs(found - spectra_of(small)).max() < 0.05


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("zoom_3", (0.03, 0.97, 0.03, 0.97)),
        ("zoom_6", (0.06, 0.94, 0.06, 0.94)),
        ("zoom_9", (0.095, 0.905, 0.095, 0.905)),
        ("extend_top", (0.08, 1, 0, 1)),
        ("extend_bottom", (0, 0.92, 0, 1)),
        ("extend_left", (0, 1, 0.08, 1)),
        ("extend_right", (0, 1, 0, 0.92)),
    ],
)
def test_a_linear_view_undoes_a_crop(name: str, kept: tuple[float, float, float, float]) -> None:
    """Of pictures that lost their edges, the view that is meant for it is the nearest, and far nearer than nothing."""
    views = LinearViews(ZOOM_OUTS + EXTENSIONS)
    gains = []
    for seed in range(6):
        picture = _picture(seed)
        height, width = picture.shape
        top, bottom, left, right = kept
        crop = picture[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
        known = Pdq().hash_plane(_squeezed(picture, 64)).value
        spectra = views.spectra(_squeezed(crop, GRAY_SIDE).astype(np.float32))
        batch = batch_of(views.names, spectra, [0] * len(views.names), [0] * len(views.names))
        distances = {each: _distance(known, batch.values[row].tobytes()) for row, each in enumerate(views.names)}
        gains.append(_distance(known, Pdq().hash_plane(_squeezed(crop, 64)).value) - distances[name])
    assert np.median(gains) >= 20


@pytest.mark.parametrize(("width", "height"), [(960, 540), (540, 960), (640, 640)])
@pytest.mark.parametrize("number", range(len(ROTATIONS)))
def test_a_rotation_undoes_one_in_true_proportions(number: int, width: int, height: int) -> None:
    """A picture askew by two degrees, whatever its shape, is put upright to within the usual limit."""
    rotation = ROTATIONS[number]
    distances = []
    for seed in range(5):
        picture = _picture(seed, width, height)
        # OpenCV turns counter-clockwise by a positive angle: the very edit that a clockwise view undoes.
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rotation.degrees, rotation.zoom)
        askew = np.asarray(cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)
        upright = rotated(_squeezed(askew, GRAY_SIDE), rotation, width, height)
        known, found = Pdq().hash_plane(_squeezed(picture, 64)), Pdq().hash_plane(upright)
        distances.append(_distance(known.value, found.value))
    assert np.median(distances) <= (45 if rotation.zoom > 1 else 31)
