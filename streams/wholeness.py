"""Files that hold more than libav shows of them: another picture, or another movie behind the first."""

import os
from types import MappingProxyType
from typing import Final

from streams.faults import SourceError
from streams.flv_tags import is_hidden_video
from streams.messages import EndCode
from streams.movie_faults import movie_fault
from streams.transport_faults import transport_fault

_MOST_CHUNKS: Final = 10_000
_MOST_TAGS: Final = 5_000_000
"""Those of a day."""

_FAULTS: Final = MappingProxyType({"mov": movie_fault, "mpegts": transport_fault})

_TWO_MOVIES: Final = "it is two movies in one, of which only the first would be looked at"


def check_whole(media_fd: int, format_name: str) -> None:
    """Raise `SourceError` for what some viewers show more of.

    That is an animated PNG, two movies in one MP4 or FLV, and what libav passes over in these and in MPEG-TS.
    """
    if format_name == "png_pipe" and _is_animated(media_fd):
        raise SourceError(EndCode.CODEC, "it is an animated PNG, of which only the first picture would be looked at")
    if format_name == "flv":
        _check_tags(media_fd)
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


def _check_tags(media_fd: int) -> None:
    """Refuse an FLV whose header stands again where a tag should (FLV 10.1, annex E.2), or with video in a command.

    Libav skips both.
    """
    end = os.fstat(media_fd).st_size
    at = int.from_bytes(os.pread(media_fd, 4, 5), "big") + 4
    for _ in range(_MOST_TAGS):
        if at >= end:
            return
        tag = os.pread(media_fd, 12, at)
        if tag[:3] == b"FLV":
            break
        size = int.from_bytes(tag[1:4], "big")
        if len(tag) == 12 and is_hidden_video(tag):
            raise SourceError(EndCode.CODEC, "it has pictures that are marked as commands, which are not decoded")
        at += 15 + size
    raise SourceError(EndCode.CODEC, _TWO_MOVIES)
