"""The false-match budget: what the measured tail says of a radius, a list and a number of streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.config.matching import MatchingSection
from models.false_matches import (
    NEAR_RATE,
    Traffic,
    expected,
    expected_per_day,
    pair_rate,
    second_hash_part,
    ways,
    widest_radius,
    within,
)
from models.radii import Radii, radii_for

TRAFFIC = Traffic(streams=100, frames_per_second=1.0)


@pytest.mark.parametrize(("radius", "rate"), [(56, 5e-9), (64, 5e-8), (72, 5e-7), (48, 5e-10)])
def test_the_tail_falls_tenfold_for_each_eight_bits(radius: int, rate: float) -> None:
    """The curve goes through what was measured."""
    assert pair_rate(radius) == pytest.approx(rate)


@pytest.mark.parametrize(("radius", "rows"), [(31, 270_000), (40, 20_000), (48, 2_000), (56, 200)])
def test_the_sizes_of_lists_that_a_radius_carries(radius: int, rows: int) -> None:
    """By the weighted share, each radius costs four matches in a million frames at the length that it is for."""
    only_share = Radii(rows, plain=0, share=radius, second=0, review=64, vote=72)
    assert expected(only_share, rows) == pytest.approx(4e-6, rel=0.15)


@pytest.mark.parametrize(("radius", "rate"), [(48, 9e-14), (56, 2e-13), (64, 4.5e-13)])
def test_second_hashes_leave_what_was_counted(radius: int, rate: float) -> None:
    """The nearer two strangers are by PDQ, the likelier are they near by their second hashes."""
    assert pair_rate(radius) * second_hash_part(radius) == pytest.approx(rate, rel=0.02)
    assert second_hash_part(0) == NEAR_RATE


def test_the_way_that_lets_most_through_counts() -> None:
    """A row has a second hash or none, and a share that is asked within PDQ's own limit asks nothing more."""
    radii = Radii(1000, plain=31, share=31, second=48, review=56, vote=72)
    plain, share, second = ways(radii)
    assert share.rate == 0
    assert expected(radii, 1000) == pytest.approx(max(plain.rate, second.rate) * 40 * 1000)


@pytest.mark.parametrize("rows", [1, 500, 5_000, 67_500, 150_000, 1_000_000, 6_500_000, 10_000_000, 50_000_000])
def test_the_limits_that_ship_keep_to_the_budget_that_ships(rows: int) -> None:
    """Whatever the length of a list, its limits cost less than the default budget at the default number of streams."""
    shipped = MatchingSection()
    traffic = Traffic(shipped.streams, 1.0)
    assert expected_per_day(radii_for(rows), rows, traffic) <= shipped.false_matches_per_day


def test_a_day_counts_every_frame_of_every_stream() -> None:
    """100 streams at a frame a second are 8.64 million frames a day."""
    assert TRAFFIC.frames_per_day == 8_640_000
    radii = radii_for(1000)
    assert expected_per_day(radii, 1000, TRAFFIC) == pytest.approx(expected(radii, 1000) * 8_640_000)


@given(rows=st.integers(0, 50_000_000), budget=st.floats(1e-6, 1e6), streams=st.integers(1, 100_000))
def test_the_widest_radius_keeps_to_the_budget_and_the_next_does_not(rows: int, budget: float, streams: int) -> None:
    """What is given is within the budget; one bit more is not, unless the list's own limits are no wider."""
    traffic, radii = Traffic(streams, 1.0), radii_for(rows)
    most = widest_radius(radii, rows, traffic, budget)
    if most is None:
        assert expected_per_day(within(radii, 0), rows, traffic) > budget
        return
    assert expected_per_day(within(radii, most), rows, traffic) <= budget
    if within(radii, most) != radii:
        assert expected_per_day(within(radii, most + 1), rows, traffic) > budget


@given(radius=st.integers(0, 255))
def test_a_chance_is_never_more_than_one(radius: int) -> None:
    """However wide the radius."""
    assert 0 < pair_rate(radius) <= 1
