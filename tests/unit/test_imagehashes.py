"""The 64-bit hashes are the imagehash package's own."""

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.hashing.imagehashes import DHASH, PHASH, WHASH, ImageHash

_FUNCTIONS = [(PHASH, imagehash.phash), (DHASH, imagehash.dhash), (WHASH, imagehash.whash)]


@pytest.mark.parametrize(("ours", "function"), _FUNCTIONS)
@given(content=st.binary(min_size=1, max_size=120))
@settings(max_examples=25, deadline=None)
def test_value_equals_the_packages_own(ours: ImageHash, function: object, content: bytes) -> None:
    """The value in hexadecimal is what imagehash prints for the same picture."""
    plane = np.resize(np.frombuffer(content, dtype=np.uint8), (64, 64))
    theirs = function(Image.fromarray(plane))  # type: ignore[operator]

    assert str(theirs) == ours.hash_plane(plane).value.hex()


def test_a_picture_with_something_to_see_is_stable() -> None:
    """A gradient with a blot has quality and counts as stable."""
    plane = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    plane[20:44, 20:44] = 0

    assert PHASH.hash_plane(plane).is_stable
    assert PHASH.hash_plane(plane).quality > 0
