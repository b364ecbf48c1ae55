"""Clients that keep connections to the HTTP port and ask nothing, or never take their answer."""

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from fastapi import FastAPI, Response

from detector.api import connections
from detector.api.app import create_app
from detector.api.server import HttpServer
from detector.api.view import Health
from detector.ingest.hooks import HookAnswer, HookOutcome
from detector.metrics import Metrics

pytestmark = pytest.mark.integration

HOOK = "s" * 64


class View:
    """A service that is well."""

    def health(self) -> Health:
        return Health(ok=True)


class Server:
    """An ingest server that lets everybody in."""

    name = "nginx-rtmp"

    def answer_hook(self, body: bytes) -> HookAnswer:
        return HookAnswer(200, HookOutcome.LET_IN)


def _app(metrics: Metrics | None = None) -> FastAPI:
    return create_app(View(), metrics or Metrics(), (HOOK, Server()))  # type: ignore[arg-type]


@contextmanager
def _crowd(port: int, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for one in crowd:
            one.sendall(first)
        yield crowd


def _is_reset(client: socket.socket) -> bool:
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET /health/ready HTTP/1.1\r\nX-A: ",
        b"POST /hook/x/nginx-rtmp HTTP/1.1\r\nContent-Length: 9\r\nHost: h\r\n\r\na",
    ],
    ids=["silent", "half a head", "half a body"],
)
async def test_the_hook_answers_beside_two_hundred_slow_clients(first: bytes) -> None:
    """200 connections that never end their request: the hook answers all of 20 questions in less than 50 ms."""
    async with (
        HttpServer(_app(), "127.0.0.1", 0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):

        async def median_seconds(crowd: list[socket.socket]) -> float:
            taken = []
            for _ in range(20):
                for one in crowd[:20]:
                    one.sendall(b"x")
                asked_at = time.perf_counter()
                answer = await client.post(f"/hook/{HOOK}/nginx-rtmp", content=b"call=publish")
                taken.append(time.perf_counter() - asked_at)
                assert answer.status_code == 200
            return sorted(taken)[10]

        alone = await median_seconds([])
        with _crowd(server.port, 200, first) as crowd:
            assert await median_seconds(crowd) < max(0.05, 5 * alone), alone


async def test_who_never_ends_a_head_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then buys no time: after the limit the connection is reset."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    async with HttpServer(_app(), "127.0.0.1", 0) as server:
        started_at = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started_at < 30 and not reader.at_eof():
                writer.write(b"G")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()

    assert 0.2 < time.monotonic() - started_at < 30


async def test_who_never_takes_an_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and asks and reads nothing keeps neither its place nor our memory."""
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.3)
    metrics = Metrics()
    for number in range(60):
        metrics.stage(f"stage-{number}", 0.1)  # a long page
    async with HttpServer(_app(metrics), "127.0.0.1", 0) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            started_at = time.monotonic()
            with contextlib.suppress(BlockingIOError):
                for _ in range(1000):
                    client.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * 20)
                    await asyncio.sleep(0)
            while not _is_reset(client) and time.monotonic() - started_at < 30:
                await asyncio.sleep(0.05)

    assert time.monotonic() - started_at < 30


async def test_who_leaves_the_last_of_an_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer after which the connection closes keeps no place either when its last bytes are never taken."""
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.3)
    app = FastAPI()

    @app.get("/")
    async def long() -> Response:
        return Response(b"x" * 8_000_000)

    async with HttpServer(app, "127.0.0.1", 0) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(30):
                while not _is_reset(client):
                    await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET /",
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\na",
        b"POST /hook/x/nginx-rtmp HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n9\r\na",
        b"POST /hook/" + HOOK.encode() + b"/nginx-rtmp HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\na",
    ],
    ids=["silent", "half a head", "answered before the body", "endless chunk", "the hook's half body"],
)
async def test_a_full_house_makes_room_for_who_asks(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    """More connections that owe something than there are places: whoever comes then and asks is answered."""
    monkeypatch.setattr(connections, "CONNECTIONS", 20)
    monkeypatch.setattr("detector.api.server.CONNECTIONS", 20)
    async with HttpServer(_app(), "127.0.0.1", 0) as server:
        with _crowd(server.port, 60, first):
            await asyncio.sleep(0.2)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
                answers = [(await client.post(f"/hook/{HOOK}/nginx-rtmp")).status_code for _ in range(5)]

    assert answers == [200] * 5


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"\0" * 1000,
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabczz\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
async def test_what_is_no_request_is_refused_and_not_logged(
    request_bytes: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Heads beyond 16 KiB and garbage get a 400 or a reset, and leave no line in the log."""
    async with HttpServer(_app(), "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes)
        try:
            answer = await asyncio.wait_for(reader.read(100), 30)
        except ConnectionError:
            answer = b""
        writer.close()

    assert answer[:10] in {b"", b"HTTP/1.1 4"}
    assert capfd.readouterr().err == ""


async def test_a_chunk_that_is_none_after_the_answer_is_no_fault_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever was refused before the end of the body, and then sends garbage, is let go without a line in the log."""
    async with HttpServer(_app(), "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /nothing HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
        writer.write(b"zz\r\n")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()

    assert answer.startswith(b"HTTP/1.1 404")
    assert capfd.readouterr().err == ""


async def test_a_request_with_two_lengths_is_refused_and_nothing_after_it_is_read() -> None:
    """What a proxy took for the end of it is a matter of taste: the bytes behind it may be somebody else's request."""
    async with HttpServer(_app(), "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = b"POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"not both" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_head_answers_as_get_without_body(path: str) -> None:
    """Load balancers that ask with HEAD get the status of GET."""
    async with (
        HttpServer(_app(), "127.0.0.1", 0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        asked, got = await client.head(path), await client.get(path)

    assert (asked.status_code, asked.content) == (got.status_code, b"") == (200, b"")
