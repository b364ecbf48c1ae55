"""How large a picture says it is, for codecs of which libav's parsers tell no size: pure.

Nothing here is trusted to be right. It only tells a picture that was refused for its size from one that is broken.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

ReadSize: TypeAlias = Callable[[bytes], tuple[int, int]]
"""Gives width and height, (0, 0) where they are not told."""

_VP9_SYNC_CODE = 0x498342
_VP9_RGB = 7

_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # ITU-T T.81, table B.1: SOF0 to SOF15
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def png_size(data: bytes) -> tuple[int, int]:
    """Return width and height in a PNG's IHDR (RFC 2083, 4.1.1), (0, 0) without one."""
    if data[12:16] != b"IHDR" or len(data) < 24:
        return 0, 0
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height in a JPEG's frame header (ITU-T T.81, B.2.2), (0, 0) without one."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 if marker in _JPEG_ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


def vp9_size(data: bytes) -> tuple[int, int]:
    """Return the size in a VP9 keyframe's uncompressed header (VP9 Bitstream Specification, 6.2), else (0, 0)."""
    bits = int.from_bytes(data[:16].ljust(16, b"\0"), "big")
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (128 - at) & ((1 << count) - 1)

    if read(2) != 2:
        return 0, 0
    profile = read(1) | read(1) << 1
    if profile == 3:
        read(1)
    shows_existing, is_no_keyframe = read(1), read(1)
    read(2)
    if shows_existing or is_no_keyframe or read(24) != _VP9_SYNC_CODE:
        return 0, 0
    if profile >= 2:
        read(1)
    is_rgb = read(3) == _VP9_RGB
    if not is_rgb:
        read(1)
    if profile in (1, 3):
        read(1 if is_rgb else 3)
    return read(16) + 1, read(16) + 1


CLAIMS: Final[Mapping[str, ReadSize]] = MappingProxyType({"vp9": vp9_size, "png": png_size, "mjpeg": jpeg_size})
"""By libav's name of the codec."""
