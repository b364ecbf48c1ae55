"""A webhook's endpoint on loopback that answers as a test says, and remembers what it was sent."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Self

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
    _server: asyncio.Server | None = None
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/hook/path-secret"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Nothing answers any more."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
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
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client or the test is done
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
