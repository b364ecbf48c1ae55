"""One input looked at with the service's reader, models and policy: detections, and an account of every second."""

import asyncio
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from detector.analysis.pool import AnalysisPool, FrameDropped
from detector.config.config import CloserLook, Config
from detector.coverage import Cause, Coverage, Ledger
from detector.events import Observation, Signal, Step
from detector.media_files import Medium, MediumUnreadable, reading
from detector.policy import History, PolicySettings, Verdict, decide, for_pictures
from models.evidence import Inspection
from models.hashing.scenes import Look
from models.hashing.view_plan import QUARTERS
from streams.frame import MAX_TRACKS, Frame, SampleReason
from streams.job import Job
from streams.keeper import Keeper, Nursery, ReaderCrashed, ReaderFailed, ReaderStalled, SourceUnreachable
from streams.nursery import NurseryBroken
from streams.wire import Burst, EndCode, Ended, Heartbeat, Opened

FRAMES_AT_ONCE = 4
"""Frames of one input that are analysed at the same time; they are judged in their order."""

_PATIENCE_SECONDS = 60.0
"""How long a frame of a file may wait for analysis: nobody waits for a file."""

ENOUGH = "enough"
"""What a look ended with that saw what it was to find: the rest of the input was not looked at."""

TOO_LATE = "deadline"
"""What a look ended with whose time was over before the input was."""

Tell = Callable[[dict[str, Any]], None]


class Inspects(Protocol):
    """Who analyses frames, as `detector.analysis.pool.AnalysisPool` does."""

    async def inspect(self, frame: Frame, *, deadline_at: float, look: Look | None) -> Inspection:
        """Return what is in `frame`; raise `FrameDropped` if it could not be looked at by `deadline_at` (monotonic)."""
        ...


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """How to look. `job` says how a reader reads; with `job.live` an input is sampled like a live stream.

    `soften` has the last word on each signal. The look ends with the first signal of step `until`, if one is given, and
    whatever was found at `ends_at` (monotonic).
    """

    job: Job
    policy: PolicySettings
    closer_look: CloserLook
    live_deadline_seconds: float
    soften: Callable[[Signal], Signal] = lambda signal: signal
    until: Step | None = None
    ends_at: float = math.inf


def half_a_look(config: Config, pool: AnalysisPool) -> list[str]:
    """One sentence for each list or model that cannot be used: it would make clean what is not."""
    state = pool.state()
    missing = set(config.banks) - (state.banks.keys() if state else set())
    return pool.problems() or [
        f"bank {name} of the config does not exist; make it with 'stopframe hashes add {name} FILE'"
        for name in sorted(missing)
    ]


@dataclass(slots=True)
class _Account:
    """Samples and causes as they come; the ledger is made when the end is known, so that it adds up to it exactly."""

    usual_cause: Cause
    samples: list[float] = field(default_factory=list)
    causes: list[tuple[float, Cause]] = field(default_factory=list)

    def sample(self, at: float) -> None:
        self.samples.append(at)
        self.cause(at, self.usual_cause)

    def cause(self, at: float, cause: Cause) -> None:
        if not self.causes or self.causes[-1][1] is not cause:
            self.causes.append((at, cause))

    def shown_until(self, duration: float, detect_within_seconds: float) -> float:
        """When a track of a file of `duration` ended: what is not decoded leaves no shorter track than this."""
        last = max(self.samples, default=duration)
        return duration if duration - last <= detect_within_seconds else last

    def close(self, duration: float, detect_within_seconds: float, first_cause: Cause) -> Coverage:
        ledger = Ledger(0.0, detect_within_seconds, first_cause)
        told = [(at, None) for at in self.samples] + [(at, cause) for at, cause in self.causes]
        for at, cause in sorted(told, key=lambda one: (one[0], one[1] is not None)):
            moment = min(max(at, 0.0), duration)
            if cause is None:
                ledger.sample(moment)
            else:
                ledger.cause(cause, moment)
        return ledger.end(duration)


class MediumLook:
    """One input being looked at: `read` it once, then ask for its `summary`; `tell` gets detections as they come."""

    def __init__(self, medium: Medium, pool: Inspects, settings: ScanSettings, tell: Tell) -> None:
        self.has_found = False
        self.frames_not_analysed = 0
        self.frames_analysed = 0
        self.fault_detail = ""
        self._medium = medium
        self._pool = pool
        self._settings = settings
        self._tell = tell
        self._is_live = settings.job.live
        self._policy = settings.policy
        self._histories: defaultdict[int, History] = defaultdict(History)
        self._waiting: deque[tuple[Frame, asyncio.Task[Inspection]]] = deque()
        self._keeper: Keeper | None = None
        self._opened_at: float | None = None
        self._first_cause = Cause.NO_KEYFRAME if self._is_live else Cause.DECODE_ERRORS
        self._accounts: dict[int, _Account] = {}
        self._account(0)
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._cpu_seconds = 0.0
        self._decode_errors = 0
        self._requests_refused = 0
        self._closer_until = -math.inf
        self._has_enough = False
        self._ended: Ended | None = None

    async def read(self, nursery: Nursery) -> tuple[str, str | None]:
        """Read to the end; returns the code it ended with, and a sentence if that was not the input's own end."""
        job = replace(self._settings.job, whole=not self._is_live)
        try:
            async with reading(nursery, job, self._medium, self._note_refused_request) as keeper:
                self._keeper = keeper
                return await self._follow(keeper)
        except MediumUnreadable as error:
            return error.code, str(error)
        except SourceUnreachable as error:
            return "unreachable", str(error)
        except NurseryBroken as error:
            return "no_reader", str(error)
        finally:
            for _, task in self._waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in self._waiting), return_exceptions=True)

    def what_was_not_seen(self, code: str) -> tuple[str, str | None]:
        """A file with a hole in it was not read, however well the rest was."""
        if code == ENOUGH:
            return code, None
        blind = 0.0 if self._is_live else self._coverage().blind_seconds
        return (code, None) if blind <= 0 else ("decode_errors", f"{blind:.1f} s of it could not be decoded")

    def _account(self, track: int) -> _Account:
        usual_cause = Cause.UNSAMPLED if self._is_live else Cause.DECODE_ERRORS
        return self._accounts.setdefault(track, _Account(usual_cause))

    def _coverage(self) -> Coverage:
        """The account of the track that was seen least: any of them may be what is watched."""
        return max(map(self._coverage_of, self._accounts.values()), key=lambda one: (one.blind_ns, one.skipped_ns))

    def _coverage_of(self, account: _Account) -> Coverage:
        within, end = self._settings.job.sampling.detect_within_seconds, self._seconds
        if not self._is_live and len(self._accounts) > 1:
            end = account.shown_until(end, within)
        coverage = account.close(end, within, self._first_cause)
        rest_ns = round((self._seconds - end) * 1e9)  # a track that ended before the others has shown all it had
        return replace(coverage, alive_ns=coverage.alive_ns + rest_ns, seen_ns=coverage.seen_ns + rest_ns)

    def summary(self, code: str, fault: str | None) -> dict[str, Any]:
        """The account of the input, in the form in which it is printed."""
        account = self._coverage()
        coverage: dict[str, Any] = {
            "seen_s": round(account.seen_seconds, 6),
            "skipped_s": round(account.skipped_seconds, 6),
            "blind_s": round(account.blind_seconds, 6),
        }
        causes = {cause.value: round(ns / 1e9, 6) for cause, ns in account.by_cause_ns.items() if ns}
        if causes:
            coverage["causes"] = causes
        told: dict[str, Any] = {
            "media": self._medium.name,
            "coverage": coverage,
            "frames": dict(sorted(self._counts.items())),
            "cpu_s": round(self._cpu_seconds, 3),
        }
        if self._decode_errors:
            told["decode_errors"] = self._decode_errors
        if self._requests_refused:
            told["requests_refused"] = self._requests_refused
        return told if fault is None else {**told, "error": {"code": str(code), "message": fault}}

    def _note_refused_request(self) -> None:
        self._requests_refused += 1

    async def _follow(self, keeper: Keeper) -> tuple[str, str | None]:
        failure: ReaderFailed | None = None
        is_late = False
        try:
            async with asyncio.timeout(_seconds_to(self._settings.ends_at)):
                failure = await self._take_all(keeper)
        except TimeoutError:
            is_late = True
            self._give_up_waiting()
        if keeper.last_heartbeat is not None:
            self._note(keeper.last_heartbeat)
        ended = self._ended
        self._seconds = self._duration(ended)
        if self._has_enough:
            return ENOUGH, None
        if is_late:
            return TOO_LATE, "was not looked at to its end: the time for that was over"
        if ended is None:
            for told in self._accounts.values():
                told.cause(self._seconds, Cause.READER_FAILED)
            return _failure_code(failure), f"could not be read to its end: {failure}"
        self.fault_detail = ended.detail
        if ended.code is EndCode.END_OF_STREAM and self._opened_at is not None:
            return ended.code, None
        return ended.code, f"could not be read: {ended.detail or ended.code}"

    async def _take_all(self, keeper: Keeper) -> ReaderFailed | None:
        """Take and judge what the reader says, until it has said its last word or enough is found."""
        failure = None
        try:
            async for message in keeper.messages():
                if isinstance(message, Ended):
                    self._ended = message
                else:
                    await self._take(message)
                if self._has_enough:
                    break
        except ReaderFailed as error:
            failure = error
        while self._waiting and not self._has_enough:
            await self._judge_oldest()
        return failure

    def _note(self, last: Heartbeat) -> None:
        self._cpu_seconds += last.cpu_seconds
        self._decode_errors = last.decode_errors
        for track in range(MAX_TRACKS):
            if last.tracks_heard >> track & 1:
                self._account(track)  # one that came and gave no frame was not seen

    def _duration(self, ended: Ended | None) -> float:
        """Seconds on the media's clock, or on ours for a stream that has none."""
        if SampleReason.PICTURE in self._counts:
            return 0.0
        if ended is not None and math.isfinite(ended.media_end_seconds):
            return max(0.0, ended.media_end_seconds)
        if self._is_live and self._medium.url is not None and self._opened_at is not None:
            return time.monotonic() - self._opened_at
        return max((at for account in self._accounts.values() for at in account.samples), default=0.0)

    async def _take(self, message: Opened | Frame | Burst | Heartbeat) -> None:
        if isinstance(message, Opened):
            self._opened_at = time.monotonic()
        elif isinstance(message, Frame):
            await self._take_frame(message)
        elif isinstance(message, Burst):
            for frame in message.frames:
                await self._take_frame(frame)

    async def _take_frame(self, frame: Frame) -> None:
        self._counts[frame.reason.value] += 1
        is_picture = frame.reason is SampleReason.PICTURE
        if is_picture:
            self._policy = for_pictures(self._settings.policy)
        patience = self._settings.live_deadline_seconds if self._is_live and not is_picture else _PATIENCE_SECONDS
        # Nothing is told of other frames, and of a recording nothing left out for the time it takes: a second scan of
        # the same medium looks at the same views.
        free = None if self._is_live else math.inf
        look = None if is_picture else Look(turn=frame.sequence % QUARTERS, saved_seconds=free)
        work = self._pool.inspect(frame, deadline_at=time.monotonic() + patience, look=look)
        self._waiting.append((frame, asyncio.create_task(work, name=f"scan.inspect[{frame.sequence}]")))
        if len(self._waiting) >= FRAMES_AT_ONCE:
            await self._judge_oldest()

    def _give_up_waiting(self) -> None:
        for frame, _ in self._waiting:
            self.frames_not_analysed += 1
            self._account(frame.track).cause(self._media_seconds(frame), Cause.STALE)

    async def _judge_oldest(self) -> None:
        frame, task = self._waiting[0]
        at, account = self._media_seconds(frame), self._account(frame.track)
        try:
            inspection = await task
        except FrameDropped as drop:
            self._waiting.popleft()
            self.frames_not_analysed += 1
            account.cause(at, Cause.STALE if drop.cause == "stale" else Cause.ANALYSIS_FAILED)
            return
        self._waiting.popleft()
        self.frames_analysed += 1
        self._cpu_seconds += sum(inspection.stage_seconds.values())
        if inspection.is_low_information:
            account.cause(at, Cause.LOW_INFORMATION)
        else:
            account.sample(at)
        history, observation = self._histories[frame.track], self._observation(frame, inspection)
        self._histories[frame.track], verdict = decide(self._policy, history, observation)
        for signal in map(self._settings.soften, verdict.signals):
            self.has_found = True
            self._has_enough |= self._settings.until is not None and signal.step >= self._settings.until
            self._tell(self._detection(signal, at, frame.track))
        await self._look_closer(verdict)

    async def _look_closer(self, verdict: Verdict) -> None:
        look, now = self._settings.closer_look, time.monotonic()
        if not self._is_live or not verdict.weak_hit or self._closer_until - look.hold_seconds / 2 > now:
            return
        assert self._keeper is not None
        self._closer_until = now + look.hold_seconds
        await self._keeper.look_closer(look.interval_seconds, self._closer_until)

    def _media_seconds(self, frame: Frame) -> float:
        if frame.reason is SampleReason.PICTURE:
            return 0.0
        if self._is_live:
            assert self._opened_at is not None
            return max(0.0, frame.arrived_at - self._opened_at)
        return frame.arrived_at

    def _observation(self, frame: Frame, inspection: Inspection) -> Observation:
        return Observation(
            stream_id=self._medium.name,
            session="scan",
            sequence=frame.sequence,
            reason=frame.reason.value,
            arrived_at=frame.arrived_at,
            decoded_at=frame.decoded_at,
            scored_at=time.monotonic(),
            pts_seconds=frame.pts_seconds,
            is_corrupt=frame.is_corrupt,
            inspection=inspection,
        )

    def _detection(self, signal: Signal, at: float, track: int) -> dict[str, Any]:
        told: dict[str, Any] = {"media": self._medium.name, "time_s": round(at, 3), "signal": signal.kind}
        if signal.kind in ("hash", "sequence"):
            told |= {"bank": signal.bank, "entry": signal.entry, "hash": signal.name, "distance": signal.distance}
        else:
            model, _, label = signal.name.partition("/")
            told |= {"model": model, "label": label, "score": round(signal.score or 0.0, 4)}
        if signal.frames is not None:
            told["frames"] = signal.frames
        if track:
            told["track"] = track
        return {**told, "view": signal.view or "identity", "decision": signal.step.word}


def _seconds_to(at: float) -> float | None:
    return None if math.isinf(at) else max(0.0, at - time.monotonic())


def _failure_code(failure: ReaderFailed | None) -> str:
    match failure:
        case ReaderCrashed():
            return "reader_crashed"
        case ReaderStalled():
            return "reader_stalled"
        case _:
            return "reader_misbehaved"
