"""Gathering the rows of a list as it is read: flat columns, no object per row, and what was bad."""

import binascii
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import LONGEST_ENTRY_BYTES, OPINION_CODES, SECOND_BYTES, EntryNames, name_keys
from models.evidence import Opinion
from models.hashing.registry import hash_algorithms
from models.lists.contents import DEFAULT_SIGNAL, POSITIVE, BadRows, ListContents, ListedRows, ListTooLong

MOST_ROWS: Final = 50_000_000
"""As many 256-bit hashes take 1.6 GB of memory while they are read."""

NEGATIVE: Final = OPINION_CODES.index(Opinion.NEGATIVE)
SEED: Final = OPINION_CODES.index(Opinion.SEED)
DISPUTED: Final = OPINION_CODES.index(Opinion.DISPUTED)

_SHOWN: Final = 24
"""Characters of a bad word that its reason repeats; a list is a stranger's text."""

_LATEST_SECONDS: Final = 1 << 35
"""Beyond what any list can mean: the year 3058."""

_NUMBERS_TO: Final = 1 << 128

_MOST_KINDS: Final = 64
_OTHER_KINDS: Final = "other"


class BadRow(ValueError):
    """Raised for a row that is none; its text is the reason. Only that row is lost."""


def shown(word: object) -> str:
    """A stranger's word as a reason repeats it: short, and without anything that moves a cursor."""
    if isinstance(word, bytes):
        word = word[: _SHOWN + 1].decode("ascii", errors="replace")
    text = word if isinstance(word, str) else "true" if word is True else "a value of another kind"
    return repr(text[:_SHOWN] + "..." if len(text) > _SHOWN else text)


def together(opinions: Iterable[int]) -> int:
    """What several parties come to: for and against is disputed, and who only asks to look yields to who knows."""
    said = set(opinions)
    if DISPUTED in said or {POSITIVE, NEGATIVE} <= said:
        return DISPUTED
    return POSITIVE if POSITIVE in said else NEGATIVE if NEGATIVE in said else SEED


class FileList(ABC):
    """The part of a list format that is the same for all that read a file from its beginning to its end."""

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self.most_rows: Final = most_rows

    def read(self, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a list; a hash that does not say its type is of type `signal`. Bad rows are counted, never fatal.

        Raises:
            OSError: The file cannot be read.
            ListTooLong: It holds more rows than can be taken.
            ValueError: There is no hash algorithm of the name `signal`.
        """
        with path.open("rb") as file:
            return self.read_file(file, path, signal=signal)

    @abstractmethod
    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """As `read`, from a file that is open; `path` is what errors say."""


class _Columns:
    # The rows of one algorithm.
    def __init__(self, width: int) -> None:
        self.width = width
        self.hashes = bytearray()
        self.lines = array("q")
        self.serials = array("q")
        self.names = bytearray()
        self.lengths = array("B")
        self.opinions = bytearray()
        self.positions = array("i")
        self.windows = bytearray()
        self.second_rows = array("I")
        self.seconds = bytearray()


class Gathering:
    """What was read so far. Rows and withdrawals of one entry act in their order: the last one stands."""

    def __init__(self, path: Path | None = None, most_rows: int = MOST_ROWS) -> None:
        self._path = path if path is not None else Path("page")
        self._most_rows = most_rows
        self._columns = {name: _Columns(algorithm.bits // 8) for name, algorithm in hash_algorithms().items()}
        self._withdrawn: dict[str, int] = {}
        self._left_out: Counter[str] = Counter()
        self._bad_count = 0
        self._first_bad = BadRows()
        self._serial = 0
        self.as_of_seconds = 0.0

    def knows(self, algorithm: str) -> bool:
        """Tell whether hashes of an algorithm can be matched here."""
        return algorithm in self._columns

    def row(  # noqa: PLR0913 - one argument per column
        self,
        algorithm: str,
        value: str | bytes,
        line: int,
        entry: str = "",
        opinion: int = POSITIVE,
        *,
        position_ms: int = -1,
        is_window: bool = False,
        second: bytes = b"",
    ) -> None:
        """Take a row; `value` is the hash in hexadecimal, and without an `entry` the row is named after its place.

        Raises:
            BadRow: The hash is none of its algorithm, or the entry's name is none.
            ListTooLong: There are more rows than can be taken.
        """
        columns = self._columns[algorithm]
        try:
            content = binascii.unhexlify(value)
        except ValueError:
            raise BadRow(f"{shown(value)} is no hexadecimal number of whole bytes") from None
        if len(content) != columns.width:
            raise BadRow(f"a {algorithm} hash has {columns.width * 2} hexadecimal digits, not {len(content) * 2}")
        name = checked_entry(entry) if entry else b""
        if second:
            columns.second_rows.append(len(columns.lines))
            columns.seconds += second
        columns.hashes += content
        columns.lines.append(line)
        columns.names += name
        columns.lengths.append(len(name))
        columns.opinions.append(opinion)
        columns.positions.append(position_ms)
        columns.windows.append(is_window)
        columns.serials.append(self._serial)
        self._serial += 1
        if self._serial > self._most_rows:
            raise ListTooLong(self._path, self._most_rows)

    def withdraw(self, entry: str) -> None:
        """Note that the list takes an entry back. Raises `BadRow` where that is no name for one."""
        checked_entry(entry)
        self._withdrawn[entry] = self._serial
        if len(self._withdrawn) > self._most_rows:
            raise ListTooLong(self._path, self._most_rows)

    def leave_out(self, kind: str, count: int = 1) -> None:
        """Count hashes of a kind that nobody here matches."""
        is_word = 0 < len(kind) <= _SHOWN and kind.isascii() and kind.isprintable()
        is_room = kind in self._left_out or len(self._left_out) < _MOST_KINDS
        self._left_out[kind if is_word and is_room else _OTHER_KINDS] += count

    def bad(self, line: int, reason: str) -> None:
        """Count a row that is passed over."""
        self._bad_count += 1
        if self._bad_count == 1:
            self._first_bad = BadRows(1, line, reason)

    def newest(self, seconds: object) -> None:
        """Note a time at which the list changed, in Unix seconds; whatever is none says nothing."""
        if isinstance(seconds, int | float) and self.as_of_seconds < seconds < _LATEST_SECONDS:
            self.as_of_seconds = float(seconds)

    def contents(self, *, is_whole: bool = False) -> ListContents:
        """All of it, as a list gives it."""
        rows = {name: self._listed(columns) for name, columns in self._columns.items() if len(columns.lines)}
        first = self._first_bad
        return ListContents(
            {name: listed for name, listed in rows.items() if len(listed)},
            BadRows(self._bad_count, first.first_line_number, first.first_reason),
            list(self._withdrawn),
            dict(self._left_out),
            is_whole=is_whole,
            as_of_seconds=self.as_of_seconds,
        )

    def _listed(self, columns: _Columns) -> ListedRows:
        count = len(columns.lines)
        offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(np.frombuffer(columns.lengths, np.uint8), out=offsets[1:], dtype=np.int64)
        names = EntryNames(offsets, np.frombuffer(columns.names, np.uint8))
        positions = np.frombuffer(columns.positions, np.int32)
        windows = np.frombuffer(columns.windows, np.bool_)
        listed = ListedRows(
            np.frombuffer(columns.hashes, np.uint8).reshape(count, columns.width),
            np.frombuffer(columns.lines, np.int64),
            names if len(names.content) else (),
            np.frombuffer(columns.opinions, np.uint8),
            positions if np.any(positions >= 0) else positions[:0],
            windows if np.any(windows) else windows[:0],
            np.frombuffer(columns.second_rows, np.uint32),
            np.frombuffer(columns.seconds, np.uint8).reshape(-1, SECOND_BYTES),
        )
        withdrawn = self._withdrawn_before(names, np.frombuffer(columns.serials, np.int64))
        return listed.without(withdrawn) if len(withdrawn) else listed

    def _withdrawn_before(self, names: EntryNames, serials: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the rows that a later tombstone of the same list takes back."""
        if not self._withdrawn or not len(names.content):
            return np.zeros(0, np.int64)
        keys = name_keys(EntryNames.of(list(self._withdrawn)))
        named = np.flatnonzero(np.diff(names.offsets) > 0)
        places = named[np.isin(name_keys(names.taken(named)), keys)]
        gone = [number for number in places.tolist() if serials[number] < self._withdrawn.get(names[number], -1)]
        return np.array(gone, dtype=np.int64)


def checked_entry(entry: object) -> bytes:
    """The name of an entry as bytes. Raises `BadRow` where it is none."""
    if not isinstance(entry, str) or not entry or not entry.isprintable():
        raise BadRow(f"{shown(entry)} is no name for an entry")
    name = entry.encode()
    if len(name) > LONGEST_ENTRY_BYTES:
        raise BadRow(f"the entry's name {shown(entry)} is longer than {LONGEST_ENTRY_BYTES} bytes")
    return name


def identity(raw: object) -> str:
    """An exchange's own name for a record, which some write as a number. Raises `BadRow` where it is neither."""
    if isinstance(raw, int) and not isinstance(raw, bool) and abs(raw) < _NUMBERS_TO:
        return str(raw)
    if not isinstance(raw, str):
        raise BadRow("it has no id")
    return raw


def is_taken_back(raw: object, key: str) -> bool:
    """What a record says under `key` of its deletion, however it writes true and false. Raises `BadRow`."""
    word = raw.lower() if isinstance(raw, str) else raw
    if word in (True, "true", "1"):  # 1, too
        return True
    if word in (False, "false", "0", "", None):
        return False
    raise BadRow(f"{key} is {shown(raw)}, neither true nor false")


def carried(contents: ListContents, signals: Mapping[str, str]) -> dict[str, ListedRows]:
    """What formats of exchanges carry of a list, by their own word for the signal: whole frames of those kinds.

    Windows are parts of pictures that only make sense here.
    """
    found = {}
    for word, signal in signals.items():
        rows = contents.rows.get(signal)
        if rows is None:
            continue
        found[word] = rows.without(np.flatnonzero(rows.is_window)) if len(rows.is_window) else rows
    return found
