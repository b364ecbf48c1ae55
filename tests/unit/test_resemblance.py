"""Which pictures look like any of many others."""

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.resemblance import RADIUS, resembling


def _rows(values: list[int], width: int) -> NDArray[np.uint8]:
    joined = b"".join(value.to_bytes(width) for value in values)
    return np.frombuffer(joined, np.uint8).reshape(len(values), width)


def _flipped(value: int, bits: int, width: int) -> int:
    return value ^ sum(1 << place for place in Random(bits).sample(range(8 * width), bits))


@settings(deadline=None)
@given(
    distance=st.integers(0, 130),
    second=st.integers(0, 400),
    has_second=st.booleans(),
    crowd=st.integers(0, 5000),
    seed=st.integers(0, 9),
)
def test_near_pictures_are_found_in_any_crowd(
    *, distance: int, second: int, has_second: bool, crowd: int, seed: int
) -> None:
    """A copy is found where both hashes are near; without a second hash, or very near, the first one decides."""
    source = Random(seed)
    one, its_second = source.getrandbits(256), source.getrandbits(512)
    others = np.frombuffer(source.randbytes(32 * crowd), np.uint8).reshape(-1, 32)
    seconds = np.frombuffer(source.randbytes(64 * crowd), np.uint8).reshape(-1, 64)
    found = resembling(
        _rows([one, source.getrandbits(256)], 32),
        _rows([its_second, source.getrandbits(512)], 64),
        np.concatenate((others, _rows([_flipped(one, distance, 32)], 32))),
        np.concatenate((seconds, _rows([_flipped(its_second, second, 64)], 64))),
        np.array([True] * crowd + [has_second]),
    )
    expected = distance <= 31 or (distance <= RADIUS and (not has_second or second <= 184))
    assert found.tolist() == [expected, False]


def test_nothing_resembles_nobody() -> None:
    """No others, or no pictures: no likeness, and no fault."""
    rows, seconds = _rows([1], 32), _rows([1], 64)
    empty, no_seconds = np.zeros((0, 32), np.uint8), np.zeros((0, 64), np.uint8)
    assert resembling(rows, seconds, empty, no_seconds, np.zeros(0, np.bool_)).tolist() == [False]
    assert resembling(empty, no_seconds, rows, seconds, np.ones(1, np.bool_)).tolist() == []
