"""From one frame to the batch of its views, within the budget, and an account of what they cost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE, Plane
from models.hashing.sample import Sample
from models.hashing.scenes import Look
from models.hashing.view_batch import ViewBatch
from models.hashing.view_budget import ViewBudget
from models.hashing.view_plan import EVERY_VIEW, view_batch
from models.hashing.view_table import Tier

OVERLAY_BYTES: Final = PLANE_SIDE * PLANE_SIDE // 8


@dataclass(frozen=True, slots=True, eq=False)
class Viewed:
    """The views of one frame. `left_out` counts those that were due but had no room; `seconds` is CPU time by tier."""

    sample: Sample
    batch: ViewBatch
    left_out: int
    seconds: dict[Tier, float] = field(default_factory=dict)


class Viewer:
    """Makes the views of frame after frame. For one thread.

    Args:
        budget: What the views of live frames may cost; without one everything that is due is run.
        clock: CPU time of the process in seconds; the viewer keeps no clock of its own.
    """

    def __init__(self, budget: ViewBudget | None, clock: Callable[[], float]) -> None:
        self.budget = budget
        self.saved_seconds: float | None = None
        """What the track of the last frame has saved after it; None for frames at nobody's expense."""
        self._clock = clock

    def view(
        self, plane: Plane, picture: NDArray[np.uint8], width: int, height: int, look: Look | None = None
    ) -> Viewed:
        """Make the views of a frame: those that `look` says are due, or all of them without one.

        `plane` is (64, 64) uint8 luma, `picture` (256, 256, 3) uint8 RGB, `width` x `height` the frame before that.
        """
        began = self._clock()
        sample = Sample(plane, picture, width, height, _unpacked(look.overlay) if look else None)
        seconds: dict[Tier, float] = {}
        if look is None:
            plan, left_out = EVERY_VIEW, 0
        else:
            budget = self.budget or _BOUNDLESS
            plan, left_out = budget.plan(look, sample.rough_value)
        seconds[Tier.EVERY_SAMPLE] = self._clock() - began
        batch = view_batch(sample, plan, clock=self._clock, seconds=seconds)
        return Viewed(sample, batch, left_out, seconds)

    @contextmanager
    def paying(self, viewed: Viewed, look: Look | None) -> Iterator[None]:
        """Look the batch up within this block: the time goes to its tiers by their shares of the views, and is paid.

        A single picture, without a `look`, is at nobody's expense.
        """
        began = self._clock()
        yield
        each = (self._clock() - began) / len(viewed.batch)
        rows = np.bincount(viewed.batch.tiers, minlength=len(Tier)).tolist()
        for tier in viewed.seconds:
            viewed.seconds[tier] += each * rows[tier]
        self.saved_seconds = self.budget.spend(viewed.seconds, look) if look and look.is_paid and self.budget else None


_BOUNDLESS: Final = ViewBudget(1e9)


def packed(mask: NDArray[np.bool_] | None) -> bytes:
    """The 512 bytes of a (64, 64) mask; empty for None."""
    return b"" if mask is None else np.packbits(mask).tobytes()


def _unpacked(overlay: bytes) -> NDArray[np.bool_] | None:
    if len(overlay) != OVERLAY_BYTES:
        return None
    bits = np.unpackbits(np.frombuffer(overlay, dtype=np.uint8))
    return bits.reshape(PLANE_SIDE, PLANE_SIDE).astype(np.bool_)
