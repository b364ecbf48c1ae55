"""Who shows known pictures edited so that their hash is another one: how many are still found, and who is not.

Small samples of drawn pictures, the same each time; `python -m benchmarks accuracy` measures on photographs and clips.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.accuracy_edits import ASIDE, PROMISED, encoded
from benchmarks.accuracy_lists import ListRows, rows_of_frame, sample_of, store
from benchmarks.accuracy_material import Frame, drawn_picture, pan
from models.banks import Bank
from models.evidence import Strength
from models.hashing.view_batch import ViewBatch
from models.hashing.view_plan import view_batch

KNOWN = 100
STRANGERS = 60
EDITS = {edit.name: edit for edit in (*PROMISED, *ASIDE)}


@lru_cache(maxsize=256)
def picture(number: int) -> Frame:
    return drawn_picture(np.random.default_rng(number))


def rows_of(frames: list[Frame]) -> ListRows:
    found = [rows_of_frame(frame) for frame in frames]
    owners = np.repeat(np.arange(len(found)), [len(rows) for rows in found]).astype(np.int64)
    parts: dict[str, Any] = {
        name: np.concatenate([getattr(rows, name) for rows in found]) for name in ("hashes", "seconds", "is_window")
    }
    return ListRows(**parts, owners=owners)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder: Path = tmp_path_factory.mktemp("banks")
    return store(folder / "DRAWN", rows_of([picture(number) for number in range(KNOWN)]), is_bare=False)


def looked_at(edit: Callable[[Frame, np.random.Generator, Frame], Frame], number: int) -> ViewBatch:
    rng = np.random.default_rng([number, 1])
    scene = picture(1000 + number % 7)
    return view_batch(sample_of(encoded(edit(picture(number), rng, scene), rng)))


def cuts(bank: Bank, batch: ViewBatch) -> set[str]:
    return {match.entry for match in bank.match(batch).matches if match.strength is Strength.CUT}


def flipped(frame: Frame, rng: np.random.Generator, scene: Frame) -> Frame:
    del rng, scene
    return np.ascontiguousarray(frame[::-1])


def upside_down(frame: Frame, rng: np.random.Generator, scene: Frame) -> Frame:
    del rng, scene
    return np.ascontiguousarray(frame[::-1, ::-1])


@pytest.mark.parametrize(
    "edit",
    [EDITS["mirror"].make, flipped, upside_down, EDITS["quarter turn"].make],
    ids=["mirrored", "flipped", "upside-down", "quarter-turn"],
)
def test_turned_and_mirrored_copies_are_found(
    bank: Bank, edit: Callable[[Frame, np.random.Generator, Frame], Frame]
) -> None:
    """In each of the orientations that a hash loses, nine of ten are found, among a hundred pictures, and no other."""
    numbers = range(0, KNOWN, 2)
    found = [cuts(bank, looked_at(edit, number)) for number in numbers]
    assert np.mean([f"picture-{number}" in one for number, one in zip(numbers, found, strict=True)]) >= 0.90
    assert all(one <= {f"picture-{number}"} for number, one in zip(numbers, found, strict=True))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("border", 0.95),
        ("letterbox", 0.95),
        ("crop 5 %", 0.90),
        ("picture in picture 70 %", 0.80),
        ("text + logo", 0.90),
        ("chat box 25x40 %", 0.85),
    ],
)
def test_framed_cropped_and_covered_copies_are_found(bank: Bank, name: str, least: float) -> None:
    """Bars, crops, pictures in pictures and overlays: as many as promised, and never another picture."""
    numbers = range(1, KNOWN, 2)
    found = [cuts(bank, looked_at(EDITS[name].make, number)) for number in numbers]
    assert np.mean([f"picture-{number}" in one for number, one in zip(numbers, found, strict=True)]) >= least
    assert all(one <= {f"picture-{number}"} for number, one in zip(numbers, found, strict=True))


def test_strangers_are_not_taken_for_what_is_known(bank: Bank) -> None:
    """Pictures that no list holds, framed, covered and tilted like copies: none may cut, none asks for review."""
    names = ["no edit", "border", "picture in picture 50 %", "chat box 25x40 %", "filmed screen (simulated)"]
    for number in range(500, 500 + STRANGERS):
        batch = looked_at(EDITS[names[number % len(names)]].make, number)
        asked = [match for match in bank.match(batch).matches if match.strength is not Strength.VOTE]
        assert not asked, (number, asked)


def test_a_stream_shown_again_is_found_within_five_samples(tmp_path: Path) -> None:
    """Four frames of what was cut are enough for 19 of 20 who show it mirrored, cropped and encoded anew.

    Others who show other scenes are never taken for it.
    """
    clips = [pan(picture(700 + number), np.random.default_rng(number), 8.0, 0.5) for number in range(6)]
    incident = store(tmp_path / "JUST_CUT", rows_of([clips[0][place] for place in (1, 5, 9, 13)]), is_bare=False)
    again = 0
    for number in range(20):
        rng = np.random.default_rng(number)
        for place in range(0, 10, 2):  # a sample a second, half a second off where it can be
            shown = clips[0][min(place + int(rng.integers(0, 2)), 15)]
            edited = EDITS["mirror + crop 5 %"].make(shown, rng, shown)
            if cuts(incident, view_batch(sample_of(encoded(edited, rng)))):
                again += 1
                break
    assert again >= 19
    for clip in clips[1:]:
        for shown in clip[::4]:
            small = np.asarray(cv2.resize(shown, (480, 270)), dtype=np.uint8)
            assert not cuts(incident, view_batch(sample_of(encoded(small, np.random.default_rng(1)))))
