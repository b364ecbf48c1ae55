"""Which GOPs are decoded whole without a reason: one in each block, anywhere in it, and nobody knows which."""

import random
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.bursts import Bursts


def chosen(bursts: Bursts, count: int) -> list[bool]:
    """The choices about the next `count` GOPs."""
    return [bursts.chooses_next() for _ in range(count)]


@given(length=st.integers(1, 60), blocks=st.integers(1, 30), seed=st.integers(0, 999))
def test_each_block_has_exactly_one_chosen_gop(length: int, blocks: int, seed: int) -> None:
    """A share of one in n decodes one GOP of each n, never none and never two."""
    choices = chosen(Bursts(1 / length, random.Random(seed).random), length * blocks)

    assert [sum(choices[at : at + length]) for at in range(0, len(choices), length)] == [1] * blocks


@given(share=st.floats(0.01, 1.0), seed=st.integers(0, 999))
def test_any_share_is_kept_and_leaves_no_long_gap(share: float, seed: int) -> None:
    """After n GOPs n x share were chosen, give or take two, and no gap reaches two blocks."""
    choices = chosen(Bursts(share, random.Random(seed).random), 1000)
    places = [at for at, is_chosen in enumerate(choices) if is_chosen]

    assert sum(choices) == pytest.approx(1000 * share, abs=2)
    assert max((later - earlier for earlier, later in pairwise(places)), default=0) <= 2 / share + 1


@pytest.mark.parametrize("length", [3, 7, 20])
def test_each_place_in_a_block_is_equally_likely(length: int) -> None:
    """Over many blocks every place is chosen as often as any other."""
    choices = chosen(Bursts(1 / length, random.Random(7).random), length * 400 * length)
    counts = Counter(at % length for at, is_chosen in enumerate(choices) if is_chosen)

    # 400 expected at each place, standard deviation below 20
    assert all(320 < counts[place] < 480 for place in range(length))


def test_next_choice_cannot_be_told_from_those_before() -> None:
    """Where a block's GOP lay says nothing about where the next block's lies."""
    length = 5
    choices = chosen(Bursts(1 / length, random.Random(11).random), length * 20_000)
    places = [at % length for at, is_chosen in enumerate(choices) if is_chosen]
    followers: dict[int, Counter[int]] = defaultdict(Counter)
    for earlier, later in pairwise(places):
        followers[earlier][later] += 1

    # 800 expected of each pair, standard deviation below 28
    assert all(680 < followers[earlier][later] < 920 for earlier in range(length) for later in range(length))


@given(share=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 9))
def test_none_and_all_need_no_luck(share: float, seed: int) -> None:
    """A share of 0 chooses nothing, a share of 1 everything."""
    assert set(chosen(Bursts(share, random.Random(seed).random), 50)) == {share == 1.0}


@given(before=st.floats(0.0, 0.1), passed=st.integers(0, 40), seed=st.integers(0, 999))
def test_larger_share_acts_at_once(before: float, passed: int, seed: int) -> None:
    """A share that is raised to one in four has chosen a GOP within four, wherever the block before stood."""
    bursts = Bursts(before, random.Random(seed).random)
    chosen(bursts, passed)
    bursts.adjust(0.25)

    assert bursts.share == 0.25
    assert sum(chosen(bursts, 4)) == 1


def test_share_that_changes_all_the_time_is_kept_on_average() -> None:
    """A share that something else moves with every GOP costs what its mean does."""
    bursts = Bursts(0.1, random.Random(3).random)
    count = 0
    for number in range(20_000):
        bursts.adjust(0.1 if number % 2 else 0.2)
        count += bursts.chooses_next()

    assert count == pytest.approx(3000, abs=160)


@pytest.mark.parametrize(("share", "gops", "chance"), [(0.05, 30, 0.98), (0.33, 5, 0.99)])
def test_chance_of_what_every_gop_hides_is_as_documented(share: float, gops: int, chance: float) -> None:
    """Whoever begins at any moment to hide something in each GOP of 2 s is found so likely within a minute, or 10 s."""
    draw = random.Random(5)
    bursts = Bursts(share, draw.random)
    found = 0
    for _ in range(4000):
        chosen(bursts, draw.randrange(1, 40))
        found += any(chosen(bursts, gops))

    assert found / 4000 == pytest.approx(chance, abs=0.01)


@given(share=st.floats(0.01, 1.0))
def test_whatever_is_drawn_lies_in_the_block(share: float) -> None:
    """The last number below 1 chooses a place of the block like any other."""
    choices = chosen(Bursts(share, lambda: 1.0 - 2**-53), 400)

    assert sum(choices) == pytest.approx(400 * share, abs=2)
