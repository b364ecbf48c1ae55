"""Outputs become one score per label, and only outputs of the promised shape do."""

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from models.heads import MAX_BOXES, HeadError, is_share, make_head
from models.model_info import ModelInfo

CLASSES = ModelInfo(
    model_type="Classification",
    labels=("a", "b"),
    multilabel=False,
    output_raw_scores=True,
    layout="NCHW",
    input_dtype="f32",
    reverse_input_channels=True,
    resize_type="standard",
    orig_width=8,
    orig_height=8,
    center_crop=None,
    interpolation_mode="LINEAR",
    pad_value=0,
    mean_values=(0.0, 0.0, 0.0),
    scale_values=(1.0, 1.0, 1.0),
)
RT_DETR = dataclasses.replace(CLASSES, model_type="Detection", box_head="RT-DETR")
YOLOX = dataclasses.replace(RT_DETR, box_head="YOLOX", output_raw_scores=False)
BOXES = np.zeros((1, 3, 4), np.float32)


def logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


def f32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


@pytest.mark.parametrize("shape", [(1, 2), (2,), (1, 2, 1, 1)])
def test_single_labels_share_one_probability(shape: tuple[int, ...]) -> None:
    """A softmax over raw scores, in every shape that exporters use for one picture."""
    head = make_head(CLASSES, ["y", "more"])
    assert head.outputs == ("y",)
    assert head.scores([f32([0, logit(0.9)]).reshape(shape)]).tolist() == pytest.approx([0.1, 0.9], abs=1e-6)


def test_the_widest_doubles_are_scored_without_a_warning() -> None:
    """A model may answer in float64, whose two ends lie further apart than it can say."""
    head = make_head(CLASSES, ["y"])
    assert head.scores([np.array([[1.7e308, -1.7e308]])]).tolist() == [1.0, 0.0]


def test_several_labels_stand_alone() -> None:
    """A sigmoid for each label; scores that are probabilities already are handed on."""
    head = make_head(dataclasses.replace(CLASSES, multilabel=True), ["y"])
    assert head.scores([f32([[logit(0.3), 1000]])]).tolist() == pytest.approx([0.3, 1.0], abs=1e-6)

    finished = make_head(dataclasses.replace(CLASSES, output_raw_scores=False), ["y"])
    assert finished.scores([f32([[0.3, 1.0005]])]).tolist() == pytest.approx([0.3, 1.0], abs=1e-6)


def test_the_best_query_of_rt_detr_scores_its_label() -> None:
    """Each label takes its best of all queries, and nothing below the configured minimum."""
    logits = f32([[[logit(0.2), logit(0.6)], [logit(0.7), logit(0.1)], [-1000, 0]]])
    assert make_head(RT_DETR, ["pred_boxes", "logits"]).outputs == ("logits", "pred_boxes")
    scores = make_head(RT_DETR, ["logits", "pred_boxes"]).scores([logits, BOXES])
    assert scores.tolist() == pytest.approx([0.7, 0.6], abs=1e-6)

    strict = make_head(dataclasses.replace(RT_DETR, confidence_threshold=0.65), ["logits", "pred_boxes"])
    assert strict.scores([logits, BOXES]).tolist() == pytest.approx([0.7, 0.0], abs=1e-6)


def test_an_anchor_of_yolox_scores_what_it_is_times_that_it_is() -> None:
    """Objectness times class, of the best anchor; the box itself may lie anywhere."""
    anchors = f32([[[9000, -3, 1, 1, 0.5, 0.9, 0.1], [0, 0, 1, 1, 0.8, 0.2, 0.5]]])
    assert make_head(YOLOX, ["output"]).scores([anchors]).tolist() == pytest.approx([0.45, 0.4], abs=1e-6)


@pytest.mark.parametrize(
    ("info", "outputs", "words"),
    [
        (CLASSES, [f32([[0, 1, 2]])], "one label per output"),
        (CLASSES, [np.array([["a", "b"]])], "one label per output"),
        (CLASSES, [f32([[0, np.inf]])], "not finite"),
        (RT_DETR, [f32(np.zeros((1, 3, 5))), BOXES], "mend labels or box_head"),
        (RT_DETR, [f32(np.zeros((2, 3, 2))), BOXES], "mend labels or box_head"),
        (RT_DETR, [f32(np.zeros((1, 3, 2))), BOXES[:, :2]], "3 logits and 2 boxes"),
        (RT_DETR, [f32(np.zeros((1, 3, 2))), BOXES * np.nan], "not finite"),
        (RT_DETR, [f32(np.zeros((1, 0, 2))), BOXES[:, :0]], "0 boxes"),
        (YOLOX, [f32(np.zeros((1, 3, 6)))], "mend labels or box_head"),
        (YOLOX, [np.zeros((1, 3, 7), np.int64)], "mend labels or box_head"),
        (YOLOX, [f32(np.full((1, 3, 7), 7))], "set output_raw_scores"),
        (YOLOX, [np.broadcast_to(f32(0), (1, MAX_BOXES + 1, 7))], f"1 to {MAX_BOXES}"),
    ],
)
def test_outputs_of_another_kind_are_refused(info: ModelInfo, outputs: list[NDArray[Any]], words: str) -> None:
    """Wrong shapes, types, counts and values end in one sentence that names what to mend."""
    with pytest.raises(HeadError, match=words):
        make_head(info, ["logits", "pred_boxes"]).scores(outputs)


def test_outputs_that_are_not_there_are_refused() -> None:
    """A model without the outputs of its head is found before its first picture."""
    with pytest.raises(HeadError, match="no output logits and pred_boxes"):
        make_head(RT_DETR, ["labels", "boxes", "scores"])
    with pytest.raises(HeadError, match="no output"):
        make_head(CLASSES, [])


@given(
    info=st.sampled_from([CLASSES, RT_DETR, YOLOX]),
    first=arrays(np.float32, array_shapes(max_dims=4, max_side=7), elements=st.floats(width=32)),
    second=arrays(np.float32, array_shapes(max_dims=4, max_side=7), elements=st.floats(width=32)),
)
def test_any_output_scores_or_is_refused(info: ModelInfo, first: NDArray[Any], second: NDArray[Any]) -> None:
    """No array makes a head raise another error or answer outside 0..1."""
    scores = np.zeros(2)
    with contextlib.suppress(HeadError):
        scores = make_head(info, ["logits", "pred_boxes"]).scores([first, second])
    assert scores.shape == (2,)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_share_is_told_from_raw_scores() -> None:
    """Values that are not negative and add up to 1 look finished; one value alone says nothing."""
    assert is_share([f32([[0.25, 0.75]])])
    assert not is_share([f32([[-0.5, 1.5]])])
    assert not is_share([f32([[0.5, 0.75]])])
    assert not is_share([f32([[1.0]])])
