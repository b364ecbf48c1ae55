"""Pictures that show the same are told by their corners, strangers are not, and one of those that do counts."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.accuracy_material import _shown_before, drawn_picture, load
from benchmarks.accuracy_twins import same_pictures


def _drawing(seed: int) -> NDArray[np.uint8]:
    """A drawn picture with two hundred small marks on it."""
    rng = np.random.default_rng(seed)
    picture = drawn_picture(rng)
    for _ in range(200):
        x, y = int(rng.integers(10, 630)), int(rng.integers(10, 350))
        shape = rng.integers(-9, 10, (5, 2)) + np.array([x, y])
        cv2.fillPoly(picture, [shape.astype(np.int32)], tuple(int(level) for level in rng.integers(0, 256, 3)))
    return picture


def _written(folder: Path, *pictures: NDArray[np.uint8]) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        cv2.imwrite(str(path), picture)
    return paths


@pytest.mark.parametrize("way", ["crop", "mirrored crop", "turned", "on a page", "brighter, as a JPEG"])
def test_what_shows_the_same_is_found(tmp_path: Path, way: str) -> None:
    """A part of a picture, mirrored, turned, on a page or encoded again is found among strangers; they are not."""
    picture = _drawing(1)
    if way == "on a page":
        other = np.full_like(picture, 255)
        other[120:300, 100:420] = cv2.resize(picture, (320, 180), interpolation=cv2.INTER_AREA)
    elif way == "brighter, as a JPEG":
        packed = cv2.imencode(".jpg", cv2.convertScaleAbs(picture, beta=30), [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
        other = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8)
    else:
        part = picture if way == "turned" else picture[40:330, 300:560]
        other = np.rot90(part) if way == "turned" else part[:, ::-1] if way == "mirrored crop" else part
    paths = _written(tmp_path, _drawing(2), picture, _drawing(3), np.ascontiguousarray(other), _drawing(4))
    assert same_pictures(paths) == [(1, 3)]


def test_a_common_logo_makes_no_twins(tmp_path: Path) -> None:
    """Two pages with one small picture in the corner are two pages."""
    pages = _drawing(5), _drawing(6)
    for page in pages:
        page[10:90, 10:150] = _drawing(7)[100:180, 100:240]
    assert same_pictures(_written(tmp_path, *pages)) == []


def test_without_corners_nothing_is_the_same(tmp_path: Path) -> None:
    """Plain pictures have nothing to be told by, so they stay strangers."""
    plain = [np.full((240, 320, 3), level, dtype=np.uint8) for level in (0, 90, 255)]
    assert same_pictures(_written(tmp_path, *plain)) == []


def test_one_of_several_shapes_counts(tmp_path: Path) -> None:
    """Versions of one wallpaper, which its folder tells, count once; the same name elsewhere is another picture."""
    paths = _written(tmp_path, *(_drawing(seed) for seed in range(8, 12)))
    one, other = tmp_path / "A" / "contents" / "images", tmp_path / "B" / "contents" / "images"
    sources = [one / "16x9.png", one / "9x16.png", other / "16x9.png", one / "4x3.png"]
    assert _shown_before(paths, sources) == {1, 3}


def test_a_crop_in_a_folder_of_ones_own_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Material has no two pictures that show the same, says how many it left out, and says so again from its cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    big = np.asarray(cv2.resize(_drawing(12), (1280, 720), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    _written(pictures, _drawing(13), big, big[300:660, 500:1140], _drawing(14))
    for _ in range(2):
        material = load(pictures)
        assert material.said["left_out_as_same"] == 1
        assert len(material.known) + len(material.unrelated) == 3
