"""A bench for each ingest server: how it is set up, published to and asked, for the tests that run over all of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from detector.config.references import Secret
from detector.config.units import Duration
from detector.events import StreamKey
from detector.ingest.adapter import IngestServer
from detector.ingest.hooks import AnswersHooks, HookAnswer
from detector.ingest.mediamtx import MediaMtx, join_path
from detector.ingest.nginx_rtmp import NginxRtmp
from detector.ingest.node_media_server import NodeMediaServer
from detector.ingest.registry import ingest_kind
from detector.ingest.revocations import FileRevocations, Revocations
from tests.fixtures_ingest_peers import SECRET as PEER_SECRET
from tests.fixtures_ingest_peers import Denied as PeerDenied
from tests.fixtures_ingest_peers import (
    FakeAntMedia,
    FakeIvs,
    FakeLiveKit,
    FakeOme,
    FakePlatform,
    FakeSrs,
    Peer,
    asking,
)
from tests.fixtures_mediamtx import Denied, FakeMediaMtx
from tests.fixtures_nginx_rtmp import HookRelay, hook_server, live, make_clip, running_nginx
from tests.fixtures_node_media_server import running_nms
from tests.waiting import until

AWKWARD_NAMES = ["plain", "a b", "a&b", "k+1", "%41", "what?", "x'y\"", "ümläut", "日本"]

FEW_NAMES = ("a b&k+1%41?x'y\"", "日本")
"""The same, fewer at once."""

Publish = Callable[[IngestServer, StreamKey], contextlib.AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Stage:
    """A server to test: the settings to reach it by, and a publisher: `publish` is live inside its context."""

    settings: object
    publish: Publish
    is_denied: Callable[[IngestServer, StreamKey], Awaitable[bool]]
    """Tries to publish once."""
    attach: Callable[[IngestServer], None] = lambda _: None
    """Lets the server ask this hook."""


@dataclass(frozen=True)
class Bench:
    """How one kind is tested. `names` are those that the server lets anyone publish under."""

    settings: dict[str, object]
    stage: Callable[[Path], contextlib.AbstractAsyncContextManager[Stage]] | None = None
    names: tuple[str, ...] = tuple(AWKWARD_NAMES)
    app: str = "li ve"
    marks: tuple[pytest.MarkDecorator, ...] = ()
    at_port: Callable[[int], dict[str, object]] | None = None
    """The settings for a server of its own process that is to be found at a port."""
    plain_app: str = "live"
    denies: bool = True
    """Whether a revoked key is refused; else who comes with one is cut again."""
    denies_there: bool = False
    """Whether the server itself has to be told of a revoked key."""


@contextlib.asynccontextmanager
async def _publish_over_http(server: IngestServer, key: StreamKey) -> AsyncIterator[None]:
    stop = asyncio.Event()

    async def media() -> AsyncIterator[bytes]:
        while not stop.is_set():
            yield b"\x47" * 188
            await asyncio.sleep(0.01)

    async with httpx.AsyncClient(trust_env=False) as client:
        post = asyncio.create_task(client.post(server.reader_source(key)[1], content=media()), name="publisher")
        try:
            yield
        finally:
            stop.set()
            with contextlib.suppress(httpx.TransportError):  # a cut looks like this to the one who is cut
                await post


async def _is_denied_over_http(server: IngestServer, key: StreamKey) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.post(server.reader_source(key)[1], content=b"x")).status_code == 403


@contextlib.asynccontextmanager
async def _embedded(_: Path) -> AsyncIterator[Stage]:
    yield Stage({"listen": "127.0.0.1:0"}, _publish_over_http, _is_denied_over_http)


@contextlib.asynccontextmanager
async def _mediamtx(_: Path) -> AsyncIterator[Stage]:
    """A stand-in written from its source: this was never run against a real MediaMTX."""
    async with FakeMediaMtx().serving() as fake:

        @contextlib.asynccontextmanager
        async def publish(_: IngestServer, key: StreamKey) -> AsyncIterator[None]:
            source_id = await fake.publish(join_path(key.app, key.name))
            yield
            if source_id not in fake.kicked:
                del fake.paths[join_path(key.app, key.name)]

        async def is_denied(_: IngestServer, key: StreamKey) -> bool:
            with contextlib.suppress(Denied):
                async with publish(_, key):
                    return False
            return True

        def attach(server: IngestServer) -> None:
            assert isinstance(server, MediaMtx)
            fake.hook = lambda fields: server.answer_hook(json.dumps(fields).encode())

        yield Stage({"api": f"http://127.0.0.1:{fake.port}", "poll": "100ms"}, publish, is_denied, attach)


@contextlib.asynccontextmanager
async def _node_media_server(folder: Path) -> AsyncIterator[Stage]:
    async with running_nms(folder / "nms") as nms:

        @contextlib.asynccontextmanager
        async def publish(_: IngestServer, key: StreamKey) -> AsyncIterator[None]:
            before = nms.hook_answers
            async with nms.publishing(key.app, key.name):
                # It asks twice and lets in meanwhile: a key revoked between the two denies this publisher as well.
                await until(lambda: nms.hook_answers >= before + 2)
                yield

        def attach(server: IngestServer) -> None:
            assert isinstance(server, NodeMediaServer)
            nms.hook = server.answer_hook

        settings = nms.settings.model_copy(update={"timeout": Duration.parse("5s")})  # beside other tests it is slow
        yield Stage(settings, publish, lambda _, key: nms.is_denied(key.app, key.name), attach)


@contextlib.asynccontextmanager
async def _nginx_rtmp(folder: Path) -> AsyncIterator[Stage]:
    clip = make_clip(folder / "clip.flv", audio=False)
    relay = HookRelay()
    with running_nginx(folder / "nginx") as nginx:
        async with hook_server(nginx, relay):

            @contextlib.asynccontextmanager
            async def publish(server: IngestServer, key: StreamKey) -> AsyncIterator[None]:
                async with live(nginx.rtmp_port, clip, key.name, app=key.app):
                    async with asyncio.timeout(30):
                        while key not in {publisher.key for publisher in await server.publishers()}:
                            await asyncio.sleep(0.02)
                    yield

            async def is_denied(server: IngestServer, key: StreamKey) -> bool:
                async with live(nginx.rtmp_port, clip, key.name, app=key.app) as process:
                    while process.poll() is None:
                        if key in {publisher.key for publisher in await server.publishers()}:
                            return False
                        await asyncio.sleep(0.02)
                return True

            def attach(server: IngestServer) -> None:
                assert isinstance(server, NginxRtmp)
                relay.server = server

            yield Stage({**nginx.settings, "hook_deadline": "0s"}, publish, is_denied, attach)


def _peer(make: Callable[[], Peer], settings: Callable[[int], dict[str, object]]) -> Callable[[Path], Any]:
    """The stage of a stand-in, whose settings are those at its port."""

    @contextlib.asynccontextmanager
    async def stage(_: Path) -> AsyncIterator[Stage]:
        async with make().serving() as peer:

            @contextlib.asynccontextmanager
            async def publish(_: IngestServer, key: StreamKey) -> AsyncIterator[None]:
                connection = await peer.publish(key.app, key.name)
                yield
                if peer.live.get((key.app, key.name)) == connection:
                    del peer.live[key.app, key.name]

            async def is_denied(server: IngestServer, key: StreamKey) -> bool:
                with contextlib.suppress(PeerDenied):
                    async with publish(server, key):
                        return False
                return True

            def attach(server: IngestServer) -> None:
                if isinstance(server, AnswersHooks):
                    peer.ask = asking(server)
                else:
                    peer.ask = lambda *_: asyncio.sleep(0, HookAnswer(200))

            yield Stage({"poll": "500ms"} | settings(peer.port), publish, is_denied, attach)

    return stage


def _peer_bench(make: Callable[[], Peer], settings: Callable[[int], dict[str, object]], **more: Any) -> Bench:
    names = {"names": FEW_NAMES, **more}
    return Bench({}, _peer(make, settings), at_port=lambda port: settings(port) | {"timeout": "150ms"}, **names)


_SECRET = Secret("test", PEER_SECRET)
BENCHES = {
    "srs": _peer_bench(FakeSrs, lambda port: {"api": f"http://127.0.0.1:{port}"}),
    "ovenmediaengine": _peer_bench(
        FakeOme, lambda port: {"api": f"http://127.0.0.1:{port}", "token": _SECRET, "webhook_secret": _SECRET}
    ),
    "ant-media": _peer_bench(
        FakeAntMedia,
        lambda port: {"api": f"http://127.0.0.1:{port}", "jwt_secret": _SECRET, "apps": ("live",)},
        app="live",
    ),
    "livekit": _peer_bench(
        FakeLiveKit,
        lambda port: {"api": f"http://127.0.0.1:{port}", "api_key": "key", "api_secret": _SECRET},
        denies=False,
    ),
    "aws-ivs": _peer_bench(
        FakeIvs,
        lambda port: {
            "endpoint": f"http://127.0.0.1:{port}",
            "region": "eu-west-1",
            "access_key_id": Secret("test", "AKID"),
            "secret_access_key": _SECRET,
        },
        names=("AbCdEf123456",),
        app="123456789012",
        plain_app="123456789012",
        denies_there=True,
    ),
    "platform": _peer_bench(
        FakePlatform,
        lambda port: {"url": f"http://127.0.0.1:{port}/stopframe", "secret": _SECRET},
        denies_there=True,
    ),
    "none": Bench({}),
    "embedded": Bench({"listen": "127.0.0.1:0"}, _embedded),
    "mediamtx": Bench({}, _mediamtx, at_port=lambda port: {"api": f"http://127.0.0.1:{port}", "timeout": "300ms"}),
    "nginx-rtmp": Bench(
        {},
        _nginx_rtmp,
        names=tuple(name for name in AWKWARD_NAMES if "?" not in name),  # there nginx ends a name
        app="live",
        marks=(pytest.mark.needs_nginx_rtmp, pytest.mark.needs_ffmpeg),
        at_port=lambda port: {
            "stat": f"http://127.0.0.1:{port}/stat",
            "control": f"http://127.0.0.1:{port}/control",
        },
    ),
    "node-media-server": Bench(
        {},
        _node_media_server,
        names=("plain", "A-b_9"),  # it lets nobody publish under any other character
        app="li-ve",
        marks=(pytest.mark.needs_node_media_server,),
        at_port=lambda port: {
            "api": f"http://127.0.0.1:{port}",
            "timeout": "300ms",
            "password": Secret("test", "secret-password"),
        },
    ),
}


def made(kind: str, folder: Path, settings: object) -> IngestServer:
    made = ingest_kind(kind)
    store = Revocations(FileRevocations(folder / "revoked"), lambda key: key.path.encode().hex())
    return made.make(made.settings.model_validate(settings), store, "edge")


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[tuple[IngestServer, Stage]]:
    stage_for = BENCHES[kind].stage
    assert stage_for is not None
    async with stage_for(folder) as stage, made(kind, folder, stage.settings) as server:
        stage.attach(server)
        yield server, stage


class Shut:
    """A `ViewerGate` that keeps viewers from everything but `cleared`."""

    is_shut = True

    def __init__(self) -> None:
        self.cleared: set[StreamKey] = set()

    def may_watch(self, key: StreamKey, connection: str | None = None) -> bool:
        del connection
        return key in self.cleared

    def publisher_comes(self, key: StreamKey) -> None:
        self.cleared.discard(key)
