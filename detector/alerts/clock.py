"""The two clocks that delivery needs, passed in so that tests can turn them."""

import time
from collections.abc import Callable
from dataclasses import dataclass


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` counts seconds for intervals; `wall_ms` is milliseconds since the epoch, for what outlives us."""

    monotonic: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = _wall_ms
