"""Model files made to read other files, to eat memory or time, or to lie: each is refused in one sentence."""

import hashlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.classifier import Classifier, ModelStopped, ModelUnusable, StopSwitch
from models.manifest import Manifest, load_manifest
from models.manifest_yaml import ManifestError
from models.onnx_scan import STANDARD_DOMAINS, UnsafeModelError, refuse_unsafe
from models.zoo.registry import zoo_folder

INPUT = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
OUTPUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
STANDIN = (zoo_folder("standin-cards") / "model.onnx").read_bytes()


def build(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], opsets: tuple[tuple[str, int], ...] = (("", 17),)
) -> onnx.ModelProto:
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)
    graph = helper.make_graph([mean, *nodes], "g", [INPUT], [OUTPUT], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], ir_version=8)


def constant(name: str, value: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


PAIR = constant("pair", np.array([1, 2], np.int64))
EXPAND = helper.make_node("Expand", ["mean", "pair"], ["y"])


def place(folder: Path, content: bytes) -> Manifest:
    (folder / "model.onnx").write_bytes(content)
    (folder / "model.yaml").write_text(
        "schema: 1\nname: trap\nversion: '1'\n"
        f"file: {{path: model.onnx, sha256: {hashlib.sha256(content).hexdigest()}}}\n"
        "license: {weights: MIT, code: MIT, source: here}\n"
        "model_info: {model_type: Classification, labels: [a, b], output_raw_scores: true, layout: NCHW,\n"
        "  reverse_input_channels: true, orig_width: 8, orig_height: 8}\n"
    )
    return load_manifest(folder)


def refuse(folder: Path, content: bytes, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(ModelUnusable, match=words) as caught:
        Classifier(place(folder, content))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 10


def external(location: str) -> onnx.ModelProto:
    tensor = constant("pair2", np.zeros(2, np.float32))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return build([EXPAND, helper.make_node("Add", ["y", "pair2"], ["z"])], [PAIR, tensor])


@pytest.mark.parametrize("way", ["beside", "dotted", "absolute", "symlink", "hardlink"])
def test_weights_in_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """No path makes the runtime read a file that the sha256 does not cover."""
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    secret = tmp_path / "secret"
    secret.write_bytes(b"8 bytes!")
    location = {"beside": "w", "dotted": "../secret", "absolute": str(secret)}.get(way, "w")
    if way == "symlink":
        (folder / "w").symlink_to(secret)
    elif way == "hardlink":
        os.link(secret, folder / "w")
    elif way == "beside":
        (folder / "w").write_bytes(b"8 bytes!")
    refuse(folder, external(location).SerializeToString(), "another file")


def test_weights_in_other_files_are_found_inside_loops(tmp_path: Path) -> None:
    """External data hides nowhere: not in a Constant, not in a graph inside a node, not in a sparse tensor."""
    tensor = external("../secret").graph.initializer[1]
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    loop = helper.make_node("Loop", ["", ""], [], body=inner)
    sparse = onnx.SparseTensorProto(values=tensor, dims=[2])
    hidden = helper.make_node("Constant", [], ["c"], sparse_value=sparse)

    refuse(tmp_path, build([loop], []).SerializeToString(), "another file")
    refuse(tmp_path, build([hidden], []).SerializeToString(), "another file")


def test_a_tensor_of_64_gib_is_refused(tmp_path: Path) -> None:
    """A few bytes that unfold to more memory than there is end in a sentence, not in a dead process."""
    size = constant("size", np.array([16 * 1024**3], np.int64))
    nodes = [
        helper.make_node("Expand", ["mean", "size"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0),
        helper.make_node("Expand", ["top", "pair"], ["y"]),
    ]
    refuse(tmp_path, build(nodes, [size, PAIR]).SerializeToString(), "failed|refuses")

    claimed = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[16 * 1024**3])
    add = helper.make_node("Add", ["mean", "big"], ["y"])
    refuse(tmp_path, build([add], [claimed]).SerializeToString(), "refuses")


def endless() -> bytes:
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
    return build([start, loop], [PAIR, constant("true", np.array(True))]).SerializeToString()


def test_an_endless_loop_is_stopped_from_outside(tmp_path: Path) -> None:
    """A watchdog with the switch ends a model that never answers, already in its warm-up."""
    switch = StopSwitch()
    watchdog = threading.Timer(0.3, switch.stop)
    started = time.monotonic()
    watchdog.start()
    with pytest.raises(ModelStopped, match="model trap"):
        Classifier(place(tmp_path, endless()), stop_switch=switch)
    watchdog.join()

    assert 0.2 < time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Reverse", ["mean"], ["y"], domain="my.ops")], r"domain 'my\.ops'"),
        ([helper.make_node("Gelu", ["mean"], ["y"], domain="com.microsoft")], r"domain 'com\.microsoft'"),
        ([helper.make_node("Nonesuch", ["mean"], ["y"])], "refuses it"),
        ([helper.make_node("Identity", ["nowhere"], ["y"])], "refuses it"),
        ([EXPAND, helper.make_node("Div", ["mean", "mean"], ["z"])], "refuses|outputs|failed|2 labels"),
    ],
    ids=["custom operator", "vendor operator", "unknown operator", "no such input", "double name"],
)
def test_operators_from_elsewhere_are_refused(tmp_path: Path, nodes: list[onnx.NodeProto], words: str) -> None:
    """Only what the ONNX project specifies runs; everything else names its domain."""
    model = build(nodes, [], (("", 17), ("com.microsoft", 1)))
    refuse(tmp_path, model.SerializeToString(), words)


def test_functions_of_its_own_are_refused(tmp_path: Path) -> None:
    """A model-local function could give a standard name another meaning."""
    model = build([EXPAND], [PAIR])
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Expand", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    refuse(tmp_path, model.SerializeToString(), "inline")


def test_a_model_that_always_answers_nan_is_refused(tmp_path: Path) -> None:
    """NaN shows at warm-up."""
    nodes = [
        helper.make_node("Sub", ["mean", "mean"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["nan"]),
        helper.make_node("Expand", ["nan", "pair"], ["y"]),
    ]
    refuse(tmp_path, build(nodes, [PAIR]).SerializeToString(), "not finite")


@pytest.mark.parametrize("cut", [0, 1, 100, len(STANDIN) // 2, len(STANDIN) - 1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    """A file that ends early is damaged, wherever it ends."""
    refuse(tmp_path, STANDIN[:cut], "damaged|no graph|refuses|input")


@pytest.mark.parametrize("content", [b"ORTM" * 64, b"\x18\x00\x00\x00ORTM" + b"\x00" * 64, b"\x80\x04K\x07.", b"{}\n"])
def test_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    """The runtime's own format, pickles and text are no models here."""
    refuse(tmp_path, content, "damaged|no graph")


def test_a_swapped_file_is_refused(tmp_path: Path) -> None:
    """A model file that changed after its manifest was written is never loaded."""
    manifest = place(tmp_path, STANDIN)
    (tmp_path / "model.onnx").write_bytes(endless())
    with pytest.raises(ManifestError, match="sha256"):
        Classifier(manifest)


def test_graphs_in_graphs_have_a_limit() -> None:
    """Deep nesting is refused before the runtime's recursion meets it."""
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(25):
        graph = helper.make_graph([helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], [])
    model = helper.make_model(graph)
    with pytest.raises(UnsafeModelError, match="nested"):
        refuse_unsafe(model.SerializeToString())


def all_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    found += all_graphs(inner)
    return found


SEEDS = [STANDIN[-900:], endless(), external("w").SerializeToString(), build([EXPAND], [PAIR]).SerializeToString()]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=3), st.integers(0, 3)), max_size=6),
)
@example(seed=SEEDS[2], edits=[])
def test_what_passes_holds_nothing_forbidden(seed: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    """No mutant crashes the look-through, and what it lets pass, read by protobuf, is free of what it looks for."""
    content = bytearray(seed)
    for place_drawn, put, drop in edits:
        at = place_drawn % (len(content) + 1)
        content[at : at + drop] = put
    try:
        refuse_unsafe(bytes(content))
        model = onnx.load_model_from_string(bytes(content))
    except (UnsafeModelError, DecodeError):
        return
    assert not model.functions
    for graph in all_graphs(model.graph):
        tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute)]
        assert all(node.domain in STANDARD_DOMAINS for node in graph.node)
        assert not any(tensor.external_data or tensor.data_location for tensor in tensors)


@settings(max_examples=400, deadline=None)
@given(content=st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Random bytes raise `UnsafeModelError` or nothing."""
    said = "nothing; it passed"
    try:
        refuse_unsafe(content)
    except UnsafeModelError as error:
        said = str(error)
    assert ";" in said
