"""What a list may change in a day without a word: a tenth beyond what is usual, however many steps it takes."""

from pathlib import Path

import numpy as np
import pytest

from detector.exchanges.records import Outcome
from tests.contract.test_exchanges import PEERS, had, held
from tests.exchange_servers import NOW, FakeExchange, Holdings, made_up
from tests.fixtures_own_list import DAY, OwnList

STOPNCII = PEERS[0]


@pytest.fixture
async def own(tmp_path: Path) -> OwnList:
    """A list of 2,000 rows, had once."""
    own = OwnList(tmp_path)
    own.put(made_up(2000))
    await own.sync()
    return own


async def test_a_list_that_grows_by_more_than_a_tenth_beyond_usual_needs_a_word(own: OwnList) -> None:
    """Of 2,000 rows 200 may come in a day; 201 are refused as a whole until somebody accepts them, and only them."""
    rows = made_up(5000)
    own.put(rows[:2201])
    state = await own.sync()
    assert (state.outcome, state.came, state.went, own.rows()) == (Outcome.REFUSED, 201, 0, 2000)
    assert "stopframe lists accept own" in state.sentence
    own.put(rows[:2200])
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.SYNCED, 2200)

    own.put(rows[:2700])
    refused = await own.sync()
    assert (refused.outcome, refused.came) == (Outcome.REFUSED, 500)
    own.accepted = (refused.came, refused.went)
    own.put(rows[:3000])  # more than what was accepted came meanwhile
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.REFUSED, 2200)
    own.put(rows[:2700])
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.SYNCED, 2700)


async def test_what_usually_changes_may_change(tmp_path: Path) -> None:
    """A list of 2,000 that takes 150 rows each day may take 390 (its usual 150 and a tenth), not 500."""
    rows = made_up(5000)
    own = OwnList(tmp_path)
    for count in (2000, 2150, 2300, 2450):
        own.put(rows[:count])
        assert (await own.sync()).outcome == Outcome.SYNCED
        own.now += DAY
    own.put(rows[: 2450 + 500])
    assert (await own.sync()).outcome == Outcome.REFUSED
    own.put(rows[: 2450 + 390])
    assert (await own.sync()).outcome == Outcome.SYNCED


async def test_what_is_withdrawn_goes_though_what_comes_is_refused(own: OwnList) -> None:
    """An exchange that takes five rows back and brings a thousand gets its five; the thousand wait for a word."""
    rows = made_up(4000)
    own.put(rows[5:3000])
    state = await own.sync()
    assert (state.outcome, state.came, state.went, own.rows()) == (Outcome.REFUSED, 1000, 5, 1995)
    assert "but what was withdrawn" in state.sentence


async def test_a_list_that_is_emptied_or_replaced_needs_a_word(own: OwnList) -> None:
    """Who takes a list's place takes no more of it away than a tenth, and brings no more."""
    rows = made_up(4000)
    own.put(rows[:1000])
    state = await own.sync()
    assert (state.outcome, state.came, state.went) == (Outcome.REFUSED, 0, 1000)
    own.put(rows[2000:])
    state = await own.sync()
    assert (state.outcome, state.came, state.went, own.rows()) == (Outcome.REFUSED, 2000, 2000, 2000)
    own.put(np.concatenate([rows[1:2000], rows[2000:2001]]))
    assert (await own.sync()).outcome == Outcome.SYNCED


async def test_a_list_is_not_emptied_in_small_steps(own: OwnList) -> None:
    """Of 2,000 rows a tenth may go in a day, however often it is asked; the next day it may take more."""
    rows = made_up(2000)
    for count in (1900, 1801, 1799, 1700):
        own.put(rows[:count])
        state = await own.sync()
        assert state.outcome == (Outcome.SYNCED if count > 1800 else Outcome.REFUSED), (count, state.sentence)
    assert own.rows() == 1801
    own.now += DAY
    own.put(rows[:1700])
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.SYNCED, 1700)


async def test_a_refusal_is_not_hidden_behind_a_failure(own: OwnList) -> None:
    """A list that waits for a word waits for it though it cannot be had meanwhile, and may be accepted after that."""
    rows = made_up(2500)
    own.put(rows)
    assert (await own.sync()).outcome == Outcome.REFUSED
    (own.folder / "own.txt").rename(own.folder / "away")
    state = await own.sync()
    assert (state.outcome, state.waits_for_word, state.came) == (Outcome.FAILED, True, 500)
    (own.folder / "away").rename(own.folder / "own.txt")
    own.accepted = (state.came, state.went)
    state = await own.sync()
    assert (state.rows, state.waits_for_word) == (2500, False)


async def test_what_somebody_accepted_is_not_counted_against_the_rest_of_the_day(own: OwnList) -> None:
    """After a word for 500 rows the list may change by a tenth again."""
    rows = made_up(2700)
    own.put(rows[:2500])
    refused = await own.sync()
    own.accepted = (refused.came, refused.went)
    assert (await own.sync()).rows == 2500
    own.accepted = None
    own.put(rows)
    assert (await own.sync()).rows == 2700


async def test_withdrawals_of_a_refused_list_count_too(own: OwnList) -> None:
    """Who always brings too much, and takes a tenth back beside it, empties nothing that way either."""
    rows = made_up(6000)
    for step in range(1, 6):
        own.put(rows[step * 150 : 6000])
        assert (await own.sync()).outcome == Outcome.REFUSED
    assert own.rows() == 1850


async def test_a_bank_grows_beyond_its_most_rows_in_no_number_of_steps(tmp_path: Path) -> None:
    """An exchange that adds a few rows each day is stopped at `most_rows`; what it withdraws then goes all the same."""
    holdings = Holdings(size=100)
    async with FakeExchange(STOPNCII.server(holdings)) as exchange:
        for step in range(4):
            now = NOW + step * DAY
            for number, value in enumerate(made_up(90, seed=step)):
                holdings.put(f"{step}-{number}", value, now + number)
            state = await had(STOPNCII, tmp_path, exchange.url, now + 1000, most_rows=200)
        assert (state.outcome, state.rows) == (Outcome.REFUSED, 180)
        assert "more than most_rows (200)" in state.sentence
        for number, value in enumerate(made_up(5)):
            holdings.put(f"0-{number}", value, now + 1000, is_gone=True)
        state = await had(STOPNCII, tmp_path, exchange.url, now + 2000, most_rows=200)
    assert (state.outcome, len(held(tmp_path))) == (Outcome.REFUSED, 175)
