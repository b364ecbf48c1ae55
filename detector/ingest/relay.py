"""The embedded ingest server's connections: one HTTP exchange each, and the channels between them.

All of it runs in event-loop callbacks; nothing waits, so nothing a reader does can hold up a publisher.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol, cast

import h11

from detector.events import Publisher
from detector.ingest.viewers import ViewerGate

_HEAD_LIMIT_BYTES = 16 * 1024
_PUBLISH_METHODS = frozenset({b"POST", b"PUT"})
_NO_LIMIT = float("inf")


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What one connection may hold or take.

    `head_bytes` of a stream's beginning are kept for `head_seconds`, so that a reader that attaches at once gets the
    very first byte; a stream that outruns that loses its beginning, not its present. `all_heads_bytes` bounds them all
    together. A reader that is `reader_bytes` behind is dropped.
    """

    head_bytes: int = 1024 * 1024
    head_seconds: float = 10.0
    all_heads_bytes: int = 64 * 1024 * 1024
    reader_bytes: int = 4 * 1024 * 1024
    request_seconds: float = 5.0
    idle_seconds: float = 10.0
    farewell_seconds: float = 1.0
    flush_seconds: float = 10.0


@dataclass(slots=True)
class RelayCounters:
    """What happened since the server started."""

    bytes_in_total: int = 0
    bytes_out_total: int = 0
    publishers_total: int = 0
    publishers_idle_total: int = 0
    readers_total: int = 0
    readers_slow_total: int = 0
    heads_dropped_total: int = 0
    connections_refused_total: int = 0
    guests_refused_total: int = 0
    cuts_total: int = 0
    refused_total: dict[int, int] = field(default_factory=dict)
    """Requests that were refused, by HTTP status."""
    head_bytes: int = 0
    """Bytes that all channels together keep of their beginnings, now."""


class Refused(Exception):
    """A request that is answered with `status` and one sentence. Raised by the house, caught by the connection."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Channel:
    """One live publisher and its readers."""

    def __init__(
        self, publisher: Publisher, connection: "Connection", limits: RelayLimits, counters: RelayCounters
    ) -> None:
        self.publisher = publisher
        self.last_byte_at: float | None = None
        self._connection = connection
        self._limits = limits
        self._counters = counters
        self._head: list[bytes] | None = []
        self._head_bytes = 0
        self._readers: set[Connection] = set()

    def relay(self, media: bytes, now: float) -> None:
        """Hand on media bytes that were accepted at `now`."""
        self.last_byte_at = now
        self._counters.bytes_in_total += len(media)
        self._keep(media)
        for reader in tuple(self._readers):
            reader.send_media(media)

    def attach(self, reader: "Connection", *, from_its_beginning: bool) -> None:
        """Begin to serve `reader`; where it is wanted and still kept, from the stream's beginning."""
        self._readers.add(reader)
        if self._head and from_its_beginning:
            reader.send_media(b"".join(self._head))

    def detach(self, reader: "Connection") -> None:
        """Serve `reader` no more."""
        self._readers.discard(reader)

    def finish(self) -> None:
        """End every reader's response after what is still on its way to it."""
        for reader in tuple(self._readers):
            reader.finish_media()
        self._readers.clear()

    def abort(self) -> None:
        """Reset the publisher and every reader."""
        self._connection.abort()
        for reader in tuple(self._readers):
            reader.abort()
        self._readers.clear()

    def forget_head(self) -> None:
        """Keep the stream's beginning no longer."""
        self._counters.head_bytes -= self._head_bytes
        self._head = None
        self._head_bytes = 0

    def _keep(self, media: bytes) -> None:
        # Any reader may have the beginning, not only the first: else a publisher could take it from under the detector.
        if self._head is None:
            return
        is_too_long = self._head_bytes + len(media) > self._limits.head_bytes
        if is_too_long or self._counters.head_bytes + len(media) > self._limits.all_heads_bytes:
            self.forget_head()
            return
        self._head.append(media)
        self._head_bytes += len(media)
        self._counters.head_bytes += len(media)


class RelayHouse(Protocol):
    """What a connection needs of the server it came to."""

    clock: Callable[[], float]
    limits: RelayLimits
    counters: RelayCounters
    viewers: ViewerGate

    def admit_connection(self, connection: "Connection") -> str | None:
        """An id for the connection, or None where there is no room."""

    def forget_connection(self, connection_id: str) -> None:
        """The connection is closed."""

    def open_channel(self, target: bytes, connection: "Connection", address: str) -> Channel:
        """Make the connection a publisher. Raises `Refused`."""

    def find_channel(self, target: bytes) -> tuple[Channel, bool]:
        """The channel a reader asks for, and whether it is a guest. Raises `Refused`."""

    def forget_guest(self) -> None:
        """A guest has left."""

    def end_channel(self, channel: Channel) -> None:
        """The publisher is done."""


class _Stage(Enum):
    HEAD = auto()
    FRAMED_BODY = auto()
    RAW_BODY = auto()
    READING = auto()
    CLOSING = auto()


class Connection(asyncio.Protocol):
    """One TCP connection: it asks once, then publishes, reads or is refused, and is closed."""

    def __init__(self, house: RelayHouse) -> None:
        self.connection_id = ""
        self.expires_at = house.clock() + house.limits.request_seconds
        self._house = house
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT_BYTES)
        self._stage = _Stage.HEAD
        self._channel: Channel | None = None
        self._is_guest = False
        self._transport: asyncio.Transport | None = None

    @property
    def is_expendable(self) -> bool:
        """Whether this connection has not yet said what it wants, or has had its answer."""
        return self._stage in (_Stage.HEAD, _Stage.CLOSING)

    @property
    def is_from_here(self) -> bool:
        """Whether the peer is on this machine: on loopback, or at the address that it called."""
        assert self._transport is not None
        here = self._transport.get_extra_info("sockname")
        peer = self._peer_address()
        return peer in {"127.0.0.1", "::1"} or (isinstance(here, tuple) and peer == str(here[0]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place in the house, or leave at once."""
        self._transport = cast(asyncio.Transport, transport)
        connection_id = self._house.admit_connection(self)
        if connection_id is None:
            self._stage = _Stage.CLOSING
            self._transport.abort()
            return
        self.connection_id = connection_id

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave: a publisher's readers get what is left."""
        self._leave_channel()
        if self._is_guest:
            self._is_guest = False
            self._house.forget_guest()
        self._house.forget_connection(self.connection_id)

    def data_received(self, data: bytes) -> None:
        """Read a head, or hand on media. What refused publishers and readers go on sending is thrown away."""
        if self._stage is _Stage.RAW_BODY:
            self._accept(data)
        elif self._stage in (_Stage.HEAD, _Stage.FRAMED_BODY):
            self._http.receive_data(data)
            self._advance()

    def eof_received(self) -> bool:
        """The peer sends no more: the regular end of a raw body, and no matter to a reader."""
        if self._stage is _Stage.RAW_BODY:
            self._end_publishing()
        return self._stage is _Stage.READING

    def expire(self) -> None:
        """The time for what this connection does is up."""
        if self._stage is _Stage.HEAD:
            self._house.counters.heads_dropped_total += 1
        elif self._stage in (_Stage.FRAMED_BODY, _Stage.RAW_BODY):
            self._house.counters.publishers_idle_total += 1
            self._leave_channel()
        self.abort()

    def abort(self) -> None:
        """Reset the connection; what was not sent yet is thrown away."""
        self._stage = _Stage.CLOSING
        if self._transport is not None:
            self._transport.abort()

    def send_media(self, media: bytes) -> None:
        """Queue media for this reader, or drop the reader if it is too far behind."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() + len(media) > self._house.limits.reader_bytes:
            self._house.counters.readers_slow_total += 1
            self._leave_channel()
            self.abort()
            return
        self._house.counters.bytes_out_total += len(media)
        self._send(h11.Data(data=media))

    def finish_media(self) -> None:
        """End this reader's response after what is queued; a reader that does not take it in time is dropped."""
        assert self._transport is not None
        self._channel = None
        if not self._transport.is_closing():
            self._send(h11.EndOfMessage())
            self._close_within(self._house.limits.flush_seconds)
            self._transport.close()

    def _advance(self) -> None:
        """Take all that h11 has; media of one read goes on in one piece, however finely it was chunked."""
        media: list[bytes] = []
        is_over = False
        try:
            while self._stage in (_Stage.HEAD, _Stage.FRAMED_BODY) and not is_over:
                event = self._http.next_event()
                if isinstance(event, h11.Data):
                    media.append(bytes(event.data))
                elif isinstance(event, h11.Request):
                    self._begin(event)
                elif event is h11.NEED_DATA:
                    break
                else:  # the end of the body, or a peer that closed without a request
                    is_over = True
        except h11.RemoteProtocolError as error:
            self._accept(b"".join(media))
            self._leave_channel()
            self._refuse(Refused(error.error_status_hint, "this is no request that HTTP/1.1 allows"))
            return
        self._accept(b"".join(media))
        if is_over and self._stage is _Stage.FRAMED_BODY:
            self._end_publishing()
        elif is_over and self._stage is _Stage.HEAD:
            self.abort()

    def _begin(self, request: h11.Request) -> None:
        try:
            if request.method in _PUBLISH_METHODS:
                self._begin_publishing(request)
            elif request.method == b"GET":
                self._begin_reading(request)
            else:
                sentence = "" if request.method == b"HEAD" else "use POST or PUT to publish and GET to read"
                raise Refused(405, sentence)
        except Refused as refused:
            self._refuse(refused)

    def _begin_publishing(self, request: h11.Request) -> None:
        self._channel = self._house.open_channel(request.target, self, self._peer_address())
        self._house.counters.publishers_total += 1
        self.expires_at = self._house.clock() + self._house.limits.idle_seconds
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers):
            self._stage = _Stage.FRAMED_BODY
            return
        # Some encoders send a body and never say how long it is. To HTTP that is no body; the bytes are there all the
        # same, up to the end of the connection.
        self._stage = _Stage.RAW_BODY
        self._http.next_event()
        self._accept(bytes(self._http.trailing_data[0]))

    def _begin_reading(self, request: h11.Request) -> None:
        channel, self._is_guest = self._house.find_channel(request.target)
        self._house.counters.readers_total += 1
        self._stage = _Stage.READING
        self._channel = channel
        self.expires_at = _NO_LIMIT
        self._send(
            h11.Response(
                status_code=200,
                headers=[("content-type", "video/mp2t"), ("cache-control", "no-store"), ("connection", "close")],
            )
        )
        # Who was held from the beginning must not be shown it afterwards.
        channel.attach(self, from_its_beginning=not (self._is_guest and self._house.viewers.is_shut))

    def _accept(self, media: bytes) -> None:
        if not media or self._channel is None or self._stage not in (_Stage.FRAMED_BODY, _Stage.RAW_BODY):
            return
        now = self._house.clock()
        self.expires_at = now + self._house.limits.idle_seconds
        self._channel.relay(media, now)

    def _end_publishing(self) -> None:
        self._leave_channel()
        self._answer(200, "")

    def _leave_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if channel.publisher.connection == self.connection_id:
            self._house.end_channel(channel)
        else:
            channel.detach(self)

    def _refuse(self, refused: Refused) -> None:
        self._house.counters.refused_total[refused.status] = (
            self._house.counters.refused_total.get(refused.status, 0) + 1
        )
        self._answer(refused.status, str(refused))

    def _answer(self, status: int, sentence: str) -> None:
        """Answer and close. What the peer still sends is thrown away for a moment, lest a reset eat the answer."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        body = f"{sentence}\n".encode() if sentence else b""
        headers = [("content-type", "text/plain"), ("content-length", str(len(body))), ("connection", "close")]
        if status == 405:
            headers.append(("allow", "GET, POST, PUT"))
        self._send(h11.Response(status_code=status, headers=headers))
        if body:
            self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())
        self._close_within(self._house.limits.farewell_seconds)
        self._transport.write_eof()

    def _close_within(self, seconds: float) -> None:
        self._stage = _Stage.CLOSING
        self.expires_at = self._house.clock() + seconds

    def _send(self, event: Any) -> None:
        assert self._transport is not None
        pieces = self._http.send_with_data_passthrough(event)
        if pieces:
            self._transport.writelines(pieces)

    def _peer_address(self) -> str:
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""
