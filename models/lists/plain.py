"""Plain lists: one hash a line, in hexadecimal, alone or after its signal type.

The local file format of facebook/ThreatExchange (python-threatexchange, exchanges/impl/file_api.py): `pdq f8f8...`, or
just `f8f8...` where the type is known. Blank lines and what follows a `#` are passed over; case does not matter; lines
may end in CRLF and the file may begin with a byte order mark.
"""

import binascii
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from models.hashing.registry import hash_algorithms
from models.lists.contents import DEFAULT_SIGNAL, BadRows, ListContents, ListedRows, ListTooLong

_LONGEST_LINE: Final = 4096
"""Bytes of a line that are looked at. A longer line is bad, and is never held in memory as a whole."""

_SHOWN: Final = 24
"""Characters of a bad word that its reason repeats; a list is a stranger's text."""

MOST_ROWS: Final = 50_000_000
"""As many 256-bit hashes take 1.6 GB of memory while they are read."""


class PlainList:
    """The plain list format. `most_rows` bounds what one file may hold."""

    name: Final = "plain"

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows

    def read(self, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a list; a hash that stands alone is of type `signal`.

        Raises:
            OSError: The file cannot be read.
            ListTooLong: It holds more than `most_rows` hashes.
            ValueError: There is no hash algorithm of the name `signal`.
        """
        with path.open("rb") as file:
            return self.read_file(file, path, signal=signal)

    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """As `read`, from a file that is open; `path` is what errors say."""
        widths = {name: algorithm.bits // 8 for name, algorithm in hash_algorithms().items()}
        if signal not in widths:
            raise ValueError(f"there is no hash algorithm {signal!r}; known are {', '.join(widths)}")
        reading = _Reading(widths, signal)
        for number, line in _lines(file):
            reading.take(number, line)
            if reading.row_count > self._most_rows:
                raise ListTooLong(path, self._most_rows)
        return reading.contents()

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write `<signal> <hex>` lines and tell how many; entries, opinions and places have none in this format."""
        for signal, rows in contents.rows.items():
            prefix = signal.encode() + b" "
            file.writelines(prefix + binascii.hexlify(bytes(row)) + b"\n" for row in rows.hashes)
        return len(contents)


class _BadLine(ValueError):
    """Raised within this module for a line that holds no hash; its text is the reason."""


class _Reading:
    # What was gathered so far: flat bytes and numbers, no object per row.
    def __init__(self, widths: dict[str, int], signal: str) -> None:
        self._widths = widths
        self._signal = signal
        self._by_word = {name.encode(): name for name in widths}
        self._hashes = {name: bytearray() for name in widths}
        self._numbers = {name: array("q") for name in widths}
        self._bad = BadRows()
        self.row_count = 0

    def take(self, number: int, line: bytes | None) -> None:
        try:
            if line is None:
                raise _BadLine(f"the line is longer than {_LONGEST_LINE} bytes")
            words = line.split(b"#", 1)[0].split()
            if not words:
                return
            name, value = self._parsed(words)
        except _BadLine as error:
            first = self._bad
            if first.count:
                self._bad = BadRows(first.count + 1, first.first_line_number, first.first_reason)
            else:
                self._bad = BadRows(1, number, str(error))
            return
        self._hashes[name] += value
        self._numbers[name].append(number)
        self.row_count += 1

    def contents(self) -> ListContents:
        rows = {
            name: ListedRows(
                np.frombuffer(bytes(self._hashes[name]), dtype=np.uint8).reshape(-1, width),
                np.array(self._numbers[name], dtype=np.int64),
            )
            for name, width in self._widths.items()
            if self._numbers[name]
        }
        return ListContents(rows, self._bad)

    def _parsed(self, words: list[bytes]) -> tuple[str, bytes]:
        if len(words) > 2:
            raise _BadLine(f"{len(words)} words where a signal type and a hash were expected")
        name = self._signal
        if len(words) == 2:
            known = self._by_word.get(words[0].lower())
            if known is None:
                raise _BadLine(f"the signal type {_shown(words[0])} is none of {', '.join(self._widths)}")
            name = known
        try:
            value = binascii.unhexlify(words[-1])
        except ValueError:
            raise _BadLine(f"{_shown(words[-1])} is no hexadecimal number of whole bytes") from None
        if len(value) != self._widths[name]:
            raise _BadLine(f"a {name} hash has {self._widths[name] * 2} hexadecimal digits, not {len(value) * 2}")
        return name, value


def _shown(word: bytes) -> str:
    shown = word[:_SHOWN].decode("ascii", errors="replace")
    return repr(shown + "..." if len(word) > _SHOWN else shown)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    # (line number, its bytes), or None for the bytes of a line that is too long.
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) < _LONGEST_LINE or line.endswith(b"\n"):
            yield number, line
            continue
        rest = file.readline(_LONGEST_LINE)
        yield number, line if b"#" in line or not rest.strip() else None
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST_LINE)
