"""CSV (RFC 4180): a line of column names, then a row a hash. It carries everything that a bank holds of a row.

| column | holds |
|---|---|
| `signal` | the hash's kind, such as `pdq`; empty: what the command says |
| `hash` | in hexadecimal |
| `entry` | the entry's name; empty: the file's name and the line |
| `opinion` | `negative`, `seed`, `positive`, `disputed`; empty: positive; `withdrawn`: the entry is taken back |
| `position_ms` | the place in a video; empty: none |
| `window` | `1` where the hash is of a part of its picture |
| `second` | the second hash, 128 hexadecimal digits |

Only `hash` must be there; the order does not matter, nor do other columns.
"""

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from models.bank_rows import OPINION_CODES, SECOND_BYTES
from models.hashing.registry import hash_algorithms
from models.lists.contents import DEFAULT_SIGNAL, POSITIVE, ListContents, ListedRows
from models.lists.gathering import BadRow, FileList, Gathering, shown

COLUMNS: Final = ("signal", "hash", "entry", "opinion", "position_ms", "window", "second")

WITHDRAWN: Final = "withdrawn"

_LONGEST_LINE: Final = 1 << 16
_MOST_LINES: Final = 8
"""Lines over which a quoted field may go on; beyond them the quote was not meant."""

_OPINIONS: Final = {opinion.value: code for code, opinion in enumerate(OPINION_CODES)} | {"": POSITIVE}
_WINDOWS: Final = {"": False, "0": False, "1": True}
_LATEST_MS: Final = (1 << 31) - 1
_WRITTEN_AT_ONCE: Final = 4096


class CsvList(FileList):
    """The format `csv`."""

    name: Final = "csv"

    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a list; a hash that does not say its type is of type `signal`."""
        if signal not in hash_algorithms():
            raise ValueError(f"there is no hash algorithm {signal!r}; known are {', '.join(hash_algorithms())}")
        gathering = Gathering(path, self.most_rows)
        places: dict[str, int] | None = None
        for number, fields in _records(_lines(file), gathering):
            try:
                if places is None:
                    places = _places(fields)
                else:
                    _take(fields, places, number, signal, gathering)
            except BadRow as error:
                gathering.bad(number, str(error))
        return gathering.contents()

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write all rows and withdrawals, and tell how many hashes these are."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for signal, rows in contents.rows.items():
            for number, row in enumerate(_rows(signal, rows)):
                writer.writerow(row)
                if number % _WRITTEN_AT_ONCE == 0:
                    _flush(text, file)
        for entry in contents.withdrawn:
            writer.writerow(("", "", entry, WITHDRAWN, "", "", ""))
        _flush(text, file)
        return len(contents)


def _flush(text: io.StringIO, file: BinaryIO) -> None:
    file.write(text.getvalue().encode())
    text.seek(0)
    text.truncate()


def _rows(signal: str, rows: ListedRows) -> Iterator[tuple[str, ...]]:
    opinions = [opinion.value for opinion in OPINION_CODES]
    codes = rows.dense_opinions().tolist()
    positions = rows.positions_ms.tolist() or [-1] * len(rows)
    windows = rows.is_window.tolist() or [False] * len(rows)
    seconds = dict(zip(rows.second_rows.tolist(), rows.seconds, strict=True))
    for number, entry in enumerate(rows.entry_names("row")):
        yield (
            signal,
            rows.hashes[number].tobytes().hex(),
            entry,
            opinions[codes[number]],
            str(positions[number]) if positions[number] >= 0 else "",
            "1" if windows[number] else "",
            seconds[number].tobytes().hex() if number in seconds else "",
        )


def _lines(file: BinaryIO) -> Iterator[tuple[int, str | None]]:
    """Line numbers and lines without their ends; None for one that is too long or no UTF-8."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        is_whole = line.endswith(b"\n") or len(line) < _LONGEST_LINE
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            text = None
        yield number, text if is_whole else None
        while not is_whole:
            rest = file.readline(_LONGEST_LINE)
            is_whole = not rest or rest.endswith(b"\n")


def _records(lines: Iterator[tuple[int, str | None]], gathering: Gathering) -> Iterator[tuple[int, Sequence[str]]]:
    """The fields of each record and the line that it begins in.

    A quote that is never closed costs the line that it stands in: the lines after it are read by themselves.
    """
    waiting: deque[tuple[int, str | None]] = deque()
    while (one := waiting.popleft() if waiting else next(lines, None)) is not None:
        number, text = one
        if text is None:
            gathering.bad(number, f"the line is no UTF-8 or longer than {_LONGEST_LINE} bytes")
        elif '"' not in text:
            if text.strip():
                yield number, text.split(",")
        else:
            whole = _closed(text, waiting, lines)
            try:
                if whole is None:
                    raise BadRow("a quote is not closed")
                yield number, next(csv.reader(io.StringIO(whole, newline=""), strict=True))
            except (BadRow, csv.Error, StopIteration) as error:
                gathering.bad(number, str(error)[:80])


def _closed(text: str, waiting: deque[tuple[int, str | None]], lines: Iterator[tuple[int, str | None]]) -> str | None:
    """A line with those after it over which its quoted fields go on; None where they have no end nearby."""
    joined, taken = text, 0
    while joined.count('"') % 2:
        if taken == len(waiting):
            more = next(lines, None)
            if more is None:
                return None
            waiting.append(more)
        follows = waiting[taken][1]
        taken += 1
        if follows is None or taken > _MOST_LINES or len(joined) > _LONGEST_LINE:
            return None
        joined += "\n" + follows
    for _ in range(taken):
        waiting.popleft()
    return joined


def _places(fields: Sequence[str]) -> dict[str, int]:
    places = {name.strip().lower(): place for place, name in reversed(list(enumerate(fields)))}
    if "hash" not in places:
        raise BadRow(f"the first line names no column 'hash'; name those of {', '.join(COLUMNS)} that there are")
    return {name: places[name] for name in COLUMNS if name in places}


def _take(fields: Sequence[str], places: dict[str, int], number: int, signal: str, gathering: Gathering) -> None:
    if len(fields) <= max(places.values()):
        raise BadRow(f"{len(fields)} values where {max(places.values()) + 1} or more were expected")
    row = {name: fields[place] if name == "entry" else fields[place].strip() for name, place in places.items()}
    opinion, position, window = row.get("opinion", "").lower(), row.get("position_ms", ""), row.get("window", "")
    if opinion == WITHDRAWN:
        gathering.withdraw(row.get("entry", ""))
        return
    if opinion not in _OPINIONS:
        raise BadRow(f"the opinion {shown(opinion)} is none of {', '.join(_OPINIONS)}{WITHDRAWN}")
    is_place = position.isascii() and position.isdecimal() and len(position) < 12 and int(position) <= _LATEST_MS
    if position and not is_place:
        raise BadRow(f"the place {shown(position)} is no number of milliseconds")
    if window not in _WINDOWS:
        raise BadRow(f"the window {shown(window)} is neither 0 nor 1")
    kind = row.get("signal", "").lower() or signal
    if not gathering.knows(kind):
        gathering.leave_out(kind)
        return
    gathering.row(
        kind,
        row["hash"],
        number,
        row.get("entry", ""),
        _OPINIONS[opinion],
        position_ms=int(position) if position else -1,
        is_window=_WINDOWS[window],
        second=_second(row.get("second", "")),
    )


def _second(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b"?"
    if len(value) not in (0, SECOND_BYTES):
        raise BadRow(f"a second hash has {SECOND_BYTES * 2} hexadecimal digits, and {shown(text)} is none")
    return value
