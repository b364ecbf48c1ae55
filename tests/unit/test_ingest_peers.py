"""What is particular to each server that was written from its documents: hooks, holding, what a cut leaves behind."""

import base64
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config.servers import ReadUrl
from detector.events import StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable
from detector.ingest.aws_ivs import NEW_KEY, AwsIvs
from detector.ingest.hooks import AnswersHooks, HookAnswer, ProvesHooks
from detector.ingest.livekit import MAY_RETURN, LiveKit
from detector.ingest.registry import ingest_kind
from detector.ingest.tokens import bearer_token, stamped_signature
from detector.ingest.viewers import HoldsViewers, OpenGate
from streams.job import SourceKind
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
from tests.ingest_benches import BENCHES, Shut, made
from tests.waiting import until

PEERS: dict[str, type[Peer]] = {
    "srs": FakeSrs,
    "ovenmediaengine": FakeOme,
    "ant-media": FakeAntMedia,
    "livekit": FakeLiveKit,
    "aws-ivs": FakeIvs,
    "platform": FakePlatform,
}
KEY = StreamKey("edge", "live", "key")


@contextlib.asynccontextmanager
async def beside(kind: str, folder: Path, **more: Any) -> AsyncIterator[tuple[Any, Any]]:
    """The adapter and its stand-in, asked at once only: the list is not asked for again in between."""
    at_port = BENCHES[kind].at_port
    assert at_port is not None
    async with PEERS[kind]().serving() as peer:
        found = at_port(peer.port) | {"timeout": "5s", "poll": "1m"} | more
        async with made(kind, folder, found) as server:
            if isinstance(server, AnswersHooks):
                peer.ask = asking(server)
            yield server, peer


def query_of(server: IngestServer) -> str:
    """What our own reader of `KEY` shows."""
    return server.reader_source(KEY)[1].rpartition("?")[2]


async def test_viewers_of_srs_wait_and_are_gone_before_the_next_publisher(tmp_path: Path) -> None:
    """Refused, let in when cleared, our own reader always; who watched one publisher is dropped before the next."""
    async with beside("srs", tmp_path) as (server, peer):
        server.viewers = gate = Shut()

        async def play(client: str, param: str = "") -> int:
            answer = await peer.asked(peer.callback("on_play", "live", "key", client=client, param=param))
            return int(answer.status)

        connection = await peer.publish("live", "key")
        assert await play("v1") == 403
        secret = "?stopframe=" + server._reader_secret
        assert await play("ours", secret) == 200
        gate.cleared.add(KEY)
        assert await play("v1") == 200
        assert await play("v2") == 200
        await peer.asked(peer.callback("on_stop", "live", "key", client="v2"))
        assert not await peer.allows("live", "key"), "somebody publishes: SRS keeps him, and so his viewers stay"
        assert KEY in gate.cleared
        peer.live.clear()
        assert await peer.allows("live", "key")
        assert [one for one in peer.questions if one.startswith("kick")] == ["kick v1"]
        assert connection != "v1"
        assert await play("v3") == 403, "what was cleared was the publisher before"
    assert await cast(FakeSrs, peer).asked(peer.callback("on_play", "live", "key", param=secret))


async def test_srs_that_does_not_answer_keeps_a_publisher_from_the_old_viewers(tmp_path: Path) -> None:
    """Where nobody can say that the old viewers are gone, the next publisher is not let in to them."""
    async with beside("srs", tmp_path, api="http://127.0.0.1:1") as (server, peer):
        server.viewers = Shut()
        assert not await peer.allows("live", "key")
        server.viewers = OpenGate()
        assert await peer.allows("live", "key")


async def test_srs_watches_one_vhost(tmp_path: Path) -> None:
    """Others are let in without a look, and the reader names the vhost that it means."""
    async with beside("srs", tmp_path, vhost="live.example") as (server, peer):
        peer.live = {("live", "key"): "c1"}
        assert await server.publishers() == []
        await server.revoke(KEY)
        assert (await peer.asked(peer.callback("on_publish", "live", "key"))).status == 200
        assert "vhost%3Dlive.example" in server.reader_source(KEY)[1]


async def test_ovenmediaengine_proves_who_asks(tmp_path: Path) -> None:
    """An unsigned admission is answered 401, which refuses; a viewer waits until cleared, our own reader does not."""
    async with beside("ovenmediaengine", tmp_path) as (server, peer):
        assert (await peer.admission("incoming", "live", "key", secret="guess")).status == 401
        assert await peer.allows("live", "key")
        server.viewers = gate = Shut()
        assert (await peer.admission("outgoing", "live", "key")).content["allowed"] is False
        assert (await peer.admission("outgoing", "live", "key", query_of(server))).content["allowed"] is True
        gate.cleared.add(KEY)
        assert (await peer.admission("outgoing", "live", "key")).content == {"allowed": True}
        assert server.reader_source(KEY)[0] is SourceKind.HLS


async def test_a_key_is_denied_in_every_spelling(tmp_path: Path) -> None:
    """Percent-encoded or not, what the server may take for the denied key is refused."""
    async with beside("ovenmediaengine", tmp_path, webhook_secret=None) as (server, _):
        await server.revoke(StreamKey("edge", "live", "a b"))
        for path in ("live/a%20b", "live/a b", "live/%61%20b"):
            body = {"request": {"direction": "incoming", "status": "opening", "url": f"rtmp://h/{path}?x=/live/other"}}
            answer = server.answer_hook(json.dumps(body).encode())
            assert (answer.status, answer.content["allowed"]) == (200, False), path


async def test_a_publisher_of_ovenmediaengine_who_comes_again_is_another(tmp_path: Path) -> None:
    """The list tells names alone: the time that a stream was created is asked once, and again when the hook speaks."""
    async with beside("ovenmediaengine", tmp_path) as (server, peer):
        await peer.publish("live", "key")
        first = (await server.publishers())[0].connection
        asked = peer.questions.count("stream")
        assert (await server.publishers())[0].connection == first
        assert peer.questions.count("stream") == asked
        await peer.publish("live", "key")
        assert (await server.publishers())[0].connection != first


async def test_viewers_of_ant_media_wait_and_news_come_in_two_forms(tmp_path: Path) -> None:
    """Playing is asked for apart; our reader shows its secret as the player's token. News may be JSON or a form."""
    async with beside("ant-media", tmp_path) as (server, peer):
        fields = {"appName": "live", "streamId": "key", "mode": "play", "token": None}
        assert (await peer.asked(fields)).status == 200
        server.viewers = gate = Shut()
        token = query_of(server).partition("=")[2]
        assert (await peer.asked(fields)).status == 403
        assert (await peer.asked(fields | {"token": token})).status == 200
        assert (await peer.asked(fields | {"queryParams": f"token={token}"})).status == 200
        gate.cleared.add(KEY)
        assert (await peer.asked(fields)).status == 200
        assert (await peer.asked({"action": "liveStreamEnded", "id": "key"})).status == 200
        assert (await peer.ask(b"action=liveStreamStarted&id=key", {})).status == 200
        for bad in (b"x", b"[]", b"{}", b'{"appName": 1, "streamId": "a", "mode": "play"}'):
            assert (await peer.ask(bad, {})).status == 400


async def test_a_participant_of_livekit_may_return_and_an_ingress_may_not(tmp_path: Path) -> None:
    """A cut says that the token lasts; who is back is counted in health; an ingress is deleted, so nobody returns."""
    async with beside("livekit", tmp_path) as (server, peer):
        assert isinstance(server, LiveKit)
        await peer.publish("live", "key")
        await server.publishers()
        await server.revoke(KEY)
        assert (await server.cut(KEY)).note == MAY_RETURN
        assert server.problems() == []
        await peer.publish("live", "key")
        await server.publishers()
        assert server.problems()[0].startswith("1 participants of denied identities are back")
        await server.restore(KEY)
        await server.publishers()
        assert server.problems() == []
        peer.ingress = {("live", "key"): "IN_1", ("live", "other"): "IN_2"}
        await server.publishers()
        result = await server.cut(KEY)
        assert (result.count, result.note) == (1, "")
        assert list(peer.ingress.values()) == ["IN_2"]
        assert not isinstance(server, HoldsViewers) or "hold" not in type(server._settings).model_fields


async def test_webhooks_of_livekit_are_proved(tmp_path: Path) -> None:
    """Only a token of our own secret that names this very body makes us look."""
    async with beside("livekit", tmp_path) as (_, peer):
        body = b'{"event": "track_published"}'

        def token(secret: str, content: bytes) -> dict[str, str]:
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            return {"authorization": bearer_token(secret, {"sha256": digest, "exp": time.time() + 60})}

        assert (await peer.ask(body, token(SECRET, body))).status == 200
        assert (await peer.ask(b"[]", token(SECRET, b"[]"))).status == 400
        for headers in ({}, token("guess", body), token(SECRET, b"{}"), {"authorization": "Bearer x.y.z"}):
            assert (await peer.ask(body, headers)).status == 401


async def test_what_ivs_takes_away_is_gone_for_good(tmp_path: Path) -> None:
    """Denying deletes the stream keys, a cut says so, an undo makes a new one, and never a second one."""
    key = StreamKey("edge", "123456789012", "AbCd")
    async with beside("aws-ivs", tmp_path) as (server, peer):
        assert isinstance(server, AwsIvs)
        with pytest.raises(IngestUnavailable, match="ask again"):
            server.reader_source(key)
        await server.publishers()
        await until(lambda: peer.questions.count("ListStreams") == 2)  # the one of the poll is over
        await peer.publish(key.app, key.name)
        await server.publishers()
        assert server.reader_source(key) == (SourceKind.HLS, "https://p.test/x.m3u8")
        asked = peer.questions.count("BatchGetChannel")
        await server.publishers()
        assert peer.questions.count("BatchGetChannel") == asked, "asked once for each that is live"
        await server.revoke(key)
        assert peer.keys == {peer.arn((key.app, key.name)): []}
        assert (await server.cut(key)).note == NEW_KEY
        assert (await server.cut(key)).count == 0
        await server.restore(key)
        await server.revoke(key)
        await server.restore(key)
        await server.restore(key)
        assert [len(keys) for keys in peer.keys.values()] == [1]


@pytest.mark.parametrize(
    ("kind", "needs"), [("aws-ivs", "access_key_id"), ("livekit", "api_secret"), ("platform", "secret")]
)
async def test_who_signs_needs_something_to_sign_with(kind: str, needs: str, tmp_path: Path) -> None:
    """Without the secret nothing is asked, and one sentence names the option."""
    async with beside(kind, tmp_path, **{needs: None}) as (server, peer):
        with pytest.raises(IngestUnavailable, match=f"ingest.{needs}"):
            await server.publishers()
        assert peer.questions == []
        if isinstance(server, ProvesHooks):
            assert not server.is_genuine(
                b"{}", {"authorization": "Bearer x", "stopframe-signature": "t=1,v1=" + "0" * 64}
            )


async def test_a_platform_asks_in_its_own_name(tmp_path: Path) -> None:
    """Publishing, playing and news; a stranger, an old recording and another body are nobody's."""
    async with beside("platform", tmp_path) as (server, peer):
        assert await peer.would("publish", "live", "key")
        assert not await peer.would("publish", "live", "key", at=time.time() - 600)
        server.viewers = gate = Shut()
        assert not await peer.would("play", "live", "key")
        gate.cleared.add(KEY)
        assert await peer.would("play", "live", "key")
        assert await peer.would("changed", "live", "key")
        header = stamped_signature(SECRET, int(time.time()), b'{"action": "publish"}')
        assert (await peer.ask(b'{"action": "play"}', {"stopframe-signature": header})).status == 401
        for url in ("file:///etc/passwd", "rtsp://h/x", "udp://1.2.3.4:5", "http://"):
            peer._row = lambda _, url=url: {"name": "x", "connection": "1", "url": url}
            peer.live = {("live", "x"): "c1"}
            with pytest.raises(IngestUnavailable):
                await server.publishers()


async def test_a_hold_that_holds_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never asks about our own reader asks about no viewer: health says so, and what to set."""
    monkeypatch.setattr("detector.ingest.viewers._READER_SECONDS", 0.0)
    for kind, remedy in (
        ("srs", "on_play"),
        ("ovenmediaengine", "AdmissionWebhooks"),
        ("ant-media", "webhookPlayAuth"),
    ):
        async with beside(kind, tmp_path / kind) as (server, peer):
            await peer.publish("live", "key")
            await server.publishers()
            assert server.problems() == []
            server.viewers = Shut()
            assert [remedy in sentence for sentence in server.problems()] == [True]
            assert server._may_watch(KEY, f"stopframe={server._reader_secret}")
            assert server.problems() == []


@pytest.mark.parametrize("kind", sorted(set(PEERS) - {"aws-ivs"}))
def test_no_question_breaks_a_hook(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever JSON a hook is asked, it answers; nothing that is no question lets anybody in."""
    server = made(kind, tmp_path_factory.mktemp("state"), {"kind": kind})
    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
    names = st.sampled_from(
        ["action", "request", "mode", "app", "appName", "streamId", "stream", "name", "url", "event"]
    )

    @settings(max_examples=60, deadline=None)
    @given(st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6)))
    def ask(fields: Any) -> None:
        answer = cast(AnswersHooks, server).answer_hook(json.dumps(fields).encode())
        if not isinstance(answer, HookAnswer):  # SRS answers without waiting where it refuses
            coroutine = cast(Any, answer)
            with contextlib.suppress(StopIteration):
                coroutine.send(None)
            coroutine.close()
            return
        assert answer.status in (200, 400, 403)
        if not isinstance(fields, dict):
            assert answer.status == 400 or (answer.content or {}).get("allowed") is False

    ask()


@given(st.text(min_size=1, max_size=30))
def test_a_place_of_streams_names_each_of_them(name: str) -> None:
    """Names stand percent-encoded where the template has them, and cannot leave their place."""
    if not name.isprintable():
        return
    kind, url = ReadUrl.parse("http://127.0.0.1:80/{app}/{name}.flv").for_stream("room", name)
    assert kind is SourceKind.HTTP_FLV
    assert url.startswith("http://127.0.0.1:80/room/")
    assert url.count("/") == 4
    assert "?" not in url


@pytest.mark.parametrize(
    "text", ["rtmp://h/x", "rtmp://h/x?n={name}", "ftp://h/{name}", "{name}", "rtsp://h/{name}", 7]
)
def test_a_template_has_a_place_for_the_name(text: object) -> None:
    """One that would read the same stream for everybody is refused."""
    with pytest.raises(ValueError, match=r"\{name\}"):
        ReadUrl.parse(text)


def test_every_kind_that_can_hold_has_the_option_and_no_other() -> None:
    """`ingest.hold` is there where the server asks about viewers, so that nobody writes it in vain."""
    holding = {kind for kind in BENCHES if "hold" in ingest_kind(kind).settings.model_fields}
    assert set(BENCHES) - holding == {"none", "node-media-server", "livekit", "aws-ivs"}
