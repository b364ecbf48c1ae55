"""Banks: what is added matches, what is removed does not, and no death of a writer breaks them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.arrays import IndexCorrupt
from models.bank_rows import EntryNames
from models.bank_store import (
    BankMissing,
    BankNameError,
    add_entries,
    bank_names,
    bank_stats,
    check_bank_name,
    list_entries,
    load_bank,
    remove_entry,
)
from models.banks import Bank
from models.evidence import Opinion
from models.hashing.view_batch import ViewBatch


def _rows(count: int, seed: int = 0, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)


def _matches(bank: Bank, value: bytes) -> list[tuple[str, int]]:
    deviations = np.where(np.unpackbits(np.frombuffer(value, np.uint8)), 20, -20).astype(np.float32)[None]
    one, yes = np.ones(1, np.int8), np.ones(1, np.bool_)
    batch = ViewBatch(
        ("identity",), np.frombuffer(value, np.uint8)[None], deviations, np.full(1, 100, np.int16), yes, yes, one
    )
    return [(match.entry, match.distance) for match in bank.match(batch).matches]


def test_one_bank_holds_several_algorithms(tmp_path: Path) -> None:
    """Hashes of another algorithm live beside PDQ."""
    long, short = _rows(1), _rows(1, width=8)
    add_entries(tmp_path / "CARDS", long, ["card"])
    add_entries(tmp_path / "CARDS", short, ["card"], algorithm="phash")
    bank = load_bank(tmp_path / "CARDS")

    assert set(bank.algorithms) == {"pdq", "phash"}
    assert list_entries(tmp_path / "CARDS")[0].rows == {"pdq": 1, "phash": 1}


def test_adding_again_takes_the_new_opinion(tmp_path: Path) -> None:
    """The same hash of the same entry is one row; what is thought of it last counts."""
    rows = _rows(2)
    add_entries(tmp_path / "CARDS", rows, ["one", "two"])
    add_entries(tmp_path / "CARDS", rows[[0, 0]], ["one", "other"], [Opinion.DISPUTED, Opinion.SEED])
    stats = bank_stats(tmp_path / "CARDS")

    assert (stats.rows, stats.entries) == ({"pdq": 3}, 3)
    assert stats.opinions == {"disputed": 1, "positive": 1, "seed": 1}


def test_a_removed_entry_no_longer_matches(tmp_path: Path) -> None:
    """Removing takes all hashes of an entry and nothing else; an unknown entry changes nothing."""
    rows = _rows(4)
    add_entries(tmp_path / "CARDS", rows, ["film", "other", "film", "film2"])
    before = load_bank(tmp_path / "CARDS")
    assert remove_entry(tmp_path / "CARDS", "film") == 2
    assert remove_entry(tmp_path / "CARDS", "film") == 0
    after = load_bank(tmp_path / "CARDS")

    assert [_matches(after, row.tobytes()) for row in rows] == [[], [("other", 0)], [], [("film2", 0)]]
    assert len(_matches(before, rows[0].tobytes())) == 1  # an open generation is not pulled from under its reader
    assert remove_entry(tmp_path / "CARDS", "other") + remove_entry(tmp_path / "CARDS", "film2") == 2
    assert len(load_bank(tmp_path / "CARDS")) == 0


def test_old_generations_go(tmp_path: Path) -> None:
    """The generation in force and the one before it stay on disk; no scraps do."""
    for number in range(5):
        add_entries(tmp_path / "CARDS", _rows(1, number), [f"card-{number}"])
    names = sorted(path.name for path in (tmp_path / "CARDS").iterdir())

    assert names == ["bank.json", "gen-00000004", "gen-00000005", "lock"]
    assert bank_stats(tmp_path / "CARDS").rows == {"pdq": 5}


@pytest.mark.parametrize("name", ["", "cards", "1CARDS", "CARDS-2", "CARDS/..", "..", "CÄRDS", "A" * 65, "CARDS\n"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name that could be a path or a surprise is refused with the remedy, and nothing is written."""
    with pytest.raises(BankNameError, match="use up to 64 capitals"):
        check_bank_name(name)
    assert bank_names(tmp_path) == []


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Rows, names and algorithms that do not fit leave no bank behind."""
    for rows, names, algorithm in (
        (_rows(2), ["one"], "pdq"),
        (_rows(1, width=8), ["one"], "pdq"),
        (_rows(1), ["one"], "md5"),
        (_rows(1), [""], "pdq"),
        (_rows(1), ["a\nb"], "pdq"),
        (_rows(1), ["x" * 201], "pdq"),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            add_entries(tmp_path / "CARDS", rows, names, algorithm=algorithm)
    assert bank_names(tmp_path) == []
    for call in (load_bank, bank_stats, list_entries):
        with pytest.raises(BankMissing, match="there is no bank CARDS"):
            call(tmp_path / "CARDS")
    with pytest.raises(BankMissing):
        remove_entry(tmp_path / "CARDS", "one")


@pytest.mark.parametrize(
    "pointer",
    [
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "generation": "../../etc", "rows": {}, "opinions": {}, "entries": 0}',
        '{"format": 1, "generation": "gen-00000001", "rows": {"../x": 1}, "opinions": {}, "entries": 0}',
    ],
)
def test_a_damaged_pointer_is_said(tmp_path: Path, pointer: str) -> None:
    """A pointer that is not ours is refused by name and leads nowhere else on the disk."""
    add_entries(tmp_path / "CARDS", _rows(1), ["one"])
    (tmp_path / "CARDS" / "bank.json").write_text(pointer)

    with pytest.raises(IndexCorrupt, match="restore the folder from a backup"):
        load_bank(tmp_path / "CARDS")


def test_a_changed_file_is_said(tmp_path: Path) -> None:
    """Entries or opinions that someone changed are refused, not believed."""
    generation = add_entries(tmp_path / "CARDS", _rows(1), ["one"])
    path = tmp_path / "CARDS" / generation / "pdq" / "opinions.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")

    with pytest.raises(IndexCorrupt, match=r"opinions\.npy is not the file that was written"):
        load_bank(tmp_path / "CARDS")


@given(st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20), max_size=30), st.data())
@settings(max_examples=100, deadline=None)
def test_names_survive_packing(names: list[str], data: st.DataObject) -> None:
    """Packed names read as they were, are found by name, and are taken and joined row for row."""
    packed = EntryNames.of(names)
    numbers = data.draw(st.lists(st.sampled_from(range(len(names))))) if names else []

    assert list(packed) == names == [packed[number] for number in range(len(names))]
    assert list(packed.taken(np.array(numbers, dtype=np.int64))) == [names[number] for number in numbers]
    assert list(packed.joined(packed)) == names * 2
    for name in [*names, "absent", ""]:
        assert packed.find(name).tolist() == [number for number, known in enumerate(names) if known == name]


_WRITER = """
import sys
import numpy as np
from pathlib import Path
from models.bank_store import add_entries
bank, first = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for number in range(first, first + 1000):
    row = np.frombuffer(number.to_bytes(32, "big"), np.uint8).reshape(1, 32)
    add_entries(bank, row, [f"entry-{number}"])
    print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_breaks_nothing(tmp_path: Path) -> None:
    """After SIGKILL at any moment the bank holds every entry that was reported, at most one more, and takes others."""
    chance = random.Random(20)
    bank_dir = tmp_path / "CARDS"
    first = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(bank_dir), str(first)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.02, 0.25))
            writer.send_signal(signal.SIGKILL)
            reported = writer.stdout.read().split()
        last = int(reported[-1]) if reported else first - 1
        if bank_names(tmp_path):
            bank = load_bank(bank_dir)
            assert len(bank) in {last + 1, last + 2}
            assert {entry for entry, _, _ in bank.entries()} == {f"entry-{number}" for number in range(len(bank))}
            assert json.loads((bank_dir / "bank.json").read_text())["rows"] == {"pdq": len(bank)}
            first = len(bank)
    add_entries(bank_dir, _rows(1), ["last"])
    assert len(load_bank(bank_dir)) == first + 1
    assert not list(bank_dir.glob("unfinished-*"))


def test_readers_never_see_half_a_change(tmp_path: Path) -> None:
    """While a writer works, every load gives a whole generation, never fewer entries than before."""
    bank_dir = tmp_path / "CARDS"
    add_entries(bank_dir, _rows(1), ["first"])
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(bank_dir), "1"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    loads, changes, seen = 0, 0, 1
    with writer:
        until = time.monotonic() + 30
        while (loads < 100 or changes < 5) and writer.poll() is None and time.monotonic() < until:
            now = len(load_bank(bank_dir))
            assert now >= seen
            loads, changes, seen = loads + 1, changes + (now > seen), now
        writer.kill()
    assert changes >= 5
