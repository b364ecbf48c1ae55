"""In what order frames leave the line for analysis."""

import math
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.analysis.line import Line, Waiting
from models.cascade import Asking
from models.hashing.scenes import Look


def waiting(number: int, deadline_at: float, risk: int) -> Waiting:
    nothing: Any = Mock()
    return Waiting(deadline_at, number, nothing, nothing, risk=risk)


ENTRIES = st.lists(st.tuples(st.floats(0, 9), st.integers(-1, 2)), min_size=1, max_size=30)


@given(ENTRIES)
def test_the_nearest_deadline_is_served_first(entries: list[tuple[float, int]]) -> None:
    """Risk gives no frame precedence; who came first goes first where deadlines are equal."""
    line = Line()
    for number, (deadline_at, risk) in enumerate(entries):
        line.put(waiting(number, deadline_at, risk))

    taken = [line.take_most_urgent() for _ in entries]

    assert [(each.deadline_at, each.number) for each in taken] == sorted(
        (deadline_at, number) for number, (deadline_at, _) in enumerate(entries)
    )
    assert not line


@given(ENTRIES)
def test_the_lowest_risk_is_dropped_first_and_the_oldest_of_it(entries: list[tuple[float, int]]) -> None:
    """What is dropped is of the lowest risk that waits, the nearest deadline first."""
    line = Line()
    for number, (deadline_at, risk) in enumerate(entries):
        line.put(waiting(number, deadline_at, risk))

    taken = [line.take_least_wanted() for _ in entries]

    assert [(each.risk, each.deadline_at, each.number) for each in taken] == sorted(
        (risk, deadline_at, number) for number, (deadline_at, risk) in enumerate(entries)
    )


def test_an_empty_line_has_none_to_give() -> None:
    """Both ways to take raise `IndexError`, before any came and after all went."""
    line = Line()
    for _ in range(2):
        with pytest.raises(IndexError):
            line.take_most_urgent()
        with pytest.raises(IndexError):
            line.take_least_wanted()
        line.put(waiting(1, 1.0, 2))
        assert len(line) == 1
        line.take_most_urgent()


@pytest.mark.parametrize(
    ("look", "is_behind", "has_room"),
    [(Look(), False, True), (Look(), True, False), (None, True, True), (Look(saved_seconds=math.inf), True, True)],
)
def test_parts_of_live_frames_are_left_out_while_others_wait(
    *, look: Look | None, is_behind: bool, has_room: bool
) -> None:
    """Single pictures and files are looked at whole, since nobody waits for them."""
    entry = replace(waiting(1, 1.0, 0), look=look, asking=Asking(awake=3, turn=7))
    assert entry.to_ask(is_behind=is_behind) == Asking(awake=3, turn=7, has_room=has_room)
