"""Parts of a frame: what stands between borders, cells of grids, quarters; bounded whatever the picture holds."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.asking import Placed, ask_models
from models.cascade import Asking, ModelRule
from models.tiles import MOST_PARTS, cut_out, jittered, mixed, parts_of

_CALM = Asking()


def _scene(seed: int, width: int = 256, height: int = 256) -> NDArray[np.uint8]:
    """A picture with detail at several scales, as photographs have it."""
    drawn = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48):
        layer = drawn.normal(0, 1, (cells, cells, 3)).astype(np.float64)
        layer = np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC), np.float64)
        total += layer * 60 / math.sqrt(cells)
    return np.clip(total + drawn.integers(60, 190, 3), 0, 255).astype(np.uint8)


def _grid(rows: int, columns: int, seed: int, gutter: int = 0) -> NDArray[np.uint8]:
    picture = np.full((256, 256, 3), 20, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, bottom = 256 * row // rows, 256 * (row + 1) // rows
            left, right = 256 * column // columns, 256 * (column + 1) // columns
            cell = _scene(seed * 100 + row * 10 + column, right - left - gutter, bottom - top - gutter)
            picture[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return picture


_Picture = NDArray[np.uint8]


def _lines(drawn: np.random.Generator) -> _Picture:
    return np.repeat(drawn.integers(0, 2, (1, 256, 1), dtype=np.uint8) * 255, 256, 0).repeat(3, 2)


def _step(drawn: np.random.Generator) -> _Picture:
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[drawn.integers(256) :] = 255
    return picture


_HOSTILE: dict[str, Callable[[np.random.Generator], _Picture]] = {
    "noise": lambda drawn: drawn.integers(0, 256, (256, 256, 3), dtype=np.uint8),
    "flat": lambda drawn: np.full((256, 256, 3), drawn.integers(256), np.uint8),
    "lines": _lines,
    "step": _step,
}


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 2), (2, 1), (3, 3), (2, 3), (4, 4)])
@pytest.mark.parametrize("gutter", [0, 3])
def test_cells_of_a_grid_are_found_and_come_in_turns(rows: int, columns: int, gutter: int) -> None:
    """In at least 17 of 20 grids each cell gets its look within as many samples as it takes, and has its own pixels."""
    found = 0
    for seed in range(20):
        picture = _grid(rows, columns, seed, gutter)
        names = set()
        for turn in range(rows * columns):
            parts = parts_of(picture, Asking(turn=turn))
            assert len(parts.chosen) <= MOST_PARTS
            names |= {part.name for part in parts.chosen}
        wanted = {
            f"cell_{row + 1}_{column + 1}_of_{rows}x{columns}" for row in range(rows) for column in range(columns)
        }
        found += names == wanted
    assert found >= 17


def test_few_single_pictures_are_taken_for_grids() -> None:
    """Of 100 scenes at most five get looks that they do not need."""
    assert sum(bool(parts_of(_scene(seed), _CALM).chosen) for seed in range(100)) <= 5


def test_what_stands_between_wide_borders_gets_a_look() -> None:
    """A small picture in a wide frame is cut out to within two pixels, and its cells count from there."""
    picture = np.full((256, 256, 3), 30, np.uint8)
    picture[60:200, 70:190] = _scene(3, 120, 140)
    (part,) = parts_of(picture, _CALM).chosen
    assert part.name == "within_borders"
    for found, right in zip((part.left, part.top, part.width, part.height), (70, 60, 120, 140), strict=True):
        assert abs(found - right) <= 3
    assert cut_out(picture, part).shape == (256, 256, 3)


def test_suspicious_streams_get_their_quarters_and_busy_nodes_none() -> None:
    """Four overlapping quarters on suspicion; while frames wait all parts are left out, and counted."""
    suspicious = parts_of(_scene(1), Asking(is_suspicious=True))
    assert [part.name for part in suspicious.chosen] == ["top_left", "top_right", "bottom_left", "bottom_right"]
    assert suspicious.left_out == 0
    busy = parts_of(_scene(1), Asking(is_suspicious=True, has_room=False))
    assert (busy.chosen, busy.left_out) == ((), 4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    turn=st.integers(0, 255),
    kind=st.sampled_from(sorted(_HOSTILE)),
    is_suspicious=st.booleans(),
)
def test_work_is_bounded_for_any_picture(*, seed: int, turn: int, kind: str, is_suspicious: bool) -> None:
    """Never more than four parts, all within the picture and large enough, none lost from the count."""
    drawn = np.random.default_rng(seed)
    picture = _HOSTILE[kind](drawn)
    parts = parts_of(np.ascontiguousarray(picture), Asking(turn=turn, is_suspicious=is_suspicious))
    assert len(parts.chosen) <= MOST_PARTS
    assert len(parts.chosen) + parts.left_out <= 17
    for part in parts.chosen:
        assert min(part.width, part.height) >= 40
        assert part.left >= 0
        assert part.top >= 0
        assert part.left + part.width <= 256
        assert part.top + part.height <= 256


class _Brightness:
    """Scores how bright the middle of what it is shown is."""

    name, sha256 = "bright", "ab" * 32

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        self.sizes.append((width, height))
        return {"bright": float(picture[64:192, 64:192].mean()) / 255}


def test_the_highest_look_counts_and_is_named() -> None:
    """One bright cell of four: its score and its name, and each look has the shape of its part of the frame."""
    picture = _grid(2, 2, 4) // 3
    picture[128:, :128] = 255 - _scene(9, 128, 128) // 4
    model = _Brightness()
    placed = [Placed(model, ModelRule("bright", has_tiles=True), 0)]
    answers = ask_models(placed, picture, (1280, 720), _CALM, timed=lambda _: nullcontext())
    (score,) = answers.scores
    assert score.view == "cell_2_1_of_2x2"
    assert score.score > 0.6
    assert answers.uses[0].looks == 5
    assert model.sizes == [(1280, 720), *[(640, 360)] * 4]


@given(st.integers(0, 2**32 - 1), st.integers(0, 1000), st.floats(0, 0.2))
def test_a_crop_at_random_stays_within_its_share(draw: int, number: int, share: float) -> None:
    """Each side loses at most its share, and the picture keeps its size."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    found = jittered(ramp, share, mixed(draw, number))
    assert found.shape == ramp.shape
    assert found[:, 0].max() <= 256 * share + 1
    assert found[:, -1].min() >= 255 - 256 * share - 1
