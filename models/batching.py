"""Which pictures go to a GPU together, and when: the earliest deadline first, after a wait that tunes itself.

A GPU takes hardly longer for eight pictures than for one, so under load it pays to wait for company; where it keeps up
with what comes, waiting buys nothing. Both are decided from what was measured: how long batches of each size took, and
how often pictures come. Clocks are passed in.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MOST_WAIT_SECONDS: Final = 0.05
"""No picture waits longer for company, whatever was measured: the frame's way has other stages."""

_BUSY_SHARE: Final = 0.7
"""A GPU that is busier than this is no longer sure to keep up with what comes in bursts."""

_MARGIN: Final = 1.5
"""A batch may take so many times as long as expected and still be there by its deadline."""

_LONGEST_SECONDS: Final = 60.0
"""A batch that took longer says nothing of batches: something else was wrong."""

_MEMORY: Final = 0.9
"""What a measurement weighs when the next one comes."""

_FAIR_SECONDS: Final = 1.0
"""So long after a picture was late models share alike, and in so long half of what a model used is forgotten."""


@dataclass(order=True, frozen=True, slots=True)
class Ask:
    """One picture that is to be scored by `deadline_at`. `number` is its own. After `gone_at` nobody waits for it."""

    deadline_at: float
    number: int
    arrived_at: float = field(compare=False, default=0.0)
    gone_at: float = field(compare=False, default=float("inf"))


class BatchCost:
    """How long a batch takes: a fixed time and one for each picture, by least squares, of which the past fades."""

    def __init__(self, fixed_seconds: float = 0.002, picture_seconds: float = 0.001) -> None:
        self._fixed, self._each = fixed_seconds, picture_seconds
        self._sums = [0.0] * 5

    def seconds(self, size: int) -> float:
        """What a batch of that size is expected to take."""
        return self._fixed + self._each * size

    def measured(self, size: int, seconds: float) -> None:
        """Learn from a batch that took so long."""
        if size < 1 or not 0 <= seconds < float("inf"):
            return
        seconds = min(seconds, _LONGEST_SECONDS)
        new = (1.0, size, size * size, seconds, size * seconds)
        self._sums = [_MEMORY * old + one for old, one in zip(self._sums, new, strict=True)]
        count, sizes, squares, times, products = self._sums
        spread = count * squares - sizes * sizes
        if spread > 1e-6 * count * squares:
            each = (count * products - sizes * times) / spread
            fixed = (times - each * sizes) / count
            if each >= 0 and fixed >= 0:
                self._fixed, self._each = fixed, each
                return
        # All of one size, or noise: keep the shape, take the level.
        scale = times / max(self._fixed * count + self._each * sizes, 1e-9)
        self._fixed, self._each = self._fixed * scale, self._each * scale


class Batcher:
    """The pictures that wait. Put them in, ask `begins_at`, and take a batch when that time has come."""

    def __init__(self, largest: int, most_waiting: int = 1024, cost: BatchCost | None = None) -> None:
        self._largest = max(1, largest)
        self._most_waiting = max(1, most_waiting)
        self._heap: list[Ask] = []
        self.cost = cost or BatchCost()
        self._last_at: float | None = None
        self._gap_seconds: float | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, ask: Ask) -> Ask | None:
        """Have a picture wait; return the one that goes instead where too many do: that with the latest deadline."""
        if self._last_at is not None:
            gap = max(ask.arrived_at - self._last_at, 0.0)
            known = gap if self._gap_seconds is None else self._gap_seconds
            self._gap_seconds = _MEMORY * known + (1 - _MEMORY) * gap
        self._last_at = ask.arrived_at
        heapq.heappush(self._heap, ask)
        if len(self._heap) <= self._most_waiting:
            return None
        latest = max(self._heap)
        self._heap.remove(latest)
        heapq.heapify(self._heap)
        return latest

    @property
    def nearest_deadline(self) -> float:
        """Of the pictures that wait; infinite where none does."""
        return self._heap[0].deadline_at if self._heap else float("inf")

    def begins_at(self, now: float, most: int | None = None) -> float | None:
        """When the next batch is to begin, the GPU being free: `now` or a little later; None where nothing waits.

        `most` is how many can be waiting at all: once all of them do, there is no company to wait for.
        """
        if not self._heap:
            return None
        waiting, wanted = len(self._heap), self.wanted_size()
        wanted = wanted if most is None else min(wanted, most)
        if waiting >= wanted:
            return now
        first = min(ask.arrived_at for ask in self._heap)
        company_at = (self._last_at or 0.0) + (wanted - waiting) * (self._gap_seconds or 0.0)
        urgent_at = self._heap[0].deadline_at - _MARGIN * self.cost.seconds(waiting + 1)
        return max(now, min(company_at, first + MOST_WAIT_SECONDS, urgent_at))

    def wanted_size(self) -> int:
        """The smallest batch with which the GPU keeps up with what comes; the largest where none does."""
        gap = self._gap_seconds
        if gap is None:
            return 1
        for size in range(1, self._largest + 1):
            if self.cost.seconds(size) <= _BUSY_SHARE * size * gap:
                return size
        return self._largest

    def take(self, now: float) -> tuple[list[Ask], list[Ask]]:
        """The next batch, the nearest deadline first, and those for which it is too late: they are nobody's any more.

        Of the pictures that can still be in time none is left waiting for one whose deadline is later.
        """
        batch: list[Ask] = []
        late: list[Ask] = []
        while self._heap and len(batch) < self._largest:
            ask = self._heap[0]
            if min(ask.deadline_at, ask.gone_at) < now:
                late.append(heapq.heappop(self._heap))
                continue
            if batch and now + self.cost.seconds(len(batch) + 1) > batch[0].deadline_at:
                break  # one more would make the first of them late
            batch.append(heapq.heappop(self._heap))
        return batch, late


class Turns:
    """Whose batch is next where several models share a GPU: that of the nearest deadline, while all are in time.

    By deadlines alone, a model that is asked for more than the GPU can do would take it from one that is asked for
    little. So where pictures were late a moment ago, the model that used the GPU least lately goes first.
    """

    def __init__(self) -> None:
        self._used: dict[int, float] = {}
        self._at = 0.0
        self._late_at: float | None = None

    def next_of(self, due: Mapping[int, float], now: float) -> int:
        """The model to serve, of those whose batch is due, each with the nearest deadline of its pictures.

        Raises:
            ValueError: There is none.
        """
        if self._late_at is not None and now - self._late_at < _FAIR_SECONDS:
            return min(due, key=lambda model: (self._used.get(model, 0.0), due[model]))
        return min(due, key=lambda model: due[model])

    def used(self, model: int, seconds: float, now: float) -> None:
        """Note that a batch of a model kept the GPU for so long; what it did before fades."""
        fades = 0.5 ** ((now - self._at) / _FAIR_SECONDS)
        self._at = now
        self._used = {one: fades * spent for one, spent in self._used.items()}
        self._used[model] = self._used.get(model, 0.0) + seconds

    def late(self, now: float) -> None:
        """Note that a picture's deadline passed before its turn came."""
        self._late_at = now
