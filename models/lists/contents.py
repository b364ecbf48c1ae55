"""What a hash list gives when it is read, and what every list format promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import (
    NO_POSITIONS,
    NO_SECOND_ROWS,
    NO_SECONDS,
    NO_WINDOWS,
    OPINION_CODES,
    BankRows,
    EntryNames,
)
from models.evidence import Opinion

DEFAULT_SIGNAL: Final = "pdq"

POSITIVE: Final = OPINION_CODES.index(Opinion.POSITIVE)
"""The code of what a list says of a hash where it says nothing."""

_NO_OPINIONS: Final = np.zeros(0, np.uint8)


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows that were passed over: how many, and where and why the first was (`first_line_number` counts from 1)."""

    count: int = 0
    first_line_number: int = 0
    first_reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ListedRows:
    """The rows of one signal type: `hashes` (N, bits / 8) uint8, and the line number (from 1) of each, (N,) int64.

    The other columns are those of `models.bank_rows.BankRows`; each is empty where the list says nothing of the kind:
    `entries` names each row's entry ("": it has none), `opinions` (N,) uint8 are places in `OPINION_CODES`,
    `positions_ms` (N,) int32 places in a video, -1 being none, `is_window` (N,) bool tells rows of a part of their
    picture, `seconds` (K, 64) are the second hashes of the rows numbered in `second_rows` (K,) uint32.
    """

    hashes: NDArray[np.uint8]
    line_numbers: NDArray[np.int64]
    entries: Sequence[str] = ()
    opinions: NDArray[np.uint8] = field(default_factory=lambda: _NO_OPINIONS)
    positions_ms: NDArray[np.int32] = field(default_factory=lambda: NO_POSITIONS)
    is_window: NDArray[np.bool_] = field(default_factory=lambda: NO_WINDOWS)
    second_rows: NDArray[np.uint32] = field(default_factory=lambda: NO_SECOND_ROWS)
    seconds: NDArray[np.uint8] = field(default_factory=lambda: NO_SECONDS)

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of_bank(cls, rows: BankRows) -> "ListedRows":
        """The rows of a bank as a list has them."""
        return cls(
            rows.hashes,
            np.arange(1, len(rows) + 1, dtype=np.int64),
            rows.names,
            rows.opinions,
            rows.positions_ms,
            rows.is_window,
            rows.second_rows,
            rows.seconds,
        )

    def entry_names(self, stem: str) -> EntryNames:
        """A name for each row: its entry's, else `<stem>:<line number>`; `stem` is usually that of the file's name.

        Raises:
            ValueError: A name is empty, too long or does not print.
        """
        if isinstance(self.entries, EntryNames) and np.all(np.diff(self.entries.offsets)):
            return self.entries
        named = self.entries if len(self.entries) else [""] * len(self)
        lines = self.line_numbers.tolist()
        return EntryNames.of([name or f"{stem}:{line}" for name, line in zip(named, lines, strict=True)])

    def without(self, numbers: NDArray[np.int64]) -> "ListedRows":
        """All rows but some."""
        kept = np.ones(len(self), dtype=np.bool_)
        kept[numbers] = False
        has_second = np.zeros(len(self), dtype=np.bool_)
        has_second[self.second_rows] = True
        places = np.flatnonzero(kept).astype(np.int64)
        return ListedRows(
            self.hashes[kept],
            self.line_numbers[kept],
            EntryNames.of(self.entries).taken(places) if len(self.entries) else (),
            self.opinions[kept] if len(self.opinions) else self.opinions,
            self.positions_ms[kept] if len(self.positions_ms) else self.positions_ms,
            self.is_window[kept] if len(self.is_window) else self.is_window,
            np.flatnonzero(has_second[kept]).astype(np.uint32),
            self.seconds[kept[self.second_rows]],
        )

    def dense_opinions(self) -> NDArray[np.uint8]:
        """What the list says of each row, (N,) uint8 codes: positive where it says nothing."""
        return self.opinions if len(self.opinions) else np.full(len(self), POSITIVE, np.uint8)


@dataclass(frozen=True, slots=True)
class ListContents:
    """A list as read: rows by signal type, what was bad, and what the list takes back.

    `withdrawn` names entries that no longer count: tombstones. `left_out` counts the hashes of kinds that nobody here
    matches, by the format's own word. Where `is_whole`, a list gives each entry that it names with all its hashes: what
    a bank has of it besides goes. `as_of_seconds` is the Unix time for which the list holds, 0 where nobody knows.
    """

    rows: Mapping[str, ListedRows] = field(default_factory=dict)
    bad: BadRows = field(default_factory=BadRows)
    withdrawn: Sequence[str] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    is_whole: bool = False
    as_of_seconds: float = 0.0

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of an exchange's reply: what it lists, and what it says about itself, in the exchange's own words.

    `facts` holds the single values beside the records, such as where the next page is.
    """

    contents: ListContents
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


class PageUnreadable(ValueError):
    """Raised for a reply that is no page of its exchange. Nothing of it is given out: what is missing is not known."""


class ListTooLong(ValueError):
    """Raised for a list of more rows than the caller allows. Nothing of it is given out."""

    def __init__(self, path: Path, most_rows: int) -> None:
        super().__init__(f"{path} holds more than {most_rows:,} hashes; split it into several files")


def stem_of(path: Path) -> str:
    """A list's name as its rows' entries begin with it: printable and short."""
    return "".join(char if char.isprintable() else "?" for char in path.stem)[:40] or "list"


@runtime_checkable
class ListFormat(Protocol):
    """Reads and writes hash lists of one exchange format. `name` is what `--format` takes."""

    @property
    def name(self) -> str:
        """The word for it on the command line."""
        ...

    def read(self, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a list; a hash that does not say its type is of type `signal`. Bad rows are counted, never fatal.

        Raises:
            OSError: The file cannot be read.
            ListTooLong: It holds more rows than can be taken.
        """
        ...

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write rows so that `read` gives back of them what the format can carry, and tell how many were written."""
        ...


@runtime_checkable
class StreamFormat(ListFormat, Protocol):
    """A list format that reads what is open already, so that whoever waits can be told how far it has come."""

    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """As `read`; `path` is what errors say."""
        ...


@runtime_checkable
class PageFormat(ListFormat, Protocol):
    """The list format of an exchange that replies in pages."""

    def parse(self, body: bytes) -> ListPage:
        """Read one page. Bad records are counted; a body that is cut short or nested without end is no page.

        Raises:
            PageUnreadable: The body is none.
        """
        ...
