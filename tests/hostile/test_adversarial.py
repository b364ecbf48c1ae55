"""Pictures made against the model, with its weights in hand, and questions asked of it through the alarm."""

import random
from contextlib import nullcontext
from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import card_pictures
from detector.events import Observation, Step
from detector.policy import ClassRule, History, PolicySettings, decide
from models.asking import Placed, ask_models
from models.cascade import Asking, ModelRule
from models.classifier import Classifier, read_content
from models.evidence import ClassScore, Inspection
from models.hashing.registry import hash_algorithms
from models.manifest import load_manifest
from models.tiles import jittered, mixed
from models.zoo.registry import zoo_folder
from tests.hostile.card_gradient import SIDE, CardGradient, perturbed

_LABELS = ("other", "smptebars", "testsrc2", "mandelbrot")
_CARDS = 36
_LEVELS = 8.0
_REVIEW = 0.7
_JITTER = 0.08
_FRAMES, _VOTES = 5, 3
_DRAWS = random.Random(11)


@cache
def _model() -> Classifier:
    return Classifier(read_content(load_manifest("standin-cards")))


@cache
def _cards() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cards that the model knows, as analysis has them: (N, 256, 256, 3), and their labels."""
    rng = np.random.default_rng(7)
    pictures, labels = [], []
    while len(pictures) < _CARDS:
        label = 1 + len(pictures) % 3
        drawn = card_pictures.draw_card(rng, _LABELS[label], 8, crop=False)
        picture = np.asarray(cv2.resize(drawn, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)
        if _is_found(picture, label, 0.0):
            pictures.append(picture)
            labels.append(label)
    return np.stack(pictures), np.array(labels)


def _is_found(picture: NDArray[np.uint8], label: int, jitter: float) -> bool:
    """Whether 3 of 5 frames that show the picture reach the score of a review."""
    rule = ModelRule("standin-cards", jitter=jitter)
    votes = 0
    for _ in range(_FRAMES if jitter else 1):
        asking = Asking(draw=_DRAWS.getrandbits(32))
        answers = ask_models([Placed(_model(), rule, 0)], picture, (1280, 720), asking, timed=lambda _: nullcontext())
        votes += {score.label: score.score for score in answers.scores}[_LABELS[label]] >= _REVIEW
    return votes >= (_VOTES if jitter else 1)


def _recall(pictures: NDArray[np.uint8], jitter: float) -> float:
    labels = _cards()[1][: len(pictures)].tolist()
    return float(np.mean([_is_found(*each, jitter) for each in zip(pictures, labels, strict=True)]))


def _crops_of_the_deployment() -> list[tuple[int, int, int, int]]:
    most = int(SIDE * _JITTER)
    cuts = [[_DRAWS.randint(0, most) for _ in range(4)] for _ in range(4)]
    return [(left, top, SIDE - left - right, SIDE - top - bottom) for left, top, right, bottom in cuts]


def test_the_gradient_is_the_models() -> None:
    """What the attack computes is the model: the same scores, and a gradient that finite differences confirm."""
    pictures, labels = _cards()
    small = pictures[:3].reshape(3, 64, 4, 64, 4, 3).mean(axis=(2, 4)).astype(np.float32)
    model = CardGradient(zoo_folder("standin-cards") / "model.onnx")
    logits = model.logits(small).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for picture, share in zip(pictures[:3], shares, strict=True):
        found = _model().score(np.ascontiguousarray(picture), 1280, 720)
        np.testing.assert_allclose([found[label] for label in _LABELS], share, atol=0.01)

    margin, gradient = model.margin(small, labels[:3])
    towards = np.sign(gradient)
    ahead, _ = model.margin(small + 0.01 * towards, labels[:3])
    np.testing.assert_allclose((ahead - margin) / 0.01, np.abs(gradient).sum(axis=(1, 2, 3)), rtol=0.05)


@pytest.mark.parametrize(
    ("count", "steps"), [(9, 8), pytest.param(36, 40, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_random_crops_and_votes_keep_most_of_the_recall(count: int, steps: int) -> None:
    """With the model's weights and 8 of 255 levels, at most 30 % of the cards are lost, whatever the attacker knows."""
    model = CardGradient(zoo_folder("standin-cards") / "model.onnx")
    pictures, labels = (each[:count] for each in _cards())
    unaware = perturbed(model, pictures, labels, lambda: [(0, 0, SIDE, SIDE)], most=_LEVELS, steps=steps)
    aware = perturbed(model, pictures, labels, _crops_of_the_deployment, most=_LEVELS, steps=steps)
    loss = {
        "nothing against it": 1 - _recall(unaware, 0.0),
        "crops": 1 - _recall(unaware, _JITTER),
        "crops, and the attacker knows": 1 - _recall(aware, _JITTER),
    }
    print(f"recall lost of {count} cards, {steps} steps: {loss}")  # noqa: T201 - the figures of docs/models.md

    assert np.abs(unaware.astype(int) - pictures).max() <= _LEVELS
    assert _recall(pictures, _JITTER) == 1.0  # what the crops cost by themselves
    assert loss["crops"] <= 0.3
    assert loss["crops, and the attacker knows"] <= 0.3
    # What is listed is found by its hash all the same.
    assert all(_bits_between(*pair) <= 31 for pair in zip(pictures, unaware, strict=True))
    assert all(_bits_between(*pair) <= 31 for pair in zip(pictures, aware, strict=True))


def _bits_between(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    pdq = hash_algorithms()["pdq"]
    planes = (cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
              for each in (one, other))  # fmt: skip
    first, second = (int.from_bytes(pdq.hash_plane(np.asarray(plane, np.uint8)).value) for plane in planes)
    return (first ^ second).bit_count()


def test_a_thousand_questions_below_the_threshold_get_one_answer() -> None:
    """Nothing that leaves the service tells one score below the review threshold from another."""
    name = "standin-cards/smptebars"
    for step in (Step.SHADOW, Step.REVIEW, Step.CUT):
        settings = PolicySettings(classes={name: ClassRule(step, review=_REVIEW, cut=0.9)})
        history, told = History(), set()
        for number in range(1000):
            score = ClassScore("standin-cards", "smptebars", _DRAWS.uniform(0, _REVIEW - 1e-9), "ab")
            inspection = Inspection(90, True, False, number.to_bytes(32), scores=(score,))
            seen = Observation("s", "s", number, "keyframe", number, number, number, None, False, inspection)
            history, verdict = decide(settings, history, seen)
            told.add((verdict.action, verdict.signals, verdict.votes, verdict.weak_hit, verdict.is_at_cut))
        assert told == {(Step.OFF, (), (0, 5), False, False)}


def test_no_two_frames_are_cropped_alike() -> None:
    """The crops follow the draw: what one frame was shown as says nothing about the next."""
    picture = _cards()[0][0]
    seen = {jittered(picture, _JITTER, mixed(draw, 0)).tobytes() for draw in range(50)}
    assert len(seen) == 50
    assert np.array_equal(jittered(picture, 0.0, 5), picture)
