"""Banks on disk: naming, opening, listing and changing them.

A bank is the folder `<NAME>/` with `bank.json`, which names the generation in force, and its folders of plain arrays
(see `models.generations`). What is matched against a frame is `models.banks.Bank`.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.annotations import NO_NOTE, EntryNote, check_note, read_notes
from models.arrays import IndexCorrupt
from models.bank_changes import Change, counts_after, with_rows, without_entry
from models.bank_rows import BankRows, EntryNames, name_keys
from models.banks import Bank
from models.evidence import Opinion
from models.generations import POINTER, Counts, NextGeneration, Pointer, locked, open_shelves, read_pointer
from models.hashing.registry import hash_algorithms
from models.shelves import Shelf, Trust
from models.slot_tables import Rows

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)

_LONGEST_NAME: Final = 64

CANARY_BANK: Final = "canary"
"""The folder of the bank that holds the self-test's one entry: no name that a user's bank can have, so no command
lists or changes it and no config names it. It is loaded like any other."""

INCIDENT_BANK: Final = "incidents"
"""The folder of the bank that holds what was just cut, beside the canary's and reserved like it."""

_RESERVED: Final = (CANARY_BANK, INCIDENT_BANK)

_OPEN_ATTEMPTS: Final = 5


class BankNameError(ValueError):
    """Raised for a name that no bank can have. Nothing was touched."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:_LONGEST_NAME]!r} is no bank name; use up to {_LONGEST_NAME} capitals, digits and underscores that"
            " do not begin with a digit, such as KNOWN_CARDS",
        )


class BankMissing(LookupError):
    """Raised where a bank was to be read that does not exist. Nothing was touched."""

    def __init__(self, bank_dir: Path) -> None:
        super().__init__(
            f"there is no bank {bank_dir.name} in {bank_dir.parent}; make it with 'stopframe hashes add' or 'import'",
        )
        self.bank_dir = bank_dir


class EntryMissing(LookupError):
    """Raised where something was to be noted about an entry that a bank does not hold. Nothing was touched."""

    def __init__(self, bank_dir: Path, entry: str) -> None:
        super().__init__(
            f"bank {bank_dir.name} has no entry {entry!r}; 'stopframe hashes list {bank_dir.name}' shows them"
        )


@dataclass(frozen=True, slots=True)
class BankStats:
    """What a bank holds: rows by algorithm, rows by opinion, distinct entries; `changed_at` is Unix seconds.

    `pending` rows came or went since its bases were built.
    """

    name: str
    generation: str
    rows: Mapping[str, int]
    opinions: Mapping[str, int]
    entries: int
    size_bytes: int
    changed_at: float
    pending: int = 0


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One entry of a bank: how many hashes it has by algorithm, and what is thought of them."""

    entry: str
    rows: Mapping[str, int]
    opinions: tuple[Opinion, ...]


def check_bank_name(name: str) -> str:
    """Give the name back.

    Raises:
        BankNameError: It is none for a bank.
    """
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise BankNameError(name)
    return name


def check_rows(rows: Rows, algorithm: str) -> None:
    """Refuse hashes that are none of an algorithm. Raises `ValueError`."""
    known = hash_algorithms()
    if algorithm not in known:
        raise ValueError(f"there is no hash algorithm {algorithm!r}; known are {', '.join(known)}")
    width = known[algorithm].bits // 8
    if rows.ndim != 2 or rows.shape[1] != width or rows.dtype != np.uint8:
        raise ValueError(f"{algorithm} rows are (N, {width}) uint8, got {rows.shape} {rows.dtype}")


def check_writable(name: str) -> None:
    """Users name banks through commands, which check the names themselves; the service writes the incident bank."""
    if name != INCIDENT_BANK:
        check_bank_name(name)


def bank_names(banks_dir: Path, *, with_reserved: bool = False) -> list[str]:
    """The users' banks that exist in a folder, sorted; none where there is no such folder. Reserved ones come first."""
    if not banks_dir.is_dir():
        return []
    reserved = [name for name in _RESERVED if with_reserved and (banks_dir / name / POINTER).is_file()]
    return reserved + sorted(
        folder.name for folder in banks_dir.iterdir() if _NAME.fullmatch(folder.name) and (folder / POINTER).is_file()
    )


def load_bank(bank_dir: Path) -> Bank:
    """Open the generation in force.

    Raises:
        BankNameError: The folder's name is none for a bank.
        BankMissing: There is no such bank.
        IndexCorrupt: Its files are not what was written.
    """
    check_bank_name(bank_dir.name)
    return open_bank(bank_dir)


def open_bank(bank_dir: Path, trust: Trust | None = None) -> Bank:
    """As `load_bank`, for the canary's bank as well; raises `NotRead` as `models.shelves.Trust` says."""
    for attempt in range(_OPEN_ATTEMPTS):
        pointer = read_pointer(bank_dir)
        if pointer is None:
            raise BankMissing(bank_dir)
        try:
            shelves = open_shelves(bank_dir, pointer, trust=trust)
            noted = read_notes(bank_dir, pointer.notes)
        except (FileNotFoundError, IndexCorrupt) as error:
            # Writers may have moved on twice and removed what the pointer named a moment ago.
            moved = read_pointer(bank_dir)
            if moved is None or moved.generation == pointer.generation or attempt + 1 == _OPEN_ATTEMPTS:
                if isinstance(error, FileNotFoundError):
                    raise IndexCorrupt(bank_dir, f"files of {pointer.generation} are missing") from None
                raise
            continue
        return Bank(bank_dir, pointer.generation, shelves, noted)
    raise AssertionError("unreachable")


def add_entries(  # noqa: PLR0913 - one array per column, by name
    bank_dir: Path,
    rows: Rows,
    entries: Sequence[str],
    opinions: Opinion | Sequence[Opinion] = Opinion.POSITIVE,
    *,
    algorithm: str = "pdq",
    seconds: NDArray[np.uint8] | None = None,
    has_second: NDArray[np.bool_] | None = None,
    positions_ms: NDArray[np.int32] | None = None,
    is_window: NDArray[np.bool_] | None = None,
) -> str:
    """Add hashes to a bank, which is created where there is none, and give the name of the generation in force then.

    `rows` is (N, bits / 8) uint8, `entries` names each row's entry. A hash that the entry has already takes the new
    opinion; where every row says what the bank says already nothing changes. `seconds` (N, 64) uint8 are the second
    hashes of the rows that `has_second` (N,) names, all without it; `positions_ms` (N,) int32 the places in a video, -1
    being none; `is_window` (N,) the rows that show a part of their picture.

    Raises:
        BankNameError: The folder's name is none for a bank.
        ValueError: The rows do not fit the algorithm, the numbers of rows, entries and opinions differ, or an entry's
            name is empty, too long or unprintable.
        IndexCorrupt: The bank's present files are not what was written; they stay as they are.
    """
    check_writable(bank_dir.name)
    check_rows(rows, algorithm)
    added = BankRows.of(
        rows, entries, opinions, seconds=seconds, has_second=has_second, positions_ms=positions_ms, is_window=is_window
    )
    with locked(bank_dir) as pointer, reading_unverified(bank_dir):
        if pointer is not None and len(rows) == 0:
            return pointer.generation
        shelves = open_shelves(bank_dir, pointer, is_verified=False)
        change = with_rows(shelves.get(algorithm), added, algorithm)
        if pointer is not None and change.is_nothing and algorithm in shelves:
            return pointer.generation
        return write_changes(bank_dir, pointer, shelves, {algorithm: change})


def write_changes(
    bank_dir: Path,
    pointer: Pointer | None,
    shelves: Mapping[str, Shelf],
    changes: Mapping[str, Change],
    notes: Mapping[str, EntryNote] | None = None,
) -> str:
    """Write what changes and bring it into force; call under the lock."""
    if any(change.base is not None for change in changes.values()) and shelves:
        open_shelves(bank_dir, pointer)  # damaged files would be written anew with sound checksums
    next_generation = NextGeneration.after(bank_dir, pointer)
    try:
        for algorithm, change in changes.items():
            if change.base is not None:
                next_generation.put_base(algorithm, change.base)
            else:
                next_generation.put_overlay(algorithm, change.overlay)
        if notes is not None:
            next_generation.put_notes(notes)
    except OSError:
        next_generation.give_up()
        raise
    before = Counts(pointer.rows, pointer.opinions, pointer.entries) if pointer is not None else None
    return next_generation.bring_into_force(counts_after(shelves, changes, before))


def put_canary(banks_dir: Path, fingerprint: bytes) -> bool:
    """Have the canary's bank hold one PDQ fingerprint (32 bytes) and nothing else; tell whether it had to be written.

    Raises:
        OSError: It cannot be written.
    """
    bank_dir = banks_dir / CANARY_BANK
    try:
        present = open_bank(bank_dir).shelves["pdq"].live()
        if present.hashes.tobytes() == fingerprint:
            return False
    except (BankMissing, IndexCorrupt, OSError, KeyError):
        pass
    shutil.rmtree(bank_dir, ignore_errors=True)  # nothing in it is anybody's
    row = np.frombuffer(fingerprint, np.uint8)[None]
    with locked(bank_dir) as pointer:
        added = BankRows.of(row, [CANARY_BANK], Opinion.POSITIVE)
        write_changes(bank_dir, pointer, {}, {"pdq": with_rows(None, added, "pdq")})
    return True


def remove_entry(bank_dir: Path, entry: str) -> int:
    """Remove an entry with all its hashes and notes, and give how many hashes these were; with none nothing changes.

    Raises:
        BankMissing: There is no such bank.
        IndexCorrupt: The bank's present files are not what was written; they stay as they are.
    """
    with _locked_bank(bank_dir) as pointer, reading_unverified(bank_dir):
        shelves = open_shelves(bank_dir, pointer, is_verified=False)
        changes = {name: without_entry(shelf, entry, name) for name, shelf in shelves.items()} if entry else {}
        changes = {name: change for name, change in changes.items() if not change.is_nothing}
        if changes:
            noted = read_notes(bank_dir, pointer.notes)
            is_noted = noted.pop(entry, None) is not None
            write_changes(bank_dir, pointer, shelves, changes, noted if is_noted else None)
        return sum(len(change.went) for change in changes.values())


def annotate(bank_dir: Path, entry: str, change: Callable[[EntryNote], EntryNote]) -> str:
    """Change what is noted about an entry, and give the name of the generation in force then.

    It acts as soon as an added hash does. A note that says nothing is not kept.

    Raises:
        BankMissing, EntryMissing: There is no such bank or entry.
        ValueError: The note is none (see `models.annotations.check_note`).
        IndexCorrupt: The bank's present files are not what was written; they stay as they are.
    """
    with _locked_bank(bank_dir) as pointer:
        with reading_unverified(bank_dir):
            shelves = open_shelves(bank_dir, pointer, is_verified=False)
            key = name_keys(EntryNames.of([entry])) if entry.isprintable() and entry else np.zeros(0, np.uint64)
            is_held = any(np.any(shelf.rows_of_entries(key)) for shelf in shelves.values())
        if not is_held:
            raise EntryMissing(bank_dir, entry)
        noted = read_notes(bank_dir, pointer.notes)
        before = noted.pop(entry, NO_NOTE)
        after = check_note(change(before))
        if after == before:
            return pointer.generation
        if after != NO_NOTE:
            noted[entry] = after
        return write_changes(bank_dir, pointer, shelves, {}, noted)


def notes(bank_dir: Path) -> Mapping[str, EntryNote]:
    """What is noted about a bank's entries, by entry.

    Raises:
        BankMissing: There is no such bank.
        IndexCorrupt: Its files are not what was written.
    """
    check_bank_name(bank_dir.name)
    pointer = read_pointer(bank_dir)
    if pointer is None:
        raise BankMissing(bank_dir)
    return read_notes(bank_dir, pointer.notes)


@contextmanager
def reading_unverified(bank_dir: Path) -> Iterator[None]:
    """Whoever changes a long bank reads a few rows of it, not all to verify them: numbers there may lead nowhere."""
    try:
        yield
    except FileNotFoundError:
        raise IndexCorrupt(bank_dir, "files of its generation are missing") from None
    except (IndexError, ValueError, MemoryError):
        raise IndexCorrupt(bank_dir, "its files are not what was written") from None


@contextmanager
def _locked_bank(bank_dir: Path) -> Iterator[Pointer]:
    check_writable(bank_dir.name)
    if not (bank_dir / POINTER).is_file():
        raise BankMissing(bank_dir)
    with locked(bank_dir) as pointer:
        if pointer is None:
            raise BankMissing(bank_dir)
        yield pointer


def list_entries(bank_dir: Path, limit: int = 1000) -> list[ListedEntry]:
    """The first `limit` entries of a bank in the order in which they were added.

    Raises:
        BankMissing: There is no such bank.
        IndexCorrupt: Its files are not what was written.
    """
    rows: dict[str, Counter[str]] = {}
    opinions: dict[str, set[Opinion]] = {}
    for entry, algorithm, opinion in load_bank(bank_dir).entries():
        if entry not in rows:
            if len(rows) >= limit:
                continue
            rows[entry], opinions[entry] = Counter(), set()
        rows[entry][algorithm] += 1
        opinions[entry].add(opinion)
    return [ListedEntry(entry, dict(rows[entry]), tuple(sorted(opinions[entry]))) for entry in rows]


def bank_stats(bank_dir: Path) -> BankStats:
    """What a bank holds, without opening its arrays.

    Raises:
        BankMissing: There is no such bank.
        IndexCorrupt: Its pointer is not what was written.
    """
    check_bank_name(bank_dir.name)
    pointer = read_pointer(bank_dir)
    if pointer is None:
        raise BankMissing(bank_dir)
    files = [path for name in pointer.names() for path in (bank_dir / name, *(bank_dir / name).rglob("*"))]
    return BankStats(
        name=bank_dir.name,
        generation=pointer.generation,
        rows=pointer.rows,
        opinions=pointer.opinions,
        entries=pointer.entries,
        size_bytes=sum(path.stat().st_size for path in files if path.is_file()),
        changed_at=(bank_dir / POINTER).stat().st_mtime,
        pending=sum(layers.pending for layers in pointer.layers.values()),
    )
