"""Questions to an ingest server: bounded in time and size, and silent about keys."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from benchmarks.loopback import serving
from detector.events import StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.hook_watch import HookWatch
from detector.ingest.server_api import ServerApi
from tests.slack import SLACK_SECONDS

KEY = "secret-stream-key"


@contextlib.asynccontextmanager
async def answering(*pieces: bytes, pause: float = 0.0, stays: bool = False) -> AsyncIterator[str]:
    """A server that reads a request's head and then sends `pieces`, `pause` seconds apart."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if stays:
            await asyncio.sleep(60)

    async with serving(serve) as port:
        yield f"http://127.0.0.1:{port}"


async def refusal(address: str, *, timeout_seconds: float = 60.0, limit_bytes: int = 1 << 20) -> str:
    async with ServerApi(
        "the server", address, setting="ingest.api", timeout_seconds=timeout_seconds, limit_bytes=limit_bytes
    ) as api:
        started_at = asyncio.get_running_loop().time()
        with pytest.raises(IngestUnavailable) as caught:
            await api.ask("GET", f"/paths/{KEY}", token=KEY)
        assert asyncio.get_running_loop().time() - started_at < 2.0 + SLACK_SECONDS
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


async def test_an_answer_is_its_status_and_its_json() -> None:
    """Statuses are answers, not exceptions; an empty body is None, and an error need not be JSON."""
    for head, body, expected in (
        (b"200 OK", b'{"a": [1]}', (200, {"a": [1]})),
        (b"204 No Content", b"", (204, None)),
        (b"404 Not Found", b'{"error": "x"}', (404, {"error": "x"})),
        (b"502 Bad Gateway", b"<html>", (502, None)),
    ):
        async with (
            answering(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)) as address,
            ServerApi("the server", address, setting="ingest.api") as api,
        ):
            answer = await api.ask("GET", "/x")
        assert (answer.status, answer.content) == expected


@pytest.mark.parametrize(
    ("pieces", "pause", "said"),
    [
        ((), 0.0, "did not answer within 0.3 s"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", *[b" "] * 200), 0.02, "did not answer within 0.3 s"),
        ((b"HTTP/1.1 200 OK\r\n\r\nhello",), 0.0, "answered no JSON"),
        ((b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,), 0.0, "answered no JSON"),
        ((b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe{}",), 0.0, "answered no JSON"),
        ((b"RTSP/1.0 200 OK\r\n\r\n",), 0.0, "cannot be asked: it speaks no HTTP, or broke off; start it"),
        ((b"",), 0.0, "cannot be asked"),
    ],
)
async def test_whatever_goes_wrong_is_one_sentence(pieces: tuple[bytes, ...], pause: float, said: str) -> None:
    """A server that hangs, drips, lies or talks nonsense costs its time limit and a sentence without the key."""
    async with answering(*pieces, pause=pause, stays=not pieces) as address:
        assert said in await refusal(address, timeout_seconds=0.3 if "0.3" in said else 60.0)


async def test_an_endless_answer_is_left() -> None:
    """What is longer than any list of publishers is not kept in memory."""
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", *[b" " * 65536] * 64) as address:
        assert "more than 100000 bytes" in await refusal(address, limit_bytes=100_000)


async def test_a_redirect_is_an_answer() -> None:
    """Nobody sends our password somewhere else."""
    async with (
        answering(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n") as address,
        ServerApi("the server", address, setting="ingest.api", auth=("u", "p")) as api,
    ):
        answer = await api.ask("GET", "/x")
        assert (answer.status, answer.content) == (302, None)
        assert "answered 302" in str(api.refuse(answer))


async def test_a_server_that_is_down_is_said_with_the_setting() -> None:
    """A refused connection names the option that may be wrong; so does asking after the end."""
    async with answering() as address:
        pass
    assert "correct ingest.api" in await refusal(address)
    api = ServerApi("the server", address, setting="ingest.api")
    with pytest.raises(IngestUnavailable, match="stopping"):
        await api.ask("GET", "/")


def test_publishers_that_the_hook_was_not_asked_for_are_counted() -> None:
    """Who was live before us says nothing; who comes later without a question does, until it leaves or is asked for."""
    watch = HookWatch()
    early, asked, sneaked = (StreamKey("edge", "live", name) for name in ("early", "asked", "sneaked"))
    watch.listed([early])
    watch.asked(asked)
    watch.listed([early, asked, sneaked])
    assert (watch.unasked, watch.unasked_total) == (1, 1)
    watch.listed([early, asked, sneaked])
    assert (watch.unasked, watch.unasked_total) == (1, 1)
    watch.listed([asked])
    assert (watch.unasked, watch.unasked_total) == (0, 1)


def test_the_keys_that_were_asked_for_are_bounded() -> None:
    """A flood of names costs no memory without end; the latest are the ones that are kept."""
    watch = HookWatch()
    for number in range(20_000):
        watch.asked(StreamKey("edge", "live", str(number)))
    watch.listed([])
    watch.listed([StreamKey("edge", "live", "19999"), StreamKey("edge", "live", "0")])
    assert watch.unasked == 1
