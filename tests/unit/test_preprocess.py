"""The fast way from picture to tensor against a slow one that spells every step out."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.frame_shape import PICTURE_SIDE
from models.model_info import ModelInfo
from models.preprocess import Preprocessor, place

INFO = ModelInfo(
    model_type="Classification",
    labels=("a", "b"),
    multilabel=False,
    output_raw_scores=False,
    layout="NCHW",
    input_dtype="f32",
    reverse_input_channels=True,
    resize_type="standard",
    orig_width=64,
    orig_height=64,
    center_crop=None,
    interpolation_mode="LINEAR",
    pad_value=114,
    mean_values=(123.675, 116.28, 103.53),
    scale_values=(58.395, 57.12, 57.375),
)
SHAPES = [(1280, 720), (720, 1280), (640, 640), (1920, 800)]


def picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)


def slow_resize(source: NDArray[np.uint8], width: int, height: int, mode: str) -> NDArray[np.float64]:
    """Bilinear between pixel centres, or the nearest pixel, one output pixel at a time."""
    down, across = source.shape[:2]
    result = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            if mode == "NEAREST":
                result[row, column] = source[row * down // height, column * across // width]
                continue
            y = min(max((row + 0.5) * down / height - 0.5, 0), down - 1)
            x = min(max((column + 0.5) * across / width - 0.5, 0), across - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, down - 1), min(left + 1, across - 1)
            upper = source[top, left] * (1 - (x - left)) + source[top, right] * (x - left)
            lower = source[bottom, left] * (1 - (x - left)) + source[bottom, right] * (x - left)
            result[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return result


def slow_tensor(info: ModelInfo, source: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """Every step in floating point: unsqueeze's geometry, resize, pad, centre crop, channels, normalise, layout."""
    wide, high = info.orig_width, info.orig_height
    canvas = np.full((high, wide, 3), float(info.pad_value))
    if info.resize_type == "crop":
        keep_x = min(1.0, (wide / high) / (width / height))
        keep_y = min(1.0, (width / height) / (wide / high))
        across, down = round(PICTURE_SIDE * keep_x), round(PICTURE_SIDE * keep_y)
        left, top = (PICTURE_SIDE - across) // 2, (PICTURE_SIDE - down) // 2
        canvas[:] = slow_resize(source[top : top + down, left : left + across], wide, high, info.interpolation_mode)
    elif info.resize_type == "standard":
        canvas[:] = slow_resize(source, wide, high, info.interpolation_mode)
    else:
        scale = min(wide / width, high / height)
        across, down = round(width * scale), round(height * scale)
        centred = info.resize_type == "fit_to_window_letterbox"
        left, top = ((wide - across) // 2, (high - down) // 2) if centred else (0, 0)
        canvas[top : top + down, left : left + across] = slow_resize(source, across, down, info.interpolation_mode)
    if info.center_crop is not None:
        left, top = (wide - info.center_crop) // 2, (high - info.center_crop) // 2
        canvas = canvas[top : top + info.center_crop, left : left + info.center_crop]
    if not info.reverse_input_channels:
        canvas = canvas[:, :, ::-1]
    canvas = (canvas - info.mean_values) / info.scale_values
    return canvas[None] if info.layout == "NHWC" else canvas.transpose(2, 0, 1)[None]


@pytest.mark.parametrize("resize_type", ["standard", "crop", "fit_to_window", "fit_to_window_letterbox"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colours", ["RGB", "BGR"])
@pytest.mark.parametrize("center_crop", [None, 33])
def test_equals_the_slow_way(resize_type: str, layout: str, colours: str, center_crop: int | None) -> None:
    """Every combination of settings agrees with the slow way within one step of an 8-bit resize."""
    info = dataclasses.replace(
        INFO,
        resize_type=resize_type,
        layout=layout,
        reverse_input_channels=colours == "RGB",
        center_crop=center_crop,
        orig_width=48,
        orig_height=36,
    )
    preprocessor = Preprocessor(info)
    for seed, (width, height) in enumerate(SHAPES):
        fast = preprocessor.fill(picture(seed), width, height)
        slow = slow_tensor(info, picture(seed), width, height)
        assert fast.shape == slow.shape
        assert fast.dtype == np.float32
        # cv2 resizes in 11-bit fixed point and rounds to whole grey levels.
        assert np.abs(fast - slow).max() <= 1.01 / min(info.scale_values)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colours", ["RGB", "BGR"])
def test_jpeg_quality_takes_the_pixels_through_a_jpeg_file(layout: str, colours: str) -> None:
    """What a model sees is what libjpeg makes of the crop, in the model's order of channels."""
    info = dataclasses.replace(
        INFO, layout=layout, reverse_input_channels=colours == "RGB", orig_width=256, orig_height=256, center_crop=224,
        mean_values=(0.0, 0.0, 0.0), scale_values=(1.0, 1.0, 1.0), jpeg_quality=75,
    )  # fmt: skip
    smooth = cv2.GaussianBlur(picture(1), (31, 31), 5)
    crop = np.ascontiguousarray(smooth[16:240, 16:240, ::-1])
    expected = cv2.imdecode(cv2.imencode(".jpg", crop, (cv2.IMWRITE_JPEG_QUALITY, 75))[1], cv2.IMREAD_COLOR)
    expected = expected if colours == "BGR" else expected[:, :, ::-1]
    found = Preprocessor(info).fill(smooth, 1280, 720)[0]

    assert (found == (expected.transpose(2, 0, 1) if layout == "NCHW" else expected)).all()
    assert 0 < np.abs(expected.astype(int) - (crop if colours == "BGR" else crop[:, :, ::-1])).max() < 60


def test_nearest_copies_pixels() -> None:
    """NEAREST invents no value."""
    info = dataclasses.replace(INFO, interpolation_mode="NEAREST", mean_values=(0, 0, 0), scale_values=(1, 1, 1))
    assert np.array_equal(
        Preprocessor(info).fill(picture(1), 1280, 720), slow_tensor(info, picture(1), 1280, 720).astype(np.float32)
    )


def test_area_means_whole_blocks() -> None:
    """AREA from 256 to 64 is the mean of each 4x4 block."""
    info = dataclasses.replace(INFO, interpolation_mode="AREA", mean_values=(0, 0, 0), scale_values=(1, 1, 1))
    blocks = picture(2).reshape(64, 4, 64, 4, 3).mean((1, 3)).transpose(2, 0, 1)[None]

    assert np.abs(Preprocessor(info).fill(picture(2), 1280, 720) - blocks).max() <= 0.5


def test_no_resize_changes_no_pixel() -> None:
    """A model that takes 256x256 raw bytes gets the picture itself, or its channels turned round."""
    info = dataclasses.replace(
        INFO, input_dtype="u8", orig_width=256, orig_height=256, layout="NHWC", mean_values=(0, 0, 0),
        scale_values=(1, 1, 1),
    )  # fmt: skip
    bgr = dataclasses.replace(info, reverse_input_channels=False)

    assert np.array_equal(Preprocessor(info).fill(picture(3), 1, 1)[0], picture(3))
    assert np.array_equal(Preprocessor(bgr).fill(picture(3), 1, 1)[0], picture(3)[:, :, ::-1])


def test_one_tensor_serves_every_call() -> None:
    """Nothing is left over in the padding when a portrait stream follows a landscape one."""
    info = dataclasses.replace(INFO, resize_type="fit_to_window_letterbox")
    preprocessor = Preprocessor(info)
    first = preprocessor.fill(picture(1), 1280, 720)
    expected = Preprocessor(info).fill(picture(2), 720, 1280).copy()
    second = preprocessor.fill(picture(2), 720, 1280)

    assert first is second
    assert np.array_equal(second, expected)


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(0, 16384),
    height=st.integers(0, 16384),
    size=st.tuples(st.integers(1, 2048), st.integers(1, 2048)),
    resize_type=st.sampled_from(["standard", "crop", "fit_to_window", "fit_to_window_letterbox"]),
)
def test_places_stay_inside(width: int, height: int, size: tuple[int, int], resize_type: str) -> None:
    """Whatever a stream claims to measure, at least one pixel is taken and nothing lies outside."""
    placement = place(resize_type, width, height, size)
    for (left, top, across, down), (wide, high) in (
        (placement.source, (PICTURE_SIDE, PICTURE_SIDE)),
        (placement.target, size),
    ):
        assert left >= 0 <= top
        assert across >= 1 <= down
        assert left + across <= wide
        assert top + down <= high


@given(width=st.integers(64, 4096), height=st.integers(64, 4096))
def test_a_window_keeps_the_shape(width: int, height: int) -> None:
    """`fit_to_window` gives the picture its own aspect ratio back, within a pixel, and fills one side."""
    _, _, across, down = place("fit_to_window", width, height, (224, 224)).target

    assert max(across, down) == 224
    assert abs(across / 224 - min(1, width / height)) <= 1 / 224
    assert abs(down / 224 - min(1, height / width)) <= 1 / 224
