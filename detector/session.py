"""One stream's life: a reader is kept running, its frames are analysed in order, and every second is accounted for."""

import asyncio
import contextlib
import math
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import SystemRandom

import structlog

from detector.analysis.pool import AnalysisPool
from detector.backoff import Pause, Reconnect
from detector.banks.incident import IncidentBank
from detector.blindness import BlindAlert, Record
from detector.blindness_telling import BlindnessTelling
from detector.coverage import Cause, Coverage
from detector.cpu.admission import Gate, OpenGate
from detector.cpu.metering import StreamMeter
from detector.cpu.rationing import Ration
from detector.end_telling import EndTelling
from detector.events import Decision, Observation, Step, StreamKey
from detector.instants import rfc3339
from detector.judging import Judge, JudgeParts
from detector.metrics import Metrics
from detector.policy import Verdict
from detector.publisher_times import PublisherTimes
from detector.reader_figures import ReaderFigures
from detector.reader_orders import ReaderOrders, Why
from detector.rendition_watch import RenditionWatch
from detector.session_settings import SessionSettings
from detector.sight import Sight
from detector.times_telling import tell_times
from streams.frame import Frame
from streams.job import SourceKind
from streams.keeper import (
    Keeper,
    ReaderCrashed,
    ReaderFailed,
    ReaderMisbehaved,
    ReaderStalled,
    SourceUnreachable,
)
from streams.nursery import Nursery, NurseryBroken
from streams.reach import reach
from streams.wire import Burst, EndCode, Ended, Heartbeat, Message, Opened

log = structlog.get_logger()

LAST_WORDS_SECONDS = 1.0
"""When a publisher has left, its reader may take so long to give the frames that it has."""

_FRESH_URL_AFTER = 3
"""After so many failures in a row the ingest server is asked anew where the stream is read."""


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What all sessions share."""

    nursery: Nursery
    pool: AnalysisPool
    metrics: Metrics
    respond: Callable[["StreamSession", Decision], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    gate: Gate = field(default_factory=OpenGate)
    incidents: IncidentBank | None = None
    judged: Callable[[Observation, Verdict], None] = lambda _observation, _verdict: None


class StreamSession:
    """Watches one stream until its publisher leaves (`leave`), or until it is cancelled.

    The publisher's session outlives readers: votes, coverage and the open incident go on when a reader is replaced.
    """

    def __init__(
        self,
        stream_id: str,
        key: StreamKey,
        settings: SessionSettings,
        parts: SessionParts,
        *,
        connection: str = "",
        record: Record | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.key = key
        self.connection = connection
        self.session = uuid.UUID(bytes=os.urandom(16), version=4).hex
        self.settings = settings
        self.locate: Callable[[], tuple[SourceKind, str]] | None = None
        """Asks the ingest server anew where the stream is read."""
        self._parts = parts
        self.started_at = parts.clock()
        self.since = rfc3339(time.time_ns() // 1_000_000)
        self.sight = Sight(self.started_at, settings.sight, record)
        self._blindness = BlindnessTelling(stream_id, self.sight, self._tell_blindness, parts.clock)
        self.meter = StreamMeter()
        self.orders = ReaderOrders(settings.job.sampling, parts.clock)
        self.risk = settings.rank.risk.tier
        """What frames are weighed by when there are too many for all, hints included."""
        self.trail = parts.incidents.follow(stream_id, self.session) if parts.incidents else None
        self.judge = Judge(
            stream_id,
            self.session,
            JudgeParts(
                parts.pool,
                parts.metrics,
                self.sight,
                lambda decision: parts.respond(self, decision),
                self._look_closer,
                self._blindness.moved,
                parts.clock,
                lambda: self.risk,
                self.meter.analysed,
                self.trail,
                parts.judged,
            ),
        )
        self.readers = 0
        self.figures = ReaderFigures(parts.metrics)
        self._rendition_watch = RenditionWatch(stream_id, parts.metrics, parts.clock)
        self.renditions = self._rendition_watch.renditions
        self.times = PublisherTimes()
        self.requests_refused = 0
        self._left_at: float | None = None
        self._reconnect = Reconnect(settings.reconnect, SystemRandom().random)
        self._end_telling = EndTelling(stream_id, parts.metrics)
        self._admitted = asyncio.Event()
        self._has_opened = False
        self._keeper: Keeper | None = None
        self._patience: asyncio.Timeout | None = None
        self._is_awaited = asyncio.Event()

    @property
    def state(self) -> str:
        """One word for operators."""
        return self.sight.state

    @property
    def code(self) -> str:
        """Why the last reader ended; empty while all is well."""
        return self.sight.code

    @property
    def opened(self) -> Opened | None:
        """What the latest reader found."""
        return self.sight.opened

    @property
    def last_sample_at(self) -> float | None:
        """Arrival of the latest analysed frame."""
        return self.sight.last_sample_at

    @property
    def last_packet_at(self) -> float | None:
        """Arrival of the latest packet."""
        return self.sight.last_packet_at

    @property
    def blind_since(self) -> float | None:
        """Since when the stream cannot be seen."""
        return self.sight.blindness.since_at

    @property
    def blind_cause(self) -> Cause:
        """Why it cannot be seen, or could not at last."""
        return self.sight.blindness.cause

    @property
    def is_left(self) -> bool:
        """Whether the publisher has left."""
        return self._left_at is not None

    @property
    def reader_pid(self) -> int | None:
        """The process number of the reader that works now."""
        return None if self._keeper is None else self._keeper.pid

    def coverage(self) -> Coverage:
        """The account up to now."""
        return self.sight.account(self._parts.clock())

    async def reconfigure(self, settings: SessionSettings) -> None:
        """Go by `settings` from now on: votes, coverage and the open incident go on, whatever changes.

        Policy, deadline and closer look hold for the next frame, and a reader that works is told of other sampling.
        Where the rest of the reader's job changes, a new reader takes over at once.
        """
        before, self.settings = self.settings, settings
        self.risk = max(self.risk, settings.rank.risk.tier)
        self._reconnect.settings = settings.reconnect
        self.sight.adjust(settings.sight)
        self._blindness.moved()
        is_told = await self.orders.ask(settings.job.sampling)
        if settings.job == before.job:
            return
        if is_told and replace(settings.job, sampling=before.job.sampling) == before.job:
            return
        self._is_awaited.set()  # ends a pause
        self._end_reader_at(asyncio.get_running_loop().time())

    async def give(self, ration: Ration) -> None:
        """Be looked at as closely as `ration` allows from now on, whatever the settings ask for."""
        self.sight.slowed(ration.slowed_to_seconds, self._parts.clock())
        await self.orders.give(ration)

    def start_with(self, ration: Ration) -> None:
        """Begin with `ration`; before there is a reader."""
        self.sight.slowed(ration.slowed_to_seconds, self._parts.clock())
        self.orders.ration = ration

    def refuse(self) -> None:
        """There is no CPU time to watch the stream; it waits until there is."""
        self.sight.refused(self._parts.clock())
        self._blindness.moved()

    def admit(self) -> None:
        """The stream is watched from now on."""
        self.sight.admitted(self._parts.clock())
        self._blindness.moved()
        self._admitted.set()

    def leave(self) -> None:
        """The publisher has left: judge what has come, then end. `run` returns within seconds."""
        if self._left_at is not None:
            return
        self._left_at = self._parts.clock()
        self._is_awaited.set()
        self._admitted.set()
        self._end_reader_at(asyncio.get_running_loop().time() + LAST_WORDS_SECONDS)

    def _end_reader_at(self, loop_time: float) -> None:
        if self._patience is not None and not self._patience.expired():  # else it is ending already
            self._patience.reschedule(loop_time)

    async def run(self) -> None:
        """Keep a reader on the stream, with growing pauses while it fails, until the publisher has left."""
        name = f"session[{self.stream_id}]"
        works = [
            asyncio.create_task(
                self.judge.run(lambda: self.settings.policy, lambda: self.settings.deadline_seconds),
                name=f"{name}.analysis",
            ),
            asyncio.create_task(self._blindness.run(lambda: self.is_left), name=f"{name}.blindness"),
        ]
        try:
            self._parts.gate.enter(self)
            await self._admitted.wait()
            while not self.is_left:
                begun_at = self._parts.clock()
                ending = await self._read_until_it_ends()
                if ending is not None and not self.is_left:
                    await self._wait(self._note_end(ending, begun_at))
                self._parts.metrics.reader_restarted()
            await self.judge.finish(self.settings.deadline_seconds)
        finally:
            self._parts.gate.leave(self)
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            self.sight.end(self._parts.clock() if self._left_at is None else self._left_at)

    async def _wait(self, pause: Pause) -> None:
        """Wait before the next reader, unless another one is wanted sooner."""
        if pause.is_quarantine:
            self.sight.quarantined(self._parts.clock())
            self._blindness.moved()
            log.warning("session.quarantined", stream=self.stream_id, seconds=pause.seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause.seconds):
                await self._is_awaited.wait()

    async def _read_until_it_ends(self) -> Ended | Exception | None:
        """Return how the reader ended; None where it was no longer wanted."""
        self._is_awaited.clear()
        self._has_opened = False
        try:
            async with asyncio.timeout(None) as self._patience:
                return await self._read()
        except TimeoutError:
            if self._patience is None or not self._patience.expired():
                raise
            return self._stalled()
        except (ReaderCrashed, ReaderStalled, ReaderMisbehaved, SourceUnreachable, NurseryBroken) as error:
            return error
        finally:
            self._keeper = self._patience = None
            self.orders.end()
            self.figures.ended()
            self.times.ended()
            self.meter.ended()
            self._parts.gate.arrived(self)

    def _stalled(self) -> Ended | None:
        beat = self.figures.last
        if beat is None or self.sight.quiet_seconds(beat) <= self.settings.job.read_timeout_seconds:
            return None
        return Ended(EndCode.TIMEOUT, math.nan, "no packet came in time")

    async def _read(self) -> Ended:
        if self.locate is not None and self._reconnect.failures >= _FRESH_URL_AFTER:
            kind, url = self.locate()
            self.settings = replace(self.settings, job=replace(self.settings.job, kind=kind, url=url))
        told = self.orders.sampling
        async with (
            reach(replace(self.settings.job, sampling=told), self._note_refused_request, self.renditions) as reached,
            Keeper(self._parts.nursery, reached.job, reached.media_fd) as keeper,
        ):
            self._keeper = keeper
            self.readers += 1
            await self.orders.begin(keeper, told)
            async for message in keeper.messages():
                if isinstance(message, Ended):
                    return message
                await self._take(message)
                self._blindness.moved()
        return Ended(EndCode.INTERNAL, math.nan, "the reader ended without a word")

    def _note_refused_request(self) -> None:
        """A playlist named another server: an honest one may, a hostile one does. Only the first is logged."""
        self.requests_refused += 1
        self._parts.metrics.request_refused()
        if self.requests_refused == 1:
            log.warning("session.request_refused", stream=self.stream_id)

    async def _take(self, message: Message) -> None:
        match message:
            case Opened():
                self._has_opened = True
                self.sight.source_opened(message, self._parts.clock())
                log.info(
                    "session.opened",
                    stream=self.stream_id,
                    codec=message.codec,
                    width=message.width,
                    height=message.height,
                )
                self._rendition_watch.opened()
                await self.orders.opened()
                self._parts.gate.arrived(self)
            case Frame():
                self._parts.metrics.sample(message.reason)
                self.sight.frame_came(message)
                self.judge.take(message)
            case Burst():
                for frame in message.frames:
                    self._parts.metrics.sample(frame.reason)
                    self.sight.frame_came(frame)
                self.judge.take_together(message.frames)
            case Heartbeat():
                self._note_heartbeat(message)
            case _:
                pass

    def _note_heartbeat(self, beat: Heartbeat) -> None:
        self.figures.beat(beat)
        tell_times(self.stream_id, self.times, beat, self._parts.metrics)
        self.meter.beat(beat, self.orders.ration, is_close=self.orders.is_close)
        self.sight.beat(beat)
        if self.sight.quiet_seconds(beat) > self.settings.job.read_timeout_seconds and not self.is_left:
            self._end_reader_at(asyncio.get_running_loop().time())
        elif self._rendition_watch.is_stuck(self.blind_since, self.blind_cause) and not self.is_left:
            self.renditions.failed()
            self._end_reader_at(asyncio.get_running_loop().time())

    def _note_end(self, ending: Ended | Exception, begun_at: float) -> Pause:
        """Write down how a reader ended, and say how long to wait for the next."""
        now = self._parts.clock()
        has_pictured = self._has_opened and self.sight.has_pictures
        self.renditions.failed()
        self.sight.reader_ended(ending, now)
        self._blindness.moved()
        self._end_telling.tell(ending, self.sight.code, now, is_news=has_pictured)
        # A container that began without video may carry some at any moment: who opens it anew sees it.
        is_waiting = isinstance(ending, Ended) and ending.code is EndCode.NO_VIDEO
        return self._reconnect.lost(
            now,
            worked_seconds=now - begun_at,
            is_crash=isinstance(ending, ReaderFailed),
            has_pictured=has_pictured,
            longest_seconds=self.settings.job.sampling.detect_within_seconds if is_waiting else None,
        )

    async def _tell_blindness(self, alert: BlindAlert) -> None:
        decision = Decision(
            stream_id=self.stream_id,
            session=self.session,
            observation=None,
            action=alert.step,
            is_live=self.settings.policy.live or alert.step < Step.CUT,
            signals=(alert.signal,),
            votes=(1, 1),
        )
        await self._parts.respond(self, decision)

    # The closer look

    async def _look_closer(self) -> None:
        now, look = self._parts.clock(), self.settings.closer_look
        if self.orders.until(Why.WEAK_HIT) - look.hold_seconds / 2 <= now:  # else told already, and for long enough
            await self.orders.look(Why.WEAK_HIT, look.interval_seconds, now + look.hold_seconds)
