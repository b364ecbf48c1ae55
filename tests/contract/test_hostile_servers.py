"""Ingest servers that answer as no server should: every adapter survives them, in time, in bounds, in one sentence."""

import asyncio
import contextlib
import inspect
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loopback import serving
from detector.events import StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable
from detector.ingest.hooks import AnswersHooks, HookAnswer
from detector.ingest.viewers import HoldsViewers
from tests.fixtures_ingest_peers import (
    SECRET,
    FakeAntMedia,
    FakeIvs,
    FakeLiveKit,
    FakeOme,
    FakePlatform,
    FakeSrs,
    Peer,
    asking,
)
from tests.ingest_benches import BENCHES, made
from tests.slack import SLACK_SECONDS

REMOTE = sorted(name for name, bench in BENCHES.items() if bench.at_port)
KEY_NAME = "SECRETKEY99"
_MIB = 1024 * 1024
_JSON = b"content-type: application/json\r\n"


def _plain(status: str, body: bytes, headers: bytes = _JSON) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), headers, len(body), body)


_SECRETS = f'{{"error": "{KEY_NAME} {SECRET}"}}'.encode()
ANSWERS: dict[str, bytes] = {
    **{
        f"type {body[:12]!r}": _plain("200 OK", body) for body in (b"[]", b"{}", b"null", b'"x"', b"1", b"[[]]", b"NaN")
    },
    "items of wrong types": _plain(
        "200 OK",
        b'{"code": 0, "response": [1], "streams": [{"id": 1}], "items": 5, "rooms": {}, "data": {"streams": [7]}, '
        b'"publishers": [{"app": [], "name": 3}], "pageCount": "x"}',
    ),
    "pages without end": _plain(
        "200 OK", b'{"streams": [], "publishers": [], "nextToken": "1", "next": "1", "code": 0}'
    ),
    "nested": _plain("200 OK", b"[" * 100_000),
    "10 MB": _plain("200 OK", b'{"streams": [' + b"0," * (5 * _MIB) + b"0]}"),
    "no text": _plain("200 OK", b"\xff\xfe\x00" * 100),
    "truncated": b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"streams": [',
    "no HTTP": b"\x00\x01SSH-2.0-x\r\n\r\n",
    **{f"{status}": _plain(f"{status} X", _SECRETS) for status in (204, 400, 401, 403, 404, 409, 429, 500, 503)},
    "HTML": _plain("502 Bad Gateway", b"<html>" + KEY_NAME.encode(), b""),
}


@dataclass
class Rogue:
    """Answers every request with `answer`; `drip` seconds between its bytes, `flood` bytes more after it."""

    answer: bytes = b""
    drip: float = 0.0
    flood: int = 0
    port: int = 0
    sent: int = 0
    elsewhere: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has had enough
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.elsewhere += b" /elsewhere" in head
        if self.drip:
            for byte in self.answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(self.drip)
        writer.write(self.answer)
        for _ in range(self.flood // 65536):
            writer.write(b"0," * 32768)
            await writer.drain()
            self.sent += 65536
        writer.write_eof()
        await reader.read()  # until the client has read it and closes

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Rogue"]:
        async with serving(self._serve) as self.port:
            yield self


def _key(kind: str) -> StreamKey:
    return StreamKey("edge", BENCHES[kind].plain_app, KEY_NAME)


@contextlib.asynccontextmanager
async def _beside_a_rogue(kind: str, folder: Path) -> AsyncIterator[tuple[IngestServer, Rogue]]:
    at_port = BENCHES[kind].at_port
    assert at_port is not None
    async with Rogue(_plain("500 X", b"")).serving() as rogue, made(kind, folder, at_port(rogue.port)) as server:
        yield server, rogue


async def _survive(server: IngestServer, key: StreamKey, what: str) -> None:
    """Nobody is listed and nothing was cut; what is said is one sentence without anything secret."""
    started_at = asyncio.get_running_loop().time()
    said: list[str] = []
    try:
        assert await server.publishers() == [], what
    except IngestUnavailable as error:
        said.append(str(error))
    try:
        assert (await server.cut(key)).count == 0, what
    except IngestUnavailable as error:
        said.append(str(error))
    assert asyncio.get_running_loop().time() - started_at < 4 + SLACK_SECONDS, what
    for sentence in [*said, *server.problems()]:
        assert re.fullmatch(r"[ -~]{10,400}", sentence), (what, sentence)
        assert KEY_NAME not in sentence, what
        assert SECRET not in sentence, what


@pytest.mark.parametrize("kind", REMOTE)
async def test_no_answer_is_believed_that_is_none(kind: str, tmp_path: Path) -> None:
    """Wrong types, errors, garbage: nobody is live then, nothing was cut, and one sentence says why."""
    async with _beside_a_rogue(kind, tmp_path) as (server, rogue):
        for what, answer in ANSWERS.items():
            rogue.answer = answer
            await _survive(server, _key(kind), what)


@pytest.mark.parametrize("kind", REMOTE)
async def test_redirects_lead_nowhere_and_drips_end(kind: str, tmp_path: Path) -> None:
    """A redirect is no answer, with the credentials it would carry away; a byte now and then costs the time limit."""
    async with _beside_a_rogue(kind, tmp_path) as (server, rogue):
        location = b"Location: http://127.0.0.1:%d/elsewhere\r\n" % rogue.port
        for status in ("301 Moved Permanently", "307 Temporary Redirect"):
            rogue.answer = _plain(status, b"{}", location)
            await _survive(server, _key(kind), status)
        rogue.answer, rogue.drip = _plain("200 OK", b'{"streams": []}'), 0.02
        await _survive(server, _key(kind), "drip")
        assert rogue.elsewhere == 0


@pytest.mark.parametrize("kind", REMOTE)
async def test_a_flood_is_cut_off(kind: str, tmp_path: Path) -> None:
    """An answer that never ends is read up to a bound and no further, whatever length it announces."""
    async with _beside_a_rogue(kind, tmp_path) as (server, rogue):
        rogue.sent, rogue.flood = 0, 256 * _MIB
        rogue.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n["
        with pytest.raises(IngestUnavailable):
            await server.publishers()
        assert rogue.sent < 128 * _MIB, "the connection is closed long before its end"


PEERS: dict[str, tuple[type[Peer], int]] = {
    "srs": (FakeSrs, 2500),
    "ovenmediaengine": (FakeOme, 60),
    "ant-media": (FakeAntMedia, 240),
    "livekit": (FakeLiveKit, 1000),
    "aws-ivs": (FakeIvs, 350),
    "platform": (FakePlatform, 350),
}


@contextlib.asynccontextmanager
async def _beside_a_peer(kind: str, folder: Path) -> AsyncIterator[tuple[IngestServer, Peer]]:
    at_port = BENCHES[kind].at_port
    assert at_port is not None
    async with PEERS[kind][0]().serving() as peer:
        settings = at_port(peer.port) | {"timeout": "10s", "poll": "30s"}
        async with made(kind, folder, settings) as server:
            if isinstance(server, AnswersHooks):
                peer.ask = asking(server)
            yield server, peer


@pytest.mark.parametrize("kind", sorted(PEERS))
async def test_thousands_of_publishers_are_all_listed(kind: str, tmp_path: Path) -> None:
    """However many pages it takes, everybody is listed once, and whoever is cut is the one who was meant."""
    async with _beside_a_peer(kind, tmp_path) as (server, peer):
        app, count = BENCHES[kind].plain_app, PEERS[kind][1]
        peer.live = {(app, f"name{n}"): f"c{n}" for n in range(count)}
        listed = await server.publishers()
        assert sorted(publisher.key.name for publisher in listed) == sorted(f"name{n}" for n in range(count))
        assert len({publisher.connection for publisher in listed}) == count
        assert (await server.cut(StreamKey("edge", app, f"name{count - 1}"))).count == 1
        assert (app, f"name{count - 1}") not in peer.live
        assert len(peer.live) == count - 1


@pytest.mark.parametrize("kind", sorted(set(PEERS) - {"aws-ivs"}))
async def test_names_that_nobody_can_ask_for_are_told_and_kept_out(kind: str, tmp_path: Path) -> None:
    """Control characters, endless names and steps of a path are not watched nor let in; health says so, not which."""
    async with _beside_a_peer(kind, tmp_path) as (server, peer):
        bad = ["a\nERROR b", "x" * 500, "tab\there", "\x1b[31m", "..", "."]
        app = BENCHES[kind].plain_app
        peer.live = {(app, name): f"c{n}" for n, name in enumerate(["good", *bad], start=1)}
        assert [publisher.key.name for publisher in await server.publishers()] == ["good"]
        told = next(sentence for sentence in server.problems() if "nobody can ask for" in sentence)
        assert told.startswith("6 publishers")
        assert "ERROR" not in "".join(server.problems())
        if BENCHES[kind].denies:
            assert not any([await peer.allows(app, name) for name in bad])
            assert await peer.allows(app, "good")


_ODD = ["\ud800", "\udcff", "\x00", "..", "a#b", "?" * 300, "&".join(f"a{n}=1" for n in range(300)), "%", "%ff%00%2f"]
_WRONG: list[Any] = [*_ODD, None, 1, [], {}]


def _questions(kind: str) -> list[dict[str, Any]]:
    """What each server asks, with every odd text in every place."""
    forms: dict[str, list[dict[str, Any]]] = {
        "mediamtx": [{"action": a, "path": "p", "user": "u", "password": "p", "ip": "i"} for a in ("read", "publish")],
        "node-media-server": [{"action": "prePublish", "app": "live", "name": "n"}],
        "srs": [
            {"action": a, "app": "live", "stream": "n", "client_id": "c", "param": "?", "vhost": "__defaultVhost__"}
            for a in ("on_play", "on_publish", "on_stop")
        ],
        "ovenmediaengine": [
            {"request": {"direction": d, "status": "opening", "url": "u"}} for d in ("incoming", "outgoing")
        ],
        "ant-media": [
            {"appName": "live", "streamId": "n", "mode": m, "token": "t", "queryParams": "q"}
            for m in ("play", "publish")
        ],
        "livekit": [{"event": "e"}],
        "platform": [{"action": a, "app": "live", "name": "n", "query": "q"} for a in ("play", "publish")],
    }
    if kind == "ovenmediaengine":
        urls = [f"rtmp://h:1935/live/{odd}?{odd}" for odd in _ODD] + _ODD
        return [{"request": form["request"] | {"url": url}} for form in forms[kind] for url in urls]
    return [form | {field: odd} for form in forms[kind] for field in form for odd in _WRONG]


@pytest.mark.parametrize("kind", sorted(set(REMOTE) - {"aws-ivs", "nginx-rtmp"}))
async def test_hooks_answer_whatever_a_stranger_puts_into_a_question(kind: str, tmp_path: Path) -> None:
    """Names, arguments and accounts are a stranger's: halves of characters and hundreds of arguments get an answer."""
    async with _beside_a_rogue(kind, tmp_path) as (server, _):
        assert isinstance(server, AnswersHooks)
        for question in _questions(kind):
            given = server.answer_hook(json.dumps(question).encode())
            answer = await given if inspect.isawaitable(given) else given
            status = answer.status if isinstance(answer, HookAnswer) else answer
            assert 200 <= status < 500, question


async def test_the_hook_of_ovenmediaengine_hears_the_whole_name(tmp_path: Path) -> None:
    """What is cut off a name, or left out of it, would let a denied key in as another, or in unwatched."""
    async with _beside_a_peer("ovenmediaengine", tmp_path) as (server, peer):
        assert peer.ask is not None
        assert isinstance(server, AnswersHooks)
        for name, is_let_in in {
            "a#b": False,
            "ta\tb": False,
            "a\nb": False,
            "a/b": False,
            "..": False,
            "a%23b": True,
            "a/": True,
            "a": True,
        }.items():
            request = {"direction": "incoming", "status": "opening", "url": f"rtmp://h:1935/live/{name}?x=1#y"}
            answer = server.answer_hook(json.dumps({"request": request}).encode())
            assert isinstance(answer, HookAnswer)
            assert (answer.content or {}).get("allowed") is is_let_in, name


async def test_one_name_that_is_no_text_hides_nobody_else(tmp_path: Path) -> None:
    """A publisher chooses the bytes of a name, and some servers pass them on as they are: the others are listed."""
    streams = b",".join(
        b'{"id": "s%d", "vhost": "v", "app": "live", "name": "%s", "publish": {"active": true, "cid": "c%d"}}'
        % (number, name, number)
        for number, name in enumerate((b"good", b"\xff\xfe", b"\\ud800"))
    )
    answer = b'{"code": 0, "vhosts": [{"id": "v", "name": "__defaultVhost__"}], "streams": [%s]}' % streams
    async with _beside_a_rogue("srs", tmp_path) as (server, rogue):
        rogue.answer = _plain("200 OK", answer)
        assert [publisher.key.name for publisher in await server.publishers()] == ["good"]
        assert any(sentence.startswith("2 publishers") for sentence in server.problems())
    async with _beside_a_rogue("ovenmediaengine", tmp_path / "ome") as (server, rogue):
        rogue.answer = _plain("200 OK", b'{"response": ["\xff"]}')
        assert await server.publishers() == []


async def test_channels_that_nobody_tells_how_to_read_are_told(tmp_path: Path) -> None:
    """What AWS lists as live and does not let us look up is not watched, and health says so with the remedy."""
    async with _beside_a_peer("aws-ivs", tmp_path) as (server, peer):
        assert isinstance(peer, FakeIvs)
        peer.live = {("123456789012", f"name{n}"): f"c{n}" for n in range(3)}
        whole = peer._answer
        peer._answer = lambda operation, fields: (  # type: ignore[method-assign]
            {"channels": [], "errors": []} if operation == "BatchGetChannel" else whole(operation, fields)
        )
        assert await server.publishers() == []
        assert any("3 live channels" in sentence and "BatchGetChannel" in sentence for sentence in server.problems())


async def test_a_held_stream_with_an_awkward_name_is_watched_once_cleared(tmp_path: Path) -> None:
    """OvenMediaEngine's viewers ask for a name percent-encoded: the spelling that nobody publishes keeps nobody out."""
    async with _beside_a_peer("ovenmediaengine", tmp_path) as (server, peer):
        assert isinstance(peer, FakeOme)
        assert isinstance(server, HoldsViewers)
        key = StreamKey(server.name, "live", "a b%41")
        await peer.publish("live", key.name)
        await server.publishers()
        gate = _Gate()
        server.viewers = gate
        watched = [await peer.admission("outgoing", "live", key.name)]
        gate.cleared.add(key)
        watched.append(await peer.admission("outgoing", "live", key.name))
        await server.revoke(key)
        watched.append(await peer.admission("outgoing", "live", key.name))
        assert [(answer.content or {}).get("allowed") for answer in watched] == [False, True, False]


class _Gate:
    """Lets viewers see what is `cleared`."""

    is_shut = True

    def __init__(self) -> None:
        self.cleared: set[StreamKey] = set()

    def may_watch(self, key: StreamKey, connection: str | None = None) -> bool:
        return key in self.cleared and connection is None

    def publisher_comes(self, key: StreamKey) -> None:
        self.cleared.discard(key)
