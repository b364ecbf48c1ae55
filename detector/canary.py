"""Pictures that only this deployment can make: what the self-test sends through analysis.

They are expanded from the deployment's secret with SHAKE-256 (FIPS 202), so nobody can show one on purpose, and no real
picture comes near one: two unrelated 256-bit hashes differ in about 128 bits.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.gate import low_information
from models.hashing.registry import hash_algorithms
from streams.frame import PICTURE_SIDE, PLANE_SIDE, Frame, SampleReason

_PURPOSE: Final = b"stopframe self-test picture 1"
_CELLS: Final = 12
"""Random colours along each side; what lies between them is interpolated. PDQ sees such coarse structure."""

_LEAST_QUALITY: Final = 90
_ATTEMPTS: Final = 64


@dataclass(frozen=True, slots=True)
class SecretPicture:
    """A picture and the PDQ hash (32 bytes) that analysis must find in it: of high quality, stable, no flat surface."""

    plane: bytes
    picture: bytes
    fingerprint: bytes

    def frame(self, now: float) -> Frame:
        """The picture as a sampled frame that arrived at `now` (monotonic)."""
        return Frame(
            sequence=0,
            arrived_at=now,
            decoded_at=now,
            pts_seconds=None,
            reason=SampleReason.PICTURE,
            is_corrupt=False,
            width=PICTURE_SIDE,
            height=PICTURE_SIDE,
            plane=self.plane,
            picture=self.picture,
        )


def secret_picture(secret: bytes, name: str) -> SecretPicture:
    """The picture of that name: always the same for a secret, unlike any other name's."""
    pdq = hash_algorithms()["pdq"]
    for attempt in range(_ATTEMPTS):
        colours = _texture(hmac.digest(secret, b"%s\0%s\0%d" % (_PURPOSE, name.encode(), attempt), "sha256"))
        plane = luma_plane(colours)
        found = pdq.hash_plane(plane)
        if found.quality >= _LEAST_QUALITY and found.is_stable and low_information(plane) is None:
            return SecretPicture(plane.tobytes(), colours.tobytes(), found.value)
    raise AssertionError("nearly every texture would do")


def _texture(seed: bytes) -> NDArray[np.uint8]:
    """A (256, 256, 3) uint8 picture of smooth random patches."""
    drawn = hashlib.shake_256(seed).digest(_CELLS * _CELLS * 3)
    cells = np.frombuffer(drawn, np.uint8).reshape(_CELLS, _CELLS, 3).astype(np.float64)
    at = np.linspace(0, _CELLS - 1, PICTURE_SIDE)
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(_CELLS)[None, :]))  # linear interpolation
    smooth = np.einsum("yj,jkc,xk->yxc", weights, cells, weights, optimize=True)
    return np.asarray(smooth, dtype=np.uint8)


def luma_plane(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luma (BT.601) of a picture, 64x64, each pixel the mean of those it stands for."""
    luma = colours.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    step = PICTURE_SIDE // PLANE_SIDE
    return np.asarray(luma.reshape(PLANE_SIDE, step, PLANE_SIDE, step).mean(axis=(1, 3)), dtype=np.uint8)
