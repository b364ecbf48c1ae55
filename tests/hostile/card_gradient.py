"""The stand-in model with its gradient, in numpy: what somebody who has the model's file can compute."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SIDE = 256
_INPUT = 64
_PATCH = 8
_STRIDE = 4
_POSITIONS = 15
_GRID, _CELL = 3, 5

Floats = NDArray[np.float32]


class CardGradient:
    """The network of benchmarks/card_training.py: a convolution, means over a grid, two dense layers."""

    def __init__(self, model: Path) -> None:
        graph = onnx.load(str(model)).graph
        weights = {one.name: np.asarray(onnx.numpy_helper.to_array(one)) for one in graph.initializer}
        self._filters = weights["filters"].reshape(-1, 3 * _PATCH * _PATCH)  # (24, 192), channel-major
        self._filter_bias = weights["filter_bias"]
        self._hidden, self._hidden_bias = weights["hidden"], weights["hidden_bias"]
        self._output, self._output_bias = weights["output"], weights["output_bias"]

    def logits(self, pictures: Floats) -> Floats:
        """The logits (N, 4) of pictures (N, 64, 64, 3), 0-255."""
        return self._forward(pictures)[0]

    def margin(self, pictures: Floats, label: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """By how much `label` leads the best other class (N,), and the gradient of that (N, 64, 64, 3)."""
        logits, active, rectified = self._forward(pictures)
        rows = np.arange(len(pictures))
        others = logits.copy()
        others[rows, label] = -np.inf
        rival = others.argmax(axis=1)
        towards = np.zeros_like(logits)
        towards[rows, label] = 1
        towards[rows, rival] -= 1
        sums = (towards @ self._output.T) * (active > 0)
        cells = (sums @ self._hidden.T).reshape(-1, len(self._filters), _GRID, _GRID) / _CELL**2
        answers = cells.repeat(_CELL, axis=2).repeat(_CELL, axis=3) * (rectified > 0)
        patches = np.einsum("nfyx,fp->nyxp", answers, self._filters, optimize=True)
        patches = patches.reshape(len(pictures), _POSITIONS, _POSITIONS, 3, _PATCH, _PATCH)
        gradient = np.zeros((len(pictures), _INPUT, _INPUT, 3), np.float32)
        reach = _POSITIONS * _STRIDE
        for row in range(_PATCH):
            for column in range(_PATCH):
                place = gradient[:, row : row + reach : _STRIDE, column : column + reach : _STRIDE]
                place += patches[..., row, column][:, : place.shape[1], : place.shape[2]]
        return logits[rows, label] - logits[rows, rival], gradient

    def _forward(self, pictures: Floats) -> tuple[Floats, Floats, Floats]:
        windows = sliding_window_view(pictures, (_PATCH, _PATCH), axis=(1, 2))[:, ::_STRIDE, ::_STRIDE]
        patches = windows.reshape(len(pictures), _POSITIONS, _POSITIONS, -1)
        rectified = np.maximum(np.einsum("nyxp,fp->nfyx", patches, self._filters, optimize=True)
                               + self._filter_bias[:, None, None], 0)  # fmt: skip
        pooled = rectified.reshape(len(pictures), -1, _GRID, _CELL, _GRID, _CELL).mean(axis=(3, 5))
        active = np.maximum(pooled.reshape(len(pictures), -1) @ self._hidden + self._hidden_bias, 0)
        return (active @ self._output + self._output_bias).astype(np.float32), active, rectified


def resampler(start: int, length: int) -> Floats:
    """(64, 256): what of a line of 256 pixels, cropped to `length` from `start` on, becomes the model's 64."""
    cropped = np.eye(SIDE, dtype=np.float32)[start : start + length]
    resized = cv2.resize(cropped, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) if length != SIDE else cropped
    return np.asarray(resized.reshape(_INPUT, SIDE // _INPUT, SIDE).mean(axis=1), np.float32)


def perturbed(
    model: CardGradient,
    pictures: NDArray[np.uint8],
    label: NDArray[np.int64],
    crops: Callable[[], Sequence[tuple[int, int, int, int]]],
    *,
    most: float,
    steps: int,
) -> NDArray[np.uint8]:
    """Projected gradient descent (Madry et al., 2018) within `most` levels of pictures (N, 256, 256, 3).

    `crops` gives (left, top, width, height) to average each step's gradient over: expectation over transformation
    (Athalye et al., 2018) of an attacker who knows how frames are cropped; the whole picture for one who does not.
    """
    clean = pictures.astype(np.float32)
    found = clean.copy()
    for _ in range(steps):
        total: Any = 0
        for left, top, width, height in crops():
            across, down = resampler(left, width), resampler(top, height)
            seen = np.einsum("ay,nyxc,bx->nabc", down, found, across, optimize=True)
            _, gradient = model.margin(seen, label)
            total = total + np.einsum("ay,nabc,bx->nyxc", down, gradient, across, optimize=True)
        found = np.clip(found - 2.5 * most / steps * np.sign(total), clean - most, clean + most)
        found = np.clip(found, 0, 255)
    return np.asarray(np.rint(found), np.uint8)
