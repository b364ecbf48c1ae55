"""The process that owns a GPU, with a stand-in that takes as long as a batch would: no GPU is needed, none is tried."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from detector.analysis.gpu_worker import GpuScorer, GpuWorker, Look
from models.classifier import Classifier, ModelFailed
from models.manifest import load_manifest
from models.providers import Provider

GPU = Provider("cuda", "CPUExecutionProvider", "fp32")
"""Batches like a GPU's, run by the processor."""


class StandIn:
    """A fixed time for each batch, whatever its size; scores the mean of a picture, and fails at a white one."""

    labels = ("dark", "light")
    largest_batch = 16

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []

    def score_many(self, looks: Sequence[Look]) -> list[dict[str, float]]:
        time.sleep(self.seconds)
        self.sizes.append(len(looks))
        means = [float(picture.mean()) / 255 for picture, _, _ in looks]
        if 1.0 in means:
            raise ModelFailed("light", "white is too much")
        return [{"dark": 1 - mean, "light": mean} for mean in means]


@contextmanager
def served(model: StandIn, count: int, within_seconds: float = 5.0) -> Iterator[list[GpuScorer]]:
    """A worker in a thread, and so many ends that ask it."""
    pairs = [socket.socketpair() for _ in range(count)]
    is_over = threading.Event()
    worker = GpuWorker(model, [far for _, far in pairs])
    thread = threading.Thread(target=worker.serve_until, args=(is_over.is_set,), name="gpu")
    thread.start()
    try:
        facts = ("light", "00", model.labels, GPU)
        yield [GpuScorer(near, facts, within_seconds=within_seconds) for near, _ in pairs]
    finally:
        is_over.set()
        for near, _ in pairs:
            near.close()
        thread.join(10)
        for _, far in pairs:
            far.close()
        assert not thread.is_alive()


def grey(level: int) -> np.ndarray:
    return np.full((256, 256, 3), level, np.uint8)


def test_pictures_of_all_processes_go_together() -> None:
    """Twelve processes that ask at once are answered each with its own scores, in far fewer batches than pictures."""
    model = StandIn()
    with served(model, 12) as scorers, ThreadPoolExecutor(12) as threads:
        for scorer in scorers:
            assert scorer.score(grey(0), 64, 64) == {"dark": 1.0, "light": 0.0}
        model.sizes.clear()

        def ask(place: int) -> list[float]:
            return [scorers[place].score(grey(place * 20), 64, 64)["light"] for _ in range(10)]

        answers = list(threads.map(ask, range(12)))

    assert answers == [[pytest.approx(place * 20 / 255)] * 10 for place in range(12)]
    assert sum(model.sizes) == 120
    assert len(model.sizes) < 60


def test_one_picture_takes_nobody_elses_scores() -> None:
    """A picture at which the model fails fails alone, also in the middle of a batch."""
    with served(StandIn(), 4) as scorers, ThreadPoolExecutor(4) as threads:

        def ask(place: int) -> float | None:
            try:
                return scorers[place].score(grey(255 if place == 2 else 51), 64, 64)["light"]
            except ModelFailed:
                return None

        answers = list(threads.map(ask, range(4)))

    assert answers == [pytest.approx(0.2), pytest.approx(0.2), None, pytest.approx(0.2)]


def test_a_gpu_that_is_too_slow_is_not_waited_for() -> None:
    """By its deadline each asker has an answer, if only that there is none; the late scores are not taken for later."""
    model = StandIn(seconds=0.5)
    with served(model, 1, within_seconds=0.1) as (scorer,):
        begun_at = time.monotonic()
        with pytest.raises(ModelFailed, match="no answer"):
            scorer.score(grey(51), 64, 64)
        assert time.monotonic() - begun_at < 0.45
        model.seconds = 0.0
        time.sleep(0.6)

        assert scorer.score(grey(102), 64, 64)["light"] == pytest.approx(0.4)


def test_who_sends_nonsense_is_let_go_and_the_others_served() -> None:
    """A frame without a size ends the conversation; half a request and silence hold up nobody."""
    near, far = socket.socketpair()
    half, quiet = socket.socketpair()
    model = StandIn(seconds=0.0)
    with served(model, 1) as (scorer,), near, half:
        worker = GpuWorker(model, [far, quiet])
        near.sendall(bytes(20 + 256 * 256 * 3))
        half.sendall(b"half")
        ends_at = time.monotonic() + 1.0
        worker.serve_until(lambda: time.monotonic() > ends_at)

        assert near.recv(1) == b""
        assert scorer.score(grey(51), 64, 64)["light"] == pytest.approx(0.2)
    quiet.close()


def test_a_batch_gives_each_picture_the_scores_that_it_has_alone() -> None:
    """What a classifier says of many pictures at once is what it says of each, also beyond one batch."""
    manifest = load_manifest("standin-cards")
    pictures = np.random.default_rng(5).integers(0, 256, (40, 256, 256, 3), dtype=np.uint8)
    looks = [(picture, 640, 360) for picture in pictures]
    alone, many = Classifier(manifest), Classifier(manifest, provider=GPU)

    found = many.score_many(looks)

    assert alone.largest_batch == 1
    assert found == [pytest.approx(one, abs=1e-5) for one in alone.score_many(looks)]
    if many.largest_batch > 1:
        with pytest.raises(ModelFailed, match="resize it first"):
            many.score_many([(pictures[0], 640, 360), (pictures[1][:200], 640, 360)])
