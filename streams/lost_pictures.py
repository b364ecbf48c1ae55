"""Pictures that went into a decoder and never came out: pure.

Libav's H.264 decoder puts pictures into the order of their times and drops one whose turn was before; how many it keeps
back for that is the publisher's word (`max_num_reorder_frames`, ITU-T H.264, E.2.1). Other decoders show what they get,
at the container's times.
"""

import re
from collections.abc import Iterator
from typing import Final

DEEPEST: Final = 15
"""So many pictures libav's decoder keeps back where nothing limits it."""

_START_CODE: Final = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)


class LostPictures:
    """Counts them for one decoder of `codec`, whose headers are `extradata`: of H.264 and HEVC, of others none.

    Each of their packets holds one picture, or a field of one. `count` is how many were lost so far, and `least` what
    is left of that if each interlaced frame came in two packets.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self.count = 0
        self._codec = codec
        self._length_size = _length_size(codec, extradata or b"")
        self._inside = 0
        self._interlaced = 0

    @property
    def least(self) -> int:
        """How many were lost at least."""
        return max(0, self.count - self._interlaced)

    def fed(self, packet: memoryview, frames: int, interlaced: int, *, depth: int) -> int:
        """Note a packet that went in, and the frames that came out of a decoder that keeps `depth` of them back.

        Returns how many more pictures are known to be lost. `interlaced` of the frames are so.
        """
        if self._codec not in ("h264", "hevc"):
            return 0
        self._interlaced += interlaced
        if frames or self._holds_picture(packet):
            self._inside += 1 - frames
        return self._lose(self._inside - depth - 1)

    def drained(self, frames: int, interlaced: int) -> int:
        """Note the frames that came out at the end; returns as `fed`."""
        self._interlaced += interlaced
        lost = self._lose(self._inside - frames)
        self._inside = 0
        return lost

    def _lose(self, count: int) -> int:
        lost = max(0, count)
        self._inside -= lost
        self.count += lost
        return lost

    def _holds_picture(self, packet: memoryview) -> bool:
        """Whether one of its NAL units is a slice (H.264, table 7-1; H.265, table 7-1)."""
        heads = self._unit_heads(packet)
        if self._codec == "hevc":
            return any(head >> 1 & 0x3F < 32 for head in heads)
        return any(head & 0x1F in (1, 2, 5) for head in heads)

    def _unit_heads(self, packet: memoryview) -> Iterator[int]:
        if not self._length_size:
            yield from (found[1][0] for found in _START_CODE.finditer(packet))
            return
        at = 0
        while at + self._length_size < len(packet):
            length = int.from_bytes(packet[at : at + self._length_size], "big")
            at += self._length_size
            yield packet[at]
            at += length


def _length_size(codec: str, headers: bytes) -> int:
    """Bytes before each NAL unit that say its length; 0 with start codes (ISO/IEC 14496-15, 5.3.3 and 8.3.3)."""
    at = 4 if codec == "h264" else 21
    return (headers[at] & 3) + 1 if headers[:1] == b"\x01" and len(headers) > at else 0
