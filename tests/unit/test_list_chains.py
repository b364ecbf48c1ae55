"""Chains of pages, checkpoints, limits and pauses: what holds whatever an exchange sends, and in whatever order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.banks.sources import BankSources
from detector.events import Decision, Signal, Step
from detector.exchanges.changes import LEAST_ROWS, Change, compare
from detector.exchanges.client import Checkpoint, ExchangeFailed, NotAdopted
from detector.exchanges.paging import PageGuard
from detector.exchanges.records import (
    Outcome,
    Source,
    SyncState,
    read_source,
    read_state,
    turn,
    write_source,
    write_state,
)
from detector.exchanges.schedule import is_stale, pause_seconds
from detector.exchanges.staging import Staged
from detector.exchanges.sync import usable
from models.bank_store import add_entries, load_bank
from models.evidence import Opinion
from models.lists.contents import ListContents, ListedRows
from tests.exchange_servers import made_up

ROWS = made_up(8)

Told = list[tuple[str, int | None]]
"""One page: entries, each with the number of its hash, or None where it is withdrawn."""

PAGES = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(0, 7))),
        max_size=6,
        unique_by=lambda one: one[0],
    ),
    max_size=6,
)


def contents(page: Told) -> ListContents:
    listed = [(entry, number) for entry, number in page if number is not None]
    rows = ListedRows(
        ROWS[[number for _, number in listed]].reshape(-1, 32),
        np.arange(1, len(listed) + 1),
        [entry for entry, _ in listed],
        opinions=np.full(len(listed), 2, np.uint8),
    )
    return ListContents({"pdq": rows} if listed else {}, withdrawn=tuple(e for e, number in page if number is None))


@given(PAGES)
@settings(max_examples=200, deadline=None)
def test_the_last_page_that_speaks_of_an_entry_is_right(pages: list[Told]) -> None:
    """A chain comes to what a dictionary does that takes one page after the other."""
    expected: dict[str, int | None] = {}
    staged = Staged("peer", 1000)
    for page in pages:
        expected |= dict(page)
        staged.take(contents(page))
    found = staged.contents()
    rows = found.rows.get("pdq")
    listed = {} if rows is None else {n: h.tobytes() for n, h in zip(rows.entries, rows.hashes, strict=True)}
    assert listed == {entry: ROWS[number].tobytes() for entry, number in expected.items() if number is not None}
    assert set(found.withdrawn) == {entry for entry, number in expected.items() if number is None}
    assert rows is None or len(rows.opinions) == len(rows)


def test_columns_of_parts_that_lack_them_are_filled() -> None:
    """Opinions, places in videos and second hashes stay with their rows when pages are put together."""
    whole = ListedRows(
        ROWS[:2],
        np.array([1, 2]),
        ["a", "b"],
        opinions=np.array([0, 3], np.uint8),
        positions_ms=np.array([5, -1], np.int32),
        is_window=np.array([False, True]),
        second_rows=np.array([1], np.uint32),
        seconds=np.full((1, 64), 9, np.uint8),
    )
    staged = Staged("peer", 1000)
    for rows in (ListedRows(ROWS[2:3], np.array([1]), ["c"]), whole):
        staged.take(ListContents({"pdq": rows}, is_whole=True))
    found = staged.contents()
    joined = found.rows["pdq"]
    assert (list(joined.entries), joined.opinions.tolist()) == (["c", "a", "b"], [2, 0, 3])
    assert (joined.positions_ms.tolist(), joined.is_window.tolist()) == ([-1, 5, -1], [False, False, True])
    assert (joined.second_rows.tolist(), joined.seconds[0, 0], found.is_whole) == ([2], 9, True)


def test_a_chain_is_no_longer_than_it_may_be() -> None:
    """Rows count, and so do records of kinds that nobody matches: neither goes on for ever."""
    staged = Staged("peer", 3)
    staged.take(contents([("a", 1), ("b", 2), ("c", 3)]))
    with pytest.raises(NotAdopted, match="longer than most_rows"):
        staged.take(contents([("d", 4)]))
    staged = Staged("peer", 3)
    with pytest.raises(NotAdopted):
        staged.take(ListContents(left_out={"MD5": 61}))


def test_pages_that_repeat_end_the_chain() -> None:
    """The same link, the same page under another link, and empty pages are given up soon."""
    for pages in (
        [(b"1", "x"), (b"2", "x")],
        [(b"1", "x"), (b"1", "y")],
    ):
        guard = PageGuard("somewhere")
        guard.note(pages[0][0], contents([("a", 1)]), pages[0][1])
        with pytest.raises(ExchangeFailed, match="again and again"):
            guard.note(pages[1][0], contents([("a", 1)]), pages[1][1])
    guard = PageGuard("somewhere")
    for number in range(50):
        guard.note(b"empty", ListContents(), str(number))
    with pytest.raises(ExchangeFailed):
        guard.note(b"empty", ListContents(), "50")


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20),
    st.integers(1, 10**7),
    st.floats(0, 1),
)
def test_what_is_usual_passes_and_a_first_list_may_be_any(
    usual: list[tuple[int, int, int]], held: int, share: float
) -> None:
    """Nothing that changed a list so much on other days is refused, and nothing at all where nothing was held."""
    beyond = max(LEAST_ROWS, int(held * share))
    assert not Change(0, 10**9, 0).exceeds(usual, share, 7)
    middle = sorted(came for _, came, _ in usual)[(len(usual) - 1) // 2] if usual else 0
    assert not Change(held, middle, 0).exceeds(usual, share, 7)
    most = max([came for _, came, _ in usual] or [0])
    assert Change(held, most + beyond + 2, 0).exceeds(usual, share, 7)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=12))
def test_what_changes_in_many_steps_of_a_day_counts_as_one(steps: list[tuple[int, int, int]]) -> None:
    """After any steps the day's sums are those of its steps, and no more passes than in one step."""
    usual: tuple[tuple[int, int, int], ...] = ()
    for day, came, went in steps:
        usual = Change(1000, came, went).noted(usual, day, is_accepted=False)
    today = steps[-1][0]
    sums = [sum(one[side] for one in steps if one[0] == today) for side in (1, 2)]
    assert [sum(one[side] for one in usual if one[0] == today) for side in (1, 2)] == sums
    earlier = [one for one in usual if one[0] != today]
    for more in (1, 99, 400):
        whole = Change(1000 - sums[0] + sums[1], sums[0] + more, 0).exceeds(earlier, 0.1, today)
        assert Change(1000, more, 0).exceeds(usual, 0.1, today) == whole


def test_a_list_beside_its_bank(tmp_path: Path) -> None:
    """New rows, another opinion and a hash that went are changes; what stands there alike is none."""
    bank_dir = tmp_path / "BANK"
    add_entries(bank_dir, ROWS[:4], ["a", "b", "c", "d"], Opinion.POSITIVE)
    bank = load_bank(bank_dir)
    same = contents([("a", 0), ("b", 1), ("c", 2), ("d", 3)])
    assert compare(bank, same, is_everything=True).change == Change(4, 0, 0)
    moved = compare(bank, contents([("a", 0), ("b", 5), ("e", 6)]), is_everything=True)
    assert (moved.change, moved.left_out) == (Change(4, 2, 2), ("c", "d"))  # b's old hash stays unless lists are whole
    part = compare(bank, contents([("e", 6), ("a", None)]), is_everything=False)
    assert (part.change, part.left_out, part.new_rows["pdq"].tolist()) == (Change(4, 1, 1), (), [0])
    assert compare(None, same, is_everything=True).change == Change(0, 4, 0)


@given(
    st.sampled_from(["", *Outcome]),
    st.floats(5, 604_800),
    st.integers(0, 40),
    st.floats(0, 10**6),
    st.floats(0, 0.999),
    st.floats(-(10**5), 10**6),
)
def test_pauses_are_bounded_and_keep_to_what_was_asked(
    outcome: str, every: float, failures: int, retry_in: float, drawn: float, since: float
) -> None:
    """Never negative, never before the exchange asked, never much longer than `every` or that; clocks may jump."""
    tried = 1e9
    state = SyncState("peer", "PEER", outcome, tried_at=tried, failures=failures, retry_at=tried + retry_in)
    now = tried + since
    pause = pause_seconds(state, every, tried, now, drawn)
    assert 0 <= pause <= max(every * 1.1, retry_in) + 1
    if since >= 0:
        assert now + pause >= tried + retry_in - 1e-3


def test_failures_are_tried_again_ever_later() -> None:
    """Seconds after the first, `every` after many; a list that was never had is fetched at once."""
    pauses = [
        pause_seconds(SyncState("p", "P", Outcome.FAILED, tried_at=1e9, failures=count), 3600, 1e9, 1e9, 0.5)
        for count in (1, 2, 3, 20)
    ]
    assert pauses == [7.5, 15.0, 30.0, 2700.0]
    assert pause_seconds(None, 3600, 1e9, 1e9, 0.5) == 5.0
    assert pause_seconds(None, 3600, 1e9, 1e9 + 6, 0.5) == 0.0
    spread = [
        pause_seconds(SyncState("p", "P", Outcome.SYNCED, tried_at=1e9), 3600, 1e9, 1e9, drawn)
        for drawn in (0, 0.5, 0.9)
    ]
    assert len(set(spread)) == 3


def test_a_checkpoint_of_the_future_or_of_long_ago_counts_for_nothing() -> None:
    """Everything is fetched again then."""
    there = Checkpoint("x", "1", 1e9)
    assert usable(there, None, 1e9 + 1e8) is there
    assert usable(there, 85 * 86_400, 1e9 + 84 * 86_400) is there
    assert usable(there, 85 * 86_400, 1e9 + 86 * 86_400) is None
    assert usable(there, None, 1e9 - 7200) is None
    assert is_stale(None, 60, since=0, now=61)
    assert not is_stale(SyncState("p", "P", fresh_at=50), 60, since=0, now=61)


def test_records_survive_and_damaged_ones_are_none(tmp_path: Path) -> None:
    """What is written is read back; what is no record means that everything is fetched again."""
    source = Source("peer", "tat", "all", Checkpoint("1,2", "now", 1.5), ((20_000, 3, 4),), "now", "a-server")
    write_source(tmp_path, source)
    assert read_source(tmp_path) == source
    state = SyncState("peer", "PEER", Outcome.REFUSED, "why", 1.0, 2.0, came=3, left_out={"MD5": 4})
    write_state(tmp_path, state)
    assert read_state(tmp_path, "peer") == state
    assert state.waits_for_word
    for damage in (b"", b"[]", b"{", b'{"exchange": 1}', b'{"exchange": "a", "tried_at": "x"}'):
        (tmp_path / "source.json").write_bytes(damage)
        (tmp_path / "exchanges/peer.json").write_bytes(damage)
        assert read_source(tmp_path) is None
        assert read_state(tmp_path, "peer") is None
    with turn(tmp_path, "peer") as is_ours, turn(tmp_path, "peer") as is_theirs:
        assert (is_ours, is_theirs) == (True, False)


def test_decisions_name_the_list_of_their_bank(tmp_path: Path) -> None:
    """Signals of a bank that a list fills get its name and version; all others stay as they are."""
    add_entries(tmp_path / "LISTED", ROWS[:1], ["a"])
    add_entries(tmp_path / "MINE", ROWS[:1], ["a"])
    write_source(tmp_path / "LISTED", Source("peer", "tat", version="7"))
    sources = BankSources(tmp_path)
    signals = tuple(Signal("hash", "pdq", f"{bank}/a", Step.REVIEW, 31, bank=bank) for bank in ("LISTED", "MINE", None))
    decision = Decision("s", "t", None, Step.REVIEW, is_live=False, signals=signals, votes=(1, 1))
    assert [(one.exchange, one.version) for one in sources.told(decision).signals] == [
        ("peer", "7"),
        (None, None),
        (None, None),
    ]
    write_source(tmp_path / "LISTED", Source("peer", "tat", version="8"))
    sources.look()
    assert sources.told(decision).signals[0].version == "8"
    (tmp_path / "LISTED/source.json").unlink()
    sources.look()
    assert sources.told(decision) is decision
