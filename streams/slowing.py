"""When a stream is looked at while CPU time is short: rarely, at moments that nobody can foresee. Pure."""

import math
from collections.abc import Callable

_EARLY_SHARE = 0.25
"""So many instants are drawn from the whole of the gap: where only two keyframes fit into it, every second one would
be passed over for ever, and whoever counts along knows which."""

_LATE_SECONDS = 0.1
"""So late a keyframe may come, for it travels through a network. One that is only just in time by the count would
otherwise come too late, and the one before it would be looked at after a whole GOP."""


class Slowing:
    """Spreads the looks at one stream so far apart that the gap between two is never longer than it may be.

    After each look the next one is due at a random instant, mostly in the second half of the longest gap. A keyframe
    alone is the cheapest of looks, so the first one from then on is taken; or one before, if the next would come too
    late. Where keyframes are too rare, what came since the last one is decoded at that instant.

    `draw` gives uniform numbers in [0, 1) that a publisher cannot foresee. Times are arrival seconds.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._longest_gap = 0.0
        self._due_at = self._ends_at = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether the stream is slowed."""
        return self._longest_gap > 0.0

    def adjust(self, longest_gap_seconds: float, looked_at: float) -> None:
        """Let gaps be that long from now on, the latest look being at `looked_at`; 0 is not slowed."""
        if longest_gap_seconds != self._longest_gap:
            self._longest_gap = longest_gap_seconds
            self.looked(looked_at)

    def looked(self, at: float) -> None:
        """Note that a frame that arrived at `at` was looked at."""
        if self._longest_gap > 0.0:
            self._ends_at = at + self._longest_gap
            drawn = self._draw()
            is_early = drawn < _EARLY_SHARE
            part = drawn / _EARLY_SHARE if is_early else (1.0 + (drawn - _EARLY_SHARE) / (1.0 - _EARLY_SHARE)) / 2
            self._due_at = at + part * self._longest_gap

    def is_due(self, arrived_at: float) -> bool:
        """Whether it is time for the next look."""
        return arrived_at >= self._due_at

    def takes_keyframe(self, arrived_at: float, gop_seconds: float) -> bool:
        """Whether the keyframe that has come is looked at, where the next one is expected after `gop_seconds`."""
        return self.is_due(arrived_at) or arrived_at + gop_seconds + _LATE_SECONDS > self._ends_at

    def must_look_back(self, arrived_at: float, keyframe_at: float, gop_seconds: float) -> bool:
        """Whether what was on screen before the packet that has come is looked at: no keyframe will do it in time.

        One is expected `gop_seconds` after the latest, which came at `keyframe_at`, and no more when it is late by as
        much again. A GOP of 0 seconds is not known: then it is expected as late as it may come.
        """
        if arrived_at <= self._due_at:
            return False
        gop_seconds = gop_seconds or self._longest_gap
        is_expected = keyframe_at + gop_seconds <= self._ends_at and arrived_at <= keyframe_at + 2.0 * gop_seconds
        return arrived_at > self._ends_at or not is_expected
