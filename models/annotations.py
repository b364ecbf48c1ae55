"""What an operator, or a guard against floods, has noted about single entries of a bank: few, and in force at once.

They lie beside the generations as `notes-<number>.json`, which the bank's pointer names with its SHA-256.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from models.arrays import IndexCorrupt
from models.durable import write_synced

LONGEST_NOTE: Final = 255
"""Characters of a note."""

_MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class EntryNote:
    """What is noted about one entry.

    It does not act before `disabled_until_seconds` (Unix time; infinity: for good; None: it acts). `confirmations` and
    `objections` count what people said of its matches. A `quarantined` entry hit too many streams at once: its matches
    are for people to look at until one of them releases it.
    """

    disabled_until_seconds: float | None = None
    note: str = ""
    confirmations: int = 0
    objections: int = 0
    quarantined: bool = False

    def is_disabled(self, now_seconds: float) -> bool:
        """Tell whether the entry may not act at a Unix time."""
        return self.disabled_until_seconds is not None and now_seconds < self.disabled_until_seconds


NO_NOTE: Final = EntryNote()
"""Of an entry about which nothing is noted."""


def check_note(note: EntryNote) -> EntryNote:
    """Give the note back.

    Raises:
        ValueError: Its text is too long or does not print, a count is negative, or its time is none.
    """
    if len(note.note) > LONGEST_NOTE or not all(
        character.isprintable() or character == "\n" for character in note.note
    ):
        raise ValueError(f"a note has up to {LONGEST_NOTE} printable characters")
    if min(note.confirmations, note.objections) < 0:
        raise ValueError("confirmations and objections are counts")
    if note.disabled_until_seconds is not None and math.isnan(note.disabled_until_seconds):
        raise ValueError("an entry is disabled until a time")
    return note


def write_notes(bank_dir: Path, number: int, notes: Mapping[str, EntryNote]) -> dict[str, Any] | None:
    """Write the notes of a generation beside it; give what the pointer says of them, None where there are none."""
    if not notes:
        return None
    content = json.dumps({entry: asdict(note) for entry, note in notes.items()}, ensure_ascii=False).encode()
    name = f"notes-{number:08d}.json"
    write_synced(bank_dir / name, content)
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest()}


def read_notes(bank_dir: Path, named: Mapping[str, Any] | None) -> dict[str, EntryNote]:
    """Read the notes that a pointer names.

    Raises:
        FileNotFoundError: They are gone, as those of old generations are.
        IndexCorrupt: They are not what was written.
    """
    if named is None:
        return {}
    path = bank_dir / str(named["file"])
    if path.stat().st_size > _MOST_BYTES:
        raise IndexCorrupt(bank_dir, f"{path.name} is longer than any that is written here")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != named["sha256"]:
        raise IndexCorrupt(bank_dir, f"{path.name} is not the file that was written")
    known = {field.name for field in fields(EntryNote)}
    try:
        raw = json.loads(content)
        return {
            str(entry): check_note(EntryNote(**{key: value for key, value in one.items() if key in known}))
            for entry, one in raw.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise IndexCorrupt(bank_dir, f"{path.name} holds no notes") from None
