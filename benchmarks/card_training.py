"""Trains a small picture classifier with numpy alone and writes it as ONNX.

Filters are the centres of a spherical k-means over whitened patches (Coates and Ng, "Learning Feature Representations
with K-means", 2012), their rectified answers are averaged over a grid, and a perceptron with one hidden layer decides.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]

INPUT_SIDE: Final = 64
_PATCH: Final = 8
_STRIDE: Final = 4
_GRID: Final = 3
_CELL: Final = ((INPUT_SIDE - _PATCH) // _STRIDE + 1) // _GRID
_FILTERS: Final = 24
_HIDDEN: Final = 24
_EPOCHS: Final = 24
_BATCH: Final = 128
_OPSET: Final = 17
_IR_VERSION: Final = 8  # the oldest that carries opset 17; every onnxruntime >= 1.15 reads both


@dataclass(frozen=True, slots=True)
class Network:
    """The weights: filters (192, 24) and their bias, then two dense layers over 216 pooled features."""

    filters: Floats
    filter_bias: Floats
    hidden: Floats
    hidden_bias: Floats
    output: Floats
    output_bias: Floats


def train(rng: Generator, pictures: NDArray[np.uint8], classes: NDArray[np.int64], class_count: int) -> Network:
    """Fit a network to 64x64 RGB pictures (N, 64, 64, 3) and their class numbers."""
    filters, filter_bias = _learn_filters(rng, pictures[rng.permutation(len(pictures))[:1500]])
    features = pooled_features(pictures, filters, filter_bias)
    mean, spread = features.mean(0), features.std(0) + np.float32(1e-4)
    hidden, hidden_bias, output, output_bias = _learn_layers(rng, (features - mean) / spread, classes, class_count)
    # The network sees raw features: their normalisation goes into the hidden layer.
    folded = (hidden / spread[:, None]).astype(np.float32)
    folded_bias = (hidden_bias - (mean / spread) @ hidden).astype(np.float32)
    return Network(filters, filter_bias, folded, folded_bias, output, output_bias)


def pooled_features(pictures: NDArray[np.uint8], filters: Floats, bias: Floats) -> Floats:
    """The network's features (N, 24 * 3 * 3), in the order that a flattened ONNX tensor has."""
    chunks = []
    for start in range(0, len(pictures), 64):
        patches = _patches(pictures[start : start + 64])
        answers = np.maximum(patches @ filters + bias, 0)
        cells = answers.reshape(len(answers), _GRID, _CELL, _GRID, _CELL, filters.shape[1]).mean((2, 4))
        chunks.append(cells.transpose(0, 3, 1, 2).reshape(len(answers), -1))
    return np.concatenate(chunks).astype(np.float32)


def to_onnx(network: Network, labels: tuple[str, ...], properties: dict[str, str]) -> bytes:
    """The network as a self-contained ONNX file: `picture` (N, 3, 64, 64) float32 0-255 RGB in, probabilities out."""
    count = network.filters.shape[1]
    weights = (network.filters / 255).T.reshape(count, 3, _PATCH, _PATCH)
    bias = network.filter_bias - 0.5 * network.filters.sum(0)
    constants = {
        "filters": weights,
        "filter_bias": bias,
        "hidden": network.hidden,
        "hidden_bias": network.hidden_bias,
        "output": network.output,
        "output_bias": network.output_bias,
    }
    nodes = [
        helper.make_node("Conv", ["picture", "filters", "filter_bias"], ["answers"], strides=[_STRIDE, _STRIDE]),
        helper.make_node("Relu", ["answers"], ["rectified"]),
        helper.make_node("AveragePool", ["rectified"], ["cells"], kernel_shape=[_CELL, _CELL], strides=[_CELL, _CELL]),
        helper.make_node("Flatten", ["cells"], ["features"]),
        helper.make_node("Gemm", ["features", "hidden", "hidden_bias"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["active"]),
        helper.make_node("Gemm", ["active", "output", "output_bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "standin-cards",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, INPUT_SIDE, INPUT_SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(labels)])],
        [numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="stopframe"
    )
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _patches(pictures: NDArray[np.uint8]) -> Floats:
    """All patches (N, 15, 15, 192) of the pictures, -0.5 to 0.5, channel-major as ONNX convolves."""
    scaled = pictures.astype(np.float32) / np.float32(255) - np.float32(0.5)
    windows = sliding_window_view(scaled, (_PATCH, _PATCH), axis=(1, 2))[:, ::_STRIDE, ::_STRIDE]
    return windows.reshape(*windows.shape[:3], 3 * _PATCH * _PATCH)


def _learn_filters(rng: Generator, pictures: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    patches = _patches(pictures).reshape(-1, 3 * _PATCH * _PATCH)
    patches = patches[rng.permutation(len(patches))[:40_000]].astype(np.float64)
    mean = patches.mean(0)
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    # 0.02 keeps what is only noise from being blown up.
    whitener = vectors @ np.diag(1 / np.sqrt(values + 0.02)) @ vectors.T
    white = (patches - mean) @ whitener
    centres = white[rng.permutation(len(white))[:_FILTERS]]
    for _ in range(15):
        centres /= np.linalg.norm(centres, axis=1, keepdims=True) + 1e-9
        nearest = (white @ centres.T).argmax(1)
        members = [white[nearest == index] for index in range(_FILTERS)]
        centres = np.stack([own.sum(0) if len(own) else old for own, old in zip(members, centres, strict=True)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True) + 1e-9
    filters = whitener @ centres.T
    threshold = mean @ filters + 0.3 * (patches @ filters).std(0)
    return filters.astype(np.float32), (-threshold).astype(np.float32)


def _learn_layers(
    rng: Generator, features: Floats, classes: NDArray[np.int64], class_count: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Adam (Kingma and Ba, 2015) on the cross entropy, with a cosine step size and a tenth of the inputs dropped."""
    inputs = features.shape[1]
    layers: list[NDArray[Any]] = [
        rng.normal(0, np.sqrt(2 / inputs), (inputs, _HIDDEN)),
        np.zeros(_HIDDEN),
        rng.normal(0, np.sqrt(1 / _HIDDEN), (_HIDDEN, class_count)),
        np.zeros(class_count),
    ]
    first = [np.zeros_like(layer) for layer in layers]
    second = [np.zeros_like(layer) for layer in layers]
    step = 0
    for epoch in range(_EPOCHS):
        rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * epoch / _EPOCHS))
        order = rng.permutation(len(features))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            chosen = order[start : start + _BATCH]
            batch = features[chosen] * (rng.random((len(chosen), inputs)) > 0.1)
            step += 1
            for index, slope in enumerate(_slopes(layers, batch, classes[chosen])):
                first[index] = 0.9 * first[index] + 0.1 * slope
                second[index] = 0.999 * second[index] + 0.001 * slope**2
                move = first[index] / (1 - 0.9**step) / (np.sqrt(second[index] / (1 - 0.999**step)) + 1e-8)
                layers[index] = layers[index] - rate * move
    hidden, hidden_bias, output, output_bias = (layer.astype(np.float32) for layer in layers)
    return hidden, hidden_bias, output, output_bias


def _slopes(layers: list[NDArray[Any]], batch: NDArray[Any], classes: NDArray[np.int64]) -> list[NDArray[Any]]:
    hidden, hidden_bias, output, output_bias = layers
    active = np.maximum(batch @ hidden + hidden_bias, 0)
    logits = active @ output + output_bias
    powers = np.exp(logits - logits.max(1, keepdims=True))
    error = powers / powers.sum(1, keepdims=True)
    error[np.arange(len(classes)), classes] -= 1
    error /= len(classes)
    back = (error @ output.T) * (active > 0)
    return [batch.T @ back + 1e-4 * hidden, back.sum(0), active.T @ error + 1e-4 * output, error.sum(0)]
