"""A model runs only if it keeps its manifest's word, and says so in one sentence if it does not."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models import providers
from models.classifier import Classifier, ModelFailed, ModelStopped, ModelUnusable, StopSwitch
from models.manifest import Manifest, load_manifest

SIDE = 8
BLACK = np.zeros((256, 256, 3), np.uint8)
GREY = np.full((256, 256, 3), 77, np.uint8)


def graph(*nodes: onnx.NodeProto, shape: tuple[Any, ...] = ("N", 3, SIDE, SIDE), outputs: int = 2) -> onnx.ModelProto:
    """A model whose nodes turn `mean` (1,) of the input into `y` (1, outputs)."""
    dtype = TensorProto.FLOAT
    constants = {
        "zero": np.float32(0),
        "seventy_seven": np.float32(77),
        "pair": np.array([1, outputs], np.int64),
        "slope": np.linspace(-1, 1, outputs, dtype=np.float32)[None],
    }
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0), *nodes],
            "g",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info("y", dtype, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


RAW = graph(helper.make_node("Mul", ["mean", "slope"], ["y"]))
"""Logits -mean and +mean."""

NAN_AT_77 = graph(
    helper.make_node("Sub", ["mean", "seventy_seven"], ["d"]),
    helper.make_node("Div", ["d", "d"], ["q"]),
    helper.make_node("Expand", ["q", "pair"], ["y"]),
)
"""1 everywhere, NaN for a picture whose mean is 77."""

Make = Callable[..., Manifest]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_manifest(model: onnx.ModelProto, labels: str = "[a, b]", extra: str = "", **info: str) -> Manifest:
        content = model.SerializeToString()
        (tmp_path / "model.onnx").write_bytes(content)
        lines = {
            "model_type": "Classification",
            "labels": labels,
            "output_raw_scores": "false",
            "layout": "NCHW",
            "reverse_input_channels": "true",
            "orig_width": str(SIDE),
            "orig_height": str(SIDE),
            **info,
        }
        text = "\n".join(f"  {key}: {value}" for key, value in lines.items())
        sha256 = hashlib.sha256(content).hexdigest()
        (tmp_path / "model.yaml").write_text(
            f"schema: 1\nname: tulips\nversion: '1'\nfile: {{path: model.onnx, sha256: {sha256}}}\n"
            f"license: {{weights: MIT, code: MIT, source: here}}\nmodel_info:\n{text}\n{extra}"
        )
        return load_manifest(tmp_path)

    return make_manifest


def test_softmax_turns_raw_scores_into_shares(make: Make) -> None:
    """Logits become probabilities that sum to one, without overflow."""
    model = Classifier(make(RAW, output_raw_scores="true"))

    assert model.score(BLACK, 1280, 720) == {"a": 0.5, "b": 0.5}
    assert model.score(GREY, 1280, 720) == {"a": pytest.approx(0, abs=1e-9), "b": pytest.approx(1)}
    assert (model.name, model.labels, model.provider.name) == ("tulips", ("a", "b"), "cpu")


def test_sigmoid_scores_each_label_alone(make: Make) -> None:
    """With `multilabel` every output has a probability of its own."""
    model = Classifier(make(RAW, output_raw_scores="true", multilabel="true", scale_values="[77, 77, 77]"))
    scores = model.score(GREY, 1280, 720)

    assert scores == {"a": pytest.approx(1 / (1 + np.e), abs=1e-6), "b": pytest.approx(np.e / (1 + np.e), abs=1e-6)}


def test_probabilities_are_handed_on_as_they_are(make: Make) -> None:
    """A graph that ends with its own softmax is not softened a second time."""
    model = graph(
        helper.make_node("Mul", ["mean", "slope"], ["logits"]), helper.make_node("Softmax", ["logits"], ["y"])
    )
    assert Classifier(make(model)).score(GREY, 1, 1) == {"a": pytest.approx(0), "b": pytest.approx(1)}


def test_raw_scores_taken_for_probabilities_are_refused(make: Make) -> None:
    """Outputs beyond 0..1 show at warm-up that the manifest forgot `output_raw_scores`."""
    with pytest.raises(ModelUnusable, match="set output_raw_scores"):
        Classifier(make(RAW))


def test_a_nan_fails_that_picture_only(make: Make) -> None:
    """A picture that makes the model answer NaN fails; the next one is scored."""
    model = Classifier(make(NAN_AT_77))

    with pytest.raises(ModelFailed, match="not finite"):
        model.score(GREY, 1280, 720)
    assert model.score(BLACK, 1280, 720) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    "picture",
    [BLACK[:255], BLACK[:, :, :2], BLACK.astype(np.float32), BLACK[None]],
    ids=["short", "two channels", "float", "batch"],
)
def test_another_picture_is_refused(make: Make, picture: NDArray[Any]) -> None:
    """Anything but 256x256x3 uint8 fails without reaching the runtime."""
    model = Classifier(make(NAN_AT_77))
    with pytest.raises(ModelFailed, match="256x256x3"):
        model.score(picture, 1280, 720)


@pytest.mark.parametrize(
    ("model", "labels", "info", "words"),
    [
        (RAW, "[a, b, c]", {"output_raw_scores": "true"}, "3 labels"),
        (RAW, "[a]", {"output_raw_scores": "true", "multilabel": "true"}, "1 labels"),
        (RAW, "[a, b]", {"layout": "NHWC"}, "mend either"),
        (RAW, "[a, b]", {"orig_width": "16"}, "mend either"),
        (RAW, "[a, b]", {"input_dtype": "u8"}, "tensor"),
        (graph(helper.make_node("Identity", ["x"], ["y"])), "[a, b]", {}, "one label per output"),
        (graph(helper.make_node("Mul", ["mean", "slope"], ["y"]), shape=("N", 3 * SIDE * SIDE)), "[a, b]", {}, "mend"),
    ],
    ids=["too many labels", "too few labels", "layout", "size", "dtype", "no classifier", "flat input"],
)
def test_a_model_that_breaks_its_manifests_word_is_unusable(
    make: Make, model: onnx.ModelProto, labels: str, info: dict[str, str], words: str
) -> None:
    """Wrong label counts, sizes and types are found before the first frame."""
    with pytest.raises(ModelUnusable, match=words):
        Classifier(make(model, labels=labels, **info))


def test_the_channel_order_is_the_manifests(make: Make) -> None:
    """`reverse_input_channels: true` gives the model RGB, false gives it BGR."""
    nodes = (
        helper.make_node("ReduceMean", ["x"], ["channels"], axes=[2, 3], keepdims=0),
        helper.make_node("Identity", ["channels"], ["y"]),
    )
    red = np.zeros((256, 256, 3), np.uint8)
    red[:, :, 0] = 255
    for reverse, first in (("true", 1.0), ("false", 0.0)):
        manifest = make(graph(*nodes), "[x, y, z]", reverse_input_channels=reverse, scale_values="[255, 255, 255]")
        assert Classifier(manifest).score(red, 1, 1)["x"] == first


def test_the_parity_picture_must_score_as_promised(make: Make, tmp_path: Path) -> None:
    """The check of the manifest passes within its tolerance, and names picture and figures where it does not."""
    cv2.imwrite(str(tmp_path / "grey.png"), GREY)
    check = "check: {picture: grey.png, tolerance: 0.01, expect: {b: %s}}\n"
    settings = {"output_raw_scores": "true", "scale_values": "[77, 77, 77]"}

    assert Classifier(make(RAW, extra=check % "0.88", **settings)).labels == ("a", "b")
    with pytest.raises(ModelUnusable, match=r"gives b 0\.8808 for grey\.png, the manifest expects 0\.5"):
        Classifier(make(RAW, extra=check % "0.5", **settings))
    (tmp_path / "grey.png").unlink()
    with pytest.raises(ModelUnusable, match="restore it"):
        Classifier(make(RAW, extra=check % "0.88", **settings))


def test_a_file_that_says_agpl_is_refused(make: Make) -> None:
    """Exporters write the licence into the file: it counts even if the manifest says otherwise."""
    model = onnx.ModelProto()
    model.CopyFrom(NAN_AT_77)
    helper.set_model_props(model, {"license": "AGPL-3.0 https://example.org"})
    with pytest.raises(ModelUnusable, match="AGPL"):
        Classifier(make(model))


def test_stopped_is_for_good(make: Make) -> None:
    """After `stop` nothing is scored any more, and a switch thrown before loading stops the load."""
    manifest = make(NAN_AT_77)
    model = Classifier(manifest)
    model.stop()
    with pytest.raises(ModelStopped):
        model.score(BLACK, 1280, 720)

    switch = StopSwitch()
    switch.stop()
    with pytest.raises(ModelStopped):
        Classifier(manifest, stop_switch=switch)


def test_only_the_processor_runs_a_model(make: Make) -> None:
    """The session has the CPU provider alone, whatever else the runtime was built with."""
    assert Classifier(make(NAN_AT_77))._session.get_providers() == ["CPUExecutionProvider"]


def test_an_unknown_provider_is_refused() -> None:
    """The names that would be right stand in the sentence."""
    assert providers.choose_provider("cpu").execution_provider == "CPUExecutionProvider"
    with pytest.raises(providers.ProviderUnavailable, match="you can use cpu"):
        providers.choose_provider("abacus")


def test_two_runtimes_over_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtimes for CPU and GPU share their files: which of them would answer is chance."""
    info = tmp_path / "onnxruntime_gpu-1.30.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.30\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(providers.ProviderUnavailable, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        providers.choose_provider()
