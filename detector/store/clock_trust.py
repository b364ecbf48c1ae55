"""Whether the wall clock may decide what is old enough to be removed. Pure; both clocks are passed in."""

from typing import Final

_STEP_MS: Final = 3_600_000
_WAIT_SECONDS: Final = 86_400.0
_AWAY_MS: Final = 86_400_000


class ClockTrust:
    """Doubts a wall clock that stepped, for a day.

    A clock that jumps ahead by years makes everything look old. It is doubted when it moved by an hour more or less
    than the monotonic clock since it was last looked at; and at the start, when it stands more than a day after the
    last time that an earlier run trusted, or before it: the service was off, or the clock was set. After a day without
    another step it is believed, so that a machine whose clock was set right, or that was off, goes on by itself.
    """

    def __init__(self, last_trusted_ms: int | None) -> None:
        """Begin with the last trusted time that is known, in wall-clock milliseconds; None where there is no past."""
        self._last_trusted_ms = last_trusted_ms
        self._seen: tuple[int, float] | None = None
        self._doubted_since: float | None = None

    def is_trusted(self, wall_ms: int, monotonic: float) -> bool:
        """Look at both clocks once more, and return whether what the wall clock says is believed."""
        if self._has_stepped(wall_ms, monotonic):
            self._doubted_since = monotonic
        elif self._doubted_since is not None and monotonic - self._doubted_since >= _WAIT_SECONDS:
            self._doubted_since = None
        self._seen = (wall_ms, monotonic)
        return self._doubted_since is None

    def _has_stepped(self, wall_ms: int, monotonic: float) -> bool:
        if self._seen is not None:
            seen_ms, seen_at = self._seen
            return abs((wall_ms - seen_ms) - (monotonic - seen_at) * 1000) > _STEP_MS
        if self._last_trusted_ms is None:
            return False
        return not -_STEP_MS <= wall_ms - self._last_trusted_ms <= _AWAY_MS
