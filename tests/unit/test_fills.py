"""Fills are smooth, leave the rest alone, and their coefficients come without the pixels."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.hashing.fills import BARS, CORNERS, SIDES, Fill, pull_push
from models.hashing.pdq import Pdq
from models.hashing.spectrum import batch_of, spectra_of, spectrum_of

_FILLS = (*BARS, *SIDES, *CORNERS)
_NAMES = [fill.name for fill in _FILLS]


def _plane(seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    total = np.zeros((64, 64))
    for step, cells in enumerate((4, 9, 18, 40)):
        coarse = generator.integers(0, 256, (cells, cells)).astype(np.float32)
        total += cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC) / (step + 1)
    return np.asarray((total - total.min()) / np.ptp(total) * 255, dtype=np.uint8)


@pytest.mark.parametrize("fill", _FILLS, ids=_NAMES)
def test_the_operator_is_the_explicit_fill(fill: Fill) -> None:
    """Coefficients from the pixels around the place alone are those of the filled picture."""
    for seed in range(5):
        plane = _plane(seed)
        levels = plane.astype(np.float32)
        found = fill.spectrum(levels, spectrum_of(plane))

        assert np.abs(found - spectra_of(fill.filled(levels))).max() < 0.01


@pytest.mark.parametrize("fill", _FILLS, ids=_NAMES)
def test_a_fill_is_harmonic(fill: Fill) -> None:
    """Each filled pixel is the mean of its neighbours in the frame; others stay, and what was there is forgotten."""
    levels = _plane(3).astype(np.float32)
    other = levels.copy()
    other[fill.mask] = 255 - other[fill.mask]
    filled = fill.filled(levels)
    framed = np.pad(filled, 1, constant_values=np.nan)
    around = np.stack((framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]))

    assert np.abs(np.nanmean(around, axis=0) - filled)[fill.mask].max() < 0.02
    assert np.array_equal(filled[~fill.mask], levels[~fill.mask])
    assert np.allclose(fill.filled(other), filled)


@pytest.mark.parametrize("fill", _FILLS, ids=_NAMES)
def test_a_fill_brings_a_covered_picture_nearer(fill: Fill) -> None:
    """Where something alien covers its place, the filled view lies nearer to the known hash, on the whole."""
    gains = []
    for seed in range(8):
        plane = _plane(seed)
        shown = plane.copy()
        noise = np.random.default_rng(seed + 100).integers(0, 2, (64, 64)) * 200
        shown[fill.mask] = noise.astype(np.uint8)[fill.mask]
        spectra = np.stack((spectrum_of(shown), fill.spectrum(shown.astype(np.float32), spectrum_of(shown))))
        batch = batch_of(("identity", "fill"), spectra, (0, 0), (0, 0))
        known = int.from_bytes(Pdq().hash_plane(plane).value)
        as_it_is, filled = ((int.from_bytes(value.tobytes()) ^ known).bit_count() for value in batch.values)
        gains.append(as_it_is - filled)
    assert np.median(gains) > 0


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.05, 0.4, 0.95]), level=st.integers(0, 255))
@settings(max_examples=50, deadline=None)
def test_any_mask_is_filled_from_what_is_known(seed: int, share: float, level: int) -> None:
    """What is known stays; what is filled lies within its range and owes nothing to what was covered."""
    generator = np.random.default_rng(seed)
    mask = (
        cv2.resize((generator.random((9, 9)) < share).astype(np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST) > 0
    )
    levels = _plane(seed).astype(np.float32)
    other = np.where(mask, np.float32(level), levels)
    filled = pull_push(levels, mask)

    assert np.array_equal(filled[~mask], levels[~mask])
    if mask.all():
        assert np.array_equal(filled, levels)
    else:
        assert np.allclose(pull_push(other, mask), filled, atol=0.01)
        assert filled.min() >= levels[~mask].min() - 0.01
        assert filled.max() <= levels[~mask].max() + 0.01
        assert np.allclose(pull_push(np.full_like(levels, 77), mask), 77, atol=0.01)


def test_a_forked_process_finds_the_fills_ready() -> None:
    """Whoever imports what analysis processes are forked from has all operators: no fresh process works them out."""
    code = (
        "import detector.analysis.worker, threading\n"
        "from models.hashing.fills import BARS, CORNERS, SIDES\n"
        "print(all('_operator' in vars(fill) for fill in (*BARS, *SIDES, *CORNERS)))\n"
        "from pathlib import Path\n"
        "print(len(list(Path('/proc/self/task').iterdir())))"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert found.stdout.split() == ["True", "1"]
