"""PNGs that ask to be brightened or darkened much: what they show to a viewer that does so, as browsers do.

With an exponent of 20 all but the brightest pixels are black, and those may be another picture.
"""

from typing import Final

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_SCREEN_GAMMA: Final = 2.2
_NEAR_ONE: Final = 1.25
"""An exponent nearer to one moves no hash by much."""

_MOST_CHUNKS: Final = 10_000
_WHITE: Final = 65535


def gamma_exponent(png: bytes) -> float:
    """Return what the colours of a PNG are raised to where its `gAMA` chunk is obeyed (W3C PNG, 11.3.2.2 and 13.13).

    1.0 where there is none before the picture, where it hardly matters, and of what is no PNG.
    """
    at = 8 if png.startswith(b"\x89PNG") else len(png)
    for _ in range(_MOST_CHUNKS):
        kind = png[at + 4 : at + 8]
        if len(kind) < 4 or kind == b"IDAT":
            break
        length = int.from_bytes(png[at : at + 4], "big")
        if kind == b"gAMA" and length == 4:
            gamma = int.from_bytes(png[at + 8 : at + 12], "big") / 100_000
            exponent = 1.0 / max(gamma * _SCREEN_GAMMA, 1e-4)
            return exponent if not 1 / _NEAR_ONE <= exponent <= _NEAR_ONE else 1.0
        at += 12 + length
    return 1.0


def raised(frame: VideoFrame, exponent: float) -> VideoFrame:
    """Return `frame` in RGBA, its colours raised to `exponent`, pixel by pixel and before any scaling.

    Raises what libav and its binding raise for frames of a kind that cannot be scaled.
    """
    shown: NDArray[np.uint16] = frame.reformat(format="rgba64le", threads=1).to_ndarray().astype(np.uint16, copy=False)
    curve = (np.linspace(0.0, 1.0, _WHITE + 1) ** exponent * 255 + 0.5).astype(np.uint8)
    pixels = np.empty(shown.shape, np.uint8)
    pixels[..., :3] = curve[shown[..., :3]]
    pixels[..., 3] = shown[..., 3] >> 8
    return VideoFrame.from_ndarray(pixels, "rgba")
