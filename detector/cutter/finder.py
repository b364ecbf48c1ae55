"""Whom a stream's name means: found among the publishers of an ingest server, live or lately so."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Final, Self

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
    However many are looked for, the server is asked once in a quarter of a second; `async with` owns that question.
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
        self._names: dict[StreamKey, str] = {}
        self._live: Mapping[str, Publisher] = {}
        self._live_at = float("-inf")
        self._cuts = self._live_cuts = 0
        self._asking: asyncio.Task[str | None] | None = None

    async def __aenter__(self) -> Self:
        """Nothing is asked yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up a question under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

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
        """The live publisher of a stream, by a list of the last quarter of a second. Raises IngestUnavailable."""
        return (await self.live()).get(stream)

    async def live(self) -> Mapping[str, Publisher]:
        """Every live publisher by its stream's name, as `look_up`."""
        cuts = self._cuts
        while self._live_cuts < cuts or self._clock() - self._live_at >= _LOOK_SECONDS:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="cutter.list")
            fault = await asyncio.shield(self._asking)
            if fault is not None:
                raise IngestUnavailable(fault)
            if self._live_cuts >= cuts:
                break
        return self._live

    def has_cut(self) -> None:
        """Somebody was cut: the list that there is, or that is on its way, says nothing of them any more."""
        self._cuts += 1

    def key_of(self, stream: str) -> StreamKey | None:
        """Who published the stream lately."""
        return self._remembered.get(stream)

    async def _ask(self) -> str | None:
        """Ask for the list, once for everybody who waits for it; returns why there is none."""
        cuts = self._cuts
        try:
            live = await answer_within(_FIND_SECONDS, self._ingest.publishers())
        except IngestUnavailable as error:
            return str(error)
        finally:
            self._asking = None
        self._names = {one.key: self._names.get(one.key) or self._name(one.key) for one in live}
        self._live = {self._names[one.key]: one for one in reversed(live)}
        self._live_at, self._live_cuts = self._clock(), cuts
        return None

    def _name(self, key: StreamKey) -> str:
        return stream_id(self._secret, key)

    def _remember(self, key: StreamKey) -> None:
        name = self._name(key)
        self._remembered[name] = key
        self._remembered.move_to_end(name)
        if len(self._remembered) > _REMEMBERED_LIMIT:
            self._remembered.popitem(last=False)
