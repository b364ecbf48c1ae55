"""One stream's frames, in order: analysed, judged by the policy, and answered for in the stream's account."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from detector.analysis.looks import TrackLooks
from detector.analysis.pool import AnalysisPool, FrameDropped
from detector.coverage import Cause
from detector.events import Decision, Observation, Step
from detector.metric_words import DropCause
from detector.metrics import Metrics
from detector.policy import History, PolicySettings, Verdict, decide
from detector.sight import Sight
from detector.trail import Trail
from detector.votes import Histories
from streams.frame import MAX_BURST_FRAMES, OF_BURSTS, Frame, SampleReason

log = structlog.get_logger()

FRAME_QUEUE_LIMIT = 8
"""Frames of one stream that may wait for analysis; the oldest makes room for a newer one and is counted."""

BURST_QUEUE_LIMIT = 2 * MAX_BURST_FRAMES
"""Frames of bursts that may wait beside them; none makes room: a burst that does not fit is left out and counted."""

_DROP_CAUSES = {"stale": DropCause.STALE, "overload": DropCause.QUEUE_FULL, "crash": DropCause.WORKER_LOST}
_COVERAGE_CAUSES = {"stale": Cause.STALE, "overload": Cause.OVERLOAD, "crash": Cause.ANALYSIS_FAILED}


class Lends(Protocol):
    """What the same account voted in earlier streams; `detector.identities.Lender` is one."""

    def own(self, track: int, history: History, most: int) -> History:
        """Put what was voted before in front of a track's history."""

    def beside(self, track: int, history: History, most: int) -> History | None:
        """The same with votes that may ask for a review at most; None where there are none of that kind."""


@dataclass(frozen=True, slots=True)
class JudgeParts:
    """What a judge works with. `weak_hit` asks for a closer look, `moved` hears of whatever changes the sight."""

    pool: AnalysisPool
    metrics: Metrics
    sight: Sight
    respond: Callable[[Decision], Awaitable[None]]
    weak_hit: Callable[[], Awaitable[None]]
    moved: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    risk: Callable[[], int] = lambda: 0
    """How much more than others the stream is worth looking at now, when there are too many frames for all."""
    analysed: Callable[[SampleReason, float], None] = lambda _reason, _cpu_seconds: None
    """Hears what the analysis of each frame cost."""
    trail: Trail | None = None
    """Remembers what the stream shows, and knows what the incident bank may do to it."""
    judged: Callable[[Observation, Verdict], None] = lambda _observation, _verdict: None
    """Hears of each frame that was judged."""


class Judge:
    """Takes the frames of one session. Votes are counted for each video track of its own: each shows something else."""

    def __init__(self, stream_id: str, session: str, parts: JudgeParts) -> None:
        self.judged = 0
        self.faults = 0
        self.cpu_seconds = 0.0
        """What analysis used for this stream's frames."""
        self.last_action = ""
        self.decision_seconds: float | None = None
        self._stream_id = stream_id
        self._session = session
        self._parts = parts
        self._histories: dict[int, History] = {}
        self._beside: dict[int, History] = {}
        self.lender: Lends | None = None
        self._looks: dict[int, TrackLooks] = {}
        self._line: deque[Frame] = deque()
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def votes(self) -> tuple[Histories, Histories]:
        """What its tracks voted, without and with what only stands beside it."""
        return self._histories, self._beside

    def take(self, frame: Frame) -> None:
        """Put a frame in line; the oldest makes room for it and is counted."""
        singles = [each for each in self._line if each.reason not in OF_BURSTS]
        if len(singles) >= FRAME_QUEUE_LIMIT:
            self._line.remove(singles[0])
            self._note_overload(1)
        self._put(frame)

    def take_together(self, frames: Sequence[Frame]) -> None:
        """Put the frames of a burst in line, all of them or none."""
        if sum(each.reason in OF_BURSTS for each in self._line) + len(frames) > BURST_QUEUE_LIMIT:
            self._note_overload(len(frames))
            return
        for frame in frames:
            self._put(frame)

    def _put(self, frame: Frame) -> None:
        self._line.append(frame)
        self._is_idle.clear()
        self._has_work.set()

    def _note_overload(self, frames: int) -> None:
        self._parts.metrics.dropped(DropCause.QUEUE_FULL, frames)
        self._parts.sight.note(Cause.OVERLOAD, self._parts.clock())

    async def finish(self, within_seconds: float) -> None:
        """Wait until every frame that was taken is judged, as long as they are worth it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._is_idle.wait()

    async def run(self, policy: Callable[[], PolicySettings], deadline_seconds: Callable[[], float]) -> None:
        """Judge what comes, by what the operator says at the time, until cancelled."""
        while True:
            await self._has_work.wait()
            frame = self._line.popleft()
            if not self._line:
                self._has_work.clear()
            try:
                observation = await self._look_at(frame, frame.decoded_at + deadline_seconds())
                if observation is not None:
                    await self._judge(policy(), observation, frame)
            except Exception as error:  # noqa: BLE001 - the task's edge: a fault over one frame must not end the watch
                self._note_fault(error)
            finally:
                if not self._line:
                    self._is_idle.set()
                self._parts.moved()

    def _note_fault(self, error: Exception) -> None:
        """Count a frame that could not be judged; only the first of a session is logged."""
        self.faults += 1
        self._parts.metrics.dropped(DropCause.WORKER_LOST)
        self._parts.sight.note(Cause.ANALYSIS_FAILED, self._parts.clock())
        if self.faults == 1:
            log.warning(
                "session.frame_failed", stream=self._stream_id, why=type(error).__name__, detail=str(error)[:200]
            )

    def _has_voted(self, frame: Frame, observation: Observation) -> bool:
        votes = self._histories[frame.track].votes
        named = (f"{score.model}/{score.label}" for score in observation.inspection.scores)
        return any(votes[name][-1] is not Step.OFF for name in named if name in votes)

    def _track(self, frame: Frame) -> TrackLooks:
        looks = self._looks.get(frame.track)
        if looks is None:
            looks = self._looks[frame.track] = TrackLooks(self._parts.pool.model_rules)
        return looks

    async def _look_at(self, frame: Frame, deadline_at: float) -> Observation | None:
        clock, metrics = self._parts.clock, self._parts.metrics
        metrics.stage("decode", frame.decoded_at - frame.arrived_at)
        queued_at = clock()
        looks = self._track(frame)
        size = (frame.width, frame.height)
        try:
            inspection = await self._parts.pool.inspect(
                frame,
                deadline_at=deadline_at,
                look=looks.look(frame, self._parts.pool.bank_generation),
                asking=looks.models.ask(frame.picture, size, queued_at, is_moved=frame.is_moved),
                stream=self._stream_id,
                risk=self._parts.risk(),
            )
        except FrameDropped as drop:
            metrics.dropped(_DROP_CAUSES[drop.cause])
            self._parts.sight.note(_COVERAGE_CAUSES[drop.cause], clock())
            return None
        looks.heard(inspection)
        inspection = looks.models.heard(frame.picture, size, inspection, clock())
        metrics.stage("analysis", clock() - queued_at)
        metrics.inspection(inspection)
        self.cpu_seconds += inspection.cpu_seconds
        self._parts.analysed(frame.reason, inspection.cpu_seconds)
        if self._parts.trail is not None:
            inspection = self._parts.trail.bounded(inspection)
        return Observation(
            stream_id=self._stream_id,
            session=self._session,
            sequence=frame.sequence,
            reason=frame.reason.value,
            arrived_at=frame.arrived_at,
            decoded_at=frame.decoded_at,
            scored_at=clock(),
            pts_seconds=frame.pts_seconds,
            is_corrupt=frame.is_corrupt,
            inspection=inspection,
        )

    def _decide(self, policy: PolicySettings, observation: Observation, track: int) -> Verdict:
        """The verdict by this stream's votes and its account's; what others voted raises it to a review at most."""
        history, lender = self._histories.get(track, History()), self.lender
        if lender is not None:
            history = lender.own(track, history, policy.votes_of)
        self._histories[track], verdict = decide(policy, history, observation)
        beside = None if lender is None else lender.beside(track, self._beside.get(track, History()), policy.votes_of)
        if beside is None:
            return verdict
        self._beside[track], with_others = decide(policy, beside, observation)
        if with_others.action <= verdict.action:
            return verdict
        signals = tuple(replace(one, step=min(one.step, Step.REVIEW)) for one in with_others.signals)
        action = min(with_others.action, Step.REVIEW)
        return verdict if action <= verdict.action else replace(with_others, action=action, signals=signals)

    async def _judge(self, policy: PolicySettings, observation: Observation, frame: Frame) -> None:
        now = self._parts.clock()
        self._parts.sight.looked(frame, is_low_information=observation.inspection.is_low_information)
        verdict = self._decide(policy, observation, frame.track)
        self.judged += 1
        self._parts.judged(observation, verdict)
        self.decision_seconds = now - observation.arrived_at
        self._parts.metrics.frame_to_decision(self.decision_seconds)
        if self._parts.trail is not None:
            self._parts.trail.saw(observation.arrived_at, observation.inspection)
            if verdict.is_at_cut:
                self._parts.trail.hit(observation.arrived_at, frame, observation.inspection.fingerprint)
        if verdict.weak_hit or verdict.signals or self._has_voted(frame, observation):
            self._track(frame).models.suspect(now)
        if verdict.weak_hit:
            await self._parts.weak_hit()
        if not verdict.signals:
            return
        self.last_action = verdict.action.word
        decision = Decision(
            stream_id=self._stream_id,
            session=self._session,
            observation=observation,
            action=verdict.action,
            is_live=verdict.is_live,
            signals=verdict.signals,
            votes=verdict.votes,
        )
        await self._parts.respond(decision)
