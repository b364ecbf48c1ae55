"""Views undo mirroring and borders, and the gate knows a frame without information."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.gate import LowInformation, has_colour_detail, low_information
from models.hashing.algorithm import HashAlgorithm
from models.hashing.pdq import Pdq
from models.hashing.registry import hash_algorithms
from models.hashing.spectrum import spectrum_of
from models.hashing.views import EVERY_TIER, Tier, fingerprints, views
from models.shapes.borders import uniform_borders

Picture = NDArray[np.uint8]


def _card(seed: int, width: int = 1280, height: int = 720) -> Picture:
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _plane(picture: Picture) -> Picture:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _square(picture: Picture) -> Picture:
    return np.asarray(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _broadcast(picture: Picture) -> Picture:
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), dtype=np.uint8)


def _distances(known: Picture, shown: Picture) -> dict[str, int]:
    wanted = int.from_bytes(Pdq().hash_plane(_plane(known)).value)
    found = views(_plane(shown), _square(shown), EVERY_TIER)
    return {v.name: (wanted ^ int.from_bytes(Pdq().hash_plane(v.plane).value)).bit_count() for v in found}


def _framed(card: Picture, x: int, y: int, width: int, height: int, shade: int = 12) -> Picture:
    canvas = np.full((720, 1280, 3), shade, dtype=np.uint8)
    canvas[y : y + height, x : x + width] = cv2.resize(card, (width, height), interpolation=cv2.INTER_AREA)
    return canvas


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("x", "y", "width", "height"),
    [(0, 92, 1280, 536), (160, 0, 960, 720), (437, 0, 405, 720), (128, 72, 1024, 576), (60, 150, 896, 504)],
    ids=["letterbox", "pillarbox", "upright video", "frame", "picture in picture"],
)
def test_trim_undoes_borders(seed: int, x: int, y: int, width: int, height: int) -> None:
    """A picture within bars is no match as it is, and a match once they are trimmed, mirrored or not."""
    card = _card(seed)
    shown = _broadcast(_framed(card, x, y, width, height))

    distances = _distances(card, shown)
    assert distances["identity"] > Pdq.max_distance >= distances["trim"]
    mirrored = _distances(card, np.ascontiguousarray(shown[:, ::-1]))
    assert mirrored["trim"] > Pdq.max_distance >= mirrored["trim_mirror"]


@pytest.mark.parametrize("seed", range(4))
def test_mirror_undoes_mirroring(seed: int) -> None:
    """A mirrored picture matches through the mirrored view, and nothing is trimmed where there is no border."""
    card = _card(seed)
    distances = _distances(card, _broadcast(np.ascontiguousarray(card[:, ::-1])))

    assert list(distances) == ["identity", "mirror"]
    assert distances["mirror"] <= Pdq.max_distance < distances["identity"]


def test_tiers_choose_the_families() -> None:
    """The unedited view is always there; each tier adds its own."""
    shown = _framed(_card(1), 160, 0, 960, 720)
    names = {tiers: [v.name for v in views(_plane(shown), _square(shown), tiers)] for tiers in _TIER_SETS}

    assert list(names.values()) == [
        ["identity"],
        ["identity", "mirror"],
        ["identity", "mirror", "trim", "trim_mirror"],
    ]


_TIER_SETS = (frozenset[Tier](), frozenset({Tier.ALWAYS}), EVERY_TIER)


@given(
    sides=st.tuples(*[st.integers(0, 88)] * 4),
    shade=st.integers(0, 255),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_borders_are_measured(sides: tuple[int, int, int, int], shade: int, seed: int) -> None:
    """Every side's uniform lines are counted, with one blended line more, and never a whole picture away."""
    gray = np.random.default_rng(seed).integers(0, 256, (256, 256), dtype=np.uint8)
    top, bottom, left, right = sides
    gray[:top], gray[256 - bottom :] = shade, shade
    gray[:, :left], gray[:, 256 - right :] = shade, shade

    assert uniform_borders(gray) == tuple(side + 1 if side else 0 for side in sides)


def _peeled_line_by_line(gray: Picture) -> tuple[int, int, int, int]:
    # The definition, one line after the other, in numbers wide enough to hold every sum.
    def leading(lines: NDArray[np.float64]) -> int:
        most, count = int(len(lines) * 0.36), 0
        while count < most and lines[count].std() < 5 and abs(lines[count].mean() - lines[0].mean()) < 8:
            count += 1
        return min(count + 1, most) if count else 0

    levels = gray.astype(np.float64)
    top = bottom = left = right = 0
    for _ in range(2):
        rows = levels[:, left : levels.shape[1] - right]
        top, bottom = leading(rows), leading(rows[::-1])
        columns = levels[top : levels.shape[0] - bottom].T
        left, right = leading(columns), leading(columns[::-1])
    return top, bottom, left, right


@given(
    sides=st.tuples(*[st.integers(0, 100)] * 4),
    noise=st.sampled_from([0.0, 2.0, 4.5, 5.0, 5.5]),
    slope=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_borders_are_peeled_line_by_line(
    sides: tuple[int, int, int, int], noise: float, slope: float, seed: int
) -> None:
    """However noisy or graded they are, borders are those of the plain definition, and none is trimmed unseen."""
    generator = np.random.default_rng(seed)
    gray = generator.integers(0, 256, (256, 256)).astype(np.float64)
    top, bottom, left, right = sides
    shade = 40 + slope * np.arange(256)[:, None] + generator.normal(0, noise, (256, 256))
    gray[:top], gray[256 - bottom :] = shade[:top], shade[:bottom]
    gray[:, :left], gray[:, 256 - right :] = shade.T[:, :left], shade.T[:, :right]
    picture = np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    found = _peeled_line_by_line(picture[:, :, 0])

    assert uniform_borders(picture[:, :, 0]) == found
    assert ("trim" in [view.name for view in views(_plane(picture), picture)]) == (sum(found) > 0)


@pytest.mark.parametrize("algorithm", hash_algorithms().values(), ids=hash_algorithms())
@pytest.mark.parametrize("tiers", [frozenset[Tier](), EVERY_TIER])
def test_views_hash_as_their_planes_do(algorithm: HashAlgorithm, tiers: frozenset[Tier]) -> None:
    """Whether or not an algorithm gets two views from one transform, each has the fingerprint of its own plane."""
    for shown in (_framed(_card(2), 160, 0, 960, 720), _card(3)):
        looks = views(_plane(shown), _square(shown), tiers)

        assert fingerprints(algorithm, looks) == [algorithm.hash_plane(look.plane) for look in looks]


def test_a_uniform_picture_leaves_something() -> None:
    """Peeling stops before nothing is left."""
    borders = uniform_borders(np.full((256, 256), 30, dtype=np.uint8))

    assert max(borders) <= 92
    assert all(
        v.plane.shape == (64, 64) for v in views(np.zeros((64, 64), np.uint8), np.zeros((256, 256, 3), np.uint8))
    )


def _noisy(plane: NDArray[np.int64], seed: int = 3) -> Picture:
    return np.clip(plane + np.random.default_rng(seed).normal(0, 1.0, (64, 64)), 0, 255).astype(np.uint8)


def test_black_and_flat_frames_are_named() -> None:
    """Black, black with noise and any flat shade hold nothing."""
    assert low_information(np.zeros((64, 64), np.uint8)) is LowInformation.BLACK
    assert low_information(_noisy(np.full((64, 64), 16))) is LowInformation.BLACK
    for shade in (60, 128, 255):
        assert low_information(_noisy(np.full((64, 64), shade))) is LowInformation.FLAT


@pytest.mark.parametrize("cell", [16, 24, 32, 50, 64, 100])
def test_regular_grids_are_named(cell: int) -> None:
    """Chessboards, stripes and line grids hold nothing, sampled and compressed as a stream would."""
    rows, columns = np.indices((720, 1280)) // cell
    lines = np.minimum(np.indices((720, 1280))[0] % cell, np.indices((720, 1280))[1] % cell) < 4
    for pattern in ((rows + columns) % 2 == 1, columns % 2 == 1, lines):
        board = np.repeat(np.where(pattern, 220, 20).astype(np.uint8)[:, :, None], 3, axis=2)
        assert low_information(_plane(_broadcast(board))) is LowInformation.GRID


def test_coefficients_at_hand_change_no_answer() -> None:
    """Grids, chessboards, flat planes with specks, noise and pictures are judged alike with and without them."""
    generator = np.random.default_rng(5)
    places = np.arange(64)
    planes = [_plane(_card(seed)) for seed in range(12)]
    for number in range(300):
        across, down = (
            generator.uniform(0, 120) * np.sign(np.sin(places / generator.uniform(0.5, 4))) for _ in range(2)
        )
        sharpness = generator.uniform(0, 6)
        patterns = (across + down[:, None], across * down[:, None] / 120, np.zeros((64, 64)))
        plane = 127 + patterns[number % 3] + generator.normal(0, sharpness, (64, 64)) ** (1 + number % 2)
        plane.flat[generator.integers(0, 4096, number % 40)] = 255
        planes.append(np.clip(plane, 0, 255).astype(np.uint8))

    answers = [low_information(plane) for plane in planes]

    assert answers == [low_information(plane, spectrum_of(plane)) for plane in planes]
    assert set(answers) >= {None, LowInformation.GRID, LowInformation.FLAT}


def test_whatever_shows_something_passes() -> None:
    """Dim scenes, ramps, colour bars, single shapes and a grid drawn over a picture are left to the models."""
    ramp = np.tile(np.arange(64) * 4, (64, 1))
    bars = np.tile((np.arange(64) // 10) * 36, (64, 1))
    blot = np.full((64, 64), 40)
    blot[30:36, 30:36] = 90
    rows, columns = np.indices((64, 64))
    over = _plane(_card(3)).astype(np.int64)
    over[(rows % 8 == 0) | (columns % 8 == 0)] = 255
    dim = _plane(_card(4)).astype(np.int64) // 8
    for plane in (ramp, bars, blot, over, dim):
        assert low_information(_noisy(plane)) is None
    assert all(low_information(_plane(_card(seed))) is None for seed in range(20))


def test_colours_of_one_brightness_are_seen() -> None:
    """A picture whose luma is flat but whose colours are not is not called empty by its colours."""
    picture = np.full((256, 256, 3), (120, 120, 120), dtype=np.uint8)
    assert not has_colour_detail(picture)
    picture[80:160, 80:160] = (220, 70, 110)

    assert has_colour_detail(picture)
