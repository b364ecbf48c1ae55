"""An HTTP server that sends one clip to everybody who asks, at real pace and from the same instant on."""

import asyncio
import contextlib
import time
from typing import Self

from benchmarks.clips import Clip
from benchmarks.loopback import serving

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n"


class PacedFeed:
    """`async with PacedFeed(clip, rounds, listeners) as feed`: begins when so many listeners have connected."""

    def __init__(self, clip: Clip, rounds: int, listeners: int) -> None:
        self.port = 0
        self.latest_seconds = 0.0
        self._clip = clip
        self._rounds = rounds
        self._wanted = listeners
        self._begins = asyncio.Event()
        self._begun_at = 0.0
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.port = await self._open.enter_async_context(serving(self._serve))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/live"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD)
        self._wanted -= 1
        if self._wanted == 0:
            self._begun_at = time.monotonic()
            self._begins.set()
        await self._begins.wait()
        await self._send(writer)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        for turn in range(self._rounds):
            for index, chunk in enumerate(self._clip.chunks):
                due_at = self._begun_at + turn * self._clip.seconds + chunk.offset_seconds
                await asyncio.sleep(max(0.0, due_at - time.monotonic()))
                self.latest_seconds = max(self.latest_seconds, time.monotonic() - due_at)
                writer.write(self._clip.payload(index, turn))
                await writer.drain()
