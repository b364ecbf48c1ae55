"""What every hash algorithm promises, and the fingerprint that it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

PLANE_SIDE: Final = 64
"""Side of the luma plane that is hashed, in pixels."""

Plane = NDArray[np.uint8]
"""64x64 full-range luma, row-major."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hash of one plane.

    `value` is `bits / 8` bytes, most significant bit first, so that `value.hex()` is the form in which lists carry it.
    `quality` is 0-100 (PDQ's gradient sum). `is_stable` is False where a re-encode would move many bits.
    """

    value: bytes
    quality: int
    is_stable: bool


@runtime_checkable
class HashAlgorithm(Protocol):
    """Turns a plane into a fingerprint. Implementations keep no state: one object serves every frame.

    `name` is the signal type in lists and banks (lower case). `bits` is the length of the hash, a multiple of 64.
    `max_distance` is the Hamming distance up to which two hashes match unless a bank says otherwise.
    """

    @property
    def name(self) -> str:
        """The signal type."""
        ...

    @property
    def bits(self) -> int:
        """Length of the hash."""
        ...

    @property
    def max_distance(self) -> int:
        """The default limit: a match is distance <= max_distance."""
        ...

    def hash_plane(self, plane: Plane) -> Fingerprint:
        """Fingerprint a (64, 64) uint8 full-range luma plane, contiguous or not; equal planes give equal answers."""
        ...


class MirroringAlgorithm(HashAlgorithm, Protocol):
    """An algorithm that gets the hash of the mirrored plane from the plane's own transform, for a part of the price."""

    def hash_both_ways(self, plane: Plane) -> tuple[Fingerprint, Fingerprint]:
        """As `hash_plane` of the plane and of `plane[:, ::-1]`, bit for bit."""
        ...


class HashIndex(Protocol):
    """A list of hashes that answers which of its rows lie within a distance of each query."""

    def search_all(self, queries: Sequence[bytes], radius: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """For each query the numbers of the rows with distance <= radius and their distances, the nearest first."""
        ...


class MeasuringAlgorithm(HashAlgorithm, Protocol):
    """An algorithm with a distance of its own, in place of the number of bits that differ.

    Distances are whole numbers from 0 (for equal hashes) up to `bits`: scale them to fit.
    """

    def build_index(self, rows: NDArray[np.uint8], max_distance: int) -> HashIndex:
        """Index (N, bits / 8) uint8 rows, which may be mapped from a file, for look-ups up to `max_distance`."""
        ...


class PictureAlgorithm(HashAlgorithm, Protocol):
    """An algorithm that wants the picture and its colours in place of the grey plane; `hash_plane` is not called."""

    def hash_picture(self, picture: NDArray[np.uint8]) -> Fingerprint:
        """Fingerprint a (256, 256, 3) uint8 RGB picture, whatever shape the frame had; it cannot be written to."""
        ...


def checked_plane(plane: Plane) -> Plane:
    """Give the plane back, or refuse what is no 64x64 uint8 array.

    Raises:
        ValueError: Another shape or another type of number.
    """
    if plane.shape != (PLANE_SIDE, PLANE_SIDE) or plane.dtype != np.uint8:
        raise ValueError(f"a hash plane is (64, 64) uint8, got {plane.shape} {plane.dtype}")
    return plane


def gradient_quality(plane: Plane) -> int:
    """How much there is to see in a plane, 0-100.

    The quality metric of PDQ (facebook/ThreatExchange, pdq/cpp/hashing/pdqhashing.cpp): the sum of the absolute
    differences between neighbours, each in whole hundredths of the range, divided by 90 and capped at 100. Whole
    numbers give the very value of the reference, whose float quotient never reaches an integer from below.
    """
    # cv2 sums and looks up in a quarter of the time of numpy: this is done for every view of every frame.
    total = 0.0
    for steps in (cv2.absdiff(plane[1:], plane[:-1]), cv2.absdiff(plane[:, 1:], plane[:, :-1])):
        total += cv2.sumElems(cv2.LUT(steps, _HUNDREDTHS))[0]
    return min(100, int(total) // 90)


_HUNDREDTHS: Final = (np.arange(256) * 100 // 255).astype(np.uint8)
