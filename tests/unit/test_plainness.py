"""Hashes of pictures with next to no structure are told from their bits; others are not taken for such."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.hashing.pdq import Pdq
from models.hashing.plainness import LEAST_STRUCTURE, bits_off_product, plain
from tests.scenes import plane, scene

_PIXELS = np.arange(64)


def hashed(levels: np.ndarray) -> np.ndarray:
    return np.frombuffer(Pdq().hash_plane(levels.astype(np.uint8)).value, np.uint8)[None]


@given(
    rows=st.integers(0, 2**16 - 1), columns=st.integers(0, 2**16 - 1), flips=st.sets(st.integers(0, 255), max_size=12)
)
def test_product_of_rows_and_columns_is_found_through_a_few_wrong_bits(
    rows: int, columns: int, flips: set[int]
) -> None:
    """However a hash is made of a row and a column, it is as far from a product as bits were turned, or nearer."""
    row = np.array([rows >> place & 1 for place in range(16)], np.uint8)
    column = np.array([columns >> place & 1 for place in range(16)], np.uint8)
    bits = (row[:, None] ^ column[None, :]).ravel()
    bits[sorted(flips)] ^= 1

    assert bits_off_product(np.packbits(bits)[None])[0] <= len(flips)


def test_random_hashes_have_structure() -> None:
    """No hash of thousands that were drawn is called plain."""
    drawn = np.random.default_rng(3).integers(0, 256, (4000, 32), dtype=np.uint8)

    assert not plain(drawn).any()
    assert bits_off_product(drawn).min() > LEAST_STRUCTURE + 10


@pytest.mark.parametrize(("down", "across"), [(21, 13), (37, 25), (45, 51), (19, 43)])
def test_plain_pictures_are_told(down: int, across: int) -> None:
    """A corner is plain, with the noise of an encoder; but one in the very middle has half of its coefficients at 0."""
    levels = np.where(_PIXELS[:, None] < down, 30, 200) * np.where(_PIXELS[None, :] < across, 0.4, 1.0)
    noise = np.random.default_rng(1).normal(0, 0.3, (64, 64))

    assert plain(hashed(np.clip(levels + noise, 0, 255)))[0]


def test_pictures_with_something_to_see_are_not_plain() -> None:
    """Of scenes with something to see, next to none is called plain."""
    planes = [plane(scene(seed)) for seed in range(30)]
    hashes = np.concatenate([hashed(each) for each in planes])

    assert plain(hashes).mean() <= 0.1
