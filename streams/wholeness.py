"""Files that hold more than libav shows of them: another picture, or another movie behind the first."""

import os
from types import MappingProxyType
from typing import Final

from streams.faults import SourceError
from streams.flv_tags import is_hidden_video
from streams.messages import EndCode
from streams.movie_faults import TWO_MOVIES, movie_fault
from streams.transport_faults import transport_fault

_MOST_CHUNKS: Final = 10_000
_MOST_TAGS: Final = 5_000_000
"""Those of a day."""


def check_whole(media_fd: int, format_name: str) -> None:
    """Raise `SourceError` for what some viewers show more of.

    That is an animated PNG, two movies in one MP4 or FLV, and what libav passes over in these and in MPEG-TS.
    """
    if format_name == "png_pipe" and _is_animated(media_fd):
        raise SourceError(EndCode.CODEC, "it is an animated PNG, of which only the first picture would be looked at")
    fault_of = _FAULTS.get(format_name)
    if fault_of is not None and (fault := fault_of(media_fd)) is not None:
        raise SourceError(EndCode.CODEC, fault)


def _is_animated(media_fd: int) -> bool:
    """Whether a PNG's chunks before its picture tell of others (APNG, W3C PNG third edition, 11.3.6)."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        chunk = os.pread(media_fd, 8, at)
        if len(chunk) < 8 or chunk[4:] == b"IDAT":
            return False
        if chunk[4:] == b"acTL":
            return True
        at += 12 + int.from_bytes(chunk[:4], "big")
    return True


def _tags_fault(media_fd: int) -> str | None:
    """Whether an FLV's header stands again where a tag should (FLV 10.1, annex E.2), or video in a command.

    Libav skips both.
    """
    end = os.fstat(media_fd).st_size
    at = int.from_bytes(os.pread(media_fd, 4, 5), "big") + 4
    for _ in range(_MOST_TAGS):
        if at >= end:
            return None
        tag = os.pread(media_fd, 12, at)
        if tag[:3] == b"FLV":
            return TWO_MOVIES
        size = int.from_bytes(tag[1:4], "big")
        if len(tag) == 12 and is_hidden_video(tag):
            return "it has pictures that are marked as commands, which are not decoded"
        at += 15 + size
    return "it is of more pieces than are looked at"


_FAULTS: Final = MappingProxyType({"mov": movie_fault, "mpegts": transport_fault, "flv": _tags_fault})
