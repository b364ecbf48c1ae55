"""The service's end of an analysis process's socket: messages out, checked messages in, and word of the process's end.

A protocol of its own, since a stream reader takes five turns of the event loop and two tasks for what is one message.
"""

import asyncio
import socket
from collections import deque

from detector.analysis.messages import (
    HEADER,
    INSPECT_BYTES,
    TEXT_LIMIT_BYTES,
    AnalysisProtocolError,
    Kind,
    parse_header,
)

_SEND_BUFFER_BYTES = 2 * INSPECT_BYTES
"""A frame goes out in one piece then; the kernel counts its own overhead too."""


class Channel(asyncio.Protocol):
    """One process's conversation. `open_channel` makes it; one task at a time waits for it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._heard = bytearray()
        self._messages: deque[tuple[Kind, bytes]] = deque()
        self._waiting_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_resting = False
        self._error: Exception | None = None

    def send(self, message: bytes) -> None:
        """Send a whole message, after what was sent before."""
        assert self._transport is not None
        self._transport.write(message)

    def close(self) -> None:
        """Close the socket; what was not sent yet is not waited for."""
        if self._transport is not None:
            self._transport.abort()

    async def receive(self) -> tuple[Kind, bytes]:
        """Return kind and body of the next message; raises `EOFError` or `AnalysisProtocolError`."""
        while not self._messages:
            await self._wait()
        kind, body = self._messages.popleft()
        self._waiting_bytes -= HEADER.size + len(body)
        return kind, body

    async def rest(self) -> None:
        """Wait until `wake`; raises `EOFError` when the process ends, or speaks although it was not asked."""
        if self._messages or self._heard:
            raise EOFError
        self._is_resting = True
        try:
            await self._wait()
        finally:
            self._is_resting = False
        if self._messages or self._heard:
            raise EOFError

    def wake(self) -> bool:
        """End a `rest`; return False where there is none, or it has ended already."""
        if not self._is_resting or self._waiter is None or self._waiter.done():
            return False
        self._waiter.set_result(None)
        return True

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        self._heard += data
        try:
            self._take_messages()
        except AnalysisProtocolError as error:
            self._end(error)
            return
        if (self._messages or self._is_resting) and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        del exc  # whatever ended it, it is over
        self._end(EOFError())

    def _take_messages(self) -> None:
        while len(self._heard) >= HEADER.size:
            kind, length = parse_header(bytes(self._heard[: HEADER.size]))
            end = HEADER.size + length
            if len(self._heard) < end:
                return
            self._messages.append((kind, bytes(self._heard[HEADER.size : end])))
            del self._heard[:end]
            self._waiting_bytes += end
            if self._waiting_bytes > TEXT_LIMIT_BYTES:
                raise AnalysisProtocolError("more answers than were asked for")

    def _end(self, error: Exception) -> None:
        self._error = self._error or error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._error)
        self.close()


async def open_channel(own_end: socket.socket) -> Channel:
    """Return the conversation over a connected socket, which it owns from now on."""
    own_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    _, channel = await asyncio.get_running_loop().create_connection(Channel, sock=own_end)
    return channel
