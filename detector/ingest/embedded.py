"""The embedded ingest server: relays MPEG-TS over HTTP from publishers to readers, and parses none of it.

`POST` or `PUT /APP/NAME` publishes (chunked, with a content length, or until the connection closes); `GET /APP/NAME`
reads, any number of times. Publishers and our own readers, who show a secret, have places of their own, which other
readers cannot take. Heads and body framing are h11's; every bound is in `EmbeddedSettings`.
"""

import asyncio
import hmac
import itertools
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Literal, Self

import structlog
from pydantic import Field

from detector.config.addresses import ListenAddress
from detector.config.hold import HoldingSection
from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange
from detector.ingest.admittance import OpenDoor, PublisherGate
from detector.ingest.board import PublisherBoard
from detector.ingest.hooks import first_values
from detector.ingest.keys import BadPath, parse_path, path_for
from detector.ingest.relay import Channel, Connection, Refused, RelayCounters, RelayLimits
from detector.ingest.revocations import Revocations
from detector.ingest.viewers import OpenGate, ViewerGate
from detector.redaction import hide_secret
from streams.job import SourceKind
from streams.listening import end_listening

log = structlog.get_logger()

_SWEEP_SECONDS = 0.25
_READER = "reader"


class EmbeddedSettings(HoldingSection):
    """The relay inside the service."""

    kind: Literal["embedded"] = "embedded"
    """`embedded` is the relay inside the service: MPEG-TS over HTTP."""
    listen: ListenAddress = ListenAddress("127.0.0.1", 8935)
    """Where the embedded ingest listens."""
    max_publishers: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 200
    """Publishers at once; one more is turned away."""

    @property
    def listens_on(self) -> ListenAddress:
        """As `listen`."""
        return self.listen

    @property
    def max_connections(self) -> int:
        """Publishers, readers and callers at once: room for every publisher, three readers of each, and some."""
        return 4 * self.max_publishers + 64

    @property
    def max_guests(self) -> int:
        """Readers that are not our own, at once: two thirds of the readers' places."""
        return 2 * self.max_publishers


class EmbeddedIngest:
    """The server: who publishes, who reads, who is refused. An `IngestServer`.

    `clock` is the monotonic clock in seconds in which `since_at`, `gone_at` and all limits are told.
    """

    can_cut = True
    tells_of_publishers = True

    def __init__(
        self,
        settings: EmbeddedSettings,
        revocations: Revocations,
        name: str = "embedded",
        *,
        limits: RelayLimits | None = None,
        max_connections: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.clock = clock
        self.limits = limits or RelayLimits()
        self.counters = RelayCounters()
        self.viewers: ViewerGate = OpenGate()
        self.publishers_gate: PublisherGate = OpenDoor()
        self._settings = settings
        self._max_connections = settings.max_connections if max_connections is None else max_connections
        self._revocations = revocations
        self._board = PublisherBoard()
        self._channels: dict[StreamKey, Channel] = {}
        self._connections: dict[str, Connection] = {}
        self._guests = 0
        # Our own readers show this; it ends with the process.
        self._reader_secret = secrets.token_urlsafe(24)
        hide_secret(self._reader_secret)
        self._boot = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises `IngestUnavailable` if the address cannot be had."""
        host, port = self._settings.listen.host, self._settings.listen.port
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=512)
        except OSError as error:
            code = error.errno or 0
            why = os.strerror(code) if code > 0 else "no such address"  # asyncio's own text says the address again
            raise IngestUnavailable(
                f"cannot listen on {host}:{port} ({why}); "
                "end what listens there, or write an address that is free under ingest.listen"
            ) from error
        self._sweeper = asyncio.create_task(self._sweep_forever(), name=f"ingest[{self.name}].sweeper")
        log.info("ingest.listening", server=self.name, host=host, port=self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and drop everyone."""
        assert self._server is not None
        assert self._sweeper is not None
        self._sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeper
        await end_listening(self._server)
        for channel in list(self._channels.values()):
            self.end_channel(channel)
        for connection in list(self._connections.values()):
            connection.abort()
        self._board.close()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # an aborted transport closes in the loop's next round

    @property
    def port(self) -> int:
        """The TCP port listened on; what the kernel chose where the settings say 0."""
        if self._server is None or not self._server.sockets:
            raise IngestUnavailable("the embedded ingest server is not listening: use it inside `async with`")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """`http://host:port` of this server, for whoever is on this machine."""
        host = self._settings.listen.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def publishers(self) -> list[Publisher]:
        """Who is publishing now."""
        return self._board.current()

    def changes(self) -> AsyncIterator[PublisherChange]:
        """As `IngestServer.changes`; told the moment a publisher's head was read, before its first media byte."""
        return self._board.changes()

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        """Reset the publisher's connection and its readers' before this returns; unsent bytes are thrown away."""
        channel = self._channels.get(key)
        if channel is None or connection not in (None, channel.publisher.connection):
            return CutResult(count=0)
        self.counters.cuts_total += 1
        self._drop_channel(channel)
        channel.abort()
        return CutResult(count=1, gone_at=channel.last_byte_at)

    async def revoke(self, key: StreamKey) -> None:
        """As `IngestServer.revoke`: later publishers of `key` get 403."""
        await self._revocations.add(key)

    async def restore(self, key: StreamKey) -> None:
        """As `IngestServer.restore`."""
        await self._revocations.remove(key)

    def is_revoked(self, key: StreamKey) -> bool:
        """Whether publishers of `key` get 403."""
        return key in self._revocations

    def problems(self) -> list[str]:
        """It runs in this process: nothing keeps it from being watched; only a disk may not keep what it was told."""
        return self._revocations.problems()

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        """The URL that a reader on this machine gets the stream from."""
        return SourceKind.HTTP_TS, f"{self.url}{path_for(key.app, key.name)}?{_READER}={self._reader_secret}"

    def admit_connection(self, connection: Connection) -> str | None:
        """Take in a new connection and return its id, or None where there is no room for it.

        A full house makes room by dropping whoever has waited longest without finishing a request head, or takes leave,
        so that idle connections cannot keep the detector's own readers out. Those from other machines go first: our
        readers are here.
        """
        if len(self._connections) >= self._max_connections:
            idle = [c for c in self._connections.values() if c.is_expendable]
            oldest = next((c for c in idle if not c.is_from_here), idle[0] if idle else None)
            if oldest is None:
                self.counters.connections_refused_total += 1
                return None
            self.counters.heads_dropped_total += 1
            oldest.abort()
            self._connections.pop(oldest.connection_id, None)
        connection_id = f"{self._boot}-{next(self._numbers)}"
        self._connections[connection_id] = connection
        return connection_id

    def forget_connection(self, connection_id: str) -> None:
        """The connection is closed."""
        self._connections.pop(connection_id, None)

    def open_channel(self, target: bytes, connection: Connection, address: str) -> Channel:
        """Make `connection` the publisher of what its path names. Raises `Refused`."""
        key = self._key(target)
        if key in self._revocations:
            raise Refused(403, "this key may not publish")
        if key in self._channels:
            raise Refused(409, "this key is being published already: end that first, or wait until it is dropped")
        if len(self._channels) >= self._settings.max_publishers:
            raise Refused(503, "there is no room for another publisher: raise ingest.max_publishers, or try later")
        if not self.publishers_gate.admits(key, first_values(target.partition(b"?")[2]), address):
            raise Refused(403, "whoever this is may not publish")
        publisher = Publisher(key, connection.connection_id, since_at=self.clock(), address=address)
        channel = Channel(publisher, connection, self.limits, self.counters)
        self._channels[key] = channel
        self._board.add(publisher)
        return channel

    def find_channel(self, target: bytes) -> tuple[Channel, bool]:
        """The live channel that a reader's path names, and whether the reader is a guest. Raises `Refused`."""
        channel = self._channels.get(self._key(target))
        if channel is None:
            raise Refused(404, "nobody publishes this stream now")
        query = target.partition(b"?")[2]
        is_guest = not hmac.compare_digest(query, f"{_READER}={self._reader_secret}".encode())
        if is_guest and not self.viewers.may_watch(channel.publisher.key, channel.publisher.connection):
            self.counters.guests_refused_total += 1
            raise Refused(403, "this stream is not cleared for viewers yet: try again in a few seconds")
        if is_guest and self._guests >= self._settings.max_guests:
            self.counters.guests_refused_total += 1
            raise Refused(503, "there is no room for another reader: try later")
        self._guests += is_guest
        return channel, is_guest

    def forget_guest(self) -> None:
        """A reader that is not our own has gone."""
        self._guests -= 1

    def end_channel(self, channel: Channel) -> None:
        """The publisher is gone or done: its readers get what is left, then the end."""
        if self._drop_channel(channel):
            channel.finish()

    def sweep(self, now: float) -> None:
        """Drop what has been silent for longer than its limit."""
        for connection in list(self._connections.values()):
            if now >= connection.expires_at:
                connection.expire()
        for channel in self._channels.values():
            if now - channel.publisher.since_at >= self.limits.head_seconds:
                channel.forget_head()

    def _key(self, target: bytes) -> StreamKey:
        try:
            return StreamKey(self.name, *parse_path(target))
        except BadPath as error:
            raise Refused(400, str(error)) from None

    def _drop_channel(self, channel: Channel) -> bool:
        if self._channels.get(channel.publisher.key) is not channel:
            return False
        del self._channels[channel.publisher.key]
        channel.forget_head()
        self._board.remove(channel.publisher)
        return True

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sweep(self.clock())
