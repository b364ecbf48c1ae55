"""A webhook's endpoint on loopback that answers as a test says, and remembers what it was sent."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Self

from benchmarks.loopback import serving

SECRET = "a-secret-of-the-test-0123"


@dataclass
class Endpoint:
    """`async with Endpoint() as endpoint`: `heads` and `bodies` hold every request, as it came."""

    status: int = 200
    body: bytes = b""
    headers: tuple[str, ...] = ()
    pause: float = 0.0
    tls: ssl.SSLContext | None = None
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    port: int = 0
    _open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/hook/path-secret"

    async def __aenter__(self) -> Self:
        self.port = await self._open.enter_async_context(serving(self._serve, port=self.port, tls=self.tls))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Nothing answers any more."""
        await self._open.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            head = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            content = await reader.readexactly(int(head.get("content-length", 0)))
            self.targets.append(first.split()[1])
            self.heads.append(head)
            self.bodies.append(content)
            await asyncio.sleep(self.pause)
            answer = [f"HTTP/1.1 {self.status} Said", f"Content-Length: {len(self.body)}", *self.headers, "", ""]
            writer.write("\r\n".join(answer).encode() + self.body)
            await writer.drain()
