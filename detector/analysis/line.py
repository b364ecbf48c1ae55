"""The frames that wait for an analysis process: the nearest deadline is served first, the lowest risk dropped first."""

import asyncio
import heapq
from dataclasses import dataclass, field, replace

from models.cascade import Asking
from models.evidence import Inspection
from models.hashing.scenes import Look
from streams.frame import Frame


@dataclass(order=True, slots=True)
class Waiting:
    """One frame that is to be looked at by `deadline_at` (monotonic), and whoever waits for the answer."""

    deadline_at: float
    number: int
    frame: Frame = field(compare=False)
    done: asyncio.Future[Inspection] = field(compare=False)
    look: Look | None = field(default=None, compare=False)
    asking: Asking = field(default=Asking(), compare=False)
    stream: str = field(default="", compare=False)
    risk: int = field(default=0, compare=False)
    is_canary: bool = field(default=False, compare=False)
    attempts: int = field(default=0, compare=False)

    def to_ask(self, *, is_behind: bool) -> Asking:
        """What to ask of the models: while others wait, no parts of a live stream's frame."""
        is_live = self.look is not None and self.look.is_paid
        return replace(self.asking, has_room=False) if is_behind and is_live else self.asking


class Line:
    """A queue of `Waiting`, each taken and dropped in the logarithm of their number. Risk is one of a few numbers."""

    def __init__(self) -> None:
        self._by_risk: dict[int, list[Waiting]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_risk.values()))

    def put(self, entry: Waiting) -> None:
        """Put a frame in line."""
        heapq.heappush(self._by_risk.setdefault(entry.risk, []), entry)

    def take_most_urgent(self) -> Waiting:
        """Take the frame whose deadline is the nearest, whatever its risk; raises `IndexError` where none waits."""
        return heapq.heappop(min(filter(None, self._by_risk.values()), key=lambda heap: heap[0], default=[]))

    def take_least_wanted(self) -> Waiting:
        """Take, of the frames of the lowest risk, the one whose deadline is the nearest; raises `IndexError`."""
        lowest = min((risk for risk, heap in self._by_risk.items() if heap), default=0)
        return heapq.heappop(self._by_risk.get(lowest, []))
