"""Which frames of a GOP differ from one another: a few that stand for all of them. Pure."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.frame import MAX_BURST_FRAMES

KeptT = TypeVar("KeptT")


class DistinctFrames(Generic[KeptT]):
    """Keeps at most `MAX_BURST_FRAMES` of the frames it is shown, as different from one another as can be.

    Two frames are the same if the mean absolute difference of their hash planes is at most `same_grey_levels`. Where
    there are too many that differ, one of the two that are most alike makes room: if the first ones stayed, a publisher
    would fill the places before he shows what matters.
    """

    def __init__(self, same_grey_levels: float) -> None:
        self._same = same_grey_levels
        self._planes = np.empty((MAX_BURST_FRAMES, 0), np.int16)
        self._between = np.full((MAX_BURST_FRAMES, MAX_BURST_FRAMES), np.inf)
        self._kept: list[tuple[int, KeptT]] = []
        self._known = np.empty((0, 0), np.int16)
        self._shown = 0

    def __len__(self) -> int:
        return len(self._kept)

    def show(self, plane: NDArray[np.uint8], keep: Callable[[], KeptT | None]) -> None:
        """Look at a frame's plane (64, 64); `keep` is called if it is kept, and gives what stands for it, if it can."""
        self._shown += 1
        row = plane.reshape(-1).astype(np.int16)
        if len(self._known) and _distances(self._known, row).min() <= self._same:
            return
        distances = _distances(self._planes[: len(self._kept)], row) if self._kept else np.empty(0)
        nearest = distances.min(initial=np.inf)
        if nearest <= self._same:
            return
        place = len(self._kept) if len(self._kept) < MAX_BURST_FRAMES else self._least_missed(nearest)
        made = None if place is None else keep()
        if place is not None and made is not None:
            self._put(place, row, distances, made)

    def take(self) -> list[KeptT]:
        """Return what is kept, in the order in which it was shown; frames like those are not kept again."""
        taken = [what for _, what in sorted(self._kept, key=lambda one: one[0])]
        if taken:
            planes = self._planes[: len(taken)]
            self._known = np.concatenate([self._known, planes]) if len(self._known) else planes.copy()
            self._kept.clear()
            self._between[:] = np.inf
        return taken

    def _least_missed(self, nearest: float) -> int | None:
        """The place of one of the two kept frames that are most alike; None if the new one is as near to one of all."""
        first, second = np.unravel_index(int(self._between.argmin()), self._between.shape)
        if nearest <= self._between[first, second]:
            return None
        # Of the two, the one that is nearer to a third.
        rest = np.delete(self._between, [first, second], axis=1)
        return int(first) if rest[first].min() <= rest[second].min() else int(second)

    def _put(self, place: int, row: NDArray[np.int16], distances: NDArray[np.float64], made: KeptT) -> None:
        if self._planes.shape[1] != row.size:
            self._planes = np.empty((MAX_BURST_FRAMES, row.size), np.int16)
        self._planes[place] = row
        self._between[place, : len(distances)] = self._between[: len(distances), place] = distances
        self._between[place, place] = np.inf
        self._kept[place : place + 1] = [(self._shown, made)]


def _distances(planes: NDArray[np.int16], row: NDArray[np.int16]) -> NDArray[np.float64]:
    return np.asarray(np.abs(planes - row).mean(axis=1), np.float64)
