"""Every way that bytes can be cut up or broken, at the embedded ingest's connections, without a network."""

import asyncio
import contextlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.events import StreamKey
from detector.ingest.embedded import EmbeddedIngest, EmbeddedSettings
from detector.ingest.keys import BadPath, parse_path
from detector.ingest.relay import Connection
from detector.ingest.revocations import Revocations

pytestmark = pytest.mark.integration


def _plain_id(key: StreamKey) -> str:
    return key.path.encode().hex()[:64]


class _Wire(asyncio.Transport):
    """A transport that keeps what is written, for driving a connection without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_over = False

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.written += b"".join(list_of_data)

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_over

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = True


def _connect(server: EmbeddedIngest) -> tuple[Connection, _Wire]:
    connection, wire = Connection(server), _Wire()
    connection.connection_made(wire)
    return connection, wire


def _feed(connection: Connection, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        if piece:
            connection.data_received(piece)


class _NoFile:
    def load(self) -> frozenset[str]:
        return frozenset()

    def add(self, stream_id: str) -> None: ...

    def remove(self, stream_id: str) -> None: ...


def _split(content: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    return [content[a:b] for a, b in pairwise(edges)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8), cuts=st.lists(st.integers(0, 2000), max_size=12)
)
def test_media_come_through_however_they_are_cut_up(chunks: list[bytes], cuts: list[int]) -> None:
    """Wherever TCP splits a publisher's bytes, the reader gets exactly the media, and both ends are told of the end."""
    server = EmbeddedIngest(EmbeddedSettings(), Revocations(_NoFile(), _plain_id))
    publisher, answer = _connect(server)
    _feed(publisher, [b"POST /live/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"])
    reader, received = _connect(server)
    _feed(reader, [b"GET /live/a HTTP/1.0\r\n\r\n"])
    body = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"
    _feed(publisher, _split(body, cuts))
    assert received.written.partition(b"\r\n\r\n")[2] == b"".join(chunks)
    assert received.is_over
    assert answer.written.startswith(b"HTTP/1.1 200")
    assert server.counters.head_bytes == 0


_LINES = [
    *(f"{method} /a/b HTTP/1.{minor}\r\n".encode() for method in ("POST", "PUT", "GET", "HEAD") for minor in (0, 1)),
    *(b"Host: x\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: upgrade\r\nUpgrade: x\r\n", b"\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b"fffffffff\r\n", b"-1\r\n"),
]
_HEADS = st.tuples(st.sampled_from(_LINES[:8]), st.lists(st.sampled_from(_LINES[8:13]), unique=True)).map(
    lambda head: b"".join([head[0], *head[1], b"\r\n"])
)
_SCRAPS = _HEADS | st.sampled_from(_LINES) | st.binary(max_size=20)


@given(st.lists(_SCRAPS, max_size=12), st.booleans())
def test_no_bytes_break_the_server(scraps: list[bytes], ends: object) -> None:
    """Whatever a peer sends, nothing is raised into the loop, and when it has left nothing of it stays."""
    server = EmbeddedIngest(EmbeddedSettings(), Revocations(_NoFile(), _plain_id))
    for _ in range(2):
        connection, wire = _connect(server)
        for scrap in scraps:
            if not wire.is_over:
                _feed(connection, [scrap])
        if ends and not wire.is_over:
            connection.eof_received()
        connection.connection_lost(None)
    assert (server._connections, server._channels, server.counters.head_bytes) == ({}, {}, 0)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_key_or_refused(target: bytes) -> None:
    """No request target gets past as anything but a clean key."""
    with contextlib.suppress(BadPath):
        for part in parse_path(target):
            assert 1 <= len(part) <= 200
            assert not any(c in part for c in "/\\\r\n\0")
            assert part not in {".", ".."}
