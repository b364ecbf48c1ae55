"""The service's end of a reader's socket: bytes to messages, and word of silence and of the end.

A protocol of its own, since streams and tasks take several turns of the event loop for what is one message, and every
message of every reader comes through here.
"""

import asyncio
from typing import Protocol

from streams import wire
from streams.frame import Frame
from streams.job import Job
from streams.messages import Adjust, Burst, Ended, Heartbeat, LookCloser, Message, Opened
from streams.nursery import Child
from streams.wire import WireError

Report = Opened | Frame | Burst | Heartbeat | Ended
"""What a reader may say."""

_SMALL_BYTES = 4096
"""Read at once where no long message has begun: many heartbeats, or the beginning of a sample."""


class Listener(Protocol):
    """Whoever is told what comes. What `heard` raises ends the conversation, and so does its False."""

    def heard(self, message: Report) -> bool:
        """Take a message; False if it was the last that is wanted."""

    def ended(self, error: Exception | None) -> None:
        """Nothing comes any more; with `error` if it is what the reader said that ended it."""

    def silent(self, seconds: float) -> None:
        """No whole message came for so long."""


class Conversation(asyncio.BufferedProtocol):
    """What one reader says, from its socket to a `listener`. `listen` begins it.

    `seconds` are allowed for the first message, `patience_seconds` for each other one, and as much again if bytes came
    late: then it may have been the service that slept. While it is paused nothing is read, and no time counts.
    `shaped_bytes` is the most that a shaped picture may have.
    """

    def __init__(self, listener: Listener, seconds: float, patience_seconds: float, shaped_bytes: int = 0) -> None:
        self._listener = listener
        self._shaped_bytes = shaped_bytes
        self._seconds = seconds
        self._patience_seconds = patience_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._small = bytearray(_SMALL_BYTES)
        self._held = 0
        self._kind: wire.Kind | None = None
        self._body = bytearray()
        self._filled = 0
        self._due_at = self._loop.time() + seconds
        self._is_extended = False
        self._is_paused = False
        self._is_over = False
        self._timer = self._loop.call_at(self._due_at, self._check_time)

    def close(self) -> None:
        """End it; nobody is told anything any more."""
        self._is_over = True
        self._timer.cancel()
        self._body = bytearray()  # a message that was cut short may be large, and this object lies about for a while
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read nothing until `resume`; what was read already is still told."""
        if not self._is_paused and not self._is_over and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> bool:
        """Read on; return whether it was paused."""
        if not self._is_paused or self._is_over or self._transport is None:
            return False
        self._is_paused = False
        self._allow_time()
        self._transport.resume_reading()
        return True

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.BufferedProtocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """As `asyncio.BufferedProtocol`."""
        del sizehint
        return memoryview(self._small)[self._held :] if self._kind is None else memoryview(self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """As `asyncio.BufferedProtocol`."""
        if self._is_over:
            return
        if self._loop.time() >= self._due_at and not self._is_extended:
            self._is_extended = True
            self._due_at = self._loop.time() + self._seconds
        try:
            if self._kind is not None:
                self._filled += nbytes
                self._tell_if_whole()
            else:
                self._held += nbytes
                self._take_small()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with what was said, nothing more is believed
            self._end(error)

    def eof_received(self) -> None:
        """As `asyncio.BufferedProtocol`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.BufferedProtocol`."""
        del exc  # whatever ended it, it is over
        self._end(None)

    def _take_small(self) -> None:
        start = 0
        while self._held - start >= wire.HEADER.size and not self._is_over:
            body_at = start + wire.HEADER.size
            self._kind, length = wire.parse_header(self._small[start:body_at], self._shaped_bytes)
            start = min(body_at + length, self._held)
            self._body = bytearray(length)
            self._filled = start - body_at
            self._body[: self._filled] = self._small[body_at:start]
            self._tell_if_whole()
        self._small[: self._held - start] = self._small[start : self._held]
        self._held -= start

    def _tell_if_whole(self) -> None:
        if self._kind is None or self._filled < len(self._body):
            return
        message = wire.parse_body(self._kind, self._body)
        self._kind = None
        self._seconds = self._patience_seconds
        self._allow_time()
        if not self._listener.heard(_report(message)):
            self._end(None)

    def _allow_time(self) -> None:
        self._is_extended = False
        self._due_at = self._loop.time() + self._seconds

    def _check_time(self) -> None:
        """Called when time may be over; what came is read before, even if both had to wait for the service."""
        now = self._loop.time()
        if now >= self._due_at and not self._is_paused:
            self._listener.silent(self._seconds)
            return
        self._timer = self._loop.call_at(max(self._due_at, now + 0.1), self._check_time)

    def _end(self, error: Exception | None) -> None:
        if not self._is_over:
            self.close()
            self._listener.ended(error)


async def listen(
    child: Child, listener: Listener, seconds: float, patience_seconds: float, shaped_bytes: int = 0
) -> Conversation:
    """Begin to listen to `child`, whose socket is still its own to close."""
    loop = asyncio.get_running_loop()
    _, conversation = await loop.create_connection(
        lambda: Conversation(listener, seconds, patience_seconds, shaped_bytes), sock=child.socket
    )
    return conversation


def _report(message: Message) -> Report:
    if isinstance(message, Job | LookCloser | Adjust):
        raise WireError("the reader gave orders")
    return message
