"""Wakes whoever has no broker: a node's health, told to the webhook and the file when it turns red, worse, or green.

On MQTT the retained topics `health` and `selftest` say so. An alarm is no alert: it is about the node, not about a
stream, has its own schema and header, and lies in no outbox. The newest replaces what was not accepted yet.
"""

import asyncio
import json
import random
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import structlog

from detector.alerts.backoff import backoff_seconds
from detector.alerts.clock import Clock
from detector.alerts.ids import RisingIds
from detector.alerts.sink import Receipt, SinkUnavailable
from detector.instants import rfc3339

log = structlog.get_logger()

SCHEMA: Final = "stopframe/alarm/1"

_SETTLED_SECONDS: Final = 10.0
"""So long a problem stands before it wakes somebody: what mends itself sooner does not."""

_LEAST_PAUSE_SECONDS: Final = 60.0
"""Between two alarms, however problems come and go."""

_MOST_PROBLEMS: Final = 20
_MOST_CHARACTERS: Final = 500
_NUMBERS = re.compile(r"\d+")


@runtime_checkable
class HearsAlarms(Protocol):
    """A sink that can be told of the node itself."""

    @property
    def name(self) -> str:
        """As `Sink.name`."""

    async def tell(self, alarm_id: str, payload: bytes) -> Receipt:
        """Hand one alarm over, UTF-8 JSON. Only `ACCEPTED` and `REFUSED` end it; raises `SinkUnavailable`."""


class Alarms:
    """Told of health again and again, tells each of `sinks` what is new in it. `run` is to run as long as the service.

    A problem is new when no alarm named its sentence yet, whatever the numbers in it.
    """

    def __init__(
        self,
        sinks: Sequence[HearsAlarms],
        node: str,
        clock: Clock | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._sinks = tuple(sinks)
        self._node = node
        self._clock = clock or Clock()
        self._jitter = jitter
        self._ids = RisingIds(self._clock.wall_ms)
        self._since: dict[str, float] = {}
        self._named: frozenset[str] = frozenset()
        self._green_since: float | None = None
        self._next_at = -float("inf")
        self._newest: tuple[str, bytes] | None = None
        self._news = {sink.name: asyncio.Event() for sink in self._sinks}

    def hear(self, problems: Collection[str]) -> None:
        """Take in what is wrong now, one sentence each."""
        now = self._clock.monotonic()
        kinds = [_NUMBERS.sub("0", problem) for problem in problems]
        self._since = {kind: self._since.get(kind, now) for kind in kinds}
        self._green_since = None if problems else (now if self._green_since is None else self._green_since)
        if now < self._next_at:
            return
        settled = {kind for kind, since in self._since.items() if now - since >= _SETTLED_SECONDS}
        if settled - self._named:
            self._named = frozenset(self._since)
            self._raise(problems, now)
        elif self._named and self._green_since is not None and now - self._green_since >= _SETTLED_SECONDS:
            self._named = frozenset()
            self._raise((), now)

    async def run(self) -> None:
        """Tell every sink the newest alarm until it took or refused it, for ever."""
        await asyncio.gather(
            asyncio.Event().wait(), *(self._serve(sink) for sink in self._sinks)
        )  # for ever, with none

    def _raise(self, problems: Collection[str], now: float) -> None:
        self._next_at = now + _LEAST_PAUSE_SECONDS
        alarm_id = self._ids.next()
        alarm: dict[str, Any] = {
            "schema": SCHEMA,
            "alarm_id": alarm_id,
            "node": self._node,
            "at": rfc3339(self._clock.wall_ms()),
            "ok": not problems,
            "problems": [problem[:_MOST_CHARACTERS] for problem in list(problems)[:_MOST_PROBLEMS]],
        }
        self._newest = (alarm_id, json.dumps(alarm, ensure_ascii=False, separators=(",", ":")).encode())
        log.info("alarm.raised", alarm=alarm_id, ok=not problems, problems=len(problems), sinks=len(self._sinks))
        for news in self._news.values():
            news.set()

    async def _serve(self, sink: HearsAlarms) -> None:
        news, attempts = self._news[sink.name], 0
        while True:
            if attempts:
                wait = backoff_seconds(attempts, first_seconds=1.0, limit_seconds=30.0, jitter=self._jitter())
                await asyncio.sleep(wait)
            else:
                await news.wait()
            news.clear()
            if self._newest is None:
                continue
            try:
                receipt = await sink.tell(*self._newest)
            except SinkUnavailable:
                attempts += 1
                continue
            attempts = 0
            if receipt is not Receipt.ACCEPTED:
                log.warning("alarm.refused", alarm=self._newest[0], sink=sink.name, answer=receipt.value)
