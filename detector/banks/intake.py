"""Taking a list into a bank: what it adds, what it changes and what it takes back, in one step.

The command `stopframe hashes import` and the exchanges both come in here. What people have said of an entry stands: a
list that knows nothing of it does not undo it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from detector.private_folder import make_private
from models.annotations import NO_NOTE, EntryNote, read_notes
from models.bank_changes import Exchanged, rows_held, with_list
from models.bank_rows import OPINION_CODES, SECOND_BYTES, BankRows, EntryNames, name_keys
from models.bank_store import check_rows, check_writable, reading_unverified, write_changes
from models.evidence import Opinion
from models.generations import locked, open_shelves
from models.lists.contents import ListContents, ListedRows
from models.shelves import Shelf

_NOBODY: Final = np.zeros(0, dtype=np.int64)
_POSITIVE: Final = OPINION_CODES.index(Opinion.POSITIVE)
_DISPUTED: Final = OPINION_CODES.index(Opinion.DISPUTED)


@dataclass(frozen=True, slots=True)
class Intake:
    """What a list brought, in hashes, and the generation in force after it.

    `changed` ones were there and are now thought of otherwise; `withdrawn` ones went; `known` ones said nothing new.
    """

    added: int
    changed: int
    withdrawn: int
    known: int
    generation: str = ""


def take_in(bank_dir: Path, contents: ListContents, *, stem: str, quarantined: Collection[str] = ()) -> Intake:
    """Take a list into a bank, which is created where the list has rows; all of it comes into force at once.

    Entries without a name are called after `stem`. What the list withdraws goes, unless it also lists it; where it
    `is_whole`, so do hashes that an entry had besides those that it lists. An entry that people have confirmed or
    objected to keeps what is thought of it, and one that they disabled stays so, also if it goes and comes back. To
    take in the same list again changes nothing. Confirmations hold for the hashes that were there: one that comes
    under the same name, or under a name that was withdrawn, has nobody's trust. Entries in `quarantined` may only ask
    for reviews from the first moment on, unless people have confirmed them more often than objected.

    Raises:
        BankNameError: The folder's name is none for a bank.
        ValueError: Rows do not fit their algorithm, or an entry's name is empty, too long or unprintable.
        IndexCorrupt: The bank's present files are not what was written; they stay as they are.
        OSError: The bank cannot be written; it stays as it was.
    """
    check_writable(bank_dir.name)
    listed = {name: _bank_rows(name, rows, stem) for name, rows in contents.rows.items() if len(rows)}
    leaving = EntryNames.of(contents.withdrawn)
    if contents.is_whole:
        for rows in listed.values():
            leaving = leaving.joined(rows.names)
    if not listed and not bank_dir.is_dir():
        return Intake(0, 0, 0, 0)
    make_private(bank_dir.parent)
    with locked(bank_dir) as pointer, reading_unverified(bank_dir):
        if pointer is None and not listed:
            return Intake(0, 0, 0, 0)
        shelves = open_shelves(bank_dir, pointer, is_verified=False)
        noted = read_notes(bank_dir, pointer.notes) if pointer is not None else {}
        listed = {name: _as_judged(rows, shelves, noted) for name, rows in listed.items()}
        others = {name: shelf.base.rows.taken(_NOBODY) for name, shelf in shelves.items() if name not in listed}
        done = {name: with_list(shelves.get(name), rows, leaving, name) for name, rows in {**others, **listed}.items()}
        changes = {name: one.change for name, one in done.items() if not one.change.is_nothing or name not in shelves}
        generation = pointer.generation if pointer is not None else ""
        if changes:
            after = {**noted, **_outgrown(listed, shelves, noted)}
            after |= {entry: _in_quarantine(after.get(entry, NO_NOTE)) for entry in quarantined}
            after = {entry: note for entry, note in after.items() if note != NO_NOTE}
            generation = write_changes(bank_dir, pointer, shelves, changes, after if after != noted else None)
    return _intake(done, contents, generation)


def _outgrown(
    listed: Mapping[str, BankRows], shelves: Mapping[str, Shelf], noted: Mapping[str, EntryNote]
) -> dict[str, EntryNote]:
    """The notes of confirmed entries that come with another hash than they have, without the confirmations."""
    confirmed = EntryNames.of([entry for entry, note in noted.items() if note.confirmations])
    outgrown: dict[str, EntryNote] = {}
    for algorithm, rows in listed.items() if len(confirmed) else ():
        come = rows.taken(np.flatnonzero(np.isin(name_keys(rows.names), name_keys(confirmed))))
        there = rows_held(shelves[algorithm], come.names) if algorithm in shelves else come.taken(_NOBODY)
        known = {(value.tobytes(), entry) for value, entry in zip(there.hashes, there.names, strict=True)}
        for value, entry in zip(come.hashes, come.names, strict=True):
            note = noted.get(entry, NO_NOTE)
            if note.confirmations and (value.tobytes(), entry) not in known:
                outgrown[entry] = replace(note, confirmations=0)
    return outgrown


def _in_quarantine(note: EntryNote) -> EntryNote:
    return note if note.confirmations > note.objections else replace(note, quarantined=True)


def _bank_rows(algorithm: str, rows: ListedRows, stem: str) -> BankRows:
    check_rows(rows.hashes, algorithm)
    has_second = np.zeros(len(rows), dtype=np.bool_)
    has_second[rows.second_rows] = True
    seconds = np.zeros((len(rows), SECOND_BYTES), np.uint8) if len(rows.second_rows) else None
    if seconds is not None:
        seconds[rows.second_rows] = rows.seconds
    return BankRows.of(
        rows.hashes,
        rows.entry_names(stem),
        rows.dense_opinions(),
        seconds=seconds,
        has_second=has_second,
        positions_ms=rows.positions_ms,
        is_window=rows.is_window,
    )


def _as_judged(rows: BankRows, shelves: Mapping[str, Shelf], noted: Mapping[str, EntryNote]) -> BankRows:
    """What is listed, with people's opinion in place of the list's where people have given one."""
    judged = EntryNames.of([entry for entry, note in noted.items() if note.confirmations or note.objections])
    numbers = np.flatnonzero(np.isin(name_keys(rows.names), name_keys(judged))) if len(judged) else _NOBODY
    if not len(numbers):
        return rows
    held: dict[str, int] = {}
    for shelf in shelves.values():
        there = rows_held(shelf, rows.names.taken(numbers))
        for entry, code in zip(there.names, there.opinions.tolist(), strict=True):
            held[entry] = max(held.get(entry, 0), code)
    opinions = np.array(rows.opinions)
    for number in numbers.tolist():
        entry = rows.names[number]
        note = noted.get(entry, NO_NOTE)
        if note.confirmations or note.objections:
            opinions[number] = _judged(int(opinions[number]), held.get(entry), note)
    return replace(rows, opinions=opinions)


def _judged(listed: int, held: int | None, note: EntryNote) -> int:
    if held in (_POSITIVE, _DISPUTED):
        return held
    return _DISPUTED if listed == _POSITIVE and note.objections > note.confirmations else listed


def _intake(done: Mapping[str, Exchanged], contents: ListContents, generation: str) -> Intake:
    added = sum(one.added for one in done.values())
    changed = sum(one.changed for one in done.values())
    return Intake(
        added=added,
        changed=changed,
        withdrawn=sum(one.withdrawn for one in done.values()),
        known=len(contents) - added - changed,
        generation=generation,
    )
