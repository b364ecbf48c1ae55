"""Why a file matches banks or not: the frame that comes nearest, view by view, under what an operator says."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector.banks.files import FileHashes
from detector.banks.matches import Banks, Explained, FileMatches
from detector.config.config import Config
from models.bank_store import INCIDENT_BANK, add_entries, load_bank
from models.evidence import Opinion, Strength
from models.explaining import Reason
from models.hashing.pdq import Pdq
from streams.frame import Frame, SampleReason


def _picture(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _frame(picture: NDArray[np.uint8], at: float = 0.0, reason: SampleReason = SampleReason.PICTURE) -> Frame:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    plane = np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return Frame(0, at, at, at, reason, False, 640, 360, plane.tobytes(), picture.tobytes())


@pytest.fixture
def banks_dir(tmp_path: Path) -> Path:
    """Two banks of one picture each, KNOWN and SAFE, the second in both."""
    for bank, seeds in (("KNOWN", (1, 2)), ("SAFE", (2,))):
        for seed in seeds:
            file = FileHashes(f"picture-{seed}", Pdq(), is_bare=True)
            file.take(_frame(_picture(seed)))
            (value,) = file.rows
            add_entries(tmp_path / bank, np.frombuffer(value, np.uint8)[None], [file.entry])
    return tmp_path


def _explained(folder: Path, *frames: Frame, entry: str | None = None, banks: object = None) -> dict[str, Explained]:
    config = Config.model_validate({"models": (), "banks": banks or {}})
    loaded = [load_bank(folder / name) for name in ("KNOWN", "SAFE")]
    matches = FileMatches(Banks(loaded, config, entry=entry, now_seconds=1000.0))
    for frame in frames:
        matches.take(frame)
    return {one.bank: one for one in matches.explained()}


def test_a_copy_is_explained_by_the_view_that_found_it(banks_dir: Path) -> None:
    """A mirrored picture matches through the mirror; the view as it is says how far off it lies."""
    mirrored = np.ascontiguousarray(_picture(1)[:, ::-1])
    found = _explained(banks_dir, _frame(mirrored))["KNOWN"]
    assert (found.is_match, found.best.view, found.best.entry) == (True, "mirror", "picture-1")
    assert found.best.strength is Strength.CUT
    (identity,) = [one for one in found.views if one.view == "identity"]
    assert (identity.reason, identity.distance > identity.limit) == (Reason.TOO_FAR, True)


def test_of_a_video_the_frame_that_comes_nearest_is_explained(banks_dir: Path) -> None:
    """Its time is told; frames within a fifth of a second are not looked at twice."""
    frames = [_frame(_picture(seed), at, SampleReason.SCENE_CHANGE) for at, seed in ((0.0, 7), (0.1, 8), (1.0, 1))]
    assert _explained(banks_dir, *frames)["KNOWN"].time_seconds == 1.0


def test_one_entry_alone_is_explained_under_the_limits_of_its_list(banks_dir: Path) -> None:
    """Why this one did not match, though another did; the length that its limits go by is the list's."""
    found = _explained(banks_dir, _frame(_picture(1)), entry="picture-2")
    assert set(found) == {"KNOWN", "SAFE"}
    assert {view.entry for view in found["KNOWN"].views} == {"picture-2"}
    assert not found["KNOWN"].is_match
    assert "a list of 3 rows" in found["KNOWN"].best.told


def test_one_entry_alone_is_taken_back_by_the_rest_of_its_bank(banks_dir: Path) -> None:
    """What holds in the running service holds for the explanation of one entry."""
    value = Pdq().hash_plane(np.frombuffer(_frame(_picture(1)).plane, np.uint8).reshape(64, 64)).value
    add_entries(banks_dir / "KNOWN", np.frombuffer(value, np.uint8)[None], ["harmless"], [Opinion.NEGATIVE])
    found = _explained(banks_dir, _frame(_picture(1)), entry="picture-1")
    assert (found["KNOWN"].is_match, found["KNOWN"].best.reason) == (False, Reason.TAKEN_BACK)


@pytest.mark.parametrize(
    ("banks", "reason"),
    [
        ({"KNOWN": {"disable_until": "2027-01-31"}}, Reason.DISABLED),
        ({"SAFE": {"kind": "negative"}}, Reason.TAKEN_BACK),
        ({}, Reason.MATCH),
        ({"SAFE": {"kind": "negative", "disable_until": "2027-01-31"}}, Reason.MATCH),
        ({"KNOWN": {"disable_until": "1970-01-01"}}, Reason.MATCH),
    ],
)
def test_what_the_operator_says_of_banks_is_told(banks_dir: Path, banks: dict[str, object], reason: Reason) -> None:
    """A bank at rest, and one that takes matches back: the picture is in both."""
    found = _explained(banks_dir, _frame(_picture(2)), banks=banks)
    assert found["KNOWN"].best.reason is reason


def test_a_bank_that_is_held_is_explained_as_it_is_held(banks_dir: Path) -> None:
    """What the budget takes from a list that has grown is taken from the explanation, too."""
    config = Config.model_validate({"models": (), "matching": {"false_matches_per_day": 0.001, "streams": 1_000_000}})
    banks = Banks([load_bank(banks_dir / "KNOWN")], config, now_seconds=1000.0)
    assert banks.limits["KNOWN"].max_distances["pdq"] < 31
    free = Banks([load_bank(banks_dir / "KNOWN")], Config.model_validate({"models": ()}), now_seconds=1000.0)
    assert free.limits["KNOWN"].max_distances == {}


def test_what_was_just_cut_counts_beside_the_lists(banks_dir: Path) -> None:
    """The limits that are told are those of the running service, which holds frames against that bank as well."""
    rows = np.random.default_rng(3).integers(0, 256, (9, 32), dtype=np.uint8)
    add_entries(banks_dir / INCIDENT_BANK, rows, ["incident"] * 9)
    banks = Banks([load_bank(banks_dir / "KNOWN")], Config.model_validate({"models": ()}), now_seconds=1000.0)
    assert (len(banks.banks[0]), banks.beside["KNOWN"].counted_rows) == (2, 4)
