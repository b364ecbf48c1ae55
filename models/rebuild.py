"""Folding what came and went into a new base: look-ups go through one layer again, and no answer changes.

The long part runs beside readers and writers. Only the swap takes the writers' lock, for as long as a small change
does; what was added or withdrawn meanwhile stays in an overlay over the new base. Whoever dies in between leaves the
old layers in force, and a folder that the next rebuild removes.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from models.arrays import IndexCorrupt
from models.bank_changes import is_worth_rebuilding
from models.generations import (
    REBUILDING,
    Counts,
    Layers,
    NextGeneration,
    Pointer,
    locked,
    open_shelves,
    own_radius,
    read_pointer,
)
from models.hits import is_among
from models.shelves import Base, Overlay, Shelf, open_shelf, state_of

_LOCK: Final = "rebuild.lock"


def is_due(bank_dir: Path) -> bool:
    """Tell whether a bank has so much in its overlays that look-ups are worth a rebuild.

    Raises:
        IndexCorrupt: The bank's pointer is not what was written.
    """
    pointer = read_pointer(bank_dir)
    return pointer is not None and bool(_due(pointer))


def rebuild(bank_dir: Path, *, is_forced: bool = False, tell: Callable[[str], object] = str) -> bool:
    """Fold every overlay that is worth it (`is_forced`: every one); tell whether a new base came into force.

    Where another process rebuilds the bank, nothing is done. `tell` is given each new base's `state_of` before it comes
    into force: nobody has to read that base to know that it is sound.

    Raises:
        IndexCorrupt: The bank's files are not what was written; they stay as they are.
        OSError: The new base cannot be written; the old layers stay in force.
    """
    with _turn(bank_dir) as is_ours:
        if not is_ours:
            return False
        with locked(bank_dir) as pointer:  # so that nobody removes what is about to be opened
            if pointer is None:
                return False
            wanted = {name for name, one in pointer.layers.items() if one.overlay} if is_forced else _due(pointer)
            shelves = open_shelves(bank_dir, pointer, is_verified=False) if wanted else {}
        folded = [_rebuilt(bank_dir, name, pointer.layers[name], shelves[name], tell) for name in sorted(wanted)]
        return any(folded)


def _due(pointer: Pointer) -> set[str]:
    return {name for name, one in pointer.layers.items() if is_worth_rebuilding(one.pending, pointer.rows[name])}


@contextmanager
def _turn(bank_dir: Path) -> Iterator[bool]:
    """Take the bank's one place for a rebuild, if it is free; nothing that an earlier one left is there then."""
    if not bank_dir.is_dir():
        yield False
        return
    descriptor = os.open(bank_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        shutil.rmtree(bank_dir / REBUILDING, ignore_errors=True)
        try:
            yield True
        finally:  # a disk that was too full for it is not left so
            shutil.rmtree(bank_dir / REBUILDING, ignore_errors=True)
    finally:
        os.close(descriptor)


def _rebuilt(bank_dir: Path, algorithm: str, before: Layers, shelf: Shelf, tell: Callable[[str], object]) -> bool:
    folder = bank_dir / REBUILDING / algorithm
    try:  # reading a long base takes seconds, for which no writer is to wait
        shelf = Shelf(open_shelf(bank_dir / before.base / algorithm, None).base, shelf.overlay)
    except (FileNotFoundError, IndexCorrupt):
        if _is_replaced(bank_dir, algorithm, before):
            return False
        raise
    Base.build(shelf.live(), own_radius(algorithm)).save(folder)
    tell(state_of(folder))
    with locked(bank_dir) as pointer:
        now = pointer.layers.get(algorithm) if pointer is not None else None
        if pointer is None or now is None or now.base != before.base:
            return False  # a large change has written a new base meanwhile
        overlay = open_shelves(bank_dir, pointer, is_verified=False)[algorithm].overlay
        next_generation = NextGeneration.after(bank_dir, pointer)
        next_generation.put_finished_base(algorithm, folder)
        if shelf.overlay is not None and overlay is not None:
            rest = _since(shelf.overlay, overlay, len(shelf.base), own_radius(algorithm))
            next_generation.put_overlay(algorithm, rest if rest.pending else None)
        next_generation.bring_into_force(Counts(pointer.rows, pointer.opinions, pointer.entries))
        return True


def _is_replaced(bank_dir: Path, algorithm: str, before: Layers) -> bool:
    pointer = read_pointer(bank_dir)
    now = pointer.layers.get(algorithm) if pointer is not None else None
    return now is None or now.base != before.base


def _since(folded: Overlay, now: Overlay, base_rows: int, radius: int) -> Overlay:
    """What came and went since an overlay over a base of so many rows was folded into it."""
    kept = np.flatnonzero(~is_among(now.serials, folded.serials))
    gone = now.gone[~is_among(now.gone, folded.gone)]
    # Folding closed the gaps of the rows that were gone, and put the overlay's rows behind the base's.
    moved = gone - np.searchsorted(folded.gone, gone)
    changed = np.flatnonzero(~is_among(folded.serials, now.serials)) + base_rows - len(folded.gone)
    return Overlay.of(
        now.rows.taken(kept), now.serials[kept], np.concatenate([moved, changed]), now.next_serial, radius
    )
