"""The views of one frame that are hashed: as it is, mirrored, and without its uniform borders.

A hash list holds the hash of one edition of a picture. Mirroring it or putting bars around it defeats the hash; hashing
such views of each frame undoes that for the price of one more look-up each.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from itertools import zip_longest
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE, Fingerprint, HashAlgorithm, MirroringAlgorithm, Plane
from models.hashing.plugins import Plugin
from models.shapes.borders import may_have_borders, uniform_borders

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


def named_fingerprints(
    algorithm: HashAlgorithm, looks: Sequence[View], picture: Picture
) -> list[tuple[str, Fingerprint]]:
    """Hash each view, by its name. One that wants pictures is shown the frame's picture as it is, and mirrored.

    Raises:
        PluginFailed: An installed algorithm broke its promise.
    """
    if isinstance(algorithm, Plugin) and algorithm.hashes_pictures:
        mirrored = np.ascontiguousarray(picture[:, ::-1])
        return [("identity", algorithm.hash_picture(picture)), ("mirror", algorithm.hash_picture(mirrored))]
    names = [look.name for look in looks]
    return list(zip(names, fingerprints(algorithm, looks), strict=True))


def _mirrored(plane: Plane, picture: Picture) -> Iterator[View]:
    del picture
    yield View("mirror", np.ascontiguousarray(plane[:, ::-1]), is_mirror=True)


def _trimmed(plane: Plane, picture: Picture) -> Iterator[View]:
    del plane
    if not may_have_borders(picture):
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
