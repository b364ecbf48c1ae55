"""An ingest server without media: MediaMTX's list and kick over HTTP, and a book of who was dropped how often.

It stands for the server beside which service and cutter are killed; the adapter that asks it is the real one.
"""

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any, Self

from benchmarks.loopback import serving


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
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.port = await self._open.enter_async_context(serving(self._serve, backlog=256))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            status, content = self._answer(method, target.partition("?")[0])
            body = json.dumps(content).encode()
            writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()

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
