"""A picture at hand is indexed with windows of it, so that crops of it lie near a row."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.hashing.algorithm import gradient_quality
from models.hashing.linear_views import EXTENSIONS, ZOOM_OUTS, LinearViews
from models.hashing.pdq import Pdq
from models.hashing.second_tests import difference_hash
from models.hashing.spectrum import batch_of, spectrum_of
from models.picture_rows import MIN_WINDOW_QUALITY, PictureRows, picture_rows
from tests.scenes import HEIGHT, WIDTH, Gray, desktop, encoded, plane, scene, square

_VIEWS = LinearViews(ZOOM_OUTS + EXTENSIONS)
_COUNT = 12


def _colour(picture: Gray) -> Gray:
    return np.repeat(square(picture)[:, :, None], 3, axis=2)


def _rows(picture: Gray, *, is_video: bool = False) -> PictureRows:
    height, width = picture.shape
    return picture_rows(plane(picture), _colour(picture), width, height, is_video=is_video)


def _nearest(crop: Gray, rows: PictureRows) -> int:
    """Distance of the nearest row from the crop as it is, zoomed out and extended, through an encoder."""
    shown = encoded(np.ascontiguousarray(crop))
    half = np.asarray(cv2.resize(shown, (128, 128), interpolation=cv2.INTER_AREA), dtype=np.float32)
    spectra = np.concatenate((spectrum_of(plane(shown))[None], _VIEWS.spectra(half)))
    values = batch_of(["identity", *_VIEWS.names], spectra, [100] * 8, [0] * 8).values
    differing = values[:, None].view(np.uint64) ^ rows.hashes[None].view(np.uint64)
    return int(np.bitwise_count(differing).sum(axis=2).min())


def _crop(picture: Gray, share: float, rng: np.random.Generator) -> Gray:
    width, height = int(WIDTH * share), int(HEIGHT * share * rng.uniform(0.97, 1.03))
    x, y = int(rng.integers(0, WIDTH - width + 1)), int(rng.integers(0, HEIGHT - height + 1))
    return np.asarray(cv2.resize(picture[y : y + height, x : x + width], (WIDTH, HEIGHT)), dtype=np.uint8)


@pytest.mark.parametrize(("least", "most", "floor"), [(0.88, 0.95, 11), (0.75, 0.85, 10), (0.62, 0.7, 8)])
def test_crops_from_anywhere_lie_near_a_row(least: float, most: float, floor: int) -> None:
    """Without windows hardly any of these would: a crop of a fifth of the side moves half of the bits."""
    found = alone = 0
    for seed in range(_COUNT):
        rng = np.random.default_rng(seed)
        rows, crop = _rows(scene(seed)), _crop(scene(seed), rng.uniform(least, most), rng)
        own = PictureRows(rows.hashes[:1], rows.seconds[:1], rows.is_window[:1])
        found += _nearest(crop, rows) <= 56
        alone += _nearest(crop, own) <= 56
    assert found >= floor
    assert alone <= found
    assert alone <= _COUNT // 4 or least > 0.85


@pytest.mark.parametrize(
    ("shape", "is_upright"), [(9 / 16, False), (9 / 16, True), (4 / 5, False), (1.0, True), (4 / 3, False)]
)
def test_cuts_for_other_screens_lie_near_a_row(*, shape: float, is_upright: bool) -> None:
    """Cuts of full height from wide pictures, and of full width from upright ones, at any place."""
    found = 0
    for seed in range(_COUNT):
        length = int(HEIGHT * shape)
        start = int(np.random.default_rng(seed).integers(0, WIDTH - length + 1))
        picture = scene(seed)
        cut = picture[:, start : start + length]
        found += _nearest(cut.T, _rows(np.ascontiguousarray(picture.T))) <= 56 if is_upright else (
            _nearest(cut, _rows(picture)) <= 56
        )  # fmt: skip
    assert found >= 10


def test_frames_of_videos_have_few_windows_that_still_help() -> None:
    """A sixth of the rows; crops to nine tenths are found, upright cuts mostly, crops to four fifths by and by."""
    crops = cuts = 0
    for seed in range(_COUNT):
        rng = np.random.default_rng(seed)
        rows = _rows(scene(seed), is_video=True)
        assert seed or len(rows) <= len(_rows(scene(seed))) / 5
        crops += _nearest(_crop(scene(seed), 0.88, rng), rows) <= 64
        start = int(rng.integers(0, WIDTH - 202))
        cuts += _nearest(scene(seed)[:, start : start + 202], rows) <= 64
    assert crops >= 9
    assert cuts >= 5


def test_the_first_row_is_the_picture_itself() -> None:
    """With the hash that its plane has, and the second hash of the same coefficients."""
    rows = _rows(scene(1))
    assert rows.hashes[0].tobytes() == Pdq().hash_plane(plane(scene(1))).value
    assert rows.seconds[0].tobytes() == difference_hash(spectrum_of(plane(scene(1))))
    assert rows.is_window.tolist() == [False] + [True] * (len(rows) - 1)
    assert rows.hashes.shape == (len(rows), 32)
    assert rows.seconds.shape == (len(rows), 64)
    assert 150 <= len(rows) <= 200


def test_a_window_is_the_hash_of_its_pixels() -> None:
    """To a few bits: the row of the top left window against the picture that was cut and scaled down."""
    picture = square(scene(2))
    side = round(256 * 64 / 68)
    wanted = Pdq().hash_plane(plane(picture[:side, :side])).value
    distances = np.bitwise_count(_rows(scene(2)).hashes ^ np.frombuffer(wanted, dtype=np.uint8)).sum(axis=1)
    assert distances[1] == distances.min() <= 10


def test_what_shows_little_is_left_out() -> None:
    """A flat picture gives no row; one that is flat in its left half none of the windows there."""
    assert len(_rows(np.full((HEIGHT, WIDTH), 80, dtype=np.uint8))) == 0
    half = scene(3).copy()
    half[:, : WIDTH // 2] = 80
    assert 1 <= len(_rows(half)) < 0.95 * len(_rows(scene(3)))


@given(seed=st.integers(0, 5000), width=st.integers(1, 8000), height=st.integers(1, 8000), is_video=st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_size_gives_valid_rows(*, seed: int, width: int, height: int, is_video: bool) -> None:
    """Any true size, whatever the picture shows: arrays of one length, bounded, and the same each time."""
    picture = desktop(seed)
    rows = picture_rows(plane(picture), _colour(picture), width, height, is_video=is_video)
    again = picture_rows(plane(picture), _colour(picture), width, height, is_video=is_video)

    assert len(rows.hashes) == len(rows.seconds) == len(rows.is_window) <= 250
    assert np.array_equal(rows.hashes, again.hashes)
    assert np.array_equal(rows.seconds, again.seconds)
    wholes = np.count_nonzero(~rows.is_window)
    assert (gradient_quality(plane(picture)) >= 50) <= wholes <= 2
    assert rows.is_window[wholes:].all()


def test_the_quality_of_windows_is_that_of_their_planes() -> None:
    """Read off one resized picture, it is PDQ's own to a few points where it is not at its cap."""
    dim = (scene(4) // 6 + 100).astype(np.uint8)
    own = gradient_quality(plane(dim))
    assert 20 < own < 90
    rows = _rows(dim)
    assert (len(rows) > 20) == (own > MIN_WINDOW_QUALITY)


def test_a_picture_takes_some_milliseconds() -> None:
    """At most 500 hashes' time for 180 rows: a large product would wake threads and take thousands."""
    picture, colour = plane(scene(5)), _colour(scene(5))
    picture_rows(picture, colour, 1280, 720)
    runs: list[NDArray[np.float64]] = []
    for look in (lambda: picture_rows(picture, colour, 1280, 720), lambda: Pdq().hash_plane(picture)):
        starts = []
        for _ in range(8):
            start = time.thread_time()
            look()
            starts.append(time.thread_time() - start)
        runs.append(np.array(starts))
    assert runs[0].min() < 500 * runs[1].min()


def test_picture_with_borders_of_its_own_is_known_between_bars() -> None:
    """Whoever looks for bars around a copy takes the picture's own dark edges off with them: that is a row, too."""
    for seed in range(4):
        dark = np.zeros((HEIGHT, WIDTH), np.uint8)
        inner = cv2.resize(scene(seed), (WIDTH * 3 // 5, HEIGHT * 3 // 5))
        top, left = (HEIGHT - inner.shape[0]) // 2, (WIDTH - inner.shape[1]) // 2
        dark[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        rows = _rows(dark)
        assert not rows.is_window[:2].any()
        assert _nearest(np.asarray(inner, dtype=np.uint8), rows) <= 40


def test_picture_without_borders_has_one_row_of_itself() -> None:
    """Nothing is taken off a picture that has no borders."""
    assert np.count_nonzero(~_rows(scene(1)).is_window) == 1
