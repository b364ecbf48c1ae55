"""Ids that only ever rise, whatever the wall clock does."""

import os
from collections.abc import Callable

from detector.alerts.alert import uuid7

_COUNTER_BITS = 12


class RisingIds:
    """Makes UUIDs of version 7, each greater than the one before.

    Within one millisecond, and while the wall clock stands before the last id, the 12 bits that follow the time count
    up (RFC 9562, section 6.2, method 1: a counter of fixed length); when they are full the time moves on by itself.
    """

    def __init__(self, wall_ms: Callable[[], int], randomness: Callable[[int], bytes] = os.urandom) -> None:
        self._wall_ms = wall_ms
        self._randomness = randomness
        self._last_ms = -1
        self._counter = 0

    def next(self) -> str:
        """Return the next id."""
        now_ms, fresh = self._wall_ms(), self._randomness(10)
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._counter = int.from_bytes(fresh[:2]) >> 5  # half of the room is left to count
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._last_ms, self._counter = self._last_ms + 1, 0
        return uuid7(self._last_ms, self._counter.to_bytes(2) + fresh[2:])
