"""Which models need more of a frame than its 256x256 picture: the frame in its own shape, and how large.

A picture that is resized to a model's size with fewer pixels than its makers' pipeline has says something else of fine
textures, so somewhat more is asked for than the model takes in, and scaled down as Pillow does it: with a filter that
grows with the step, as nearly every published pipeline has it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.model_info import ModelInfo

PICTURE_SIDE: Final = 256
"""Side of the square analysis picture, in pixels."""

LARGEST_SIDE: Final = 640
"""More is asked for no model; one with a larger input gets this, enlarged."""

_SPARE: Final = 11 / 8
"""So many more pixels than the model takes along a side. EfficientNet-Lite0's largest difference from its makers'
pipeline on 72 decoded frames is 0.13 without, 0.08 with them, and no smaller with 3/2 or 7/4."""

_FILTERS: Final = {"LINEAR": Image.Resampling.BILINEAR, "CUBIC": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class ShapeNeed:
    """Least pixels of the shorter and of the longer side of a frame's picture in its own shape; none for no need."""

    short: int = 0
    long: int = 0

    def __bool__(self) -> bool:
        """Whether any such picture is needed."""
        return bool(self.short or self.long)


def need_of(info: ModelInfo) -> ShapeNeed:
    """What a model needs: nothing, where it presses all of a frame into 256x256 pixels or fewer."""
    side = min(LARGEST_SIDE, round(max(info.orig_width, info.orig_height) * _SPARE))
    if info.resize_type.startswith("fit_to_window"):
        return ShapeNeed(long=side)
    is_larger = max(info.orig_width, info.orig_height) > PICTURE_SIDE
    if info.resize_type == "crop" or info.box_head is not None or is_larger:
        return ShapeNeed(short=side)
    return ShapeNeed()


def need_of_all(infos: Iterable[ModelInfo]) -> ShapeNeed:
    """What serves all of these models."""
    needs = [need_of(info) for info in infos]
    return ShapeNeed(max((need.short for need in needs), default=0), max((need.long for need in needs), default=0))


def prepare_scaling() -> None:
    """Load what Pillow loads at its first use; a cage lets nothing be loaded later."""
    scaled(np.zeros((2, 2, 3), np.uint8), 1, 1, "LINEAR")


def scaled(part: NDArray[np.uint8], width: int, height: int, mode: str) -> NDArray[Any]:
    """Part of a shaped picture in a model's size, by one of `models.model_info.INTERPOLATION_MODES`."""
    if mode in _FILTERS:
        picture = Image.fromarray(np.ascontiguousarray(part))
        return np.asarray(picture.resize((width, height), _FILTERS[mode]))
    interpolation = cv2.INTER_AREA if mode == "AREA" else cv2.INTER_NEAREST
    return cv2.resize(part, (width, height), interpolation=interpolation)
