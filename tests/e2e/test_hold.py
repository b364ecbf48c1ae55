"""Hold before air, with the whole service: no viewer gets a byte of what is not cleared, nor ever of what hits."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from detector.assembly import open_service
from detector.config.loading import load_config
from detector.service import Service
from tests.fixtures_nginx_rtmp import EXAMPLE, Nginx, live, make_clip, running_nginx
from tests.waiting import until

pytestmark = pytest.mark.e2e

HELD = """
sampling: {mode: full, interval: 200ms, detect_within: 1s}
models: [standin-cards]
analysis: {workers: 1}
votes: {k: 1, of: 1}
enforcement: {live: true}
classes: {standin-cards/smptebars: {step: review, review: 0.6, cut: 0.6}}
alerts: {mqtt: {url: "mqtt://127.0.0.1:0"}}
"""
KEYFRAME_BYTES = 1500
"""Less than the first picture of the second clip."""
SAMPLES = 10
"""Two seconds of a live publisher, in which a viewer's program has started and asked."""
HOLD = f"hold: {{samples: {SAMPLES}, within: 60s, on_doubt: refuse}}"


@contextlib.asynccontextmanager
async def published(url: str, script: str) -> AsyncIterator[None]:
    """Cards over HTTP, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "detector.publisher", "--script", script, "--url", url),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _look(client: httpx.AsyncClient, url: str) -> tuple[int, int]:
    """What a viewer gets at once: the status, and media bytes."""
    async with client.stream("GET", url) as answer:
        if answer.status_code != 200:
            return answer.status_code, 0
        async for piece in answer.aiter_raw():
            return 200, len(piece)
        return 200, 0


def _judged(service: Service) -> int:
    return sum(session.judge.judged for session in service.supervisor.sessions.values())


async def test_viewers_of_the_embedded_ingest_wait_for_clean_samples(tmp_path: Path) -> None:
    """Who asks again and again is refused until ten clean samples were seen, and never gets one with the card."""
    file = tmp_path / "stopframe.yaml"
    listen = '"127.0.0.1:0"'
    file.write_text(
        f"state_dir: state\nhttp: {{listen: {listen}}}\ningest: {{kind: embedded, listen: {listen}, {HOLD}}}\n{HELD}"
    )
    async with open_service(load_config(file)) as service, httpx.AsyncClient(trust_env=False) as client:
        url = f"{service.addresses.ingest}/live/clean"
        async with published(url, "testsrc2:60"):
            seen = [(404, 0)]
            while seen[-1][0] != 200:
                seen.append(await _look(client, url))
                assert _judged(service) >= SAMPLES or seen[-1][0] in (403, 404)
                await asyncio.sleep(0.01)
            assert (403, 0) in seen, "it was tried while the publisher was live and not cleared"
            assert seen[-1][1] > 0
        await until(lambda: not service.supervisor.sessions)
        assert (await _look(client, url))[0] == 404
        async with published(url, "smptebars:60"):
            await until(lambda: _judged(service) >= 5)
            assert {await _look(client, url) for _ in range(5)} == {(403, 0)}
            assert next(iter(service.supervisor.sessions.values())).judge.last_action == "review"


# With a real nginx


def _shipped(nginx: Nginx, folder: Path) -> Path:
    text = (EXAMPLE / "stopframe.yaml").read_text(encoding="utf-8")
    for shipped, here in (
        ("/var/lib/stopframe", str(folder / "state")),
        ("127.0.0.1:8080", f"127.0.0.1:{nginx.http_port}"),
        ("127.0.0.1:1935", f"127.0.0.1:{nginx.rtmp_port}"),
        ("127.0.0.1:8936", f"127.0.0.1:{nginx.hook_port}"),
        ("sandbox: require", "sandbox: prefer"),
        ("  #hold: {samples: 0, within: 10s, on_doubt: refuse}", f"  {HOLD}"),
    ):
        assert shipped in text, shipped
        text = text.replace(shipped, here)
    ours = text.split("enforcement:")[0] + "http:" + text.split("\nhttp:")[1] + HELD
    (folder / "stopframe.yaml").write_text(ours)
    return folder / "stopframe.yaml"


@contextlib.asynccontextmanager
async def viewing(nginx: Nginx, name: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, bytearray]]:
    """A viewer, and what it got."""
    command = (
        "ffmpeg -loglevel quiet -analyzeduration 500000 -fpsprobesize 0 -i {} -c copy -f mpegts -flush_packets 1 pipe:1"
    )
    process = await asyncio.create_subprocess_exec(
        *command.format(f"rtmp://127.0.0.1:{nginx.rtmp_port}/live/{name}").split(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    got = bytearray()

    async def read() -> None:
        assert process.stdout is not None
        while piece := await process.stdout.read(65536):
            got.extend(piece)

    reading = asyncio.create_task(read(), name="viewer")
    try:
        yield process, got
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@pytest.mark.needs_nginx_rtmp
@pytest.mark.needs_ffmpeg
async def test_viewers_of_a_real_nginx_wait_for_clean_samples(tmp_path: Path) -> None:
    """Refused before, let in after; who watched one publisher is gone before the next begins, whom nobody sees."""
    clean, bars = (
        make_clip(tmp_path / "clean.flv", audio=False),
        make_clip(tmp_path / "bars.flv", audio=False, picture="smptebars"),
    )
    with running_nginx(tmp_path / "nginx") as nginx:
        config = load_config(_shipped(nginx, tmp_path))
        async with open_service(config) as service, contextlib.AsyncExitStack() as stack:
            nginx.secret = (tmp_path / "state/secrets/hook").read_text().strip()
            nginx.write_hook()
            nginx.quit()
            nginx.start()
            viewers = await stack.enter_async_context(contextlib.AsyncExitStack())
            async with live(nginx.rtmp_port, clean, "key"):
                await until(lambda: service.supervisor.sessions)
                tries, viewer, got = await _try_until_let_in(viewers, nginx, service)
                assert tries > 1, "it was tried while the publisher was live and not cleared"
                await until(lambda: len(got) > 1000)
            await until(lambda: not service.supervisor.sessions)
            assert viewer.returncode is None, "it waits for whoever publishes next"
            size = await _when_quiet(got)
            async with live(nginx.rtmp_port, bars, "key"):
                await until(lambda: _judged(service) >= 4)
                await until(lambda: viewer.returncode is not None)
                assert len(got) < size + KEYFRAME_BYTES, "the rest of what was on its way, nothing of the next"
                async with viewing(nginx, "key") as (refused, nothing):
                    await until(lambda: refused.returncode is not None)
                assert not nothing
                assert next(iter(service.supervisor.sessions.values())).judge.last_action == "review"


async def _when_quiet(got: bytearray) -> int:
    """How much a viewer has got once all that was on its way has come."""
    size = -1
    while size != len(got):
        size = len(got)
        await asyncio.sleep(1.0)
    return size


async def _try_until_let_in(
    viewers: contextlib.AsyncExitStack, nginx: Nginx, service: Service
) -> tuple[int, asyncio.subprocess.Process, bytearray]:
    """How many tries it took, and the viewer that was let in: not before enough samples were judged."""
    for tries in range(1, 100):
        viewer, got = await viewers.enter_async_context(viewing(nginx, "key"))
        while viewer.returncode is None and not got:
            await asyncio.sleep(0.02)
        if got:
            assert _judged(service) >= SAMPLES
            return tries, viewer, got
    raise AssertionError("no viewer was let in")
