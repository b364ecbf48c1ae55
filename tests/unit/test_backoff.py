"""When a lost reader is replaced."""

import random

from hypothesis import given
from hypothesis import strategies as st

from detector.backoff import Reconnect, ReconnectSettings

SETTINGS = ReconnectSettings()
_WORKED = st.floats(0, 100, allow_nan=False)


@given(worked=_WORKED, draw=st.floats(0, 1, exclude_max=True))
def test_the_first_try_follows_at_once(worked: float, draw: float) -> None:
    """A source that closed once is opened again without a pause, however long it had worked."""
    assert Reconnect(SETTINGS, lambda: draw).lost(5.0, worked_seconds=worked, is_crash=False).seconds == 0.0


@given(failures=st.integers(2, 2000), seed=st.integers(0, 2**32))
def test_pauses_grow_to_their_limit_and_spread_over_it(failures: int, seed: int) -> None:
    """No pause is longer than its doubled limit or the longest, and none is shorter than nothing."""
    reconnect = Reconnect(SETTINGS, random.Random(seed).random)
    for number in range(1, failures + 1):
        pause = reconnect.lost(float(number), worked_seconds=0.0, is_crash=False)
        limit = SETTINGS.first_seconds * 2.0 ** min(max(0, number - 2), 32)
        assert 0.0 <= pause.seconds <= min(limit, SETTINGS.longest_seconds)
        assert not pause.is_quarantine


def test_streams_that_were_lost_together_do_not_come_back_together() -> None:
    """The pauses of many streams fill the whole time up to the limit evenly."""
    draw = random.Random(7).random
    waits = []
    for _ in range(2000):
        reconnect = Reconnect(SETTINGS, draw)
        waits.append([reconnect.lost(0.0, worked_seconds=0.0, is_crash=False).seconds for _ in range(12)][-1])
    in_each_second = [sum(second <= wait < second + 1 for wait in waits) for second in range(10)]
    assert min(in_each_second) > 130
    assert max(in_each_second) < 270


def test_a_source_that_worked_is_tried_at_once_again() -> None:
    """A reader that lasted proves its source: what came before is forgotten."""
    reconnect = Reconnect(SETTINGS, lambda: 0.999)
    for _ in range(20):
        reconnect.lost(0.0, worked_seconds=0.5, is_crash=False)
    assert reconnect.failures == 20
    assert reconnect.lost(60.0, worked_seconds=SETTINGS.steady_seconds, is_crash=False).seconds == 0.0
    assert reconnect.failures == 1


def test_a_stream_that_shows_something_is_never_left_unwatched_for_long() -> None:
    """Whoever has each of his readers end after a picture gains a second at most, however often he does it."""
    reconnect = Reconnect(SETTINGS, lambda: 0.999)
    for number in range(50):
        pause = reconnect.lost(number * 5.0, worked_seconds=4.0, is_crash=False, has_pictured=True)
        assert pause.seconds < 1.0


def test_what_may_change_at_any_moment_is_looked_at_more_often() -> None:
    """A shorter limit holds for this pause alone."""
    reconnect = Reconnect(SETTINGS, lambda: 0.999)
    for _ in range(20):
        assert reconnect.lost(0.0, worked_seconds=0.0, is_crash=False, longest_seconds=3.0).seconds <= 3.0
    assert reconnect.lost(0.0, worked_seconds=0.0, is_crash=False).seconds > 9.0


@given(gaps=st.lists(st.floats(0.01, 200, allow_nan=False), min_size=1, max_size=200))
def test_no_window_holds_more_crashes_than_the_limit(gaps: list[float]) -> None:
    """Between two quarantines at most `crash_limit` - 1 crashes fall into any window, and each is made good at once."""
    reconnect = Reconnect(SETTINGS, lambda: 0.5)
    now, free = 0.0, []
    for gap in gaps:
        now += gap
        pause = reconnect.lost(now, worked_seconds=gap, is_crash=True)
        if pause.is_quarantine:
            assert SETTINGS.quarantine_seconds <= pause.seconds <= SETTINGS.longest_quarantine_seconds
            free.clear()
            now += pause.seconds
            continue
        assert pause.seconds == 0.0
        free.append(now)
        assert sum(now - at < SETTINGS.crash_window_seconds for at in free) < SETTINGS.crash_limit


def test_quarantines_grow_until_a_reader_lasts() -> None:
    """Twice as long each time, up to the limit; a reader that outlives the window starts them small again."""
    reconnect = Reconnect(SETTINGS, lambda: 0.5)

    def quarantine(worked_seconds: float = 0.1) -> float:
        pauses = [reconnect.lost(0.0, worked_seconds=worked_seconds, is_crash=True) for _ in range(5)]
        assert [pause.is_quarantine for pause in pauses] == [False] * 4 + [True]
        return pauses[-1].seconds

    assert [quarantine() for _ in range(7)] == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    reconnect.lost(0.0, worked_seconds=61.0, is_crash=False)
    assert quarantine() == 30.0
