"""How analysis processes and the process that owns the GPU speak: whole messages of fixed shape, and shared counters.

Each analysis process has one end of a socket that keeps messages apart (SOCK_SEQPACKET); the service keeps copies of
all ends, so that a process which dies takes neither the socket nor the others' messages along. A request is one picture
with a deadline on the machine's monotonic clock, an answer one number per label. The pixels lie in memory that the two
share: who asks has one question at a time, and what it writes while an older one is read is answered to nobody.
"""

import math
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from streams.frame import MAX_SHAPED_BYTES, PICTURE_BYTES

_REQUEST: Final = struct.Struct("<QHHHIIdd")
"""Number, place of the model, rows and columns of the picture, the frame's size, deadline, until when it is awaited."""

_ANSWER: Final = struct.Struct("<QH")
"""Number of the request, how many scores follow (float64); none where there are none in time."""

_STATE: Final = struct.Struct("<QQ")
"""Zero, and a bit for each place whose model is served."""

_WHAT_STATE: Final = b"?"
REQUEST_BYTES: Final = _REQUEST.size
PIXELS_BYTES: Final = max(MAX_SHAPED_BYTES, PICTURE_BYTES)
"""What two ends share."""
_ANSWER_LIMIT_BYTES: Final = 1 << 16
_MOST_SIDE: Final = 1 << 16
MOST_PLACES: Final = 64
_LEAST_WAIT_SECONDS: Final = 0.05
_LONGEST_SECONDS: Final = 60.0

Look = tuple[NDArray[np.uint8], int, int]


class MalformedRequest(Exception):
    """Raised by `parse_request`: nothing of the message is used."""


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to score. `place` is the model's own among all that are configured; after `gone_at` nobody waits."""

    number: int
    place: int
    deadline_at: float
    gone_at: float
    look: Look


def parse_request(message: bytes, pixels: mmap.mmap) -> Request | None:
    """The request in a message; None where it asks for nothing but the state. Raises `MalformedRequest`.

    The picture is copied from the memory that is shared with who asks.
    """
    if message == _WHAT_STATE:
        return None
    if len(message) != REQUEST_BYTES:
        raise MalformedRequest
    number, place, rows, columns, width, height, deadline_at, gone_at = _REQUEST.unpack(message)
    is_sound = number and place < MOST_PLACES and math.isfinite(deadline_at) and math.isfinite(gone_at)
    has_size = 1 <= width <= _MOST_SIDE and 1 <= height <= _MOST_SIDE
    if not (is_sound and has_size and 0 < 3 * rows * columns <= PIXELS_BYTES):
        raise MalformedRequest
    picture = np.frombuffer(pixels[: 3 * rows * columns], np.uint8).reshape(rows, columns, 3)
    return Request(number, place, deadline_at, gone_at, (picture, width, height))


def pack_request(request: Request, pixels: mmap.mmap) -> bytes:
    """The message that asks for scores; the picture goes to the shared memory. Raises `ValueError`: it is too large."""
    picture, width, height = request.look
    rows, columns, _ = picture.shape
    if 3 * rows * columns > PIXELS_BYTES:
        raise ValueError("the picture is larger than any frame is shown to a model")
    np.copyto(np.frombuffer(pixels, np.uint8, picture.size).reshape(picture.shape), picture)
    sizes = (rows, columns, width, height)
    return _REQUEST.pack(request.number, request.place, *sizes, request.deadline_at, request.gone_at)


def pack_answer(number: int, scores: Sequence[float]) -> bytes:
    """The answer to a request; without scores it says that there are none in time."""
    return _ANSWER.pack(number, len(scores)) + struct.pack(f"<{len(scores)}d", *scores)


def pack_state(places: Sequence[int]) -> bytes:
    """What tells an analysis process which models are served from now on."""
    return _STATE.pack(0, sum(1 << place for place in places))


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """One end of a conversation: a socket, and the memory that both ends share."""

    socket: socket.socket
    pixels: mmap.mmap

    @classmethod
    def of(cls, socket_descriptor: int, pixels_descriptor: int) -> Self:
        """The end that was passed to this process as two descriptors; the socket owns the first from now on."""
        return cls(socket.socket(fileno=socket_descriptor), mmap.mmap(pixels_descriptor, PIXELS_BYTES))

    def close(self) -> None:
        """Let go of both."""
        self.socket.close()
        with suppress(BufferError):  # somebody still looks at a picture in it
            self.pixels.close()


class Link:
    """Both ends, by their descriptors, as the service keeps them: for an analysis process and for the GPU's."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pixels = os.memfd_create("stopframe-pixels", os.MFD_CLOEXEC)
        os.ftruncate(self.pixels, PIXELS_BYTES)
        self._ends: list[LinkEnd] = []

    @property
    def near_descriptors(self) -> tuple[int, int]:
        """What an analysis process is given."""
        return self.near.fileno(), self.pixels

    @property
    def far_descriptors(self) -> tuple[int, int]:
        """What the process that owns the GPU is given."""
        return self.far.fileno(), self.pixels

    def near_end(self) -> LinkEnd:
        """An end for this process, closed with the link at the latest."""
        return self._end(self.near)

    def far_end(self) -> LinkEnd:
        """As `near_end`, the other one."""
        return self._end(self.far)

    def _end(self, own: socket.socket) -> LinkEnd:
        self._ends.append(LinkEnd.of(os.dup(own.fileno()), self.pixels))
        return self._ends[-1]

    def close(self) -> None:
        """Close all."""
        for end in self._ends:
            end.close()
        self.near.close()
        self.far.close()
        os.close(self.pixels)


@unique
class Count(IntEnum):
    """Which counter of a `Tally`."""

    BEATS = 0
    AT_WORK = 1  # place of the model at work, plus one
    BATCHES = 2
    PICTURES = 3
    UNANSWERED = 4
    MALFORMED = 5


class Tally:
    """Counters that the process which owns the GPU writes and the service reads: no message, and they outlive it."""

    BYTES: Final = 4096

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, self.BYTES)

    @classmethod
    def make(cls) -> tuple[Self, int]:
        """A new one, and the descriptor by which another process takes part in it."""
        descriptor = os.memfd_create("stopframe-gpu", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, cls.BYTES)
        return cls(descriptor), descriptor

    def __getitem__(self, count: Count) -> int:
        found: int = struct.unpack_from("<Q", self._memory, 8 * count)[0]
        return found

    def __setitem__(self, count: Count, value: int) -> None:
        struct.pack_into("<Q", self._memory, 8 * count, value)

    def add(self, count: Count, more: int = 1) -> None:
        """Count so many more."""
        self[count] = (self[count] + more) & 0xFFFFFFFFFFFFFFFF

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class GpuLink:
    """An analysis process's end. For one thread, which sets `deadline_at` for each frame that it looks at."""

    def __init__(
        self,
        end: LinkEnd,
        *,
        patience_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end = end.socket
        self._pixels = end.pixels
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._served = 0
        # An answer to the process that had this socket before must be nobody's.
        self._number = int.from_bytes(os.urandom(6))
        self.deadline_at = math.inf
        self._send(_WHAT_STATE, self._clock() + patience_seconds)

    def ask(self, place: int, look: Look, spare_seconds: float) -> tuple[float, ...] | None:
        """The scores, or None where there are none `spare_seconds` before the frame's deadline, or the GPU is away."""
        now = self._clock()
        while self._receive(now) is not None:  # what was said meanwhile
            pass
        if not self._serves(place):
            return None
        until = max(self.deadline_at - spare_seconds, now + _LEAST_WAIT_SECONDS)
        until = min(until, now + self._patience_seconds)
        self._number += 1
        deadline_at = min(self.deadline_at, now + _LONGEST_SECONDS)
        request = Request(self._number, place, deadline_at, until, look)
        if not self._send(pack_request(request, self._pixels), until):
            return None
        while self._serves(place):
            heard = self._receive(until)
            if heard is None:
                # Whether it is slow or gone shows when it says again what it serves: nobody waits for it until then.
                self._served = 0
                self._send(_WHAT_STATE, now)
                return None
            number, scores = heard
            if number == self._number:
                return scores or None
        return None

    def _serves(self, place: int) -> bool:
        return bool(self._served >> place & 1)

    def _send(self, message: bytes, until: float) -> bool:
        try:
            self._end.settimeout(max(0.0, until - self._clock()))
            self._end.send(message)
        except OSError:
            return False
        return True

    def _receive(self, until: float) -> tuple[int, tuple[float, ...]] | None:
        """The next message, states taken in on the way; None where there is none by then."""
        while True:
            try:
                self._end.settimeout(max(0.0, until - self._clock()))
                message = self._end.recv(_ANSWER_LIMIT_BYTES)
            except OSError:
                return None
            if not message:
                self._served = 0
                return None
            if len(message) == _STATE.size and message[:8] == bytes(8):
                self._served = _STATE.unpack(message)[1]
                return 0, ()
            if len(message) < _ANSWER.size:
                continue
            number, count = _ANSWER.unpack_from(message)
            if len(message) == _ANSWER.size + 8 * count:
                return number, struct.unpack_from(f"<{count}d", message, _ANSWER.size)
