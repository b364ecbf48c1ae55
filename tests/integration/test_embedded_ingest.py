"""The embedded ingest server over real sockets on loopback."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.config.addresses import ListenAddress
from detector.events import StreamKey
from detector.hold import Hold, HoldSettings
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.embedded import EmbeddedIngest, EmbeddedSettings
from detector.ingest.keys import BadPath, parse_path, path_for
from detector.ingest.relay import RelayLimits
from detector.ingest.revocations import FileRevocations, Revocations
from tests.waiting import until

pytestmark = pytest.mark.integration

KEY = StreamKey("embedded", "live", "cam one")


def _plain_id(key: StreamKey) -> str:
    return key.path.encode().hex()[:64]


@contextlib.asynccontextmanager
async def _server(
    folder: Path,
    *,
    limits: RelayLimits | None = None,
    clock: Callable[[], float] = time.monotonic,
    max_connections: int | None = None,
    **settings: int,
) -> AsyncIterator[EmbeddedIngest]:
    revocations = Revocations(FileRevocations(folder / "revoked"), _plain_id)
    chosen = EmbeddedSettings.model_validate({"listen": "127.0.0.1:0", **settings})
    try:
        made = EmbeddedIngest(chosen, revocations, limits=limits, max_connections=max_connections, clock=clock)
        async with made as server:
            yield server
    finally:
        for peer in _Peer.open:
            peer.close()
        _Peer.open.clear()
        await asyncio.sleep(0)  # a transport closes in the loop's next round


class _Peer:
    """A bare TCP client: what it sends is exactly what goes over the wire."""

    open: ClassVar[list["_Peer"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: EmbeddedIngest, *lines: str) -> "_Peer":
        peer = cls(*await asyncio.open_connection("127.0.0.1", server.port))
        cls.open.append(peer)
        if lines:
            await peer.send("\r\n".join([*lines, "Host: x", "", ""]).encode())
        return peer

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def chunk(self, content: bytes) -> None:
        await self.send(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)

    async def status(self) -> int:
        return int((await self.head()).split()[1])

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(-1), 30)

    async def is_reset(self) -> bool:
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.transport.abort()


async def _publish(server: EmbeddedIngest, path: str = "/live/cam%20one") -> _Peer:
    peer = await _Peer.connect(server, f"POST {path} HTTP/1.1", "Transfer-Encoding: chunked")
    await until(lambda: len(server._connections) > 0)
    return peer


async def _read(server: EmbeddedIngest, path: str = "/live/cam%20one") -> _Peer:
    peer = await _Peer.connect(server, f"GET {path} HTTP/1.0")
    assert await peer.status() == 200
    return peer


async def _live(server: EmbeddedIngest, count: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(await server.publishers()) != count:
            await asyncio.sleep(0.005)


async def test_the_first_reader_gets_the_very_first_byte(tmp_path: Path) -> None:
    """A reader that attaches after publishing began still gets everything from the start, in order, to the end."""
    async with _server(tmp_path) as server:
        publisher = await _publish(server)
        await publisher.chunk(b"first")
        await until(lambda: server.counters.bytes_in_total == 5)
        readers = [await _read(server) for _ in range(3)]
        await publisher.chunk(b"second")
        await publisher.send(b"0\r\n\r\n")

        assert await publisher.status() == 200
        assert [await reader.rest() for reader in readers] == [b"firstsecond"] * 3
        assert await server.publishers() == []


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (["PUT /live/cam%20one HTTP/1.1", "Content-Length: 8"], b"mpeg"),
        (["POST /live/cam%20one HTTP/1.1"], b"mpeg"),
        (["PUT /live/cam%20one HTTP/1.0"], b"mpeg"),
        (["POST /live/cam%20one HTTP/1.1", "Transfer-Encoding: chunked"], b"4\r\nmpeg\r\n"),
    ],
    ids=["content-length", "until-close", "http-1.0", "chunked"],
)
async def test_every_way_to_send_a_body_publishes(tmp_path: Path, head: list[str], body: bytes) -> None:
    """However an encoder frames its body, the reader gets the media bytes and no framing."""
    async with _server(tmp_path) as server:
        publisher = await _Peer.connect(server, *head)
        await publisher.send(body)
        await until(lambda: server.counters.bytes_in_total == 4)
        reader = await _read(server)
        await publisher.send(body)
        await until(lambda: server.counters.bytes_in_total == 8)
        publisher.writer.write_eof()
        assert await reader.rest() == b"mpegmpeg"


async def test_an_ordinary_client_reads_chunks(tmp_path: Path) -> None:
    """An HTTP/1.1 client gets well-formed chunks of the right type, and is told not to store them."""
    async with _server(tmp_path) as server, httpx.AsyncClient(trust_env=False) as client:
        publisher = await _publish(server)
        await publisher.chunk(b"x" * 70_000)
        await until(lambda: server.counters.bytes_in_total == 70_000)
        async with client.stream("GET", server.reader_source(KEY)[1]) as response:
            await publisher.send(b"0\r\n\r\n")
            assert (response.headers["content-type"], response.headers["cache-control"]) == ("video/mp2t", "no-store")
            assert await response.aread() == b"x" * 70_000


async def test_a_client_that_waits_to_continue_is_told_to(tmp_path: Path) -> None:
    """`Expect: 100-continue`, as curl sends it, does not hold the publisher up."""
    async with _server(tmp_path) as server:
        publisher = await _Peer.connect(
            server, "POST /live/a HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue"
        )
        assert await publisher.status() == 100


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /live/nobody HTTP/1.1", 404),
        ("DELETE /live/a HTTP/1.1", 405),
        ("CONNECT live:80 HTTP/1.1", 405),
        ("POST /live HTTP/1.1", 400),
        ("POST /live/a/b HTTP/1.1", 400),
        ("POST /live/.. HTTP/1.1", 400),
        ("POST /live/%2e%2e HTTP/1.1", 400),
        ("POST /live/a%2fb HTTP/1.1", 400),
        ("POST /live/a%5Cb HTTP/1.1", 400),
        ("POST /live/a%0Ab HTTP/1.1", 400),
        ("POST /live/%E2%80%A8 HTTP/1.1", 400),
        ("POST /live/%zz HTTP/1.1", 400),
        ("POST /live/%ff HTTP/1.1", 400),
        ("POST /live/ HTTP/1.1", 400),
        (f"POST /live/{'a' * 201} HTTP/1.1", 400),
        ("POST http://x/live/a HTTP/1.1", 400),
        (f"GET /live/{'a' * 300_000} HTTP/1.1", 431),
        ("nonsense", 400),
    ],
)
async def test_what_cannot_be_is_refused(tmp_path: Path, line: str, status: int) -> None:
    """A bad request gets its status and one sentence that does not repeat the path."""
    async with _server(tmp_path) as server:
        peer = await _Peer.connect(server, line)
        assert await peer.status() == status
        sentence = (await peer.rest()).decode()
        assert sentence.count("\n") == 1
        assert "nobody" not in sentence or status == 404
        assert server.counters.refused_total == {status: 1}
        assert await server.publishers() == []


async def test_who_was_held_from_the_beginning_is_not_shown_it(tmp_path: Path) -> None:
    """With a gate, viewers who get in see what comes from then on; our own readers have the first byte as ever."""
    async with _server(tmp_path) as server:
        server.viewers = Hold(HoldSettings(samples=1), _plain_id)
        server.viewers.is_exempt = lambda _path: True  # whoever gets in, however
        publisher = await _publish(server)
        await publisher.chunk(b"unseen" * 40)
        await _live(server)
        viewer = await _read(server)
        ours = await _read(server, server.reader_source(KEY)[1].removeprefix(server.url))
        await until(lambda: server.counters.readers_total == 2)
        await publisher.chunk(b"later")
        await publisher.send(b"0\r\n\r\n")
        assert await viewer.rest() == b"later"
        assert await ours.rest() == b"unseen" * 40 + b"later"


async def test_a_live_key_is_taken(tmp_path: Path) -> None:
    """A second publisher gets 409 and does not disturb the first; the key is free again when the first ends."""
    async with _server(tmp_path) as server:
        first = await _publish(server)
        await _live(server)
        second = await _publish(server)
        assert await second.status() == 409
        reader = await _read(server)
        await first.chunk(b"mine")
        assert await asyncio.wait_for(reader.reader.readexactly(4), 30) == b"mine"
        first.close()
        await _live(server, 0)
        await _publish(server)
        await _live(server)


async def test_no_more_publishers_than_allowed(tmp_path: Path) -> None:
    """Over `max_publishers` the answer is 503, and a reader is still let in."""
    async with _server(tmp_path, max_publishers=1) as server:
        await _publish(server)
        await _live(server)
        assert await (await _publish(server, "/live/other")).status() == 503
        await _read(server)


async def test_revoked_keys_get_403_even_after_a_restart(tmp_path: Path) -> None:
    """A revoked key stays denied over a restart, until it is restored; the file holds ids, not keys, for us alone."""
    async with _server(tmp_path) as server:
        await server.revoke(KEY)
        assert await (await _publish(server)).status() == 403
    async with _server(tmp_path) as server:
        assert server.is_revoked(KEY)
        assert await (await _publish(server)).status() == 403
        await server.restore(KEY)
        await _publish(server)
        await _live(server)
    assert (tmp_path / "revoked").stat().st_mode & 0o777 == 0o600
    assert b"cam one" not in (tmp_path / "revoked").read_bytes()


async def test_a_cut_ends_publisher_and_readers_at_once(tmp_path: Path) -> None:
    """A cut drops one publisher with its readers and says when its last byte came; a stale cut does nothing."""
    async with _server(tmp_path) as server:
        publisher, other = await _publish(server), await _publish(server, "/live/other")
        await publisher.chunk(b"x")
        await until(lambda: server.counters.bytes_in_total == 1)
        reader = await _read(server)
        await reader.reader.readexactly(1)
        connection = next(p.connection for p in await server.publishers() if p.key == KEY)

        assert (await server.cut(KEY, "another")).count == 0
        before = time.monotonic()
        result = await server.cut(KEY, connection)

        assert result.count == 1
        assert result.gone_at is not None
        assert before - 5 < result.gone_at <= before
        assert [p.key.name for p in await server.publishers()] == ["other"]
        assert await publisher.is_reset()
        assert await reader.is_reset()
        await other.chunk(b"still here")
        await until(lambda: server.counters.bytes_in_total == 11)
        assert (await server.cut(KEY, connection)).count == 0
        again = await _publish(server)
        await _live(server, 2)
        assert (await server.cut(KEY, connection)).count == 0
        await again.chunk(b"y")
        await until(lambda: server.counters.bytes_in_total == 12)


async def test_a_slow_reader_is_dropped_and_holds_up_nobody(tmp_path: Path) -> None:
    """A reader that does not read is disconnected and counted; the publisher and a quick reader notice nothing."""
    async with _server(tmp_path, limits=RelayLimits(reader_bytes=256 * 1024)) as server:
        publisher = await _publish(server)
        await _live(server)
        slow, quick = await _read(server), await _read(server)
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        async with asyncio.timeout(20):
            while not server.counters.readers_slow_total:
                await publisher.chunk(b"x" * 65536)
                sent += 65536
                await quick.reader.readexactly(65536)
        assert server.counters.readers_slow_total == 1
        assert sent < 32 * 1024 * 1024
        await publisher.chunk(b"end")
        assert await asyncio.wait_for(quick.reader.readexactly(3), 30) == b"end"


async def test_a_beginning_that_is_too_long_or_too_old_is_dropped(tmp_path: Path) -> None:
    """A late reader joins a long or old stream at its live edge; the memory for beginnings is given back."""
    now = [1000.0]
    limits = RelayLimits(head_bytes=10, idle_seconds=60)
    async with _server(tmp_path, limits=limits, clock=lambda: now[0]) as server:
        long, old = await _publish(server, "/live/long"), await _publish(server, "/live/old")
        await long.chunk(b"x" * 11)
        await old.chunk(b"y")
        await until(lambda: server.counters.bytes_in_total == 12)
        now[0] += 10.0
        server.sweep(now[0] - 0.1)
        assert server.counters.head_bytes == 1
        server.sweep(now[0])
        assert server.counters.head_bytes == 0
        readers = await _read(server, "/live/long"), await _read(server, "/live/old")
        for publisher, reader in zip((long, old), readers, strict=True):
            await publisher.chunk(b"live")
            await publisher.send(b"0\r\n\r\n")
            assert await reader.rest() == b"live"


async def test_beginnings_are_bounded_together(tmp_path: Path) -> None:
    """However many publishers start at once, all kept beginnings together stay within their limit."""
    async with _server(tmp_path, limits=RelayLimits(all_heads_bytes=1500)) as server:
        publishers = [await _publish(server, f"/live/{n}") for n in range(4)]
        for publisher in publishers:
            await publisher.chunk(b"x" * 1000)
        await until(lambda: server.counters.bytes_in_total == 4000)
        assert server.counters.head_bytes == 1000


async def test_silence_is_dropped(tmp_path: Path) -> None:
    """A half-sent head ends after its time however it drips, and a publisher after ten seconds without a byte."""
    now = [0.0]
    async with _server(tmp_path, clock=lambda: now[0]) as server:
        loris = await _Peer.connect(server)
        await loris.send(b"GET /live/a HTTP/1.1\r\nX-")
        publisher = await _publish(server)
        await _live(server)
        now[0] = 4.9
        await loris.send(b"Drip: 1\r\n")
        await publisher.chunk(b"x")
        await until(lambda: server.counters.bytes_in_total == 1)
        now[0] = 5.0
        server.sweep(now[0])
        assert await loris.is_reset()
        assert server.counters.heads_dropped_total == 1
        now[0] = 14.9
        server.sweep(now[0])
        assert await publisher.is_reset()
        assert server.counters.publishers_idle_total == 1
        assert await server.publishers() == []


async def test_idle_connections_cannot_keep_readers_out(tmp_path: Path) -> None:
    """A full house drops whoever waits without a request; only when all are at work is a newcomer turned away."""
    async with _server(tmp_path, max_connections=8) as server:
        await _publish(server)
        await _live(server)
        idle = [await _Peer.connect(server) for _ in range(7)]
        await until(lambda: len(server._connections) == 8)
        readers = [await _read(server) for _ in range(7)]
        assert [await peer.is_reset() for peer in idle] == [True] * 7
        assert await (await _Peer.connect(server)).is_reset()
        assert (server.counters.heads_dropped_total, server.counters.connections_refused_total) == (7, 1)
        assert len(readers) == 7


async def test_guests_take_no_place_of_publishers_or_of_our_readers(tmp_path: Path) -> None:
    """Any number of readers from elsewhere: the next publisher gets in, and our own reader gets every stream."""
    async with _server(tmp_path, max_publishers=2) as server:
        publisher = await _publish(server, "/live/one")
        await _live(server)
        guests = [await _read(server, "/live/one") for _ in range(4)]
        refused = [await _Peer.connect(server, "GET /live/one HTTP/1.0") for _ in range(60)]
        assert [await peer.status() for peer in refused] == [503] * 60
        await _publish(server, "/live/two")
        await _live(server, 2)
        for name in ("one", "two"):
            target = server.reader_source(StreamKey(server.name, "live", name))[1].removeprefix(server.url)
            ours = await _Peer.connect(server, f"GET {target} HTTP/1.0")
            assert await ours.status() == 200
        assert server.counters.guests_refused_total == 60
        guests[0].close()
        for _ in range(3):  # that a reader has left shows when it is written to
            await publisher.chunk(b"media")
            await asyncio.sleep(0.05)
        await until(lambda: server._guests == 3)
        await _read(server, "/live/two")


async def test_a_wrong_secret_makes_a_guest(tmp_path: Path) -> None:
    """Who shows another secret than ours, or many, is served as a guest and nothing else."""
    async with _server(tmp_path) as server:
        await _publish(server)
        await _live(server)
        for query in ("reader=", "reader=x", "reader=%ff&reader=y", "reader=" + "x" * 4000):
            await _read(server, f"/live/cam%20one?{query}")
        assert server._guests == 4


async def test_a_broken_body_ends_the_stream_where_it_broke(tmp_path: Path) -> None:
    """Readers get the media before a framing error and then the end; no framing byte is taken for media."""
    async with _server(tmp_path) as server:
        publisher = await _publish(server)
        reader = await _read_when_live(server)
        await publisher.send(b"4\r\ngood\r\nthis is no chunk\r\n")
        assert await reader.rest() == b"good"
        assert await publisher.status() == 400


async def _read_when_live(server: EmbeddedIngest) -> _Peer:
    await _live(server)
    return await _read(server)


async def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    """A second server on the same port fails in one sentence that names the option to change."""
    async with _server(tmp_path) as server:
        taken = EmbeddedSettings(listen=ListenAddress("127.0.0.1", server.port))
        second = EmbeddedIngest(taken, Revocations(FileRevocations(tmp_path / "r"), _plain_id))
        with pytest.raises(IngestUnavailable, match=r"in use.*ingest\.listen"):
            async with second:
                pass
        with pytest.raises(IngestUnavailable, match="not listening"):
            _ = second.port


async def test_awkward_names_come_through(tmp_path: Path) -> None:
    """Spaces, &, +, %, ?, # and UTF-8 in a key reach `publishers()` unchanged by way of our own reader URL."""
    async with _server(tmp_path) as server, httpx.AsyncClient(trust_env=False) as client:
        for name in ["a b", "a&b=c", "k+1", "%2e%2e", "what?", "x#y", "ümläut", "日本", "🎥", "a'b\"c", "...", "-"]:
            key = StreamKey("embedded", "li ve", name)
            url = server.reader_source(key)[1]
            publisher = asyncio.create_task(client.post(url, content=_slowly(server, key)), name="publisher")
            assert (await asyncio.wait_for(publisher, 30)).status_code == 200


async def _slowly(server: EmbeddedIngest, key: StreamKey) -> AsyncIterator[bytes]:
    yield b"media"
    await _live(server)
    assert [p.key for p in await server.publishers()] == [key]


_PARTS = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp"), blacklist_characters="/\\"), min_size=1)


@given(app=_PARTS, name=_PARTS)
def test_paths_and_keys_are_one_to_one(app: str, name: str) -> None:
    """Every allowed key has a path that stands for it and for nothing else."""
    if {app, name} & {".", ".."} or max(len(app), len(name)) > 200:
        with pytest.raises(BadPath):
            parse_path(path_for(app, name).encode())
    else:
        assert parse_path(path_for(app, name).encode() + b"?token=1") == (app, name)


async def test_a_head_request_is_refused_without_a_body(tmp_path: Path) -> None:
    """HEAD gets its 405 and, as HTTP demands, not a byte more."""
    async with _server(tmp_path) as server:
        peer = await _Peer.connect(server, "HEAD /live/a HTTP/1.1")
        assert await peer.status() == 405
        assert await peer.rest() == b""
