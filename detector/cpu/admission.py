"""Who is let in: readers start a few at a time, and only as many streams are watched as CPU time has room for."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger()

STARTS_PER_CORE = 4
"""So many readers may be starting at once for each core: a crowd must not take the time of those that work."""

START_SECONDS = 0.25
"""Starting is over when the source is open; what lasts longer waits for the network and takes no time of others."""

KEPT_SECONDS = 5.0
"""Whoever was watched and is back so soon takes up his old place."""

MOST_OF_ONE_STREAM = 4
"""So many sessions of one stream may have readers at once, all but one on their way out: a publisher who comes and goes
without a pause has no more."""


class Newcomer(Protocol):
    """A session that asks to be watched; see `detector.session.StreamSession`."""

    @property
    def stream_id(self) -> str:
        """Which stream it is of."""

    @property
    def session(self) -> str:
        """Which session of that stream it is."""

    @property
    def started_at(self) -> float:
        """When it began."""

    @property
    def risk(self) -> int:
        """Its tier: the highest goes first."""

    def admit(self) -> None:
        """It is watched from now on."""

    def refuse(self) -> None:
        """It waits until there is room."""


class Gate(Protocol):
    """Whoever decides which streams are watched, and when."""

    def enter(self, newcomer: Newcomer) -> None:
        """Let it in at once or later, or refuse it for now."""

    def arrived(self, newcomer: Newcomer) -> None:
        """Its reader has its source open, or ended."""

    def leave(self, newcomer: Newcomer) -> None:
        """It is over, whether it was let in or not."""


class OpenGate:
    """Lets everybody in."""

    def enter(self, newcomer: Newcomer) -> None:
        """As `Gate.enter`."""
        newcomer.admit()

    def arrived(self, newcomer: Newcomer) -> None:
        """As `Gate.arrived`."""

    def leave(self, newcomer: Newcomer) -> None:
        """As `Gate.leave`."""


class Admission:
    """The gate of a running service. Nobody who is watched ever has to go.

    Who comes waits in line, those of the highest risk first, then the oldest. `room_cores` is what is left of the
    budget when everybody who has a place is at the floor, and `newcomer_cores` what one more takes:
    `detector.cpu.control` keeps both up to date and calls `look`. `take_in` is told of everybody who is let in, before
    he is.
    """

    def __init__(
        self, cores: float, take_in: Callable[[Newcomer], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.room_cores = float("inf")
        self.newcomer_cores = 0.0
        self.refused_total = 0
        self._starts_at_once = max(STARTS_PER_CORE, round(STARTS_PER_CORE * cores))
        self._take_in = take_in
        self._clock = clock
        self._line: dict[str, Newcomer] = {}
        self._refused: set[str] = set()
        self._starting: dict[str, float] = {}
        self._watched: dict[str, Newcomer] = {}
        self._kept: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def places(self) -> set[str]:
        """Streams that are watched or whose place is kept, by `stream_id`. Nobody else may be given their room."""
        return {*(each.stream_id for each in self._watched.values()), *self._kept}

    @property
    def refused(self) -> int:
        """How many streams are not watched now for want of CPU time."""
        return len(self._refused)

    def is_watched(self, newcomer: Newcomer) -> bool:
        """Whether it was let in."""
        return newcomer.session in self._watched

    def is_refused(self, newcomer: Newcomer) -> bool:
        """Whether it waits for room."""
        return newcomer.session in self._refused

    def enter(self, newcomer: Newcomer) -> None:
        """As `Gate.enter`."""
        self._line[newcomer.session] = newcomer
        self.look()

    def arrived(self, newcomer: Newcomer) -> None:
        """As `Gate.arrived`."""
        if self._starting.pop(newcomer.session, None) is not None and self._line:
            self.look()

    def leave(self, newcomer: Newcomer) -> None:
        """As `Gate.leave`."""
        if self._watched.pop(newcomer.session, None) is not None:
            self._kept[newcomer.stream_id] = self._clock() + KEPT_SECONDS
        self._line.pop(newcomer.session, None)
        self._refused.discard(newcomer.session)
        self._starting.pop(newcomer.session, None)
        if self._line:
            self.look()

    def look(self) -> None:
        """Let in whoever there is room for."""
        now = self._clock()
        self._starting = {each: until for each, until in self._starting.items() if until > now}
        self._kept = {each: until for each, until in self._kept.items() if until > now}
        readers = Counter(each.stream_id for each in self._watched.values())
        without_room = []
        # Whoever comes and goes is always the youngest: his place does not put him before those who wait.
        for newcomer in sorted(self._line.values(), key=lambda each: (-each.risk, each.started_at)):
            has_place = newcomer.stream_id in self._kept or readers[newcomer.stream_id] > 0
            if not has_place and self.room_cores < self.newcomer_cores:
                without_room.append(newcomer)
            elif readers[newcomer.stream_id] < MOST_OF_ONE_STREAM:
                if len(self._starting) >= self._starts_at_once:
                    self._look_soon()
                    break
                readers[newcomer.stream_id] += 1
                self._let_in(newcomer, now, has_place=has_place)
        for newcomer in without_room:
            self._refuse(newcomer)

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(START_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self.look()

    def _let_in(self, newcomer: Newcomer, now: float, *, has_place: bool) -> None:
        self.room_cores -= 0.0 if has_place else self.newcomer_cores
        del self._line[newcomer.session]
        self._starting[newcomer.session] = now + START_SECONDS
        self._watched[newcomer.session] = newcomer
        if newcomer.session in self._refused:
            self._refused.discard(newcomer.session)
            log.info("session.admitted", stream=newcomer.stream_id)
        self._take_in(newcomer)
        newcomer.admit()

    def _refuse(self, newcomer: Newcomer) -> None:
        if newcomer.session not in self._refused:
            self._refused.add(newcomer.session)
            self.refused_total += 1
            newcomer.refuse()
            log.warning("session.refused", stream=newcomer.stream_id, why="overload")
