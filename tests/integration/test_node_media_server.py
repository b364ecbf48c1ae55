"""A real node-media-server 4.4.3: what its adapter does, and what the server itself does that the docs warn of."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from detector.config.references import Secret
from detector.config.units import Duration
from detector.cut_journal import CutOutcome
from detector.enforcement import CutTarget, Enforcer, EnforcerSettings
from detector.events import CutState, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherStarted
from detector.ingest.node_media_server import NodeMediaServer
from detector.ingest.revocations import FileRevocations, Revocations
from detector.store.incidents import CutProgress
from streams.frame import Frame
from streams.job import Job, SandboxMode
from streams.keeper import Keeper, resolve
from streams.nursery import Nursery
from streams.sampling import SamplingSettings
from tests.fixtures_node_media_server import PASSWORD, RunningNms, running_nms, stubborn
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.needs_node_media_server]

KEY = StreamKey("edge", "live", "key")
PATIENT = Duration.parse("5s")
"""A server of Node.js beside other tests may take a second to answer."""


class Forgetful:
    """Records of cuts that nobody reads."""

    async def set_cut(self, incident_id: str, progress: CutProgress) -> None:
        del incident_id, progress


@contextlib.asynccontextmanager
async def attached(nms: RunningNms, folder: Path, **changes: object) -> AsyncIterator[NodeMediaServer]:
    revocations = Revocations(FileRevocations(folder / "revoked"), lambda key: key.name)
    async with NodeMediaServer(
        nms.settings.model_copy(update={"timeout": PATIENT} | changes), revocations, "edge"
    ) as server:
        nms.hook = server.answer_hook
        yield server


@contextlib.contextmanager
def publishing(nms: RunningNms, port: int = 0, *, gop_frames: int = 15) -> Iterator["subprocess.Popen[bytes]"]:
    """Publish KEY with ffmpeg over RTMP, 15 frames a second."""
    command = (
        "ffmpeg -loglevel error -re -f lavfi -i testsrc2=size=320x180:rate=15 -c:v libx264 -preset ultrafast "
        f"-g {gop_frames} -sc_threshold 0 -pix_fmt yuv420p -f flv rtmp://127.0.0.1:{port or nms.rtmp_port}/live/key"
    )
    with subprocess.Popen(command.split(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


async def ended(process: "subprocess.Popen[bytes]") -> None:
    await until(lambda: process.poll() is not None)


async def first_bytes(server: NodeMediaServer, seconds: float) -> int:
    """How many bytes a viewer of KEY gets within `seconds`."""
    received = 0
    url = server.reader_source(KEY)[1]
    with contextlib.suppress(TimeoutError, httpx.TransportError):
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            async for piece in response.aiter_raw():
                received += len(piece)
    return received


async def cut(
    server: NodeMediaServer, last_packet_at: Callable[[], float | None] = lambda: None, **settings: float
) -> CutOutcome:
    limits = EnforcerSettings(**({"quiet_seconds": 0.3} | settings))
    async with Enforcer(server, Forgetful(), limits) as enforcer:
        return await enforcer.cut(CutTarget("stream", "session", KEY), last_packet_at=last_packet_at)


@pytest.mark.needs_ffmpeg
@pytest.mark.needs_cage
async def test_the_first_picture_is_there_at_once(tmp_path: Path) -> None:
    """HTTP-FLV begins with the last keyframe: a reader in the whole cage waits for no next one, ten seconds away."""
    async with running_nms(tmp_path / "nms") as nms, attached(nms, tmp_path) as server:
        changes = server.changes()
        async with Nursery("streams.reader:main") as nursery:
            with publishing(nms, gop_frames=150):
                assert isinstance(await asyncio.wait_for(anext(changes), 30), PublisherStarted)
                await asyncio.sleep(1.0)
                kind, named = server.reader_source(KEY)
                url, port = await resolve(named, kind)
                job = Job(kind, url, port, True, SamplingSettings(), SandboxMode.REQUIRE)
                started_at = time.monotonic()
                async with asyncio.timeout(30), Keeper(nursery, job) as keeper:
                    async for message in keeper.messages():
                        if isinstance(message, Frame):
                            break
                waited = time.monotonic() - started_at
    assert waited < 8.0  # by itself it is tenths of a second; the next keyframe is 9 s away


@pytest.mark.needs_ffmpeg
async def test_a_cut_is_proved_and_the_key_stays_out(tmp_path: Path) -> None:
    """The publisher's program ends, the list is empty although the server keeps its place, and it cannot come back."""
    async with running_nms(tmp_path / "nms") as nms, attached(nms, tmp_path) as server:
        changes = server.changes()
        with publishing(nms) as publisher:
            await asyncio.wait_for(anext(changes), 30)
            outcome = await cut(server)
            assert outcome.state is CutState.CONFIRMED
            assert outcome.count >= 1  # it says yes to every try, until the publisher has closed its half as well
            await ended(publisher)
        for _ in range(3):
            with publishing(nms) as publisher:
                await ended(publisher)
        assert await server.publishers() == []
        await server.restore(KEY)
        with publishing(nms):
            await asyncio.wait_for(_started(server), 30)


async def _started(server: NodeMediaServer) -> None:
    while not await server.publishers():
        await asyncio.sleep(0.05)


async def test_the_list_tells_of_an_end_at_once_and_the_webhook_does_not(tmp_path: Path) -> None:
    """`donePublish` comes half a minute late; the status in the list is what proves a cut."""
    told: list[str] = []
    async with running_nms(tmp_path / "nms") as nms, attached(nms, tmp_path) as server:
        nms.hook = lambda body: told.append(json.loads(body)["action"]) or server.answer_hook(body)
        async with nms.publishing("live", "key"):
            await asyncio.wait_for(_started(server), 30)
        await asyncio.sleep(0.5)
        assert await server.publishers() == []
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"authorization": f"Bearer {server._token}"}
            answer = await client.get(f"{nms.settings.api}/api/v1/streams", headers=headers)
        assert answer.json()["data"]["streams"][0]["status"] == "reconnecting"
        assert [action for action in told if "Publish" in action] == ["prePublish", "postPublish"]


async def test_without_our_hook_everyone_gets_in_and_is_cut_when_seen(tmp_path: Path) -> None:
    """The webhook fails open: that is a problem, and a revoked key is cut by the list instead."""
    async with running_nms(tmp_path / "nms", has_hook=False) as nms, attached(nms, tmp_path) as server:
        await server.publishers()
        await server.revoke(KEY)
        async with nms.publishing("live", "other"), nms.publishing("live", "key") as banned:
            await until(lambda: len(server.problems()) == 1)
            assert "2 publishers got in" in server.problems()[0]
            assert not banned.done()
            async with Enforcer(server, Forgetful()) as enforcer:
                async with asyncio.timeout(30):
                    await banned
                await until(lambda: enforcer.returns_total == 1)


@pytest.mark.needs_ffmpeg
async def test_media_flows_while_our_hook_thinks(tmp_path: Path) -> None:
    """The server lets a publisher in before it has an answer: viewers see a denied one for as long as we take."""
    async with running_nms(tmp_path / "nms") as nms, attached(nms, tmp_path) as server:
        await server.revoke(KEY)
        nms.hook_delay_seconds = 2.0
        with publishing(nms) as publisher:
            await asyncio.wait_for(_started(server), 30)
            assert await first_bytes(server, 1.0) > 0
            await ended(publisher)


async def test_a_publisher_that_ignores_the_end_is_no_confirmed_cut(tmp_path: Path) -> None:
    """The server closes its half of the connection and reads on: the list says so, and the cut fails loudly."""
    async with (
        running_nms(tmp_path / "nms") as nms,
        attached(nms, tmp_path) as server,
        nms.publishing("live", "key", leaves=False) as answer,
    ):
        await asyncio.wait_for(_started(server), 30)
        outcome = await cut(server, deadline_seconds=1.5)
        assert (outcome.state, outcome.has_left) == (CutState.FAILED, False)
        assert outcome.count >= 1
        assert "still lists" in outcome.detail
        assert not answer.done()


@pytest.mark.needs_ffmpeg
async def test_a_refused_publisher_that_ignores_it_is_heard_under_anothers_name(tmp_path: Path) -> None:
    """Its media reaches the viewers and no list names it: the cut of the one who is listed is not called a success."""
    async with (
        running_nms(tmp_path / "nms") as nms,
        attached(nms, tmp_path) as server,
        stubborn(nms.rtmp_port) as port,
        nms.publishing("live", "key"),
    ):
        await asyncio.wait_for(_started(server), 30)
        with publishing(nms, port) as refused:
            assert await first_bytes(server, 2.0) > 10_000
            assert len(await server.publishers()) == 1
            outcome = await cut(server, time.monotonic, deadline_seconds=2.0)
            assert (outcome.state, outcome.detail) == (CutState.FAILED, "packets keep arriving")
            assert await server.publishers() == []
            assert await first_bytes(server, 0.5) > 10_000
            assert refused.poll() is None


async def test_a_refused_login_is_not_repeated_until_the_account_is_locked(tmp_path: Path) -> None:
    """Five refused logins lock the account for 15 minutes, the operator's own included: we try once."""
    async with running_nms(tmp_path / "nms") as nms:
        wrong = nms.settings.model_copy(update={"password": Secret("test", "wrong-password")})
        revocations = Revocations(FileRevocations(tmp_path / "revoked"), lambda key: key.name)
        async with NodeMediaServer(wrong, revocations, "edge") as server:
            for _ in range(12):
                with pytest.raises(IngestUnavailable, match=r"refused the login: correct ingest\.username") as caught:
                    await server.publishers()
                assert "wrong-password" not in str(caught.value)
            await until(lambda: server.problems() == [str(caught.value)])
        async with httpx.AsyncClient(trust_env=False) as client:
            body = {"username": "admin", "password": PASSWORD}
            assert (await client.post(f"{nms.settings.api}/api/v1/login", json=body)).status_code == 200


async def test_an_expired_token_is_renewed(tmp_path: Path) -> None:
    """Tokens last a day: the next question logs in again and nobody notices."""
    async with running_nms(tmp_path / "nms") as nms, attached(nms, tmp_path) as server:
        assert await server.publishers() == []
        server._token = "expired"
        assert await server.publishers() == []
        assert server._token != "expired"


async def test_without_a_password_the_setting_is_named(tmp_path: Path) -> None:
    """The adapter starts without one and says what to write."""
    async with running_nms(tmp_path / "nms") as nms, attached(nms, tmp_path, password=None) as server:
        with pytest.raises(IngestUnavailable, match=r"write ingest\.password"):
            await server.publishers()


async def test_only_publishing_is_ever_refused(tmp_path: Path) -> None:
    """Anything but 200 closes the session that it is about: viewers and our own readers get 200 whatever their key."""
    async with running_nms(tmp_path / "nms") as nms, attached(nms, tmp_path) as server:
        await server.revoke(KEY)

        def status(**fields: object) -> int:
            return server.answer_hook(json.dumps({"app": "live", "name": "key"} | fields).encode())

        for action in ("prePlay", "postPlay", "donePlay", "donePublish", "postRecord", "doneRecord", "new one"):
            assert status(action=action) == 200
        assert status(action="prePublish") == status(action="postPublish", query={"name": "innocent"}) == 403
        assert status(action="prePublish", name="other") == 200
        assert status(action="prePublish", name=["key"]) == 400
        for body in (b"", b"[]", b"7", b"{}", b"\xff", b"[" * 100_000):
            assert server.answer_hook(body) == 400
