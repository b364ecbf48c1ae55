"""The rows of a bank as plain arrays: a million entries cost no Python string each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.evidence import Opinion

OPINION_CODES: Final = (Opinion.NEGATIVE, Opinion.SEED, Opinion.POSITIVE, Opinion.DISPUTED)
"""An opinion is stored as its place here: python-threatexchange's numbers (0-2, and 3 for the aggregate)."""

LONGEST_ENTRY_BYTES: Final = 200
"""An entry's name stands in alerts of at most 4 KB."""

SECOND_BYTES: Final = 64
"""Length of the second hash that rows made from pictures at hand have beside their first."""

_CHUNK: Final = 65_536

_CHECKED_AT_ONCE: Final = 1 << 20

NO_POSITIONS: Final = np.zeros(0, np.int32)
NO_WINDOWS: Final = np.zeros(0, np.bool_)
NO_SECOND_ROWS: Final = np.zeros(0, np.uint32)
NO_SECONDS: Final = np.zeros((0, SECOND_BYTES), np.uint8)

_KEY_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_KEY_POWERS: Final = np.cumprod(np.full(LONGEST_ENTRY_BYTES, _KEY_FACTOR, dtype=np.uint64))


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
        """Tell whether these are names for `count` rows: offsets that grow from 0 to the end of printable bytes."""
        offsets = self.offsets
        if offsets.shape != (count + 1,) or self.content.ndim != 1:
            return False
        if offsets[0] != 0 or offsets[-1] != len(self.content):
            return False
        return all(self._are_names(start) for start in range(0, count, _CHECKED_AT_ONCE))

    def _are_names(self, start: int) -> bool:
        """Tell whether some names in a row are such as `of` packs: nothing else may reach a terminal or an alert."""
        offsets = self.offsets[start : start + _CHECKED_AT_ONCE + 1]
        lengths = offsets[1:] - offsets[:-1]
        if np.any(lengths <= 0) or np.any(lengths > LONGEST_ENTRY_BYTES):
            return False
        content = self.content[offsets[0] : offsets[-1]]
        if not np.any((content < ord(" ")) | (content > ord("~"))):
            return True
        begins = content[offsets[:-1] - offsets[0]]
        try:  # names that begin where characters do are whole if all of them together are
            return not np.any(begins & 0xC0 == 0x80) and content.tobytes().decode().isprintable()
        except UnicodeDecodeError:
            return False

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
        # A difference of all offsets would read the whole of a long list.
        lengths = self.offsets[numbers + 1] - self.offsets[numbers]
        offsets = np.zeros(len(numbers) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        content = np.empty(offsets[-1], dtype=np.uint8)
        for start in range(0, len(numbers), _CHUNK):  # a place takes eight times the room of its byte
            chosen = slice(start, start + _CHUNK)
            begin, end = offsets[start], offsets[min(start + _CHUNK, len(numbers))]
            shifts = self.offsets[numbers[chosen]] - offsets[:-1][chosen]
            content[begin:end] = self.content[np.repeat(shifts, lengths[chosen]) + np.arange(begin, end)]
        return EntryNames(offsets, content)

    def joined(self, others: "EntryNames") -> "EntryNames":
        """These names and then the others."""
        offsets = np.concatenate([self.offsets, others.offsets[1:] + self.offsets[-1]])
        return EntryNames(offsets, np.concatenate([self.content, others.content]))


@dataclass(frozen=True, slots=True, eq=False)
class BankRows:
    """The rows of one algorithm: `hashes` (N, bits / 8) uint8, N names, `opinions` (N,) uint8 codes.

    What only some lists have takes no room in the others: `positions_ms` (N,) int32 is the place in a video (-1: none)
    and `is_window` (N,) bool tells rows that show a part of their picture; both are empty where no row has it. The rows
    numbered in `second_rows` (K,) uint32, ascending, have the second hashes `seconds` (K, 64) uint8.
    """

    hashes: NDArray[np.uint8]
    names: EntryNames
    opinions: NDArray[np.uint8]
    positions_ms: NDArray[np.int32] = field(default_factory=lambda: NO_POSITIONS)
    is_window: NDArray[np.bool_] = field(default_factory=lambda: NO_WINDOWS)
    second_rows: NDArray[np.uint32] = field(default_factory=lambda: NO_SECOND_ROWS)
    seconds: NDArray[np.uint8] = field(default_factory=lambda: NO_SECONDS)

    @classmethod
    def of(  # noqa: PLR0913 - one array per column, by name
        cls,
        hashes: NDArray[np.uint8],
        entries: Sequence[str],
        opinions: Opinion | Sequence[Opinion] | NDArray[np.uint8],
        *,
        seconds: NDArray[np.uint8] | None = None,
        has_second: NDArray[np.bool_] | None = None,
        positions_ms: NDArray[np.int32] | None = None,
        is_window: NDArray[np.bool_] | None = None,
    ) -> "BankRows":
        """Pack rows; where a (hash, entry) pair repeats, the last opinion stands. Opinions may be given as codes.

        `seconds` is (N, 64) uint8, of which `has_second` tells the rows that count; without it all of them do.

        Raises:
            ValueError: The numbers differ, or a name is none for an entry.
        """
        count = len(hashes)
        if isinstance(opinions, Opinion):
            codes = np.full(count, OPINION_CODES.index(opinions), dtype=np.uint8)
        elif isinstance(opinions, np.ndarray):
            codes = opinions
        else:
            codes = np.array([OPINION_CODES.index(opinion) for opinion in opinions], dtype=np.uint8)
        if np.any(codes >= len(OPINION_CODES)):
            raise ValueError(f"an opinion has a code below {len(OPINION_CODES)}")
        if not count == len(entries) == len(codes):
            raise ValueError(f"{count} hashes need one entry and one opinion each, got {len(entries)} and {len(codes)}")
        if has_second is None:
            has_second = np.full(count, seconds is not None)
        seconds = np.zeros((count, SECOND_BYTES), np.uint8) if seconds is None else seconds
        positions_ms = NO_POSITIONS if positions_ms is None else np.asarray(positions_ms, np.int32)
        is_window = NO_WINDOWS if is_window is None else np.asarray(is_window, np.bool_)
        shapes = (seconds.shape, has_second.shape, positions_ms.shape, is_window.shape)
        if shapes[:2] != ((count, SECOND_BYTES), (count,)) or not all(
            shape in ((0,), (count,)) for shape in shapes[2:]
        ):
            raise ValueError(f"{count} hashes cannot have second hashes, positions and windows of the shapes {shapes}")
        second_rows = np.flatnonzero(has_second).astype(np.uint32)
        rows = cls(
            hashes=np.ascontiguousarray(hashes),
            names=EntryNames.of(entries),
            opinions=codes,
            positions_ms=positions_ms if np.any(positions_ms >= 0) else NO_POSITIONS,
            is_window=is_window if np.any(is_window) else NO_WINDOWS,
            second_rows=second_rows,
            seconds=np.ascontiguousarray(seconds[second_rows], dtype=np.uint8),
        )
        return _latest(rows)

    def __len__(self) -> int:
        return len(self.hashes)

    def opinion(self, number: int) -> Opinion:
        """What is thought of a row."""
        return OPINION_CODES[int(self.opinions[number])]

    def position_ms(self, number: int) -> int | None:
        """Where in its video a row was seen, or None."""
        place = int(self.positions_ms[number]) if len(self.positions_ms) else -1
        return place if place >= 0 else None

    def shows_window(self, number: int) -> bool:
        """Tell whether a row is of a part of its picture."""
        return bool(len(self.is_window)) and bool(self.is_window[number])

    def second(self, number: int) -> bytes | None:
        """The second hash of a row, 64 bytes, or None."""
        place = int(np.searchsorted(self.second_rows, number))
        if place == len(self.second_rows) or self.second_rows[place] != number:
            return None
        return bytes(self.seconds[place])

    def dense_seconds(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The second hashes as (N, 64) uint8, and (N,) bool: which rows have one. For a few rows."""
        dense = np.zeros((len(self), SECOND_BYTES), np.uint8)
        has_second = np.zeros(len(self), dtype=bool)
        dense[self.second_rows] = self.seconds
        has_second[self.second_rows] = True
        return dense, has_second

    def dense_positions(self) -> NDArray[np.int32]:
        """Where in its video each row was seen, in milliseconds, (N,) int32; -1 where nowhere."""
        return self.positions_ms if len(self.positions_ms) else np.full(len(self), -1, np.int32)

    def dense_windows(self) -> NDArray[np.bool_]:
        """Which rows are of a part of their picture, (N,) bool."""
        return self.is_window if len(self.is_window) else np.zeros(len(self), dtype=bool)

    def columns(self) -> dict[str, NDArray[Any]]:
        """All but the hashes, by file name."""
        return {
            "entry_offsets": self.names.offsets.astype("<i8"),
            "entry_bytes": self.names.content,
            "opinions": self.opinions,
            "positions_ms": self.positions_ms.astype("<i4"),
            "is_window": self.is_window,
            "second_rows": self.second_rows.astype("<u4"),
            "seconds": self.seconds,
        }

    @classmethod
    def from_columns(cls, hashes: NDArray[np.uint8], arrays: Mapping[str, NDArray[Any]]) -> "BankRows":
        """The rows of opened files; of earlier releases' files some columns are absent."""
        return cls(
            hashes,
            EntryNames(arrays["entry_offsets"], arrays["entry_bytes"]),
            arrays["opinions"],
            arrays.get("positions_ms", NO_POSITIONS),
            arrays.get("is_window", NO_WINDOWS),
            arrays.get("second_rows", NO_SECOND_ROWS),
            arrays.get("seconds", NO_SECONDS),
        )

    def has_sound_shapes(self) -> bool:
        """Tell whether every column fits the number of rows, without reading them."""
        count = len(self.hashes)
        return (
            self.names.offsets.shape == (count + 1,)
            and self.names.content.ndim == 1
            and self.opinions.shape == (count,)
            and self.positions_ms.shape in ((0,), (count,))
            and self.is_window.shape in ((0,), (count,))
            and self.second_rows.shape == (len(self.seconds),)
            and self.seconds.shape[1:] == (SECOND_BYTES,)
        )

    def is_sound(self) -> bool:
        """Tell whether the columns hold what they should; reads them all."""
        return (
            self.has_sound_shapes()
            and self.names.is_sound(len(self.hashes))
            and not np.any(self.opinions >= len(OPINION_CODES))
            and bool(np.all(self.second_rows[1:] > self.second_rows[:-1]))
            and not np.any(self.second_rows >= len(self.hashes))
        )

    def taken(self, numbers: NDArray[np.int64]) -> "BankRows":
        """Some rows, in that order."""
        places = np.searchsorted(self.second_rows, numbers)
        has_second = np.zeros(len(numbers), dtype=bool)
        inside = places < len(self.second_rows)
        has_second[inside] = self.second_rows[places[inside]] == numbers[inside]
        return BankRows(
            self.hashes[numbers],
            self.names.taken(numbers),
            self.opinions[numbers],
            self.positions_ms[numbers] if len(self.positions_ms) else NO_POSITIONS,
            self.is_window[numbers] if len(self.is_window) else NO_WINDOWS,
            np.flatnonzero(has_second).astype(np.uint32),
            self.seconds[places[has_second]],
        )

    def without(self, numbers: NDArray[np.int64]) -> "BankRows":
        """All rows but some."""
        kept = np.ones(len(self.hashes), dtype=bool)
        kept[numbers] = False
        return self.taken(np.flatnonzero(kept).astype(np.int64))

    def joined(self, others: "BankRows") -> "BankRows":
        """These rows and then the others, repeats and all."""
        count, more = len(self), len(others)
        return BankRows(
            np.concatenate([self.hashes, others.hashes]),
            self.names.joined(others.names),
            np.concatenate([self.opinions, others.opinions]),
            _joined_column(self.positions_ms, count, others.positions_ms, more, -1),
            _joined_column(self.is_window, count, others.is_window, more, 0),
            np.concatenate([self.second_rows, others.second_rows + np.uint32(count)]),
            np.concatenate([self.seconds, others.seconds]),
        )


def merged(present: BankRows, added: BankRows) -> BankRows:
    """The present rows and then the added ones; a (hash, entry) pair that is in both takes the added opinion."""
    return _latest(present.joined(added))


def _joined_column(
    first: NDArray[Any], first_count: int, second: NDArray[Any], second_count: int, absent: int
) -> NDArray[Any]:
    if not len(first) and not len(second):
        return first
    first = first if len(first) else np.full(first_count, absent, dtype=first.dtype)
    return np.concatenate([first, second if len(second) else np.full(second_count, absent, dtype=second.dtype)])


def _latest(rows: BankRows) -> BankRows:
    """Drop (hash, entry) pairs that repeat: the first keeps its place, with the last opinion and a second hash."""
    # Only rows that share their first eight bytes with another can repeat it: the rest are never looked at one by one.
    first_words = rows.hashes.view("<u8")[:, 0]
    order = np.argsort(first_words, kind="stable")
    same = first_words[order][1:] == first_words[order][:-1]
    twins = np.zeros(len(order), dtype=bool)
    twins[1:] |= same
    twins[:-1] |= same
    places: dict[tuple[bytes, str], int] = {}
    opinions = rows.opinions.copy()
    source = np.arange(len(rows), dtype=np.int64)
    repeats: list[int] = []
    for number in np.sort(order[twins]).tolist():
        pair = (rows.hashes[number].tobytes(), rows.names[number])
        place = places.setdefault(pair, number)
        if place != number:
            opinions[place] = rows.opinions[number]
            repeats.append(number)
            if rows.second(int(source[place])) is None and rows.second(number) is not None:
                source[place] = number
    if not repeats:
        return rows
    kept = np.ones(len(rows), dtype=bool)
    kept[repeats] = False
    return replace(rows.taken(source[kept]), opinions=opinions[kept])


def name_keys(names: EntryNames) -> NDArray[np.uint64]:
    """A 64-bit key of each name, for counting and finding entries without a Python string each; equal names agree."""
    keys = np.empty(len(names), dtype=np.uint64)
    for start in range(0, len(names), _CHUNK):
        offsets = names.offsets[start : start + _CHUNK + 1]
        lengths = np.diff(offsets)
        content = names.content[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
        places = np.arange(len(content)) - np.repeat(offsets[:-1] - offsets[0], lengths)
        sums = np.add.reduceat(content * _KEY_POWERS[places], offsets[:-1] - offsets[0]) if len(lengths) else lengths
        mixed = sums ^ (sums >> np.uint64(32))
        keys[start : start + len(lengths)] = mixed * _KEY_FACTOR
    return keys


def _encoded(name: str) -> bytes:
    if not name or not name.isprintable():
        raise ValueError(f"{name[:40]!r} is no name for an entry; use printable characters")
    encoded = name.encode()
    if len(encoded) > LONGEST_ENTRY_BYTES:
        raise ValueError(f"the entry name {name[:40]!r}... is longer than {LONGEST_ENTRY_BYTES} bytes; shorten it")
    return encoded
