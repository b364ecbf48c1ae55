"""The batches of the process that owns a GPU, with a stand-in that takes as long as a batch would."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest

from detector.analysis.gpu_link import (
    REQUEST_BYTES,
    Count,
    GpuLink,
    Link,
    Look,
    Request,
    Tally,
    pack_request,
    pack_state,
)
from detector.analysis.gpu_scorer import GpuModel, GpuScorer
from detector.analysis.gpu_worker import BROKEN_AFTER, GpuBroken, GpuWorker
from models.classifier import Classifier, ModelFailed
from models.manifest import load_manifest
from models.providers import Provider
from tests.waiting import until_in_thread

GPU = Provider("cuda", "CPUExecutionProvider", "fp32")
CPU = Provider("cpu", "CPUExecutionProvider", "fp32")


class StandIn:
    """A fixed time for each batch, whatever its size; scores the mean of a picture, and fails at a white one."""

    labels = ("dark", "light")
    largest_batch = 16
    provider = CPU

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.batches: list[list[float]] = []

    def score_many(self, looks: Sequence[Look]) -> list[dict[str, float]]:
        time.sleep(self.seconds)
        means = [float(picture.mean()) / 255 for picture, _, _ in looks]
        self.batches.append(means)
        if 1.0 in means:
            raise ModelFailed("light", "white is too much")
        return [{"dark": 1 - mean, "light": mean} for mean in means]

    def score(self, picture: np.ndarray, width: int, height: int) -> dict[str, float]:
        return self.score_many([(picture, width, height)])[0]


class Stuck(StandIn):
    """Scores nothing until it may."""

    def __init__(self) -> None:
        super().__init__(seconds=0.0)
        self.may_go_on = threading.Event()

    def score_many(self, looks: Sequence[Look]) -> list[dict[str, float]]:
        self.may_go_on.wait(60)
        return super().score_many(looks)


@contextmanager
def served(
    models: dict[int, StandIn], count: int, *, patience: float = 5.0, stand_in: StandIn | None = None
) -> Iterator[tuple[list[GpuScorer], GpuWorker, Tally]]:
    """A worker in a thread, and so many ends that ask it for the first model."""
    pairs = [Link() for _ in range(count)]
    tally, _ = Tally.make()
    is_over = threading.Event()
    worker = GpuWorker(models, [pair.far_end() for pair in pairs], tally)
    worker.tell_all()
    thread = threading.Thread(target=worker.serve_until, args=(is_over.is_set,), name="gpu")
    thread.start()
    try:
        links = [GpuLink(pair.near_end(), patience_seconds=patience) for pair in pairs]
        places = sorted(models)
        facts = [
            GpuModel("light", "00", StandIn.labels, places[number % len(places)], GPU) for number in range(len(pairs))
        ]
        yield [GpuScorer(link, fact, stand_in) for link, fact in zip(links, facts, strict=True)], worker, tally
    finally:
        is_over.set()
        thread.join(10)
        for pair in pairs:
            pair.close()
        assert not thread.is_alive()


def grey(level: int) -> np.ndarray:
    return np.full((256, 256, 3), level, np.uint8)


def light(scorer: GpuScorer, level: int) -> float | None:
    try:
        return scorer.score(grey(level), 64, 64)["light"]
    except ModelFailed:
        return None


def test_pictures_of_all_processes_go_together() -> None:
    """Twelve processes that ask at once are answered each with its own scores, in far fewer batches than pictures."""
    model = StandIn()
    with served({0: model}, 12) as (scorers, _, tally), ThreadPoolExecutor(12) as threads:
        assert [light(scorer, 0) for scorer in scorers] == [0.0] * 12
        model.batches.clear()
        found = list(threads.map(lambda place: [light(scorers[place], place * 20) for _ in range(10)], range(12)))

    assert found == [[pytest.approx(place * 20 / 255)] * 10 for place in range(12)]
    assert sum(map(len, model.batches)) == 120
    assert len(model.batches) < 60
    assert tally[Count.PICTURES] == 132


def test_a_picture_in_the_frames_own_shape_arrives_whole() -> None:
    """Models that want a frame's shape get it from the GPU's process too, also a part that is cut from it."""
    wide = np.random.default_rng(1).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    with served({0: StandIn(seconds=0.0)}, 1) as ((scorer,), _, _):
        for picture in (wide, wide[100:200, 50:401], wide[:1, :1]):
            assert scorer.score(picture, 1280, 720)["light"] == pytest.approx(picture.mean() / 255)
        with pytest.raises(ValueError, match="larger"):
            scorer.score(np.zeros((4000, 4000, 3), np.uint8), 4000, 4000)


def test_one_picture_takes_nobody_elses_scores() -> None:
    """A picture at which the model fails fails alone, also in the middle of a batch."""
    with served({0: StandIn()}, 4) as (scorers, _, _), ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda place: light(scorers[place], 255 if place == 2 else 51), range(4)))

    assert found == [pytest.approx(0.2), pytest.approx(0.2), None, pytest.approx(0.2)]


def test_a_gpu_that_is_too_slow_is_not_waited_for() -> None:
    """By its deadline an asker goes on with the processor, says so, and waits no more until the GPU speaks again."""
    model, processor = Stuck(), StandIn(seconds=0.0)
    with served({0: model}, 1, patience=30.0, stand_in=processor) as ((scorer,), _, _):
        scorer._link.deadline_at = time.monotonic() + 60
        scorer._stand_in_seconds = 59.9  # what the processor is thought to need: the GPU has a tenth of a second
        begun_at = time.monotonic()
        assert light(scorer, 51) == pytest.approx(0.2)
        assert scorer.provider.name == "cpu"
        scorer._stand_in_seconds = 0.0
        assert light(scorer, 51) == pytest.approx(0.2)
        assert time.monotonic() - begun_at < 20
        assert (len(processor.batches), model.batches) == (2, [])
        model.may_go_on.set()

        until_in_thread(lambda: light(scorer, 102) == pytest.approx(0.4) and scorer.provider is GPU)


def test_what_is_too_late_is_said_to_be() -> None:
    """After the frame's deadline the processor does not begin either, and without one that stands in nothing does."""
    late, alone = StandIn(seconds=0.0), None
    for stand_in in (late, alone):
        with closing(Link()) as ends:
            link = GpuLink(ends.near_end(), patience_seconds=0.1)
            link.deadline_at = time.monotonic() - 1
            scorer = GpuScorer(link, GpuModel("light", "00", StandIn.labels, 0, GPU), stand_in)
            with pytest.raises(ModelFailed, match="no answer in time"):
                scorer.score(grey(0), 64, 64)
    assert late.batches == []


def test_nonsense_is_dropped_and_counted_and_the_others_are_served() -> None:
    """Whatever a process that was taken over sends, its pieces are no requests, and nobody waits for them."""
    model = StandIn(seconds=0.0)
    with served({0: model}, 2) as (scorers, _, tally):
        bad: socket.socket = scorers[1]._link._end
        for message in (b"half", bytes(REQUEST_BYTES), b"\xff" * REQUEST_BYTES, b"x" * 1000):
            bad.send(message)
        assert light(scorers[0], 51) == pytest.approx(0.2)
        assert light(scorers[1], 102) == pytest.approx(0.4)
        assert tally[Count.MALFORMED] == 4


def test_an_answer_to_who_had_the_socket_before_is_nobodys() -> None:
    """A process that takes over a socket reads what its predecessor did not: answers, of which it believes none."""
    with closing(Link()) as ends:
        ends.far.send(b"\x01" + bytes(7) + b"\x02\x00" + bytes(16))
        ends.far.send(pack_state([0]))
        link = GpuLink(ends.near_end(), patience_seconds=0.1)
        assert link.ask(0, (grey(0), 64, 64), 0.0) is None


def test_a_model_that_is_asked_for_too_much_starves_no_other() -> None:
    """Ten processes want more of one model than the GPU can do; the eleventh gets its few pictures of another."""
    heavy, small = StandIn(seconds=0.08), StandIn(seconds=0.002)
    heavy.largest_batch = 2
    with served({0: heavy, 1: small}, 12, patience=10.0) as (scorers, _, _), ThreadPoolExecutor(7) as threads:
        is_over = threading.Event()

        def flood(scorer: GpuScorer) -> None:
            while not is_over.is_set():
                scorer._link.deadline_at = time.monotonic() + 0.2
                light(scorer, 51)

        floods = [threads.submit(flood, scorer) for scorer in scorers[0::2]]
        found = []
        try:
            until_in_thread(lambda: len(heavy.batches) > 2)
            for _ in range(5):
                scorers[1]._link.deadline_at = time.monotonic() + 10.0
                found.append(light(scorers[1], 102))
        finally:
            is_over.set()
        for one in floods:
            one.result()

    assert found == [pytest.approx(0.4)] * 5


def test_a_gpu_that_scores_nothing_any_more_is_given_up() -> None:
    """A driver that broke answers with errors for ever: the process ends itself, and a fresh one may do better."""
    ends = Link()
    near = ends.near_end()
    tally, _ = Tally.make()
    model = StandIn(seconds=0.0)
    worker = GpuWorker({0: model}, [ends.far_end()], tally)
    later = time.monotonic() + 60

    def ask(number: int) -> None:
        near.socket.send(pack_request(Request(number, 0, later, later, (grey(255), 64, 64)), near.pixels))
        worker.serve_until(lambda: tally[Count.PICTURES] == number)

    with closing(ends):
        for number in range(1, BROKEN_AFTER):
            ask(number)
        with pytest.raises(GpuBroken):
            ask(BROKEN_AFTER)


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
