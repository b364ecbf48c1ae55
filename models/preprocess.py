"""From the analysis picture to a model's input tensor: resize, crop or pad, reorder, normalise.

A picture is 256x256 whatever the stream's shape was, or as large as it came for a model that needs the frame's shape.
Either may be pressed together, so a resize that keeps the shape (`crop`, `fit_to_window`, `fit_to_window_letterbox`)
needs the stream's own width and height.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.frame_shape import PICTURE_SIDE, scaled
from models.model_info import ModelInfo

SQUARE: Final = (PICTURE_SIDE, PICTURE_SIDE)
"""What every classifier can be handed."""

_INTERPOLATIONS: Final = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of the picture goes where in the resized one, as `left, top, width, height`.

    `source` counts pixels of the picture, `target` those of the resized picture before any centre crop.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]


class Preprocessor:
    """Fills one preallocated tensor of `batch` pictures again and again; it is valid until the next call."""

    def __init__(self, info: ModelInfo, batch: int = 1) -> None:
        self._info = info
        width, height = info.input_size
        shape = (batch, 3, height, width) if info.layout == "NCHW" else (batch, height, width, 3)
        self.tensor: NDArray[Any] = np.zeros(shape, np.float32 if info.input_dtype == "f32" else np.uint8)
        self._canvas = np.full((info.orig_height, info.orig_width, 3), info.pad_value, np.uint8)
        left, top = (info.orig_width - width) // 2, (info.orig_height - height) // 2
        self._visible = self._canvas[top : top + height, left : left + width]
        self._ordered = np.empty((height, width, 3), np.uint8)
        self._planes = [np.empty((height, width), np.uint8) for _ in range(3)]
        factor = (1.0 / np.asarray(info.scale_values)).astype(np.float32)
        offset = (-np.asarray(info.mean_values) / np.asarray(info.scale_values)).astype(np.float32)
        self._is_raw = info.input_dtype == "u8" or (not offset.any() and bool((factor == 1.0).all()))
        # Each is as long as what it is multiplied with: numpy takes ten times as long for rows of three numbers.
        self._factor = factor if info.layout == "NCHW" else np.tile(factor, width)
        self._offset = offset if info.layout == "NCHW" else np.tile(offset, width)
        self._placement: Placement | None = None

    def fill(self, picture: NDArray[np.uint8], width: int, height: int, *, at: int = 0) -> NDArray[Any]:
        """The input tensor, with an RGB picture, (rows, columns, 3), of a `width` x `height` frame as its `at`."""
        info = self._info
        has = picture.shape[1], picture.shape[0]
        placement = place(info.resize_type, width, height, (info.orig_width, info.orig_height), has)
        if placement != self._placement:
            self._canvas.fill(info.pad_value)
            self._placement = placement
        _resize(picture, self._canvas, placement, info.interpolation_mode)
        visible = self._visible if info.jpeg_quality is None else _through_jpeg(self._visible, info.jpeg_quality)
        if info.layout == "NCHW":
            self._fill_planes(visible, self.tensor[at])
        else:
            self._fill_rows(visible, self.tensor[at])
        return self.tensor

    def _fill_planes(self, visible: NDArray[np.uint8], target: NDArray[Any]) -> None:
        cv2.split(visible, self._planes)
        order = (0, 1, 2) if self._info.reverse_input_channels else (2, 1, 0)
        for channel, plane in enumerate(target):
            np.copyto(plane, self._planes[order[channel]])
            if not self._is_raw:
                np.multiply(plane, self._factor[channel], out=plane)
                np.add(plane, self._offset[channel], out=plane)

    def _fill_rows(self, visible: NDArray[np.uint8], target: NDArray[Any]) -> None:
        pixels = visible
        if not self._info.reverse_input_channels:
            pixels = self._ordered
            cv2.cvtColor(visible, cv2.COLOR_RGB2BGR, dst=pixels)
        np.copyto(target, pixels)
        if not self._is_raw:
            rows = target.reshape(len(target), -1)
            rows *= self._factor
            rows += self._offset


@lru_cache(maxsize=256)
def place(resize_type: str, width: int, height: int, size: tuple[int, int], has: tuple[int, int] = SQUARE) -> Placement:
    """Where pixels go of a picture that `has` a width and height, is of a `width` x `height` frame, and gets `size`."""
    target_width, target_height = size
    columns, rows = has
    whole = (0, 0, columns, rows)
    if resize_type == "standard" or width <= 0 or height <= 0:
        return Placement(whole, (0, 0, target_width, target_height))
    if resize_type == "crop":
        scale = max(target_width / width, target_height / height)
        across = _clamp(round(columns * target_width / (width * scale)), columns)
        down = _clamp(round(rows * target_height / (height * scale)), rows)
        source = ((columns - across) // 2, (rows - down) // 2, across, down)
        return Placement(source, (0, 0, target_width, target_height))
    scale = min(target_width / width, target_height / height)
    across, down = _clamp(round(width * scale), target_width), _clamp(round(height * scale), target_height)
    if resize_type == "fit_to_window":
        return Placement(whole, (0, 0, across, down))
    return Placement(whole, ((target_width - across) // 2, (target_height - down) // 2, across, down))


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """RGB pixels as they come out of a JPEG file, with colours at half the resolution as libjpeg has them."""
    _, packed = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB), np.uint8)


def _clamp(value: int, highest: int) -> int:
    return min(max(value, 1), highest)


def _resize(picture: NDArray[np.uint8], canvas: NDArray[np.uint8], placement: Placement, mode: str) -> None:
    left, top, width, height = placement.source
    part = picture[top : top + height, left : left + width]
    left, top, width, height = placement.target
    target = canvas[top : top + height, left : left + width]
    if part.shape == target.shape:
        np.copyto(target, part)
    elif picture.shape[:2] != SQUARE:
        np.copyto(target, scaled(part, width, height, mode))
    elif target.flags.c_contiguous:
        cv2.resize(part, (width, height), dst=target, interpolation=_INTERPOLATIONS[mode])
    else:
        np.copyto(target, cv2.resize(part, (width, height), interpolation=_INTERPOLATIONS[mode]))
