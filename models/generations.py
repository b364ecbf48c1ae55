"""The files of a bank: generations of plain arrays, and the pointer that names the one in force.

A change writes what is new beside the old and then replaces the pointer in one step: whoever dies in between leaves the
old generation in force. Writers take turns by a lock; readers need none, since no file that a pointer named is ever
changed, and it stays mapped when it is removed. `gen-<number>/<algorithm>/` is a base, `over-<number>/<algorithm>/` an
overlay (see `models.shelves`), `notes-<number>.json` what is noted about entries.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from models.annotations import EntryNote, write_notes
from models.arrays import IndexCorrupt
from models.durable import replace_synced, sync_folder
from models.evidence import Opinion
from models.hashing.registry import hash_algorithms
from models.shelves import Base, Overlay, Shelf, Trust, open_shelf

POINTER: Final = "bank.json"

REBUILDING: Final = "rebuilding"
"""The folder in which a rebuild writes; only who rebuilds removes it."""

_FORMAT: Final = 2
_FORMAT_BEFORE_LAYERS: Final = 1
_LOCK: Final = "lock"
_GENERATION: Final = re.compile(r"gen-[0-9]{8,18}", re.ASCII)
_OVERLAY: Final = re.compile(r"over-[0-9]{8,18}", re.ASCII)
_NOTES: Final = re.compile(r"notes-[0-9]{8,18}\.json", re.ASCII)
_UNFINISHED: Final = "unfinished-"
_MOST_POINTER_BYTES: Final = 1 << 20
"""A pointer names a handful of files; what is longer was not written here."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The folders of one algorithm, and how many rows there are to fold."""

    base: str
    overlay: str | None = None
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a bank's pointer says: the generation in force, its layers and rows by algorithm, and what it comes to."""

    generation: str
    layers: Mapping[str, Layers]
    rows: Mapping[str, int] = field(default_factory=dict)
    opinions: Mapping[str, int] = field(default_factory=dict)
    entries: int = 0
    notes: Mapping[str, Any] | None = None

    @property
    def number(self) -> int:
        """That of the generation."""
        return int(self.generation.removeprefix("gen-"))

    def names(self) -> set[str]:
        """The files and folders that it needs."""
        layers = self.layers.values()
        named = {one.base for one in layers} | {one.overlay for one in layers if one.overlay}
        return named | ({str(self.notes["file"])} if self.notes else set())


def read_pointer(bank_dir: Path) -> Pointer | None:
    """Read a bank's pointer; None where there is no bank. Those of earlier releases are read too.

    Raises:
        IndexCorrupt: The pointer is not what was written.
    """
    try:
        with (bank_dir / POINTER).open("rb") as file:
            raw = json.loads(file.read(_MOST_POINTER_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise IndexCorrupt(bank_dir, f"{POINTER} is no JSON") from None
    if not isinstance(raw, dict) or raw.get("format") not in (_FORMAT_BEFORE_LAYERS, _FORMAT):
        raise IndexCorrupt(bank_dir, f"{POINTER} is of another format than {_FORMAT}")
    if raw["format"] == _FORMAT_BEFORE_LAYERS and isinstance(raw.get("rows"), dict):
        raw["layers"] = {name: {"base": raw.get("generation")} for name in raw["rows"]}
    try:
        pointer = Pointer(
            generation=_text(raw["generation"]),
            layers={str(name): _layers(one) for name, one in raw["layers"].items()},
            rows={str(name): _count(count) for name, count in raw["rows"].items()},
            opinions={Opinion(word).value: _count(count) for word, count in raw["opinions"].items()},
            entries=_count(raw["entries"]),
            notes=_notes(raw.get("notes")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise IndexCorrupt(bank_dir, f"{POINTER} lacks what a pointer says") from None
    _refuse_other_paths(bank_dir, pointer)
    return pointer


def _layers(raw: Mapping[str, Any]) -> Layers:
    overlay = raw.get("overlay")
    return Layers(_text(raw["base"]), None if overlay is None else _text(overlay), _count(raw.get("pending", 0)))


def _notes(raw: Mapping[str, Any] | None) -> dict[str, str] | None:
    return None if raw is None else {"file": _text(raw["file"]), "sha256": _text(raw["sha256"])}


def _count(raw: object) -> int:
    if not isinstance(raw, int) or raw < 0:
        raise TypeError("not a count")
    return raw


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise TypeError("not a text")
    return raw


def _refuse_other_paths(bank_dir: Path, pointer: Pointer) -> None:
    """All names are joined to paths: no other folder may be reached through them."""
    layers = pointer.layers.values()
    are_ours = (
        all(_GENERATION.fullmatch(name) for name in (pointer.generation, *(one.base for one in layers)))
        and all(one.overlay is None or _OVERLAY.fullmatch(one.overlay) for one in layers)
        and all(name.isidentifier() for name in pointer.layers)
        and pointer.layers.keys() == pointer.rows.keys()
        and (pointer.notes is None or _NOTES.fullmatch(pointer.notes["file"]))
    )
    if not are_ours:
        raise IndexCorrupt(bank_dir, f"{POINTER} names no generation or algorithm")


def open_shelves(
    bank_dir: Path, pointer: Pointer | None, *, is_verified: bool = True, trust: Trust | None = None
) -> dict[str, Shelf]:
    """Open what a pointer names, by algorithm; nothing where there is no bank yet. Raises as `open_shelf` does."""
    shelves = {}
    known = hash_algorithms()
    for name, one in (pointer.layers if pointer else {}).items():
        overlay = bank_dir / one.overlay / name if one.overlay else None
        base = bank_dir / one.base / name
        shelves[name] = shelf = open_shelf(base, overlay, is_verified=is_verified, trust=trust)
        if name in known and shelf.bits != known[name].bits:
            raise IndexCorrupt(bank_dir, f"its {name} hashes have {shelf.bits} bits, not {known[name].bits}")
    return shelves


@contextmanager
def locked(bank_dir: Path) -> Iterator[Pointer | None]:
    """Wait for the one writer's turn, making the folder where there is none, and give the pointer in force."""
    # The lock is the kernel's: it ends with the process that holds it, however that ends.
    bank_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(bank_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield read_pointer(bank_dir)
    finally:
        os.close(descriptor)


def restore_pointer(bank_dir: Path, content: bytes, unless_beyond: str) -> bool:
    """Bring back what a pointer's file held before the generation `unless_beyond`, and tell whether that was done.

    Where that generation is no longer in force, somebody has changed the bank since, and it stays as it is. The files
    of the generation before are there until the next change.
    """
    with locked(bank_dir) as pointer:
        if pointer is not None and pointer.generation != unless_beyond:
            return False
        _replace_pointer(bank_dir, content)
    return True


@dataclass(frozen=True, slots=True)
class Counts:
    """What a generation comes to: rows by algorithm, rows by opinion, distinct entries."""

    rows: Mapping[str, int]
    opinions: Mapping[str, int]
    entries: int


@dataclass(slots=True)
class NextGeneration:
    """The generation that follows a pointer's, as it is put together. Use it under the lock."""

    bank_dir: Path
    before: Pointer | None
    layers: dict[str, Layers]
    notes: Mapping[str, Any] | None

    @classmethod
    def after(cls, bank_dir: Path, pointer: Pointer | None) -> "NextGeneration":
        """Begin with what is in force."""
        _remove_stale(bank_dir, pointer)
        return cls(bank_dir, pointer, dict(pointer.layers) if pointer else {}, pointer.notes if pointer else None)

    @property
    def number(self) -> int:
        """That of the new generation."""
        return self.before.number + 1 if self.before else 1

    def put_base(self, algorithm: str, base: Base) -> None:
        """Write a base with nothing over it."""
        base.save(self._unfinished("gen") / algorithm)
        self.layers[algorithm] = Layers(f"gen-{self.number:08d}")

    def put_finished_base(self, algorithm: str, folder: Path) -> None:
        """Take in a base that was written elsewhere in the bank's folder."""
        self._unfinished("gen").mkdir(exist_ok=True)
        folder.rename(self._unfinished("gen") / algorithm)
        self.layers[algorithm] = Layers(f"gen-{self.number:08d}")

    def put_overlay(self, algorithm: str, overlay: Overlay | None) -> None:
        """Write an overlay over the algorithm's base, or have none."""
        base = self.layers[algorithm].base
        if overlay is None:
            self.layers[algorithm] = Layers(base)
            return
        overlay.save(self._unfinished("over") / algorithm)
        self.layers[algorithm] = Layers(base, f"over-{self.number:08d}", overlay.pending)

    def put_notes(self, notes: Mapping[str, EntryNote]) -> None:
        """Write what is noted about entries."""
        self.notes = write_notes(self.bank_dir, self.number, notes)

    def bring_into_force(self, counts: Counts) -> str:
        """Replace the pointer; give the generation's name."""
        for kind in ("gen", "over"):
            unfinished = self._unfinished(kind)
            if unfinished.is_dir():
                sync_folder(unfinished)
                unfinished.rename(self.bank_dir / f"{kind}-{self.number:08d}")
        sync_folder(self.bank_dir)
        facts = {
            "format": _FORMAT,
            "generation": f"gen-{self.number:08d}",
            "layers": {
                name: {"base": one.base, "overlay": one.overlay, "pending": one.pending}
                for name, one in self.layers.items()
            },
            "rows": dict(counts.rows),
            "opinions": {word: count for word, count in counts.opinions.items() if count},
            "entries": counts.entries,
            "notes": self.notes,
        }
        _replace_pointer(self.bank_dir, json.dumps(facts, indent=1).encode())
        return f"gen-{self.number:08d}"

    def give_up(self) -> None:
        """Remove what was written of it: a disk that is full would stay so until the next change."""
        for kind in ("gen", "over"):
            shutil.rmtree(self._unfinished(kind), ignore_errors=True)

    def _unfinished(self, kind: str) -> Path:
        return self.bank_dir / f"{_UNFINISHED}{kind}-{self.number:08d}"


def _replace_pointer(bank_dir: Path, content: bytes) -> None:
    replace_synced(bank_dir / POINTER, content, draft_prefix=_UNFINISHED)
    sync_folder(bank_dir.parent)


def own_radius(algorithm: str) -> int:
    """How far look-ups of an algorithm's hashes are to be exact."""
    known = hash_algorithms()
    return known[algorithm].max_distance if algorithm in known else 0


def _remove_stale(bank_dir: Path, pointer: Pointer | None) -> None:
    # Called under the lock, so nothing unfinished is anyone's. What the pointer names stays; once it is replaced, that
    # stays until the next change, for readers who have just read it. What nothing names had its writer die.
    named = pointer.names() if pointer else set()
    for path in bank_dir.iterdir():
        is_ours = any(kind.fullmatch(path.name) for kind in (_GENERATION, _OVERLAY, _NOTES))
        if path.name.startswith(_UNFINISHED) or (is_ours and path.name not in named):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
