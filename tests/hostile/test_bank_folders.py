"""Bank folders that nobody here wrote, such as a backup of unknown origin: refused in a sentence, never a crash later.

Their checksums fit, as those of any folder that somebody made on purpose do.
"""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.arrays import MANIFEST, IndexCorrupt, open_arrays, save_arrays
from models.bank_rows import EntryNames
from models.bank_store import add_entries, annotate, load_bank, open_bank, remove_entry
from models.generations import POINTER, REBUILDING
from models.index import HammingIndex
from models.rebuild import rebuild
from models.shelves import _BASE_DTYPES
from models.slot_tables import SlotTables
from models.slots import slots_for

Arrays = dict[str, NDArray[Any]]


def _bank(folder: Path, count: int = 4000) -> Path:
    rows = np.random.default_rng(5).integers(0, 256, (count, 32), dtype=np.uint8)
    add_entries(folder / "LIST", rows, [f"entry-{number}" for number in range(count)])
    return folder / "LIST"


def _forge(bank_dir: Path, change: Callable[[Arrays], object], **facts: Any) -> None:
    """Change a base's arrays, and make its manifest fit."""
    folder = next(bank_dir.glob("gen-*")) / "pdq"
    opened = open_arrays(folder, _BASE_DTYPES)
    arrays = {name: np.array(array) for name, array in opened.arrays.items()}
    known = opened.facts | facts
    change(arrays)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    save_arrays(folder, arrays, known)
    assert (folder / MANIFEST).is_file()


def _names(arrays: Arrays, first: bytes) -> None:
    names = EntryNames(arrays["entry_offsets"], arrays["entry_bytes"])
    rest = names.taken(np.arange(1, len(names)))
    arrays["entry_offsets"] = np.concatenate([[0], rest.offsets + len(first)]).astype("<i8")
    arrays["entry_bytes"] = np.concatenate([np.frombuffer(first, np.uint8), rest.content])


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays["ids"].__setitem__((0, 7), 4000),
        lambda arrays: arrays["starts"].__setitem__(100, 1 << 31),
        lambda arrays: arrays["starts"].__setitem__(-1, 3999),
        lambda arrays: arrays["entry_offsets"].__setitem__(5, -3),
        lambda arrays: _names(arrays, b"\xff\xfe"),
        lambda arrays: _names(arrays, b"\x1b[2J"),
        lambda arrays: _names(arrays, "a\u202eb".encode()),
        lambda arrays: _names(arrays, b"x" * 201),
        lambda arrays: _names(arrays, b""),
        lambda arrays: arrays["opinions"].__setitem__(0, 4),
    ],
)
def test_numbers_that_lead_nowhere_are_refused(tmp_path: Path, change: Callable[[Arrays], object]) -> None:
    """Rows, runs and names that are none are found when a bank is opened, not when a frame meets them."""
    bank_dir = _bank(tmp_path)
    _forge(bank_dir, change)
    with pytest.raises(IndexCorrupt):
        load_bank(bank_dir)


def test_a_name_is_not_cut_within_a_character(tmp_path: Path) -> None:
    """Offsets that fall within a character's bytes are refused, though all bytes together are text."""
    add_entries(tmp_path / "LIST", np.zeros((1, 32), np.uint8) | np.uint8(3), ["äö"])
    assert next(load_bank(tmp_path / "LIST").entries())[0] == "äö"

    def cut(arrays: Arrays) -> None:
        arrays |= {"rows": np.zeros((2, 32), np.uint8), "opinions": np.zeros(2, np.uint8)}
        arrays["entry_offsets"] = np.array([0, 1, 4], "<i8")

    _forge(tmp_path / "LIST", cut)
    with pytest.raises(IndexCorrupt):
        load_bank(tmp_path / "LIST")


def test_hashes_of_another_length_are_refused(tmp_path: Path) -> None:
    """A PDQ list of 64-bit rows is no PDQ list: asked with a frame it would end the process."""
    bank_dir = _bank(tmp_path, 10)
    _forge(bank_dir, lambda arrays: arrays.update(rows=arrays["rows"][:, :8]), bits=64)
    with pytest.raises(IndexCorrupt, match="64 bits"):
        load_bank(bank_dir)


@pytest.mark.parametrize(
    "change",
    [
        {"entries": float("inf")},
        {"entries": -1},
        {"rows": {"pdq": float("nan")}},
        {"rows": {"pdq": "10"}},
        {"opinions": {"\x1b[2J": 1}},
        {"generation": "gen-" + "9" * 5000},
        {"layers": {"pdq": {"base": "gen-00000001", "overlay": None, "pending": 1e400}}},
    ],
)
def test_pointers_say_what_pointers_say(tmp_path: Path, change: dict[str, Any]) -> None:
    """Numbers and names that no pointer has are refused by every command."""
    bank_dir = _bank(tmp_path, 10)
    pointer = bank_dir / POINTER
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | change))
    for act in (load_bank, lambda folder: remove_entry(folder, "entry-1"), rebuild):
        with pytest.raises(IndexCorrupt):
            act(bank_dir)


def test_noting_something_in_a_damaged_bank_is_refused(tmp_path: Path) -> None:
    """Who notes something reads little, and unverified: what leads nowhere there is told as damage."""
    bank_dir = _bank(tmp_path, 30_000)
    remove_entry(bank_dir, "entry-7")
    _forge(bank_dir, lambda arrays: arrays["entry_offsets"].__setitem__(8, 1 << 60))
    with pytest.raises(IndexCorrupt):
        annotate(bank_dir, "entry-9", lambda note: note)


@contextmanager
def _full_disk(most_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_bank_and_leaves_nothing(tmp_path: Path) -> None:
    """A change or a rebuild that finds no room leaves the bank as it was, and takes no room itself."""
    bank_dir = _bank(tmp_path, 30_000)
    add_entries(bank_dir, np.full((1, 32), 7, np.uint8), ["new"])
    names = sorted(path.name for path in bank_dir.iterdir())
    with _full_disk(4000):
        with pytest.raises(OSError, match=r"requested|too large"):
            add_entries(bank_dir, np.random.default_rng(6).integers(0, 256, (500, 32), dtype=np.uint8), ["more"] * 500)
        with pytest.raises(OSError, match=r"requested|too large"):
            rebuild(bank_dir, is_forced=True)
    assert sorted(path.name for path in bank_dir.iterdir()) == sorted({*names, "rebuild.lock"})
    assert not (bank_dir / REBUILDING).exists()
    assert len(open_bank(bank_dir)) == 30_001
    assert remove_entry(bank_dir, "new") == 1


def test_a_flood_that_was_withdrawn_hides_nothing(tmp_path: Path) -> None:
    """Rows that are gone but not yet folded take no place among the nearest, however many they are."""
    generator = np.random.default_rng(9)
    rows = generator.integers(0, 256, (40_000, 32), dtype=np.uint8)
    rows[:20_000] = rows[0]
    rows[39_999] = rows[0]
    rows[39_999, :2] ^= 0xFF  # 16 bits away
    index = HammingIndex(rows, 31, SlotTables.build(rows, slots_for(len(rows), 256, 31)))
    found = index.search_soft(
        rows[:1], np.ones((1, 256), np.float32), 31, exact=np.ones(1, np.bool_), without=np.arange(20_000)
    )
    assert found.row.tolist() == [39_999]
    assert found.distance.tolist() == [16]


def test_names_of_a_long_list_are_taken_in_little_room() -> None:
    """Taking names costs about their own size, not many times that: a rebuild takes those of millions."""
    import tracemalloc  # noqa: PLC0415 - it slows everything while it runs

    count = 300_000
    names = EntryNames(np.arange(count + 1, dtype=np.int64) * 30, np.full(count * 30, ord("x"), np.uint8))
    tracemalloc.start()
    try:
        taken = names.taken(np.arange(1, count))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken.content.tobytes() == names.content[30:].tobytes()
    assert peak < 90_000_000
