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
from models.banks import Bank, BankLimits, ViewHash
from models.evidence import Opinion
from models.hashing.algorithm import Fingerprint


def _rows(count: int, seed: int = 0, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)


def _flipped(row: NDArray[np.uint8], count: int) -> bytes:
    mask = np.zeros(len(row) * 8, dtype=np.uint8)
    mask[:count] = 1
    return (row ^ np.packbits(mask)).tobytes()


def _view(
    value: bytes, name: str = "identity", *, quality: int = 100, stable: bool = True, by: str = "pdq"
) -> ViewHash:
    return ViewHash(name, by, Fingerprint(value, quality, stable))


def _matches(bank: Bank, value: bytes) -> list[tuple[str, int]]:
    return [(match.entry, match.distance) for match in bank.match([_view(value)]).matches]


def test_an_added_entry_matches_up_to_the_limit(tmp_path: Path) -> None:
    """A match carries everything that a decision needs, up to and including the limit."""
    rows = _rows(3)
    generation = add_entries(tmp_path / "CARDS", rows, ["one", "two", "three"], Opinion.SEED)
    bank = load_bank(tmp_path / "CARDS")

    (match,) = bank.match([_view(_flipped(rows[1], 31), "mirror", quality=77)]).matches
    assert (match.bank, match.entry, match.algorithm, match.bits) == ("CARDS", "two", "pdq", 256)
    assert (match.distance, match.max_distance, match.view, match.quality) == (31, 31, "mirror", 77)
    assert (match.opinion, match.generation) == (Opinion.SEED, generation)
    assert _matches(bank, _flipped(rows[1], 32)) == []


def test_the_nearest_view_of_each_entry_is_named_once(tmp_path: Path) -> None:
    """One match per entry with its best view, the closest entry first, and a count of those left out."""
    row = _rows(1)[0]
    near = np.stack([np.frombuffer(_flipped(row, count), np.uint8) for count in range(20)])
    add_entries(tmp_path / "CARDS", near, [f"entry-{number:02}" for number in range(20)])
    views = [_view(_flipped(row, 5), "mirror"), _view(row.tobytes())]
    found = load_bank(tmp_path / "CARDS").match(views, most=4)

    assert [match.distance for match in found.matches] == [0, 0, 1, 1]
    assert {(match.entry, match.view) for match in found.matches[:2]} == {
        ("entry-00", "identity"),
        ("entry-05", "mirror"),
    }
    assert found.left_out == 16


def test_a_list_of_one_hash_repeated_answers_with_few_names(tmp_path: Path) -> None:
    """A hostile list cannot make one frame name thousands of matches; the rest are counted."""
    add_entries(tmp_path / "FLOOD", np.repeat(_rows(1), 5000, axis=0), [f"e{number}" for number in range(5000)])
    found = load_bank(tmp_path / "FLOOD").match([_view(_rows(1)[0].tobytes())])

    assert len(found.matches) == 16
    assert found.left_out == 5000 - 16


def test_noise_is_not_looked_up(tmp_path: Path) -> None:
    """A view that fails both gates matches nothing; one that fails a single gate does, and says so."""
    row = _rows(1)
    add_entries(tmp_path / "CARDS", row, ["one"])
    bank, value = load_bank(tmp_path / "CARDS"), row[0].tobytes()

    assert bank.match([_view(value, quality=49, stable=False)]).matches == ()
    assert bank.match([_view(value, quality=49)]).matches[0].quality == 49
    assert len(bank.match([_view(value, stable=False)]).matches) == 1
    assert len(bank.match([_view(value, quality=49, stable=False)], BankLimits(min_quality=10)).matches) == 1


def test_limits_override_the_algorithms_own(tmp_path: Path) -> None:
    """A bank may be stricter or wider than its algorithm."""
    row = _rows(1)
    add_entries(tmp_path / "CARDS", row, ["one"])
    bank, view = load_bank(tmp_path / "CARDS"), _view(_flipped(row[0], 20))

    assert bank.match([view], BankLimits({"pdq": 19})).matches == ()
    assert bank.match([view], BankLimits({"pdq": 40})).matches[0].max_distance == 40


def test_one_bank_holds_several_algorithms(tmp_path: Path) -> None:
    """Hashes of another algorithm live beside PDQ and are matched by their own kind alone."""
    long, short = _rows(1), _rows(1, width=8)
    add_entries(tmp_path / "CARDS", long, ["card"])
    add_entries(tmp_path / "CARDS", short, ["card"], algorithm="phash")
    bank = load_bank(tmp_path / "CARDS")

    assert set(bank.algorithms) == {"pdq", "phash"}
    (match,) = bank.match([_view(short[0].tobytes(), by="phash"), _view(short[0].tobytes(), by="dhash")]).matches
    assert (match.algorithm, match.bits, match.distance) == ("phash", 64, 0)
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
    with writer:
        ends, seen = time.monotonic() + 1.5, 1
        while time.monotonic() < ends:
            now = len(load_bank(bank_dir))
            assert now >= seen
            seen = now
        writer.kill()
    assert seen > 1
