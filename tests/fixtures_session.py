"""A session with readers and analysis that the test plays."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import pytest

from detector import session as session_module
from detector.analysis.pool import FrameDropped
from detector.config.config import CloserLook
from detector.events import Decision, Step, StreamKey
from detector.metrics import Metrics
from detector.policy import ClassRule, PolicySettings
from detector.session import SessionParts, StreamSession
from detector.session_settings import SessionSettings
from models.cascade import Asking
from models.evidence import ClassScore, Inspection
from models.hashing.scenes import Look
from streams.address import SourceUnreachable
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason
from streams.job import Job, SandboxMode, SourceKind
from streams.reach import Reached
from streams.sampling import SamplingSettings
from streams.wire import Heartbeat, Opened

OPENED = Opened("h264", 640, 360, 1, 7, has_seccomp=True, limits_network=True, open_seconds=0.1)


def frame(number: int) -> Frame:
    now = time.monotonic()
    plane, picture = bytes(PLANE_BYTES), bytes(PICTURE_BYTES)
    return Frame(number, now, now, None, SampleReason.KEYFRAME, False, 640, 360, plane, picture)


def heartbeat(
    *, cpu_seconds: float = 0.0, replaced: int = 0, errors: int = 0, quiet_seconds: float = 0.0, later: float = 0.0
) -> Heartbeat:
    now = time.monotonic() + later
    return Heartbeat(now, now - quiet_seconds, math.nan, 10, 1000, 2, 0, errors, replaced, 0, 0, cpu_seconds, 1.0)


class FakeReader:
    """A keeper whose reader says what the test puts into `script`; a number is a pause, an exception is raised."""

    scripts: list[list[Any]]
    jobs: list[Job]
    told: list[tuple[int, float]]
    is_listening = True
    pid = 1

    def __init__(self, _nursery: Any, job: Job, media_fd: int | None = None) -> None:
        type(self).jobs.append(job)
        self.number = len(type(self).jobs)
        self.script = type(self).scripts.pop(0) if type(self).scripts else [60.0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def adjust(self, sampling: SamplingSettings) -> bool:
        type(self).jobs[-1] = replace(type(self).jobs[-1], sampling=sampling)
        return self.is_listening

    async def look_closer(self, interval_seconds: float, until: float) -> bool:
        type(self).told.append((self.number, interval_seconds))
        return True

    async def messages(self) -> AsyncIterator[Any]:
        for line in self.script:
            match line:
                case float() | int():
                    await asyncio.sleep(line)
                case Exception():
                    raise line
                case _:
                    yield line


class FakePool:
    """Answers with one class score per frame, or drops."""

    bank_generation = 0
    model_rules = ()

    def __init__(self, answer: Callable[[Frame], float | str | None]) -> None:
        self.answer = answer
        self.seen: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def inspect(
        self, seen: Frame, *, deadline_at: float, look: Look | None, asking: Asking, stream: str, risk: int
    ) -> Inspection:
        await self.gate.wait()
        self.seen.append(seen.sequence)
        score = self.answer(seen)
        if isinstance(score, str):
            raise FrameDropped(score)
        scores = () if score is None else (ClassScore("cards", "bars", score, "ab"),)
        return Inspection(90, True, score is None, bytes(32), scores=scores)


class Scene:
    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *scripts: list[Any],
        answer: Callable[[Frame], float | str | None] = lambda _frame: 0.0,
    ) -> None:
        FakeReader.scripts, FakeReader.jobs, FakeReader.told = list(scripts), [], []
        monkeypatch.setattr(session_module, "Keeper", FakeReader)
        monkeypatch.setattr(session_module, "reach", self._reach)
        self.unreachable = 0
        self.pool = FakePool(answer)
        self.metrics = Metrics()
        self.decisions: list[Decision] = []
        policy = PolicySettings(classes={"cards/bars": ClassRule(Step.CUT, 0.5, 0.9)}, votes_k=3, votes_of=5)
        job = Job(SourceKind.HTTP_TS, "http://h/live/k", 0, True, SamplingSettings(), SandboxMode.PREFER)
        parts = SessionParts(None, self.pool, self.metrics, self._respond)  # type: ignore[arg-type]
        settings = SessionSettings(job, CloserLook(0.3, 5.0), 1.0, policy)
        self.session = StreamSession("ID", StreamKey("embedded", "live", "k"), settings, parts)

    @asynccontextmanager
    async def _reach(self, job: Job, refused: Callable[[], None], _: object = None) -> AsyncIterator[Reached]:
        self.refused = refused
        if self.unreachable:
            self.unreachable -= 1
            raise SourceUnreachable("nobody listens there: start the ingest server")
        yield Reached(replace(job, url=job.url.replace("//h", "//127.0.0.1"), port=80), None)

    async def _respond(self, _session: StreamSession, decision: Decision) -> None:
        self.decisions.append(decision)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StreamSession]:
        task = asyncio.create_task(self.session.run())
        try:
            yield self.session
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)
