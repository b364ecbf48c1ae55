"""The views of one frame that are hashed: as it is, mirrored, and without its uniform borders.

A hash list holds the hash of one edition of a picture. Mirroring it or putting bars around it defeats the hash; hashing
such views of each frame undoes that for the price of one more look-up each.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE, Plane

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
    """One way to look at a frame: its name in matches and alerts, and its (64, 64) uint8 luma plane."""

    name: str
    plane: Plane


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


def _mirrored(plane: Plane, picture: Picture) -> Iterator[View]:
    del picture
    yield View("mirror", np.ascontiguousarray(plane[:, ::-1]))


def _trimmed(plane: Plane, picture: Picture) -> Iterator[View]:
    del plane
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    top, bottom, left, right = uniform_borders(gray)
    if top + bottom + left + right == 0:
        return
    inner = gray[top : gray.shape[0] - bottom, left : gray.shape[1] - right]
    # AREA averages every pixel; bilinear and nearest sampling alias by more bits than the match limit allows.
    trimmed = np.asarray(cv2.resize(inner, (PLANE_SIDE, PLANE_SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    yield View("trim", trimmed)
    yield View("trim_mirror", np.ascontiguousarray(trimmed[:, ::-1]))


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
    height, width = gray.shape
    levels = gray.astype(np.float32)
    squares = np.square(levels)
    top = bottom = left = right = 0
    for _ in range(_ROUNDS):
        columns = slice(left, width - right)
        top, bottom = _peel(levels[:, columns], squares[:, columns], axis=1)
        rows = slice(top, height - bottom)
        left, right = _peel(levels[rows], squares[rows], axis=0)
    return top, bottom, left, right


def _peel(levels: NDArray[np.float32], squares: NDArray[np.float32], *, axis: int) -> tuple[int, int]:
    means = levels.mean(axis=axis)
    spreads = np.sqrt(np.maximum(squares.mean(axis=axis) - np.square(means), 0))
    return _leading(means, spreads), _leading(means[::-1], spreads[::-1])


def _leading(means: NDArray[np.float32], spreads: NDArray[np.float32]) -> int:
    uniform = (spreads < _MAX_SPREAD) & (np.abs(means - means[0]) < _MAX_STEP)
    most = int(len(means) * _MAX_SHARE)
    peeled = int(np.argmin(uniform[: most + 1])) if not uniform[: most + 1].all() else most
    return min(peeled + 1, most) if peeled else 0
