"""Movement is told from something new: what a camera pans over is explained, what was cut in is not."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.motion import unexplained
from streams.sampling import SCENE_CHANGE_GREY_LEVELS

Plane = NDArray[np.uint8]


def texture(seed: int, side: int = 96, grain: int = 6) -> Plane:
    """A picture with things in it, not noise: random patches, smoothed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (side // grain, side // grain), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def seen_from(scene: Plane, down: int, right: int) -> Plane:
    """What a camera of 64x64 sees of a scene of 96x96."""
    return scene[16 + down : 80 + down, 16 + right : 80 + right]


seeds = st.integers(0, 1 << 32)
shifts = st.integers(-8, 8)


@given(seeds, shifts, shifts)
def test_a_pan_is_explained(seed: int, down: int, right: int) -> None:
    """The same scene, moved by up to an eighth of the picture, holds nothing new."""
    scene = texture(seed)
    assert unexplained(seen_from(scene, 0, 0), seen_from(scene, down, right)) <= 1.0


@given(seeds)
def test_noise_and_parts_that_moved_a_little_are_explained(seed: int) -> None:
    """A thing that moved by one pixel on ground that did not, under noise: less than a change of scene."""
    draw = np.random.default_rng(seed)
    ground, thing = texture(seed)[:64, :64], texture(seed + 1)[:24, :24]
    before, after = ground.copy(), ground.copy()
    before[20:44, 20:44], after[20:44, 21:45] = thing, thing
    noisy = np.clip(after + draw.normal(0, 3, after.shape), 0, 255).astype(np.uint8)
    assert unexplained(before, noisy) < SCENE_CHANGE_GREY_LEVELS


@given(seeds, st.booleans())
def test_another_picture_is_not(seed: int, is_flat: bool) -> None:  # noqa: FBT001 - drawn
    """What was shown in its place, be it a photograph or one colour, is something new, whichever came first."""
    before = seen_from(texture(seed), 0, 0)
    other = np.full((64, 64), 128, np.uint8) if is_flat else seen_from(texture(seed + 1), 0, 0)
    assert unexplained(before, other) > 2 * SCENE_CHANGE_GREY_LEVELS
    assert unexplained(other, before) > 2 * SCENE_CHANGE_GREY_LEVELS


@given(seeds, shifts, shifts)
def test_what_is_laid_over_a_picture_that_moves_is_not(seed: int, down: int, right: int) -> None:
    """A picture in a picture, two fifths as wide and high, is seen while the camera pans under it."""
    scene = texture(seed)
    after = seen_from(scene, down, right).copy()
    after[20:46, 20:46] = texture(seed + 1, 26, 4)
    assert unexplained(seen_from(scene, 0, 0), after) > SCENE_CHANGE_GREY_LEVELS


@pytest.mark.parametrize("strength", [40, 80, 127])
def test_a_fine_pattern_over_everything_hides_nothing(strength: int) -> None:
    """A chessboard of single pixels would hold every grey nearby; it explains forty levels and no more."""
    board = ((np.indices((64, 64)).sum(axis=0) % 2) * 2 - 1) * strength

    def patterned(picture: Plane) -> Plane:
        both: Plane = np.clip(picture.astype(np.int16) + board, 0, 255).astype(np.uint8)
        return both

    clean, hidden = seen_from(texture(1), 0, 0), seen_from(texture(2), 0, 0)
    assert unexplained(patterned(clean), patterned(hidden)) > SCENE_CHANGE_GREY_LEVELS


def test_a_shift_that_is_too_far_explains_nothing() -> None:
    """Half a picture that came in at the edge is something new."""
    scene = texture(5, 128)
    assert unexplained(scene[:64, :64], scene[:64, 32:96]) > SCENE_CHANGE_GREY_LEVELS


def test_planes_without_anything_on_them_are_the_same() -> None:
    """One colour beside itself: nothing, and no division by nothing."""
    plane = np.zeros((64, 64), np.uint8)
    assert unexplained(plane, plane) == 0.0
