"""Plain lists: one hash a line, in hexadecimal, alone or after its signal type.

The local file format of facebook/ThreatExchange (python-threatexchange, exchanges/impl/file_api.py): `pdq f8f8...`, or
just `f8f8...` where the type is known. Blank lines and what follows a `#` are passed over; case does not matter; lines
may end in CRLF and the file may begin with a byte order mark.
"""

import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from models.hashing.registry import hash_algorithms
from models.lists.contents import DEFAULT_SIGNAL, POSITIVE, ListContents
from models.lists.gathering import BadRow, FileList, Gathering, shown

_LONGEST_LINE: Final = 4096
"""Bytes of a line that are looked at. A longer line is bad, and is never held in memory as a whole."""

_KIND: Final = re.compile(r"[a-z][a-z0-9_]*")
_HASH: Final = re.compile(rb"([0-9a-fA-F]{2}){8,}")


class PlainList(FileList):
    """The plain list format. `most_rows` bounds what one file may hold."""

    name: Final = "plain"

    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a list; a hash that stands alone is of type `signal`."""
        known = tuple(hash_algorithms())
        if signal not in known:
            raise ValueError(f"there is no hash algorithm {signal!r}; known are {', '.join(known)}")
        gathering = Gathering(path, self.most_rows)
        for number, line in _lines(file):
            try:
                if line is None:
                    raise BadRow(f"the line is longer than {_LONGEST_LINE} bytes")
                words = line.split(b"#", 1)[0].split()
                if words:
                    _take(words, number, signal, gathering)
            except BadRow as error:
                gathering.bad(number, str(error))
        return gathering.contents()

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write `<signal> <hex>` lines and tell how many: those that are positive, which is how a line is read.

        Entries and places have none in this format.
        """
        count = 0
        for signal, rows in contents.rows.items():
            known = rows.hashes[rows.dense_opinions() == POSITIVE]
            prefix = signal.encode() + b" "
            file.writelines(prefix + binascii.hexlify(bytes(row)) + b"\n" for row in known)
            count += len(known)
        return count


def _take(words: list[bytes], number: int, signal: str, gathering: Gathering) -> None:
    if len(words) > 2:
        raise BadRow(f"{len(words)} words where a signal type and a hash were expected")
    name = words[0].decode("ascii", errors="replace").lower() if len(words) == 2 else signal
    if gathering.knows(name):
        gathering.row(name, words[-1], number)
    elif _KIND.fullmatch(name) and _HASH.fullmatch(words[-1]):  # of files, such as MD5, which no stream has
        gathering.leave_out(name)
    else:
        raise BadRow(f"the signal type {shown(name)} is none of {', '.join(hash_algorithms())}")


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
