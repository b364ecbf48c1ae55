"""The HTTP connections of one server: each has to say within seconds what it wants, and to take its answer.

uvicorn limits the time between two requests alone: whoever never ends a request's head, or never reads an answer,
would keep a place for ever, and a few hundred of them would keep the ingest server's hook out.
"""

import asyncio
import socket
import struct
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 16 * 1024
"""Longest head of a request."""
HEAD_SECONDS = 5.0
"""From the first byte, or the connection, to the end of the head."""
BODY_SECONDS = 10.0
"""From the head to the end of the body."""
ANSWER_SECONDS = 10.0
"""How long a client may take nothing of an answer that does not fit into the buffers."""
DISCARDED_BYTES = 32 * 1024 * 1024
"""Of a body that was answered before its end so much is taken and thrown away: who sends on by then does not listen.

Less would lose the answer for clients that read nothing before they have sent everything.
"""
CONNECTIONS = 1024
"""Every publisher of a server that just came back may be held in the hook at once."""

PATIENCE = "stopframe.patience"
"""In the `extensions` of a request's scope: its `begin` is called by an app that limits the time of a body itself."""

_RESET = struct.pack("ii", 1, 0)
"""`struct linger`: on, for no time."""


class BoundedConnection(H11Protocol):
    """One connection of a `house`: those from which something is awaited, the longest first.

    That is a head, a body (whether or not it was answered already), or the taking of an answer. In a full house the
    first of them makes room: else a thousand bodies that never come would have the hook answered with 503.
    """

    def __init__(self, house: "dict[BoundedConnection, None]", *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._house = house
        self._waits_for: Any = None
        self._deadline: asyncio.TimerHandle | None = None
        self._answer_deadline: asyncio.TimerHandle | None = None
        self._is_patient = False
        self._discarded_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place; where there is none, take that of whoever has waited longest."""
        super().connection_made(transport)
        if len(self.connections) >= CONNECTIONS and self._house:
            next(iter(self._house)).leave()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take more of a head or a body."""
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARDED_BYTES:
                self.leave()
                return
        super().data_received(data)
        self._offer_patience()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, unless an answer is on its way or done; whoever works on one learns that it is over.

        Two answers to one request would be a fault of ours with a traceback in the log, for each line of garbage.
        """
        if not getattr(self.cycle, "response_complete", True):  # there is no cycle before the first request
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that was answered before its end."""
        if self._is_patient:  # what is left of the body has the usual time from now on
            self._is_patient, self._waits_for = False, None
        self._discarded_bytes = 0
        super().on_response_complete()
        self._offer_patience()
        self._watch()

    def be_patient(self) -> None:
        """Leave the time of the body that comes now to the app, until it answers.

        Whoever the app lets in so keeps the place: a full house does not make room for strangers with it.
        """
        self._is_patient = True
        if self._waits_for is h11.SEND_BODY:
            self._end_deadline()

    def pause_writing(self) -> None:
        """The client takes nothing of its answer."""
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        """The client takes its answer."""
        super().resume_writing()
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None
        if self._deadline is None:
            self._house.pop(self, None)

    def leave(self) -> None:
        """Reset the connection, at once: else the kernel would keep what was not taken."""
        self._stop_watching()
        self.connections.discard(self)  # its place is needed now
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _await_taking(self) -> None:
        if self._answer_deadline is None:
            self._answer_deadline = self.loop.call_later(ANSWER_SECONDS, self.leave)
            self._house.setdefault(self)

    def _watch(self) -> None:
        """Give what is awaited of the client its time; more bytes of the same buy none."""
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():  # asyncio would wait for ever until this is taken
                self._await_taking()
            return
        state = self.conn.their_state
        if state is self._waits_for:
            return
        self._waits_for = state
        self._end_deadline()
        seconds = {h11.IDLE: HEAD_SECONDS, h11.SEND_BODY: BODY_SECONDS}.get(state)
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self.leave)
            self._house.setdefault(self)

    def _offer_patience(self) -> None:
        if self.scope is not None:
            self.scope.setdefault("extensions", {})[PATIENCE] = {"begin": self.be_patient}

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._answer_deadline is None:
            self._house.pop(self, None)

    def _stop_watching(self) -> None:
        self._waits_for = None
        self._house.pop(self, None)
        for timer in (self._deadline, self._answer_deadline):
            if timer is not None:
                timer.cancel()
        self._deadline = self._answer_deadline = None
