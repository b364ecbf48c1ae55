"""Whom a stream's name means: found among the publishers of an ingest server, live or lately so."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from detector.credentials import stream_id
from detector.events import Publisher, StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable, PublisherStarted, answer_within

log = structlog.get_logger()

_FIND_SECONDS: Final = 2.0
"""So long a publisher that an alert means is looked for: a list may be a second old."""

_LOOK_SECONDS: Final = 0.25
_AGAIN_SECONDS: Final = 1.0
_REMEMBERED_LIMIT: Final = 10_000


class Finder:
    """Computes every publisher's public name with the deployment secret, for it cannot be turned back into a key.

    Who was live lately is remembered: one who shows something for two seconds and leaves is denied all the same.
    """

    def __init__(
        self,
        ingest: IngestServer,
        secret: bytes,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ingest = ingest
        self._secret = secret
        self._clock = clock
        self._sleep = sleep
        self._remembered: OrderedDict[str, StreamKey] = OrderedDict()

    async def follow(self) -> None:
        """Remember whoever goes live, until cancelled."""
        while True:
            try:
                async for change in self._ingest.changes():
                    if isinstance(change, PublisherStarted):
                        self._remember(change.publisher.key)
            except IngestUnavailable as error:
                log.info("cutter.publishers_unknown", why=str(error))
            await self._sleep(_AGAIN_SECONDS)

    async def find(self, stream: str) -> Publisher | None:
        """The live publisher of a stream, looked for a while. Raises IngestUnavailable."""
        until = self._clock() + _FIND_SECONDS
        while True:
            found = await self.look_up(stream)
            if found is not None or stream in self._remembered or self._clock() >= until:
                return found
            await self._sleep(_LOOK_SECONDS)

    async def look_up(self, stream: str) -> Publisher | None:
        """The live publisher of a stream, as the server lists it now. Raises IngestUnavailable."""
        live = await answer_within(_FIND_SECONDS, self._ingest.publishers())
        return next((one for one in live if self._name(one.key) == stream), None)

    def key_of(self, stream: str) -> StreamKey | None:
        """Who published the stream lately."""
        return self._remembered.get(stream)

    def _name(self, key: StreamKey) -> str:
        return stream_id(self._secret, key)

    def _remember(self, key: StreamKey) -> None:
        name = self._name(key)
        self._remembered[name] = key
        self._remembered.move_to_end(name)
        if len(self._remembered) > _REMEMBERED_LIMIT:
            self._remembered.popitem(last=False)
