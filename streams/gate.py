"""The egress gate: a port on loopback through which one stream's reader reaches one server, and nothing else.

The gate dials one address, whatever is asked of it, and speaks TLS to it where the source does: a certificate is
verified here, for the first connection and for each one after it. The bytes of media pass through unread.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from streams.address import Place, SourceUnreachable
from streams.listening import end_listening
from streams.renditions import Renditions

CONNECTIONS = 16
"""How many connections one reader may hold; HLS with several variants uses a few."""

PLAYLIST_BYTES = 1024 * 1024
_HEAD_BYTES = 16 * 1024
_HEAD_SECONDS = 10.0
_DIAL_SECONDS = 5.0
_BLOCK_BYTES = 64 * 1024
_PLAYLIST_MARK = b"\xef\xbb\xbf#EXTM3U"  # with the mark of UTF-8 that some editors write
_TLS_URL = re.compile(rb'(^|")https://([^/?#"\s]+)', re.IGNORECASE | re.MULTILINE)

_HEADER = re.compile(
    rb"(?:user-agent|accept|range|authorization|cookie|referer|icy-metadata):[\x20-\x7e]*", re.IGNORECASE
)
"""Printable only: many servers take a bare line feed for the end of a line, and would read another request after it.

Linear in the line's length: a reader that was taken over writes it, and the service waits.
"""

# OpenSSL's X509_V_ERR_* (openssl/x509_vfy.h)
_EXPIRED = frozenset({9, 10})
_OTHER_NAME = frozenset({62, 64})

_FAULTS: tuple[tuple[type[Exception], str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "its certificate comes from nobody trusted here: name its authority under ca_file (scan: in SSL_CERT_FILE)",
    ),
    (
        ssl.SSLError,
        "the server does not speak TLS 1.2 or 1.3 there: correct the port, or write the URL's scheme without the s",
    ),
    (TimeoutError, "the server did not answer in time: check its address and the firewalls between"),
    (ConnectionRefusedError, "nobody listens there: start the server, or correct the port"),
)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a gate leads. `tls` verifies the server, None speaks in the clear.

    With `is_proxy` the gate is an HTTP proxy, which sees the URL of each request and refuses all but those of the
    source's own host and port; without, it is a pipe. With `renditions` a playlist of several variants is passed on
    with the one that they choose.
    """

    place: Place
    tls: ssl.SSLContext | None
    is_proxy: bool
    renditions: Renditions | None = None

    def passed_on(self, playlist: bytes, path: str) -> bytes:
        """Return a playlist of the server as the reader gets it."""
        if self.tls is not None:
            playlist = _without_tls(playlist)
        return playlist if self.renditions is None else self.renditions.lowest_of(playlist, self.place, path)


class Gate:
    """An open gate: `port` on 127.0.0.1. Entering it makes the first connection, so that what is wrong is said early.

    `refusals` counts what was not let through: requests for another server than the source's own, later connections
    whose certificate is not the server's, and those beyond `CONNECTIONS`. `refused` is called for each.
    """

    def __init__(self, route: Route, refused: Callable[[], None]) -> None:
        self.refusals = 0
        self.port = 0
        self._route = route
        self._refused = refused
        self._spare: _Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Reach the server, then listen; raises `SourceUnreachable`."""
        try:
            self._spare = await _dial(self._route)
        except (OSError, TimeoutError) as error:
            raise SourceUnreachable(why_unreachable(error)) from None
        try:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_BYTES)
        except BaseException:
            self._spare.close()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the port and every connection."""
        assert self._server is not None
        await end_listening(self._server)
        running = tuple(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._spare is not None:
            self._spare.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection of the reader; no coroutine, as asyncio would report each one that is cancelled."""
        client = _Connection(reader, writer)
        if len(self._tasks) >= CONNECTIONS:
            self._refuse()
            client.close()
            return
        task = asyncio.create_task(self._serve(client), name=f"gate[{self.port}].connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: client.close())  # also of one that was cancelled before its first step

    async def _serve(self, client: "_Connection") -> None:
        try:
            await self._join(client)
        except ssl.SSLCertVerificationError:  # somebody else answers at the server's address now
            self._refuse()
        except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # what breaks here ends a connection, and the reader says so

    async def _join(self, client: "_Connection") -> None:
        request = b""
        if self._route.is_proxy:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await client.reader.readuntil(b"\r\n\r\n")
            request = forwarded(head, self._route.place)
            if not request:
                self._refuse()
                client.writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await client.writer.drain()
                return
        spare, self._spare = self._spare, None
        server = spare or await _dial(self._route)
        try:
            server.writer.write(request)
            if not self._route.is_proxy:
                both = _copy(server.reader, client.writer), _copy(client.reader, server.writer)
            elif self._route.tls is None and self._route.renditions is None:
                both = _copy(server.reader, client.writer), _drop(client.reader)
            else:
                passed_on = partial(self._route.passed_on, path=request.split(b" ", 2)[1].decode("ascii"))
                both = _answer(server.reader, client.writer, passed_on), _drop(client.reader)
            await _first_to_end(*both)
        finally:
            server.close()

    def _refuse(self) -> None:
        self.refusals += 1
        self._refused()


@dataclass(frozen=True, slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        """Close at once; what is not sent yet is what nobody reads any more."""
        self.writer.transport.abort() if self.writer.transport.get_write_buffer_size() else self.writer.close()


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return what verifies servers by the authorities in `ca_file`, or by the system's; raises `SourceUnreachable`."""
    try:
        changed_at = Path(ca_file).stat().st_mtime_ns if ca_file else 0
        return _tls_context(ca_file, changed_at)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise SourceUnreachable(
            "the file under ca_file holds no certificates that can be read: name a PEM file of the authority"
        ) from None


@lru_cache(maxsize=64)
def _tls_context(ca_file: str, changed_at: int) -> ssl.SSLContext:  # noqa: ARG001 - a changed file is read again
    return ssl.create_default_context(cafile=ca_file or None)


def why_unreachable(error: Exception) -> str:
    """Return what a failed connection means to an operator; holds nothing that the server said."""
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    if code in _EXPIRED:
        return "the server's certificate is not valid today: renew it, or set this machine's clock"
    if code in _OTHER_NAME:
        return "the server's certificate is for another name: write the URL with the name that it was issued for"
    for kind, why in _FAULTS:
        if isinstance(error, kind):
            return why
    return "the server cannot be connected to: check its address and this machine's network"


def forwarded(head: bytes, place: Place) -> bytes:
    """Return the request for the server of `place` that the proxy request `head` asks for; empty if it is for another.

    Only GET, only `http://` with the very host and port, only one request for each connection. Of the header, only what
    libav's HTTP client asks with: no body, no other method, host or protocol under another name.
    """
    line, *lines = head.split(b"\r\n")
    try:
        method, target, version = line.decode("ascii").split(" ")
        parts = urlsplit(target)
        port = parts.port or 80
    except ValueError:
        return b""
    is_own = parts.hostname == place.host.lower() and port == place.port and "@" not in parts.netloc
    if method != "GET" or version not in ("HTTP/1.0", "HTTP/1.1") or parts.scheme != "http" or not is_own:
        return b""
    path = parts._replace(scheme="", netloc="").geturl() or "/"
    if not path.startswith("/") or re.search(r"[^\x21-\x7e]", path):
        return b""
    kept = [one for one in lines if _HEADER.fullmatch(one)]
    start = f"GET {path} HTTP/1.1\r\nHost: {place.authority}\r\nConnection: close".encode()
    return b"\r\n".join([start, *kept, b"", b""])


async def _dial(route: Route) -> _Connection:
    name = route.place.host if route.tls else None
    async with asyncio.timeout(_DIAL_SECONDS):
        connection = asyncio.open_connection(
            route.place.address, route.place.port, ssl=route.tls, server_hostname=name, limit=_HEAD_BYTES
        )
        return _Connection(*await connection)


async def _first_to_end(*transfers: Coroutine[Any, Any, None]) -> None:
    """Run both directions until one has ended: what came before its end has been passed on."""
    tasks = [asyncio.ensure_future(transfer) for transfer in transfers]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until there are no more; never more than two blocks wait."""
    while block := await reader.read(_BLOCK_BYTES):
        writer.write(block)
        await writer.drain()


async def _drop(reader: asyncio.StreamReader) -> None:
    while await reader.read(_BLOCK_BYTES):
        pass


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed_on: Callable[[bytes], bytes]
) -> None:
    """Pass an HTTP answer on; a playlist as `passed_on` makes it."""
    async with asyncio.timeout(_HEAD_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    blocks = _body(reader, fields)
    begin = b""
    async for block in blocks:
        begin += block
        if len(begin) >= len(_PLAYLIST_MARK):
            break
    changed = (b"transfer-encoding", b"content-length")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in changed]
    if begin.startswith((_PLAYLIST_MARK, _PLAYLIST_MARK[3:])):
        begin = passed_on(begin + await _rest(blocks))
        kept.append(b"Content-Length: %d" % len(begin))
    elif b"content-length" in fields:
        kept.append(b"Content-Length: " + fields[b"content-length"])
    writer.write(b"\r\n".join([*kept, b"", b""]) + begin)
    await writer.drain()
    async for block in blocks:
        writer.write(block)
        await writer.drain()


def _without_tls(playlist: bytes) -> bytes:
    """In a playlist `https://HOST` becomes `http://HOST:443`: the gate speaks TLS instead.

    The reader's HLS demuxer verifies no certificate but that of the first URL, so it is to speak no TLS at all.
    """

    def in_the_clear(match: re.Match[bytes]) -> bytes:
        return match[1] + b"http://" + match[2] + (b"" if re.search(rb":\d+$", match[2]) else b":443")

    return _TLS_URL.sub(in_the_clear, playlist)


async def _rest(blocks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for block in blocks:
        body += block
        if len(body) > PLAYLIST_BYTES:
            raise ValueError("a playlist of more than a megabyte")
    return bytes(body)


async def _body(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> AsyncIterator[bytes]:
    """Yield an answer's body, by its length, by its chunks, or to the end of the connection."""
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            async for block in _exactly(reader, size):
                yield block
            await reader.readexactly(2)
    elif b"content-length" in fields:
        async for block in _exactly(reader, int(fields[b"content-length"])):
            yield block
    else:
        while block := await reader.read(_BLOCK_BYTES):
            yield block


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size > 0:
        block = await reader.read(min(size, _BLOCK_BYTES))
        if not block:
            raise EOFError("the answer is shorter than it says")
        size -= len(block)
        yield block
