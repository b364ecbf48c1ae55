"""How much CPU time one stream may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.cpu_budget import BURST_SECONDS, CpuBudget

steps = st.lists(st.tuples(st.floats(0.001, 2.0), st.floats(0.0, 1.0)), max_size=100)


@given(steps=steps, share=st.floats(0.05, 1.0))
def test_budget_lets_nobody_take_more_than_his_share_and_a_burst(
    steps: list[tuple[float, float]], share: float
) -> None:
    """Whoever stops while it is spent takes his share of the time, a burst, and what one step took."""
    budget = CpuBudget(share)
    now = used = 0.0
    budget.note(now, used)
    longest = 0.0
    for seconds, wanted_share in steps:
        wanted = 0.0 if budget.is_spent else seconds * wanted_share
        longest = max(longest, wanted)
        now, used = now + seconds, used + wanted
        budget.note(now, used)

    assert used <= share * (now + BURST_SECONDS) + longest + 1e-6
    assert 0.0 <= budget.throttled_seconds <= now


@given(steps=steps, share=st.floats(0.05, 1.0))
def test_budget_never_bothers_who_keeps_to_his_share(steps: list[tuple[float, float]], share: float) -> None:
    """A stream that takes less than its share in every step is never throttled."""
    budget = CpuBudget(share)
    now = used = 0.0
    for seconds, part in steps:
        now, used = now + seconds, used + seconds * share * part
        budget.note(now, used)

    assert not budget.is_spent
    assert budget.throttled_seconds == 0.0
    assert budget.rest_seconds == 0.0


def test_budget_once_spent_is_thinned_for_a_while_and_counted() -> None:
    """What was before the first note is free; an overdraft is paid back, and half the bucket filled, first."""
    budget = CpuBudget(0.5)
    budget.note(100.0, 7.0)
    budget.note(101.0, 9.5)
    assert budget.is_spent
    assert budget.rest_seconds == pytest.approx(1.0)

    for second in range(1, 6):
        budget.note(101.0 + second / 2, 9.5)
    assert not budget.is_spent
    assert budget.throttled_seconds == pytest.approx(2.5)
