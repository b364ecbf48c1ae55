"""More streams than CPU time: nobody goes without a look for longer than the floor, and every second is counted."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from detector.config.config import CloserLook
from detector.coverage import Cause, Coverage
from detector.cpu import control as cpu_control
from detector.cpu import easing, metering
from detector.cpu.control import CpuControl, CpuLimits
from detector.cpu.rationing import Rank, Risk
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
from streams.sampling import SamplingSettings
from tests.fixtures_media import Clip, MediaMaker
from tests.hostile.blind_scene import hand_over
from tests.slack import SLACK_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage]

FLOOR = 3.0
SAMPLING = SamplingSettings(0.5, 0.5, burst_share=0.05)
CPU_OF_A_FRAME = 0.5
"""Two keyframes a second of half a CPU second each: a stream takes one core, and what the machine does is nothing."""


class Dear:
    """Analysis whose frames cost much, by its own word; `taken` has when each stream's frames arrived."""

    bank_generation = 0
    model_rules = ()

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}

    async def inspect(
        self, frame: Frame, *, deadline_at: float, look: Look | None, asking: Asking, stream: str, risk: int
    ) -> Inspection:
        self.taken.setdefault(stream, []).append(frame.arrived_at)
        return Inspection(90, True, False, bytes(32), cpu_seconds=CPU_OF_A_FRAME)


class Node:
    """Sessions under one budget of CPU seconds a second."""

    def __init__(self, nursery: Nursery, clip: Path, cores: float) -> None:
        self.pool, self.metrics = Dear(), Metrics()
        self.sessions: dict[str, StreamSession] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.cores = cores
        self.control = CpuControl(self.sessions.values, self._limits, self.metrics, cores=1.0)
        pool: Any = self.pool
        self._parts = SessionParts(nursery, pool, self.metrics, self._respond, gate=self.control.admission)
        self._job = Job(SourceKind.FILE, str(clip), 0, True, SAMPLING, SandboxMode.PREFER)

    def _limits(self) -> CpuLimits:
        return CpuLimits(self.cores, FLOOR)

    async def _respond(self, _session: StreamSession, _decision: Decision) -> None:
        return None

    def begin(self, name: str, risk: Risk = Risk.NORMAL) -> StreamSession:
        settings = SessionSettings(self._job, CloserLook(0.3, 5.0), 5.0, PolicySettings(), rank=Rank(risk, 0.05))
        session = StreamSession(name, StreamKey("test", "live", name), settings, self._parts)
        self.sessions[name] = session
        self.tasks[name] = asyncio.create_task(session.run())
        return session

    async def end(self, name: str) -> None:
        del self.sessions[name]
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def words(self) -> dict[str, str]:
        return {name: self.control.standing(session).ration for name, session in self.sessions.items()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        control = asyncio.create_task(self.control.run())
        try:
            yield
        finally:
            for task in (control, *self.tasks.values()):
                task.cancel()
            await asyncio.gather(control, *self.tasks.values(), return_exceptions=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in place of tens of them."""
    monkeypatch.setattr(cpu_control, "ROUND_SECONDS", 0.25)
    monkeypatch.setattr(easing, "HOLD_SECONDS", 0.5)
    monkeypatch.setattr(easing, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(metering, "_MEMORY_SECONDS", 2.5)
    monkeypatch.setattr(metering, "_ENOUGH_SECONDS", 1.0)
    hand_over(monkeypatch)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overload") / "clip.ts"
    path.write_bytes(MediaMaker().clip(Clip(frames=400, gop=5, rate=10, size=(160, 120))))
    return path


def longest_gap(arrivals: list[float], begun_at: float, ended_at: float) -> float:
    moments = [begun_at, *(each for each in sorted(arrivals) if begun_at <= each <= ended_at), ended_at]
    return max(later - sooner for sooner, later in itertools.pairwise(moments))


def overloaded(account: Coverage) -> int:
    return account.by_cause_ns.get(Cause.OVERLOAD, 0)


@pytest.mark.usefixtures("quick")
async def test_with_half_the_cpu_time_nobody_falls_below_the_floor(clip: Path) -> None:
    """Six streams want seven cores and get half: each is looked at within the floor, the risky one as ever.

    The account adds up, what is not seen is skipped for overload, health says so, and when the load goes all is back.
    """
    async with Nursery("streams.reader:main") as nursery:
        node = Node(nursery, clip, cores=3.5)
        async with node.running():
            for number in range(5):
                node.begin(f"s{number}")
            risky = node.begin("risky", Risk.HIGH)
            await asyncio.sleep(4.0)
            async with asyncio.timeout(
                60.0
            ):  # what streams cost is not known well at once; the risky is the first again
                while risky.orders.ration.slowed_to_seconds > SAMPLING.detect_within_seconds:
                    await asyncio.sleep(0.2)
            begun_at = time.monotonic()
            before = {name: session.coverage() for name, session in node.sessions.items()}
            unseen_before = {name: beyond_promise(node.pool.taken[name], begun_at) for name in node.sessions}
            await asyncio.sleep(5.0)
            ended_at = time.monotonic()
            after = {name: session.coverage() for name, session in node.sessions.items()}

            assert set(node.words().values()) >= {"slowed"}
            total = dict.fromkeys(("for overload", "at all"), 0.0)
            for name in node.sessions:
                assert longest_gap(node.pool.taken[name], begun_at, ended_at) <= FLOOR + 0.5 + SLACK_SECONDS, name
                alive = after[name].alive_seconds - before[name].alive_seconds
                seen = after[name].seen_seconds - before[name].seen_seconds
                unseen = after[name].skipped_seconds - before[name].skipped_seconds
                total["at all"] += unseen
                total["for overload"] += (overloaded(after[name]) - overloaded(before[name])) / 1e9
                assert alive == pytest.approx(ended_at - begun_at, abs=0.3)
                assert seen + unseen == pytest.approx(alive, rel=0.01), after[name]
                # What lies more than the promise after an analysed frame is what was not seen. A frame that had come by
                # the window's edge and was analysed after it turns time into seen on both sides of the comparison.
                counted = beyond_promise(node.pool.taken[name], ended_at) - unseen_before[name]
                assert unseen == pytest.approx(counted, abs=0.05 * alive)
            assert total["for overload"] > 0.8 * total["at all"] > 0.0, "the rest: frames that this machine had wait"
            assert risky.orders.ration.slowed_to_seconds <= SAMPLING.detect_within_seconds, "its promise is kept"
            assert risky.sight.blindness.since_at is None
            slowed, sentence = next(iter(node.control.shortages()))
            assert slowed >= 3
            assert "raise sampling.max_cpu" in sentence
            used = node.metrics.value("stopframe_cpu_cores", part="analysis")
            assert 1.5 < used < 4.0
            assert node.metrics.value("stopframe_slowed_streams") == slowed

            for number in range(4):
                await node.end(f"s{number}")
            async with asyncio.timeout(60):
                while set(node.words().values()) != {"full"}:
                    await asyncio.sleep(0.1)
            assert not list(node.control.shortages())


def beyond_promise(arrivals: list[float], until: float) -> float:
    """Seconds up to `until` that lie more than `detect_within` after the latest analysed frame before them."""
    moments = [*sorted(arrivals), until]
    return sum(
        max(0.0, later - sooner - SAMPLING.detect_within_seconds) for sooner, later in itertools.pairwise(moments)
    )


@pytest.mark.usefixtures("quick")
async def test_where_even_floors_do_not_fit_newcomers_are_refused_until_there_is_room(clip: Path) -> None:
    """A stream that nobody has time for says so, is not read, and is watched as soon as another one leaves."""
    async with Nursery("streams.reader:main") as nursery:
        node = Node(nursery, clip, cores=0.75)
        async with node.running():
            for number in range(2):
                node.begin(f"s{number}")
            await asyncio.sleep(4.0)
            late, risky = node.begin("late"), node.begin("risky", Risk.HIGH)
            await asyncio.sleep(0.8)
            assert (late.state, late.code, node.words()["late"]) == ("refused", "refused", "refused")
            assert late.readers == 0
            account = late.coverage()
            blind = account.blind_seconds_by_cause()  # connecting: until it had its first turn, and was refused in it
            assert {"refused"} <= set(blind) <= {"connecting", "refused"}
            assert sum(blind.values()) == pytest.approx(account.alive_seconds)
            assert any("not watched for want of CPU time" in sentence for _, sentence in node.control.shortages())
            assert node.metrics.value("stopframe_refused_streams") == 2
            assert [node.sessions[f"s{number}"].readers for number in range(2)] == [1, 1]

            await node.end("s0")
            async with asyncio.timeout(60):
                while risky.readers == 0:
                    await asyncio.sleep(0.05)
            assert late.readers == 0, "who is of higher risk goes first, though he came later"
