"""The views of one frame that are hashed: as it is, mirrored, and without its uniform borders.

A hash list holds the hash of one edition of a picture. Mirroring it or putting bars around it defeats the hash; hashing
such views of each frame undoes that for the price of one more look-up each.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from itertools import zip_longest
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE, Fingerprint, HashAlgorithm, MirroringAlgorithm, Plane

Picture = NDArray[np.uint8]
"""256x256 RGB, whatever the frame's shape was."""


@unique
class Tier(IntEnum):
    """How dear a family of views is: live frames run the cheap tiers, a single picture runs them all."""

    ALWAYS = 0
    BORDERS = 1


LIVE_TIERS: Final = frozenset({Tier.ALWAYS, Tier.BORDERS})
EVERY_TIER: Final = frozenset(Tier)


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a frame: its name in matches and alerts, and its (64, 64) uint8 luma plane.

    `is_mirror` where it is the mirror image of the view just before it.
    """

    name: str
    plane: Plane
    is_mirror: bool = False


def views(plane: Plane, picture: Picture, tiers: Collection[Tier] = LIVE_TIERS) -> list[View]:
    """Give the views of a frame, the unedited one (`identity`) first whatever the tiers.

    `plane` is (64, 64) uint8 full-range luma, `picture` the (256, 256, 3) uint8 RGB of the same frame. A view that
    would repeat another (nothing to trim) is left out.
    """
    found = [View("identity", plane)]
    for tier, family in _FAMILIES:
        if tier in tiers:
            found.extend(family(plane, picture))
    return found


def fingerprints(algorithm: HashAlgorithm, looks: Sequence[View]) -> list[Fingerprint]:
    """Hash each view, in their order; a mirror image along with its original where the algorithm knows how."""
    if not hasattr(algorithm, "hash_both_ways"):  # `isinstance` of a protocol costs as much as a hash
        return [algorithm.hash_plane(look.plane) for look in looks]
    mirroring = cast("MirroringAlgorithm", algorithm)
    found: list[Fingerprint] = []
    for look, following in zip_longest(looks, looks[1:]):
        if following is not None and following.is_mirror:
            found += mirroring.hash_both_ways(look.plane)
        elif not look.is_mirror:  # else it came with its original
            found.append(mirroring.hash_plane(look.plane))
    return found


def _mirrored(plane: Plane, picture: Picture) -> Iterator[View]:
    del picture
    yield View("mirror", np.ascontiguousarray(plane[:, ::-1]), is_mirror=True)


def _trimmed(plane: Plane, picture: Picture) -> Iterator[View]:
    del plane
    if not _may_have_borders(picture):
        return
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    top, bottom, left, right = uniform_borders(gray)
    if top + bottom + left + right == 0:
        return
    inner = gray[top : gray.shape[0] - bottom, left : gray.shape[1] - right]
    # AREA averages every pixel; bilinear and nearest sampling alias by more bits than the match limit allows.
    trimmed = np.asarray(cv2.resize(inner, (PLANE_SIDE, PLANE_SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    yield View("trim", trimmed)
    yield View("trim_mirror", np.ascontiguousarray(trimmed[:, ::-1]), is_mirror=True)


_FAMILIES: Final[tuple[tuple[Tier, Callable[[Plane, Picture], Iterator[View]]], ...]] = (
    (Tier.ALWAYS, _mirrored),
    (Tier.BORDERS, _trimmed),
)

_MAX_SPREAD: Final = 5.0
"""Standard deviation, in grey levels, up to which a line of pixels counts as uniform."""

_MAX_STEP: Final = 8.0
"""A border has one colour: its lines' means stay this close to that of the outermost line, in grey levels."""

_MAX_SHARE: Final = 0.36
"""How much of a side may be peeled: upright video between bars on a 16:9 canvas has 34 % of it on either side."""

_ROUNDS: Final = 2
"""Bars above and below hide those at the sides from the first round."""


def uniform_borders(gray: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Count the lines of uniform border of a gray picture: (top, bottom, left, right), each at most 36 % of the side.

    From each side lines are peeled while they are uniform and of the outermost line's level. A border's last, blended
    line goes with it.
    """
    # Sums over any stretch of any line are differences of these.
    sums, squares = cv2.integral2(gray)
    height, width = gray.shape
    top = bottom = left = right = 0
    for _ in range(_ROUNDS):
        last = width - right
        top, bottom = _peel(sums[:, last] - sums[:, left], squares[:, last] - squares[:, left], last - left)
        last = height - bottom
        left, right = _peel(sums[last] - sums[top], squares[last] - squares[top], last - top)
    return top, bottom, left, right


def _may_have_borders(picture: Picture) -> bool:
    """Tell whether any outermost line is uniform: peeling begins there, so without one nothing is peeled at all.

    Most frames have none, and a fortieth of the time shows it.
    """
    edges = np.stack((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    gray = np.asarray(cv2.cvtColor(edges, cv2.COLOR_RGB2GRAY)).astype(np.float64)
    return bool(np.any(_are_uniform(gray.sum(axis=1), np.einsum("ij,ij->i", gray, gray), gray.shape[1])))


def _peel(sums: NDArray[Any], squares: NDArray[Any], length: int) -> tuple[int, int]:
    totals = np.diff(sums).astype(np.float64)
    uniform = _are_uniform(totals, np.diff(squares), length)
    return _leading(totals, uniform, length), _leading(totals[::-1], uniform[::-1], length)


def _are_uniform(totals: NDArray[np.float64], squares: NDArray[np.float64], length: int) -> NDArray[np.bool_]:
    # In whole numbers, which float64 holds exactly: length * squares - totals ** 2 is the variance * length ** 2.
    return np.asarray(length * squares - np.square(totals) < (_MAX_SPREAD * length) ** 2)


def _leading(totals: NDArray[np.float64], uniform: NDArray[np.bool_], length: int) -> int:
    if not uniform[0]:
        return 0
    most = int(len(totals) * _MAX_SHARE)
    alike = uniform[: most + 1] & (np.abs(totals[: most + 1] - totals[0]) < _MAX_STEP * length)
    peeled = most if alike.all() else int(np.argmin(alike))
    return min(peeled + 1, most)
