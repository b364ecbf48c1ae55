"""The Hamming index: equal to brute force, whatever the list looks like, and never fooled by a damaged file."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.arrays import IndexCorrupt
from models.hits import MOST_HITS, Hits
from models.index import HammingIndex
from models.slot_tables import SlotTables
from models.slots import Slots, slots_for

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


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 120), slot_count=st.integers(14, 24))
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

    for index in (_with_tables(rows, 31, 16), HammingIndex.build(rows, 31)):
        answers = index.search_all(asked, 31)
        assert [list(zip(d.tolist(), n.tolist(), strict=True)) for n, d in answers] == [
            _brute_force(rows, query, 31) for query in asked
        ]


def test_search_stays_exact_when_one_hash_fills_the_list() -> None:
    """A list that is one hash over and over is answered by scanning, in full."""
    rows = np.repeat(np.random.default_rng(9).integers(0, 256, (1, 32), dtype=np.uint8), 30_000, axis=0)
    index = HammingIndex.build(rows, 31)

    assert len(index.search(rows[0].tobytes(), 0)[0]) == 30_000


def _soft(index: HammingIndex, rows: list[bytes], radius: int, exact: list[bool]) -> tuple[Hits, NDArray[np.float32]]:
    values = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    weights = np.random.default_rng(7).random((len(rows), index.bits), dtype=np.float32)
    return index.search_soft(values, weights, radius, exact=np.array(exact)), weights


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 120), slot_count=st.integers(14, 24))
@settings(max_examples=25, deadline=None)
def test_soft_hits_are_exact_where_asked_and_true_everywhere(seed: int, count: int, slot_count: int) -> None:
    """At each planted distance 0..33: exact views find all within 31, no hit is untrue, a short list misses none."""
    generator = np.random.default_rng(seed)
    rows = _list_of_every_kind(seed, count, 32) if count else np.zeros((0, 32), np.uint8)
    asked = [generator.bytes(32)]
    for distance in range(34 if count else 0):
        row = rows[generator.integers(0, count)]
        asked.append(_flipped(row, generator.choice(256, distance, replace=False).tolist()))
    exact = [number % 2 == 0 for number in range(len(asked))]
    probed, scanned = _with_tables(rows, 31, slot_count), HammingIndex.build(rows, 31)
    for radius in (31, 33, 72):
        soft, _ = _soft(probed, asked, radius, exact)
        whole, _ = _soft(scanned, asked, radius, exact)
        for number, query in enumerate(asked):
            truth = _brute_force(rows, query, radius)
            found = _of_query(soft, number)
            assert _of_query(whole, number) == truth
            assert found == [hit for hit in truth if hit in set(found)]
            if exact[number]:
                assert [hit for hit in found if hit[0] <= 31] == [hit for hit in truth if hit[0] <= 31]


def _of_query(hits: Hits, number: int) -> list[tuple[int, int]]:
    own = hits.query == number
    return list(zip(hits.distance[own].tolist(), hits.row[own].tolist(), strict=True))


def test_soft_probes_meet_copies_beyond_the_exact_radius() -> None:
    """Copies whose coefficients moved a little are met: all at up to 40 bits, nearly all at up to 56."""
    generator = np.random.default_rng(5)
    rows = _list_of_every_kind(5, 30_000, 32)
    index = HammingIndex.build(rows, 31)
    met: dict[int, list[bool]] = {40: [], 56: []}
    for _ in range(12):
        picked = generator.integers(0, len(rows), 32)
        signs = np.where(np.unpackbits(rows[picked], axis=1), 1.0, -1.0)
        moved = signs * np.abs(generator.standard_normal(signs.shape))
        moved += generator.uniform(0.4, 0.8) * generator.standard_normal(signs.shape)
        values = np.packbits(moved > 0, axis=1)
        hits = index.search_soft(values, moved.astype(np.float32), 56, exact=np.zeros(32, bool))
        distances = np.bitwise_count(values ^ rows[picked]).sum(axis=1)
        found = set(zip(hits.query.tolist(), hits.row.tolist(), strict=True))
        for number, distance in enumerate(distances.tolist()):
            if 31 < distance <= 56:
                met[40 if distance <= 40 else 56].append((number, int(picked[number])) in found)
    assert len(met[40]) > 50
    assert len(met[56]) > 50
    assert np.mean(met[40]) == 1
    assert np.mean(met[56]) > 0.95


@pytest.mark.parametrize("kind", ["one hash", "one key"])
def test_a_hostile_list_costs_bounded_work(kind: str) -> None:
    """Where one key holds most rows, what is looked at and given is bounded and counted, and near rows are found."""
    generator = np.random.default_rng(11)
    rows = generator.integers(0, 256, (120_000, 32), dtype=np.uint8)
    rows[:90_000, : 32 if kind == "one hash" else 12] = 7
    index = HammingIndex.build(rows, 31)
    target = 100_000
    asked = [rows[0].tobytes()] * 24 + [_flipped(rows[target], [1, 70, 200])]
    began = time.process_time()
    hits, _ = _soft(index, asked, 72, [True] + [False] * 23 + [True])

    assert time.process_time() - began < 2
    assert hits.cut > 0
    assert int(np.bincount(hits.query).max()) <= MOST_HITS
    assert _of_query(hits, 0)[0] == (0, 0)
    assert _of_query(hits, 24)[0] == (3, target)


def test_a_soft_look_up_of_the_wrong_shape_is_refused() -> None:
    """Values, deviations and flags that do not fit each other or the index are no question."""
    index = HammingIndex.build(_list_of_every_kind(1, 20, 32), 31)
    for width, bits, flags in ((8, 256, 1), (32, 64, 1), (32, 256, 2)):
        with pytest.raises(ValueError, match="of the shapes"):
            index.search_soft(
                np.zeros((1, width), np.uint8), np.zeros((1, bits), np.float32), 40, exact=np.zeros(flags, bool)
            )


def test_same_rows_are_found_whatever_the_list() -> None:
    """Rows that equal a value are found in lists with and without tables, one hash over and over too."""
    for count in (200, 8_000):
        rows = _list_of_every_kind(count, count, 32)
        rows[: count // 2] = rows[0]
        asked = rows[[0, count - 1]]
        expected = np.flatnonzero((rows[:, None] == asked).all(axis=2).any(axis=1))
        assert HammingIndex.build(rows, 31).same(asked).tolist() == expected.tolist()


@pytest.mark.parametrize("count", [20_000, 100_000, 1_000_000, 10_000_000])
def test_slots_cover_the_hash_and_never_miss(count: int) -> None:
    """The chosen slots cover all bits and satisfy the pigeonhole at every radius up to the limit."""
    for bits, limit in ((256, 31), (64, 10)):
        slots = slots_for(count, bits, limit)
        assert sum(slots.widths) == bits
        assert all(sum(reach + 1 for reach in slots.radii(radius, count)) == radius + 1 for radius in range(limit + 1))


@pytest.mark.parametrize(("bits", "count"), [(256, 1_000), (256, 1_000_000), (256, 10_000_000), (64, 50_000)])
def test_keys_are_the_bits_of_their_slots(bits: int, count: int) -> None:
    """A slot's key is its bits of the hash, also where it begins in one word and ends in the next."""
    slots, rows = slots_for(count, bits, 10), np.random.default_rng(bits).integers(0, 256, (50, bits // 8), np.uint8)
    tables = SlotTables.build(rows[:1], slots)

    keys = tables.keys(rows.view("<u8"))

    numbers = [int.from_bytes(row.tobytes(), "little") for row in rows]
    cuts = list(zip(slots.offsets, slots.widths, strict=True))
    assert keys.tolist() == [[number >> offset & (1 << width) - 1 for offset, width in cuts] for number in numbers]


def test_slots_take_the_radii_that_cost_less() -> None:
    """Narrow slots go further while probes cost most, wide ones where the rows that share a key do."""
    slots = Slots((0, 9), (9, 7))
    assert slots.radii(2, 1) == (0, 1)
    assert slots.radii(2, 100_000) == (1, 0)


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


def test_the_nearest_of_millions_of_twins_are_found_in_little_time_and_room() -> None:
    """Of a list that is one large cluster, each query has its nearest rows, sorted, and no more than are given."""
    generator = np.random.default_rng(4)
    hashes = np.repeat(generator.integers(0, 256, (1, 32), dtype=np.uint8), 300_000, axis=0)
    hashes[1000:290_000, 0] ^= 0xFF  # the near ones come first and last
    index = HammingIndex.build(hashes, 31)
    queries = [hashes[0].tobytes(), hashes[1000].tobytes(), bytes(32)]
    for radius in (31, 56):
        first, second, third = index.search_nearest(queries, radius)
        assert first[1].tolist() == [0] * 11_000 + [8] * (MOST_HITS - 11_000)
        assert first[0].tolist() == [*range(1000), *range(290_000, 300_000), *range(1000, MOST_HITS - 10_000)]
        assert second[0].tolist() == [*range(1000, 1000 + MOST_HITS)]
        assert len(third[0]) == 0
        gone = np.arange(1000, 290_000)
        assert len(index.search_nearest(queries, radius, gone)[1][0]) == 11_000


def test_the_nearest_are_those_of_all() -> None:
    """Where there are few, they are just what an exact search gives."""
    hashes = np.random.default_rng(6).integers(0, 256, (5000, 32), dtype=np.uint8)
    index = HammingIndex.build(hashes, 31)
    queries = [hashes[number].tobytes() for number in range(5)]
    for radius in (31, 100):
        for found, wanted in zip(index.search_nearest(queries, radius), index.search_all(queries, radius), strict=True):
            assert [part.tolist() for part in found] == [part.tolist() for part in wanted]
