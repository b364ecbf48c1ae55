"""vPDQ: the PDQ hashes of a video's frames with their quality and time.

Two spellings of facebook/ThreatExchange (vpdq/README.md and python-threatexchange's extension of that name): the text
file of one video, a frame a line as `frame,quality,hash,seconds`; and the signal of one video on one line, a JSON list
of `"hash,quality,seconds"`, alone or after `vpdq` or `video_vpdq`. A video is one entry.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from models.lists.contents import DEFAULT_SIGNAL, POSITIVE, ListContents, ListedRows, stem_of
from models.lists.gathering import BadRow, FileList, Gathering, carried, shown

LEAST_QUALITY: Final = 50
"""PDQ quality (0-100) below which facebook/ThreatExchange advises not to put a hash on a list."""

LEFT_OUT: Final = "quality below 50"

LONGEST_LINE: Final = 16 << 20
"""Bytes of a line: two days of video at a frame a second."""

_LATEST_SECONDS: Final = ((1 << 31) - 1) / 1000
_WRITTEN_QUALITY: Final = 100
_LIST: Final = re.compile(rb"\s*(?:(?:video_)?vpdq\s+)?(\[.*)", re.DOTALL)
_NUMBER: Final = re.compile(r"\s*\d{1,12}(?:\.\d{1,12})?\s*", re.ASCII)


class VpdqList(FileList):
    """The format `vpdq`. It carries whole frames of videos that are thought known, with their places."""

    name: Final = "vpdq"

    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a file; its hashes are PDQ, so `signal` is not needed. Frames of low quality are left out."""
        del signal
        gathering = Gathering(path, self.most_rows)
        stem = stem_of(path)
        for number, line in _lines(file):
            try:
                _take_line(line, number, stem, gathering)
            except BadRow as error:
                gathering.bad(number, str(error))
        return gathering.contents()

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write the signal of each entry with places in a video, an entry a line, and tell how many frames these are.

        A bank keeps no quality: it is written as 100.
        """
        count = 0
        for rows in carried(contents, {"vpdq": "pdq"}).values():
            positions = rows.positions_ms if len(rows.positions_ms) else np.full(len(rows), -1, np.int32)
            frames = rows.without(np.flatnonzero((positions < 0) | (rows.dense_opinions() != POSITIVE)))
            videos: dict[str, list[int]] = {}
            for number, entry in enumerate(frames.entry_names("row")):
                videos.setdefault(entry, []).append(number)
            file.writelines(
                json.dumps([_written(frames, number) for number in numbers]).encode() + b"\n"
                for numbers in videos.values()
            )
            count += len(frames)
        return count


def _written(rows: ListedRows, number: int) -> str:
    return f"{rows.hashes[number].tobytes().hex()},{_WRITTEN_QUALITY},{rows.positions_ms[number] / 1000:.3f}"


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers and lines; None for one that is too long, which is never held as a whole."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        is_whole = line.endswith(b"\n") or len(line) < LONGEST_LINE
        yield number, line if is_whole else None
        while not is_whole:
            rest = file.readline(LONGEST_LINE)
            is_whole = not rest or rest.endswith(b"\n")


def _take_line(line: bytes | None, number: int, stem: str, gathering: Gathering) -> None:
    if line is None:
        raise BadRow(f"the line is longer than {LONGEST_LINE} bytes")
    found = _LIST.match(line)
    if found is not None:
        _take_signal(_frames_of(found[1]), number, f"{stem}:{number}", gathering)
        return
    words = line.decode("utf-8", "replace").strip().split(",") if line.strip() else []
    if words and len(words) != 4:
        raise BadRow(f"{len(words)} values where frame, quality, hash and time were expected")
    if words:
        _number(words[0], "the frame's number", math.inf)
        _take_frame(words[2], words[1], words[3], number, stem, gathering)


def _frames_of(signal: bytes) -> list[object]:
    try:
        frames = json.loads(signal)
    except (ValueError, RecursionError):
        raise BadRow("the signal is no JSON list") from None
    if not isinstance(frames, list):
        raise BadRow("the signal is no JSON list")
    return frames


def _take_signal(frames: Iterable[object], number: int, entry: str, gathering: Gathering) -> None:
    for place, frame in enumerate(frames, 1):
        try:
            words = frame.split(",") if isinstance(frame, str) else []
            if len(words) != 3:
                raise BadRow("it is no text of hash, quality and time")
            _take_frame(words[0], words[1], words[2], number, entry, gathering)
        except BadRow as error:
            gathering.bad(number, f"frame {place}: {error}")


def _take_frame(value: str, quality: str, seconds: str, number: int, entry: str, gathering: Gathering) -> None:
    position_ms = round(_number(seconds, "the time", _LATEST_SECONDS) * 1000)
    if _number(quality, "the quality", 100) < LEAST_QUALITY:
        gathering.leave_out(LEFT_OUT)
        return
    gathering.row("pdq", value.strip(), number, entry, position_ms=position_ms)


def _number(text: str, what: str, most: float) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else -1.0
    if not 0 <= number <= most:
        raise BadRow(f"{what} {shown(text)} is none")
    return number
