"""One stream's life: a reader is kept running, its frames are analysed in order, and every second is accounted for."""

import asyncio
import contextlib
import math
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from detector.analysis.pool import AnalysisPool, FrameDropped
from detector.config.config import CloserLook
from detector.coverage import Cause, Coverage, Kind, Ledger
from detector.events import Decision, Observation, StreamKey
from detector.metrics import CrashKind, DropCause, Metrics
from detector.policy import History, PolicySettings, decide
from streams.frame import Frame
from streams.job import Job
from streams.keeper import Keeper, ReaderCrashed, ReaderMisbehaved, ReaderStalled, SourceUnreachable
from streams.nursery import Nursery, NurseryBroken
from streams.reach import reach
from streams.sampling import SamplingMode
from streams.wire import EndCode, Ended, Heartbeat, Message, Opened

log = structlog.get_logger()

FRAME_QUEUE_LIMIT = 8
"""Frames of one stream that may wait for analysis; the oldest makes room for a newer one and is counted."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_STEADY_SECONDS = 10.0
"""A reader that ran this long has proved its source: the next pause starts small again."""

_TELL_BLINDNESS_SECONDS = 300.0
"""A stream that is blind again and again is told of at least this often."""

_PICTURELESS_PROMISES = 2.0
"""A reader that gets video takes a picture of it within `detect_within`; twice as long without one is blindness."""

_DROP_CAUSES = {"stale": DropCause.STALE, "overload": DropCause.QUEUE_FULL, "crash": DropCause.WORKER_LOST}
_COVERAGE_CAUSES = {"stale": Cause.STALE, "overload": Cause.OVERLOAD, "crash": Cause.ANALYSIS_FAILED}
_END_CAUSES = {
    EndCode.NO_VIDEO: Cause.NO_VIDEO,
    EndCode.CODEC: Cause.UNDECODABLE,
    EndCode.RESOLUTION: Cause.UNDECODABLE,
    EndCode.NOT_MEDIA: Cause.UNDECODABLE,
    EndCode.DECODE_ERRORS: Cause.UNDECODABLE,
    EndCode.TIMEOUT: Cause.NO_PACKETS,
    EndCode.REFUSED: Cause.UNREACHABLE,
    EndCode.NOT_FOUND: Cause.UNREACHABLE,
}
_CRASHES = {
    ReaderCrashed: CrashKind.READER,
    ReaderStalled: CrashKind.READER_STALLED,
    ReaderMisbehaved: CrashKind.READER_MISBEHAVED,
}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a stream's session goes by; replaced as a whole when the config changes."""

    job: Job
    closer_look: CloserLook
    deadline_seconds: float
    policy: PolicySettings


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What all sessions share."""

    nursery: Nursery
    pool: AnalysisPool
    metrics: Metrics
    respond: Callable[["StreamSession", Decision], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic


class StreamSession:
    """Watches one stream until it is cancelled. `state` is what an operator reads; everything else is for the account.

    The publisher's session outlives readers: votes, coverage and the open incident go on when a reader is replaced.
    """

    def __init__(
        self, stream_id: str, key: StreamKey, settings: SessionSettings, parts: SessionParts, *, connection: str = ""
    ) -> None:
        self.stream_id = stream_id
        self.key = key
        self.connection = connection
        self.session = uuid.UUID(bytes=os.urandom(16), version=4).hex
        self.settings = settings
        self._parts = parts
        self.started_at = parts.clock()
        self.since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.state = "connecting"
        self.code = ""
        self.opened: Opened | None = None
        self.last_sample_at: float | None = None
        self.last_packet_at: float | None = None
        self.last_action = ""
        self.judged = 0
        self.decision_seconds: float | None = None
        self.readers = 0
        self.faults = 0
        self.blind_since: float | None = self.started_at
        self.blind_cause = Cause.CONNECTING
        self._is_blindness_told = False
        self._blindnesses_told = 0
        self._tell_again_at = -math.inf
        self._ledger = Ledger(self.started_at, settings.job.sampling.detect_within_seconds, self.blind_cause)
        self._history = History()
        self._closer_until = -math.inf
        self._cpu_seconds_before = 0.0
        self._heartbeat: Heartbeat | None = None
        self._picture_at: float | None = None
        self._errors_at_picture = 0
        self._keeper: Keeper | None = None
        self._patience: asyncio.Timeout | None = None
        self._is_reader_outdated = False
        self._is_awaited = asyncio.Event()
        self._frames: asyncio.Queue[Frame] = asyncio.Queue(FRAME_QUEUE_LIMIT)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all readers of this session."""
        return self._cpu_seconds_before + (self._heartbeat.cpu_seconds if self._heartbeat else 0.0)

    def coverage(self) -> Coverage:
        """The account up to now."""
        return self._ledger.account(self._parts.clock())

    def is_blindness_due(self, after_seconds: float) -> bool:
        """Whether the stream has been blind for so long and that is to be told now; the answer is taken as done.

        Each blindness is told once, and one after the other at growing distances, up to `_TELL_BLINDNESS_SECONDS`.
        """
        now = self._parts.clock()
        if self.blind_since is None or self._is_blindness_told or now - self.blind_since < after_seconds:
            return False
        if now < self._tell_again_at:
            return False
        self._is_blindness_told = True
        self._tell_again_at = now + min(after_seconds * 2 ** min(self._blindnesses_told, 16), _TELL_BLINDNESS_SECONDS)
        self._blindnesses_told += 1
        return True

    async def reconfigure(self, settings: SessionSettings) -> None:
        """Go by `settings` from now on: votes, coverage and the open incident go on, whatever changes.

        Policy, deadline and closer look hold for the next frame. Where the reader's job changes, a new reader takes
        over at once.
        """
        before, self.settings = self.settings, settings
        self._ledger.adjust(settings.job.sampling.detect_within_seconds)
        if settings.job == before.job:
            return
        self._is_reader_outdated = True
        self._is_awaited.set()  # ends a pause
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Keep a reader on the stream, with growing pauses while it fails, until cancelled."""
        pause = 0.0
        analyst = asyncio.create_task(self._analyse_all(), name=f"session[{self.stream_id}].analysis")
        try:
            while True:
                begun_at = self._parts.clock()
                ending = await self._read_until_it_ends()
                if ending is not None:
                    self._note_end(ending)
                    lasted = self._parts.clock() - begun_at
                    pause = self._pause_after(ending, lasted, pause)
                    await self._pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
                self._parts.metrics.reader_restarted()
        finally:
            analyst.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await analyst
            self.state = "ended"
            self._ledger.end(self._parts.clock())

    def _pause_after(self, ending: Ended | Exception, lasted_seconds: float, pause: float) -> float:
        within = self.settings.job.sampling.detect_within_seconds
        if lasted_seconds > _STEADY_SECONDS:
            return 0.0
        if isinstance(ending, Exception) and lasted_seconds > within:
            return 0.0  # a reader that worked and died is replaced at once
        # A container that began without video may carry some at any moment: who opens it anew sees it.
        is_waiting = isinstance(ending, Ended) and ending.code is EndCode.NO_VIDEO
        return min(max(_FIRST_PAUSE_SECONDS, 2 * pause), within if is_waiting else _LONGEST_PAUSE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Wait before the next reader, unless another one is wanted sooner."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_awaited.wait()

    async def _read_until_it_ends(self) -> Ended | Exception | None:
        """Return how the reader ended; None where its job was outdated."""
        self._is_reader_outdated = False
        self._is_awaited.clear()
        try:
            async with asyncio.timeout(None) as self._patience:
                return await self._read()
        except TimeoutError:
            if not self._is_reader_outdated:
                raise
            return None
        except (ReaderCrashed, ReaderStalled, ReaderMisbehaved, SourceUnreachable, NurseryBroken) as error:
            return error
        finally:
            self._keeper = self._patience = None
            self._cpu_seconds_before = self.cpu_seconds
            self._heartbeat = None

    async def _read(self) -> Ended:
        async with (
            reach(self.settings.job) as reached,
            Keeper(self._parts.nursery, reached.job, reached.media_fd) as keeper,
        ):
            self._keeper = keeper
            self.readers += 1
            async for message in keeper.messages():
                if isinstance(message, Ended):
                    return message
                await self._take(message)
        return Ended(EndCode.INTERNAL, math.nan, "the reader ended without a word")

    async def _take(self, message: Message) -> None:
        match message:
            case Opened():
                self.opened = message
                self.state, self.code = "live", ""
                self._picture_at = None
                self._note_cause(Cause.NO_KEYFRAME, self._parts.clock())
                log.info(
                    "session.opened",
                    stream=self.stream_id,
                    codec=message.codec,
                    width=message.width,
                    height=message.height,
                )
                await self._look_closer_again()
            case Frame():
                self._parts.metrics.sample(message.reason)
                self._picture_at, self._errors_at_picture = message.decoded_at, _errors(self._heartbeat)
                self._enqueue(message)
            case Heartbeat():
                self._note_heartbeat(message)
            case _:
                pass

    def _note_cause(self, cause: Cause, at: float) -> None:
        """From `at` on, what is not seen is not seen because of `cause`; a blind one may become an alert."""
        self._ledger.cause(cause, at)
        if cause.kind is not Kind.BLIND:
            self._note_sight()
            return
        self.blind_cause = cause
        if self.blind_since is None:
            self.blind_since = at

    def _note_sight(self) -> None:
        self.blind_since = None
        self._is_blindness_told = False

    def _enqueue(self, frame: Frame) -> None:
        if self._frames.full():
            self._frames.get_nowait()
            self._parts.metrics.dropped(DropCause.QUEUE_FULL)
            self._note_cause(Cause.OVERLOAD, self._parts.clock())
        self._frames.put_nowait(frame)

    def _note_heartbeat(self, beat: Heartbeat) -> None:
        before = self._heartbeat
        self._heartbeat = beat
        self._count(beat, before)
        if not math.isnan(beat.last_packet_at):
            self.last_packet_at = max(beat.last_packet_at, self.last_packet_at or 0.0)
        quiet_seconds = beat.sent_at - (self.last_packet_at or self.started_at)
        has_errors = _errors(beat) > self._errors_at_picture
        is_pictureless = self._is_pictureless(beat, has_errors=has_errors)
        if self.state == "live" and quiet_seconds > self.settings.job.sampling.detect_within_seconds:
            self._note_cause(Cause.NO_PACKETS, self._parts.clock() - quiet_seconds)
            self.state = "stalled"
        elif self.state == "live" and is_pictureless:
            self._note_cause(Cause.UNDECODABLE if has_errors else Cause.NO_VIDEO, self._parts.clock())
            self.state = "stalled"
        elif self.state == "stalled" and quiet_seconds < 1.0 and not is_pictureless:
            self._note_cause(Cause.NO_KEYFRAME if self._picture_at is None else Cause.UNSAMPLED, self._parts.clock())
            self.state = "live"

    def _is_pictureless(self, beat: Heartbeat, *, has_errors: bool) -> bool:
        """Whether pictures came once, and have been missing for longer than any stream that is looked at explains."""
        sampling = self.settings.job.sampling
        expected_seconds = sampling.detect_within_seconds
        if sampling.mode is SamplingMode.KEYFRAMES:  # the publisher sets the pace
            expected_seconds = max(expected_seconds, beat.gop_seconds) if has_errors else math.inf
        return (
            self._picture_at is not None and beat.sent_at - self._picture_at > _PICTURELESS_PROMISES * expected_seconds
        )

    def _count(self, beat: Heartbeat, before: Heartbeat | None) -> None:
        metrics = self._parts.metrics
        metrics.keyframes_without_picture(
            beat.keyframes_without_picture - (before.keyframes_without_picture if before else 0)
        )
        metrics.decode_errors(beat.decode_errors - (before.decode_errors if before else 0))
        metrics.reader_cpu(beat.cpu_seconds - (before.cpu_seconds if before else 0.0))
        metrics.dropped(DropCause.REPLACED, beat.replaced_samples - (before.replaced_samples if before else 0))

    def _note_end(self, ending: Ended | Exception) -> None:
        now = self._parts.clock()
        self.state = "reconnecting"
        if isinstance(ending, Ended):
            self.code = ending.code.value
            self._parts.metrics.reader_ended(ending.code)
            self._note_cause(_END_CAUSES.get(ending.code, Cause.ENDED), now)
            log.info("session.reader_ended", stream=self.stream_id, code=ending.code.value, detail=ending.detail)
            return
        self.code = type(ending).__name__
        kind = _CRASHES.get(type(ending))
        if kind is not None:
            self._parts.metrics.crashed(kind)
        self._note_cause(Cause.UNREACHABLE if kind is None else Cause.READER_FAILED, now)
        log.warning("session.reader_lost", stream=self.stream_id, why=type(ending).__name__, detail=str(ending))

    async def _analyse_all(self) -> None:
        while True:
            frame = await self._frames.get()
            try:
                observation = await self._look_at(frame)
                if observation is not None:
                    await self._judge(observation)
            except Exception as error:  # noqa: BLE001 - the task's edge: a fault over one frame must not end the watch
                self._note_fault(error)

    def _note_fault(self, error: Exception) -> None:
        """Count a frame that could not be judged; only the first of a session is logged."""
        self.faults += 1
        self._parts.metrics.dropped(DropCause.WORKER_LOST)
        self._note_cause(Cause.ANALYSIS_FAILED, self._parts.clock())
        if self.faults == 1:
            log.warning(
                "session.frame_failed", stream=self.stream_id, why=type(error).__name__, detail=str(error)[:200]
            )

    async def _look_at(self, frame: Frame) -> Observation | None:
        clock, metrics = self._parts.clock, self._parts.metrics
        metrics.stage("decode", frame.decoded_at - frame.arrived_at)
        queued_at = clock()
        try:
            inspection = await self._parts.pool.inspect(
                frame, deadline_at=frame.decoded_at + self.settings.deadline_seconds
            )
        except FrameDropped as drop:
            metrics.dropped(_DROP_CAUSES[drop.cause])
            self._note_cause(_COVERAGE_CAUSES[drop.cause], clock())
            return None
        metrics.stage("analysis", clock() - queued_at)
        metrics.inspection(inspection)
        return Observation(
            stream_id=self.stream_id,
            session=self.session,
            sequence=frame.sequence,
            reason=frame.reason.value,
            arrived_at=frame.arrived_at,
            decoded_at=frame.decoded_at,
            scored_at=clock(),
            pts_seconds=frame.pts_seconds,
            is_corrupt=frame.is_corrupt,
            inspection=inspection,
        )

    async def _judge(self, observation: Observation) -> None:
        now = self._parts.clock()
        if observation.inspection.is_low_information:
            self._note_cause(Cause.LOW_INFORMATION, observation.arrived_at)
        else:
            self.last_sample_at = observation.arrived_at
            self._note_sight()
            self._ledger.sample(observation.arrived_at)
            self._note_cause(Cause.UNSAMPLED, observation.arrived_at)
        self._history, verdict = decide(self.settings.policy, self._history, observation)
        self.judged += 1
        self.decision_seconds = now - observation.arrived_at
        self._parts.metrics.frame_to_decision(self.decision_seconds)
        if verdict.weak_hit:
            await self._look_closer(now)
        if not verdict.signals:
            return
        self.last_action = verdict.action.word
        decision = Decision(
            stream_id=self.stream_id,
            session=self.session,
            observation=observation,
            action=verdict.action,
            is_live=verdict.is_live,
            signals=verdict.signals,
            votes=verdict.votes,
        )
        await self._parts.respond(self, decision)

    async def _look_closer(self, now: float) -> None:
        look = self.settings.closer_look
        was_close = self._closer_until - look.hold_seconds / 2 > now
        if was_close:
            return  # told already, and for long enough
        self._closer_until = now + look.hold_seconds
        await self._look_closer_again()

    async def _look_closer_again(self) -> None:
        """Tell the reader of now what its predecessor was told, so that a reader that dies forgets nothing."""
        if self._keeper is not None and self._closer_until > self._parts.clock():
            await self._keeper.look_closer(self.settings.closer_look.interval_seconds, self._closer_until)


def _errors(beat: Heartbeat | None) -> int:
    return 0 if beat is None else beat.decode_errors + beat.keyframes_without_picture
