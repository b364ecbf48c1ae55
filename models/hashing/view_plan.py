"""Which views of a frame are hashed, and how often."""

from dataclasses import dataclass
from enum import IntEnum, unique
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import Plane, gradient_quality
from models.hashing.spectrum import batch_of, mirrored, spectrum_of
from models.hashing.view_batch import ViewBatch


@unique
class Tier(IntEnum):
    """How often a family of views is run on a live stream; a single picture runs them all."""

    EVERY_SAMPLE = 0
    EDGES = 1
    IN_TURN = 2
    PER_SCENE = 3


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """What is run on one frame. `quarter` (0-3) is the part of the views in turn that has its turn, None for all."""

    tiers: frozenset[Tier]
    quarter: int | None = None


EVERY_VIEW: Final = ViewPlan(frozenset(Tier))
"""For single pictures."""

SHORTEST_PLAN: Final = ViewPlan(frozenset({Tier.EVERY_SAMPLE}))
"""Identity and mirror."""


class Sample:
    """One frame as views are made of it; what several of them need is computed once.

    Args:
        plane: (64, 64) uint8 full-range luma.
        picture: (256, 256, 3) uint8 RGB, the whole frame squeezed to a square.
        width: Of the frame before that, in pixels.
        height: Likewise.
        overlay: (64, 64) bool, where the stream lays something over its picture; None where nothing is known.
    """

    def __init__(
        self,
        plane: Plane,
        picture: NDArray[np.uint8],
        width: int,
        height: int,
        overlay: NDArray[np.bool_] | None = None,
    ) -> None:
        self.plane = plane
        self.picture = picture
        self.width = width
        self.height = height
        self.overlay = overlay

    @cached_property
    def spectrum(self) -> NDArray[np.float32]:
        """The plane's (16, 16) coefficients."""
        return spectrum_of(self.plane)

    @cached_property
    def quality(self) -> int:
        """PDQ's quality of the plane, 0-100."""
        return gradient_quality(self.plane)


def view_batch(sample: Sample, plan: ViewPlan = SHORTEST_PLAN) -> ViewBatch:
    """Make and hash the views of a frame; `identity` is always the first and equals `Pdq.hash_plane` bit for bit."""
    del plan
    tier = Tier.EVERY_SAMPLE
    return batch_of(
        ("identity", "mirror"),
        np.stack((sample.spectrum, mirrored(sample.spectrum))),
        (sample.quality, sample.quality),
        (tier, tier),
        plane=sample.plane,
    )
