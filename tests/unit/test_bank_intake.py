"""Taking lists into a bank: one step for what comes and what goes, and nobody's judgement undone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.banks.intake import Intake, take_in
from models.annotations import EntryNote
from models.bank_rows import OPINION_CODES
from models.bank_store import BankNameError, annotate, bank_stats, load_bank, notes
from models.evidence import Opinion
from models.generations import read_pointer
from models.lists.contents import ListContents, ListedRows
from models.opinions import set_opinion

_RNG = np.random.default_rng(29)
_HASHES = _RNG.integers(0, 256, (40, 32), dtype=np.uint8)

Row = tuple[int, str, Opinion]


def _list(*rows: Row, withdrawn: tuple[str, ...] = (), is_whole: bool = False) -> ListContents:
    """A list of rows: number of the hash, entry, opinion."""
    listed = ListedRows(
        _HASHES[[number for number, _, _ in rows]],
        np.arange(1, len(rows) + 1),
        [entry for _, entry, _ in rows],
        np.array([OPINION_CODES.index(opinion) for _, _, opinion in rows], dtype=np.uint8),
    )
    return ListContents({"pdq": listed} if rows else {}, withdrawn=withdrawn, is_whole=is_whole)


def _positive(*rows: tuple[int, str], withdrawn: tuple[str, ...] = (), is_whole: bool = False) -> ListContents:
    return _list(*((number, entry, Opinion.POSITIVE) for number, entry in rows), withdrawn=withdrawn, is_whole=is_whole)


def _held(bank_dir: Path) -> set[Row]:
    rows = load_bank(bank_dir).rows("pdq")
    assert rows is not None
    numbers = {_HASHES[number].tobytes(): number for number in range(len(_HASHES))}
    return {
        (numbers[rows.hashes[place].tobytes()], rows.names[place], rows.opinion(place)) for place in range(len(rows))
    }


def _counts(intake: Intake) -> tuple[int, int, int, int]:
    return intake.added, intake.changed, intake.withdrawn, intake.known


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """The folder of a bank that does not exist yet."""
    return tmp_path / "banks" / "LISTED"


def test_a_list_makes_a_bank_and_again_changes_nothing(bank: Path) -> None:
    """The first intake adds all; the second writes no generation."""
    contents = _positive((0, "a"), (1, "a"), (2, "b"))

    assert _counts(take_in(bank, contents, stem="list")) == (3, 0, 0, 0)
    generation = bank_stats(bank).generation
    again = take_in(bank, contents, stem="list")

    assert _counts(again) == (0, 0, 0, 3)
    assert again.generation == bank_stats(bank).generation == generation


def test_what_comes_and_what_goes_is_one_generation(bank: Path) -> None:
    """New rows, other opinions and withdrawals of one list come into force together."""
    before = take_in(bank, _positive((0, "a"), (1, "b"), (2, "c")), stem="list")
    change = _list((1, "b", Opinion.NEGATIVE), (3, "d", Opinion.POSITIVE), withdrawn=("a", "nobody"))
    after = take_in(bank, change, stem="list")

    assert _counts(after) == (1, 1, 1, 0)
    assert int(after.generation[4:]) == int(before.generation[4:]) + 1
    assert _held(bank) == {(1, "b", Opinion.NEGATIVE), (2, "c", Opinion.POSITIVE), (3, "d", Opinion.POSITIVE)}
    assert (bank_stats(bank).rows, bank_stats(bank).entries) == ({"pdq": 3}, 3)


def test_a_withdrawal_takes_all_hashes_of_all_kinds(bank: Path) -> None:
    """An entry goes with its hashes of every algorithm."""
    rows = {
        "pdq": ListedRows(_HASHES[:2], np.arange(2), ["a", "b"]),
        "phash": ListedRows(_HASHES[:2, :8].copy(), np.arange(2), ["a", "b"]),
    }
    take_in(bank, ListContents(rows), stem="list")

    assert _counts(take_in(bank, ListContents(withdrawn=["a"]), stem="list")) == (0, 0, 2, 0)
    assert bank_stats(bank).rows == {"pdq": 1, "phash": 1}
    left = load_bank(bank).rows("phash")
    assert left is not None
    assert list(left.names) == ["b"]


def test_a_long_bank_takes_a_short_list_over_it(bank: Path) -> None:
    """Over a base that is not written anew, withdrawals and other opinions hold as they do in a short bank."""
    many = np.random.default_rng(1).integers(0, 256, (21_000, 32), dtype=np.uint8)
    take_in(bank, ListContents({"pdq": ListedRows(many, np.arange(len(many)))}), stem="list")
    take_in(bank, _positive((0, "a"), (1, "b")), stem="list")
    mixed = ListedRows(many[:2], np.arange(2), ["list:0", "list:1"], np.array([0, 2], dtype=np.uint8))
    intake = take_in(bank, ListContents({"pdq": mixed}, withdrawn=["a", "list:7", "list:1"]), stem="list")

    assert _counts(intake) == (0, 1, 2, 1)
    rows = load_bank(bank).rows("pdq")
    assert rows is not None
    assert [len(rows.names.find(name)) for name in ("a", "b", "list:0", "list:1", "list:7")] == [0, 1, 1, 1, 0]
    assert rows.opinion(int(rows.names.find("list:0")[0])) is Opinion.NEGATIVE
    assert len(rows) == bank_stats(bank).rows["pdq"] == 21_000


def test_a_whole_entry_replaces_what_was_there(bank: Path) -> None:
    """Where a list gives entries whole, a hash that it no longer gives goes; other lists only add."""
    take_in(bank, _positive((0, "a"), (1, "a"), (2, "b")), stem="list")

    assert _counts(take_in(bank, _positive((0, "a"), (3, "a")), stem="list")) == (1, 0, 0, 1)
    assert _counts(take_in(bank, _positive((3, "a"), is_whole=True), stem="list")) == (0, 0, 2, 1)
    assert _held(bank) == {(3, "a", Opinion.POSITIVE), (2, "b", Opinion.POSITIVE)}


def test_what_people_said_stands(bank: Path) -> None:
    """An entry that somebody objected to stays disputed, and a disabled one disabled, whatever the list says."""
    contents = _positive((0, "a"), (1, "b"))
    take_in(bank, contents, stem="list")
    annotate(bank, "a", lambda noted: replace(noted, objections=1))
    set_opinion(bank, "a", Opinion.DISPUTED, where=Opinion.POSITIVE)
    annotate(bank, "b", lambda noted: replace(noted, disabled_until_seconds=9e9))

    assert _counts(take_in(bank, contents, stem="list")) == (0, 0, 0, 2)
    take_in(bank, _positive((0, "a"), (5, "a"), (1, "b"), is_whole=True), stem="list")
    assert _held(bank) == {(0, "a", Opinion.DISPUTED), (5, "a", Opinion.DISPUTED), (1, "b", Opinion.POSITIVE)}
    assert notes(bank)["b"].is_disabled(1.0)


def test_an_entry_that_comes_back_is_what_people_said_of_it(bank: Path) -> None:
    """A withdrawal and a new listing are no way around an objection."""
    take_in(bank, _positive((0, "a"), (1, "b")), stem="list")
    annotate(bank, "a", lambda noted: replace(noted, objections=1, disabled_until_seconds=9e9))
    set_opinion(bank, "a", Opinion.DISPUTED, where=Opinion.POSITIVE)

    assert _counts(take_in(bank, _list(withdrawn=("a",)), stem="list")) == (0, 0, 1, 0)
    take_in(bank, _positive((0, "a")), stem="list")
    assert (0, "a", Opinion.DISPUTED) in _held(bank)
    assert notes(bank)["a"] == EntryNote(disabled_until_seconds=9e9, objections=1)


def test_a_confirmed_entry_stays_positive_until_it_is_withdrawn(bank: Path) -> None:
    """A list that comes to doubt an entry does not undo a confirmation; its withdrawal is honoured."""
    take_in(bank, _positive((0, "a"), (1, "b")), stem="list")
    annotate(bank, "a", lambda noted: replace(noted, confirmations=1))
    take_in(bank, _list((0, "a", Opinion.DISPUTED), (1, "b", Opinion.SEED)), stem="list")

    assert _held(bank) == {(0, "a", Opinion.POSITIVE), (1, "b", Opinion.SEED)}
    take_in(bank, _list(withdrawn=("a",)), stem="list")
    assert _held(bank) == {(1, "b", Opinion.SEED)}


def test_a_confirmation_is_no_word_for_another_hash(bank: Path) -> None:
    """An entry that gets another hash, beside its own or in its place, has to be found right anew."""
    take_in(bank, _positive((0, "a"), (1, "b"), (2, "c")), stem="list")
    for entry in "abc":
        annotate(bank, entry, lambda noted: replace(noted, confirmations=2, note="seen"))
    take_in(bank, _positive((0, "a"), (1, "b"), (2, "c"), (3, "d")), stem="list")
    assert {entry: note.confirmations for entry, note in notes(bank).items()} == {"a": 2, "b": 2, "c": 2}

    swapped = _positive((5, "a"), (1, "b"), (6, "b"), (2, "c"), is_whole=True)
    take_in(bank, swapped, stem="list", quarantined=["a"])
    assert notes(bank)["a"] == EntryNote(note="seen", quarantined=True)
    assert {entry: note.confirmations for entry, note in notes(bank).items()} == {"a": 0, "b": 0, "c": 2}
    take_in(bank, _list(withdrawn=("c",)), stem="list")
    take_in(bank, _positive((7, "c")), stem="list")
    assert notes(bank)["c"].confirmations == 0


def test_withdrawals_alone_make_no_bank(bank: Path) -> None:
    """A list of nothing but tombstones leaves no folder behind."""
    assert _counts(take_in(bank, _list(withdrawn=("a",)), stem="list")) == (0, 0, 0, 0)
    assert not bank.exists()
    assert read_pointer(bank) is None


def test_rows_without_names_are_called_after_the_list(bank: Path) -> None:
    """A row that names no entry is one by its place."""
    take_in(bank, ListContents({"pdq": ListedRows(_HASHES[:2], np.array([4, 9]))}), stem="cards")

    assert {entry for _, entry, _ in _held(bank)} == {"cards:4", "cards:9"}


def test_what_fits_nothing_is_refused(bank: Path) -> None:
    """Hashes of another length, names that do not print and names that no bank has leave nothing behind."""
    with pytest.raises(ValueError, match="pdq rows are"):
        take_in(bank, ListContents({"pdq": ListedRows(_HASHES[:, :8], np.arange(40))}), stem="list")
    with pytest.raises(ValueError, match="no name for an entry"):
        take_in(bank, _positive((0, "a\x1b")), stem="list")
    with pytest.raises(BankNameError):
        take_in(bank.parent / "lower", _positive((0, "a")), stem="list")
    assert not bank.exists()


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.sampled_from(list(Opinion))), max_size=6),
            st.lists(st.sampled_from("abcd"), max_size=2),
            st.booleans(),
        ),
        max_size=5,
    )
)
@settings(max_examples=20, deadline=None)
def test_any_lists_in_a_row_come_to_what_a_dictionary_says(
    tmp_path_factory: pytest.TempPathFactory, lists: list[tuple[list[Row], list[str], bool]]
) -> None:
    """After each list the bank holds what a plain dictionary of (hash, entry) comes to."""
    bank_dir = tmp_path_factory.mktemp("banks") / "LISTED"
    expected: dict[tuple[int, str], Opinion] = {}
    for rows, withdrawn, is_whole in lists:
        take_in(bank_dir, _list(*rows, withdrawn=tuple(withdrawn), is_whole=is_whole), stem="list")
        gone = {*withdrawn, *((entry for _, entry, _ in rows) if is_whole else ())}
        listed = {(number, entry): opinion for number, entry, opinion in rows}
        expected = {pair: opinion for pair, opinion in expected.items() if pair[1] not in gone or pair in listed}
        expected |= listed
        if bank_dir.is_dir():
            held = _held(bank_dir) if bank_stats(bank_dir).rows else set()
            assert held == {(number, entry, opinion) for (number, entry), opinion in expected.items()}
