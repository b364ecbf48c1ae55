"""The Hamming index: equal to brute force, whatever the list looks like, and never fooled by a damaged file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.arrays import IndexCorrupt
from models.index import HammingIndex
from models.slot_tables import Slots, SlotTables, slots_for

Rows = NDArray[np.uint8]


def _brute_force(rows: Rows, query: bytes, radius: int) -> list[tuple[int, int]]:
    wanted = int.from_bytes(query)
    distances = ((int.from_bytes(row.tobytes()) ^ wanted).bit_count() for row in rows)
    return sorted((d, number) for number, d in enumerate(distances) if d <= radius)


def _found(index: HammingIndex, query: bytes, radius: int) -> list[tuple[int, int]]:
    numbers, distances = index.search(query, radius)
    assert numbers.dtype == distances.dtype == np.dtype(np.int64)
    return list(zip(distances.tolist(), numbers.tolist(), strict=True))


def _with_tables(rows: Rows, radius: int, slot_count: int) -> HammingIndex:
    # Short lists are scanned: the tables are forced on them, so that brute force can check them.
    base, extra = divmod(rows.shape[1] * 8, slot_count)
    widths = (base + 1,) * extra + (base,) * (slot_count - extra)
    slots = Slots(tuple(sum(widths[:i]) for i in range(slot_count)), widths)
    return HammingIndex(rows, radius, SlotTables.build(rows, slots))


def _flipped(row: Rows, bits: list[int]) -> bytes:
    mask = np.zeros(len(row) * 8, dtype=np.uint8)
    mask[bits] = 1
    return (row ^ np.packbits(mask)).tobytes()


def _list_of_every_kind(seed: int, count: int, row_bytes: int) -> Rows:
    # Random rows, clusters a few bits wide, plain duplicates.
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 256, (count, row_bytes), dtype=np.uint8)
    for number in range(1, count):
        kind = generator.integers(0, 4)
        if kind == 0:
            rows[number] = rows[generator.integers(0, number)]
        elif kind == 1:
            bits = generator.choice(row_bytes * 8, int(generator.integers(1, 12)), replace=False)
            rows[number] = np.frombuffer(_flipped(rows[generator.integers(0, number)], bits.tolist()), np.uint8)
    return rows


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 120), slot_count=st.integers(11, 16))
@settings(max_examples=25, deadline=None)
def test_search_equals_brute_force_at_every_distance(seed: int, count: int, slot_count: int) -> None:
    """256-bit look-ups find what brute force finds with the planted row at each distance 0..33, and nothing else."""
    rows = _list_of_every_kind(seed, count, 32)
    index = _with_tables(rows, 31, slot_count)
    generator = np.random.default_rng(seed + 1)
    for distance in range(34):
        planted = int(generator.integers(0, count))
        query = _flipped(rows[planted], generator.choice(256, distance, replace=False).tolist())
        assert _brute_force(rows, query, 31) == _found(index, query, 31)
        assert _brute_force(rows, query, distance) == _found(index, query, distance)
        assert (distance, planted) in _found(index, query, distance)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 120), slot_count=st.integers(3, 5))
@settings(max_examples=25, deadline=None)
def test_search_of_64_bits_equals_brute_force(seed: int, count: int, slot_count: int) -> None:
    """64-bit look-ups find what brute force finds at each distance 0..12."""
    rows = _list_of_every_kind(seed, count, 8)
    index = _with_tables(rows, 10, slot_count)
    generator = np.random.default_rng(seed + 1)
    for distance in range(13):
        query = _flipped(rows[0], generator.choice(64, distance, replace=False).tolist())
        assert _brute_force(rows, query, 10) == _found(index, query, 10)
        assert _brute_force(rows, query, distance) == _found(index, query, distance)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 200), radius=st.integers(0, 256))
@settings(max_examples=60, deadline=None)
def test_scan_equals_brute_force(seed: int, count: int, radius: int) -> None:
    """A short list, the empty one too, is scanned and answers as brute force does at any radius."""
    rows = _list_of_every_kind(seed, count, 32) if count else np.zeros((0, 32), np.uint8)
    index = HammingIndex.build(rows, 31)
    query = np.random.default_rng(seed).bytes(32)

    assert index.slot_widths == ()
    assert _brute_force(rows, query, radius) == _found(index, query, radius)


def test_search_equals_the_scan_in_a_list_long_enough_for_tables() -> None:
    """A list built by the front door uses tables, and answers as the scan of the same rows does."""
    rows = _list_of_every_kind(3, 25_000, 32)
    index, scan = HammingIndex.build(rows, 31), HammingIndex(rows, 31, None)
    generator = np.random.default_rng(4)

    assert sum(index.slot_widths) == 256
    for distance in range(34):
        query = _flipped(rows[int(generator.integers(0, len(rows)))], generator.choice(256, distance, False).tolist())
        assert _found(scan, query, 31) == _found(index, query, 31)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 120), queries=st.integers(0, 6))
@settings(max_examples=25, deadline=None)
def test_queries_asked_together_are_answered_as_asked_alone(seed: int, count: int, queries: int) -> None:
    """Near and far queries, and one so common in the list that it takes a scan, keep their own answers in order."""
    rows = _list_of_every_kind(seed, count, 32)
    rows[: count // 2] = rows[0]
    generator = np.random.default_rng(seed + 1)
    asked = [rows[0].tobytes(), *(generator.bytes(32) for _ in range(queries))]
    asked += [_flipped(rows[generator.integers(0, count)], [number, 99]) for number in range(queries)]
    generator.shuffle(asked)

    for index in (_with_tables(rows, 31, 12), HammingIndex.build(rows, 31)):
        answers = index.search_all(asked, 31)
        assert [list(zip(d.tolist(), n.tolist(), strict=True)) for n, d in answers] == [
            _brute_force(rows, query, 31) for query in asked
        ]


def test_search_stays_exact_when_one_hash_fills_the_list() -> None:
    """A list that is one hash over and over is answered by scanning, in full."""
    rows = np.repeat(np.random.default_rng(9).integers(0, 256, (1, 32), dtype=np.uint8), 30_000, axis=0)
    index = HammingIndex.build(rows, 31)

    assert len(index.search(rows[0].tobytes(), 0)[0]) == 30_000


@pytest.mark.parametrize("count", [20_000, 100_000, 1_000_000, 10_000_000])
def test_slots_cover_the_hash_and_never_miss(count: int) -> None:
    """The chosen slots cover all bits and satisfy the pigeonhole at every radius up to the limit."""
    for bits, limit in ((256, 31), (64, 10)):
        slots = slots_for(count, bits, limit)
        assert sum(slots.widths) == bits
        assert all(sum(reach + 1 for reach in slots.radii(radius)) == radius + 1 for radius in range(limit + 1))


def test_a_saved_index_answers_as_before(tmp_path: Path) -> None:
    """What was saved opens by memory map with the same answers, tables or none."""
    for count in (0, 1, 300, 25_000):
        rows = _list_of_every_kind(count, count, 32) if count else np.zeros((0, 32), np.uint8)
        index = HammingIndex.build(rows, 31)
        index.save(tmp_path / str(count))
        opened = HammingIndex.open(tmp_path / str(count))
        query = rows[-1].tobytes() if count else bytes(32)
        assert (len(opened), opened.slot_widths) == (count, index.slot_widths)
        assert _found(index, query, 31) == _found(opened, query, 31)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved index with tables."""
    HammingIndex.build(_list_of_every_kind(1, 20_500, 32), 31).save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("name", ["rows.npy", "ids.npy", "starts.npy"])
def test_one_changed_bit_is_refused(saved: Path, name: str) -> None:
    """A file that is not the one written is refused, with the remedy in the message."""
    content = bytearray((saved / name).read_bytes())
    content[-1] ^= 1
    (saved / name).write_bytes(content)

    with pytest.raises(IndexCorrupt, match=f"{name} is not the file that was written; import the list again"):
        HammingIndex.open(saved)


@pytest.mark.parametrize("damage", ["missing", "truncated", "no json", "no files", "too long"])
def test_damaged_folders_are_refused(saved: Path, damage: str) -> None:
    """Missing, cut or meaningless files are refused by name, never by a stray error."""
    manifest = saved / "manifest.json"
    if damage == "missing":
        (saved / "ids.npy").unlink()
    elif damage == "truncated":
        (saved / "rows.npy").write_bytes((saved / "rows.npy").read_bytes()[:100])
    elif damage == "no json":
        manifest.write_text("[" * 100_000)
    elif damage == "no files":
        manifest.write_text('{"facts": {}, "files": {"rows": 3}}')
    else:
        manifest.write_bytes(b" " * (2 << 20))
    with pytest.raises(IndexCorrupt):
        HammingIndex.open(saved)


def _rewrite(folder: Path, name: str, array: NDArray[np.generic], **facts: object) -> None:
    # What a hostile hand would do: change a file and its record together.
    path = folder / f"{name}.npy"
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest["files"][name] = {"sha256": digest, "bytes": path.stat().st_size}
    manifest["facts"].update(facts)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "array", "facts"),
    [
        ("rows", np.zeros((5, 31), np.uint8), {}),
        ("rows", np.zeros((5, 32), np.uint16), {}),
        ("rows", np.zeros(5 * 32, np.uint8), {}),
        ("rows", np.array([{"a": "pickle"}], dtype=object), {}),
        ("ids", np.zeros((3, 7), np.uint32), {}),
        ("starts", np.zeros(7, np.uint32), {}),
        ("starts", np.zeros(7, np.uint32), {"widths": [-4, 260]}),
        ("starts", np.zeros(7, np.uint32), {"widths": "wide"}),
        ("starts", np.zeros(7, np.uint32), {"format": 99}),
        ("starts", np.zeros(7, np.uint32), {"max_radius": None}),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    saved: Path, name: str, array: NDArray[np.generic], facts: dict[str, object]
) -> None:
    """Wrong shapes, types, formats and pickled objects are refused even where the checksums agree."""
    _rewrite(saved, name, array, **facts)

    with pytest.raises(IndexCorrupt):
        HammingIndex.open(saved)


def test_misuse_is_refused() -> None:
    """Rows and queries of another shape are refused by value."""
    with pytest.raises(ValueError, match="hash rows are"):
        HammingIndex.build(np.zeros((3, 31), np.uint8), 31)
    with pytest.raises(ValueError, match="a radius lies between"):
        HammingIndex.build(np.zeros((3, 32), np.uint8), 257)
    with pytest.raises(ValueError, match="the query has 64"):
        HammingIndex.build(np.zeros((3, 32), np.uint8), 31).search(bytes(8), 3)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    """Opening nothing says that nothing is there."""
    with pytest.raises(FileNotFoundError):
        HammingIndex.open(tmp_path / "none")
