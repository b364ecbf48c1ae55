"""The picture in the frame's own shape that follows a request to an analysis process, where a model wants it."""

import struct

import numpy as np
from numpy.typing import NDArray

from streams.frame import MAX_SHAPED_BYTES, Frame

_SIZE = struct.Struct("<HH")

MOST_BYTES = _SIZE.size + MAX_SHAPED_BYTES


def pack_shaped(frame: Frame) -> tuple[bytes, bytes]:
    """Size and pixels; nothing where the frame has no such picture."""
    if frame.shaped is None:
        return b"", b""
    return _SIZE.pack(frame.shaped.width, frame.shaped.height), frame.shaped.pixels


def parse_shaped(packed: memoryview) -> NDArray[np.uint8] | None:
    """(rows, columns, 3) RGB for as long as `packed` stands. Raises `ValueError`: it is no picture of its size."""
    if not packed:
        return None
    if len(packed) < _SIZE.size:
        raise ValueError("a shaped picture without a size")
    width, height = _SIZE.unpack_from(packed)
    if not width or not height:
        raise ValueError("a shaped picture without pixels")
    return np.frombuffer(packed[_SIZE.size :], np.uint8).reshape(height, width, 3)
