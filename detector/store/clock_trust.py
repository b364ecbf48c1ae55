"""Whether the wall clock may decide what is old enough to be removed. Pure; both clocks are passed in."""

from dataclasses import dataclass
from typing import Final

_STEP_MS: Final = 3_600_000
_WAIT_SECONDS: Final = 86_400.0
_AWAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Doubt:
    """A wall clock that is not believed until `until_ms`, which was last looked at at `seen_ms`, both by itself."""

    seen_ms: int
    until_ms: int


class ClockTrust:
    """Doubts a wall clock that stepped, for a day.

    A clock that jumps ahead by years makes everything look old. It is doubted when it moved by an hour more or less
    than the monotonic clock since it was last looked at; and at the start, when it stands more than a day after the
    time at which an earlier run last looked, or before it: the service was off, or the clock was set. After a day
    without another step it is believed, so that a machine whose clock was set right, or that was off, goes on by
    itself. A restart within that day goes on with it: a machine that is restarted daily would else doubt for ever.
    """

    def __init__(self, last_trusted_ms: int | None, doubt: Doubt | None = None) -> None:
        """Begin with what an earlier run left, in wall-clock milliseconds.

        `last_trusted_ms` is the last time that is known to be right, None where there is no past; `doubt` the one that
        was not over.
        """
        self._last_known_ms = last_trusted_ms if doubt is None else doubt.seen_ms
        self._left_ms = None if doubt is None else doubt.until_ms
        self._seen: tuple[int, float] | None = None
        self._doubted_until: float | None = None

    def is_trusted(self, wall_ms: int, monotonic: float) -> bool:
        """Look at both clocks once more, and return whether what the wall clock says is believed."""
        if self._has_stepped(wall_ms, monotonic):
            self._doubted_until = monotonic + _WAIT_SECONDS
        elif self._seen is None and self._left_ms is not None:
            self._doubted_until = monotonic + min((self._left_ms - wall_ms) / 1000, _WAIT_SECONDS)
        if self._doubted_until is not None and monotonic >= self._doubted_until:
            self._doubted_until = None
        self._seen = (wall_ms, monotonic)
        return self._doubted_until is None

    @property
    def doubt(self) -> Doubt | None:
        """What the next run needs to go on with, as of the last look; None where the clock is believed."""
        if self._seen is None or self._doubted_until is None:
            return None
        wall_ms, monotonic = self._seen
        return Doubt(wall_ms, wall_ms + round((self._doubted_until - monotonic) * 1000))

    def _has_stepped(self, wall_ms: int, monotonic: float) -> bool:
        if self._seen is not None:
            seen_ms, seen_at = self._seen
            return abs((wall_ms - seen_ms) - (monotonic - seen_at) * 1000) > _STEP_MS
        if self._last_known_ms is None:
            return False
        return not -_STEP_MS <= wall_ms - self._last_known_ms <= _AWAY_MS
