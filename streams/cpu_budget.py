"""How much CPU time one stream may take: pure. Times and what was used are passed in."""

import math

BURST_SECONDS = 3.0
"""How many seconds' share may be used at once: what a look back over a long GOP costs is no attack."""


class CpuBudget:
    """A share of one core, as a bucket that fills with time and is emptied by use.

    `is_spent` from the moment it is empty until it is half full again, so that what is thinned stays thinned for a
    while. `throttled_seconds` counts how long that was.
    """

    def __init__(self, share: float) -> None:
        self.is_spent = False
        self.throttled_seconds = 0.0
        self._share = share
        self._full_seconds = share * BURST_SECONDS
        self._left_seconds = self._full_seconds
        self._noted_at = math.nan
        self._used_seconds = 0.0

    def note(self, now: float, used_seconds: float) -> None:
        """Note that `used_seconds` of CPU time were used in all until `now`; what was before the first call is free."""
        if not math.isnan(self._noted_at):
            elapsed = now - self._noted_at
            self._left_seconds += elapsed * self._share - (used_seconds - self._used_seconds)
            self._left_seconds = min(self._left_seconds, self._full_seconds)
            self.throttled_seconds += elapsed if self.is_spent else 0.0
        self._noted_at, self._used_seconds = now, used_seconds
        if self._left_seconds < 0.0:
            self.is_spent = True
        elif self._left_seconds >= self._full_seconds / 2:
            self.is_spent = False

    @property
    def rest_seconds(self) -> float:
        """How long nothing may be used until the bucket is no longer overdrawn."""
        return max(0.0, -self._left_seconds / self._share)
