"""Models made to read other files, to eat memory or time, or to lie, as graphs and as folders with a manifest."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUTPUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
PAIR = numpy_helper.from_array(np.array([1, 2], np.int64), "pair")
"""The shape of two labels' scores."""
MEAN = helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)
EXPAND = helper.make_node("Expand", ["mean", "pair"], ["y"])


def model(
    *nodes: onnx.NodeProto, constants: Sequence[onnx.TensorProto] = (PAIR,), side: int = 8, domain: str = ""
) -> onnx.ModelProto:
    """A graph of the mean of its input and these nodes."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])
    graph = helper.make_graph([MEAN, *nodes], "g", [entry], [OUTPUT], list(constants))
    opsets = [helper.make_opsetid(name, version) for name, version in {domain: 1, "": 17}.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def elsewhere(location: str) -> onnx.ModelProto:
    """Weights in another file: eight bytes that the sha256 does not cover."""
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return model(EXPAND, helper.make_node("Add", ["y", "far"], ["z"]), constants=(PAIR, tensor))


def endless() -> onnx.ModelProto:
    """A loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 2]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2]),
        ],
    )
    start = helper.make_node("Expand", ["mean", "pair"], ["start"])
    loop = helper.make_node("Loop", ["", "true", "start"], ["y"], body=body)
    return model(start, loop, constants=(PAIR, numpy_helper.from_array(np.array(True), "true")))


def sixty_four_gib() -> onnx.ModelProto:
    """A few bytes that unfold to more memory than there is."""
    size = numpy_helper.from_array(np.array([16 * 1024**3], np.int64), "size")
    big = helper.make_node("Expand", ["mean", "size"], ["big"])
    top = helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0)
    return model(big, top, helper.make_node("Expand", ["top", "pair"], ["y"]), constants=(PAIR, size))


def not_a_number() -> onnx.ModelProto:
    """NaN, whatever it is shown."""
    zero = helper.make_node("Sub", ["mean", "mean"], ["zero"])
    nan = helper.make_node("Div", ["zero", "zero"], ["nan"])
    return model(zero, nan, helper.make_node("Expand", ["nan", "pair"], ["y"]))


def three_labels() -> onnx.ModelProto:
    """One score more than its manifest has labels."""
    triple = numpy_helper.from_array(np.array([1, 3], np.int64), "triple")
    return model(helper.make_node("Expand", ["mean", "triple"], ["y"]), constants=(triple,))


HARMFUL: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "beside": (lambda: elsewhere("w"), "another file"),
    "dotted": (lambda: elsewhere("../secret"), "another file"),
    "absolute": (lambda: elsewhere("/etc/hostname"), "another file"),
    "symlink": (lambda: elsewhere("link"), "another file"),
    "hardlink": (lambda: elsewhere("hard"), "another file"),
    "gigantic": (sixty_four_gib, "failed|refuses"),
    "misshapen": (lambda: model(EXPAND, side=9), "its input is|refuses|failed|shape"),
    "mislabelled": (three_labels, "2 labels|outputs"),
    "nan": (not_a_number, "not finite"),
    "custom": (
        lambda: model(helper.make_node("Reverse", ["mean"], ["y"], domain="my.ops"), domain="my.ops"),
        r"domain 'my\.ops'",
    ),
    "truncated": (lambda: model(EXPAND), "damaged|refuses|no graph"),
    "swapped": (lambda: model(EXPAND), "sha256"),
}
"""Every one but the endless loop, with words of the sentence that refuses it."""


def place(folder: Path, name: str, content: bytes) -> str:
    """A model's folder with its manifest; returns what a config calls it."""
    home = folder / name
    home.mkdir()
    (folder / "secret").write_bytes(b"8 bytes!")
    (home / "w").write_bytes(b"8 bytes!")
    (home / "link").symlink_to(folder / "secret")
    os.link(folder / "secret", home / "hard")
    if name == "truncated":
        content = content[: len(content) // 2]
    digest = "a" * 64 if name == "swapped" else hashlib.sha256(content).hexdigest()
    (home / "model.onnx").write_bytes(content)
    (home / "model.yaml").write_text(
        f"schema: 1\nname: {name}\nversion: '1'\nfile: {{path: model.onnx, sha256: {digest}}}\n"
        "license: {weights: MIT, code: MIT, source: here}\n"
        "model_info: {model_type: Classification, labels: [a, b], output_raw_scores: true, layout: NCHW,\n"
        "  reverse_input_channels: true, orig_width: 8, orig_height: 8}\n"
    )
    return str(home)
