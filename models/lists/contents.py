"""What a hash list gives when it is read, and what every list format promises."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

DEFAULT_SIGNAL: Final = "pdq"


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows that were passed over: how many, and where and why the first was (`first_line_number` counts from 1)."""

    count: int = 0
    first_line_number: int = 0
    first_reason: str = ""


@dataclass(frozen=True, slots=True)
class ListedRows:
    """The rows of one signal type: `hashes` (N, bits / 8) uint8, and the line number (from 1) of each, (N,) int64."""

    hashes: NDArray[np.uint8]
    line_numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.hashes)

    def entry_names(self, stem: str) -> Iterator[str]:
        """A name for each row: `<stem>:<line number>`, where `stem` is usually that of the file's name."""
        return (f"{stem}:{number}" for number in self.line_numbers.tolist())


@dataclass(frozen=True, slots=True)
class ListContents:
    """A list as read: rows by signal type, and what was bad."""

    rows: Mapping[str, ListedRows] = field(default_factory=dict)
    bad: BadRows = field(default_factory=BadRows)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())


class ListTooLong(ValueError):
    """Raised for a list of more rows than the caller allows. Nothing of it is given out."""

    def __init__(self, path: Path, most_rows: int) -> None:
        super().__init__(f"{path} holds more than {most_rows:,} hashes; split it into several files")


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

    def write(self, file: BinaryIO, signal: str, hashes: NDArray[np.uint8] | Sequence[bytes]) -> int:
        """Write hashes so that `read` gives them back, and tell how many."""
        ...
