"""The rows of a bank as plain arrays: a million entries cost no Python string each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.evidence import Opinion

OPINION_CODES: Final = (Opinion.NEGATIVE, Opinion.SEED, Opinion.POSITIVE, Opinion.DISPUTED)
"""An opinion is stored as its place here: python-threatexchange's numbers (0-2, and 3 for the aggregate)."""

LONGEST_ENTRY_BYTES: Final = 200
"""An entry's name stands in alerts of at most 4 KB."""

_CHUNK: Final = 65_536


class EntryNames(Sequence[str]):
    """Names of entries by row number: one array of UTF-8 bytes and N + 1 offsets into it."""

    def __init__(self, offsets: NDArray[np.int64], content: NDArray[np.uint8]) -> None:
        self.offsets: Final = offsets
        self.content: Final = content

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Pack names.

        Raises:
            ValueError: A name is empty, longer than 200 bytes of UTF-8, or has characters that do not print.
        """
        if isinstance(names, cls):
            return names
        encoded = [_encoded(name) for name in names]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum(np.fromiter((len(name) for name in encoded), dtype=np.int64, count=len(encoded)), out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: Any) -> Any:
        """The name of one row; slices are not served."""
        if number < 0 or number >= len(self):
            raise IndexError(number)
        return self.content[self.offsets[number] : self.offsets[number + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            ends = self.offsets[start : start + _CHUNK + 1].tolist()
            content = self.content[ends[0] : ends[-1]].tobytes()
            for begin, end in pairwise(ends):
                yield content[begin - ends[0] : end - ends[0]].decode()

    def is_sound(self, count: int) -> bool:
        """Tell whether these are names for `count` rows: offsets that grow from 0 to the end of the bytes."""
        offsets = self.offsets
        if offsets.shape != (count + 1,) or self.content.ndim != 1:
            return False
        return bool(offsets[0] == 0 and offsets[-1] == len(self.content) and np.all(offsets[1:] >= offsets[:-1]))

    def find(self, name: str) -> NDArray[np.int64]:
        """The numbers of the rows of an entry."""
        wanted = np.frombuffer(name.encode(errors="surrogatepass"), dtype=np.uint8)
        if len(wanted) == 0:
            return np.zeros(0, dtype=np.int64)
        rows = np.flatnonzero(np.diff(self.offsets) == len(wanted))
        for place, byte in enumerate(wanted[::-1]):
            rows = rows[self.content[self.offsets[rows] + (len(wanted) - 1 - place)] == byte]
        return rows.astype(np.int64)

    def taken(self, numbers: NDArray[np.int64]) -> "EntryNames":
        """The names of some rows, in that order."""
        lengths = np.diff(self.offsets)[numbers]
        offsets = np.zeros(len(numbers) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.repeat(self.offsets[numbers] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return EntryNames(offsets, self.content[places])

    def joined(self, others: "EntryNames") -> "EntryNames":
        """These names and then the others."""
        offsets = np.concatenate([self.offsets, others.offsets[1:] + self.offsets[-1]])
        return EntryNames(offsets, np.concatenate([self.content, others.content]))


@dataclass(frozen=True, slots=True)
class BankRows:
    """The rows of one algorithm: `hashes` (N, bits / 8) uint8, N names, `opinions` (N,) uint8 codes."""

    hashes: NDArray[np.uint8]
    names: EntryNames
    opinions: NDArray[np.uint8]

    @classmethod
    def of(cls, hashes: NDArray[np.uint8], entries: Sequence[str], opinions: Opinion | Sequence[Opinion]) -> "BankRows":
        """Pack rows; where a (hash, entry) pair repeats, the last opinion stands.

        Raises:
            ValueError: The numbers differ, or a name is none for an entry.
        """
        if isinstance(opinions, Opinion):
            codes = np.full(len(hashes), OPINION_CODES.index(opinions), dtype=np.uint8)
        else:
            codes = np.array([OPINION_CODES.index(opinion) for opinion in opinions], dtype=np.uint8)
        if not len(hashes) == len(entries) == len(codes):
            raise ValueError(
                f"{len(hashes)} hashes need one entry and one opinion each, got {len(entries)} and {len(codes)}"
            )
        return _latest(cls(np.ascontiguousarray(hashes), EntryNames.of(entries), codes))

    def opinion(self, number: int) -> Opinion:
        """What is thought of a row."""
        return OPINION_CODES[int(self.opinions[number])]

    def entry_arrays(self) -> dict[str, NDArray[Any]]:
        """The names and opinions by file name."""
        return {
            "entry_offsets": self.names.offsets.astype("<i8"),
            "entry_bytes": self.names.content,
            "opinions": self.opinions,
        }

    def taken(self, numbers: NDArray[np.int64]) -> "BankRows":
        """Some rows, in that order."""
        return BankRows(self.hashes[numbers], self.names.taken(numbers), self.opinions[numbers])

    def without(self, numbers: NDArray[np.int64]) -> "BankRows":
        """All rows but some."""
        kept = np.ones(len(self.hashes), dtype=bool)
        kept[numbers] = False
        return self.taken(np.flatnonzero(kept).astype(np.int64))


def merged(present: BankRows, added: BankRows) -> BankRows:
    """The present rows and then the added ones; a (hash, entry) pair that is in both takes the added opinion."""
    return _latest(
        BankRows(
            np.concatenate([present.hashes, added.hashes]),
            present.names.joined(added.names),
            np.concatenate([present.opinions, added.opinions]),
        )
    )


def _latest(rows: BankRows) -> BankRows:
    # Only rows that share their first eight bytes with another can repeat it: the rest are never looked at one by one.
    first_words = rows.hashes.view("<u8")[:, 0]
    order = np.argsort(first_words, kind="stable")
    same = first_words[order][1:] == first_words[order][:-1]
    twins = np.zeros(len(order), dtype=bool)
    twins[1:] |= same
    twins[:-1] |= same
    places: dict[tuple[bytes, str], int] = {}
    opinions = rows.opinions.copy()
    repeats: list[int] = []
    for number in np.sort(order[twins]).tolist():
        pair = (rows.hashes[number].tobytes(), rows.names[number])
        place = places.setdefault(pair, number)
        if place != number:
            opinions[place] = rows.opinions[number]
            repeats.append(number)
    latest = BankRows(rows.hashes, rows.names, opinions)
    return latest.without(np.array(repeats, dtype=np.int64)) if repeats else latest


def _encoded(name: str) -> bytes:
    if not name or not name.isprintable():
        raise ValueError(f"{name[:40]!r} is no name for an entry; use printable characters")
    encoded = name.encode()
    if len(encoded) > LONGEST_ENTRY_BYTES:
        raise ValueError(f"the entry name {name[:40]!r}... is longer than {LONGEST_ENTRY_BYTES} bytes; shorten it")
    return encoded
