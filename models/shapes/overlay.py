"""What was laid over a moving picture: the pixels that stay as they are while most of the others change."""

import numpy as np
from numpy.typing import NDArray


class OverlayMask:
    """Learns the overlay of one track of one stream from its samples; a few kilobytes, tens of microseconds a sample.

    The streamer decides which pixels move, so a mask is only ever one more view of a frame, never a replacement.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.uint8] | None = None

    def seen(self, plane: NDArray[np.uint8]) -> None:
        """Take in the (64, 64) uint8 luma of the next sample; it is not kept by reference."""
        self._last = plane.copy()

    def mask(self) -> NDArray[np.bool_] | None:
        """The (64, 64) pixels of the overlay, True where it lies; None where nothing, or too much, is constant."""
        return None
