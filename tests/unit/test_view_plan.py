"""Which views are made of a frame, when, and that they find what was done to it."""

import time
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.hashing.fills import BARS, CORNERS
from models.hashing.pdq import Pdq
from models.hashing.sample import Sample
from models.hashing.scenes import Look
from models.hashing.spectrum import spectra_of
from models.hashing.view_budget import ViewBudget
from models.hashing.view_plan import EVERY_VIEW, QUARTERS, SHORTEST_PLAN, ViewPlan, due, view_batch
from models.hashing.view_table import ALWAYS, EDGES, SCENE, TURNS, Tier, make
from models.hashing.viewing import Viewer, packed

Picture = NDArray[np.uint8]

_WIDTH, _HEIGHT = 960, 540


@lru_cache
def _picture(seed: int) -> Picture:
    generator = np.random.default_rng(seed)
    total = np.zeros((_HEIGHT, _WIDTH, 3))
    for step, cells in enumerate((4, 9, 18, 40)):
        coarse = generator.integers(0, 256, (cells, cells + 3, 3)).astype(np.float32)
        total += cv2.resize(coarse, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC) / (step + 1)
    return np.asarray((total - total.min()) / np.ptp(total) * 255, dtype=np.uint8)


def _plane(picture: Picture) -> Picture:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _sample(picture: Picture, overlay: NDArray[np.bool_] | None = None) -> Sample:
    square = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    return Sample(_plane(picture), np.asarray(square, dtype=np.uint8), width, height, overlay)


def _distances(known: Picture, shown: Picture, overlay: NDArray[np.bool_] | None = None) -> dict[str, int]:
    batch = view_batch(_sample(shown, overlay), EVERY_VIEW)
    wanted = np.unpackbits(np.frombuffer(Pdq().hash_plane(_plane(known)).value, dtype=np.uint8))
    found = np.count_nonzero(np.unpackbits(batch.values, axis=1) != wanted, axis=1)
    return dict(zip(batch.names, found.tolist(), strict=True))


def _covered(picture: Picture, top: float, bottom: float, left: float, right: float) -> Picture:
    shown = picture.copy()
    rows = slice(round(top * _HEIGHT), round(bottom * _HEIGHT))
    shown[rows, round(left * _WIDTH) : round(right * _WIDTH)] = 240
    return shown


def _inside(picture: Picture, share: float) -> Picture:
    canvas = (_picture(991) // 2 + 60).astype(np.uint8)
    size = (round(_WIDTH * share), round(_HEIGHT * share))
    canvas[60 : 60 + size[1], 90 : 90 + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return canvas


def _pillarboxed(picture: Picture) -> Picture:
    upright = np.rot90(picture)
    canvas = np.full((_HEIGHT, _WIDTH, 3), 12, dtype=np.uint8)
    width = round(_HEIGHT * _HEIGHT / _WIDTH)
    left = (_WIDTH - width) // 2
    canvas[:, left : left + width] = cv2.resize(upright, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    return canvas


_EDITS: dict[str, tuple[Callable[[Picture], Picture], int]] = {
    "mirror": (lambda picture: picture[:, ::-1], 20),
    "half_turn": (lambda picture: picture[::-1, ::-1], 20),
    "half_turn_mirror": (lambda picture: picture[::-1], 20),
    "turn_left": (lambda picture: np.rot90(picture, 3), 20),
    "turn_right": (np.rot90, 20),
    "turn_left_mirror": (lambda picture: np.rot90(picture[:, ::-1], 3), 20),
    "turn_right_mirror": (lambda picture: np.rot90(picture[:, ::-1]), 20),
    "inverted": (lambda picture: 255 - picture, 20),
    "inverted_mirror": (lambda picture: 255 - picture[:, ::-1], 20),
    "trim_turn_right": (_pillarboxed, 31),
    "zoom_3": (lambda picture: picture[16:-16, 29:-29], 40),
    "zoom_6_mirror": (lambda picture: picture[32:-32, 58:-58][:, ::-1], 56),
    "extend_left": (lambda picture: picture[:, 80:], 48),
    "extend_left_mirror": (lambda picture: picture[:, ::-1][:, 80:], 48),
    "fill_bottom": (lambda picture: _covered(picture, 0.88, 1, 0, 1), 56),
    "fill_top_left": (lambda picture: _covered(picture, 0, 0.4, 0, 0.25), 56),
    "fill_left_mirror": (lambda picture: _covered(picture, 0, 1, 0.78, 1)[:, ::-1], 64),
    "rect_1": (lambda picture: _inside(picture, 0.6), 31),
    "rect_1_mirror": (lambda picture: _inside(picture[:, ::-1], 0.6), 31),
}


@pytest.mark.parametrize("view", _EDITS)
def test_every_edit_has_its_view(view: str) -> None:
    """What was done to a picture is undone by the view that is meant for it, in most pictures to within the limit."""
    edit, limit = _EDITS[view]
    found = [_distances(_picture(seed), np.ascontiguousarray(edit(_picture(seed)))) for seed in range(4)]

    undone = np.median([distances.get(view, 256) for distances in found])
    assert undone <= limit
    assert undone < np.median([distances["identity"] for distances in found])


def test_what_lies_over_a_picture_is_filled_where_the_stream_showed_it() -> None:
    """With the mask of an overlay a covered picture lies far nearer; without one there is no such view."""
    overlay = np.zeros((64, 64), dtype=np.bool_)
    overlay[40:60, 30:62] = True
    overlay[2:10, 2:20] = True
    gains = []
    for seed in range(5):
        picture = _covered(
            _covered(_picture(seed), 40 / 64, 60 / 64, 30 / 64, 62 / 64), 2 / 64, 10 / 64, 2 / 64, 20 / 64
        )
        distances = _distances(_picture(seed), picture, overlay)
        assert "overlay" not in _distances(_picture(seed), picture)
        gains.append(distances["identity"] - distances["overlay"])
    assert np.median(gains) > 20


def test_fills_go_into_the_best_rectangle() -> None:
    """A part of the picture in the picture is painted over as a part of the frame is."""
    sample = _sample(_inside(_picture(3), 0.6))
    rectangle = make(sample, "rect_1")
    assert rectangle is not None
    assert rectangle.plane is not None
    for fill in (*CORNERS, BARS[0]):
        found = make(sample, f"rect_1_{fill.name}")
        assert found is not None
        expected = spectra_of(fill.filled(rectangle.plane.astype(np.float32)))
        assert np.abs(found.spectrum - expected).max() < 0.01


def test_each_view_has_one_name_and_one_time() -> None:
    """No view is run twice; four samples in a row run all views in turn; a plan for all has every name."""
    names = [*ALWAYS, *EDGES, *(name for quarter in TURNS for name in quarter), *SCENE]
    turned = [
        name
        for quarter in range(QUARTERS)
        for _, part in due(ViewPlan(frozenset({Tier.IN_TURN}), quarter))[1:]
        for name in part
    ]

    assert len(set(names)) == len(names)
    assert turned == [name for quarter in TURNS for name in quarter]
    assert [name for _, part in due(EVERY_VIEW) for name in part] == names
    made = view_batch(_sample(_inside(_pillarboxed(_picture(1)), 0.7), np.eye(64, dtype=np.bool_)), EVERY_VIEW).names
    assert set(made) <= set(names)
    assert len(made) >= 55


@pytest.mark.parametrize("plan", [SHORTEST_PLAN, ViewPlan(frozenset({Tier.EDGES, Tier.IN_TURN}), 2), EVERY_VIEW])
def test_batches_are_deterministic_and_whole(plan: ViewPlan) -> None:
    """Equal frames give equal batches; identity comes first and is PDQ's own; every array has a row per view."""
    picture = _inside(_picture(5), 0.6)
    one, other = view_batch(_sample(picture), plan), view_batch(_sample(picture), plan)

    assert one.names == other.names
    for name in ("values", "deviations", "qualities", "is_stable", "passes_shape", "tiers"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
        assert len(getattr(one, name)) == len(one)
    known = Pdq().hash_both_ways(_plane(picture))
    assert one.names[:2] == ALWAYS
    for row, expected in enumerate(known):
        assert one.values[row].tobytes() == expected.value
        assert (one.qualities[row], one.is_stable[row]) == (expected.quality, expected.is_stable)


def test_pictures_without_anything_to_see_have_views_too() -> None:
    """Black, flat and patterned frames raise nothing, and none of their views passes the shape gate."""
    for shade in (0, 128, 255):
        flat = np.full((_HEIGHT, _WIDTH, 3), shade, dtype=np.uint8)
        batch = view_batch(_sample(flat, np.ones((64, 64), dtype=np.bool_)), EVERY_VIEW)
        assert not batch.passes_shape.any()
        assert not batch.is_stable.any()


def test_a_sample_costs_a_part_of_what_all_views_cost() -> None:
    """Identity and mirror take less than half of what a sample's tiers take, and these less than all views do."""
    pictures = [_sample(_inside(_picture(seed), 0.6)) for seed in range(4)]

    def seconds(plan: ViewPlan) -> float:
        took = []
        for _ in range(5):
            began = time.process_time()
            for known in pictures:
                view_batch(Sample(known.plane, known.picture, _WIDTH, _HEIGHT), plan)
            took.append(time.process_time() - began)
        return min(took)

    view_batch(pictures[0], EVERY_VIEW)  # makes what is made once
    shortest = seconds(SHORTEST_PLAN)
    usual = seconds(ViewPlan(frozenset({Tier.EDGES, Tier.IN_TURN}), 1))
    assert shortest < usual / 2
    assert usual < 1.5 * seconds(EVERY_VIEW)


def test_a_viewer_accounts_for_every_tier_that_it_ran() -> None:
    """Making and looking up are charged to the tiers by their views; a single picture is charged to nobody."""
    ticks = iter(range(10_000))
    budget = ViewBudget(1e6)
    viewer = Viewer(budget, lambda: float(next(ticks)))
    sample = _sample(_picture(2))
    look = Look(turn=2, overlay=packed(np.eye(64) > 0))
    viewed = viewer.view(sample.plane, sample.picture, _WIDTH, _HEIGHT, look)
    before = sum(viewed.seconds.values())
    with viewer.paying(viewed, look):
        next(ticks)

    assert set(viewed.seconds) == set(Tier)
    assert sum(viewed.seconds.values()) == pytest.approx(before + 2)
    assert viewed.left_out == 0
    assert {"overlay", *TURNS[2]} & set(viewed.batch.names) >= {"overlay", "fill_top_left", "extend_left"}
    picture = viewer.view(sample.plane, sample.picture, _WIDTH, _HEIGHT)
    with viewer.paying(picture, None):
        pass
    assert len(picture.batch) > len(viewed.batch)
