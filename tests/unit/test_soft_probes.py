"""Likely probes: the keys that a copy most likely has, bit for bit."""

import numpy as np
import pytest

from models.soft_probes import flip_masks, flip_patterns


@pytest.mark.parametrize("widths", [(20, 19), (24, 24), (25, 26), (26, 26)])
def test_masks_of_likely_probes_are_exact_in_slots_of_any_width(widths: tuple[int, ...]) -> None:
    """Each mask flips the very bits that its pattern names, the weakest first, however high they stand in the key."""
    bits = np.arange(sum(widths))
    deviations = np.random.default_rng(3).normal(size=(5, 256)).astype(np.float32)
    weights = np.abs(deviations)[:, (bits >> 3 << 3) + 7 - (bits & 7)]
    masks = flip_masks(deviations, widths, 96)
    begin = 0
    for slot, width in enumerate(widths):
        weakest = np.argsort(weights[:, begin : begin + width], axis=1)
        begin += width
        for number, pattern in enumerate(flip_patterns(96, min(widths))):
            wanted = [sum(1 << int(bit) for bit in row[: len(pattern)][pattern == 1]) for row in weakest]
            assert masks[:, slot, number].tolist() == wanted
