"""The inspector ties everything together and survives every model."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.arrays import IndexCorrupt
from models.bank_store import add_entries, load_bank, open_bank, put_canary
from models.banks import BankLimits
from models.hashing.algorithm import Fingerprint
from models.hashing.imagehashes import PHASH
from models.hashing.pdq import Pdq
from models.hashing.plugins import PluginFailed
from models.hashing.scenes import Look
from models.hashing.second_tests import difference_hash
from models.hashing.spectrum import spectrum_of
from models.inspector import Inspector

_WEIGHTS = "ab" * 32


class FakeModel:
    sha256 = _WEIGHTS

    def __init__(self, name: str, answer: object) -> None:
        self.name = name
        self.answer = answer
        self.seen: list[tuple[tuple[int, ...], int, int]] = []

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        self.seen.append((picture.shape, width, height))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


def _clock() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 0.25


def _inspector(**parts: object) -> Inspector:
    ticks = _clock()
    return Inspector(clock=lambda: next(ticks), **parts)  # type: ignore[arg-type]


def _frame(seed: int = 1, *, mirrored: bool = False) -> tuple[bytes, bytes]:
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    picture = np.asarray(cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    picture = np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture
    return _plane(picture).tobytes(), picture.tobytes()


def _plane(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _hash(frame: tuple[bytes, bytes]) -> NDArray[np.uint8]:
    plane = np.frombuffer(frame[0], np.uint8).reshape(64, 64)
    return np.frombuffer(Pdq().hash_plane(plane).value, np.uint8).reshape(1, 32)


def test_a_known_frame_is_found_and_scored(tmp_path: Path) -> None:
    """One call gives the frame's own hash, the match with its view, every score, and the time of every stage."""
    add_entries(tmp_path / "CARDS", _hash(_frame()), ["card"])
    model = FakeModel("cards", {"other": 0.25, "bars": 0.75})
    inspector = _inspector(banks=[load_bank(tmp_path / "CARDS")], classifiers=[model])
    frame = _frame(mirrored=True)
    inspection = inspector.inspect(*frame, 1280, 720)

    assert inspection.fingerprint == _hash(frame).tobytes()
    assert (inspection.quality, inspection.is_stable, inspection.is_low_information) == (100, True, False)
    (match,) = inspection.matches
    assert (match.bank, match.entry, match.view) == ("CARDS", "card", "mirror")
    assert [(score.label, score.score, score.model_sha256) for score in inspection.scores] == [
        ("other", 0.25, _WEIGHTS),
        ("bars", 0.75, _WEIGHTS),
    ]
    assert model.seen == [((256, 256, 3), 1280, 720)]
    assert inspection.stage_seconds == {"views": 0.25, "hash": 0.25, "match": 0.25, "cards": 0.25}


@pytest.mark.parametrize(
    "answer",
    [
        {"a": math.nan},
        {"a": math.inf},
        {"a": 1.5},
        {"a": -0.1},
        {"a": "high"},
        {"a": None},
        {},
        None,
        [0.5],
        RuntimeError("broken"),
        ZeroDivisionError(),
        MemoryError(),
    ],
)
def test_a_broken_model_is_named_and_kills_nothing(tmp_path: Path, answer: object) -> None:
    """Whatever a model answers or raises, the hash match and the other models' scores stand."""
    add_entries(tmp_path / "CARDS", _hash(_frame()), ["card"])
    models = [FakeModel("broken", answer), FakeModel("sound", {"a": 1})]
    inspection = _inspector(banks=[load_bank(tmp_path / "CARDS")], classifiers=models).inspect(*_frame(), 640, 360)

    assert inspection.failed_models == ("broken",)
    assert [(score.model, score.score) for score in inspection.scores] == [("sound", 1.0)]
    assert len(inspection.matches) == 1
    assert "broken" in inspection.stage_seconds


def test_frames_without_information_are_shown_to_no_model() -> None:
    """Black is counted, not scored; a picture of one brightness and several colours is scored."""
    model = FakeModel("cards", {"a": 0.5})
    inspector = _inspector(classifiers=[model])
    black = inspector.inspect(bytes(64 * 64), bytes(256 * 256 * 3), 1280, 720)
    colours = np.full((256, 256, 3), 120, dtype=np.uint8)
    colours[64:128, 64:128] = (220, 70, 110)
    coloured = inspector.inspect(bytes([120]) * 4096, colours.tobytes(), 1280, 720)

    assert (black.is_low_information, black.scores, black.quality) == (True, (), 0)
    assert (coloured.is_low_information, len(coloured.scores)) == (False, 1)
    assert len(model.seen) == 1


def test_a_black_entry_does_not_match_every_black_frame(tmp_path: Path) -> None:
    """A list that holds the hash of nothing finds nothing in frames of nothing."""
    black = (bytes(64 * 64), bytes(256 * 256 * 3))
    add_entries(tmp_path / "CARDS", _hash(black), ["black"])

    assert _inspector(banks=[load_bank(tmp_path / "CARDS")]).inspect(*black, 640, 360).matches == ()


def test_matches_of_all_banks_are_ordered_and_bounded(tmp_path: Path) -> None:
    """The closest of all banks come first, a bounded number is named, the rest is counted."""
    row = _hash(_frame())
    for bank in ("ONE", "TWO"):
        add_entries(tmp_path / bank, np.repeat(row, 12, axis=0), [f"{bank}-{number}" for number in range(12)])
    inspector = _inspector(banks=[load_bank(tmp_path / "ONE"), load_bank(tmp_path / "TWO")])
    inspection = inspector.inspect(*_frame(), 640, 360)

    assert (len(inspection.matches), inspection.left_out_matches) == (16, 8)


def test_no_bank_crowds_another_out(tmp_path: Path) -> None:
    """A list that only watches, with one picture under twenty names, hides no farther match of one that cuts."""
    rows = _hash(_frame())
    add_entries(tmp_path / "WATCHED", rows.repeat(20, axis=0), [f"copy-{number}" for number in range(20)])
    rows = rows.copy()
    rows[0, 0] ^= 0b11
    add_entries(tmp_path / "CUTS", rows, ["card"])
    inspector = _inspector(banks=[load_bank(tmp_path / name) for name in ("WATCHED", "CUTS")])
    found = inspector.inspect(*_frame(), 1280, 720)
    assert [match.bank for match in found.matches] == ["WATCHED"] * 15 + ["CUTS"]
    assert found.left_out_matches == 5


def test_limits_belong_to_their_bank(tmp_path: Path) -> None:
    """A bank with a narrower limit is matched within it, another by its own."""
    row = _hash(_frame()).copy()
    row[0, 0] ^= 0xFF
    for bank in ("NARROW", "WIDE"):
        add_entries(tmp_path / bank, row, ["card"])
    banks = [load_bank(tmp_path / "NARROW"), load_bank(tmp_path / "WIDE")]
    inspection = _inspector(banks=banks, limits={"NARROW": BankLimits({"pdq": 7})}).inspect(*_frame(), 640, 360)

    assert [(match.bank, match.distance) for match in inspection.matches] == [("WIDE", 8)]


def test_other_hashes_are_computed_when_a_bank_needs_them(tmp_path: Path) -> None:
    """A bank of 64-bit hashes is matched too."""
    frame = _frame()
    value = PHASH.hash_plane(np.frombuffer(frame[0], np.uint8).reshape(64, 64)).value
    add_entries(tmp_path / "SHORT", np.frombuffer(value, np.uint8).reshape(1, 8), ["card"], algorithm="phash")
    inspection = _inspector(banks=[load_bank(tmp_path / "SHORT")]).inspect(*frame, 640, 360)

    assert [(match.algorithm, match.bits) for match in inspection.matches] == [("phash", 64)]


def test_reload_takes_up_new_banks_and_drops_removed_ones(tmp_path: Path) -> None:
    """A new generation, a new bank and a bank that is gone are all taken up between two frames."""
    add_entries(tmp_path / "CARDS", _hash(_frame(2)), ["other"])
    inspector = _inspector(banks=[load_bank(tmp_path / "CARDS")])
    assert inspector.inspect(*_frame(), 640, 360).matches == ()
    add_entries(tmp_path / "CARDS", _hash(_frame()), ["card"])
    assert inspector.reload_bank("CARDS")
    assert len(inspector.inspect(*_frame(), 640, 360).matches) == 1
    add_entries(tmp_path / "NEW", _hash(_frame()), ["card"])
    assert inspector.reload_bank("NEW", tmp_path / "NEW")
    assert len(inspector.inspect(*_frame(), 640, 360).matches) == 2
    (tmp_path / "NEW" / "bank.json").unlink()

    assert not inspector.reload_bank("NEW")
    assert [bank.name for bank in inspector.banks] == ["CARDS"]


def test_a_damaged_generation_leaves_the_one_in_use(tmp_path: Path) -> None:
    """A reload that fails is said, and what was in force stays in force."""
    add_entries(tmp_path / "CARDS", _hash(_frame()), ["card"])
    inspector = _inspector(banks=[load_bank(tmp_path / "CARDS")])
    (tmp_path / "CARDS" / "bank.json").write_text("{")

    with pytest.raises(IndexCorrupt):
        inspector.reload_bank("CARDS")
    assert len(inspector.inspect(*_frame(), 640, 360).matches) == 1


def test_pixels_of_another_size_are_refused() -> None:
    """Bytes that are no frame are refused, not guessed at."""
    with pytest.raises(ValueError, match="reshape"):
        _inspector().inspect(bytes(10), bytes(256 * 256 * 3), 640, 360)


def test_an_inspection_tells_how_the_frame_was_looked_at(tmp_path: Path) -> None:
    """How many views were run, the frame's second hash, and whether any view could have acted."""
    frame, black = _frame(), (bytes(64 * 64), bytes(256 * 256 * 3))
    inspector = _inspector()
    single, live = inspector.inspect(*frame, 640, 360), inspector.inspect(*frame, 640, 360, Look())
    luma = np.frombuffer(frame[0], np.uint8).reshape(64, 64)

    assert single.views_run > live.views_run > 2
    assert single.second == difference_hash(spectrum_of(luma))
    assert single.is_inspectable
    assert not inspector.inspect(*black, 640, 360).is_inspectable


def test_a_negative_bank_takes_matches_of_others_back(tmp_path: Path) -> None:
    """What is known to be harmless matches nothing and is counted, until its bank is disabled or removed."""
    for bank in ("CARDS", "HARMLESS"):
        add_entries(tmp_path / bank, _hash(_frame()), ["card"])
    banks = [load_bank(tmp_path / bank) for bank in ("CARDS", "HARMLESS")]
    negative = BankLimits(is_negative=True)
    inspector = _inspector(banks=banks, limits={"HARMLESS": negative}, wall_clock=lambda: 100.0)
    taken_back = inspector.inspect(*_frame(), 640, 360)
    assert (taken_back.matches, taken_back.suppressed_matches) == ((), 1)

    inspector.limits = {"HARMLESS": replace(negative, disabled_until_seconds=101.0)}
    assert [match.bank for match in inspector.inspect(*_frame(), 640, 360).matches] == ["CARDS"]
    inspector.limits = {"HARMLESS": replace(negative, disabled_until_seconds=100.0)}
    assert inspector.inspect(*_frame(), 640, 360).matches == ()
    shutil.rmtree(tmp_path / "HARMLESS")
    assert not inspector.reload_bank("HARMLESS")
    assert len(inspector.inspect(*_frame(), 640, 360).matches) == 1


def test_lists_count_together(tmp_path: Path) -> None:
    """A bank's limits go by its rows and those of other banks, each of which counts as long as it at most."""
    rows = np.random.default_rng(5).integers(0, 256, (30, 32), dtype=np.uint8)
    for bank, count in (("SMALL", 2), ("LARGE", 30), ("HARMLESS", 30), ("canary", 1)):
        if bank == "canary":
            put_canary(tmp_path, rows[0].tobytes())
        else:
            add_entries(tmp_path / bank, rows[:count], [f"e{number}" for number in range(count)])
    banks = [open_bank(tmp_path / name) for name in ("SMALL", "LARGE", "HARMLESS", "canary")]
    inspector = _inspector(banks=banks, limits={"HARMLESS": BankLimits(is_negative=True)})
    assert inspector.counted_rows == {"SMALL": 4, "LARGE": 32}

    add_entries(tmp_path / "SMALL", rows[2:5], ["more"] * 3)
    inspector.reload_bank("SMALL")
    assert inspector.counted_rows == {"SMALL": 10, "LARGE": 35}


def test_an_algorithm_that_breaks_costs_only_its_own_matches(tmp_path: Path) -> None:
    """An installed algorithm that raises is named among what failed; PDQ's matches stand."""

    class Broken(FakeModel):
        bits = 64
        max_distance = 4

        def hash_plane(self, plane: NDArray[np.uint8]) -> Fingerprint:
            raise PluginFailed("the hash phash raised KeyError in hash_plane")

    add_entries(tmp_path / "CARDS", _hash(_frame()), ["card"])
    add_entries(tmp_path / "CARDS", np.zeros((1, 8), np.uint8), ["card"], algorithm="phash")
    algorithms = {"phash": Broken("phash", {})}
    inspection = _inspector(banks=[load_bank(tmp_path / "CARDS")], algorithms=algorithms).inspect(*_frame(), 640, 360)

    assert inspection.failed_models == ("phash",)
    assert [match.algorithm for match in inspection.matches] == ["pdq"]
