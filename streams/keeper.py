"""The service's handle on one reader: starts it, believes nothing it says unchecked, ends it when it stalls or lies."""

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from streams import wire
from streams.address import SourceUnreachable, resolve
from streams.frame import Frame
from streams.heartbeat_faults import heartbeat_fault
from streams.job import Job
from streams.messages import Adjust, Burst, Ended, Heartbeat, LookCloser, Opened, Order
from streams.nursery import Child, Nursery, NurseryBroken
from streams.sampling import SamplingSettings
from streams.wire import WireError

__all__ = [
    "Child",
    "Keeper",
    "Nursery",
    "NurseryBroken",
    "ReaderCrashed",
    "ReaderFailed",
    "ReaderMisbehaved",
    "ReaderStalled",
    "SourceUnreachable",
    "resolve",
]

Report = Opened | Frame | Burst | Heartbeat | Ended
"""What a reader may say."""

START_SECONDS = 5.0
"""How long a new reader may take to its first message."""

SILENCE_SECONDS = 2.0
"""How long a reader may be silent; it sends a heartbeat each half second, whatever its decoder does."""

WORK_SECONDS = 5.0
"""How long a reader may work on what it has got."""

CLOCK_SLACK_SECONDS = 1.0
OLDEST_SECONDS = 60.0
"""What a live reader says may lie this far in the future, and this far in the past."""

HEARTBEATS_PER_SECOND = 10
FRAMES_PER_SECOND = 120
FRAMES_PER_SECOND_AND_MORE_TRACK = 40
FLOOD_CREDIT_SECONDS = 10
"""More than this many messages a second, beyond the credit, are a flood. Frames of files are taken as they come."""

MAX_BURSTS_WAITING = 2
"""So many bursts wait for a consumer that falls behind; the next ones are left out, and their frames counted."""

_EXIT_SECONDS = 1.0


class ReaderFailed(Exception):
    """A reader ended without its last word; it is dead, and what it said before was delivered."""


class ReaderCrashed(ReaderFailed):
    """Raised by `Keeper.messages`: the reader's process ended. `status` is its wait status."""

    def __init__(self, status: int) -> None:
        self.status = status
        code = os.waitstatus_to_exitcode(status)
        super().__init__(f"the reader {f'exited with {code}' if code >= 0 else f'was ended by {_signal_name(-code)}'}")


class ReaderStalled(ReaderFailed):
    """Raised by `Keeper.messages`: the reader was silent, or worked on one thing, for too long, and was killed."""


class ReaderMisbehaved(ReaderFailed):
    """Raised by `Keeper.messages`: the reader said what no reader says, and was killed. Nothing of it was used."""


class Keeper:
    """One reader at work. `async with Keeper(nursery, job) as keeper` starts it and ends it, at once, by SIGKILL.

    `media_fd` is the open file for a job of kind FILE; the caller keeps its own. A consumer of `messages()` that falls
    behind loses frames of a live stream: one of each track and sample reason waits, a newer one takes its place and
    `replaced_frames` counts. Nothing takes the place of a burst. With `job.live` False nothing is lost: the reader
    waits.
    """

    def __init__(self, nursery: Nursery, job: Job, media_fd: int | None = None) -> None:
        self.replaced_frames = 0
        self.last_heartbeat: Heartbeat | None = None
        self._nursery = nursery
        self._job = job
        self._media_fd = media_fd
        self._child: Child | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[object, Report] = {}  # oldest first
        self._changed = asyncio.Condition()
        self._failure: ReaderFailed | None = None
        self._checker = _Checker(job, started_at=time.monotonic())
        self._resumed_at = 0.0
        self._is_over = False

    async def __aenter__(self) -> Self:
        """Start the reader and tell it its job; raises `NurseryBroken`."""
        self._child = await self._nursery.spawn(self._media_fd)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # dead already: messages() will say so
                async with asyncio.timeout(START_SECONDS):
                    await asyncio.get_running_loop().sock_sendall(self._child.socket, wire.pack(self._job))
        except TimeoutError:  # it does not read: messages() will say so
            pass
        except BaseException:
            self._child.release()
            raise
        self._reading = asyncio.create_task(self._read(self._child), name=f"keeper[{self._child.pid}].read")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the reader and release everything."""
        assert self._child is not None
        assert self._reading is not None
        self._child.kill()
        self._reading.cancel()
        try:
            await asyncio.wait([self._reading])
        finally:
            await self._child.close()
        if not self._reading.cancelled():
            self._reading.result()

    @property
    def pid(self) -> int:
        """The reader's process number."""
        assert self._child is not None
        return self._child.pid

    async def messages(self) -> AsyncIterator[Report]:
        """Yield what the reader says, checked, up to and including its one `Ended`.

        Raises `ReaderCrashed`, `ReaderStalled` or `ReaderMisbehaved` in place of an `Ended`, when everything that came
        before was delivered. Frames come in the order in which they were sampled unless some were replaced.
        """
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting or self._is_over)
                if not self._waiting:
                    if self._failure is not None:
                        raise self._failure
                    return
                message = self._waiting.pop(next(iter(self._waiting)))
                self._changed.notify_all()
            yield message
            if isinstance(message, Ended):
                return

    async def look_closer(self, interval_seconds: float, until: float) -> bool:
        """Have the reader decode through and sample every `interval_seconds` until `until` (monotonic).

        Return False if the reader could not be told: it is gone or does not listen, which `messages` reports.
        """
        return self._tell(LookCloser(interval_seconds, until))

    async def adjust(self, sampling: SamplingSettings) -> bool:
        """Have the reader sample by `sampling` from the next packet on; a closer look that goes on is not ended.

        Return False if the reader could not be told, as with `look_closer`. A scan keeps to its job.
        """
        return self._tell(Adjust(sampling))

    def _tell(self, order: Order) -> bool:
        assert self._child is not None
        try:
            self._child.socket.send(wire.pack(order))
        except OSError:  # full, or broken, or closed already
            return False
        return True

    async def _read(self, child: Child) -> None:
        try:
            await self._read_all(child)
        except ReaderFailed as failure:
            child.kill()
            self._failure = failure
        finally:
            async with self._changed:
                self._is_over = True
                self._changed.notify_all()

    async def _read_all(self, child: Child) -> None:
        seconds = START_SECONDS
        while True:
            message = await _receive(child, _Patience(seconds))
            if message is None:
                raise await _verdict(child)
            self._checker.check(message, time.monotonic())
            await self._offer(message)
            if isinstance(message, Ended):
                child.kill()
                return
            if isinstance(message, Heartbeat):
                self._check_progress(message)
            seconds = SILENCE_SECONDS
            await asyncio.sleep(0)  # a reader that floods gets no more turns than the others

    async def _offer(self, message: Report) -> None:
        """Put `message` where `messages()` finds it; wait for room if nothing may be lost."""
        slot: object = type(message)
        async with self._changed:
            if isinstance(message, Frame):
                slot = message.track, message.reason
                if not self._job.live:
                    await self._wait_for_room()
                elif slot in self._waiting:
                    self.replaced_frames += 1
            elif isinstance(message, Burst):
                slot = object()
                if sum(isinstance(each, Burst) for each in self._waiting.values()) >= MAX_BURSTS_WAITING:
                    self.replaced_frames += len(message.frames)
                    return
            elif isinstance(message, Heartbeat):
                self.last_heartbeat = message
            self._waiting[slot] = message
            self._changed.notify_all()

    async def _wait_for_room(self) -> None:
        if any(isinstance(message, Frame) for message in self._waiting.values()):
            await self._changed.wait_for(lambda: not any(isinstance(m, Frame) for m in self._waiting.values()))
            self._resumed_at = time.monotonic()

    def _check_progress(self, heartbeat: Heartbeat) -> None:
        """Time in which nobody took what the reader had does not count."""
        if math.isnan(heartbeat.working_since):
            return
        seconds = time.monotonic() - max(heartbeat.working_since, self._resumed_at)
        if seconds > WORK_SECONDS:
            raise ReaderStalled(f"the reader worked on one thing for {seconds:.1f} s")


class _Checker:
    """Whether what a reader says can be: the order of its messages, and its times on the shared monotonic clock."""

    def __init__(self, job: Job, *, started_at: float) -> None:
        self._is_live = job.live
        self._speed = job.speed
        self._started_at = started_at
        self._is_open = False
        self._tracks = 1
        self._last_sequence = -1
        self._beat: Heartbeat | None = None
        self._heartbeats = 0
        self._frames = 0

    def check(self, message: Report, now: float) -> None:
        """Raise `ReaderMisbehaved` if it cannot."""
        self._count(message, now)
        match message:
            case Opened():
                if self._is_open:
                    raise ReaderMisbehaved("the reader opened its source twice")
                self._is_open = True
                self._tracks = message.video_tracks
            case Frame():
                self._check_frame(message, now)
            case Burst():
                if not self._is_live:
                    raise ReaderMisbehaved("the reader of a file that is scanned sent a burst")
                for frame in message.frames:
                    self._check_frame(frame, now)
            case Heartbeat():
                self._check_moment(message.sent_at, now)
                if message.last_packet_at > now + CLOCK_SLACK_SECONDS:
                    raise ReaderMisbehaved("the reader has seen a packet from the future")
                if fault := heartbeat_fault(self._beat, message, (now - self._started_at) * self._speed):
                    raise ReaderMisbehaved(f"the reader's heartbeat tells of {fault}")
                self._beat = message

    def _count(self, message: Report, now: float) -> None:
        """A reader may catch up after a pause, but not take the service's time from the others."""
        seconds = (FLOOD_CREDIT_SECONDS + now - self._started_at) * self._speed
        self._heartbeats += isinstance(message, Heartbeat)
        if self._is_live:
            self._frames += len(message.frames) if isinstance(message, Burst) else isinstance(message, Frame)
        frames_per_second = FRAMES_PER_SECOND + (self._tracks - 1) * FRAMES_PER_SECOND_AND_MORE_TRACK
        if self._heartbeats > HEARTBEATS_PER_SECOND * seconds or self._frames > frames_per_second * seconds:
            raise ReaderMisbehaved("the reader floods the service with messages")

    def _check_frame(self, frame: Frame, now: float) -> None:
        if not self._is_open:
            raise ReaderMisbehaved("the reader sent a frame before it opened its source")
        if frame.sequence <= self._last_sequence:
            raise ReaderMisbehaved("the reader sent frames out of order")
        if frame.track >= self._tracks:
            raise ReaderMisbehaved("the reader sent a frame of a track that its source does not have")
        self._last_sequence = frame.sequence
        self._check_moment(frame.decoded_at, now)
        if self._is_live:
            self._check_moment(frame.arrived_at, now)
            if frame.arrived_at > frame.decoded_at:
                raise ReaderMisbehaved("the reader decoded a frame before it arrived")

    def _check_moment(self, moment: float, now: float) -> None:
        if moment > now + CLOCK_SLACK_SECONDS or (self._is_live and moment < now - OLDEST_SECONDS):
            raise ReaderMisbehaved(f"the reader's clock is {moment - now:+.1f} s off")


class _Patience:
    """Time for one message, and as much again if bytes came late: then it may have been the service that slept."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends_at = asyncio.get_running_loop().time() + seconds
        self._is_extended = False

    def is_over(self) -> bool:
        """Say whether the reader had its time."""
        return asyncio.get_running_loop().time() >= self.ends_at

    def extend(self) -> None:
        """Grant the second helping, once."""
        if not self._is_extended and self.is_over():
            self._is_extended = True
            self.ends_at = asyncio.get_running_loop().time() + self.seconds


async def _receive(child: Child, patience: _Patience) -> Report | None:
    """Return the next message, or None at the end of the socket."""
    header = bytearray(wire.HEADER.size)
    if not await _fill(child, header, patience):
        return None
    try:
        kind, length = wire.parse_header(bytes(header))
        body = bytearray(length)
        if not await _fill(child, body, patience):
            return None
        message = wire.parse_body(kind, bytes(body))
    except WireError as error:
        raise ReaderMisbehaved(f"the reader broke the protocol: {error}") from error
    if isinstance(message, Job | LookCloser | Adjust):
        raise ReaderMisbehaved("the reader gave orders")
    return message


async def _fill(child: Child, buffer: bytearray, patience: _Patience) -> bool:
    """Fill `buffer` from the child's socket; return False at its end; raise `ReaderStalled` when patience is over."""
    rest = memoryview(buffer)
    while rest:
        try:
            count = child.socket.recv_into(rest)
        except BlockingIOError:
            if patience.is_over():
                raise ReaderStalled(f"the reader was silent for {patience.seconds:.0f} s") from None
            await _readable_or_late(child.socket.fileno(), patience.ends_at)
            continue
        except ConnectionResetError:
            return False
        if count == 0:
            return False
        patience.extend()
        rest = rest[count:]
    return True


async def _readable_or_late(descriptor: int, loop_time: float) -> None:
    """Return when `descriptor` can be read, at `loop_time` at the latest; what arrived is seen by the next turn.

    Every message of every reader comes through here: an event and a timeout would cost twice what the waiting does.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not waiter.done():
            waiter.set_result(None)

    loop.add_reader(descriptor, end)
    timer = loop.call_at(loop_time, end)
    try:
        await waiter
    finally:
        timer.cancel()
        loop.remove_reader(descriptor)


async def _verdict(child: Child) -> ReaderFailed:
    """Say why the socket closed without a last word."""
    try:
        async with asyncio.timeout(_EXIT_SECONDS):
            return ReaderCrashed(await child.wait())
    except TimeoutError:
        return ReaderMisbehaved("the reader closed its socket and lived on")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
