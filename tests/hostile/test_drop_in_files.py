"""Model folders made to read other files, to eat memory or to lie: each layout is refused in one sentence."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from detector.analysis.messages import ModelSetup, ViewSetup, WorkerSetup
from detector.analysis.model_loading import load_classifier
from detector.analysis.pool import AnalysisPool, PoolSettings
from detector.cards import synthetic_card
from models.classifier import Classifier, ModelUnusable
from models.hashing.view_table import Tier
from models.manifest import load_manifest, read_model
from models.manifest_yaml import ManifestError
from streams.frame import Frame, SampleReason
from tests.fixtures_cli import CommandLine
from tests.onnx_models import TRITON, classifier, hugging_face, triton

SECRET = "root:x:0:0:the secret"


def refuse(path: Path, *words: str) -> None:
    started = time.monotonic()
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    said = str(caught.value)
    assert "\n" not in said
    assert SECRET not in said
    assert len(said) < 600
    assert all(word in said for word in words), said
    assert time.monotonic() - started < 30


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    return path


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "README.md", "onnx/model.onnx", "onnx"])
def test_links_are_not_followed(tmp_path: Path, secret: Path, name: str) -> None:
    """Neither a symbolic link nor a second name of a file makes a folder show what lies outside it."""
    folder = hugging_face(tmp_path / "falcon")
    victim = folder / name
    if name == "onnx":
        victim.rename(tmp_path / "elsewhere")
        victim.symlink_to(tmp_path / "elsewhere")
        refuse(folder, "holds no ONNX file")
        return
    content = victim.read_bytes()
    victim.unlink()
    victim.symlink_to(secret)
    refuse(folder, name, "symbolic link", "cp -L")
    victim.unlink()
    os.link(secret, victim)
    refuse(folder, name, "hard link")
    victim.unlink()
    victim.write_bytes(content)
    assert load_manifest(folder).name == "falcon"


def test_a_link_put_in_place_later_is_not_followed_either(tmp_path: Path, secret: Path) -> None:
    """What was a plain file when the model was found is looked at again when it is read."""
    folder = hugging_face(tmp_path / "falcon")
    manifest = load_manifest(folder)
    (folder / "onnx").rename(tmp_path / "moved")
    (folder / "onnx").symlink_to(tmp_path / "moved")
    with pytest.raises(ManifestError, match="symbolic link"):
        read_model(manifest)
    (folder / "onnx").unlink()
    (folder / "onnx").mkdir()
    os.link(secret, folder / "onnx/model.onnx")
    with pytest.raises(ManifestError, match="hard link"):
        read_model(manifest)


def test_labels_lie_in_the_folder(tmp_path: Path, secret: Path) -> None:
    """The name of a label file leads nowhere else, by no way."""
    folder = triton(tmp_path / "tulips")
    for name, word in (("../secret", "outside"), (str(secret), "outside"), ("1/../../secret", "outside")):
        (folder / "config.pbtxt").write_text(TRITON.replace("labels.txt", name))
        refuse(folder, word)
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").symlink_to(secret)
    (folder / "config.pbtxt").write_text(TRITON)
    refuse(folder, "labels.txt", "symbolic link")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"[" * 200_000, "nested too deeply"),
        ("config.json", b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        ("config.json", b'{"a": NaN}', "NaN"),
        ("config.json", b'{"a": 1, "a": 2}', "stands twice"),
        ("config.json", b"[]", "no JSON mapping"),
        ("config.json", b'{"a": ' + b"9" * 6000 + b"}", "no valid JSON"),
        ("config.json", b"\xff\xfe{}", "UTF-8"),
        ("config.json", b"", "no valid JSON"),
        ("config.json", b" " * (8 * 1024**2 + 1), "larger than"),
        ("README.md", b"---\nlicense: !!python/object/apply:os.system [id]\n---\n", "use one under another licence|x"),
        ("README.md", b"\xff", "UTF-8"),
        ("README.md", b"x" * (4 * 1024**2 + 1), "larger than"),
        ("onnx/model.onnx", b"", "no graph"),
        ("onnx/model.onnx", b"\x80\x04K\x07.", "damaged"),
    ],
)
def test_files_that_are_not_what_they_are_called_are_refused(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """Deep, huge, broken and foreign text ends in one sentence; nothing in it is ever run."""
    folder = hugging_face(tmp_path)
    (folder / name).write_bytes(content)
    if "python" in content.decode("latin-1"):
        assert load_manifest(folder).license.weights.startswith("!!python")
        return
    refuse(folder, name, words)


def test_pipes_and_holes_are_refused_at_once(tmp_path: Path) -> None:
    """A named pipe does not hang the start, and terabytes of nothing are not read."""
    folder = hugging_face(tmp_path)
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    refuse(folder, "README.md", "no plain file")
    folder = hugging_face(tmp_path / "holes")
    with (folder / "onnx/model.onnx").open("wb") as file:
        file.truncate(3 * 1024**3)
    refuse(folder, "model.onnx", "larger than")


def test_lists_of_labels_have_a_limit(tmp_path: Path) -> None:
    """More labels than any model has are refused, in every layout, without much ado."""
    many = {str(index): f"l{index}" for index in range(100_001)}
    refuse(hugging_face(tmp_path / "a", id2label=many), "id2label", "1 to 3000 labels")
    refuse(triton(tmp_path / "b", labels="\n".join(many.values())), "1 to 3000 labels")
    (tmp_path / "c.onnx").write_bytes(
        classifier(metadata={"model_license": "MIT", "model_info labels": "x " * 100_001}).SerializeToString()
    )
    refuse(tmp_path / "c.onnx", "1 to 3000 labels")
    refuse(hugging_face(tmp_path / "d", id2label={"0": "a" * 100_000, "1": "b"}), "printable")


@pytest.mark.parametrize("label", ["csam", "child_sexual_abuse", "underage-porn"])
def test_no_layout_lets_a_classifier_decide_about_child_abuse(tmp_path: Path, label: str) -> None:
    """Such labels are refused wherever they stand: known material is matched against lists."""
    refuse(hugging_face(tmp_path / "a", id2label={"0": "neutral", "1": label}), "config.json", "hash lists")
    refuse(triton(tmp_path / "b", labels=f"neutral\n{label}\n"), "labels.txt", "hash lists")
    (tmp_path / "c.onnx").write_bytes(
        classifier(metadata={"license": "MIT", "names": f"{{0: 'a', 1: '{label}'}}"}).SerializeToString()
    )
    refuse(tmp_path / "c.onnx", "names", "hash lists")


def constant(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def with_tail(*nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> bytes:
    """The classifier, with other nodes between its scores and its output."""
    model = classifier()
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    content: bytes = model.SerializeToString()
    return content


def external(location: str) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return with_tail(helper.make_node("Add", ["scores", "w"], ["logits"]), constants=(tensor,))


def endless() -> bytes:
    flag = helper.make_tensor_value_info("go", 9, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [helper.make_tensor_value_info("i", 7, []), flag, helper.make_tensor_value_info("v", 1, [1, 2])],
        [helper.make_tensor_value_info("go_on", 9, []), helper.make_tensor_value_info("w", 1, [1, 2])],
    )
    loop = helper.make_node("Loop", ["", "true", "scores"], ["logits"], body=body)
    return with_tail(loop, constants=(constant("true", np.array(True)),))


def enormous() -> bytes:
    size = constant("size", np.array([16 * 1024**3, 1], np.int64))
    big = helper.make_node("Expand", ["mean", "size"], ["big"])
    top = helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0)
    return with_tail(big, top, helper.make_node("Add", ["scores", "top"], ["logits"]), constants=(size,))


def nan() -> bytes:
    zero = helper.make_node("Sub", ["scores", "scores"], ["zero"])
    return with_tail(zero, helper.make_node("Div", ["zero", "zero"], ["logits"]))


def foreign() -> bytes:
    return with_tail(helper.make_node("Gelu", ["scores"], ["logits"], domain="my.ops"))


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "dotted": (lambda: external("../secret"), "another file"),
    "absolute": (lambda: external("/etc/hostname"), "another file"),
    "symlink": (lambda: external("link"), "another file"),
    "hardlink": (lambda: external("name"), "another file"),
    "enormous": (enormous, "failed|refuses"),
    "endless": (endless, "within 0.5 s"),
    "shape": (lambda: classifier(shape=("N", 3, 9, 9)).SerializeToString(), "mend either"),
    "labels": (lambda: classifier(3).SerializeToString(), "one label per output"),
    "nan": (nan, "not finite"),
    "foreign": (foreign, "domain 'my.ops'"),
    "truncated": (lambda: classifier().SerializeToString()[:-9], "damaged|refuses|no graph"),
}
"""The twelfth is a file with another sha256 than was written down."""


def planted(folder: Path, name: str, secret: Path) -> Path:
    hugging_face(folder)
    (folder / "onnx/model.onnx").write_bytes(
        HOSTILE[name][0]() if name in HOSTILE else classifier().SerializeToString()
    )
    (folder / "onnx/link").symlink_to(secret)
    os.link(secret, folder / "onnx/name")
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_in_an_innocent_folder_is_refused(tmp_path: Path, secret: Path, name: str) -> None:
    """A maker's folder around it makes no model file harmless: one sentence, within seconds."""
    folder = planted(tmp_path / "falcon", name, secret)
    words = HOSTILE[name][1]
    with pytest.raises((ManifestError, ModelUnusable), match=words) as caught:
        load_classifier(str(folder), memory_limit_bytes=1 << 40, within_seconds=0.5 if name == "endless" else 30.0)
    assert "\n" not in str(caught.value)


def test_another_file_than_was_written_down_is_refused(tmp_path: Path) -> None:
    """A digest behind the path holds the file of any layout."""
    digest = hashlib.sha256(classifier(5).SerializeToString()).hexdigest()
    for folder in (hugging_face(tmp_path / "a"), triton(tmp_path / "b")):
        with pytest.raises(ManifestError, match="restore it"):
            load_manifest(f"{folder}@sha256:{digest}")
        right = load_manifest(folder).file.sha256
        assert Classifier(load_manifest(f"{folder}@sha256:{right}")).sha256 == right


def test_a_graph_of_countless_parts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of empty nodes cost seconds, not hours."""
    monkeypatch.setattr("models.onnx_scan.MAX_FIELDS", 1000)
    (tmp_path / "m.onnx").write_bytes(b"\x3a\xd0\x0f" + b"\x0a\x00" * 1000)
    refuse(tmp_path / "m.onnx", "more than 1000 parts")


async def test_hostile_files_never_stop_the_analysis(tmp_path: Path, secret: Path) -> None:
    """Beside all of them the harmless model scores every frame, and health has one sentence for each of the others."""
    sources = {name: str(planted(tmp_path / name, name, secret)) for name in HOSTILE if name != "endless"}
    swapped = load_manifest(planted(tmp_path / "swapped", "none", secret)).reference
    (tmp_path / "swapped/onnx/model.onnx").write_bytes(classifier(3).SerializeToString())
    sources |= {"swapped": swapped, "good": str(hugging_face(tmp_path / "good"))}
    (tmp_path / "banks").mkdir()
    setup = WorkerSetup(
        banks_folder=str(tmp_path / "banks"),
        bank_limits={},
        models=tuple(ModelSetup(name, source) for name, source in sources.items()),
        readable_paths=(str(tmp_path / "banks"),),
        sandbox="prefer",
        memory_limit_bytes=8 << 30,
        views=ViewSetup(0.003, tuple(Tier)),
    )
    picture = synthetic_card(7, 256, 256)
    now = time.monotonic()
    plane = picture[::4, ::4, 1].tobytes()
    frame = Frame(1, now, now, None, SampleReason.KEYFRAME, False, 256, 256, plane, picture.tobytes())
    async with AnalysisPool(PoolSettings(1, 64, 5.0, setup)) as pool:
        inspection = await pool.inspect(frame, deadline_at=time.monotonic() + 20)
        said = {name: [one for one in pool.problems() if f"model {name} is" in one] for name in sources}

    assert [score.model for score in inspection.scores] == ["good", "good"]
    assert said.pop("good") == []
    assert all(len(sentences) == 1 and "\n" not in sentences[0] for sentences in said.values()), said


def test_the_commands_say_it_in_one_line(stopframe: CommandLine) -> None:
    """`models check` and `models show` end with the sentence, never with a traceback."""
    hugging_face(stopframe.folder / "falcon", id2label={"0": "neutral", "1": "csam"})
    (stopframe.folder / "tulips.onnx").write_bytes(external("../secret"))
    for command, path, words in (("show", "./falcon", "hash lists"), ("check", "./tulips.onnx", "another file")):
        run = stopframe("models", command, path)
        assert run.code != 0
        assert words in run.err
        assert len(run.err.strip().splitlines()) == 1
