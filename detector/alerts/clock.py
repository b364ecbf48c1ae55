"""The two clocks that delivery needs, passed in so that tests can turn them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_DRIFT_MS: Final = 2000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _no_step() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` counts seconds for intervals; `wall_ms` is milliseconds since the epoch, for what outlives us.

    `step_ms` is how far the machine's own wall clock stands ahead of `wall_ms`.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = _wall_ms
    step_ms: Callable[[], int] = _no_step


class SteadyWall:
    """The wall clock as it was when this was made, going on with the monotonic clock: it never steps.

    What is to last ten minutes lasts ten minutes, whatever somebody or NTP does to the wall clock meanwhile. `step_ms`
    turns its times into those of the machine's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._base_ms = clock.wall_ms()
        self._base_at = clock.monotonic()
        self._step_ms = 0

    def clock(self) -> Clock:
        """Return the pair of clocks to live by."""
        return Clock(self._clock.monotonic, self.wall_ms, self.step_ms)

    def wall_ms(self) -> int:
        """Return the milliseconds since the epoch, without the steps."""
        return self._base_ms + round((self._clock.monotonic() - self._base_at) * 1000)

    def step_ms(self) -> int:
        """Return how far the machine's clock has been set ahead since; a drift of less than two seconds is none."""
        ahead_ms = self._clock.wall_ms() - self.wall_ms()
        if abs(ahead_ms - self._step_ms) > _DRIFT_MS:
            self._step_ms = ahead_ms
        return self._step_ms
