"""How long batches take: what the batching process learns from before the first frame, and what a trial goes by."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.analysis.gpu_worker import ScoresMany
from models.frame_shape import PICTURE_SIDE
from models.trial import runs_within

_BRIEFLY_SECONDS: Final = 0.05


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Powers of two up to the largest, and the largest."""
    return tuple(sorted({*(1 << power for power in range(largest.bit_length()) if 1 << power < largest), largest}))


def batch_curve(
    model: ScoresMany,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    clock: Callable[[], float],
    budget_seconds: float = _BRIEFLY_SECONDS,
) -> dict[int, float]:
    """Seconds on the clock of a batch of each size, the shortest of as many runs as fit into the budget for a size.

    The first of each size is not counted: it allocates, and may compile.

    Raises:
        ModelFailed: The model fails at one of the pictures.
    """
    found = {}
    for size in batch_sizes(model.largest_batch):
        looks = [(pictures[place % len(pictures)], PICTURE_SIDE, PICTURE_SIDE) for place in range(size)]
        model.score_many(looks)
        times: list[float] = []
        while len(times) < runs_within(budget_seconds, times[0] if times else budget_seconds):
            begun_at = clock()
            model.score_many(looks)
            times.append(clock() - begun_at)
        found[size] = min(times)
    return found
