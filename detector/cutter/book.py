"""What a cutter knows of the alerts that it was asked to act on: on disk, and in memory where no disk takes it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from detector.cutter.asked import Asked, AskedAlerts
from detector.cutter.parts import CutterCounters
from detector.metric_words import CutterWord
from detector.store.faults import StoreUnavailable
from detector.trust.replay import SeenAlerts
from detector.trust.signing import Verified

log = structlog.get_logger()

T = TypeVar("T")

_MEMORY_LIMIT: Final = 4096


class AskedBook:
    """Raises `NotTrusted` for what is too old to be known, and never for what a disk does.

    What is harmful leaves the air first: that it may be cut once more after a restart is harmless.
    """

    def __init__(
        self, asked: AskedAlerts, seen: SeenAlerts, counters: CutterCounters, wall_ms: Callable[[], int]
    ) -> None:
        self._asked = asked
        self._seen = seen
        self._counters = counters
        self._wall_ms = wall_ms
        self._in_memory: OrderedDict[str, Asked] = OrderedDict()
        self._taken_back: OrderedDict[str, None] = OrderedDict()
        self._fault: str | None = None

    async def under_way(self) -> list[Asked]:
        """What an earlier run began and did not answer; nothing where the disk refuses: services send it again."""
        try:
            return await self._asked.under_way(self._wall_ms())
        except StoreUnavailable as error:
            self.note_disk(str(error))
            return []

    async def remember(self, alert: Verified, new: Asked) -> Asked:
        """The alert as it is known: `new` itself where it never came before."""
        if new.alert_id in self._in_memory:
            return self._in_memory[new.alert_id]
        try:
            await self._seen.admit(alert, now_ms=self._wall_ms())
            known = await self._asked.take(new)
        except StoreUnavailable as error:
            self.note_disk(str(error))
            self._counters.count(CutterWord.NOT_DURABLE)
            keep(self._in_memory, new.alert_id, new)
            return new
        self.note_disk(None)
        return known

    async def answer(self, asked: Asked, state: str, ack: bytes) -> None:
        """Write down the final answer before it is sent."""
        try:
            await self._asked.answer(asked.alert_id, state, ack)
        except StoreUnavailable as error:
            self.note_disk(str(error))
        if asked.alert_id in self._in_memory:
            self._in_memory[asked.alert_id] = replace(asked, state=state, ack=ack)

    async def take_back(self, incident_id: str) -> None:
        """Cut nobody for this incident any more: in memory from now on, and on disk where that takes it."""
        keep(self._taken_back, incident_id, None)  # a cut that is about to begin must not overtake the disk
        try:
            await self._asked.take_back(incident_id, self._wall_ms())
        except StoreUnavailable as error:  # an innocent does not wait for a disk either
            self.note_disk(str(error))

    def is_taken_back_here(self, incident_id: str) -> bool:
        """Whether the incident was taken back in this run; waits for nothing."""
        return incident_id in self._taken_back

    async def is_taken_back(self, incident_id: str) -> bool:
        """Whether the incident was ever taken back."""
        if incident_id in self._taken_back:
            return True
        try:
            return await self._asked.is_taken_back(incident_id)
        except StoreUnavailable:
            return False

    def problems(self) -> list[str]:
        """What keeps cuts from being remembered."""
        return [] if self._fault is None else [f"what was cut is remembered in memory only: {self._fault}"]

    def note_disk(self, fault: str | None) -> None:
        """Keep what the disk said last; logged once when it begins to refuse."""
        if fault is not None and self._fault is None:
            log.warning("cutter.not_durable", reason=fault)
        self._fault = fault


def keep(memory: "OrderedDict[str, T]", name: str, value: T) -> None:
    """Remember, and forget the oldest beyond 4,096."""
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > _MEMORY_LIMIT:
        memory.popitem(last=False)
