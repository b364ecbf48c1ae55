"""Banks on disk: naming, opening, listing and changing them.

A bank is the folder `<NAME>/` with `bank.json`, which names the generation in force, and `gen-<number>/<algorithm>/`
folders of plain arrays (see `models.generations`). What is matched against a frame is `models.banks.Bank`.
"""

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.arrays import IndexCorrupt
from models.bank_rows import BankRows, merged
from models.banks import Bank
from models.evidence import Opinion
from models.generations import POINTER, locked, open_shelf, present_rows, read_pointer, write_generation
from models.hashing.registry import hash_algorithms
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
            f"there is no bank {bank_dir.name} in {bank_dir.parent}; create it with `stopframe hashes add` or `import`",
        )


@dataclass(frozen=True, slots=True)
class BankStats:
    """What a bank holds: rows by algorithm, rows by opinion, distinct entries; `changed_at` is Unix seconds."""

    name: str
    generation: str
    rows: Mapping[str, int]
    opinions: Mapping[str, int]
    entries: int
    size_bytes: int
    changed_at: float


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


def _check_writable(name: str) -> None:
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


def open_bank(bank_dir: Path) -> Bank:
    """As `load_bank`, for the reserved banks as well."""
    for attempt in range(_OPEN_ATTEMPTS):
        pointer = read_pointer(bank_dir)
        if pointer is None:
            raise BankMissing(bank_dir)
        generation = pointer["generation"]
        try:
            shelves = {name: open_shelf(bank_dir / generation / name) for name in pointer["rows"]}
        except (FileNotFoundError, IndexCorrupt):
            # Writers may have moved on twice and removed what the pointer named a moment ago.
            moved = read_pointer(bank_dir)
            if moved is None or moved["generation"] == generation or attempt + 1 == _OPEN_ATTEMPTS:
                raise
            continue
        return Bank(bank_dir, generation, shelves)
    raise AssertionError("unreachable")


def add_entries(
    bank_dir: Path,
    rows: Rows,
    entries: Sequence[str],
    opinions: Opinion | Sequence[Opinion] = Opinion.POSITIVE,
    *,
    algorithm: str = "pdq",
) -> str:
    """Add hashes to a bank, which is created where there is none, and give the name of its new generation.

    `rows` is (N, bits / 8) uint8, `entries` names each row's entry. A hash that the entry has already takes the new
    opinion. Nothing changes where N is 0 and the bank exists.

    Raises:
        BankNameError: The folder's name is none for a bank.
        ValueError: The rows do not fit the algorithm, the numbers of rows, entries and opinions differ, or an entry's
            name is empty, too long or unprintable.
        IndexCorrupt: The bank's present files are not what was written; they stay as they are.
    """
    _check_writable(bank_dir.name)
    known = hash_algorithms()
    if algorithm not in known:
        raise ValueError(f"there is no hash algorithm {algorithm!r}; known are {', '.join(known)}")
    width = known[algorithm].bits // 8
    if rows.ndim != 2 or rows.shape[1] != width or rows.dtype != np.uint8:
        raise ValueError(f"{algorithm} rows are (N, {width}) uint8, got {rows.shape} {rows.dtype}")
    added = BankRows.of(rows, entries, opinions)
    with locked(bank_dir) as pointer:
        if pointer is not None and len(rows) == 0:
            return str(pointer["generation"])
        shelves = present_rows(bank_dir, pointer)
        present = shelves.get(algorithm)
        shelves[algorithm] = added if present is None else merged(present, added)
        return write_generation(bank_dir, pointer, shelves)


def put_canary(banks_dir: Path, fingerprint: bytes) -> bool:
    """Have the canary's bank hold one PDQ fingerprint (32 bytes) and nothing else; tell whether it had to be written.

    Raises:
        OSError: It cannot be written.
    """
    bank_dir = banks_dir / CANARY_BANK
    try:
        present = open_bank(bank_dir).rows("pdq")
        if present is not None and present.hashes.tobytes() == fingerprint:
            return False
    except (BankMissing, IndexCorrupt, OSError):
        shutil.rmtree(bank_dir, ignore_errors=True)  # nothing in it is anybody's
    row = np.frombuffer(fingerprint, np.uint8)[None]
    with locked(bank_dir) as pointer:
        write_generation(bank_dir, pointer, {"pdq": BankRows.of(row, [CANARY_BANK], Opinion.POSITIVE)})
    return True


def remove_entry(bank_dir: Path, entry: str) -> int:
    """Remove an entry with all its hashes and give how many these were; with none nothing changes.

    Raises:
        BankMissing: There is no such bank.
        IndexCorrupt: The bank's present files are not what was written; they stay as they are.
    """
    _check_writable(bank_dir.name)
    if not (bank_dir / POINTER).is_file():
        raise BankMissing(bank_dir)
    with locked(bank_dir) as pointer:
        shelves = present_rows(bank_dir, pointer)
        gone = {name: rows.names.find(entry) for name, rows in shelves.items()}
        removed = sum(len(numbers) for numbers in gone.values())
        if removed:
            kept = {name: rows.without(gone[name]) for name, rows in shelves.items()}
            write_generation(bank_dir, pointer, kept)
        return removed


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
    generation = bank_dir / str(pointer["generation"])
    return BankStats(
        name=bank_dir.name,
        generation=generation.name,
        rows=pointer["rows"],
        opinions=pointer["opinions"],
        entries=pointer["entries"],
        size_bytes=sum(path.stat().st_size for path in generation.rglob("*") if path.is_file()),
        changed_at=(bank_dir / POINTER).stat().st_mtime,
    )
