"""The false-match budget: what the measured tail says of a radius, a list and a number of streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.false_matches import WIDEST_RADIUS, Traffic, expected, expected_per_day, pair_rate, widest_radius

TRAFFIC = Traffic(streams=100, frames_per_second=1.0)


@pytest.mark.parametrize(("radius", "rate"), [(56, 5e-9), (64, 5e-8), (72, 5e-7), (48, 5e-10)])
def test_the_tail_falls_tenfold_for_each_eight_bits(radius: int, rate: float) -> None:
    """The curve goes through what was measured."""
    assert pair_rate(radius) == pytest.approx(rate)


@pytest.mark.parametrize(("radius", "rows"), [(31, 6_500_000), (40, 500_000), (48, 50_000), (56, 5_000)])
def test_the_sizes_of_lists_that_a_radius_carries(radius: int, rows: int) -> None:
    """With a second test, a match in a million frames is what each radius costs at the length that it is for."""
    assert expected(radius, rows, second_test=True) == pytest.approx(1e-6, rel=0.15)


def test_a_day_counts_every_frame_of_every_stream() -> None:
    """100 streams at a frame a second are 8.64 million frames a day."""
    assert TRAFFIC.frames_per_day == 8_640_000
    once = expected(40, 1000, second_test=False)
    assert expected_per_day(40, 1000, TRAFFIC, second_test=False) == pytest.approx(once * 8_640_000)


@given(
    rows=st.integers(0, 50_000_000),
    budget=st.floats(1e-6, 1e6),
    streams=st.integers(1, 100_000),
    second_test=st.booleans(),
)
def test_the_widest_radius_keeps_to_the_budget_and_the_next_does_not(
    *, rows: int, budget: float, streams: int, second_test: bool
) -> None:
    """What is given is within the budget; one bit more is not, unless nothing wider ever counts."""
    traffic = Traffic(streams, 1.0)
    radius = widest_radius(rows, traffic, budget, second_test=second_test)
    if radius is None:
        assert expected_per_day(0, rows, traffic, second_test=second_test) > budget
        return
    assert expected_per_day(radius, rows, traffic, second_test=second_test) <= budget
    if radius < WIDEST_RADIUS:
        assert expected_per_day(radius + 1, rows, traffic, second_test=second_test) > budget


@given(radius=st.integers(0, 255))
def test_a_chance_is_never_more_than_one(radius: int) -> None:
    """However wide the radius."""
    assert 0 < pair_rate(radius) <= 1
