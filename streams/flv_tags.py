"""An FLV stream on its way to libav, so that what libav leaves out and players show is among it.

Libav skips a video tag that is marked as a command (Adobe FLV 10.1, annex E.4.3.1; E-RTMP 2). Players decode it by its
codec, and servers pass it on. Such a tag is handed on as one of a picture that refers to others.
"""

from collections.abc import Iterable
from typing import Final

HEADER_BYTES: Final = 9
_HEAD_BYTES: Final = 12
_AROUND_BYTES: Final = 15
"""The head of a tag, and the length that follows it."""

_VIDEO: Final = 9
_COMMAND: Final = 5
_INTER: Final = 2
_METADATA: Final = 4


def is_hidden_video(tag: bytes) -> bool:
    """Whether a tag that begins with these 12 bytes is a command and holds more than one.

    Metadata of the enhanced format is none, whatever it says.
    """
    if tag[0] & 0x1F != _VIDEO or tag[11] >> 4 & 7 != _COMMAND:
        return False
    return int.from_bytes(tag[1:4], "big") > 2 and not (tag[11] & 0x80 and tag[11] & 0x0F == _METADATA)


class FlvTags:
    """A file for libav's demuxer, made of the pieces of `stream` as they come; `read` waits for one."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = iter(stream)
        self._ready: memoryview = memoryview(b"")
        self._part = b""
        self._to_pass: int | None = None

    def read(self, size: int) -> bytes:
        """Return some of what came, at most `size` bytes; nothing at the end. Raises what the stream raises."""
        while not self._ready:
            piece = next(self._stream, None)
            if piece is None:
                self._ready, self._part = memoryview(self._part), b""
                break
            self._ready = memoryview(self._taken(self._part + piece if self._part else piece))
        given, self._ready = self._ready[:size], self._ready[size:]
        return bytes(given)

    def _taken(self, content: bytes) -> bytes:
        """What of `content` can be handed on; the beginning of a tag is kept until its head is whole."""
        self._part = b""
        if self._to_pass is None:
            if len(content) < HEADER_BYTES:
                self._part = content
                return b""
            self._to_pass = int.from_bytes(content[5:9], "big") + 4
        at, hidden = self._to_pass, []
        while at + _HEAD_BYTES <= len(content):
            head = content[at : at + _HEAD_BYTES]
            if is_hidden_video(head):
                hidden.append(at + 11)
            at += _AROUND_BYTES + int.from_bytes(head[1:4], "big")
        self._to_pass = max(0, at - len(content))
        if at < len(content):
            content, self._part = content[:at], content[at:]
        if not hidden:
            return content
        changed = bytearray(content)
        for place in hidden:
            changed[place] = changed[place] & 0x8F | _INTER << 4
        return bytes(changed)
