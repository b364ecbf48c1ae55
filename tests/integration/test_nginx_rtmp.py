"""The shipped nginx-rtmp example with a real nginx and ffmpeg: attach, deny, cut, and everything that fails."""

import asyncio
import contextlib
import itertools
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from detector.assembly import open_service
from detector.config.config import Config
from detector.config.loading import load_config
from detector.credentials import load_or_create
from detector.events import CutState, StreamKey
from detector.ingest.hooks import HookAnswer
from detector.ingest.nginx_rtmp import NginxRtmp
from detector.ingest.nginx_settings import NginxRtmpSettings
from detector.ingest.revocations import FileRevocations, Revocations
from detector.metrics import Metrics
from detector.service import Service
from detector.session import StreamSession
from streams.address import resolve
from streams.frame import Frame
from streams.job import Job, SandboxMode
from streams.keeper import Keeper, Nursery
from streams.sampling import SamplingSettings
from tests.fixtures_nginx_rtmp import EXAMPLE, HookRelay, Nginx, hook_server, live, make_clip, running_nginx
from tests.slack import SLACK_SECONDS
from tests.waiting import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.needs_nginx_rtmp,
    pytest.mark.needs_ffmpeg,
    pytest.mark.needs_cage,
]

AWKWARD = ("x y", "a&b", "k+1", "ümläut", "a/b.mp4")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With sound and a GOP of 4 s, the same without sound, and a GOP of 1 s."""
    folder = tmp_path_factory.mktemp("clips")
    return {
        "sound": make_clip(folder / "sound.flv", audio=True, gop_seconds=4, seconds=8),
        "silent": make_clip(folder / "silent.flv", audio=False, gop_seconds=4, seconds=8),
        "short": make_clip(folder / "short.flv", audio=True, gop_seconds=1, seconds=4),
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """One nginx for all tests that leave it as it was."""
    with running_nginx(tmp_path_factory.mktemp("nginx")) as nginx:
        yield nginx


@contextlib.asynccontextmanager
async def adapter(nginx: Nginx, folder: Path, **settings: object) -> AsyncIterator[NginxRtmp]:
    """The adapter alone, asked at the hook's address."""
    revocations = Revocations(FileRevocations(folder / "revoked"), lambda key: key.path.encode().hex())
    made = NginxRtmp(
        NginxRtmpSettings.model_validate({**nginx.settings, "hook_deadline": "0s", **settings}), revocations
    )
    async with made, hook_server(nginx, made):
        yield made


def shipped(nginx: Nginx, folder: Path, **changes: str) -> Config:
    """The shipped stopframe.yaml with this machine's places, and whatever a test changes on purpose."""
    text = (EXAMPLE / "stopframe.yaml").read_text(encoding="utf-8")
    places = {
        "/var/lib/stopframe": str(folder / "state"),
        "127.0.0.1:8080": f"127.0.0.1:{nginx.http_port}",
        "127.0.0.1:1935": f"127.0.0.1:{nginx.rtmp_port}",
        "127.0.0.1:8936": f"127.0.0.1:{nginx.hook_port}",
    }
    for here, there in (places | changes).items():
        assert here in text, here
        text = text.replace(here, there)
    path = folder / "stopframe.yaml"
    path.write_text(text + "\nalerts: {mqtt: {url: 'mqtt://127.0.0.1:0'}}\nanalysis: {workers: 1}\n", encoding="utf-8")
    return load_config(path)


@contextlib.asynccontextmanager
async def service(nginx: Nginx, folder: Path, **changes: str) -> AsyncIterator[Service]:
    """The whole service on the shipped file, with its secret in nginx's."""
    config = shipped(nginx, folder, **changes)
    nginx.secret = load_or_create(config.state_dir).hook
    nginx.write_hook()
    await nginx.reload()
    async with open_service(config) as running:
        yield running


async def session_of(running: Service, name: str, seconds: float = 30.0) -> StreamSession:
    """The session that watches `live/NAME`, once it has seen a picture."""
    await until(lambda: any(s.last_sample_at for s in _sessions(running, name)), seconds)
    return _sessions(running, name)[0]


def _sessions(running: Service, name: str) -> list[StreamSession]:
    return [s for s in running.supervisor.sessions.values() if s.key.name == name]


async def refused(process: "subprocess.Popen[bytes]", seconds: float = 20.0) -> bool:
    """Whether ffmpeg ended by itself, with an error."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: process.poll() is not None, seconds)
    return process.poll() not in (None, 0)


@pytest.mark.parametrize(("kind", "limit_seconds"), [("sound", 0.5), ("silent", 2.0)])
async def test_the_first_picture_is_seen_at_once(
    kind: str,
    limit_seconds: float,
    clips: dict[str, Path],
    shared: Nginx,
    tmp_path: Path,
) -> None:
    """Attached inside on_publish, the first keyframe is seen, not the second: 4 s later would be too late."""
    delays = []
    async with service(shared, tmp_path) as running:
        for number in range(3):
            name = f"first-{kind}-{number}"
            async with live(shared.rtmp_port, clips[kind], name):
                session = await session_of(running, name)
                publisher = next(p for p in await running.ingest.publishers() if p.key.name == name)
                assert session.last_sample_at is not None
                delays.append(session.last_sample_at - publisher.since_at)
        attached = running.metrics.value("stopframe_hook_seconds_count", outcome="attached")
    assert attached == 3
    assert min(delays) <= limit_seconds, delays  # a busy machine may be late, and never by a whole GOP
    assert max(delays) < 4, delays


async def test_a_denied_key_never_publishes(clips: dict[str, Path], shared: Nginx, tmp_path: Path) -> None:
    """Every try is refused, whatever the name, and whatever the publisher adds to it."""
    names = [*AWKWARD, "banned1"]
    tried = [*AWKWARD, "banned1?name=innocent", "banned1?clientid=9&call=publish_done", "banned1"]
    async with adapter(shared, tmp_path) as server:
        for name in names:
            await server.revoke(StreamKey(server.name, "live", name))

        async def attempt(name: str) -> bool:
            async with live(shared.rtmp_port, clips["short"], name) as process:
                return await refused(process)

        outcomes: list[bool] = []
        for _ in range(3):
            outcomes += await asyncio.gather(*(attempt(name) for name in tried))
        assert (len(outcomes), all(outcomes)) == (24, True)
        assert await server.publishers() == []
        async with live(shared.rtmp_port, clips["short"], "innocent"):
            await until(lambda: bool(server._board.current()))


async def test_awkward_names_are_cut_and_proved(clips: dict[str, Path], shared: Nginx, tmp_path: Path) -> None:
    """Twenty of twenty publishers with awkward names are watched, cut, and proved to be gone."""
    names = [f"{name} {n}" if n else name for n in range(4) for name in AWKWARD]
    async with service(shared, tmp_path) as running, contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(live(shared.rtmp_port, clips["short"], name)) for name in names]
        sessions = [await session_of(running, name, 30) for name in names]
        reports = await asyncio.gather(*(running.cut(session.stream_id) for session in sessions))
        assert [report.cut_state for report in reports] == [CutState.CONFIRMED] * 20, reports
        assert all([await refused(process) for process in processes])
        assert await running.ingest.publishers() == []


async def test_without_the_hook_nobody_publishes_and_whoever_is_live_stays(
    clips: dict[str, Path], shared: Nginx, tmp_path: Path
) -> None:
    """The service is down: the shipped file keeps newcomers out at once and lets the live ones be."""
    async with contextlib.AsyncExitStack() as stack:
        async with adapter(shared, tmp_path) as server:
            early = await stack.enter_async_context(live(shared.rtmp_port, clips["short"], "early"))
            await until(lambda: bool(server._board.current()))
        async with live(shared.rtmp_port, clips["short"], "late") as late:
            assert await refused(late)
        await asyncio.sleep(3.5)  # past an update that nobody took
        assert early.poll() is None
        async with adapter(shared, tmp_path) as server:
            await until(lambda: [p.key.name for p in server._board.current()] == ["early"])


async def test_open_is_the_operators_written_line(clips: dict[str, Path], tmp_path: Path) -> None:
    """With the one line changed newcomers publish while the service is down, and are found when it comes back."""
    with running_nginx(tmp_path / "nginx", {"return 403;": "return 200;"}) as nginx:
        async with live(nginx.rtmp_port, clips["short"], "late") as late:
            await asyncio.sleep(1.0)
            assert late.poll() is None
            async with adapter(nginx, tmp_path) as server:
                await until(lambda: [p.key.name for p in server._board.current()] == ["late"])


async def test_a_slow_hook_is_given_up_by_nginx(clips: dict[str, Path], shared: Nginx) -> None:
    """A hook that hangs costs the publisher two seconds, then the written line counts."""

    class Hanging(HookRelay):
        async def answer_hook(self, body: bytes) -> HookAnswer:
            await asyncio.sleep(30 if b"call=publish&" in body else 0)
            return HookAnswer(200)

    started_at = time.monotonic()
    async with hook_server(shared, Hanging()), live(shared.rtmp_port, clips["short"], "slow") as process:
        assert await refused(process)
    assert 1.5 < time.monotonic() - started_at < 15


async def test_a_reader_that_does_not_come_holds_nobody_up(
    clips: dict[str, Path], shared: Nginx, tmp_path: Path
) -> None:
    """The answer is held up to `hook_deadline`, then given all the same, and counted as too late."""
    metrics = Metrics()
    revocations = Revocations(FileRevocations(tmp_path / "revoked"), lambda key: key.path.encode().hex())
    settings = NginxRtmpSettings.model_validate({**shared.settings, "hook_deadline": "300ms"})
    async with (
        NginxRtmp(settings, revocations) as server,
        hook_server(shared, server, metrics),
        live(shared.rtmp_port, clips["short"], "alone") as process,
    ):
        await until(lambda: metrics.value("stopframe_hook_seconds_count", outcome="too_late") == 1)
        await asyncio.sleep(0.3)
        assert process.poll() is None
        assert [p.key.name for p in await server.publishers()] == ["alone"]
    assert 0.3 <= metrics.value("stopframe_hook_seconds_sum", outcome="too_late") < 0.6 + SLACK_SECONDS


async def test_a_second_publisher_of_a_key_does_not_take_the_watcher_away(
    clips: dict[str, Path], shared: Nginx, tmp_path: Path
) -> None:
    """The server refuses the second one; the first goes on being watched as the same publisher."""
    async with (
        adapter(shared, tmp_path, hook_deadline="500ms") as server,
        live(shared.rtmp_port, clips["short"], "twice") as first,
    ):
        await until(lambda: bool(server._board.current()))
        [publisher] = server._board.current()
        await until(lambda: server._roll.entries[publisher.connection.split(".")[0]].is_listed)
        async with live(shared.rtmp_port, clips["short"], "twice") as second:
            assert await refused(second)
        assert server._board.current() == [publisher]
        assert first.poll() is None


async def test_after_a_reload_it_is_said_and_cut_at_the_next_update(clips: dict[str, Path], tmp_path: Path) -> None:
    """Who stayed on the old worker is a problem in health; the control module cannot drop it, its hook can."""
    with running_nginx(tmp_path / "nginx", {"worker_shutdown_timeout 10s;": "worker_shutdown_timeout 60s;"}) as nginx:
        async with service(nginx, tmp_path) as running, live(nginx.rtmp_port, clips["short"], "old") as process:
            session = await session_of(running, "old")
            await nginx.reload()
            await until(lambda: any("missing in its stat page" in p for p in running.health().problems), 30)
            assert _sessions(running, "old") == [session]
            report = await running.cut(session.stream_id)
            assert (report.cut_state, report.count) == (CutState.CONFIRMED, 1), report
            assert await refused(process)
            await until(lambda: not running.health().problems, 30)


async def test_what_no_hook_reaches_is_uncuttable(clips: dict[str, Path], tmp_path: Path) -> None:
    """On an old worker whose updates are minutes apart nobody can be cut: that is said within the deadline."""
    changes = {"notify_update_timeout 3s;": "notify_update_timeout 5m;", "timeout 10s;  ": "timeout 60s;  "}
    later = {"update_interval: 3s ": "update_interval: 5m ", "  live: false ": "  deadline: 5s\n  live: false "}
    with running_nginx(tmp_path / "nginx", changes) as nginx:
        async with (
            service(nginx, tmp_path, **later) as running,
            live(nginx.rtmp_port, clips["short"], "old") as process,
        ):
            session = await session_of(running, "old")
            await nginx.reload()
            await asyncio.sleep(1.0)
            report = await running.cut(session.stream_id)
            assert (report.cut_state, report.count) == (CutState.UNCUTTABLE, 0), report
            assert process.poll() is None


async def test_several_workers_are_said_and_everybody_is_cut_all_the_same(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    """With two workers some publishers are out of the control module's reach: health says so, their hooks end them."""
    with running_nginx(tmp_path / "nginx", {"worker_processes 1;": "worker_processes 2;"}) as nginx:
        async with adapter(nginx, tmp_path) as server, contextlib.AsyncExitStack() as stack:
            names = [f"w{n}" for n in range(6)]
            processes = [await stack.enter_async_context(live(nginx.rtmp_port, clips["short"], n)) for n in names]
            await until(lambda: any("worker" in problem for problem in server.problems()), 15)
            # Whoever comes after the key is revoked is refused at once, and there is nobody to cut.
            await until(lambda: {each.key.name for each in server._board.current()} == set(names), 30)
            for name in names:
                await server.revoke(StreamKey(server.name, "live", name))

            async def cut(name: str) -> None:
                while not (await server.cut(StreamKey(server.name, "live", name))).count:
                    await asyncio.sleep(0.1)

            async with asyncio.timeout(30):
                await asyncio.gather(*(cut(name) for name in names))
            assert all([await refused(process) for process in processes])


async def test_every_end_is_noticed_in_time(clips: dict[str, Path], shared: Nginx, tmp_path: Path) -> None:
    """A publisher that is killed ends its session at once; one that comes back is watched anew, its clock back at 0."""
    async with service(shared, tmp_path) as running:
        async with live(shared.rtmp_port, clips["short"], "restart") as process:
            first = await session_of(running, "restart")
            process.kill()
            killed_at = time.monotonic()
            await until(lambda: not _sessions(running, "restart"), 6 + SLACK_SECONDS)
            noticed = time.monotonic() - killed_at
        async with live(shared.rtmp_port, clips["short"], "restart") as process:
            second = await session_of(running, "restart")
            assert second is not first
            process.send_signal(signal.SIGSTOP)
            await until(lambda: second.state in ("stalled", "reconnecting"), 30)
            assert second.coverage().by_cause_ns is not None
            process.send_signal(signal.SIGCONT)
    assert noticed < 6 + SLACK_SECONDS


async def test_a_reader_goes_on_when_the_clock_jumps_back(
    clips: dict[str, Path], shared: Nginx, tmp_path: Path
) -> None:
    """One reader sees two publishers of a key in a row: PTS start again, pictures and their arrival go on."""
    async with adapter(shared, tmp_path) as server, Nursery("streams.reader:main") as nursery:
        kind, source = server.reader_source(StreamKey(server.name, "live", "jump"))
        url, port = await resolve(source, kind)
        job = Job(kind, url, port, True, SamplingSettings(), SandboxMode.REQUIRE, read_timeout_seconds=10.0)
        frames: list[Frame] = []
        async with Keeper(nursery, job) as keeper:

            async def take(count: int) -> None:
                async with asyncio.timeout(15):
                    async for message in keeper.messages():
                        frames.extend([message] if isinstance(message, Frame) else [])
                        if len(frames) >= count:
                            return

            async with live(shared.rtmp_port, clips["short"], "jump"):
                await take(3)
            async with live(shared.rtmp_port, clips["short"], "jump"):
                await take(7)
    times = [frame.pts_seconds for frame in frames]
    assert any(b < a for a, b in itertools.pairwise(times) if a is not None and b is not None), times
    assert all(b.arrived_at > a.arrived_at for a, b in itertools.pairwise(frames))


async def test_a_frozen_server_is_blindness_until_it_thaws(clips: dict[str, Path], tmp_path: Path) -> None:
    """While nginx stands still its streams are blind and health says that it does not answer; then all goes on."""
    with running_nginx(tmp_path / "nginx") as nginx:
        async with service(nginx, tmp_path) as running, live(nginx.rtmp_port, clips["short"], "frozen"):
            session = await session_of(running, "frozen")
            await until(lambda: session.last_sample_at is not None)
            nginx.signal(signal.SIGSTOP)
            await until(lambda: session.state in ("stalled", "reconnecting") or not running.supervisor.sessions)
            await until(lambda: any("ingest.stat" in problem for problem in running.health().problems))

            nginx.signal(signal.SIGCONT)
            thawed_at = time.monotonic()
            async with live(nginx.rtmp_port, clips["short"], "fresh"):
                fresh = await session_of(running, "fresh")
                await until(lambda: fresh.last_sample_at is not None and fresh.last_sample_at > thawed_at)
                await until(lambda: not running.health().problems)


@pytest.mark.parametrize("how", [pytest.param("quit", marks=pytest.mark.slow), "kill"])
async def test_a_server_that_ends_and_comes_back_is_watched_again(
    how: str, clips: dict[str, Path], tmp_path: Path
) -> None:
    """Its publishers' sessions end within 6 s, health says that it is away, and later everything is as before."""
    with running_nginx(tmp_path / "nginx") as nginx:
        async with service(nginx, tmp_path) as running:
            async with live(nginx.rtmp_port, clips["short"], "first"):
                await session_of(running, "first")
                getattr(nginx, how)()
                await until(lambda: not running.supervisor.sessions, 6 + SLACK_SECONDS)
                assert any("ingest.stat" in problem for problem in running.health().problems)
            nginx.start()
            async with live(nginx.rtmp_port, clips["short"], "first"):
                await session_of(running, "first")
                await until(lambda: not running.health().problems)


async def test_quarantine_keeps_the_publisher_and_takes_the_name(
    clips: dict[str, Path], shared: Nginx, tmp_path: Path
) -> None:
    """Cut by redirect: the publisher stays connected under a name nobody watches, now and when it comes back."""
    key = StreamKey("nginx-rtmp", "live", "bad one")
    async with adapter(shared, tmp_path, quarantine="jail") as server:
        async with live(shared.rtmp_port, clips["short"], key.name) as process:
            await until(lambda: bool(server._board.current()))
            await until(lambda: server._find(key)[0].is_listed)
            await server.revoke(key)
            assert (await server.cut(key)).count == 1
            await _stays_in_jail(server, shared, process)
        async with live(shared.rtmp_port, clips["short"], key.name) as process:
            await _stays_in_jail(server, shared, process)
        async with live(shared.rtmp_port, clips["short"], "jail-7") as stranger:
            assert await refused(stranger)


async def _stays_in_jail(server: NginxRtmp, nginx: Nginx, process: "subprocess.Popen[bytes]") -> None:
    async def is_in_jail() -> bool:
        stat = await nginx.stat()
        return "<name>jail-" in stat and "<name>bad one" not in stat

    await _until_true(is_in_jail)
    await asyncio.sleep(0.5)
    assert process.poll() is None
    assert await server.publishers() == []
    assert server._board.current() == []


async def _until_true(claim: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await claim():
            await asyncio.sleep(0.05)
