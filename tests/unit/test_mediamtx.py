"""MediaMTX's adapter against a stand-in that was written from its source: never run against a real MediaMTX."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.loopback import serving
from detector.config.references import Secret
from detector.config.servers import HookUrl, HttpServerUrl
from detector.events import StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherStarted
from detector.ingest.mediamtx import MediaMtx, MediaMtxSettings, join_path, split_path
from detector.ingest.revocations import FileRevocations, Revocations
from streams.job import SourceKind
from tests.fixtures_mediamtx import FakeMediaMtx, question
from tests.ingest_benches import Shut
from tests.waiting import until


@contextlib.asynccontextmanager
async def attached(fake: FakeMediaMtx, folder: Path, **settings: Any) -> AsyncIterator[MediaMtx]:
    """The adapter on a served stand-in, whose authentication hook it is."""
    async with fake.serving():
        chosen = MediaMtxSettings(api=HttpServerUrl("http", "127.0.0.1", fake.port), **settings)
        async with MediaMtx(chosen, revocations(folder), "edge") as server:
            fake.hook = lambda fields: server.answer_hook(json.dumps(fields).encode())
            yield server


def revocations(folder: Path) -> Revocations:
    return Revocations(FileRevocations(folder / "revoked"), lambda key: key.path.encode().hex())


@given(st.lists(st.text("ab-", min_size=1), min_size=1).map("/".join))
def test_any_path_is_an_app_and_a_name_and_back(path: str) -> None:
    """Paths of one, two or more parts become keys and the same paths again."""
    assert join_path(*split_path(path)) == path
    assert StreamKey("edge", *split_path(path)).path == path


async def test_paths_become_keys_and_nobody_behind_a_path_is_no_publisher(tmp_path: Path) -> None:
    """One part or several; empty paths, redirects and pulls that sleep are left out."""
    fake = FakeMediaMtx()
    fake.add("key")
    fake.add("live/key", "srtConn")
    fake.add("a/b/key", "webRTCSession", online=False, ready=False)
    fake.add("empty", source=None)
    fake.add("elsewhere", "redirect")
    fake.add("sleeping", "rtspSource", online=False, ready=False)
    fake.add("pulled", "rtspSource", source={"type": "rtspSource", "id": ""})
    async with attached(fake, tmp_path) as server:
        found = await server.publishers()
        assert [(p.key.app, p.key.name) for p in found] == [
            ("", "key"),
            ("live", "key"),
            ("a/b", "key"),
            ("", "pulled"),
        ]
        assert "pulled" not in found[-1].connection
        assert found == await server.publishers()


async def test_an_older_release_says_ready_for_online(tmp_path: Path) -> None:
    """Without the field `online` the older `ready` counts."""
    fake = FakeMediaMtx()
    fake.add("pulled", "rtspSource")
    del fake.paths["pulled"]["online"]
    async with attached(fake, tmp_path) as server:
        assert [p.key.name for p in await server.publishers()] == ["pulled"]


async def test_every_page_is_read(tmp_path: Path) -> None:
    """However few items the server gives at once, none is missed."""
    fake = FakeMediaMtx(page_limit=7)
    for number in range(30):
        fake.add(f"live/{number}")
    async with attached(fake, tmp_path) as server:
        assert {p.key.name for p in await server.publishers()} == {str(n) for n in range(30)}
        assert all(int(asked["itemsPerPage"]) > 100 for asked in fake.asked)


@pytest.mark.parametrize("source_type", ["rtmpConn", "rtspSession", "srtConn", "webRTCSession"])
async def test_each_protocol_is_dropped_in_its_own_place(source_type: str, tmp_path: Path) -> None:
    """The kick follows the type of the source; one who left meanwhile counts nothing."""
    fake = FakeMediaMtx()
    source_id = fake.add("live/key", source_type)
    async with attached(fake, tmp_path) as server:
        assert (await server.cut(StreamKey("edge", "live", "key"), source_id)).count == 1
        assert fake.kicked == [source_id]
        assert (await server.cut(StreamKey("edge", "live", "key"))).count == 0
        stale = fake.add("live/key", "rtmpsConn")  # a kind that the stand-in kicks nowhere: as if it had just left
        assert (await server.cut(StreamKey("edge", "live", "key"), stale)).count == 0


async def test_a_pull_ends_by_its_path_config_and_begins_again(tmp_path: Path) -> None:
    """What no kick can stop loses its source, denied to publishers too, until it is restored."""
    fake = FakeMediaMtx()
    fake.configs["cam"] = {"source": "rtsp://192.0.2.1/cam"}
    key = StreamKey("edge", "", "cam")
    async with attached(fake, tmp_path) as server:
        fake.add("cam", "rtspSource", confName="cam")
        await server.revoke(key)
        assert (await server.cut(key)).count == 1
        assert fake.configs["cam"] == {"source": "publisher"}
        assert await server.publishers() == []
        await server.restore(key)
        assert fake.configs["cam"] == {"source": "rtsp://192.0.2.1/cam"}


async def test_a_pull_under_a_pattern_is_left_to_people(tmp_path: Path) -> None:
    """A path config that many paths share is not changed for one of them."""
    fake = FakeMediaMtx()
    fake.add("cam/1", "rtspSource", confName="~^cam/")
    async with attached(fake, tmp_path) as server:
        with pytest.raises(IngestUnavailable, match="by hand"):
            await server.cut(StreamKey("edge", "cam", "1"))


async def test_revoked_keys_are_refused_by_every_protocol(tmp_path: Path) -> None:
    """50 of 50 attempts, whatever the query says; others get in and are seen at once."""
    fake = FakeMediaMtx()
    async with attached(fake, tmp_path, poll="1m") as server:
        key = StreamKey("edge", "live", "banned")
        await server.revoke(key)
        for number in range(50):
            asked = question(
                "publish", "live/banned", query="name=innocent", protocol=("rtmp", "srt", "webrtc")[number % 3]
            )
            assert await server.answer_hook(json.dumps(asked).encode()) == 403
        changes = server.changes()
        await fake.publish("live/other", query="name=banned")
        started = await asyncio.wait_for(anext(changes), 30)
        assert isinstance(started, PublisherStarted)
        assert started.publisher.key.name == "other"


@pytest.mark.parametrize("path", ["", "/live/banned", "live/banned/", "live/\nbanned", "x" * 500])
async def test_a_path_that_the_list_may_name_otherwise_is_refused(path: str, tmp_path: Path) -> None:
    """A revoked key does not come back by a slash."""
    async with attached(FakeMediaMtx(), tmp_path) as server:
        assert await server.answer_hook(json.dumps(question("publish", path)).encode()) == 400


async def test_who_may_do_what_else(tmp_path: Path) -> None:
    """Viewers are let in; the API only from this machine or with its account; our reader by a password of its own."""
    settings = {"username": "op", "password": Secret("test", "pass-word")}
    async with attached(FakeMediaMtx(), tmp_path, **settings) as server:

        async def status(action: str, **changes: str | None) -> int:
            return await server.answer_hook(json.dumps(question(action, "live/key", **changes)).encode())

        assert await status("read") == await status("playback") == 200
        assert await status("api") == await status("metrics") == await status("pprof", ip="not an address") == 401
        assert await status("api", ip="127.0.0.1") == await status("api", ip="::1") == 200
        assert await status("api", user="op", password="pass-word") == 200
        assert await status("api", user="op", password="pass-wörd") == 401
        for body in (b"", b"[]", b"{}", b"\xff", b'{"action": "publish"}', b"[" * 100_000):
            assert await server.answer_hook(body) == 400


async def test_the_platforms_own_hook_has_the_last_word(tmp_path: Path) -> None:
    """It is not asked for revoked keys nor for our readers, and when it is down nobody else gets in."""
    fake, asked = FakeMediaMtx(), []
    verdicts = {"good": 200, "bad": 403, "odd": 302}

    async def theirs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        fields = json.loads(await reader.readexactly(length))
        asked.append((head.split(b"\r\n")[0], fields["user"]))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" % verdicts[fields["user"]])
        await writer.drain()

    async with contextlib.AsyncExitStack() as platform:
        port = await platform.enter_async_context(serving(theirs))
        async with attached(fake, tmp_path, forward=HookUrl.parse(f"http://127.0.0.1:{port}/auth?k=1")) as server:

            async def status(action: str, user: str, **changes: str | None) -> int:
                return await server.answer_hook(json.dumps(question(action, "live/key", user=user, **changes)).encode())

            assert [await status("publish", user) for user in ("good", "bad", "odd")] == [200, 403, 400]
            query = parse_qs(urlsplit(server.reader_source(StreamKey("edge", "live", "key"))[1]).query)
            assert await status("read", query["user"][0], password=query["pass"][0]) == 200
            await server.revoke(StreamKey("edge", "live", "key"))
            assert await status("publish", "good") == 403
            await platform.aclose()
            assert await status("read", "good") == 503
            assert server.forward_failures_total == 1
    assert asked == [(b"POST /auth?k=1 HTTP/1.1", user) for user in ("good", "bad", "odd")]


async def test_the_reader_attaches_over_rtmp(tmp_path: Path) -> None:
    """The URL holds the path and a password that is another one in each process."""
    urls = set()
    for _ in range(2):
        async with attached(FakeMediaMtx(), tmp_path) as server:
            kind, url = server.reader_source(StreamKey("edge", "", "key-1.a~b"))
            assert kind is SourceKind.RTMP
            assert urlsplit(url).path == "/key-1.a~b"
            urls.add(url)
    assert len(urls) == 2


async def test_who_gets_in_unasked_is_a_problem(tmp_path: Path) -> None:
    """Without the hook nothing is denied: that is said, and ends when the hook is asked again."""
    fake = FakeMediaMtx()
    async with attached(fake, tmp_path, poll="100ms") as server:
        await server.publishers()
        assert server.problems() == []
        fake.add("live/sneaked")
        await until(lambda: bool(server.problems()))
        assert "authHTTPAddress" in server.problems()[0]
        await fake.publish("live/sneaked")
        assert server.problems() == []


@pytest.mark.parametrize(
    "answer", [{}, {"items": None}, {"items": [{}], "pageCount": 1}, {"items": [], "pageCount": "x"}, [], None]
)
async def test_an_answer_that_is_none_is_said(answer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in another shape is an error, never an empty list: nobody would be watched."""
    fake = FakeMediaMtx()
    app = fake.app()
    app.router.routes.insert(0, _route("/v3/paths/list", answer))
    monkeypatch.setattr(fake, "app", lambda: app)
    async with attached(fake, tmp_path) as server:
        with pytest.raises(IngestUnavailable, match="answered 200"):
            await server.publishers()
        await until(lambda: bool(server.problems()))


def _route(path: str, answer: object) -> Any:
    async def give(_: object) -> JSONResponse:
        return JSONResponse(answer)

    return Route(path, give)


async def test_a_server_that_goes_away_takes_no_publisher_along(tmp_path: Path) -> None:
    """While it does not answer the last list stands; that it does not answer is a problem."""
    fake = FakeMediaMtx()
    key = StreamKey("edge", "live", "key")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(fake.serving())
        fake.add("live/key")
        settings = MediaMtxSettings(api=HttpServerUrl("http", "127.0.0.1", fake.port), poll="100ms")
        async with MediaMtx(settings, revocations(tmp_path), "edge") as server:
            changes = server.changes()
            assert isinstance(await asyncio.wait_for(anext(changes), 30), PublisherStarted)
            waiting = asyncio.create_task(anext(changes, None), name="changes")
            await stack.aclose()
            await until(lambda: bool(server.problems()))
            for question_ in (server.publishers(), server.cut(key)):
                with pytest.raises(IngestUnavailable, match=r"correct ingest\.api"):
                    await question_
            assert not waiting.done()
        assert await asyncio.wait_for(waiting, 30) is not None


async def test_viewers_wait_until_the_path_is_cleared(tmp_path: Path) -> None:
    """Reading is refused until then, by whatever account, and again once somebody else may publish; we may read."""
    async with attached(FakeMediaMtx(), tmp_path) as server:
        server.viewers = gate = Shut()
        gate.cleared.add(key := StreamKey("edge", "live", "key"))

        async def asked(action: str, path: str, **changes: str | None) -> int:
            answer = await server.answer_hook(json.dumps(question(action, path, **changes)).encode())
            return answer if isinstance(answer, int) else answer.status

        ours = dict(part.split("=") for part in server.reader_source(key)[1].partition("?")[2].split("&"))
        assert await asked("read", "live/other", user="viewer", password="x") == 403
        assert await asked("read", "live/other", user=ours["user"], password=ours["pass"]) == 200
        assert await asked("read", "live/key") == 200
        await server.revoke(key)
        assert await asked("read", "live/key") == 403, "it is about to be cut"
        await server.restore(key)
        assert await asked("publish", "live/key") == 200
        assert await asked("read", "live/key") == 403


async def test_whom_the_platform_refuses_takes_nobodys_viewers(tmp_path: Path) -> None:
    """A publisher whom its own hook turns away does not make a cleared stream wait anew."""
    forward = HookUrl.parse("http://127.0.0.1:1/auth")
    async with attached(FakeMediaMtx(), tmp_path, forward=forward) as server:
        server.viewers = gate = Shut()
        gate.cleared.add(key := StreamKey("edge", "live", "key"))
        assert await server.answer_hook(json.dumps(question("publish", "live/key")).encode()) == 503
        assert key in gate.cleared
