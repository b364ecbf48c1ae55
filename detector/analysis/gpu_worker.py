"""The process that owns a GPU: it scores the pictures of all analysis processes in batches, earliest deadline first.

Each analysis process holds one end of a socket (`GpuScorer`), this process the others (`GpuWorker`). A request is one
picture of fixed size with a deadline on the machine's monotonic clock, an answer is one number per label. The process
holds no credentials; what speaks to it are caged processes, so everything that comes in has a fixed length or ends the
conversation. It cannot be caged as they are: a GPU's driver opens devices and maps code whenever it likes.

Never run with a GPU yet: its tests use a stand-in that takes as long as a batch would.
"""

import math
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.batching import Ask, Batcher
from models.classifier import ModelFailed
from models.preprocess import PICTURE_SIDE
from models.providers import Provider

_HEAD: Final = struct.Struct("<IIId")
"""Number of the request, width and height of the frame, deadline."""

_ANSWER: Final = struct.Struct("<IH")
"""Number of the request, how many scores follow (float64); none where the model failed."""

_PICTURE_BYTES: Final = PICTURE_SIDE * PICTURE_SIDE * 3
_REQUEST_BYTES: Final = _HEAD.size + _PICTURE_BYTES
_MOST_SIDE: Final = 1 << 16
_LONGEST_SECONDS: Final = 60.0

Look = tuple[NDArray[np.uint8], int, int]


class ScoresMany(Protocol):
    """What is asked of a classifier here; `models.classifier.Classifier` is one."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels, in the order of its scores."""

    @property
    def largest_batch(self) -> int:
        """How many pictures it takes at once."""

    def score_many(self, looks: Sequence[Look]) -> list[dict[str, float]]:
        """As `models.classifier.Classifier.score_many`."""


@dataclass(slots=True)
class _Asked:
    peer: socket.socket
    number: int
    look: Look


class GpuWorker:
    """Serves the sockets that it is given, in one thread. `serve_until` runs it."""

    def __init__(
        self,
        classifier: ScoresMany,
        peers: Sequence[socket.socket],
        *,
        clock: Callable[[], float] = time.monotonic,
        most_waiting: int = 1024,
    ) -> None:
        self._classifier = classifier
        self._clock = clock
        self._batcher = Batcher(classifier.largest_batch, most_waiting)
        self._asked: dict[int, _Asked] = {}
        self._next_number = 0
        self._heard: dict[socket.socket, bytearray] = {}
        self._selector = selectors.DefaultSelector()
        self.batches: list[int] = []
        """How many pictures the last batches had, a few thousand at most."""
        for peer in peers:
            self.attach(peer)

    def attach(self, peer: socket.socket) -> None:
        """Serve one more analysis process."""
        peer.setblocking(False)
        self._heard[peer] = bytearray()
        self._selector.register(peer, selectors.EVENT_READ)

    def serve_until(self, is_over: Callable[[], bool]) -> None:
        """Read requests, score batches and answer, until it is over or nobody is left to serve."""
        while self._heard and not is_over():
            begins_at = self._batcher.begins_at(self._clock())
            wait = 0.1 if begins_at is None else max(0.0, begins_at - self._clock())
            for key, _ in self._selector.select(min(wait, 0.1)):
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)
            begins_at = self._batcher.begins_at(self._clock())
            if begins_at is not None and begins_at <= self._clock():
                self._score()

    def _read(self, peer: socket.socket) -> None:
        heard = self._heard[peer]
        try:
            chunk = peer.recv(_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._let_go(peer)
            return
        heard += chunk
        while len(heard) >= _REQUEST_BYTES:
            request = bytes(heard[:_REQUEST_BYTES])
            del heard[:_REQUEST_BYTES]
            self._put(peer, request)

    def _put(self, peer: socket.socket, request: bytes) -> None:
        number, width, height, deadline_at = _HEAD.unpack_from(request)
        now = self._clock()
        if not (1 <= width <= _MOST_SIDE and 1 <= height <= _MOST_SIDE and math.isfinite(deadline_at)):
            self._let_go(peer)
            return
        picture = np.frombuffer(request, np.uint8, offset=_HEAD.size).reshape(PICTURE_SIDE, PICTURE_SIDE, 3)
        self._next_number += 1
        self._asked[self._next_number] = _Asked(peer, number, (picture, width, height))
        # A deadline in the far future would stand behind all others for ever.
        dropped = self._batcher.put(Ask(min(deadline_at, now + _LONGEST_SECONDS), self._next_number, now))
        if dropped is not None:
            self._answer(dropped, None)

    def _score(self) -> None:
        batch, late = self._batcher.take(self._clock())
        for ask in late:
            self._answer(ask, None)
        if not batch:
            return
        begun_at = self._clock()
        try:
            answers: Sequence[dict[str, float] | None] = self._classifier.score_many(
                [self._asked[ask.number].look for ask in batch]
            )
        except ModelFailed:
            answers = [self._alone(ask) for ask in batch]  # one picture must not take the others' scores
        else:
            self._batcher.cost.measured(len(batch), self._clock() - begun_at)
        self.batches = [*self.batches[-4095:], len(batch)]
        for ask, scores in zip(batch, answers, strict=True):
            self._answer(ask, scores)

    def _alone(self, ask: Ask) -> dict[str, float] | None:
        try:
            return self._classifier.score_many([self._asked[ask.number].look])[0]
        except ModelFailed:
            return None

    def _answer(self, ask: Ask, scores: dict[str, float] | None) -> None:
        asked = self._asked.pop(ask.number)
        if asked.peer not in self._heard:
            return
        values = [] if scores is None else [scores[label] for label in self._classifier.labels]
        message = _ANSWER.pack(asked.number, len(values)) + struct.pack(f"<{len(values)}d", *values)
        try:
            sent = asked.peer.send(message)
        except OSError:
            sent = 0
        if sent != len(message):  # it asks and does not listen, or is gone
            self._let_go(asked.peer)

    def _let_go(self, peer: socket.socket) -> None:
        if self._heard.pop(peer, None) is not None:
            self._selector.unregister(peer)
            peer.close()


class GpuScorer:
    """A classifier whose work another process does: the analysis process's end of a socket. For one thread.

    Raises from `score`:
        ModelFailed: The process failed, is gone, or gave no answer by the deadline.
    """

    def __init__(
        self,
        peer: socket.socket,
        model: tuple[str, str, tuple[str, ...], Provider],
        *,
        within_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.sha256, self.labels, self.provider = model
        self._peer = peer
        self._within_seconds = within_seconds
        self._clock = clock
        self._number = 0

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """As `models.classifier.Classifier.score`."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        deadline_at = self._clock() + self._within_seconds
        try:
            self._peer.settimeout(self._within_seconds)
            self._peer.sendall(_HEAD.pack(self._number, width, height, deadline_at) + picture.tobytes())
            while True:
                number, count = _ANSWER.unpack(self._receive(_ANSWER.size, deadline_at))
                values = struct.unpack(f"<{count}d", self._receive(8 * count, deadline_at))
                if number == self._number:  # else an answer that came too late for its own question
                    break
        except (OSError, EOFError) as error:
            raise ModelFailed(self.name, f"the GPU's process gave no answer ({type(error).__name__})") from None
        if count != len(self.labels):
            raise ModelFailed(self.name, "the GPU's process could not score the picture in time")
        return dict(zip(self.labels, values, strict=True))

    def _receive(self, count: int, deadline_at: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            left = deadline_at + self._within_seconds - self._clock()
            if left <= 0:
                raise TimeoutError
            self._peer.settimeout(left)
            chunk = self._peer.recv(count - len(parts))
            if not chunk:
                raise EOFError
            parts += chunk
        return bytes(parts)
