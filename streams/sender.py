"""The reader's voice: one thread owns the descriptor to the service, sends samples and heartbeats, hears commands."""

import contextlib
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from types import TracebackType
from typing import Self

from streams.costs import Costs, Purpose
from streams.frame import Frame
from streams.job import UNPACED
from streams.messages import Adjust, Burst, EndCode, Ended, Heartbeat, LookCloser, Message, Order
from streams.wire import HEADER, Kind, WireError, pack, parse_body, parse_header

HEARTBEAT_SECONDS = 1.0
"""How often a heartbeat is sent while all goes well; each costs both sides as much as a dozen packets do."""

HASTY_HEARTBEAT_SECONDS = 0.5
"""How often while packets stay away, or there is something to tell that is no mere progress."""

MAX_BURSTS_WAITING = 2
"""So many bursts wait for a service that takes nothing; the next ones are not sent, and counted."""

TOO_LATE = "nothing that could be read came in time"

_READ_BYTES = 4096
_LAST_WORDS_SECONDS = 5.0


class ServiceGone(Exception):
    """Raised by `Sender.put`: nobody listens any more; there is nothing left to do but end."""


@dataclass(slots=True)
class Counters:
    """What the reading thread counts and each heartbeat tells. Times are monotonic; NaN stands for never.

    Beyond `overdue_at` the sender says the last word itself: the reading thread waits inside libav for longer than it
    was told to, and whoever keeps the reader kills it then. `waited_seconds` is how long it has waited for packets.
    """

    last_packet_at: float = math.nan
    working_since: float = math.nan
    packets: int = 0
    received_bytes: int = 0
    keyframes: int = 0
    keyframes_without_picture: int = 0
    decode_errors: int = 0
    replaced_samples: int = 0
    ring_bytes: int = 0
    ring_overflows: int = 0
    gop_seconds: float = 0.0
    overdue_at: float = math.inf
    tracks_heard: int = 0
    throttled_seconds: float = 0.0
    bursts: int = 0
    spikes: int = 0
    spikes_blind: int = 0
    keyframes_decoded: int = 0
    keyframe_cpu_seconds: float = 0.0
    through_cpu_seconds: float = 0.0
    whole_cpu_seconds: float = 0.0
    time_skew_seconds: float = 0.0
    time_jumps: int = 0
    waited_seconds: float = 0.0

    def charge(self, tracks: Iterable[Costs]) -> None:
        """Take over what the decoders of all tracks have cost so far."""
        costs = list(tracks)
        self.keyframes_decoded = sum(each.keyframes for each in costs)
        self.keyframe_cpu_seconds = sum(each.cpu_seconds[Purpose.KEYFRAME] for each in costs)
        self.through_cpu_seconds = sum(each.cpu_seconds[Purpose.THROUGH] for each in costs)
        self.whole_cpu_seconds = sum(each.cpu_seconds[Purpose.WHOLE] for each in costs)


_TOLD = [field.name for field in fields(Counters) if field.name not in ("overdue_at", "waited_seconds")]
_TELL = attrgetter(*_TOLD)

_NEWS = attrgetter(
    "keyframes_without_picture",
    "decode_errors",
    "replaced_samples",
    "ring_overflows",
    "overdue_at",
    "tracks_heard",
    "throttled_seconds",
    "spikes_blind",
    "time_jumps",
)
"""What changes when something goes wrong, or well again."""


class Sender:
    """Sends from a thread of its own, so that heartbeats go on whatever the decoder does.

    With `drops` (live) there is one place per track and `SampleReason`: a newer sample replaces one that was not sent
    yet, counted in `counters.replaced_samples`; nothing replaces a burst. Without, `put` waits until the sample before
    was sent. `obey` is called with each order, in the sending thread. At a `speed` so many heartbeats more are sent;
    `UNPACED`, whoever reads asks for them with `beat`.

    A heartbeat is due each `HASTY_HEARTBEAT_SECONDS`; every other one is left out while all goes well.
    """

    def __init__(
        self, fd: int, counters: Counters, obey: Callable[[Order], None], *, drops: bool, speed: float = 1.0
    ) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._counters = counters
        self._obey = obey
        self._drops = drops
        self._speed = 1.0 if speed == UNPACED else speed
        self._heartbeat_at = -math.inf
        self._next_heartbeat_at = 0.0
        self._told: object = None
        self._changed = threading.Condition()
        self._notes: list[Message] = []
        self._samples: dict[object, Frame | Burst] = {}  # oldest first
        self._is_ending = False
        self._is_gone = False
        self._heard = bytearray()
        self._wake_from, self._wake_to = os.pipe()
        os.set_blocking(self._wake_to, False)
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send what is left, then stop; a service that takes nothing any more is not waited for long."""
        with self._changed:
            self._is_ending = True
        self._wake()
        self._thread.join(_LAST_WORDS_SECONDS)

    def say(self, message: Message) -> None:
        """Send `message` (anything but a sample) before the samples that wait."""
        with self._changed:
            self._notes.append(message)
        self._wake()

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._heartbeat_at = self._next_heartbeat_at = -math.inf
        self._wake()

    def put(self, sample: Frame | Burst) -> None:
        """Send a sample, or several as one message; raises `ServiceGone`."""
        with self._changed:
            while not self._drops and self._samples and not self._is_gone:
                self._changed.wait()
            if self._is_gone:
                raise ServiceGone
            self._place(sample)
        self._wake()

    def _place(self, sample: Frame | Burst) -> None:
        if isinstance(sample, Burst):
            if sum(isinstance(each, Burst) for each in self._samples.values()) < MAX_BURSTS_WAITING:
                self._samples[object()] = sample
            else:
                self._counters.replaced_samples += len(sample.frames)
            return
        slot = sample.track, sample.reason
        if self._samples.pop(slot, None) is not None:
            self._counters.replaced_samples += 1
        self._samples[slot] = sample

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups already
            os.write(self._wake_to, b"\0")

    def _run(self) -> None:
        try:
            self._serve()
        except (OSError, WireError):
            pass  # the service closed its end, or speaks another language: either way nobody listens
        finally:
            with self._changed:
                self._is_gone = True
                self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            now = time.monotonic()
            if now >= self._next_heartbeat_at:
                self._beat_or_wait(now)
            message = self._next()
            if message is not None:
                if isinstance(message, Ended):  # the last counts belong to the last word
                    self._send(self._heartbeat(time.monotonic()))
                self._send(message)
            elif self._is_ending:
                return
            elif now > self._counters.overdue_at:  # after all that waits to be sent
                self._send(Ended(EndCode.TIMEOUT, math.nan, TOO_LATE))
                return
            else:
                self._wait(select.POLLIN, max(0.0, self._next_heartbeat_at - time.monotonic()))

    def _beat_or_wait(self, now: float) -> None:
        """Send the heartbeat that is due, unless it can wait until the next one is."""
        again_at = self._heartbeat_at + HEARTBEAT_SECONDS / self._speed
        news = _NEWS(self._counters)
        is_quiet = not self._counters.last_packet_at > now - HASTY_HEARTBEAT_SECONDS
        if now < again_at and news == self._told and not is_quiet:
            self._next_heartbeat_at = again_at
            return
        self._told = news
        self._heartbeat_at, self._next_heartbeat_at = now, now + HASTY_HEARTBEAT_SECONDS / self._speed
        self._send(self._heartbeat(now))

    def _next(self) -> Message | None:
        with self._changed:
            if self._samples and not (self._notes and not isinstance(self._notes[0], Ended)):
                sample = self._samples.pop(next(iter(self._samples)))
                self._changed.notify_all()
                return sample
            return self._notes.pop(0) if self._notes else None

    def _heartbeat(self, now: float) -> Heartbeat:
        told = dict(zip(_TOLD, _TELL(self._counters), strict=True))
        return Heartbeat(sent_at=now, cpu_seconds=time.process_time(), **told)

    def _send(self, message: Message) -> None:
        rest = memoryview(pack(message))
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                self._wait(select.POLLIN | select.POLLOUT, HASTY_HEARTBEAT_SECONDS)

    def _wait(self, events: int, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._fd, events)
        if not events & select.POLLOUT:
            poll.register(self._wake_from, select.POLLIN)
        for fd, event in poll.poll(seconds * 1000):
            if fd == self._wake_from:
                os.read(fd, _READ_BYTES)
            elif event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._hear()

    def _hear(self) -> None:
        try:
            heard = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not heard:
            raise BrokenPipeError
        self._heard += heard
        while len(self._heard) >= HEADER.size:
            kind, length = parse_header(bytes(self._heard[: HEADER.size]))
            if kind not in (Kind.LOOK_CLOSER, Kind.ADJUST):
                raise WireError(f"a reader is not told {kind.name}")
            end = HEADER.size + length
            if len(self._heard) < end:
                return
            order = parse_body(kind, bytes(self._heard[HEADER.size : end]))
            del self._heard[:end]
            assert isinstance(order, LookCloser | Adjust)
            self._obey(order)


def read_message(fd: int) -> Message:
    """Read one message from a blocking descriptor; raises `WireError` or `EOFError`."""
    kind, length = parse_header(_read_exactly(fd, HEADER.size))
    return parse_body(kind, _read_exactly(fd, length))


def _read_exactly(fd: int, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = os.read(fd, length - len(parts))
        if not part:
            raise EOFError("the other side closed")
        parts += part
    return bytes(parts)
