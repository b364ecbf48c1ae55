"""From a bank to a list and from the list to a bank: whatever the format carries comes back as it was."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.banks.intake import take_in
from models.bank_rows import OPINION_CODES
from models.bank_store import add_entries, load_bank
from models.evidence import Opinion
from models.lists.contents import ListContents, ListedRows
from models.lists.registry import FORMATS

_HASHES = np.random.default_rng(17).integers(0, 256, (30, 32), dtype=np.uint8)

Row = tuple[str, str, Opinion, int | None, bool, bytes | None]
"""A hash in hexadecimal, the entry, what is thought of it, its place in a video, whether a window, its second hash."""

_names = st.one_of(
    st.sampled_from(
        ["a", "42-b", "0-c", "007-d", "ImagePDQ:e", " f ", "  ", "=1+1", '"', "a,b", "]]>", "<&>", "naïve ☃"]
    ),
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40),
)
_rows = st.lists(
    st.tuples(
        st.integers(0, len(_HASHES) - 1),
        _names,
        st.sampled_from(list(Opinion)),
        st.integers(-1, (1 << 31) - 1),
        st.booleans(),
        st.none() | st.binary(min_size=64, max_size=64),
    ),
    min_size=1,
    max_size=12,
)


def _held(bank_dir: Path) -> list[Row]:
    rows = load_bank(bank_dir).rows("pdq")
    assert rows is not None
    return [
        (
            rows.hashes[number].tobytes().hex(),
            rows.names[number],
            rows.opinion(number),
            rows.position_ms(number),
            rows.shows_window(number),
            rows.second(number),
        )
        for number in range(len(rows))
    ]


def _videos(rows: list[Row]) -> Any:
    """What each video shows when, in order, whatever it is called."""
    found: dict[str, list[tuple[str, int | None]]] = {}
    for value, entry, _, place, _, _ in rows:
        found.setdefault(entry, []).append((value, place))
    return sorted(map(tuple, found.values()))


_CARRIED: dict[str, tuple[Callable[[Row], bool], Callable[[list[Row]], Any]]] = {
    "plain": (lambda row: row[2] is Opinion.POSITIVE, lambda rows: [(row[0], row[2]) for row in rows]),
    "csv": (lambda _: True, list),
    "vpdq": (lambda row: row[2] is Opinion.POSITIVE and row[3] is not None and not row[4], _videos),
    "threatexchange": (lambda row: not row[4], lambda rows: [row[:3] for row in rows]),
    "ncmec": (
        lambda row: not row[4] and row[2] in (Opinion.POSITIVE, Opinion.DISPUTED),
        lambda rows: [row[:3] for row in rows],
    ),
    "stopncii": (lambda row: not row[4], lambda rows: {row[0]: row[2] for row in rows}),
    "tat": (lambda row: not row[4] and row[2] is Opinion.POSITIVE, lambda rows: [row[:2] for row in rows]),
}
"""For each format which rows of a bank it carries, and what of them."""


def test_every_format_is_held_to_it() -> None:
    """A format that is added says here what it carries."""
    assert set(_CARRIED) == set(FORMATS)


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(drawn=_rows)
@settings(max_examples=12, deadline=None)
def test_a_bank_comes_back_from_a_list(
    tmp_path_factory: pytest.TempPathFactory, name: str, drawn: list[tuple[int, str, Opinion, int, bool, bytes | None]]
) -> None:
    """Exported and imported, a bank holds what the format carries; exported once more it is the same file."""
    folder = tmp_path_factory.mktemp("banks")
    numbers, entries, opinions, places, windows, seconds = zip(*drawn, strict=True)
    add_entries(
        folder / "BEFORE",
        _HASHES[list(numbers)],
        entries,
        opinions,
        seconds=np.frombuffer(b"".join(one or bytes(64) for one in seconds), np.uint8).reshape(-1, 64),
        has_second=np.array([one is not None for one in seconds]),
        positions_ms=np.array(places, dtype=np.int32),
        is_window=np.array(windows),
    )
    carries, project = _CARRIED[name]
    expected = [row for row in _held(folder / "BEFORE") if carries(row)]
    first = _exported(folder / "BEFORE", name)
    (folder / "list").write_bytes(first)
    contents = FORMATS[name].read(folder / "list")

    assert (len(contents), contents.bad.count, dict(contents.left_out)) == (len(expected), 0, {})
    if name == "stopncii" and len({row[0] for row in expected}) < len(expected):
        return  # two entries of one hash are one record there
    if expected:
        take_in(folder / "AFTER", contents, stem="list")
        assert project(_held(folder / "AFTER")) == project(expected)
        assert _exported(folder / "AFTER", name) == first


def _exported(bank_dir: Path, name: str) -> bytes:
    rows = load_bank(bank_dir).rows("pdq")
    assert rows is not None
    file = io.BytesIO()
    FORMATS[name].write(file, ListContents({"pdq": ListedRows.of_bank(rows)}))
    return file.getvalue()


def test_opinions_are_the_bank_s_codes() -> None:
    """Lists and banks number opinions alike."""
    assert [opinion.value for opinion in OPINION_CODES] == ["negative", "seed", "positive", "disputed"]
