"""How near is near enough, by the length of the list."""

import re
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from models.false_matches import expected, ways
from models.radii import (
    EXACT,
    SECOND_LIMIT,
    SHARE_LIMIT,
    TABLE,
    UNGATED,
    VOTE_SHARE_LIMIT,
    WIDEST,
    counted_rows,
    radii_for,
)


def test_longer_lists_never_have_wider_limits() -> None:
    """Every limit falls or stays as lists grow, and what asks for less reaches as far or further."""
    for shorter, longer in pairwise(TABLE):
        assert shorter.rows < longer.rows
        for name in ("plain", "share", "second", "review", "vote", "votes_untested", "second_bits"):
            assert getattr(shorter, name) >= getattr(longer, name), name
    for radii in TABLE:
        assert radii.plain <= min(EXACT, radii.share) <= max(radii.share, radii.second) <= radii.review <= radii.vote
        assert radii.vote <= WIDEST
        assert radii.second_bits <= SECOND_LIMIT
    assert UNGATED > EXACT


def test_the_limits_keep_to_one_false_cut_in_a_hundred_thousand_frames() -> None:
    """By the measured tail of hard material, whichever way most get through, a frame of forty views meets 1.1e-5."""
    for radii in TABLE:
        assert expected(radii, radii.rows) <= 1.1e-5, radii
        assert {way.radius for way in ways(radii)} == {radii.plain, radii.share, radii.second}


def test_the_limits_of_a_length_are_those_of_the_first_row_that_holds_it() -> None:
    """A row's length is within it; whatever is longer than all has the last."""
    assert radii_for(0) is radii_for(500) is TABLE[0]
    assert radii_for(501) is TABLE[1]
    assert radii_for(10**9) is TABLE[-1]


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=12))
def test_all_banks_together_stay_near_the_budget_of_one(banks: list[int]) -> None:
    """The parts rows / counted rows add up to 1 for one list however it is cut, and grow with the logarithm at most."""
    parts = 0.0
    for place, rows in enumerate(banks):
        others = banks[:place] + banks[place + 1 :]
        counted = counted_rows(rows, others)
        assert rows <= counted <= sum(banks)
        parts += rows / counted if rows else 0.0
    assert parts <= sum(1 / rank for rank in range(1, len(banks) + 1)) + 1e-9


@given(st.integers(1, 10**6), st.integers(1, 20))
def test_a_list_that_is_cut_into_equal_banks_counts_as_before(rows: int, banks: int) -> None:
    """Cutting a list up gains no wider limits."""
    assert counted_rows(rows, [rows] * (banks - 1)) == rows * banks


def test_the_manual_has_the_same_table() -> None:
    """docs/concepts.md gives operators the limits that hold."""
    manual = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text("utf-8")
    for one in TABLE:
        limits = (one.plain, one.share, one.second, one.review, one.vote, one.second_bits)
        assert f"| {one.rows:,} | {' | '.join(map(str, limits))} |" in manual
    untested = max(one.rows for one in TABLE if one.votes_untested)
    assert f"lists of more than {untested:,} rows" in manual
    for figure in (SHARE_LIMIT, VOTE_SHARE_LIMIT, SECOND_LIMIT, UNGATED):
        assert re.search(rf"[ (]{figure}\b", manual)
