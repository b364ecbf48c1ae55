"""From a model's outputs to one score per label: single-label, multi-label and boxes.

Outputs are hostile until checked: each shape is compared with what the head promises, the number of boxes has a limit,
and a value that is not finite is refused wherever it stands, also where the score does not depend on it.

Layouts of boxes: RT-DETR as Hugging Face exports it (`logits` [N,Q,C] before the sigmoid and `pred_boxes` [N,Q,4];
huggingface/transformers, modeling_rt_detr.py) and YOLOX ([N,A,5+C]: box, objectness, classes;
Megvii-BaseDetection/YOLOX, yolo_head.py).
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.model_info import ModelInfo

MAX_BOXES: Final = 50_000
"""YOLOX has 33,600 anchors at 1280x1280, the largest size its authors train."""

_RANGE_SLACK: Final = 1e-3
"""How far a probability may stand outside 0..1 by rounding (a softmax in bf16 sums to 1 within 4e-3)."""


class HeadError(ValueError):
    """The outputs are not what the head promises. One sentence without the model's name."""


class Head(Protocol):
    """Which outputs are asked for, and how they become scores."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that `scores` wants, in its order."""

    def scores(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """One score of 0-1 per label, float64, from the outputs of one picture (batch size 1).

        Raises:
            HeadError: A shape, type or value is wrong.
        """


def make_head(info: ModelInfo, names: Sequence[str]) -> Head:
    """The head that `info` describes, for a model whose outputs have these names.

    Raises:
        HeadError: The model has no such outputs.
    """
    if not names:
        raise HeadError("it has no output; a classifier has one")
    if info.box_head == "RT-DETR":
        missing = [name for name in _RtDetr.outputs if name not in names]
        if missing:
            raise HeadError(f"it has no output {' and '.join(missing)}; export RT-DETR without its post-processing")
        return _RtDetr(info)
    if info.box_head == "YOLOX":
        return _Yolox(info, names[0])
    return _Classes(info, names[0])


def is_share(outputs: Sequence[NDArray[Any]]) -> bool:
    """Whether the values look as after a softmax: none below 0, all together 1."""
    values = outputs[0].astype(np.float64)
    return values.size > 1 and bool(values.min() >= 0.0) and abs(float(values.sum()) - 1.0) <= _RANGE_SLACK


class _Classes:
    """One value per label: softmax over all, or each label by itself."""

    def __init__(self, info: ModelInfo, name: str) -> None:
        self.outputs = (name,)
        self._info = info

    def scores(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        raw, count = outputs[0], len(self._info.labels)
        if raw.shape not in {(1, count), (count,), (1, count, 1, 1)} or raw.dtype.kind not in "fiu":
            raise HeadError(f"its output is {list(raw.shape)} for {count} labels; list one label per output")
        values = _finite(raw).reshape(count)
        if self._info.output_raw_scores:
            return _sigmoid(values) if self._info.multilabel else _softmax(values)
        return _probabilities(values)


class _RtDetr:
    """Queries with a logit per label; the loss is a sigmoid's, so labels do not share out one probability."""

    outputs = ("logits", "pred_boxes")

    def __init__(self, info: ModelInfo) -> None:
        self._info = info

    def scores(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        logits, boxes = outputs
        _check_boxes(logits, len(self._info.labels), "logits")
        _check_boxes(boxes, 4, "pred_boxes")
        if logits.shape[1] != boxes.shape[1]:
            raise HeadError(f"it has {logits.shape[1]} logits and {boxes.shape[1]} boxes; export it again")
        _finite(boxes)
        # A sigmoid keeps the order, so the best logit is the best score.
        best = _finite(logits)[0].max(axis=0)
        best = _sigmoid(best) if self._info.output_raw_scores else _probabilities(best)
        return _above(best, self._info.confidence_threshold)


class _Yolox:
    """Anchors with a box, an objectness and a value per label; the score of a label is their product."""

    def __init__(self, info: ModelInfo, name: str) -> None:
        self.outputs = (name,)
        self._info = info

    def scores(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        _check_boxes(outputs[0], 5 + len(self._info.labels), "its output")
        values = _finite(outputs[0])[0, :, 4:]
        values = _sigmoid(values) if self._info.output_raw_scores else _probabilities(values)
        best = (values[:, :1] * values[:, 1:]).max(axis=0)
        return _above(best, self._info.confidence_threshold)


def _check_boxes(values: NDArray[Any], width: int, what: str) -> None:
    if values.ndim != 3 or values.shape[0] != 1 or values.shape[2] != width or values.dtype.kind != "f":
        raise HeadError(
            f"{what} is {values.dtype} {list(values.shape)}, boxes need [1, boxes, {width}]; mend labels or box_head"
        )
    if not 1 <= values.shape[1] <= MAX_BOXES:
        raise HeadError(f"{what} holds {values.shape[1]} boxes; 1 to {MAX_BOXES} are read")


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise HeadError("its output is not finite; check its input normalisation")
    return values.astype(np.float64)


def _probabilities(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.min() < -_RANGE_SLACK or values.max() > 1 + _RANGE_SLACK:
        raise HeadError(f"its output {values.min():g}..{values.max():g} is no probability; set output_raw_scores")
    return np.clip(values, 0.0, 1.0)


def _above(scores: NDArray[np.float64], lowest: float) -> NDArray[np.float64]:
    return np.where(scores >= lowest, scores, 0.0)


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # the ends of float64 lie further apart than it reaches: nothing is left of one
        powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Written so that no exponent is positive: exp(1000) is a warning and an infinity.
    powers = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, powers) / (1.0 + powers)
