"""What a stream's readers are told while they work: sampling, within the stream's ration, and closer looks.

A reader that takes over is told all of it again, so that one that dies forgets nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, unique
from typing import Protocol

from detector.cpu.rationing import Ration
from streams.sampling import SamplingSettings


class Reader(Protocol):
    """Whoever passes orders on; see `streams.keeper.Keeper`."""

    async def adjust(self, sampling: SamplingSettings) -> bool:
        """Have the reader sample by `sampling`; False if it could not be told."""

    async def look_closer(self, interval_seconds: float, until: float) -> bool:
        """Have the reader decode through until `until`; False if it could not be told."""


@unique
class Why(Enum):
    """What a closer look is for."""

    WEAK_HIT = "weak_hit"
    HINT = "hint"


@dataclass(frozen=True, slots=True)
class _Look:
    interval_seconds: float
    until: float


_NONE = _Look(math.inf, -math.inf)


class ReaderOrders:
    """Orders for the readers of one session. What could not be told is told by the next `catch_up`."""

    def __init__(self, sampling: SamplingSettings, clock: Callable[[], float]) -> None:
        self.ration = Ration(sampling.burst_share, sampling.spikes)
        self._asked = sampling
        self._clock = clock
        self._reader: Reader | None = None
        self._told = sampling
        self._is_told = True
        self._looks: dict[Why, _Look] = {}
        self._denied: set[Why] = set()
        self._told_look = _NONE

    @property
    def sampling(self) -> SamplingSettings:
        """What the operator asks for, within the ration."""
        return self.ration.within(self._asked)

    @property
    def is_close(self) -> bool:
        """Whether the stream is decoded through for more than its sampling asks for."""
        return self._look != _NONE

    @property
    def has_looks(self) -> bool:
        """Whether any closer look was asked for and not ended, though its time may be over."""
        return bool(self._looks)

    def until(self, why: Why) -> float:
        """Until when a closer look is asked for; minus infinity if there is none."""
        return self._looks.get(why, _NONE).until

    async def begin(self, reader: Reader, told: SamplingSettings) -> None:
        """A reader was started by `told`; say what changed since."""
        self._reader, self._told, self._told_look = reader, told, _NONE
        await self._tell_sampling()

    def end(self) -> None:
        """The reader is gone."""
        self._reader = None

    async def ask(self, sampling: SamplingSettings) -> bool:
        """The operator asks for other sampling; False if a reader works that could not be told."""
        before, self._asked = self._asked, sampling
        self.ration = _carried(self.ration, before, sampling)
        return await self._tell_sampling()

    async def give(self, ration: Ration) -> None:
        """The stream has this ration now."""
        self.ration = ration
        await self._tell_sampling()

    async def look(self, why: Why, interval_seconds: float, until: float) -> None:
        """Look closer until `until`; of several looks the densest holds."""
        self._looks[why] = _Look(interval_seconds, until)
        await self._tell_look()

    async def end_look(self, why: Why) -> None:
        """Look no longer closer for this."""
        if self._looks.pop(why, None) is not None:
            await self._tell_look()

    async def allow(self, why: Why, *, is_allowed: bool) -> None:
        """Say whether there is CPU time for a closer look for this; while there is none it is only remembered."""
        if is_allowed == (why in self._denied):
            self._denied ^= {why}
            await self._tell_look()

    async def opened(self) -> None:
        """The reader has its source open: what it was told before that about looking closer may be lost."""
        self._told_look = _NONE
        await self._tell_look()

    async def catch_up(self) -> None:
        """Tell what could not be told, and of the look that holds after a denser one."""
        if not self._is_told:
            await self._tell_sampling()
        if self._looks:
            await self._tell_look()

    async def _tell_sampling(self) -> bool:
        wanted = self.sampling
        if self._reader is None or wanted == self._told:
            return True
        self._is_told = await self._reader.adjust(wanted)
        if self._is_told:
            self._told = wanted
        return self._is_told

    @property
    def _look(self) -> _Look:
        now = self._clock()
        going_on = [each for why, each in self._looks.items() if each.until > now and why not in self._denied]
        return min(going_on, key=lambda each: (each.interval_seconds, -each.until), default=_NONE)

    async def _tell_look(self) -> None:
        now, wanted, told = self._clock(), self._look, self._told_look
        if self._reader is None or wanted == told or (wanted is _NONE and told.until <= now):
            return
        look = replace(told, until=now) if wanted is _NONE else wanted
        if await self._reader.look_closer(look.interval_seconds, look.until):
            self._told_look = wanted


def _carried(ration: Ration, before: SamplingSettings, after: SamplingSettings) -> Ration:
    """The ration until the next one is worked out: what was cut stays cut, all else is as asked for now."""
    is_cut = ration.burst_share < before.burst_share
    slowed = ration.slowed_to_seconds
    return replace(
        ration,
        burst_share=min(ration.burst_share, after.burst_share) if is_cut else after.burst_share,
        spikes=after.spikes and (ration.spikes or not before.spikes),
        slowed_to_seconds=max(slowed, after.detect_within_seconds) if slowed else 0.0,
    )
