"""Banks in layers: whatever comes, goes and is folded, look-ups answer as brute force over what is there does."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import bank_changes, index
from models.annotations import EntryNote
from models.arrays import IndexCorrupt, save_arrays
from models.bank_rows import BankRows, EntryNames, name_keys
from models.bank_store import (
    BankMissing,
    EntryMissing,
    add_entries,
    annotate,
    bank_stats,
    list_entries,
    load_bank,
    notes,
    remove_entry,
)
from models.evidence import Opinion
from models.index import HammingIndex
from models.rebuild import is_due, rebuild
from models.shelves import Base, Shelf

Rows = NDArray[np.uint8]


def _rows(count: int, seed: int = 0, width: int = 32) -> Rows:
    return np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)


@contextlib.contextmanager
def _small_layers(folded: int = 4, linear: int = 30) -> Iterator[None]:
    """Layers and tables for lists of a few dozen rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_changes, "FOLDED_AT_ONCE", folded)
        patch.setattr(bank_changes, "_REBUILD_ROWS", 2)
        patch.setattr(index, "LINEAR_ROWS", linear)
        yield


@dataclass
class _Known:
    """What a bank should hold: each (hash, entry) with its opinion."""

    pairs: dict[tuple[bytes, str], Opinion] = field(default_factory=dict)

    def near(self, query: bytes, radius: int) -> list[tuple[int, str, Opinion]]:
        wanted = int.from_bytes(query)
        far = {pair: (int.from_bytes(pair[0]) ^ wanted).bit_count() for pair in self.pairs}
        return sorted((far[pair], pair[1], opinion) for pair, opinion in self.pairs.items() if far[pair] <= radius)


def _shelf(bank_dir: Path) -> Shelf:
    return load_bank(bank_dir).shelves["pdq"]


def _found(shelf: Shelf, query: bytes, radius: int) -> list[tuple[int, str, Opinion]]:
    numbers, distances = shelf.search_all([query], radius)[0]
    value = np.frombuffer(query, np.uint8)[None]
    hits = shelf.search_soft(value, np.ones((1, 256), np.float32), radius, exact=np.ones(1, bool))
    assert hits.row.tolist() == numbers.tolist()
    assert hits.distance.tolist() == distances.tolist()
    rows = shelf.rows_at(numbers)
    assert [shelf.entry(number) for number in numbers.tolist()] == list(rows.names)
    return sorted(
        (distance, shelf.entry(number), shelf.opinion(number))
        for number, distance in zip(numbers.tolist(), distances.tolist(), strict=True)
    )


def _near(row: Rows, distance: int, generator: np.random.Generator) -> bytes:
    mask = np.zeros(256, dtype=np.uint8)
    mask[generator.choice(256, distance, replace=False)] = 1
    return (row ^ np.packbits(mask)).tobytes()


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "add", "add_again", "remove", "rebuild"]), st.integers(1, 25)),
        min_size=1,
        max_size=12,
    ),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_layers_answer_as_brute_force(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], seed: int
) -> None:
    """After any changes every distance 0..33 is answered as brute force does, and the counts are right."""
    bank_dir = tmp_path_factory.mktemp("banks") / "CARDS"
    generator, known = np.random.default_rng(seed), _Known()
    pool = _rows(30, seed)
    with _small_layers():
        for step, count in steps:
            names = [f"entry-{number}" for number in generator.integers(0, 8, count)]
            picked = pool[generator.integers(0, len(pool), count)]
            if step in {"add", "add_again"}:
                opinion = Opinion.POSITIVE if step == "add" else Opinion.DISPUTED
                rows = picked if step == "add_again" else picked ^ generator.integers(0, 2, (count, 32), dtype=np.uint8)
                add_entries(bank_dir, rows, names, opinion)
                known.pairs |= {(row.tobytes(), name): opinion for row, name in zip(rows, names, strict=True)}
            elif bank_dir.exists() and step == "remove":
                gone = {pair for pair in known.pairs if pair[1] == names[0]}
                assert remove_entry(bank_dir, names[0]) == len(gone)
                known.pairs = {pair: opinion for pair, opinion in known.pairs.items() if pair not in gone}
            elif bank_dir.exists():
                rebuild(bank_dir, is_forced=True)
        if not bank_dir.exists():
            return
        shelf = _shelf(bank_dir)
        for distance in range(34):
            query = _near(pool[distance % len(pool)], distance, generator)
            assert _found(shelf, query, distance) == known.near(query, distance)
            if distance % 4 == 0 or distance > 30:
                assert _found(shelf, query, 31) == known.near(query, 31)
    stats = bank_stats(bank_dir)
    assert stats.rows == {"pdq": len(known.pairs)}
    assert stats.entries == len({name for _, name in known.pairs}) == len(list_entries(bank_dir))
    assert sum(stats.opinions.values()) == len(known.pairs)


def test_a_row_more_leaves_the_base_as_it_is(tmp_path: Path) -> None:
    """In a bank with layers one row more or less writes no base; what stays is not opened a second time."""
    bank_dir = tmp_path / "CARDS"
    rows = _rows(60)
    with _small_layers():
        add_entries(bank_dir, rows, [f"entry-{number}" for number in range(60)])
        before = _shelf(bank_dir)
        add_entries(bank_dir, _rows(1, seed=1), ["new"])
        remove_entry(bank_dir, "entry-7")
        after = _shelf(bank_dir)

    assert sorted(path.name for path in bank_dir.glob("gen-*")) == ["gen-00000001"]
    assert after.base is before.base
    assert (len(before), len(after)) == (60, 60)
    assert after.search_all([rows[7].tobytes()], 0)[0][0].tolist() == []


def test_a_bank_of_short_hashes_has_layers_too(tmp_path: Path) -> None:
    """64-bit hashes come, go and are folded beside PDQ's, each distance 0..12 answered as brute force does."""
    bank_dir, rows = tmp_path / "CARDS", _rows(90, width=8)
    generator = np.random.default_rng(3)
    with _small_layers():
        add_entries(bank_dir, _rows(50), ["pdq"] * 50)
        for start in (0, 50, 70):
            names = [f"entry-{number}" for number in range(start, start + 50)][: 90 - start]
            add_entries(bank_dir, rows[start : start + 50], names, algorithm="phash")
        for fold in (False, True):
            if fold:
                remove_entry(bank_dir, "entry-60")
                rebuild(bank_dir, is_forced=True)
            shelf = load_bank(bank_dir).shelves["phash"]
            for distance in range(13):
                mask = np.zeros(64, dtype=np.uint8)
                mask[generator.choice(64, distance, replace=False)] = 1
                query = rows[60 if distance % 2 else distance] ^ np.packbits(mask)
                far = np.bitwise_count(rows ^ query).sum(axis=1)
                expected = {f"entry-{number}" for number in np.flatnonzero(far <= distance)} - (
                    {"entry-60"} if fold else set()
                )
                numbers = shelf.search_all([query.tobytes()], distance)[0][0].tolist()
                assert {shelf.entry(number) for number in numbers} == expected
    assert bank_stats(bank_dir).rows == {"pdq": 50, "phash": 89}


def test_the_same_list_again_changes_nothing(tmp_path: Path) -> None:
    """Importing what is there already writes no generation; a second hash that a row lacked is taken up."""
    bank_dir = tmp_path / "CARDS"
    rows, names = _rows(40), [f"entry-{number}" for number in range(40)]
    with _small_layers():
        first = add_entries(bank_dir, rows, names)
        assert add_entries(bank_dir, rows, names) == first
        seconds = _rows(40, seed=2, width=64)
        assert add_entries(bank_dir, rows[3:5], names[3:5], seconds=seconds[3:5]) != first
        shelf = _shelf(bank_dir)
        (number,) = shelf.search_all([rows[4].tobytes()], 0)[0][0].tolist()

    assert len(shelf) == 40
    assert shelf.rows_at(np.array([number])).second(0) == seconds[4].tobytes()


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 20), more=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_columns_stay_with_their_rows(seed: int, count: int, more: int) -> None:
    """Taking and joining keeps each row's second hash, position and window, or its having none."""
    generator = np.random.default_rng(seed)

    def some(rows: int, *, bare: bool) -> BankRows:
        hashes, names = generator.integers(0, 256, (rows, 32), dtype=np.uint8), [f"row-{i}" for i in range(rows)]
        if bare:
            return BankRows.of(hashes, names, Opinion.POSITIVE)
        return BankRows.of(
            hashes,
            names,
            Opinion.POSITIVE,
            seconds=generator.integers(0, 256, (rows, 64), dtype=np.uint8),
            has_second=generator.integers(0, 2, rows).astype(bool),
            positions_ms=generator.integers(-1, 5, rows).astype(np.int32),
            is_window=generator.integers(0, 2, rows).astype(bool),
        )

    def facts(rows: BankRows) -> list[tuple[object, ...]]:
        return [
            (rows.hashes[i].tobytes(), rows.names[i], rows.second(i), rows.position_ms(i), rows.shows_window(i))
            for i in range(len(rows))
        ]

    first, second = some(count, bare=bool(seed % 2)), some(more, bare=bool(seed % 3))
    both = first.joined(second)
    assert facts(both) == facts(first) + facts(second)
    assert both.is_sound()
    order = generator.permutation(len(both))
    assert facts(both.taken(order)) == [facts(both)[i] for i in order]
    dense, has_second = both.dense_seconds()
    assert [bytes(row) if has else None for row, has in zip(dense, has_second, strict=True)] == [
        both.second(i) for i in range(len(both))
    ]
    assert [None if place < 0 else place for place in both.dense_positions().tolist()] == [
        both.position_ms(i) for i in range(len(both))
    ]


def test_names_have_keys_of_their_own() -> None:
    """Equal names have equal keys, others (anagrams, prefixes, many at once) have others."""
    names = [f"card-{number}" for number in range(70_000)] + ["ab", "ba", "a", "aa", "aaa", "é", "ab"]
    keys = name_keys(EntryNames.of(names))

    assert len(np.unique(keys)) == len(set(names))
    assert keys[-1] == keys[70_000] == name_keys(EntryNames.of(["ab"]))[0]


def test_what_changes_during_a_rebuild_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows added, removed and judged anew while the new base is written are in force after the swap."""
    bank_dir, rows = tmp_path / "CARDS", _rows(90)
    names = [f"entry-{number}" for number in range(90)]
    build = Base.build

    def held_up(*args: object) -> object:
        base = build(*args)  # type: ignore[arg-type]
        remove_entry(bank_dir, "entry-3")  # of the base
        remove_entry(bank_dir, "entry-62")  # of the overlay that is being folded
        add_entries(bank_dir, rows[[5, 63, 80]], [names[5], names[63], names[80]], Opinion.DISPUTED)
        assert not rebuild(bank_dir, is_forced=True)  # one at a time
        return base

    with _small_layers():
        add_entries(bank_dir, rows[:60], names[:60])
        remove_entry(bank_dir, "entry-1")
        add_entries(bank_dir, rows[60:70], names[60:70])
        assert is_due(bank_dir)
        monkeypatch.setattr(Base, "build", held_up)
        assert rebuild(bank_dir)
        monkeypatch.undo()
        shelf = _shelf(bank_dir)

        assert shelf.overlay is not None
        assert len(shelf.base) == 69
        expected = [name for name in names[:70] if name not in {"entry-1", "entry-3", "entry-62"}] + ["entry-80"]
        assert sorted(shelf.live().names) == sorted(expected)
        for number in (1, 3, 5, 40, 62, 63, 65, 80):
            found = [(name, opinion) for _, name, opinion in _found(_shelf(bank_dir), rows[number].tobytes(), 31)]
            opinion = Opinion.DISPUTED if number in {5, 63, 80} else Opinion.POSITIVE
            assert found == ([(names[number], opinion)] if names[number] in expected else [])
    assert bank_stats(bank_dir).opinions == {"positive": 65, "disputed": 3}
    assert not (bank_dir / "rebuilding").exists()


def test_a_row_that_takes_the_place_of_one_being_folded_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overlay that becomes empty during a rebuild and is filled again loses nothing."""
    bank_dir, rows = tmp_path / "CARDS", _rows(62)
    build = Base.build

    def held_up(*args: object) -> object:
        remove_entry(bank_dir, "first")
        add_entries(bank_dir, rows[61:], ["second"])
        return build(*args)  # type: ignore[arg-type]

    with _small_layers():
        add_entries(bank_dir, rows[:60], [f"entry-{number}" for number in range(60)])
        add_entries(bank_dir, rows[60:61], ["first"])
        monkeypatch.setattr(Base, "build", held_up)
        assert rebuild(bank_dir, is_forced=True)
        monkeypatch.undo()

        assert _found(_shelf(bank_dir), rows[60].tobytes(), 0) == []
        assert [name for _, name, _ in _found(_shelf(bank_dir), rows[61].tobytes(), 0)] == ["second"]


def test_a_bank_of_an_earlier_release_is_read_and_changed(tmp_path: Path) -> None:
    """Files as releases before the layers wrote them open, match, and take an overlay."""
    bank_dir, rows = tmp_path / "CARDS", _rows(50)
    names = EntryNames.of([f"entry-{number}" for number in range(50)])
    with _small_layers():
        built = HammingIndex.build(rows, 31)
        columns: dict[str, NDArray[Any]] = {
            "entry_offsets": names.offsets,
            "entry_bytes": names.content,
            "opinions": np.full(50, 2, np.uint8),
        }
        save_arrays(bank_dir / "gen-00000007" / "pdq", {**built.arrays(), **columns}, built.facts())
        facts = {"rows": {"pdq": 50}, "opinions": {"positive": 50}, "entries": 50}
        (bank_dir / "bank.json").write_text(json.dumps({"format": 1, "generation": "gen-00000007", **facts}))
        assert [name for _, name, _ in _found(_shelf(bank_dir), rows[9].tobytes(), 31)] == ["entry-9"]
        assert add_entries(bank_dir, _rows(1, seed=5), ["entry-9"]) == "gen-00000008"
        assert remove_entry(bank_dir, "entry-8") == 1
        assert (bank_stats(bank_dir).entries, len(load_bank(bank_dir))) == (49, 50)
        assert rebuild(bank_dir, is_forced=True)
    assert (bank_stats(bank_dir).entries, len(load_bank(bank_dir))) == (49, 50)
    assert sorted(path.name for path in bank_dir.glob("gen-*")) == ["gen-00000007", "gen-00000010"]


def test_a_damaged_overlay_is_said(tmp_path: Path) -> None:
    """An overlay that someone changed is refused, not believed."""
    bank_dir = tmp_path / "CARDS"
    with _small_layers():
        add_entries(bank_dir, _rows(40), [f"entry-{number}" for number in range(40)])
        add_entries(bank_dir, _rows(1, seed=1), ["new"])
    (path,) = bank_dir.glob("over-*/pdq/opinions.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")

    with pytest.raises(IndexCorrupt, match=r"opinions\.npy is not the file that was written"):
        load_bank(bank_dir)


@pytest.mark.parametrize("name", ["ids", "rows", "entry_offsets"])
def test_a_damaged_base_is_never_written_anew(tmp_path: Path, name: str) -> None:
    """Whoever changes a bank with a damaged base is told, or leaves the base as it is; its checksum stays wrong."""
    bank_dir, rows = tmp_path / "CARDS", _rows(120)
    names = [f"entry-{number}" for number in range(120)]
    with _small_layers():
        add_entries(bank_dir, rows[:40], names[:40])
        path = bank_dir / "gen-00000001" / "pdq" / f"{name}.npy"
        content = bytearray(path.read_bytes())
        content[128:] = bytes(byte ^ 0x5A for byte in content[128:])
        path.write_bytes(content)
        for added in (slice(40, 41), slice(0, 3), slice(0, 120)):
            with contextlib.suppress(IndexCorrupt):
                add_entries(bank_dir, rows[added], names[added])
        with contextlib.suppress(IndexCorrupt):
            remove_entry(bank_dir, "entry-3")
        with pytest.raises(IndexCorrupt, match="is not the file that was written"):
            rebuild(bank_dir, is_forced=True)
    with pytest.raises(IndexCorrupt, match=f"{name}.npy is not the file that was written"):
        load_bank(bank_dir)


def test_notes_act_as_a_generation_and_go_with_their_entry(tmp_path: Path) -> None:
    """A note is in force with the next load; one that says nothing, and that of a removed entry, is gone."""
    bank_dir = tmp_path / "CARDS"
    with pytest.raises(BankMissing):
        annotate(bank_dir, "one", lambda note: note)
    first = add_entries(bank_dir, _rows(2), ["one", "two"])
    with pytest.raises(EntryMissing, match="has no entry 'three'"):
        annotate(bank_dir, "three", lambda note: note)
    assert annotate(bank_dir, "one", lambda note: note) == first

    assert annotate(bank_dir, "one", lambda note: replace(note, disabled_until_seconds=float("inf"))) != first
    annotate(bank_dir, "one", lambda note: replace(note, note="asked on\nMonday", confirmations=note.confirmations + 1))
    annotate(bank_dir, "two", lambda note: replace(note, quarantined=True))
    expected = {
        "one": EntryNote(float("inf"), "asked on\nMonday", confirmations=1),
        "two": EntryNote(quarantined=True),
    }
    assert notes(bank_dir) == load_bank(bank_dir).notes == expected
    assert expected["one"].is_disabled(2e9)
    assert not expected["two"].is_disabled(0)
    add_entries(bank_dir, _rows(1, seed=4), ["four"])
    assert notes(bank_dir) == expected
    remove_entry(bank_dir, "one")
    annotate(bank_dir, "two", lambda _: EntryNote())
    assert notes(bank_dir) == {}
    with pytest.raises(ValueError, match="255 printable"):
        annotate(bank_dir, "two", lambda _: EntryNote(note="x" * 256))
    with pytest.raises(ValueError, match="counts"):
        annotate(bank_dir, "two", lambda _: EntryNote(objections=-1))


_WORKER = """
import itertools, sys
import numpy as np
from pathlib import Path
from models import bank_changes, index
from models.bank_store import add_entries, remove_entry
from models.rebuild import rebuild
bank_changes.FOLDED_AT_ONCE, index.LINEAR_ROWS = 8, 30
task, bank, first = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for number in itertools.count(first):
    if task == "rebuild":
        rebuild(bank, is_forced=True)
        continue
    row = np.frombuffer(number.to_bytes(32, "big"), np.uint8).reshape(1, 32)
    print("+", number, flush=True)
    add_entries(bank, row, [f"entry-{number}"])
    print("done", flush=True)
    if number % 3 == 2:
        print("-", number - 2, flush=True)
        remove_entry(bank, f"entry-{number - 2}")
        print("done", flush=True)
"""


@contextlib.contextmanager
def _working(task: str, bank_dir: Path, first: int) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, task, str(bank_dir), str(first)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _told(lines: list[str], held: set[str]) -> tuple[set[str], set[str]]:
    """What is held after the changes that a writer told as done, and after the one that it had begun as well."""
    before = after = held
    for line in lines:
        if line == "done":
            before = after
        elif line.startswith("+"):
            after = before | {f"entry-{line.split()[1]}"}
        elif line.startswith("-"):
            after = before - {f"entry-{line.split()[1]}"}
    return before, after


def test_kills_during_adding_and_rebuilding_lose_nothing(tmp_path: Path) -> None:
    """After SIGKILL at any moment of an add, a removal or a rebuild beside them, everything reported is in force."""
    chance, bank_dir, held, changes = random.Random(6), tmp_path / "CARDS", {"old"}, 0
    add_entries(bank_dir, _rows(40), ["old"] * 40)
    for turn in range(4):
        with _working("add", bank_dir, 1000 * turn) as writer, _working("rebuild", bank_dir, 0) as folder:
            assert writer.stdout is not None
            lines = list(islice(writer.stdout, chance.randrange(5, 14)))
            time.sleep(chance.uniform(0, 0.05))
            for victim in chance.sample([writer, folder], 2):
                victim.send_signal(signal.SIGKILL)
                time.sleep(chance.uniform(0, 0.05))
            lines = [line.rstrip("\n") for line in (*lines, *writer.stdout)]
        changes += lines.count("done")
        before, after = _told(lines, held)
        held = {entry for entry, _, _ in load_bank(bank_dir).entries()}
        assert held in (before, after)
        assert bank_stats(bank_dir).entries == len(held)
    add_entries(bank_dir, _rows(1, seed=8), ["last"])
    rebuild(bank_dir, is_forced=True)
    bank = load_bank(bank_dir)
    assert bank.shelves["pdq"].overlay is None
    assert {entry for entry, _, _ in bank.entries()} == held | {"last"}
    assert changes > 6
    assert not list(bank_dir.glob("unfinished-*"))
    assert not (bank_dir / "rebuilding").exists()
