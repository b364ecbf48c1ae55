"""MP4 of which libav shows less than it holds, or more than some players show (ISO/IEC 14496-12)."""

import os
from collections.abc import Iterator
from typing import Final

TWO_MOVIES: Final = "it is two movies in one, of which only the first would be looked at"

_MOST_BOXES: Final = 200_000
"""Two for each second or so of a fragmented movie; a read for each takes a microsecond or two."""
_MOST_BYTES: Final = 1 << 20
"""Of what describes the samples of a track."""
_TO_DESCRIPTIONS: Final = (b"mdia", b"minf", b"stbl", b"stsd")
_LEAST_SHOWN: Final = 0.75
"""Cameras cut off rows and columns that codecs need, and no more."""

_Box = tuple[bytes, int, int]
"""Its kind, and where its content begins and ends."""


def movie_fault(media_fd: int) -> str | None:
    """Return in words what of an MP4 would not be looked at as players show it; None if nothing is known.

    Of several descriptions of a track's samples libav takes those of the first one's format, and drops the samples of
    the others (8.5.2). Of a clean aperture (12.1.4) it shows what lies around it, too.
    """
    movies = 0
    for number, (kind, at, end) in enumerate(_boxes(media_fd, 0, os.fstat(media_fd).st_size), 1):
        if number == _MOST_BOXES:
            return "it is of more pieces than are looked at"
        if kind != b"moov":
            continue
        movies += 1
        if movies > 1:
            return TWO_MOVIES
        for track, start, stop in _boxes(media_fd, at, end):
            if track == b"cmov":
                return "its index is compressed, so that what it holds is not known"
            fault = _track_fault(media_fd, start, stop) if track == b"trak" else None
            if fault is not None:
                return fault
    return None


def _track_fault(media_fd: int, at: int, end: int) -> str | None:
    inside: list[_Box] = [(b"trak", at, end)]
    for wanted in _TO_DESCRIPTIONS:
        inside = [box for _, start, stop in inside for box in _boxes(media_fd, start, stop) if box[0] == wanted]
        if wanted == b"mdia" and any(_is_sound(media_fd, start, stop) for _, start, stop in inside):
            return None
    entries = [
        entry for _, start, stop in inside for entry in _entries(os.pread(media_fd, _MOST_BYTES, start), stop - start)
    ]
    if len({entry[4:8] for entry in entries}) > 1:
        return "its pictures are of several formats, of which only the first would be looked at"
    if any(_shown_share(entry) < _LEAST_SHOWN for entry in entries):
        return "its aperture has players show a part of what would be looked at"
    return None


def _is_sound(media_fd: int, at: int, end: int) -> bool:
    return any(
        kind == b"hdlr" and os.pread(media_fd, 4, start + 8) == b"soun" for kind, start, _ in _boxes(media_fd, at, end)
    )


def _entries(content: bytes, size: int) -> Iterator[bytes]:
    """The descriptions in the content of `stsd`, each from its length on."""
    at = 8
    while at + 8 <= min(size, len(content)):
        length = int.from_bytes(content[at : at + 4], "big")
        if length < 8:
            return
        yield content[at : at + length]
        at += length


def _shown_share(entry: bytes) -> float:
    """How much of its pictures the clean aperture leaves, by a description's own word; 1.0 without one."""
    at = 86
    while at + 8 <= len(entry):
        length = int.from_bytes(entry[at : at + 4], "big")
        if entry[at + 4 : at + 8] == b"clap" and at + 24 <= len(entry):
            width, per_width, height, per_height = (
                int.from_bytes(entry[at + place : at + place + 4], "big") for place in (8, 12, 16, 20)
            )
            whole = int.from_bytes(entry[32:34], "big") * int.from_bytes(entry[34:36], "big")
            return width * height / max(1, per_width * per_height * whole)
        at += max(8, length)
    return 1.0


def _boxes(media_fd: int, at: int, end: int) -> Iterator[_Box]:
    """The boxes between two places (4.2); what is no box ends them."""
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        head = os.pread(media_fd, 16, at)
        size, begins = int.from_bytes(head[:4], "big"), at + 8
        if size == 1:
            size, begins = int.from_bytes(head[8:16], "big"), at + 16
        stop = end if size == 0 else min(end, at + size)
        if stop < begins:
            return
        yield head[4:8], begins, stop
        at = stop
