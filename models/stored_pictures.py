"""Pictures that lie beside a model: read from a plain file, and decoded only where a decoder may be attacked.

They may be anybody's. Outside a cage the bytes are read and the first of them looked at: a PNG of the right size, so
that nothing but the decoder of PNG ever sees them, and no size that was never meant.
"""

import os
import stat
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.frame_shape import PICTURE_SIDE
from models.quantised import frames_of

MAX_BYTES: Final = 8 * 1024**2
"""Eight frames that do not compress take a fifth of it."""

_BEGINNING: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
"""Signature, then length and name of the first chunk (w3.org/TR/png-3, 5.2 and 11.2.1); width and height follow."""


class NoPicture(ValueError):
    """The file is no PNG of 256x256 pixels, or of so many below each other. One sentence with the remedy."""


def read_png(path: Path, count: int = 1) -> bytes:
    """The bytes of a PNG with `count` pictures of 256x256 pixels, one below the other. Nothing is decoded.

    Raises:
        NoPicture: It is none, or it cannot be read.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer that never comes.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NoPicture(f"{path} is no plain file; put the picture itself there")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NoPicture(f"{path} cannot be read ({error.strerror}); restore it") from None
    size = PICTURE_SIDE.to_bytes(4, "big") + (PICTURE_SIDE * count).to_bytes(4, "big")
    if not content.startswith(_BEGINNING + size) or len(content) > MAX_BYTES:
        raise _no_picture(path, count)
    return content


def decoded(path: Path, content: bytes, count: int = 1) -> list[NDArray[np.uint8]]:
    """The pictures of `read_png`, (256, 256, 3) uint8 RGB each, top first; `path` is for the error.

    Raises:
        NoPicture: The decoder makes nothing of them.
    """
    try:
        read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        read = None
    found = None if read is None else frames_of(np.ascontiguousarray(read[:, :, ::-1], np.uint8), count)
    if found is None or found[0].shape[0] != PICTURE_SIDE:
        raise _no_picture(path, count)
    return found


def _no_picture(path: Path, count: int) -> NoPicture:
    what = "no 256x256 picture" if count == 1 else f"no picture of {count} frames of 256x256"
    return NoPicture(f"{path} is {what} in a PNG; restore it")
