"""Which model is asked about which frame: cascades, scores that are used again, and what must never be."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.asking import Placed, ask_models
from models.cascade import (
    SAME_BLOCK_LEVELS,
    SAME_PIXEL_LEVELS,
    SUSPICION_SECONDS,
    TEST,
    Asking,
    ModelRule,
    TrackModels,
    in_order,
    is_same_picture,
)
from models.evidence import ClassScore, Inspection, ModelUse

_SIZE = (1280, 720)
_CHEAP = ModelRule("cheap", reuse_seconds=2.0)
_DEAR = ModelRule("dear", after={"cheap/a": 0.2})


class _Model:
    sha256 = "ab" * 32

    def __init__(self, name: str, score: float | None) -> None:
        self.name = name
        self.answer = score
        self.seen = 0

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        self.seen += 1
        if self.answer is None:
            raise RuntimeError("broken")
        return {"a": self.answer}


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class _Track:
    """A track whose frames go through two models, with a clock of its own."""

    def __init__(self, *rules: ModelRule, scores: dict[str, float | None]) -> None:
        self.rules = rules
        self.models = {rule.name: _Model(rule.name, scores[rule.name]) for rule in rules if rule.name in scores}
        self.track = TrackModels(rules)
        self.now = 100.0

    def show(self, picture: NDArray[np.uint8]) -> Inspection:
        asking = self.track.ask(picture.tobytes(), _SIZE, self.now)
        placed = [Placed(self.models[rule.name], rule, place) for place, rule in enumerate(self.rules)
                  if rule.name in self.models]  # fmt: skip
        answers = ask_models(placed, picture, _SIZE, asking, timed=lambda _: _Nothing())
        found = Inspection(
            90, True, False, bytes(32), scores=tuple(answers.scores), failed_models=tuple(answers.failed),
            model_uses=tuple(answers.uses),
        )  # fmt: skip
        return self.track.heard(picture.tobytes(), _SIZE, found, self.now)


def _picture(seed: int = 1) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_a_dear_model_is_asked_where_the_cheap_one_calls_and_for_a_while_after() -> None:
    """On the frame itself, on every frame of the next ten seconds, and then no more."""
    track = _Track(replace(_CHEAP, reuse_seconds=0.0), _DEAR, scores={"cheap": 0.1, "dear": 0.9})
    track.show(_picture(1))
    assert track.models["dear"].seen == 0
    track.models["cheap"].answer = 0.2
    track.show(_picture(2))
    assert track.models["dear"].seen == 1
    track.models["cheap"].answer = 0.0
    track.now += SUSPICION_SECONDS - 0.1
    found = track.show(_picture(3))
    assert track.models["dear"].seen == 2
    assert {score.model for score in found.scores} == {"cheap", "dear"}
    track.now += 0.2
    found = track.show(_picture(4))
    assert track.models["dear"].seen == 2
    assert found.model_uses == (ModelUse("cheap", looks=1), ModelUse("dear", is_spared=True))


@pytest.mark.parametrize("scores", [{"cheap": None, "dear": 0.9}, {"dear": 0.9}])
def test_a_cheap_model_that_fails_switches_no_dear_one_off(scores: dict[str, float | None]) -> None:
    """Where it raises, or was taken out of use, the dear one sees every frame."""
    track = _Track(_CHEAP, _DEAR, scores=scores)
    for seed in range(3):
        track.show(_picture(seed))
    assert track.models["dear"].seen == 3


def test_the_self_test_asks_everybody() -> None:
    """Neither a cascade nor a score that is known keeps a model from its test."""
    models = [_Model("cheap", 0.0), _Model("dear", 0.0)]
    placed = [
        Placed(model, rule, place) for place, (model, rule) in enumerate(zip(models, (_CHEAP, _DEAR), strict=True))
    ]
    ask_models(placed, _picture(), _SIZE, TEST, timed=lambda _: _Nothing())
    assert [model.seen for model in models] == [1, 1]


def test_an_unchanged_picture_keeps_its_scores_for_a_bounded_time() -> None:
    """Noise changes nothing; after two seconds from the look, however often it was used, the model looks again."""
    track = _Track(_CHEAP, scores={"cheap": 0.4})
    noise = np.random.default_rng(2)
    picture = _picture()
    first = track.show(picture)
    assert [score.is_reused for score in first.scores] == [False]
    for step in range(1, 20):
        track.now = 100 + step * 0.1
        seen = np.clip(picture + noise.integers(-2, 3, picture.shape), 0, 255).astype(np.uint8)
        found = track.show(seen)
        assert [(score.score, score.is_reused) for score in found.scores] == [(0.4, True)]
        assert found.model_uses == (ModelUse("cheap", is_reused=True),)
    assert track.models["cheap"].seen == 1
    track.now = 102.0
    track.show(picture)
    assert track.models["cheap"].seen == 2


@given(seed=st.integers(0, 99), per_frame=st.floats(0.3, 6.0), is_local=st.booleans())
@settings(max_examples=20, deadline=None)
def test_no_fade_and_no_creeping_corner_keeps_a_score(*, seed: int, per_frame: float, is_local: bool) -> None:
    """Whatever is shown while a score is used again lies within the bounds of the very picture that was scored."""
    track = _Track(replace(_CHEAP, reuse_seconds=10.0), scores={"cheap": 0.0})
    begin, end = _picture(seed).astype(np.float64), _picture(seed + 1000).astype(np.float64)
    scored = begin
    for step in range(12):
        track.now += 0.04
        share = min(1.0, step * per_frame / 255)
        shown = begin + (end - begin) * share
        if is_local:
            shown = np.where(np.pad(np.ones((12, 12)), (0, 244))[..., None] > 0, shown, begin)
        picture = np.rint(shown).astype(np.uint8)
        found = track.show(picture)
        if not found.scores[0].is_reused:
            scored = picture.astype(np.float64)
        apart = np.abs(picture - scored)
        assert apart.max() <= SAME_PIXEL_LEVELS
        assert apart.reshape(32, 8, 32, 8, 3).mean(axis=(1, 3)).max() <= SAME_BLOCK_LEVELS + 0.5  # whole levels


def test_a_pattern_that_a_smaller_picture_would_not_show_is_a_change() -> None:
    """Stripes of single pixels whose mean is the picture's: the model may see them, so they are news."""
    gray = np.full((256, 256, 3), 128, np.uint8)
    striped = gray.copy()
    striped[100:130, 100:130:2] += 12
    striped[100:130, 101:130:2] -= 12
    assert not is_same_picture(gray.tobytes(), striped.tobytes())


def test_the_same_pixels_of_another_shape_are_looked_at_again() -> None:
    """Preprocessing goes by the frame's size."""
    track = TrackModels([_CHEAP])
    picture = _picture().tobytes()
    found = Inspection(
        90, True, False, bytes(32), scores=(ClassScore("cheap", "a", 0.1, "ab"),), model_uses=(ModelUse("cheap", 1),)
    )
    track.ask(picture, _SIZE, 0.0)
    track.heard(picture, _SIZE, found, 0.0)
    assert track.ask(picture, (720, 1280), 0.1).rested == 0
    track.heard(picture, _SIZE, found, 0.2)
    assert track.ask(picture, _SIZE, 0.3).rested == 1


@pytest.mark.parametrize(
    "found",
    [
        Inspection(90, True, False, bytes(32), failed_models=("cheap",), model_uses=(ModelUse("cheap", 1),)),
        Inspection(
            90, True, False, bytes(32), scores=(ClassScore("cheap", "a", 0.1, "ab"),),
            model_uses=(ModelUse("cheap", 3, left_out=1),),
        ),
        Inspection(90, True, True, bytes(32)),
    ],
)  # fmt: skip
def test_what_was_no_whole_answer_is_not_used_again(found: Inspection) -> None:
    """A failure, a frame of which parts were left out, and a frame without anything to see."""
    track = TrackModels([_CHEAP])
    track.ask(_picture().tobytes(), _SIZE, 0.0)
    track.heard(_picture().tobytes(), _SIZE, found, 0.0)
    assert track.ask(_picture().tobytes(), _SIZE, 0.1).rested == 0


def test_an_answer_that_claims_to_be_known_without_having_been_asked_to_is_ignored() -> None:
    """An analysis process cannot have an old score repeated."""
    track = TrackModels([_CHEAP])
    track.ask(_picture(1).tobytes(), _SIZE, 0.0)
    lie = Inspection(90, True, False, bytes(32), model_uses=(ModelUse("cheap", is_reused=True),))
    assert track.heard(_picture(1).tobytes(), _SIZE, lie, 0.0).scores == ()


def test_a_frame_that_only_moved_is_shown_to_models_on_suspicion_alone() -> None:
    """The frame beside it was; while something speaks against the stream each of them is looked at."""
    track = TrackModels([_CHEAP, _DEAR])
    cheap = _Model("cheap", 0.1)
    asking = track.ask(_picture().tobytes(), _SIZE, 0.0, is_moved=True)
    answers = ask_models([Placed(cheap, _CHEAP, 0)], _picture(), _SIZE, asking, timed=lambda _: _Nothing())

    assert (cheap.seen, answers.scores, answers.uses) == (0, [], [ModelUse("cheap", is_spared=True)])
    assert not track.ask(_picture().tobytes(), _SIZE, 0.0).spares_all
    track.suspect(1.0)
    assert not track.ask(_picture().tobytes(), _SIZE, 1.0, is_moved=True).spares_all
    assert track.ask(_picture().tobytes(), _SIZE, 1.0 + SUSPICION_SECONDS, is_moved=True).spares_all


def test_models_stand_behind_those_they_wait_for() -> None:
    """Whatever their order in the config; circles and models that are not there are refused in one sentence."""
    last = ModelRule("last", after={"dear/a": 0.5})
    assert [rule.name for rule in in_order([last, _DEAR, _CHEAP])] == ["cheap", "dear", "last"]
    with pytest.raises(ValueError, match="wait for each other"):
        in_order([ModelRule("a", after={"b/x": 0.1}), ModelRule("b", after={"a/x": 0.1})])
    with pytest.raises(ValueError, match="no such model"):
        in_order([_DEAR])


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5), st.floats(0, 4)), max_size=30))
def test_every_model_is_accounted_for_on_every_frame(frames: list[tuple[float, int, float]]) -> None:
    """Each is asked, spared or has its score reused; scores of all that were not spared are there, none twice."""
    track = _Track(_CHEAP, _DEAR, scores={"cheap": 0.0, "dear": 0.5})
    pictures = [_picture(seed) for seed in range(6)]
    for score, seed, pause in frames:
        track.models["cheap"].answer = score
        track.now += pause
        found = track.show(pictures[seed])
        assert [use.model for use in found.model_uses] == ["cheap", "dear"]
        named = [(one.model, one.label) for one in found.scores]
        assert len(named) == len(set(named))
        assert {model for model, _ in named} == {use.model for use in found.model_uses if not use.is_spared}
        for use in found.model_uses:
            assert (use.looks > 0) + use.is_spared + use.is_reused == 1


def test_suspicion_from_elsewhere_lasts_and_ends() -> None:
    """A match or a vote has parts looked at for ten seconds."""
    track = TrackModels([_CHEAP])
    picture = _picture().tobytes()
    assert not track.ask(picture, _SIZE, 0.0).is_suspicious
    track.suspect(0.0)
    assert track.ask(picture, _SIZE, SUSPICION_SECONDS - 0.1).is_suspicious
    assert not track.ask(picture, _SIZE, SUSPICION_SECONDS).is_suspicious


def test_a_score_that_voted_is_not_used_again() -> None:
    """Votes are to be looks of their own: after a vote the same picture is shown to the model once more."""
    track = _Track(_CHEAP, scores={"cheap": 0.9})
    for _ in range(3):
        assert not track.show(_picture()).scores[0].is_reused
        track.track.suspect(track.now)
        track.now += 0.1
    assert track.models["cheap"].seen == 3


def test_what_is_known_is_nothing_to_begin_with() -> None:
    """A track's first frame is shown to whoever the rules say."""
    assert TrackModels([_CHEAP, _DEAR]).ask(_picture().tobytes(), _SIZE, 0.0) == Asking(turn=1)
