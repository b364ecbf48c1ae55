"""Asks the classifiers about one frame: in their order, those that are called for, of the whole and of its parts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.cascade import Asking, ModelRule
from models.evidence import WHOLE, ClassScore, ModelUse
from models.frame_shape import PICTURE_SIDE
from models.tiles import Parts, cut_out, jittered, mixed, parts_of, region


class Scorer(Protocol):
    """A classifier as it is asked here: a name, the SHA-256 of its weights, and scores of 0-1 by label.

    It may say what runs it in `provider`, with a `name` and a `precision`, and by a true `wants_shape` that it takes
    pictures in the frame's own shape.
    """

    @property
    def name(self) -> str:
        """What alerts and metrics call it."""
        ...

    @property
    def sha256(self) -> str:
        """Of the weights."""
        ...

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """Score a (256, 256, 3) uint8 RGB picture of a frame that was `width` x `height` pixels."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A classifier with its rule, and its place among all models that are configured."""

    classifier: Scorer
    rule: ModelRule
    place: int


@dataclass(slots=True)
class Answers:
    """What the models said of one frame."""

    scores: list[ClassScore] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    uses: list[ModelUse] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Look:
    view: str
    picture: NDArray[np.uint8]
    width: int
    height: int


def placed(classifiers: Sequence[Scorer]) -> tuple[Placed, ...]:
    """Classifiers that are all asked about every frame."""
    return tuple(Placed(one, ModelRule(one.name), place) for place, one in enumerate(classifiers))


def ask_models(
    models: Sequence[Placed],
    picture: NDArray[np.uint8],
    size: tuple[int, int],
    asking: Asking,
    *,
    timed: Callable[[str], Any],
    shaped: NDArray[np.uint8] | None = None,
) -> Answers:
    """Ask `models`, those that others wait for first, about a (256, 256, 3) uint8 RGB picture of a frame of `size`.

    `shaped` (rows, columns, 3) is the same frame in its own shape, for the models that want that; parts that are shown
    to others are cut from it, too.
    A label's score is the highest of all looks, and names that look. A model that raises, or that answers with anything
    but numbers of 0-1, has failed; the others' answers stand. `timed` is a context manager for each model's stage.
    """
    answers = Answers()
    reached: dict[str, float] = {}
    heard: set[str] = set()
    parts: Parts | None = None
    for model in models:
        name, rule = model.classifier.name, model.rule
        if asking.spares_all and not asking.is_test:
            answers.uses.append(ModelUse(name, is_spared=True))
            continue
        if asking.rested >> model.place & 1:
            answers.uses.append(ModelUse(name, is_reused=True))
            heard.add(name)
            continue
        if not (asking.awake >> model.place & 1 or rule.is_called(reached, heard)):
            answers.uses.append(ModelUse(name, is_spared=True))
            heard.add(name)
            continue
        with timed(name):
            own = shaped if getattr(model.classifier, "wants_shape", False) else None
            looks, left_out = [_Look(WHOLE, picture if own is None else own, *size)], 0
            if rule.has_tiles and not asking.is_test:
                parts = parts_of(picture, asking) if parts is None else parts
                looks += _looks_at(parts, picture if shaped is None else shaped, size, is_shaped=own is not None)
                left_out = parts.left_out
            best = _best(model, looks, asking)
        answers.uses.append(ModelUse(name, len(looks), left_out))
        if best is None:
            answers.failed.append(name)
            continue
        heard.add(name)
        scores = _scores(model.classifier, best)
        answers.scores += scores
        reached |= {f"{name}/{score.label}": score.score for score in scores}
    return answers


def _looks_at(parts: Parts, picture: NDArray[np.uint8], size: tuple[int, int], *, is_shaped: bool) -> list[_Look]:
    width, height = size
    return [
        _Look(
            part.name,
            region(picture, part) if is_shaped else cut_out(picture, part),
            max(1, round(width * part.width / PICTURE_SIDE)),
            max(1, round(height * part.height / PICTURE_SIDE)),
        )
        for part in parts.chosen
    ]


def _best(model: Placed, looks: Sequence[_Look], asking: Asking) -> dict[str, tuple[float, str]] | None:
    best: dict[str, tuple[float, str]] = {}
    for number, look in enumerate(looks):
        picture = look.picture
        if model.rule.jitter and not asking.is_test:
            picture = jittered(picture, model.rule.jitter, mixed(asking.draw, model.place << 8 | number))
        answer = _answer(model.classifier, picture, look.width, look.height)
        if answer is None:
            return None
        for label, score in answer.items():
            if label not in best or score > best[label][0]:
                best[label] = (score, look.view)
    return best


def _scores(classifier: Scorer, best: Mapping[str, tuple[float, str]]) -> list[ClassScore]:
    provider = getattr(classifier, "provider", None)
    runs_on = (getattr(provider, "name", ""), getattr(provider, "precision", ""))
    return [
        ClassScore(classifier.name, label, score, classifier.sha256, *runs_on, view)
        for label, (score, view) in best.items()
    ]


def _answer(classifier: Scorer, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float] | None:
    try:
        answer: object = classifier.score(picture, width, height)
    except Exception:  # noqa: BLE001 -- a model is third-party code: whatever it raises, the hashes must still count
        return None
    if not isinstance(answer, Mapping) or not answer or not all(_is_score(score) for score in answer.values()):
        return None
    return {str(label): float(score) for label, score in answer.items()}


def _is_score(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and 0 <= value <= 1
