"""From the square analysis picture to a model's input tensor: resize, crop or pad, reorder, normalise.

The picture arrives squeezed to 256x256 whatever the stream's shape was, so a resize that keeps the shape
(`crop`, `fit_to_window`, `fit_to_window_letterbox`) needs the stream's own width and height to undo the squeeze.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.model_info import ModelInfo

PICTURE_SIDE: Final = 256
"""Side of the analysis picture that the classifier is handed, in pixels."""

_INTERPOLATIONS: Final = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of the square goes where in the resized picture, as `left, top, width, height`.

    `source` counts pixels of the square, `target` those of the resized picture before any centre crop.
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
        """The input tensor, with a 256x256x3 RGB picture of a `width` x `height` pixel frame as its picture `at`."""
        info = self._info
        placement = place(info.resize_type, width, height, (info.orig_width, info.orig_height))
        if placement != self._placement:
            self._canvas.fill(info.pad_value)
            self._placement = placement
        _resize(picture, self._canvas, placement, _INTERPOLATIONS[info.interpolation_mode])
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
def place(resize_type: str, width: int, height: int, size: tuple[int, int]) -> Placement:
    """Where the square's pixels go for a `width` x `height` frame and a model picture of `size` (width, height)."""
    target_width, target_height = size
    whole = (0, 0, PICTURE_SIDE, PICTURE_SIDE)
    if resize_type == "standard" or width <= 0 or height <= 0:
        return Placement(whole, (0, 0, target_width, target_height))
    if resize_type == "crop":
        scale = max(target_width / width, target_height / height)
        across = _clamp(round(PICTURE_SIDE * target_width / (width * scale)), PICTURE_SIDE)
        down = _clamp(round(PICTURE_SIDE * target_height / (height * scale)), PICTURE_SIDE)
        source = ((PICTURE_SIDE - across) // 2, (PICTURE_SIDE - down) // 2, across, down)
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


def _resize(picture: NDArray[np.uint8], canvas: NDArray[np.uint8], placement: Placement, interpolation: int) -> None:
    left, top, width, height = placement.source
    part = picture[top : top + height, left : left + width]
    left, top, width, height = placement.target
    target = canvas[top : top + height, left : left + width]
    if part.shape == target.shape:
        np.copyto(target, part)
    elif target.flags.c_contiguous:
        cv2.resize(part, (width, height), dst=target, interpolation=interpolation)
    else:
        np.copyto(target, cv2.resize(part, (width, height), interpolation=interpolation))
