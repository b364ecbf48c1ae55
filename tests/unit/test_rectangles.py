"""Pictures within pictures are found wherever they stand, and no picture costs more than another."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.shapes.borders import may_have_borders, uniform_borders
from models.shapes.rectangles import MIN_SIDE, Box, rectangles
from tests.scenes import (
    HEIGHT,
    WIDTH,
    Gray,
    adversarial,
    cpu_seconds,
    desktop,
    distance,
    encoded,
    scene,
    square,
    within,
)

_COUNT = 24


def _background(kind: int) -> Gray:
    match kind % 4:
        case 0:
            return np.full((HEIGHT, WIDTH), 11 * kind % 256, dtype=np.uint8)
        case 1:
            return np.asarray(cv2.GaussianBlur(scene(100 + kind), (0, 0), 12), dtype=np.uint8)
        case 2:
            return scene(200 + kind)
        case _:
            return desktop(300 + kind)


def _found(share: float) -> int:
    """In how many of 24 scenes one of the rectangles holds the known picture, to 56 bits."""
    found = 0
    for seed in range(_COUNT):
        shown = square(encoded(within(scene(seed), _background(seed), share, np.random.default_rng(seed))))
        boxes = rectangles(shown)
        found += any(distance(_inside(shown, box), scene(seed)) <= 56 for box in boxes)
    return found


def _inside(gray: Gray, box: Box) -> Gray:
    return gray[box.top : box.bottom, box.left : box.right]


@pytest.mark.parametrize(("share", "floor"), [(0.8, 22), (0.65, 22), (0.5, 21), (0.35, 18)])
def test_a_picture_in_a_picture_is_found(share: float, floor: int) -> None:
    """At random places on plain, blurred, textured and cluttered backgrounds, through an encoder."""
    assert _found(share) >= floor


@pytest.mark.parametrize(("x", "y"), [(64, 36), (0, 45), (100, 0)], ids=["frame", "letterbox", "pillarbox"])
def test_textured_bars_are_no_hiding_place(x: int, y: int) -> None:
    """Bars that no trimming takes off, since they are not uniform, end where a rectangle begins."""
    found = 0
    for seed in range(_COUNT):
        shown = np.asarray(cv2.GaussianBlur(scene(400 + seed), (0, 0), 20), dtype=np.uint8)
        size = (WIDTH - 2 * x, HEIGHT - 2 * y)
        shown[y : HEIGHT - y, x : WIDTH - x] = cv2.resize(scene(seed), size, interpolation=cv2.INTER_AREA)
        gray = square(encoded(shown))
        found += any(distance(_inside(gray, box), scene(seed)) <= 56 for box in rectangles(gray))
    assert found >= 20


@pytest.mark.parametrize("ground", ["plain", "soft"])
def test_texture_is_found_on_surroundings_as_bright_as_itself(ground: str) -> None:
    """Rough pictures step within as much as at their sides: what tells these is that the other side is quiet."""
    found = 0
    for seed in range(_COUNT):
        rng = np.random.default_rng(seed)
        grass = _rough(rng)
        around = np.full((HEIGHT, WIDTH), round(float(grass.mean())), dtype=np.uint8)
        if ground == "soft":
            around = np.asarray(cv2.GaussianBlur(scene(500 + seed), (0, 0), 20), dtype=np.uint8)
        gray = square(encoded(within(grass, around, 0.5, rng)))
        found += any(distance(_inside(gray, box), grass) <= 56 for box in rectangles(gray))
    assert found >= 20


def test_lines_within_a_picture_do_not_crowd_it_out() -> None:
    """Boxes that share three sides with it end in the middle of one that goes on: four are enough to have it."""
    found = 0
    for seed in range(_COUNT):
        rng = np.random.default_rng(seed)
        down, across = np.mgrid[:HEIGHT, :WIDTH]
        is_turned = (down < rng.integers(30, HEIGHT - 30)) ^ (across < rng.integers(30, WIDTH - 30))
        tiled = np.where(is_turned, 255 - scene(seed), scene(seed)).astype(np.uint8)
        gray = square(encoded(within(tiled, scene(600 + seed), 0.7, rng)))
        found += any(distance(_inside(gray, box), tiled) <= 56 for box in rectangles(gray))
    assert found >= 16


def _rough(rng: np.random.Generator) -> Gray:
    """Texture of one brightness throughout, its large shapes too faint to step at its sides."""
    large = cv2.resize(rng.normal(0, 6, (9, 16)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(0, 30, (90, 160)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(128 + large + fine, 0, 255), dtype=np.uint8)


@given(
    top=st.integers(0, 120), left=st.integers(0, 120), height=st.integers(80, 200), width=st.integers(80, 200),
    inner=st.integers(0, 255), contrast=st.integers(40, 120),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_plain_box_is_met_to_the_pixel(
    top: int, left: int, height: int, width: int, inner: int, contrast: int
) -> None:
    """The sides of a plain box on a plain ground are exact, unless it stands so near the edge that it touches it."""
    outer = inner - contrast if inner >= contrast else inner + contrast
    bottom, right = min(256, top + height), min(256, left + width)
    gray = np.full((256, 256), outer % 256, dtype=np.uint8)
    gray[top:bottom, left:right] = inner
    if abs(int(gray[top, left]) - outer % 256) < 40 or min(bottom - top, right - left) < 256 * MIN_SIDE + 4:
        return
    sides = [side if 4 <= side <= 252 else round(side / 256) * 256 for side in (top, bottom, left, right)]
    found = [[box.top, box.bottom, box.left, box.right] for box in rectangles(gray)]
    if sides != [0, 256, 0, 256]:
        assert any(max(abs(np.subtract(one, sides))) <= 4 for one in found)
    if all(4 <= side <= 252 for side in (top, bottom, left, right)):
        assert [top, bottom, left, right] in found


@given(seed=st.integers(0, 10_000), most=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_rectangles_keep_their_promises(seed: int, most: int) -> None:
    """At most as many as asked for, best first, large enough, within the picture, and the same each time."""
    gray = square(desktop(seed))
    boxes = rectangles(gray, most)

    assert boxes == rectangles(gray.copy(), most)
    assert len(boxes) <= most
    assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)
    for box in boxes:
        assert 0 <= box.top < box.bottom <= 256
        assert 0 <= box.left < box.right <= 256
        assert min(box.bottom - box.top, box.right - box.left) >= 256 * MIN_SIDE - 8
        assert box.bottom - box.top < 256 or box.right - box.left < 256


def test_an_ordinary_picture_costs_few_views() -> None:
    """Texture alone hardly ever makes a rectangle: every one is looked up, mirrored and filled."""
    found = [len(rectangles(square(encoded(scene(seed))))) for seed in range(40)]
    assert sum(found) <= 0.9 * len(found)


def test_a_picture_without_lines_has_no_rectangle() -> None:
    """Flat and smooth pictures are left after the first look."""
    smooth = np.asarray(cv2.GaussianBlur(scene(3), (0, 0), 60), dtype=np.uint8)
    assert rectangles(np.full((256, 256), 90, dtype=np.uint8)) == ()
    assert rectangles(np.arange(256, dtype=np.uint8)[:, None].repeat(256, axis=1)) == ()
    assert rectangles(square(smooth)) == ()


def test_no_picture_makes_the_search_dear() -> None:
    """Noise, gratings, grids and thousands of lines cost at most three times what an ordinary picture costs."""
    usual = cpu_seconds(rectangles, square(encoded(within(scene(1), scene(2), 0.5, np.random.default_rng(1)))))
    dear = {name: cpu_seconds(rectangles, gray) / usual for name, gray in adversarial().items()}
    assert max(dear.values()) < 3, dear


def test_plain_borders_are_looked_for_only_where_there_may_be_any() -> None:
    """Whoever has borders passes the cheap test, in gray as in colour; a textured picture does not."""
    framed = scene(4).copy()
    framed[:40] = framed[-40:] = 12
    gray = square(framed)
    assert may_have_borders(gray)
    assert may_have_borders(np.repeat(gray[:, :, None], 3, axis=2))
    assert uniform_borders(gray)[0] >= 28
    assert not may_have_borders(square(scene(4)))
    assert uniform_borders(square(scene(4))) == (0, 0, 0, 0)
