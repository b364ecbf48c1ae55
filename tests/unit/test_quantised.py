"""A model of eight bits is used only where its scores stayed near those of the model that it was made of."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from detector.eight_bits import TooMuchLost, make_eight_bits
from models.classifier import Classifier, ModelUnusable
from models.manifest import load_manifest
from models.manifest_yaml import ManifestError
from models.quantised import DEFAULT_LIMIT, drift_between, frames_of, most_moved
from models.quantising import CannotQuantise, quantise

TABLES = arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=st.floats(0, 1))


def soft(count: int) -> list[NDArray[np.uint8]]:
    patches = np.random.default_rng(3).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [np.asarray(cv2.resize(one, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8) for one in patches]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in model in eight bits."""
    folder = tmp_path_factory.mktemp("models") / "cards-int8"
    make_eight_bits(load_manifest("standin-cards"), soft(32), folder, DEFAULT_LIMIT)
    return folder


def test_the_new_folder_is_a_model_like_any_other(cut: Path) -> None:
    """It has its own digest, says what it was made of and how far its scores moved, and answers as promised."""
    before, manifest = load_manifest("standin-cards"), load_manifest(cut)

    assert manifest.quantised is not None
    assert manifest.quantised.of_sha256 == before.file.sha256 != manifest.file.sha256
    assert (manifest.name, manifest.version) == (before.name, f"{before.version}-int8")
    assert manifest.model_info == before.model_info
    assert manifest.quantised.drift.largest <= DEFAULT_LIMIT
    model = Classifier(manifest)
    assert model.provider.precision == "int8"
    card = cv2.imread(str(before.path.parent / "smptebars.png"))
    assert model.score(np.ascontiguousarray(card[:, :, ::-1], np.uint8), 256, 256)["smptebars"] > 0.9


def test_a_model_beyond_its_limit_is_refused_in_its_manifest(cut: Path, tmp_path: Path) -> None:
    """Figures that were written by hand do not pass either: the gate is in front of every load."""
    folder = shutil.copytree(cut, tmp_path / "m")
    values = yaml.safe_load((folder / "model.yaml").read_text())
    values["quantised"]["largest_difference"] = 0.38
    (folder / "model.yaml").write_text(yaml.safe_dump(values))

    with pytest.raises(ManifestError, match=r"too much was lost: a score moved by 0\.380, the limit is 0\.05"):
        load_manifest(folder)


def test_drift_is_measured_again_at_each_load(cut: Path, tmp_path: Path) -> None:
    """What holds on one processor need not hold on the next: the kept frames are scored before the model is used."""
    folder = shutil.copytree(cut, tmp_path / "m")
    values = yaml.safe_load((folder / "model.yaml").read_text())
    row = values["quantised"]["expect"][0]
    values["quantised"]["expect"][0] = [1 - score for score in row]
    (folder / "model.yaml").write_text(yaml.safe_dump(values))

    with pytest.raises(ModelUnusable, match=r"cut to eight bits, a score moves by .* on this machine"):
        Classifier(load_manifest(folder))


def test_nothing_is_written_where_too_much_is_lost(tmp_path: Path) -> None:
    """One sentence with the figure, and no folder."""
    with pytest.raises(TooMuchLost, match=r"loses too much in eight bits: a score moved by .* nothing was written"):
        make_eight_bits(load_manifest("standin-cards"), soft(32), tmp_path / "new", 0.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pictures", [0, 31])
def test_too_few_frames_are_refused(tmp_path: Path, pictures: int) -> None:
    """Neither ranges nor drift would be known."""
    with pytest.raises(CannotQuantise, match="32 or more"):
        make_eight_bits(load_manifest("standin-cards"), soft(pictures), tmp_path / "new", 0.05)


def test_a_model_of_eight_bits_is_not_cut_again(cut: Path, tmp_path: Path) -> None:
    """Its drift would be measured against what has drifted already."""
    with pytest.raises(CannotQuantise, match="eight bits already"):
        make_eight_bits(load_manifest(cut), soft(32), tmp_path / "new", 0.05)


def test_a_file_that_is_no_model_is_one_sentence() -> None:
    """Whatever the tools raise."""
    with pytest.raises(CannotQuantise, match="cannot cut it to eight bits"):
        quantise(b"no model", "x", [])


@given(TABLES, TABLES)
def test_drift_is_what_its_frames_say(before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    """No frame moved more than the largest, the frames that are kept moved most, and no drift passes its own limit."""
    if before.shape != after.shape:
        with pytest.raises(ValueError, match="same frames"):
            drift_between(before, after)
        return
    drift = drift_between(before, after)
    moved = np.abs(before - after).max(axis=1)

    assert drift.p99 <= drift.largest == moved.max()
    assert moved[most_moved(before, after)[0]] == moved.max()
    assert (drift.refusal(drift.largest) is None) == (drift.same_top >= 0.98)
    assert drift.largest == 0 or drift.refusal(drift.largest / 2) is not None


def test_kept_frames_come_back_as_they_were() -> None:
    """One below the other; a picture of another height is none."""
    frames = soft(3)
    stacked = np.vstack(frames)

    back = frames_of(stacked, 3)
    assert back is not None
    assert all((one == other).all() for one, other in zip(back, frames, strict=True))
    assert frames_of(stacked, 2) is None
