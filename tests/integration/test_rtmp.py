"""A caged reader on a real RTMP server: nginx-rtmp in front, ffmpeg as the publisher."""

import asyncio
import contextlib
import itertools
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from benchmarks.ports import free_port
from streams.frame import Frame, SampleReason
from streams.job import Job, SandboxMode, SourceKind
from streams.keeper import Keeper, Nursery, SourceUnreachable, resolve
from streams.sampling import SamplingSettings
from streams.wire import EndCode, Ended, Message, Opened
from tests.slack import SLACK_SECONDS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.needs_nginx_rtmp,
    pytest.mark.needs_ffmpeg,
    pytest.mark.needs_cage,
]

_CONFIG = """
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log {folder}/error.log error;
events {{ worker_connections 64; }}
rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{
  live on; idle_streams off; wait_key on; wait_video on; }} }} }}
"""


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(_CONFIG.format(folder=tmp_path, port=port))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    with process(nginx, "-p", str(tmp_path), "-c", str(config)):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.02)
        yield port


def publishing(port: int, *, b_frames: int) -> "contextlib.AbstractContextManager[subprocess.Popen[bytes]]":
    source = "testsrc2=size=320x180:rate=15"
    encoder = f"-c:v libx264 -preset veryfast -g 15 -bf {b_frames} -sc_threshold 0 -pix_fmt yuv420p -f flv"
    command = f"ffmpeg -loglevel error -re -f lavfi -i {source} {encoder} rtmp://127.0.0.1:{port}/live/key"
    return process(*command.split())


def job(port: int) -> Job:
    url = f"rtmp://127.0.0.1:{port}/live/key"
    return Job(SourceKind.RTMP, url, port, True, SamplingSettings(), SandboxMode.REQUIRE)


async def messages_of(nursery: Nursery, port: int) -> AsyncGenerator[Message, None]:
    """What a reader says that comes once the publisher is there."""
    has_opened = False
    while not has_opened:
        async with Keeper(nursery, job(port)) as keeper:
            async for message in keeper.messages():
                has_opened = has_opened or isinstance(message, Opened)
                if has_opened:
                    yield message


@pytest.mark.parametrize("b_frames", [pytest.param(0, marks=pytest.mark.slow), 2])
async def test_a_published_stream_is_sampled_at_every_keyframe(server: int, b_frames: int) -> None:
    """RTMP is read from inside the whole cage, one keyframe a second, B-frames or not."""
    arrivals: list[float] = []
    async with Nursery("streams.reader:main") as nursery:
        with publishing(server, b_frames=b_frames):
            async with asyncio.timeout(60), aclosing(messages_of(nursery, server)) as messages:
                async for message in messages:
                    if isinstance(message, Opened):
                        assert (message.codec, message.limits_network, message.has_seccomp) == ("h264", True, True)
                    if isinstance(message, Frame) and message.reason is SampleReason.KEYFRAME:
                        arrivals.append(message.arrived_at)
                        assert message.decoded_at - message.arrived_at < 0.5 + SLACK_SECONDS
                    if len(arrivals) == 4:
                        break

    gaps = [after - before for before, after in itertools.pairwise(arrivals[1:])]
    assert sum(gaps) > 1.0, gaps
    assert max(gaps) < 2.0 + SLACK_SECONDS, gaps


async def test_the_end_of_a_publisher_ends_the_reader(server: int) -> None:
    """A reader does not wait for a stream that is over."""
    async with Nursery("streams.reader:main") as nursery:
        ended = None
        with publishing(server, b_frames=0) as publisher:
            async with asyncio.timeout(60), aclosing(messages_of(nursery, server)) as messages:
                async for message in messages:
                    if isinstance(message, Frame):
                        publisher.kill()
                    if isinstance(message, Ended):
                        ended = message

    assert ended is not None
    assert ended.code in (EndCode.END_OF_STREAM, EndCode.TIMEOUT)


async def test_a_stream_that_nobody_publishes_is_not_there(server: int) -> None:
    """The reason stands in a word that operators and the retry policy understand."""
    async with asyncio.timeout(60), Nursery("streams.reader:main") as nursery, Keeper(nursery, job(server)) as keeper:
        last = [message async for message in keeper.messages()][-1]

    assert isinstance(last, Ended)
    assert last.code in (EndCode.NOT_FOUND, EndCode.REFUSED, EndCode.END_OF_STREAM)


async def test_a_server_that_is_not_there_is_unreachable_or_refused() -> None:
    """Nothing listens: no traceback, no endless wait, and no key in the reason."""
    port = free_port()
    url, _ = await resolve(f"rtmp://127.0.0.1:{port}/live/secret-key", SourceKind.RTMP)
    with pytest.raises(SourceUnreachable) as refusal:
        await resolve("rtmp://no-such-host.invalid/live/secret-key", SourceKind.RTMP)

    async with Nursery("streams.reader:main") as nursery, asyncio.timeout(60):
        silent = Job(SourceKind.RTMP, url, port, True, SamplingSettings(), SandboxMode.REQUIRE)
        async with Keeper(nursery, silent) as keeper:
            last = [message async for message in keeper.messages()][-1]

    assert isinstance(last, Ended)
    assert last.code is EndCode.REFUSED
    assert "secret-key" not in last.detail + str(refusal.value)
