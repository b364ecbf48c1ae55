"""How soon a hash added to a long bank acts, and what that takes; what a rebuild in the background costs."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.bank_rows import BankRows, EntryNames
from models.bank_store import add_entries, load_bank, remove_entry
from models.evidence import Opinion
from models.generations import Counts, NextGeneration, locked
from models.rebuild import rebuild
from models.shelves import Base

Rows = NDArray[np.uint8]
_Answer = TypeVar("_Answer")


def bank_results(rows: Rows) -> dict[str, Any]:
    """Measure a bank of these rows, each an entry of its own: one hash added, seen, withdrawn, and a rebuild."""
    with tempfile.TemporaryDirectory() as scratch:
        bank_dir = Path(scratch) / "LIST"
        write_list(bank_dir, rows)
        first_open_s, held = _seconds(lambda: load_bank(bank_dir))
        new = rows[:1] ^ np.uint8(0x5A)
        add_s, _ = _seconds(lambda: add_entries(bank_dir, new, ["new"]))
        reload_s, after = _seconds(lambda: load_bank(bank_dir))
        found = after.shelves["pdq"].search_all([new.tobytes()], 31)[0]
        is_found = [after.shelves["pdq"].entry(number) for number in found[0].tolist()] == ["new"]
        remove_s, removed = _seconds(lambda: remove_entry(bank_dir, "new"))
        began = os.times()
        rebuild_s, _ = _seconds(lambda: rebuild(bank_dir, is_forced=True))
        ended = os.times()
        assert len(held) == len(rows)
        return {
            "method": "stopframe bank",
            "rows": len(rows),
            "first_open_s": first_open_s,
            "add_one_s": add_s,
            "reload_s": reload_s,
            "is_in_force": is_found and removed == 1,
            "remove_one_s": remove_s,
            "rebuild_s": rebuild_s,
            "rebuild_cpu_s": ended.user + ended.system - began.user - began.system,
        }


def write_list(bank_dir: Path, rows: Rows) -> None:
    """A bank without a Python string for each of its rows."""
    numbers = np.arange(len(rows))
    digits = numbers[:, None] // 10 ** np.arange(7, -1, -1) % 10 + ord("0")
    names = EntryNames(np.arange(len(rows) + 1, dtype=np.int64) * 8, digits.astype(np.uint8).reshape(-1))
    positive = np.full(len(rows), 2, dtype=np.uint8)
    with locked(bank_dir) as pointer:
        generation = NextGeneration.after(bank_dir, pointer)
        generation.put_base("pdq", Base.build(BankRows(rows, names, positive), 31))
        generation.bring_into_force(Counts({"pdq": len(rows)}, {Opinion.POSITIVE.value: len(rows)}, len(rows)))


def _seconds(act: Callable[[], _Answer]) -> tuple[float, _Answer]:
    began = time.perf_counter()
    answer = act()
    return time.perf_counter() - began, answer
