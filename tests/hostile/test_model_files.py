"""Model files made to read other files, to eat memory or time, or to lie: each is refused in one sentence."""

import threading
import time
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models.classifier import Classifier, ModelStopped, ModelUnusable, StopSwitch
from models.manifest import Manifest, load_manifest
from models.manifest_yaml import ManifestError
from models.onnx_scan import STANDARD_DOMAINS, UnsafeModelError, refuse_unsafe
from models.zoo.registry import zoo_folder
from tests.hostile.harmful_models import EXPAND, HARMFUL, elsewhere, endless, model, place

STANDIN = (zoo_folder("standin-cards") / "model.onnx").read_bytes()


def manifest_of(folder: Path, content: bytes) -> Manifest:
    return load_manifest(Path(place(folder, "trap", content)))


def refuse(folder: Path, content: bytes, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(ModelUnusable, match=words) as caught:
        Classifier(manifest_of(folder, content))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("name", HARMFUL)
def test_each_harmful_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No file beside it is read, no memory eaten, no lie believed; also where the process stands in its folder."""
    make, words = HARMFUL[name]
    home = Path(place(tmp_path, name, make().SerializeToString()))
    monkeypatch.chdir(home)
    started = time.monotonic()
    with pytest.raises((ModelUnusable, ManifestError), match=words) as caught:
        Classifier(load_manifest(home))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


def test_weights_in_other_files_are_found_inside_loops(tmp_path: Path) -> None:
    """External data hides nowhere: not in a Constant, not in a graph inside a node, not in a sparse tensor."""
    tensor = elsewhere("../secret").graph.initializer[1]
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    loop = helper.make_node("Loop", ["", ""], [], body=inner)
    sparse = onnx.SparseTensorProto(values=tensor, dims=[2])
    hidden = helper.make_node("Constant", [], ["c"], sparse_value=sparse)

    for number, node in enumerate((loop, hidden)):
        folder = tmp_path / str(number)
        folder.mkdir()
        refuse(folder, model(node, constants=()).SerializeToString(), "another file")


def test_a_tensor_that_only_claims_64_gib_is_refused(tmp_path: Path) -> None:
    """Dimensions without the bytes for them end in a sentence, not in a dead process."""
    claimed = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[16 * 1024**3])
    add = helper.make_node("Add", ["mean", "big"], ["y"])
    refuse(tmp_path, model(add, constants=[claimed]).SerializeToString(), "refuses")


def test_an_endless_loop_is_stopped_from_outside(tmp_path: Path) -> None:
    """A watchdog with the switch ends a model that never answers, already in its warm-up."""
    switch = StopSwitch()
    watchdog = threading.Timer(0.3, switch.stop)
    started = time.monotonic()
    watchdog.start()
    with pytest.raises(ModelStopped, match="model trap"):
        Classifier(manifest_of(tmp_path, endless().SerializeToString()), stop_switch=switch)
    watchdog.join()

    assert 0.2 < time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Gelu", ["mean"], ["y"], domain="com.microsoft")], r"domain 'com\.microsoft'"),
        ([helper.make_node("Nonesuch", ["mean"], ["y"])], "refuses it"),
        ([helper.make_node("Identity", ["nowhere"], ["y"])], "refuses it"),
        ([EXPAND, helper.make_node("Div", ["mean", "mean"], ["z"])], "refuses|outputs|failed|2 labels"),
    ],
    ids=["vendor operator", "unknown operator", "no such input", "double name"],
)
def test_operators_from_elsewhere_are_refused(tmp_path: Path, nodes: list[onnx.NodeProto], words: str) -> None:
    """Only what the ONNX project specifies runs; everything else names its domain."""
    made = model(*nodes, constants=(), domain="com.microsoft")
    refuse(tmp_path, made.SerializeToString(), words)


def test_functions_of_its_own_are_refused(tmp_path: Path) -> None:
    """A model-local function could give a standard name another meaning."""
    made = model(EXPAND)
    node = helper.make_node("Identity", ["a"], ["b"])
    made.functions.append(helper.make_function("", "Expand", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    refuse(tmp_path, made.SerializeToString(), "inline")


@pytest.mark.parametrize("cut", [0, 1, 100, len(STANDIN) // 2, len(STANDIN) - 1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    """A file that ends early is damaged, wherever it ends."""
    refuse(tmp_path, STANDIN[:cut], "damaged|no graph|refuses|input")


@pytest.mark.parametrize("content", [b"ORTM" * 64, b"\x18\x00\x00\x00ORTM" + b"\x00" * 64, b"\x80\x04K\x07.", b"{}\n"])
def test_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    """The runtime's own format, pickles and text are no models here."""
    refuse(tmp_path, content, "damaged|no graph")


def test_a_file_that_is_swapped_later_is_refused(tmp_path: Path) -> None:
    """A model file that changed after its manifest was read is never loaded."""
    manifest = manifest_of(tmp_path, STANDIN)
    (tmp_path / "trap" / "model.onnx").write_bytes(endless().SerializeToString())
    with pytest.raises(ManifestError, match="sha256"):
        Classifier(manifest)


def test_graphs_in_graphs_have_a_limit() -> None:
    """Deep nesting is refused before the runtime's recursion meets it."""
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(25):
        graph = helper.make_graph([helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], [])
    made = helper.make_model(graph)
    with pytest.raises(UnsafeModelError, match="nested"):
        refuse_unsafe(made.SerializeToString())


def all_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    found += all_graphs(inner)
    return found


SEEDS = [STANDIN[-900:], *(made.SerializeToString() for made in (endless(), elsewhere("w"), model(EXPAND)))]


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
        read = onnx.load_model_from_string(bytes(content))
    except (UnsafeModelError, DecodeError):
        return
    assert not read.functions
    for graph in all_graphs(read.graph):
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
