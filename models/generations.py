"""The files of a bank: generations of plain arrays, and the pointer that names the one in force.

A change writes a new generation beside the old one and then replaces the pointer in one step: whoever dies in between
leaves the old generation in force. Writers take turns by a lock; readers need none, since a generation never changes
and stays mapped when its files are removed.
"""

import fcntl
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.arrays import IndexCorrupt, open_arrays, save_arrays, sync_folder, write_synced
from models.bank_rows import OPINION_CODES, BankRows, EntryNames
from models.hashing.registry import hash_algorithms
from models.index import HammingIndex

POINTER: Final = "bank.json"

_FORMAT: Final = 1
_LOCK: Final = "lock"
_GENERATION: Final = re.compile(r"gen-[0-9]{8,}", re.ASCII)
_UNFINISHED: Final = "unfinished-"
_KEPT_GENERATIONS: Final = 2

_DTYPES: Final = {
    "rows": "|u1",
    "ids": "<u4",
    "starts": "<u4",
    "entry_offsets": "<i8",
    "entry_bytes": "|u1",
    "opinions": "|u1",
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """One algorithm's part of a generation: its index, and the entries and opinions of the same rows."""

    index: HammingIndex
    rows: BankRows


def read_pointer(bank_dir: Path) -> dict[str, Any] | None:
    """Give `generation`, `rows` by algorithm, `opinions` by word and `entries`; None where there is no bank.

    Raises:
        IndexCorrupt: The pointer is not what was written.
    """
    path = bank_dir / POINTER
    try:
        pointer = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise IndexCorrupt(bank_dir, f"{POINTER} is no JSON") from None
    if not isinstance(pointer, dict) or pointer.get("format") != _FORMAT:
        raise IndexCorrupt(bank_dir, f"{POINTER} is of another format than {_FORMAT}")
    shapes = (("generation", str), ("rows", dict), ("opinions", dict), ("entries", int))
    if not all(isinstance(pointer.get(key), kind) for key, kind in shapes):
        raise IndexCorrupt(bank_dir, f"{POINTER} lacks one of {', '.join(key for key, _ in shapes)}")
    # Both are joined to paths: no other folder may be reached through them.
    if not _GENERATION.fullmatch(pointer["generation"]) or not all(name.isidentifier() for name in pointer["rows"]):
        raise IndexCorrupt(bank_dir, f"{POINTER} names no generation or algorithm")
    return pointer


def open_shelf(folder: Path) -> Shelf:
    """Open one algorithm's folder of a generation, by memory map.

    Raises:
        FileNotFoundError: There is no such folder.
        IndexCorrupt: Its files are not what was written.
    """
    opened = open_arrays(folder, _DTYPES)
    index = HammingIndex.from_folder(opened, folder)
    arrays = opened.arrays
    names = EntryNames(arrays["entry_offsets"], arrays["entry_bytes"])
    opinions = arrays["opinions"]
    if not names.is_sound(len(index)) or opinions.shape != (len(index),) or np.any(opinions >= len(OPINION_CODES)):
        raise IndexCorrupt(folder, "its entries or opinions do not fit its rows")
    return Shelf(index, BankRows(index.rows, names, opinions))


def present_rows(bank_dir: Path, pointer: Mapping[str, Any] | None) -> dict[str, BankRows]:
    """Give the rows in force by algorithm; none where there is no bank yet. Raises as `open_shelf` does."""
    if pointer is None:
        return {}
    generation = bank_dir / str(pointer["generation"])
    return {name: open_shelf(generation / name).rows for name in pointer["rows"]}


@contextmanager
def locked(bank_dir: Path) -> Iterator[dict[str, Any] | None]:
    """Wait for the one writer's turn, making the folder where there is none, and give the pointer in force."""
    # The lock is the kernel's: it ends with the process that holds it, however that ends.
    bank_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(bank_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield read_pointer(bank_dir)
    finally:
        os.close(descriptor)


def write_generation(bank_dir: Path, pointer: Mapping[str, Any] | None, shelves: Mapping[str, BankRows]) -> str:
    """Write the generation that follows the pointer's and bring it into force; call under the lock. Gives its name."""
    _remove_stale(bank_dir, pointer)
    number = int(str(pointer["generation"]).removeprefix("gen-")) + 1 if pointer else 1
    generation = f"gen-{number:08d}"
    unfinished = bank_dir / f"{_UNFINISHED}{generation}"
    known = hash_algorithms()
    for name, rows in shelves.items():
        index = HammingIndex.build(rows.hashes, known[name].max_distance if name in known else 0)
        arrays: dict[str, NDArray[Any]] = {**index.arrays(), **rows.entry_arrays()}
        save_arrays(unfinished / name, arrays, index.facts())
    unfinished.mkdir(exist_ok=True)
    sync_folder(unfinished)
    unfinished.rename(bank_dir / generation)
    sync_folder(bank_dir)
    draft = bank_dir / f"{_UNFINISHED}{POINTER}"
    write_synced(draft, json.dumps(_facts(generation, shelves), indent=1).encode())
    draft.replace(bank_dir / POINTER)
    sync_folder(bank_dir)
    sync_folder(bank_dir.parent)
    return generation


def _facts(generation: str, shelves: Mapping[str, BankRows]) -> dict[str, Any]:
    opinions: Counter[str] = Counter()
    entries: set[str] = set()
    for rows in shelves.values():
        counts = np.bincount(rows.opinions, minlength=len(OPINION_CODES)).tolist()
        opinions.update({opinion.value: count for opinion, count in zip(OPINION_CODES, counts, strict=True) if count})
        entries.update(rows.names)
    return {
        "format": _FORMAT,
        "generation": generation,
        "rows": {name: len(rows.hashes) for name, rows in shelves.items()},
        "opinions": dict(opinions),
        "entries": len(entries),
    }


def _remove_stale(bank_dir: Path, pointer: Mapping[str, Any] | None) -> None:
    # Called under the lock, so nothing unfinished is anyone's; the generation in force and the one before it stay.
    for path in bank_dir.glob(f"{_UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    current = str(pointer["generation"]) if pointer else ""
    finished = sorted((path for path in bank_dir.glob("gen-*") if _GENERATION.fullmatch(path.name)), key=_number_of)
    for path in finished:
        if _number_of(path) > (_number_of(bank_dir / current) if current else 0):
            shutil.rmtree(path)  # finished, but its writer died before it came into force
    older = [path for path in finished if current and _number_of(path) <= _number_of(bank_dir / current)]
    # One of the kept ones is the generation about to be written.
    for path in older[: -(_KEPT_GENERATIONS - 1)]:
        shutil.rmtree(path)


def _number_of(generation: Path) -> int:
    return int(generation.name.removeprefix("gen-"))
