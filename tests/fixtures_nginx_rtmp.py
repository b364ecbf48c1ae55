"""A real nginx with the RTMP module, started from the shipped example, and ffmpeg as its publisher."""

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx

from benchmarks.ports import free_port
from detector.api.app import create_app
from detector.api.server import HttpServer
from detector.api.view import Health, ServiceView
from detector.ingest.hooks import AnswersHooks, HookAnswer
from detector.metrics import Metrics

EXAMPLE = Path(__file__).parents[1] / "configs" / "examples" / "nginx-rtmp"
SECRET = "5ec0" * 16


@dataclass
class Nginx:
    """The running server. `substitute` may change its file before a start or a reload."""

    folder: Path
    rtmp_port: int
    http_port: int
    hook_port: int
    secret: str = SECRET
    process: "subprocess.Popen[bytes] | None" = None

    def write(self, changes: dict[str, str] | None = None) -> Path:
        """The shipped nginx.conf with this machine's ports and paths, and whatever a test changes on purpose."""
        text = (EXAMPLE / "nginx.conf").read_text(encoding="utf-8")
        hook = self.write_hook()
        places = {
            "listen 1935;": f"listen 127.0.0.1:{self.rtmp_port};",
            "127.0.0.1:8080": f"127.0.0.1:{self.http_port}",
            "/run/nginx.pid": str(self.folder / "nginx.pid"),
            "/var/log/nginx/error.log": str(self.folder / "error.log"),
            "/etc/nginx/stopframe-hook.conf": str(hook),
        }
        for here, there in (places | (changes or {})).items():
            assert here in text, here
            text = text.replace(here, there)
        path = self.folder / "nginx.conf"
        path.write_text(f"daemon off;\n{text}")
        return path

    def write_hook(self) -> Path:
        """The one line that an operator writes: the hook's address with its secret."""
        path = self.folder / "stopframe-hook.conf"
        path.write_text(f"set $stopframe_hook http://127.0.0.1:{self.hook_port}/hook/{self.secret}/nginx-rtmp;\n")
        return path

    def start(self, changes: dict[str, str] | None = None) -> None:
        config = self.write(changes)
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        command = [nginx, "-p", str(self.folder), "-c", str(config)]
        # A session of its own: workers outlive a killed master, and are ended with it by their group.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.rtmp_port), 0.2):
                return
            time.sleep(0.02)
        raise AssertionError((self.folder / "error.log").read_text())

    def signal(self, number: int) -> None:
        """Signal the master and every worker."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    async def reload(self) -> None:
        """As `nginx -s reload`; over when no worker of before takes connections any more."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        before = [Path(f"/proc/{pid}/cmdline") for pid in children.read_text(encoding="ascii").split()]
        self.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            while any(_takes_connections(worker) for worker in before):
                await asyncio.sleep(0.01)

    def quit(self) -> None:
        """As `nginx -s stop`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        self.process = None

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    @property
    def settings(self) -> dict[str, object]:
        """The section `ingest` for it."""
        pages = f"http://127.0.0.1:{self.http_port}"
        return {
            "control": f"{pages}/control",
            "stat": f"{pages}/stat",
            "rtmp": f"rtmp://127.0.0.1:{self.rtmp_port}",
            "poll": "200ms",
        }

    async def stat(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{self.http_port}/stat")).text


def _takes_connections(worker: Path) -> bool:
    try:
        title = worker.read_bytes()
    except OSError:  # it is gone
        return False
    return b"worker process" in title and b"shutting down" not in title


class HookRelay:
    """Stands at the hook's address and passes what nginx asks to whichever adapter is under test."""

    name = "nginx-rtmp"

    def __init__(self) -> None:
        self.server: AnswersHooks | None = None

    async def answer_hook(self, body: bytes) -> HookAnswer | int:
        assert self.server is not None
        answer = self.server.answer_hook(body)
        return await answer if inspect.isawaitable(answer) else answer


class _Healthy:
    def health(self) -> Health:
        return Health(ok=True)


@contextlib.asynccontextmanager
async def hook_server(nginx: Nginx, server: AnswersHooks, metrics: Metrics | None = None) -> AsyncIterator[None]:
    """The service's own HTTP side, with `server` behind the hook that `nginx` asks."""
    app = create_app(cast("ServiceView", _Healthy()), metrics or Metrics(), (nginx.secret, server))
    async with HttpServer(app, "127.0.0.1", nginx.hook_port):
        yield


@contextlib.contextmanager
def running_nginx(folder: Path, changes: dict[str, str] | None = None) -> Iterator[Nginx]:
    folder.mkdir(parents=True, exist_ok=True)
    nginx = Nginx(folder, free_port(), free_port(), free_port())
    try:
        nginx.start(changes)
        yield nginx
    finally:
        nginx.kill()


def make_clip(path: Path, *, audio: bool, gop_seconds: int = 1, seconds: int = 6, picture: str = "testsrc2") -> Path:
    """A clip to publish without encoding it again: 15 frames a second, a keyframe every `gop_seconds`."""
    sound = "-f lavfi -i sine=frequency=440:sample_rate=44100 -c:a aac -shortest" if audio else ""
    command = (
        f"ffmpeg -loglevel error -y -f lavfi -i {picture}=size=320x180:rate=15:duration={seconds} {sound} -c:v libx264 "
        f"-preset ultrafast -bf 0 -g {15 * gop_seconds} -sc_threshold 0 -pix_fmt yuv420p -t {seconds} -f flv {path}"
    )
    subprocess.run(command.split(), check=True, stdin=subprocess.DEVNULL, timeout=120)
    return path


@contextlib.contextmanager
def publishing(port: int, clip: Path, name: str, *, app: str = "live") -> Iterator["subprocess.Popen[bytes]"]:
    """ffmpeg, publishing `clip` over and over at its own pace; the name goes over the wire as it is."""
    source = ["-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", "flv"]
    target = ["-rtmp_app", app, "-rtmp_playpath", name, f"rtmp://127.0.0.1:{port}/"]
    with subprocess.Popen(
        ["ffmpeg", "-loglevel", "quiet", *source, *target],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        try:
            yield running
        finally:
            running.kill()
            running.wait()


@contextlib.asynccontextmanager
async def live(port: int, clip: Path, name: str, *, app: str = "live") -> AsyncIterator["subprocess.Popen[bytes]"]:
    """As `publishing`, ended without holding up the event loop."""
    with publishing(port, clip, name, app=app) as running:
        try:
            yield running
        finally:
            running.kill()
            await asyncio.to_thread(running.wait)
