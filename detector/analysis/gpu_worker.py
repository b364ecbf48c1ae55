"""Scores the pictures of all analysis processes on one GPU: in batches, the earliest deadline of all streams first.

What speaks to it are caged processes that look at strangers' pictures, so a message of a wrong shape is dropped and
counted, and nobody may have more than so many pictures wait. Nothing here needs a GPU: a model is whatever scores many
pictures at once.
"""

import mmap
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from detector.analysis.gpu_link import (
    REQUEST_BYTES,
    Count,
    LinkEnd,
    Look,
    MalformedRequest,
    Request,
    Tally,
    pack_answer,
    pack_state,
    parse_request,
)
from models.batching import Ask, Batcher, Turns
from models.classifier import ModelFailed

_LONGEST_SECONDS: Final = 60.0
_MOST_OF_ONE: Final = 64
"""More pictures of one analysis process do not wait: it asks for one after the other."""

_READ_AT_ONCE: Final = 8
_ACTIVE_SECONDS: Final = 1.0
_BEAT_SECONDS: Final = 0.1
BROKEN_AFTER: Final = 16
"""After so many pictures in a row, each alone, that no model could score, the GPU itself must be broken."""


class GpuBroken(Exception):
    """Raised by `GpuWorker.serve_until`: no model scores anything any more; another process may do better."""


class ScoresMany(Protocol):
    """What is asked of a classifier here; `models.classifier.Classifier` is one."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels, in the order of its scores."""
        ...

    @property
    def largest_batch(self) -> int:
        """How many pictures it takes at once."""
        ...

    def score_many(self, looks: Sequence[Look]) -> list[dict[str, float]]:
        """As `models.classifier.Classifier.score_many`."""
        ...


@dataclass(slots=True)
class _Asked:
    peer: socket.socket
    request: Request


class GpuWorker:
    """Serves the sockets that it is given with these models, by their places, in one thread. `serve_until` runs it.

    What it does shows in `tally` while it does it.
    """

    def __init__(
        self,
        models: Mapping[int, ScoresMany],
        ends: Sequence[LinkEnd],
        tally: Tally,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_waiting: int = 1024,
    ) -> None:
        self._models = models
        self._batchers = {place: Batcher(model.largest_batch, most_waiting) for place, model in models.items()}
        self._turns = Turns()
        self._tally = tally
        self._clock = clock
        self._asked: dict[int, _Asked] = {}
        self._of_peer: Counter[socket.socket] = Counter()
        self._asked_at: dict[socket.socket, float] = {}
        self._next_number = 0
        self._failed_in_a_row = 0
        self._selector = selectors.DefaultSelector()
        for end in ends:
            end.socket.setblocking(False)
            self._selector.register(end.socket, selectors.EVENT_READ, end.pixels)

    def learn(self, place: int, size: int, seconds: float) -> None:
        """Take in how long a batch of a model took, before any is asked for."""
        self._batchers[place].cost.measured(size, seconds)

    def tell_all(self) -> None:
        """Tell every analysis process which models are served."""
        for key in self._selector.get_map().values():
            assert isinstance(key.fileobj, socket.socket)
            self._send(key.fileobj, pack_state(sorted(self._models)))

    def serve_until(self, is_over: Callable[[], bool]) -> None:
        """Read requests, score batches and answer, until it is over.

        Raises:
            GpuBroken: No model scores anything any more.
        """
        while not is_over():
            self._tally.add(Count.BEATS)
            now = self._clock()
            most = self._active(now)
            times = [at for one in self._batchers.values() if (at := one.begins_at(now, most)) is not None]
            wait = min([_BEAT_SECONDS, *(max(0.0, at - now) for at in times)])
            for key, _ in self._selector.select(wait):
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj, key.data)
            now = self._clock()
            most = self._active(now)
            due = {
                place: batcher.nearest_deadline
                for place, batcher in self._batchers.items()
                if (at := batcher.begins_at(now, most)) is not None and at <= now
            }
            if due:
                self._score(self._turns.next_of(due, now))

    def _active(self, now: float) -> int:
        """How many processes ask at all, each for one picture at a time."""
        self._asked_at = {peer: at for peer, at in self._asked_at.items() if now - at < _ACTIVE_SECONDS}
        return len(self._asked_at)

    def _read(self, peer: socket.socket, pixels: mmap.mmap) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                message = peer.recv(REQUEST_BYTES + 1)
            except OSError:  # nothing more for now
                return
            if not message:
                self._selector.unregister(peer)
                return
            try:
                request = parse_request(message, pixels)
            except MalformedRequest:
                self._tally.add(Count.MALFORMED)
                continue
            if request is None:
                self._send(peer, pack_state(sorted(self._models)))
            else:
                self._put(peer, request)

    def _put(self, peer: socket.socket, request: Request) -> None:
        batcher = self._batchers.get(request.place)
        if batcher is None or self._of_peer[peer] >= _MOST_OF_ONE:
            self._send(peer, pack_answer(request.number, ()))
            self._tally.add(Count.UNANSWERED)
            return
        now = self._clock()
        self._next_number += 1
        self._asked[self._next_number] = _Asked(peer, request)
        self._of_peer[peer] += 1
        self._asked_at[peer] = now
        # A deadline in the far future would stand behind all others for ever.
        deadline_at = min(request.deadline_at, now + _LONGEST_SECONDS)
        dropped = batcher.put(Ask(deadline_at, self._next_number, now, request.gone_at))
        if dropped is not None:
            self._answer(dropped, None)

    def _score(self, place: int) -> None:
        model, batcher = self._models[place], self._batchers[place]
        begun_at = self._clock()
        batch, late = batcher.take(begun_at)
        for ask in late:
            self._turns.late(begun_at)
            self._answer(ask, None)
        if not batch:
            return
        self._tally[Count.AT_WORK] = place + 1
        try:
            answers: Sequence[dict[str, float] | None] = model.score_many(
                [self._asked[ask.number].request.look for ask in batch]
            )
        except ModelFailed:
            answers = [self._alone(model, ask) for ask in batch]  # one picture must not take the others' scores
        else:
            batcher.cost.measured(len(batch), self._clock() - begun_at)
        ended_at = self._clock()
        self._turns.used(place, ended_at - begun_at, ended_at)
        self._tally.add(Count.BATCHES)
        self._tally.add(Count.PICTURES, len(batch))
        for ask, scores in zip(batch, answers, strict=True):
            self._answer(ask, scores)
        self._note_failures(answers)
        self._tally[Count.AT_WORK] = 0

    def _note_failures(self, answers: Sequence[dict[str, float] | None]) -> None:
        is_failure = all(scores is None for scores in answers)
        self._failed_in_a_row = self._failed_in_a_row + len(answers) if is_failure else 0
        if self._failed_in_a_row >= BROKEN_AFTER:
            raise GpuBroken

    def _alone(self, model: ScoresMany, ask: Ask) -> dict[str, float] | None:
        try:
            return model.score_many([self._asked[ask.number].request.look])[0]
        except ModelFailed:
            return None

    def _answer(self, ask: Ask, scores: dict[str, float] | None) -> None:
        asked = self._asked.pop(ask.number)
        self._of_peer[asked.peer] -= 1
        labels = self._models[asked.request.place].labels
        values = () if scores is None else [scores[label] for label in labels]
        self._tally.add(Count.UNANSWERED, not values)
        self._send(asked.peer, pack_answer(asked.request.number, values))

    def _send(self, peer: socket.socket, message: bytes) -> None:
        with suppress(OSError):  # who asks and does not listen goes without
            peer.send(message)
