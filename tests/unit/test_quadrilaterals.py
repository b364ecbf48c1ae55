"""Filmed screens and turned pictures are straightened, and no picture costs more than another."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.shapes.quadrilaterals import AUTO_THRESHOLD, Quad, quadrilaterals, warp
from tests.scenes import (
    HEIGHT,
    WIDTH,
    Gray,
    adversarial,
    cpu_seconds,
    desktop,
    distance,
    encoded,
    filmed,
    plane,
    scene,
    square,
)

_THRESHOLDS = (AUTO_THRESHOLD, 14, 28)
_COUNT = 24


def _nearest(shown: Gray, known: Gray, thresholds: tuple[int, ...] = _THRESHOLDS) -> int:
    gray = square(encoded(shown))
    return min((distance(warp(gray, quad), known) for quad in quadrilaterals(gray, thresholds)), default=256)


def _dark_room(rng: np.random.Generator) -> Gray:
    light = rng.uniform(5, 30) + np.linspace(0, rng.uniform(0, 25), WIDTH)
    return np.broadcast_to(light, (HEIGHT, WIDTH)).astype(np.uint8)


def _bright_room(rng: np.random.Generator) -> Gray:
    room = np.full((HEIGHT, WIDTH), int(rng.integers(90, 200)), dtype=np.uint8)
    cv2.rectangle(room, (0, int(HEIGHT * rng.uniform(0.7, 0.95))), (WIDTH, HEIGHT), int(rng.integers(40, 200)), -1)
    for _ in range(rng.integers(2, 5)):
        x, y = int(rng.integers(-50, WIDTH)), int(rng.integers(-25, HEIGHT))
        end = (x + int(rng.integers(20, 150)), y + int(rng.integers(20, 150)))
        cv2.rectangle(room, (x, y), end, int(rng.integers(0, 255)), -1)
    return (room + rng.standard_normal(room.shape) * 4).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("is_dark", "thresholds", "floor"),
    [(True, (AUTO_THRESHOLD,), 22), (False, (AUTO_THRESHOLD,), 18), (False, _THRESHOLDS, 20)],
    ids=["dark room", "bright room, one threshold", "bright room, three thresholds"],
)
def test_a_filmed_screen_is_straightened(*, is_dark: bool, thresholds: tuple[int, ...], floor: int) -> None:
    """A screen filmed at an angle in a dark or a cluttered room, with noise and through an encoder."""
    found = 0
    for seed in range(_COUNT):
        rng = np.random.default_rng(seed)
        room = _dark_room(rng) if is_dark else _bright_room(rng)
        found += _nearest(filmed(scene(seed), room, rng), scene(seed), thresholds) <= 56
    assert found >= floor


def test_a_turned_picture_is_turned_back() -> None:
    """The black wedges beside a picture turned by four degrees are enough of its sides."""
    found = 0
    for seed in range(_COUNT):
        turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 4 if seed % 2 else -4, 1)
        found += _nearest(np.asarray(cv2.warpAffine(scene(seed), turn, (WIDTH, HEIGHT))), scene(seed)) <= 56
    assert found >= 20


@given(inwards=st.lists(st.integers(8, 36), min_size=8, max_size=8), is_bright=st.booleans())
@settings(max_examples=60, deadline=None)
def test_corners_are_met_to_a_pixel_and_a_half(*, inwards: list[int], is_bright: bool) -> None:
    """The corners of a plain quadrilateral on a plain ground, whichever is the brighter."""
    sides = np.array([(0, 0), (256, 0), (256, 256), (0, 256)]) + np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * (
        np.array(inwards).reshape(4, 2)
    )
    fine = np.full((1024, 1024), 30 if is_bright else 220, dtype=np.uint8)
    cv2.fillConvexPoly(fine, (4 * sides).astype(np.int32), 220 if is_bright else 30, cv2.LINE_AA)
    found = quadrilaterals(square(fine), (14,))

    assert len(found) == 1
    assert np.abs(np.array(found[0].corners) - sides).max() <= 1.5


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_quadrilaterals_keep_their_promises(seed: int) -> None:
    """At most one for each threshold, convex, not the frame itself, those that differ, and the same each time."""
    gray = square(desktop(seed))
    quads = quadrilaterals(gray, _THRESHOLDS)

    assert quads == quadrilaterals(gray.copy(), _THRESHOLDS)
    assert len({quad.threshold for quad in quads}) == len(quads) <= len(_THRESHOLDS)
    for number, quad in enumerate(quads):
        corners = np.array(quad.corners, dtype=np.float32)
        assert cv2.isContourConvex(corners)
        assert np.abs(corners - [(0, 0), (256, 0), (256, 256), (0, 256)]).max() > 2
        assert all(np.abs(corners - np.array(other.corners)).max() >= 2 for other in quads[:number])
        assert warp(gray, quad).shape == (64, 64)


def test_an_ordinary_picture_costs_few_views() -> None:
    """Texture and shapes seldom look like four sides: every quadrilateral is straightened and looked up."""
    found = [len(quadrilaterals(square(encoded(scene(seed))))) for seed in range(40)]
    assert sum(found) <= 0.6 * len(found)


def test_the_frame_itself_warps_to_its_plane() -> None:
    """Straightening moves nothing where there is nothing to straighten."""
    gray = square(scene(5))
    frame = Quad(((0, 0), (256, 0), (256, 256), (0, 256)), 14)
    assert distance(warp(gray, frame), plane(gray)) <= 4


def test_a_picture_without_lines_has_no_quadrilateral() -> None:
    """Flat, smooth and purely textured pictures have no sides of their own."""
    assert quadrilaterals(np.full((256, 256), 90, dtype=np.uint8), _THRESHOLDS) == ()
    noise = np.random.default_rng(2).integers(0, 256, (256, 256), dtype=np.uint8)
    assert quadrilaterals(noise, (100,)) == ()


def test_no_picture_makes_the_search_dear() -> None:
    """Noise, gratings, grids and thousands of lines cost at most three times what an ordinary picture costs."""

    def look(gray: Gray) -> object:
        return quadrilaterals(gray, _THRESHOLDS)

    rng = np.random.default_rng(1)
    usual = cpu_seconds(look, square(filmed(scene(1), _dark_room(rng), rng)))
    dear = {name: cpu_seconds(look, gray) / usual for name, gray in adversarial().items()}
    assert max(dear.values()) < 3, dear
