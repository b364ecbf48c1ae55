"""Hostile streams for a real reader in its cage: served at their own pace, watched by a real keeper, measured."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.loopback import serving
from streams.frame import Frame
from streams.job import Job, SandboxMode, SourceKind
from streams.keeper import Keeper, Nursery
from streams.sampling import SamplingSettings
from streams.wire import EndCode, Ended, Heartbeat, Opened

Chunks = Sequence[tuple[float, bytes]]
"""What is sent, and how many seconds after the first byte."""

_JOB = Job(SourceKind.FILE, "", 0, live=False, sampling=SamplingSettings(), sandbox=SandboxMode.PREFER)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"


@dataclass
class Seen:
    """What a reader said, each with the time since it was started, and what its process took at most."""

    told: list[tuple[float, Opened | Frame | Heartbeat | Ended]] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def frames(self) -> list[Frame]:
        return [message for _, message in self.told if isinstance(message, Frame)]

    @property
    def opened(self) -> Opened:
        return next(message for _, message in self.told if isinstance(message, Opened))

    @property
    def ended(self) -> Ended:
        message = self.told[-1][1]
        assert isinstance(message, Ended), f"it goes on: {message}"
        return message

    @property
    def beats(self) -> list[tuple[float, Heartbeat]]:
        return [(at, message) for at, message in self.told if isinstance(message, Heartbeat)]

    def end(self) -> tuple[EndCode, float]:
        """Why it ended, and when."""
        return self.ended.code, self.told[-1][0]


@contextlib.asynccontextmanager
async def served(chunks: Chunks, *, stays: bool = False) -> AsyncIterator[int]:
    """Send `chunks`, each at its time, to whoever connects; with `stays` the connection is left open after that."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD)
        started_at = time.monotonic()
        for at, payload in chunks:
            await asyncio.sleep(at - (time.monotonic() - started_at))
            writer.write(payload)
            await writer.drain()
        await reader.read(1 if stays else 0)

    async with serving(send) as port:
        yield port


async def watch(
    nursery: Nursery,
    chunks: Chunks,
    *,
    until: Callable[[Seen], bool] = lambda _: False,
    stays: bool = False,
    **changes: object,
) -> Seen:
    """Let a caged reader watch `chunks` over HTTP until its last word, or `until` says so after a message."""
    async with served(chunks, stays=stays) as port:
        job = replace(_JOB, kind=SourceKind.HTTP_TS, url=f"http://127.0.0.1:{port}/live/clip", port=port, live=True)
        return await _follow(nursery, replace(job, **changes), until)


async def scan(nursery: Nursery, folder: Path, content: bytes) -> Seen:
    """Let a caged reader scan `content` as a file in `folder`."""
    path = folder / "media"
    path.write_bytes(content)
    media_fd = os.open(path, os.O_RDONLY)
    try:
        return await _follow(nursery, _JOB, lambda _: False, media_fd)
    finally:
        os.close(media_fd)


async def _follow(nursery: Nursery, job: Job, until: Callable[[Seen], bool], media_fd: int | None = None) -> Seen:
    seen = Seen()
    started_at = time.monotonic()
    async with Keeper(nursery, job, media_fd) as keeper:
        measuring = asyncio.create_task(_measure(keeper.pid, seen), name="measure")
        try:
            async for message in keeper.messages():
                seen.told.append((time.monotonic() - started_at, message))
                if until(seen):
                    break
        finally:
            measuring.cancel()
    return seen


async def _measure(pid: int, seen: Seen) -> None:
    """Follow the peak of the process's resident memory, as the kernel keeps it."""
    while True:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM"))
            seen.peak_bytes = max(seen.peak_bytes, int(peak.split()[1]) * 1024)
        await asyncio.sleep(0.005)
