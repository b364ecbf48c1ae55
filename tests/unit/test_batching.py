"""Batches for a GPU: nobody starves, nothing waits without a gain, and deadlines come first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batching import MOST_WAIT_SECONDS, Ask, BatchCost, Batcher, Turns

GAPS = st.lists(st.floats(0, 0.1), min_size=1, max_size=60)
LIVES = st.lists(st.floats(0.001, 1.0), min_size=60, max_size=60)


class Gpu:
    """Takes a fixed time for a batch and a little for each picture, on a clock of its own."""

    def __init__(self, fixed: float, each: float, largest: int) -> None:
        self.fixed, self.each = fixed, each
        self.batcher = Batcher(largest)
        self.done: dict[int, float] = {}
        self.late: list[int] = []
        self.sizes: list[int] = []
        self.begun: list[tuple[float, list[Ask]]] = []

    def run(self, asks: list[Ask]) -> None:
        now, coming = 0.0, sorted(asks, key=lambda ask: ask.arrived_at)
        while coming or len(self.batcher):
            while coming and coming[0].arrived_at <= now:
                assert self.batcher.put(coming.pop(0)) is None
            begins_at = self.batcher.begins_at(now)
            next_at = coming[0].arrived_at if coming else float("inf")
            if begins_at is None or begins_at > now:
                now = min(next_at, float("inf") if begins_at is None else begins_at)
                continue
            batch, late = self.batcher.take(now)
            self.late += [ask.number for ask in late]
            if batch:
                self.begun.append((now, batch))
                took = self.fixed + self.each * len(batch)
                now += took
                self.batcher.cost.measured(len(batch), took)
                self.sizes.append(len(batch))
                self.done.update({ask.number: now for ask in batch})


def asks_of(gaps: list[float], lives: list[float]) -> list[Ask]:
    now, found = 0.0, []
    for number, gap in enumerate(gaps):
        now += gap
        found.append(Ask(now + lives[number % len(lives)], number, now))
    return found


@settings(max_examples=60, deadline=None)
@given(GAPS, LIVES, st.floats(0.0001, 0.05), st.floats(0.0001, 0.01), st.integers(1, 16))
def test_nobody_starves(gaps: list[float], lives: list[float], fixed: float, each: float, largest: int) -> None:
    """Every picture is scored once or told to be late once, and no batch is larger than it may be."""
    asks = asks_of(gaps, lives)
    gpu = Gpu(fixed, each, largest)
    gpu.run(asks)

    assert sorted([*gpu.done, *gpu.late]) == [ask.number for ask in asks]
    assert all(size <= largest for size in gpu.sizes)


@settings(max_examples=60, deadline=None)
@given(GAPS, LIVES, st.floats(0.0001, 0.05), st.floats(0.0001, 0.01), st.integers(1, 16))
def test_no_later_deadline_goes_first(
    gaps: list[float], lives: list[float], fixed: float, each: float, largest: int
) -> None:
    """Whatever waited when a batch began, and could still be in time, has no nearer deadline than what went."""
    asks = asks_of(gaps, lives)
    gpu = Gpu(fixed, each, largest)
    gpu.run(asks)
    begun_at = {ask.number: at for at, batch in gpu.begun for ask in batch}

    for at, batch in gpu.begun:
        last = max(ask.deadline_at for ask in batch)
        for other in asks:
            if other.arrived_at <= at < begun_at.get(other.number, -1.0):
                assert other.deadline_at >= last


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=30), LIVES, st.integers(1, 16), st.floats(0, 5))
def test_waiting_is_bounded_and_never_costs_a_deadline(
    gaps: list[float], lives: list[float], largest: int, after: float
) -> None:
    """A wait for company ends within its bound, and while the nearest deadline can be met with a margin."""
    batcher = Batcher(largest)
    asks = asks_of(gaps, lives)
    for ask in asks:
        batcher.put(ask)
    now = asks[-1].arrived_at + after

    begins_at = batcher.begins_at(now)

    assert begins_at is not None
    assert now <= begins_at <= max(now, asks[0].arrived_at + MOST_WAIT_SECONDS)
    nearest = min(ask.deadline_at for ask in asks)
    assert begins_at == now or begins_at + batcher.cost.seconds(len(asks)) <= nearest


def test_a_gpu_that_keeps_up_waits_for_nobody() -> None:
    """Ten pictures a second through a GPU that takes 3 ms: each goes at once, alone."""
    gpu = Gpu(0.002, 0.001, 16)
    gpu.run([Ask(number * 0.1 + 1, number, number * 0.1) for number in range(50)])

    assert gpu.sizes == [1] * 50
    assert all(abs(gpu.done[number] - number * 0.1 - 0.003) < 1e-9 for number in range(50))


def test_under_load_batches_grow_until_the_gpu_keeps_up() -> None:
    """A thousand pictures a second, 4 ms a batch and 0.2 ms a picture: alone 240 go through, together all of them."""
    gpu = Gpu(0.004, 0.0002, 32)
    asks = [Ask(number * 0.001 + 0.2, number, number * 0.001) for number in range(2000)]
    gpu.run(asks)

    assert gpu.late == []
    assert max(gpu.done[ask.number] - ask.arrived_at for ask in asks[100:]) < 0.03
    assert sum(gpu.sizes[-50:]) / 50 > 4


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0005, 0.05), st.floats(0.0001, 0.01), st.lists(st.integers(1, 32), min_size=40, max_size=80))
def test_what_batches_cost_is_learned(fixed: float, each: float, sizes: list[int]) -> None:
    """After some batches of different sizes the next one's time is known to a tenth."""
    cost = BatchCost()
    for size in [*sizes, 1, 32, 1, 32]:
        cost.measured(size, fixed + each * size)

    for size in (1, 8, 32):
        assert cost.seconds(size) == pytest.approx(fixed + each * size, rel=0.1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 40), st.floats(allow_nan=True, allow_infinity=True)), max_size=50))
def test_no_measurement_makes_the_cost_absurd(measured: list[tuple[int, float]]) -> None:
    """Times that a broken clock gives are left out, and no estimate is negative."""
    cost = BatchCost()
    for size, seconds in measured:
        cost.measured(size, seconds)

    assert 0 <= cost.seconds(1) <= cost.seconds(32)


def test_the_line_is_bounded() -> None:
    """Where too many wait the one with the latest deadline goes, and it is told."""
    batcher = Batcher(4, most_waiting=2)

    assert batcher.put(Ask(1.0, 1)) is None
    assert batcher.put(Ask(3.0, 2)) is None
    assert batcher.put(Ask(2.0, 3)) == Ask(3.0, 2)
    assert len(batcher) == 2


def test_the_nearest_deadline_of_all_models_is_next() -> None:
    """While all pictures are in time, whichever model has the most urgent one is served, however much it had."""
    turns = Turns()
    turns.used(1, 5.0, 1.0)

    assert turns.next_of({1: 10.0, 2: 11.0}, 1.0) == 1
    assert turns.next_of({1: 12.0, 2: 11.0}, 1.0) == 2


def test_a_model_that_has_more_than_its_share_yields_once_others_are_late() -> None:
    """Where a picture was late a moment ago, who used the GPU least is next; a while later deadlines count again."""
    turns = Turns()
    turns.used(1, 0.5, 1.0)
    turns.used(2, 0.1, 1.0)
    turns.late(1.0)

    assert turns.next_of({1: 10.0, 2: 11.0}, 1.5) == 2
    assert turns.next_of({1: 10.0, 2: 11.0}, 2.5) == 1


def test_nobody_scores_what_nobody_waits_for() -> None:
    """A picture whose asker gave up is late like one whose deadline passed, and stands in no batch."""
    batcher = Batcher(8)
    batcher.put(Ask(10.0, 1, 0.0, 0.5))
    batcher.put(Ask(11.0, 2, 0.0))

    batch, late = batcher.take(1.0)

    assert ([ask.number for ask in batch], [ask.number for ask in late]) == ([2], [1])


def test_once_everybody_waits_nobody_waits_for_company() -> None:
    """Who asks for one picture at a time brings no second one meanwhile: where all askers wait, the batch begins."""
    batcher = Batcher(8, cost=BatchCost(0.02, 0.001))
    for number in range(4):
        batcher.put(Ask(100.0, number, 0.025 * number))
        if number < 3:
            batcher.take(0.0)
    assert batcher.wanted_size() > 1

    later = batcher.begins_at(0.075)
    assert later is not None
    assert later > 0.075
    assert batcher.begins_at(0.075, most=1) == 0.075
