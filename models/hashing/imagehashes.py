"""phash, dhash and whash of the imagehash package (JohannesBuchner/imagehash) on the hash plane: 64 bits each.

A 64-bit hash is never enough to cut: among a million random entries a distance of 8 is reached by chance thousands of
times a day at a thousand frames a second. It finds things for people to look at.
"""

from collections.abc import Callable
from typing import Any, Final

import imagehash
import numpy as np
from PIL import Image

from models.gate import low_information
from models.hashing.algorithm import Fingerprint, Plane, checked_plane, gradient_quality

_SIDE: Final = 8

_MAX_DISTANCE: Final = 4
"""Independent fair bits in a list of a million match a thousand streams at one frame a second 3 times a day at 4 bits,
24,000 times at 8."""


class ImageHash:
    """One hash function of the imagehash package; the value is the package's own for the same picture."""

    bits: Final = _SIDE * _SIDE
    max_distance: Final = _MAX_DISTANCE

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name: Final = name
        self._function = function

    def hash_plane(self, plane: Plane) -> Fingerprint:
        """Fingerprint a (64, 64) uint8 full-range luma plane.

        Raises:
            ValueError: The plane has another shape or type.
        """
        picture = Image.fromarray(np.ascontiguousarray(checked_plane(plane)))
        bits = self._function(picture, hash_size=_SIDE).hash
        return Fingerprint(
            value=np.packbits(np.asarray(bits, dtype=bool).ravel()).tobytes(),
            quality=gradient_quality(plane),
            is_stable=low_information(plane) is None,
        )


PHASH: Final = ImageHash("phash", imagehash.phash)
DHASH: Final = ImageHash("dhash", imagehash.dhash)
WHASH: Final = ImageHash("whash", imagehash.whash)
