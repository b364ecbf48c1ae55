"""A real node-media-server, and publishers for it. `scripts/node-media-server` installs it."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request, Response

from benchmarks.loopback import serving
from benchmarks.ports import free_port
from detector.api.server import HttpServer
from detector.config.references import Secret
from detector.config.servers import PlainHttpServerUrl
from detector.ingest.node_media_server import NodeMediaServerSettings
from tests.slack import SLACK_SECONDS
from tests.waiting import until

NODE_MEDIA_SERVER = (
    Path(__file__).parents[1] / ".cache/node-media-server-4.4.3/node_modules/node-media-server/bin/app.js"
)
PASSWORD = "benign-test-password"
EXAMPLE = Path(__file__).parents[1] / "configs/examples/node-media-server/config.json"

# Sound and video are announced, and nothing follows: enough to be a publisher.
_FLV_HEADER = b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00"

Hook = Callable[[bytes], int]


@dataclass
class RunningNms:
    """The server's ports, and what answers its webhook; None says 200 to everything."""

    http_port: int
    rtmp_port: int
    hook: Hook | None = None
    hook_delay_seconds: float = 0.0
    hook_answers: int = 0
    publish_answers: list[int] = field(default_factory=list)
    """What the webhook was answered when it asked whether somebody may publish."""

    @property
    def settings(self) -> NodeMediaServerSettings:
        """How Stopframe gets at it."""
        return NodeMediaServerSettings(
            api=PlainHttpServerUrl("http", "127.0.0.1", self.http_port), password=Secret("test", PASSWORD)
        )

    @contextlib.asynccontextmanager
    async def publishing(self, app: str, name: str, *, leaves: bool = True) -> AsyncIterator["asyncio.Task[bytes]"]:
        """Publish over HTTP-FLV, sound and video announced; the task ends when the server closes the connection.

        One that does not leave keeps its connection when the server has answered, and goes on sending.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        keep = "close" if leaves else "keep-alive"
        head = (
            f"POST /{app}/{name}.flv HTTP/1.1\r\nHost: nms\r\nTransfer-Encoding: chunked\r\nConnection: {keep}\r\n\r\n"
        )
        writer.write(head.encode() + b"%x\r\n%b\r\n" % (len(_FLV_HEADER), _FLV_HEADER))
        listening = asyncio.create_task(reader.read(), name="publisher")
        try:
            yield listening
        finally:
            listening.cancel()
            writer.transport.abort()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await listening
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def is_denied(self, app: str, name: str) -> bool:
        """Whether a publisher is sent away, once our webhook was asked about him: if it said so, with slack."""
        asked = len(self.publish_answers)
        async with self.publishing(app, name) as posting:
            await until(lambda: posting.done() or len(self.publish_answers) > asked)
            is_refused = self.publish_answers[-1] != HTTPStatus.OK
            done, _ = await asyncio.wait([posting], timeout=SLACK_SECONDS if is_refused else 1.0)
            return bool(done)


@contextlib.asynccontextmanager
async def running_nms(
    folder: Path, *, has_hook: bool = True, hook_url: str | None = None, http_port: int = 0
) -> AsyncIterator[RunningNms]:
    """The server, by the shipped example, on ports of its own.

    Its webhook asks `RunningNms.hook`; with `has_hook=False` nobody answers it, with `hook_url` somebody else does.
    """
    rtmp_port, closed_port = free_port(), free_port()
    http_port = http_port or free_port()
    nms = RunningNms(http_port, rtmp_port)
    app = FastAPI()

    @app.post("/hook")
    async def answer(request: Request) -> Response:
        body = await request.body()
        await asyncio.sleep(nms.hook_delay_seconds)
        nms.hook_answers += 1
        status = HTTPStatus.OK if nms.hook is None else nms.hook(body)
        if json.loads(body)["action"] in {"prePublish", "postPublish"}:
            nms.publish_answers.append(status)
        return Response(status_code=status)

    async with HttpServer(app, "127.0.0.1", 0) as server, contextlib.AsyncExitStack() as stack:
        config = json.loads(EXAMPLE.read_text(encoding="utf-8"))
        config["http"]["port"], config["rtmp"]["port"] = http_port, rtmp_port
        own_hook = f"http://127.0.0.1:{server.port if has_hook else closed_port}/hook"
        config["notify"]["url"] = hook_url or own_hook
        config["auth"]["jwt"]["users"][0]["password"] = PASSWORD
        folder.mkdir(exist_ok=True)
        path = folder / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        node = shutil.which("node")
        assert node is not None
        process = await asyncio.create_subprocess_exec(
            node,
            str(NODE_MEDIA_SERVER),
            "-c",
            str(path),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
        )
        stack.push_async_callback(process.wait)
        stack.callback(process.kill)
        await _until_it_listens(http_port)
        await _until_it_listens(rtmp_port)
        yield nms


@contextlib.asynccontextmanager
async def stubborn(port: int) -> AsyncIterator[int]:
    """The port of a way to `port` that never tells the client that the server closed its half of a connection."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.create_task(pump(there_reader, writer), name="back")
        try:
            await pump(reader, there_writer)
        finally:
            there_writer.transport.abort()  # first of all: what waits here may be cancelled
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async with serving(carry) as own_port:
        yield own_port


async def _until_it_listens(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.02)
