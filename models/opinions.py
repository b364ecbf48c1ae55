"""Changing what a bank thinks of an entry: all its rows at once, nothing else of them."""

from pathlib import Path

import numpy as np

from models.bank_rows import OPINION_CODES, BankRows
from models.bank_store import EntryMissing, add_entries, load_bank
from models.evidence import Opinion
from models.hashing.registry import hash_algorithms


def set_opinion(bank_dir: Path, entry: str, opinion: Opinion, *, where: Opinion) -> int:
    """Give the rows of an entry that are of the opinion `where` another one; gives how many there were.

    Rows of hashes that no installed package knows stay as they are: they match nothing.

    Raises:
        BankNameError, BankMissing: There is no such bank.
        EntryMissing: It holds no such entry.
        IndexCorrupt: Its files are not what was written.
    """
    bank = load_bank(bank_dir)
    changed = 0
    is_there = False
    for algorithm in bank.algorithms:
        rows = bank.rows(algorithm)
        assert rows is not None
        part = rows.taken(rows.names.find(entry))
        is_there |= len(part) > 0
        part = part.taken(np.flatnonzero(part.opinions == OPINION_CODES.index(where)).astype(np.int64))
        if len(part) and algorithm in hash_algorithms():
            _add(bank_dir, algorithm, part, opinion)
            changed += len(part)
    if not is_there:
        raise EntryMissing(bank_dir, entry)
    return changed


def _add(bank_dir: Path, algorithm: str, rows: BankRows, opinion: Opinion) -> None:
    count = len(rows)
    has_second = np.zeros(count, dtype=np.bool_)
    has_second[rows.second_rows] = True
    seconds = np.zeros((count, rows.seconds.shape[1]), dtype=np.uint8)
    seconds[rows.second_rows] = rows.seconds
    add_entries(
        bank_dir,
        rows.hashes,
        list(rows.names),
        opinion,
        algorithm=algorithm,
        seconds=seconds if count and has_second.any() else None,
        has_second=has_second if has_second.any() else None,
        positions_ms=rows.positions_ms if len(rows.positions_ms) == count else None,
        is_window=rows.is_window if len(rows.is_window) == count else None,
    )
