"""Alerts that wait to be believed: those of streams that are on air go first, in the order in which they came."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Container
from typing import Final

from detector.alerts.mqtt_inbox import Received

_LONG: Final = 64
"""From so many on it matters whose turn it is: those before them take a tenth of a second."""

_OLDEST_EVERY: Final = 4
"""So often it is the oldest one's turn all the same: who has left is denied, too."""


class WaitingAlerts:
    """At most `limit` alerts. After an outage of the broker most may be of streams that left, and one of a live one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._all: OrderedDict[int, Received] = OrderedDict()
        self._first: deque[int] = deque()
        self._live: Container[str] = ()
        self._came = self._turns = 0
        self._has_any = asyncio.Event()
        self._is_long = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def put(self, received: Received) -> bool:
        """Let one wait; False where there is no room."""
        if len(self._all) >= self._limit:
            return False
        self._came += 1
        self._all[self._came] = received
        if stream_of(received) in self._live:
            self._first.append(self._came)
        self._has_any.set()
        if len(self._all) > _LONG:
            self._is_long.set()
        return True

    async def get(self) -> Received:
        """The next one, as soon as there is one."""
        while not self._all:
            self._has_any.clear()
            await self._has_any.wait()
        self._turns += 1
        if self._turns % _OLDEST_EVERY:
            while self._first:
                place = self._first.popleft()
                if place in self._all:
                    return self._all.pop(place)
        return self._all.popitem(last=False)[1]

    async def until_long(self) -> None:
        """Return when so many wait that it matters which of them is next."""
        if len(self._all) <= _LONG:
            self._is_long.clear()
            await self._is_long.wait()

    def prefer(self, live: Container[str]) -> None:
        """Let alerts of these streams go first, until the next word on it."""
        self._live = live
        self._first = deque(place for place, received in self._all.items() if stream_of(received) in live)


def stream_of(received: Received) -> str:
    """The stream's public name in the topic of an alert."""
    return received.topic.split("/")[-2]
