"""Models as their makers publish them: every value is read from where it stands, and what is missing is asked for."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from models.classifier import Classifier, ModelUnusable
from models.drop_in.pbtxt import read_message
from models.manifest import Manifest, load_manifest, read_model
from models.manifest_yaml import ManifestError
from models.onnx_metadata import describe
from tests.onnx_models import SIDE, TRITON, classifier, hugging_face, rt_detr, triton

WHITE = np.full((256, 256, 3), 255, np.uint8)


def refuse(path: Path | str, *words: str) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def onnx_file(folder: Path, name: str = "tulips.onnx", **more: Any) -> Path:
    path = folder / name
    path.write_bytes(classifier(**more).SerializeToString())
    return path


def test_a_hugging_face_directory_needs_no_manifest(tmp_path: Path) -> None:
    """Labels, size, mean, scale, colour order, licence and file come from the maker's own files, by line."""
    manifest = load_manifest(hugging_face(tmp_path / "Nsfw_Detection v2"))
    info = manifest.model_info

    assert (manifest.name, manifest.license.weights, manifest.file.path) == (
        "nsfw_detection-v2",
        "apache-2.0",
        "onnx/model.onnx",
    )
    assert info.labels == ("normal", "nsfw")
    assert (info.multilabel, info.output_raw_scores, info.layout) == (False, True, "NCHW")
    assert info.mean_values == pytest.approx((127.5, 127.5, 127.5))
    assert info.scale_values == pytest.approx((127.5, 63.75, 127.5))
    assert (info.orig_width, info.orig_height, info.center_crop, info.resize_type) == (SIDE, SIDE, None, "standard")
    assert manifest.provenance["model_info.labels"] == "config.json:5"
    assert manifest.provenance["model_info.mean_values"].startswith("preprocessor_config.json:5")
    assert manifest.provenance["license.weights"] == "README.md:3"
    assert manifest.provenance["model_info.output_raw_scores"] == "graph of model.onnx"
    assert Classifier(manifest).score(WHITE, 1280, 720)["nsfw"] == pytest.approx(1 / (1 + np.exp(-2 * 4 / 3)))


def test_every_file_of_a_directory_leads_to_the_same_model(tmp_path: Path) -> None:
    """What analysis processes are told finds the model again, and refuses another file in its place."""
    folder = hugging_face(tmp_path / "falcon")
    manifest = load_manifest(folder)

    assert load_manifest(folder / "config.json") == load_manifest(manifest.reference) == manifest
    assert manifest.reference.endswith(f"@sha256:{manifest.file.sha256}")
    (folder / "onnx/model.onnx").write_bytes(classifier(3).SerializeToString())
    refuse(manifest.reference, "sha256", "restore it")
    with pytest.raises(ManifestError, match="sha256"):
        read_model(manifest)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"SIZE": 224}, {"orig_width": 224, "orig_height": 224, "resize_type": "standard"}),
        (
            {"SIZE": {"shortest_edge": 256}, "DO_CENTER_CROP": True, "CROP_SIZE": {"height": 224, "width": 224}},
            {"orig_width": 256, "center_crop": 224, "resize_type": "crop"},
        ),
        ({"SIZE": 256, "DO_CENTER_CROP": True, "CROP_SIZE": 224}, {"orig_width": 256, "resize_type": "crop"}),
        ({"SIZE": {"shortest_edge": 224}, "CROP_PCT": 0.875}, {"orig_width": 256, "center_crop": 224}),
        ({"SIZE": {"shortest_edge": 384}, "CROP_PCT": 1.0}, {"orig_width": 384, "center_crop": None}),
        ({"DO_RESIZE": False, "SIZE": 999}, {"orig_width": SIDE, "orig_height": SIDE}),
        ({"RESAMPLE": 3}, {"interpolation_mode": "CUBIC"}),
        ({"RESAMPLE": 1}, {"interpolation_mode": "CUBIC"}),
        ({"DO_RESCALE": False}, {"mean_values": (0.5, 0.5, 0.5), "scale_values": (0.5, 0.25, 0.5)}),
        ({"DO_NORMALIZE": False, "RESCALE_FACTOR": 0.5}, {"mean_values": (0, 0, 0), "scale_values": (2, 2, 2)}),
        ({"DO_FLIP_CHANNEL_ORDER": True}, {"reverse_input_channels": False}),
        ({"problem_type": "multi_label_classification"}, {"multilabel": True}),
    ],
)
def test_a_preprocessor_means_what_transformers_does(
    tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Edges, crops, factors and numbers of PIL become the geometry and arithmetic of a manifest."""
    info = load_manifest(hugging_face(tmp_path, **changes)).model_info
    for key, value in expected.items():
        assert getattr(info, key) == (pytest.approx(value) if isinstance(value, tuple) else value)


def test_a_directory_of_timm_is_read(tmp_path: Path) -> None:
    """`pretrained_cfg` and `label_names` stand for the preprocessor where timm wrote the directory."""
    settings = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "input_size": [3, 224, 224],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    }
    folder = hugging_face(tmp_path, architectures=None, id2label=None, label_names=["a", "b"], pretrained_cfg=settings)
    (folder / "preprocessor_config.json").unlink()
    info = load_manifest(folder).model_info

    assert (info.labels, info.orig_width, info.center_crop) == (("a", "b"), 248, 224)
    assert (info.interpolation_mode, info.mean_values) == ("CUBIC", (127.5, 127.5, 127.5))


def test_a_detector_of_hugging_face_scores_its_best_box(tmp_path: Path) -> None:
    """The architecture says which outputs are boxes; labels stand alone."""
    manifest = load_manifest(hugging_face(tmp_path, rt_detr(), architectures=["RTDetrForObjectDetection"]))
    score = 1 / (1 + np.exp(-4 / 3))

    assert (manifest.model_info.model_type, manifest.model_info.box_head) == ("Detection", "RT-DETR")
    assert Classifier(manifest).score(WHITE, 1280, 720) == pytest.approx({"normal": score, "nsfw": score}, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, ["config.json:5", "id2label", "0, 1, 2"]),
        ({"id2label": ["a", "b"]}, ["id2label"]),
        ({"id2label": {"0": "a", "1": "a"}}, ["config.json:5", "twice"]),
        ({"id2label": {"0": "a", "1": "x\x1b[2J"}}, ["printable"]),
        ({"id2label": {"0": "a", "1": 7}}, ["in quotes"]),
        ({"id2label": None}, ["model_info.labels: is missing", "`id2label` in config.json"]),
        ({"architectures": ["BertModel"]}, ["config.json:2", "no image classifier"]),
        ({"problem_type": "regression"}, ["problem_type", "use a classifier"]),
        ({"problem_type": ["x"]}, ["problem_type", "use a classifier"]),
        ({"SIZE": {"shortest_edge": 800, "longest_edge": 1333}}, ["preprocessor_config.json", "size"]),
        ({"SIZE": 10**9}, ["1..2048"]),
        ({"SIZE": -1}, ["size"]),
        ({"RESAMPLE": 77}, ["resample", "PIL"]),
        ({"IMAGE_MEAN": [0.5, 0.5]}, ["image_mean", "three finite numbers"]),
        ({"IMAGE_MEAN": None}, ["model_info.mean_values: is missing", "`image_mean` in preprocessor_config.json"]),
        ({"IMAGE_STD": [0, 1, 1]}, ["image_std", "divides by zero"]),
        ({"IMAGE_STD": [1e400, 1, 1]}, ["Infinity is no number"]),
        ({"IMAGE_STD": [1e300, 1, 1]}, ["image_std", "three finite numbers"]),
        ({"RESCALE_FACTOR": 0}, ["rescale_factor"]),
        ({"INCLUDE_TOP": True}, ["include_top"]),
        ({"CROP_SIZE": {"height": 2, "width": 3}, "DO_CENTER_CROP": True}, ["crop_size", "square"]),
        ({"CROP_SIZE": 9, "DO_CENTER_CROP": True}, ["crop_size", "smaller"]),
    ],
)
def test_a_value_that_cannot_be_followed_is_named(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    """One sentence with the maker's file and key, and what to write."""
    refuse(hugging_face(tmp_path, **changes), *words)


def test_a_manifest_stands_above_the_makers_files(tmp_path: Path) -> None:
    """`model.yaml` beside them may hold as little as one value; the others keep their source."""
    folder = hugging_face(tmp_path, INCLUDE_TOP=True)
    refuse(folder, "include_top", "write mean_values in a model.yaml")
    (folder / "model.yaml").write_text("schema: 1\nname: mine\nmodel_info:\n  mean_values: [1, 2, 3]\n")
    manifest = load_manifest(folder)

    assert (manifest.name, manifest.model_info.mean_values) == ("mine", (1.0, 2.0, 3.0))
    assert manifest.provenance["model_info.mean_values"] == "model.yaml:4"
    assert manifest.provenance["model_info.scale_values"].startswith("preprocessor_config.json")
    assert load_manifest(manifest.reference) == manifest
    (folder / "model.yaml").write_text("model_info:\n  mean_values: [1, 2, 3]\n")
    refuse(folder, "schema: is missing")


def test_a_licence_is_asked_for(tmp_path: Path) -> None:
    """Without a licence, with one that says nothing, and under the AGPL a directory is refused."""
    folder = hugging_face(tmp_path)
    readme = folder / "README.md"
    for text in ("license: mit\n", "---\nlicense: other\n---\n", "---\ntags: x\n---\nlicense: mit"):
        readme.write_text(text)
        refuse(folder, "license.weights: is missing", "front-matter of README.md")
    readme.write_text("---\nlicense:\n- mit\n---\n")
    assert load_manifest(folder).license.weights == "mit"
    readme.write_text("---\nlicense: other\nlicense_name: openrail\n---\n")
    assert load_manifest(folder).license.weights == "openrail"
    readme.write_text("---\nlicense: agpl-3.0\n---\n")
    refuse(folder, "README.md:2", "use one under another licence")


MODEL_INFO = {
    "model_info model_type": "Classification",
    "model_info labels": "tulip rose",
    "model_info mean_values": "127.5 127.5 127.5",
    "model_info scale_values": "127.5",
    "model_info reverse_input_channels": "True",
    "model_license": "Apache-2.0",
}


@pytest.mark.parametrize(
    "entry", [f"license: a{' ' * 100_000}b", f"license:\n- a{' ' * 100_000}b", "license:", "license: # none yet"]
)
def test_a_readme_that_names_no_licence_takes_no_time_and_gives_none(tmp_path: Path, entry: str) -> None:
    """A long line holds no start up, and the line that ends the front-matter is no licence."""
    folder = hugging_face(tmp_path / "flowers")
    (folder / "README.md").write_text(f"---\n{entry}\n---\n# Flowers\n")

    begun_at = time.process_time()
    refuse(folder, "license.weights: is missing")
    assert time.process_time() - begun_at < 5  # a hundred thousand squared takes minutes


def test_an_onnx_file_may_describe_itself(tmp_path: Path) -> None:
    """OpenVINO's `model_info` in the metadata is enough, and its defaults are the Model API's."""
    manifest = load_manifest(onnx_file(tmp_path, last="Softmax", metadata=MODEL_INFO))

    assert (manifest.name, manifest.model_info.labels) == ("tulips", ("tulip", "rose"))
    assert manifest.model_info.scale_values == (127.5, 127.5, 127.5)
    assert not manifest.model_info.output_raw_scores
    assert manifest.provenance["model_info.labels"] == "metadata 'model_info labels' of tulips.onnx"
    assert sum(Classifier(manifest).score(WHITE, 1, 1).values()) == pytest.approx(1)

    bare = {key: MODEL_INFO[key] for key in ("model_info labels", "model_license")}
    manifest = load_manifest(onnx_file(tmp_path, metadata=bare))
    assert (manifest.model_info.mean_values, manifest.model_info.reverse_input_channels) == ((0, 0, 0), False)
    assert manifest.provenance["model_info.mean_values"] == "default of the Model API"


def test_the_standard_metadata_of_onnx_are_read(tmp_path: Path) -> None:
    """`names`, pixel format and range stand for labels, colour order, mean and scale; nothing is evaluated."""
    metadata = {
        "names": """{0: 'tulip', 1: "rose's"}""",
        "Image.BitmapPixelFormat": "Bgr8",
        "Image.NominalPixelRange": "Normalized_0_1",
        "license": "MIT",
    }
    info = load_manifest(onnx_file(tmp_path, metadata=metadata)).model_info
    assert info.labels == ("tulip", "rose's")
    assert (info.reverse_input_channels, info.scale_values) == (False, (255.0, 255.0, 255.0))

    for names in ("{0: 'a', 2: 'b'}", "{0: 'a', 1: __import__('os')}", "['a', 'b']", "{}", "{0: 'a'"):
        refuse(onnx_file(tmp_path, metadata={**metadata, "names": names}), "metadata 'names'")


def test_a_file_of_an_agpl_trainer_is_refused(tmp_path: Path) -> None:
    """The licence in the metadata counts, whatever a README beside it says."""
    agpl = {"license": "AGPL-3.0 License (https://ultralytics.com/license)", "names": "{0: 'a', 1: 'b'}"}
    refuse(onnx_file(tmp_path, metadata=agpl), "tulips.onnx", "AGPL")
    refuse(hugging_face(tmp_path / "falcon", classifier(metadata=agpl)), "model.onnx", "AGPL")


@pytest.mark.parametrize(
    ("metadata", "more", "words"),
    [
        ({}, {}, ["license.weights: is missing", "metadata `model_license`"]),
        ({"model_info labels": ""}, {}, ["1 to 3000 labels"]),
        ({"model_info scale_values": "a b c"}, {}, ["scale_values", "three numbers"]),
        ({"model_info scale_values": "1e99 1 1"}, {}, ["scale_values", "three numbers"]),
        ({"model_info reverse_input_channels": "maybe"}, {}, ["True or False"]),
        ({"model_info model_type": "YOLOv8"}, {}, ["'YOLOv8' is not known"]),
        ({"model_info orig_width": "1" * 500}, {}, ["orig_width"]),
        ({"model_info labels": "csam other"}, {}, ["hash lists"]),
        ({"model_info layout": "CHWN"}, {}, ["NCHW or NHWC"]),
        ({}, {"shape": (1, 192)}, ["2 dimensions"]),
        ({}, {"shape": (1, 3, "H", "W")}, ["model_info.orig_width: is missing"]),
        ({}, {"dtype": TensorProto.FLOAT16}, ["f16", "float32 or uint8"]),
    ],
)
def test_what_an_onnx_file_lacks_is_asked_for(
    tmp_path: Path, metadata: dict[str, str], more: dict[str, Any], words: list[str]
) -> None:
    """Each value that is missing or wrong is named with its key."""
    whole = {**MODEL_INFO, **metadata} if metadata or more else {}
    refuse(onnx_file(tmp_path, metadata=whole, **more), *words)


def test_mean_and_scale_are_never_guessed(tmp_path: Path) -> None:
    """A file that does not say how its pixels are scaled is refused, unless it takes bytes."""
    metadata = {"names": "{0: 'a', 1: 'b'}", "license": "MIT", "Image.BitmapPixelFormat": "Rgb8"}
    refuse(onnx_file(tmp_path, metadata=metadata), "model_info.mean_values: is missing", "Image.NominalPixelRange")

    bytes_in = onnx_file(tmp_path, metadata=metadata, dtype=TensorProto.UINT8)
    assert load_manifest(bytes_in).model_info.input_dtype == "u8"

    onnx_file(tmp_path, metadata=metadata)
    (tmp_path / "model.yaml").write_text("schema: 1\nmodel_info:\n  output_raw_scores: true\n")
    assert load_manifest(tmp_path / "tulips.onnx").model_info.mean_values == (0.0, 0.0, 0.0)


def test_an_export_of_yolox_says_that_it_holds_boxes(tmp_path: Path) -> None:
    """The Model API's name for it stands for the layout, and for sigmoids in the graph."""
    metadata = {**MODEL_INFO, "model_info model_type": "YOLOX", "model_info confidence_threshold": "0.3"}
    info = load_manifest(onnx_file(tmp_path, metadata=metadata)).model_info
    assert (info.model_type, info.box_head, info.output_raw_scores) == ("Detection", "YOLOX", False)
    assert info.confidence_threshold == 0.3


def test_a_path_that_no_file_can_have_is_refused() -> None:
    """Whatever stands under `models:` ends in one sentence."""
    refuse(f"./{'x' * 5000}", "check its path")


def test_a_second_softmax_is_noticed(tmp_path: Path) -> None:
    """A graph that ends in probabilities by other operators than its softmax is refused, with the key to write."""
    model = classifier(last="Softmax", metadata=MODEL_INFO)
    model.graph.node[-1].output[0] = "shares"
    model.graph.node.add(op_type="Mul", input=["shares", "one"], output=["logits"])
    one = model.graph.initializer.add(name="one", data_type=TensorProto.FLOAT, float_data=[1.0])
    assert one.name == "one"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnusable, match="set output_raw_scores: false"):
        Classifier(load_manifest(tmp_path / "m.onnx"))


def test_a_folder_of_triton_is_read(tmp_path: Path) -> None:
    """Name, input, labels, parameters, and the file of the highest version."""
    manifest = load_manifest(triton(tmp_path / "tulips"))

    assert (manifest.name, manifest.version, manifest.file.path) == ("tulips", "12", "12/model.onnx")
    assert manifest.model_info.labels == ("tulip", "rose")
    assert (manifest.license.weights, manifest.model_info.scale_values) == ("MIT", (127.5, 127.5, 127.5))
    assert manifest.provenance["model_info.labels"] == "labels.txt (config.pbtxt:6)"
    assert manifest.provenance["model_info.layout"] == "config.pbtxt:4"
    assert load_manifest(manifest.reference) == manifest
    assert Classifier(manifest).score(WHITE, 1, 1)["rose"] > 0.8


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("onnxruntime_onnx", "pytorch_libtorch", ["config.pbtxt:2", "must be onnxruntime_onnx"]),
        ("labels.txt", "../labels.txt", ["outside the model's folder"]),
        ("labels.txt", "/etc/hostname", ["outside the model's folder"]),
        ("labels.txt", "none.txt", ["none.txt", "is missing"]),
        ("max_batch_size: 8", 'default_model_filename: "../x.onnx"', ["config.pbtxt:3", "name of a file"]),
        ("max_batch_size: 8", "max_batch_size 8", ["config.pbtxt:3", "protocol-buffer text"]),
        ("max_batch_size: 8", "a { b {", ["protocol-buffer text"]),
        ("max_batch_size: 8", "x {" * 40 + "}" * 40, ["nested too deeply"]),
        ("max_batch_size: 8", "\x00", ["does not belong here"]),
        ('"license"', '"licence"', ["license.weights: is missing", "parameter `license`"]),
        ('"True"', '"yes"', ["True or False"]),
    ],
)
def test_a_config_of_triton_that_cannot_be_followed_is_named(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    """One sentence with the line."""
    assert old in TRITON
    refuse(triton(tmp_path, TRITON.replace(old, new, 1)), *words)


def test_a_folder_with_several_files_or_none_is_refused(tmp_path: Path) -> None:
    """Which of several models is meant is never guessed."""
    refuse(tmp_path, "model.yaml", "is missing")
    onnx_file(tmp_path, "a.onnx", metadata=MODEL_INFO)
    assert load_manifest(tmp_path).name == "a"
    onnx_file(tmp_path, "b.onnx", metadata=MODEL_INFO)
    refuse(tmp_path, "2 ONNX files")
    folder = hugging_face(tmp_path / "falcon")
    (folder / "onnx/model.onnx").rename(folder / "onnx/fp32.onnx")
    assert load_manifest(folder).file.path == "onnx/fp32.onnx"
    onnx_file(folder, "other.onnx")
    refuse(folder, "2 ONNX files", "file.path in a model.yaml")


def test_a_description_is_what_the_file_says() -> None:
    """Inputs that are weights are none, open sides are None, and the last operator is found behind a reshape."""
    model = classifier(last="Sigmoid", shape=("N", 3, SIDE, SIDE), metadata={"a": "b"})
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "slope"
    model.graph.node[-1].output[0] = "before"
    model.graph.node.add(op_type="Identity", input=["before"], output=["logits"])
    description = describe(model.SerializeToString())

    assert description.metadata == {"a": "b"}
    assert (description.input_names, description.input_type) == (("pixel_values",), "f32")
    assert (description.input_shape, description.last_operator) == ((None, 3, SIDE, SIDE), "Sigmoid")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)
_KEYS = ("id2label", "architectures", "problem_type", "label_names", "pretrained_cfg")
_PREPROCESSOR_KEYS = ("SIZE", "CROP_SIZE", "CROP_PCT", "DO_CENTER_CROP", "RESAMPLE", "RESCALE_FACTOR", "IMAGE_MEAN")


def outcome(path: Path) -> Manifest | str:
    try:
        return load_manifest(path)
    except ManifestError as error:
        return str(error)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(changes=st.dictionaries(st.sampled_from(_KEYS + _PREPROCESSOR_KEYS), _JSON, max_size=3))
def test_any_value_in_any_place_is_read_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A value of any kind anywhere gives a manifest or one sentence, never another error."""
    found = outcome(hugging_face(tmp_path, **changes))
    assert isinstance(found, Manifest) or "\n" not in found


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=st.sampled_from('ab{}[]<>:,;#"\\\n 1.-'), max_size=60))
def test_any_text_is_a_message_or_refused(text: str) -> None:
    """The reader of Triton's text raises nothing but `ManifestError`."""
    said: object = None
    try:
        said = read_message(Path("config.pbtxt"), text)
    except ManifestError as error:
        said = error.message
    assert isinstance(said, dict) or "mend that line" in str(said)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(key=st.sampled_from(sorted([*MODEL_INFO, "names", "Image.NominalPixelRange"])), value=st.text(max_size=30))
def test_any_metadata_are_read_or_refused(tmp_path: Path, key: str, value: str) -> None:
    """No text in the metadata makes the reader raise anything else."""
    found = outcome(onnx_file(tmp_path, metadata={**MODEL_INFO, key: value}))
    if isinstance(found, Manifest):
        assert dataclasses.asdict(found.model_info)
        assert json.dumps(found.model_info.labels)
    else:
        assert "\n" not in found
