"""A session with real caged readers, whose analysis and answers are played by the test; and a server at real pace."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from benchmarks import loopback
from detector import session as session_module
from detector.config.config import CloserLook
from detector.events import Decision, StreamKey
from detector.metrics import Metrics
from detector.policy import PolicySettings
from detector.session import SessionParts, StreamSession
from detector.session_settings import SessionSettings
from models.cascade import Asking
from models.evidence import Inspection
from models.hashing.scenes import Look
from streams.frame import Frame
from streams.job import Job, SandboxMode, SourceKind
from streams.nursery import Nursery
from streams.reach import Reached
from streams.sampling import SamplingSettings

Chunk = tuple[float, bytes]
"""When it is due, in seconds, and its bytes."""


class Looks:
    """Analysis that looks at every frame and finds nothing."""

    bank_generation = 0
    model_rules = ()

    async def inspect(
        self, _frame: Frame, *, deadline_at: float, look: Look | None, asking: Asking, stream: str, risk: int
    ) -> Inspection:
        return Inspection(90, is_stable=True, is_low_information=False, fingerprint=bytes(32))


@dataclass
class Watch:
    """One session under watch: `told` holds the blind alerts as (monotonic second, cause)."""

    session: StreamSession
    metrics: Metrics
    told: list[tuple[float, str]] = field(default_factory=list)

    async def first(self, *, within_seconds: float) -> tuple[float, str]:
        """The first blind alert: seconds since the session began, and its cause."""
        async with asyncio.timeout(within_seconds):
            while not self.told:
                await asyncio.sleep(0.01)
        return self.told[0][0] - self.session.started_at, self.told[0][1]


@asynccontextmanager
async def watching(nursery: Nursery, kind: SourceKind, url: str, **job_settings: Any) -> AsyncIterator[Watch]:
    """Watch what is at `url`, or the file that the test's `reach` hands over."""
    job = replace(Job(kind, url, 0, True, SamplingSettings(), SandboxMode.PREFER), **job_settings)
    metrics = Metrics()

    async def respond(_session: StreamSession, decision: Decision) -> None:
        watch.told.append((time.monotonic(), decision.signals[0].name))

    parts = SessionParts(nursery, Looks(), metrics, respond)  # type: ignore[arg-type]
    chosen = SessionSettings(job, CloserLook(0.3, 5.0), 1.0, PolicySettings())
    watch = Watch(StreamSession("ID", StreamKey("test", "live", "k"), chosen, parts), metrics)
    task = asyncio.create_task(watch.session.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions read files: a job's URL is the file's path."""

    @asynccontextmanager
    async def reach(job: Job, *_: Any) -> AsyncIterator[Reached]:
        descriptor = os.open(job.url, os.O_RDONLY)
        try:
            yield Reached(Job(SourceKind.FILE, "", 0, True, job.sampling, job.sandbox), descriptor)
        finally:
            os.close(descriptor)

    monkeypatch.setattr(session_module, "reach", reach)


@asynccontextmanager
async def serving(chunks: Sequence[Chunk], *, hangs: bool = False) -> AsyncIterator[str]:
    """Serve `chunks` over HTTP, each when it is due, to whoever asks; afterwards hang up, or say nothing more."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        for due, piece in chunks:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            writer.write(piece)
            await writer.drain()
        if hangs:
            await asyncio.Event().wait()

    async with loopback.serving(send) as port:
        yield f"http://127.0.0.1:{port}/live/k"
