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
from streams.conversation import Conversation, Report, listen
from streams.frame import Frame, shaped_bytes
from streams.job import Job
from streams.messages import Adjust, Burst, Ended, Heartbeat, LookCloser, Order
from streams.nursery import Child, Nursery, NurseryBroken
from streams.report_checks import Checker, ReaderFailed, ReaderMisbehaved
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

START_SECONDS = 5.0
"""How long a new reader may take to its first message."""

SILENCE_SECONDS = 2.5
"""How long a reader may be silent; it sends a heartbeat each second, whatever its decoder does."""

WORK_SECONDS = 5.0
"""How long a reader may work on what it has got."""

MAX_BURSTS_WAITING = 2
"""So many bursts wait for a consumer that falls behind; the next ones are left out, and their frames counted."""

_EXIT_SECONDS = 1.0


class ReaderCrashed(ReaderFailed):
    """Raised by `Keeper.messages`: the reader's process ended. `status` is its wait status."""

    def __init__(self, status: int) -> None:
        self.status = status
        code = os.waitstatus_to_exitcode(status)
        super().__init__(f"the reader {f'exited with {code}' if code >= 0 else f'was ended by {_signal_name(-code)}'}")


class ReaderStalled(ReaderFailed):
    """Raised by `Keeper.messages`: the reader was silent, or worked on one thing, for too long, and was killed."""


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
        self._conversation: Conversation | None = None
        self._waiting: dict[object, Report] = {}  # oldest first
        self._waiter: asyncio.Future[None] | None = None
        self._failure: ReaderFailed | None = None
        self._checker = Checker(job, started_at=time.monotonic())
        self._resumed_at = 0.0
        self._is_over = False
        self._has_ended = False

    async def __aenter__(self) -> Self:
        """Start the reader and tell it its job; raises `NurseryBroken`."""
        self._child = await self._nursery.spawn(self._media_fd)
        try:
            # A reader that is dead, or does not read, is what messages() will tell of.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    await asyncio.get_running_loop().sock_sendall(self._child.socket, wire.pack(self._job))
            most = shaped_bytes(self._job.shaped_short, self._job.shaped_long)
            self._conversation = await listen(self._child, self, START_SECONDS, SILENCE_SECONDS, most)
        except BaseException:
            self._child.release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the reader and release everything."""
        assert self._child is not None
        assert self._conversation is not None
        self._conversation.close()
        self._is_over = True
        self._waiting.clear()  # nobody takes these frames any more
        await self._child.close()

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
            while not self._waiting and not self._is_over:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            if not self._waiting:
                await self._fail_without_last_word()
                return
            message = self._waiting.pop(next(iter(self._waiting)))
            self._make_room()
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

    # What the conversation tells

    def heard(self, message: Report) -> bool:
        """As `Listener`."""
        assert self._child is not None
        self._checker.check(message, time.monotonic())
        self._offer(message)
        if isinstance(message, Heartbeat):
            self.last_heartbeat = message
            self._check_progress(message)
        self._has_ended = isinstance(message, Ended)
        if self._has_ended:
            self._child.kill()
        return not self._has_ended

    def ended(self, error: Exception | None) -> None:
        """As `Listener`."""
        if isinstance(error, WireError):
            self._failure = ReaderMisbehaved(f"the reader broke the protocol: {error}")
        elif isinstance(error, ReaderFailed):
            self._failure = error
        elif error is not None:
            raise error
        self._stop()

    def silent(self, seconds: float) -> None:
        """As `Listener`."""
        assert self._conversation is not None
        self._failure = ReaderStalled(f"the reader was silent for {seconds:g} s")
        self._conversation.close()
        self._stop()

    def _stop(self) -> None:
        assert self._child is not None
        if self._failure is not None:
            self._child.kill()
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _fail_without_last_word(self) -> None:
        """Raise what ended the reader, unless that was its last word."""
        if self._has_ended:
            return
        assert self._child is not None
        if self._failure is None:
            self._failure = await _verdict(self._child)
            self._child.kill()
        raise self._failure

    def _offer(self, message: Report) -> None:
        """Put `message` where `messages()` finds it; read no more until there is room if nothing may be lost."""
        slot: object = type(message)
        if isinstance(message, Frame):
            slot = message.track, message.reason
            if not self._job.live:
                slot = message.sequence
                assert self._conversation is not None
                self._conversation.pause()
            elif slot in self._waiting:
                self.replaced_frames += 1
        elif isinstance(message, Burst):
            slot = object()
            if sum(isinstance(each, Burst) for each in self._waiting.values()) >= MAX_BURSTS_WAITING:
                self.replaced_frames += len(message.frames)
                return
        self._waiting[slot] = message
        self._wake()

    def _make_room(self) -> None:
        if self._job.live or any(isinstance(message, Frame) for message in self._waiting.values()):
            return
        assert self._conversation is not None
        if self._conversation.resume():
            self._resumed_at = time.monotonic()

    def _check_progress(self, heartbeat: Heartbeat) -> None:
        """Time in which nobody took what the reader had does not count, nor does what this process slept since."""
        if math.isnan(heartbeat.working_since):
            return
        seconds = heartbeat.sent_at - max(heartbeat.working_since, self._resumed_at)
        if seconds > WORK_SECONDS:
            raise ReaderStalled(f"the reader worked on one thing for {seconds:.1f} s")


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
