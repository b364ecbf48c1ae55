"""Pictures that are partly clear: what they show over a light page, and over a dark one.

The colours under clear pixels are whatever a file says, and a picture may lie in its alpha channel alone.
"""

from typing import Final

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

_LONGEST_SIDE: Final = 1024
"""Larger ones are scaled to this before: samples are smaller still."""

_WHITE, _BLACK = 255, 0


def over_pages(frame: VideoFrame) -> list[VideoFrame]:
    """Return `frame` over white and over black, both without its side data; nothing where every pixel is opaque.

    Raises what libav and its binding raise for frames of a kind that cannot be scaled.
    """
    if not frame.format.has_palette and not any(part.is_alpha for part in frame.format.components):
        return []
    scale = min(1.0, _LONGEST_SIDE / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    small = frame.reformat(width=width, height=height, format="rgba", interpolation=Interpolation.AREA, threads=1)
    shown: NDArray[np.uint8] = small.to_ndarray().astype(np.uint8, copy=False)
    alpha = shown[..., 3:].astype(np.uint16)
    if alpha.min() == _WHITE:
        return []
    return [VideoFrame.from_ndarray(_over(shown[..., :3], alpha, page), "rgb24") for page in (_WHITE, _BLACK)]


def _over(colours: NDArray[np.uint8], alpha: NDArray[np.uint16], page: int) -> NDArray[np.uint8]:
    mixed = colours * alpha + page * (255 - alpha)
    rounded: NDArray[np.uint8] = ((mixed + 127) // 255).astype(np.uint8)
    return rounded
