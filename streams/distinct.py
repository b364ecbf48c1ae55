"""Which frames of a GOP differ from one another: a few that stand for all of them. Pure."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.frame import MAX_BURST_FRAMES
from streams.motion import difference

_SHAPE = (64, 64)
_STILLER = 0.5
_MOVES_ABOVE = 1.0
"""Grey levels between a frame and the one before it: below this nothing is stiller, else noise would decide."""

_FARTHEST_TIMES = 2.0
"""So many times as far as counts as the same may what is kept be from what it stands for.

Else frames that are ever stiller, each like the one before, would lead away from the one that matters.
"""

KeptT = TypeVar("KeptT")


class DistinctFrames(Generic[KeptT]):
    """Keeps at most `MAX_BURST_FRAMES` of the frames it is shown, as different from one another as can be.

    Two frames are the same if the mean absolute difference of their hash planes is at most `same_grey_levels`. Where
    there are too many that differ, one of the two that are most alike makes room: if the first ones stayed, a publisher
    would fill the places before he shows what matters.

    Of frames that stand for one another the stiller one is kept: of a slow fade the picture that it ends in, which no
    step on the way there matches, and not the last step before it. Stiller is what differs from the frame before it by
    less than half as much.

    What a camera moves across the picture differs as much as anything, and holds nothing new: `take` tells it apart.
    """

    def __init__(self, same_grey_levels: float) -> None:
        self._same = same_grey_levels
        self._planes = np.empty((MAX_BURST_FRAMES, 0), np.int16)
        self._first_planes = self._planes  # of the frame for which a place was taken: else it would drift
        self._between = np.full((MAX_BURST_FRAMES, MAX_BURST_FRAMES), np.inf)
        self._kept: list[tuple[int, KeptT]] = []
        self._motions = np.full(MAX_BURST_FRAMES, np.inf)
        self._known = np.empty((0, 0), np.int16)
        self._known_motions = np.empty(0)
        self._latest: NDArray[np.int16] | None = None
        self._shown = 0
        self._apart: list[tuple[NDArray[np.uint8], float]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def show(self, plane: NDArray[np.uint8], keep: Callable[[], KeptT | None]) -> None:
        """Look at a frame's plane (64, 64); `keep` is called if it is kept, and gives what stands for it, if it can."""
        self._shown += 1
        row = plane.reshape(-1).astype(np.int16)
        motion = 0.0 if self._latest is None else float(np.abs(row - self._latest).mean())
        self._latest = row
        if len(self._known):
            alike = _distances(self._known, row) <= self._same
            if alike.any() and not _is_stiller(motion, float(self._known_motions[alike].min())):
                return
        count = len(self._kept)
        distances = from_first = np.empty(0)
        if count:
            from_first = _distances(self._first_planes[:count], row)
            distances = np.minimum(_distances(self._planes[:count], row), from_first)
        place = self._place_for(distances, from_first, motion)
        made = None if place is None else keep()
        if place is None or made is None:
            return
        is_same = place < count and distances[place] <= self._same
        self._put(place, row, motion, distances, made)
        if not is_same:
            self._first_planes[place] = row

    def analysed(self, plane: NDArray[np.uint8]) -> None:
        """Note a frame that was handed over beside these."""
        self._apart.append((plane, 0.0))

    def take(self, moved: Callable[[KeptT], KeptT] = lambda kept: kept) -> list[KeptT]:
        """Return what is kept, in the order in which it was shown; frames like those are not kept again.

        What shows the same as another one that is or was returned, but for movement, comes as `moved` makes it. It is
        never the stiller one of the two.
        """
        are_moved = self._find_moved()
        taken = [
            moved(what) if place in are_moved else what
            for place, (_, what) in sorted(enumerate(self._kept), key=lambda one: one[1][0])
        ]
        if taken:
            planes = self._planes[: len(taken)]
            self._known = np.concatenate([self._known, planes]) if len(self._known) else planes.copy()
            self._known_motions = np.concatenate([self._known_motions, self._motions[: len(taken)]])
            self._kept.clear()
            self._between[:] = np.inf
        return taken

    def _find_moved(self) -> set[int]:
        """The places of what shows nothing but movement beside what stands apart: directly, else it would drift."""
        found: set[int] = set()
        for place in sorted(range(len(self._kept)), key=self._motions.__getitem__):
            plane, motion = self._planes[place].reshape(_SHAPE).astype(np.uint8), float(self._motions[place])
            if any(
                not _is_stiller(motion, other) and difference(one, plane, self._same) <= self._same
                for one, other in self._apart
            ):
                found.add(place)
            else:
                self._apart.append((plane, motion))
        return found

    def _place_for(self, distances: NDArray[np.float64], from_first: NDArray[np.float64], motion: float) -> int | None:
        """Where a frame so far from each kept one is to be put, in place of what is there; None if nowhere.

        `from_first` is how far it is from those for which the places were taken.
        """
        if not len(distances):
            return 0
        nearest = int(distances.argmin())
        if distances[nearest] > self._same:
            if len(self._kept) < MAX_BURST_FRAMES:
                return len(self._kept)
            place = self._least_missed(float(distances[nearest]))
            if place is not None:
                return place
        elif (distances <= self._same).sum() > 1 or from_first[nearest] > _FARTHEST_TIMES * self._same:
            return None
        return nearest if _is_stiller(motion, float(self._motions[nearest])) else None

    def _least_missed(self, nearest: float) -> int | None:
        """The place of one of the two kept frames that are most alike; None if the new one is as near to one of all."""
        first, second = (int(place) for place in np.unravel_index(int(self._between.argmin()), self._between.shape))
        if nearest <= self._between[first, second]:
            return None
        for one, other in ((first, second), (second, first)):
            if _is_stiller(float(self._motions[other]), float(self._motions[one])):
                return one
        # Of the two, the one that is nearer to a third.
        rest = np.delete(self._between, [first, second], axis=1)
        return first if rest[first].min() <= rest[second].min() else second

    def _put(
        self, place: int, row: NDArray[np.int16], motion: float, distances: NDArray[np.float64], made: KeptT
    ) -> None:
        if self._planes.shape[1] != row.size:
            self._planes = np.empty((MAX_BURST_FRAMES, row.size), np.int16)
            self._first_planes = np.empty_like(self._planes)
        self._planes[place], self._motions[place] = row, motion
        self._between[place, : len(distances)] = self._between[: len(distances), place] = distances
        self._between[place, place] = np.inf
        self._kept[place : place + 1] = [(self._shown, made)]


def _is_stiller(motion: float, other: float) -> bool:
    return other > _MOVES_ABOVE and motion < _STILLER * other


def _distances(planes: NDArray[np.int16], row: NDArray[np.int16]) -> NDArray[np.float64]:
    return np.asarray(np.abs(planes - row).mean(axis=1), np.float64)
