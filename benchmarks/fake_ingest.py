"""An ingest server without media: MediaMTX's list and kick over HTTP, and a book of who was dropped how often.

It stands for the server beside which service and cutter are killed; the adapter that asks it is the real one.
"""

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any, Self


class FakeIngest:
    """`async with FakeIngest() as server`: `publish` and `leave` are its publishers, `kicks` what was done to them."""

    def __init__(self) -> None:
        self.live: dict[str, str] = {}
        """Connection by path."""
        self.kicks: Counter[str] = Counter()
        """By path: how often a live publisher was dropped."""
        self.asked_total = 0
        self.port = 0
        self.obeys = True
        """Whether a kick does anything; False stands for a server that says yes and goes on."""
        self._numbers = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def section(self) -> str:
        """The config's section `ingest` for this server."""
        return f"ingest: {{kind: mediamtx, api: 'http://127.0.0.1:{self.port}', poll: 250ms}}"

    def publish(self, path: str) -> None:
        """Somebody goes live on `path`, such as `live/n1`."""
        self._numbers += 1
        self.live[path] = f"c{self._numbers}"

    def leave(self, path: str) -> None:
        """They leave by themselves."""
        self.live.pop(path, None)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="fake-ingest")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split("\r\n", 1)[0].split(" ")
                status, content = self._answer(method, target.partition("?")[0])
                body = json.dumps(content).encode()
                writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or was killed
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, method: str, path: str) -> tuple[int, Any]:
        self.asked_total += 1
        if method == "GET" and path == "/v3/paths/list":
            items = [
                {"name": name, "confName": "all", "ready": True, "source": {"type": "rtmpConn", "id": connection}}
                for name, connection in self.live.items()
            ]
            return 200, {"itemCount": len(items), "pageCount": 1, "items": items}
        if method == "POST" and path.startswith("/v3/rtmpconns/kick/"):
            wanted = path.rpartition("/")[2]
            name = next((name for name, connection in self.live.items() if connection == wanted), None)
            if name is None:
                return 404, {"error": "connection not found"}
            self.kicks[name] += 1
            if self.obeys:
                del self.live[name]
            return 200, {}
        return 404, {"error": "not found"}
