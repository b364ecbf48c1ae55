"""When a lost reader is replaced: at once, then ever later; not at all for a while when it crashes again and again.

Pure: time and randomness are passed in. The pauses are "full jitter" (M. Brooker, "Exponential Backoff and Jitter",
AWS Architecture Blog, 2015): uniform between nothing and a limit that doubles, so that streams which were lost
together do not come back together.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_PICTURED_PAUSE_SECONDS = 1.0
"""The longest pause after a reader that gave pictures: who has it end again and again gains no more than that."""


@dataclass(frozen=True, slots=True)
class ReconnectSettings:
    """How a source is tried again. Times in seconds.

    The first try follows at once; after that the longest pause is `first_seconds`, doubled with each failure, at most
    `longest_seconds`. `crash_limit` crashes within `crash_window_seconds` put the stream into quarantine: it is left
    alone for `quarantine_seconds`, twice as long with each further quarantine, at most `longest_quarantine_seconds`.
    A reader that works for `steady_seconds` has proved its source.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 10.0
    steady_seconds: float = 10.0
    crash_limit: int = 5
    crash_window_seconds: float = 60.0
    quarantine_seconds: float = 30.0
    longest_quarantine_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait before the next reader, and whether that is a quarantine."""

    seconds: float
    is_quarantine: bool = False


class Reconnect:
    """Decides for one stream. `draw` gives uniform numbers in [0, 1)."""

    def __init__(self, settings: ReconnectSettings, draw: Callable[[], float]) -> None:
        self.settings = settings
        self.failures = 0
        """Readers in a row that did not prove their source."""
        self._draw = draw
        self._crashes: deque[float] = deque()
        self._quarantines = 0

    def lost(
        self,
        now: float,
        *,
        worked_seconds: float,
        is_crash: bool,
        has_pictured: bool = False,
        longest_seconds: float | None = None,
    ) -> Pause:
        """A reader that had worked for `worked_seconds` is gone; a crash is a process that ended without a word.

        A crash is made good at once: quarantine bounds how often. `longest_seconds` is a lower limit of the pause than
        the settings', for what may change at any moment; a source that `has_pictured` shows something, so that each
        second of a pause is one in which nobody looks.
        """
        settings = self.settings
        if worked_seconds >= settings.steady_seconds:
            self.failures = 0
        if worked_seconds >= settings.crash_window_seconds:
            self._quarantines = 0
        self.failures += 1
        if is_crash:
            return self._crashed(now)
        if self.failures == 1:
            return Pause(0.0)
        limit = settings.longest_seconds if longest_seconds is None else min(longest_seconds, settings.longest_seconds)
        if has_pictured:
            limit = min(limit, _PICTURED_PAUSE_SECONDS)
        return Pause(self._draw() * min(limit, settings.first_seconds * 2.0 ** min(self.failures - 2, 32)))

    def _crashed(self, now: float) -> Pause:
        settings = self.settings
        self._crashes.append(now)
        while now - self._crashes[0] >= settings.crash_window_seconds:
            self._crashes.popleft()
        if len(self._crashes) < settings.crash_limit:
            return Pause(0.0)
        self._crashes.clear()
        self._quarantines += 1
        doubled = settings.quarantine_seconds * 2.0 ** min(self._quarantines - 1, 32)
        return Pause(min(doubled, settings.longest_quarantine_seconds), is_quarantine=True)
