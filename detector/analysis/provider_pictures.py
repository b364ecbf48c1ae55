"""The pictures that providers are tried and warmed up with: the same each time, and nothing of anybody."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.classifier import ModelContent
from models.frame_shape import PICTURE_SIDE

_MADE: Final = 8


def trial_pictures(content: ModelContent) -> list[NDArray[np.uint8]]:
    """The model's check picture, where it has one, then soft patches of colour: the same at each trial."""
    patches = np.random.default_rng(0).integers(0, 256, (_MADE, 8, 8, 3), dtype=np.uint8)
    soft = [cv2.resize(one, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_CUBIC) for one in patches]
    check = [] if content.check_picture is None else [content.check_picture]
    return [*check, *(np.asarray(one, np.uint8) for one in soft)]
