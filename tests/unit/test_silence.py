"""What happens while a packet is waited for: by whom, when, and never beside the reading thread's own work."""

import math
import threading
import time
from collections.abc import Callable

import pytest

from streams import silence as silence_module
from streams.sender import Counters
from streams.silence import Silence
from tests.slack import SLACK_SECONDS
from tests.waiting import until_in_thread

PAUSE = 0.05


def nothing() -> None:
    pass


def silence_of(
    counters: Counters, look: Callable[[], None] = nothing, give_up: Callable[[], None] = nothing, limit: float = 60.0
) -> Silence:
    one = Silence(counters, look, give_up, limit)
    one.pause_seconds = PAUSE
    return one


def test_a_pause_is_looked_at_once_and_the_limit_ends_it() -> None:
    """First the look, at the limit the end, each once, in a thread that has a name; the next wait has a look anew."""
    calls: list[tuple[str, str]] = []
    looked, ended = threading.Event(), threading.Event()

    def note(what: str, done: threading.Event) -> Callable[[], None]:
        return lambda: (calls.append((what, threading.current_thread().name)), done.set())[0]

    with silence_of(Counters(), note("look", looked), note("end", ended), limit=2.0) as silence:
        for _ in range(2):
            with silence.waiting():
                assert looked.wait(SLACK_SECONDS)
            looked.clear()
            assert not silence.is_over
        with silence.waiting():
            assert ended.wait(2 * SLACK_SECONDS)
        assert silence.is_over

    assert calls == [("look", "silence")] * 3 + [("end", "silence")]
    assert "silence" not in {thread.name for thread in threading.enumerate()}


def test_what_was_not_wanted_is_listened_for_before_a_pause_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dropped packets unread takes them again well before anybody says that the source sends nothing."""
    monkeypatch.setattr(silence_module, "STIR_SECONDS", 0.05)
    calls: list[tuple[str, float]] = []

    def note(what: str) -> Callable[[], None]:
        return lambda: calls.append((what, time.monotonic()))

    silence = Silence(Counters(), note("look"), note("end"), 60.0, stir=note("stir"))
    silence.pause_seconds = 0.25
    with silence:
        begun = time.monotonic()
        with silence.waiting():
            until_in_thread(lambda: len(calls) == 2)

    assert [what for what, _ in calls] == ["stir", "look"]
    assert calls[0][1] - begun >= 0.05
    assert calls[1][1] - begun >= 0.25


def test_packets_that_come_in_time_cost_no_look() -> None:
    """Waits that are shorter than a pause, and work that is longer, are none."""
    looks: list[float] = []
    pauses = 0
    with silence_of(Counters(), lambda: looks.append(time.monotonic())) as silence:
        for _ in range(20):
            begun = time.monotonic()
            with silence.waiting():
                time.sleep(PAUSE / 10)
            pauses += time.monotonic() - begun >= PAUSE  # on a machine that had no time for us
        time.sleep(3 * PAUSE)

    assert len(looks) <= pauses


def test_a_pause_is_never_longer_than_the_promise_and_never_than_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a promise of minutes the constant counts."""
    monkeypatch.setattr(silence_module, "PAUSE_SECONDS", PAUSE)
    looked = threading.Event()
    silence = Silence(Counters(), looked.set, nothing, math.inf)
    silence.pause_seconds = 600.0
    with silence, silence.waiting():
        assert looked.wait(SLACK_SECONDS)


def test_a_limit_that_is_shorter_than_a_pause_still_has_both() -> None:
    """Whoever gives a source up after half a second has looked at it before."""
    calls: list[str] = []
    silence = Silence(Counters(), lambda: calls.append("look"), lambda: calls.append("end"), PAUSE)
    with silence, silence.waiting():
        until_in_thread(lambda: len(calls) == 2)

    assert calls == ["look", "end"]


def test_the_reading_thread_waits_for_a_look_that_goes_on() -> None:
    """A packet that comes meanwhile is handled after it: decoders are never used by two threads."""
    begun, done = threading.Event(), threading.Event()

    def look() -> None:
        begun.set()
        time.sleep(0.2)
        done.set()

    with silence_of(Counters(), look) as silence:
        with silence.waiting():
            assert begun.wait(SLACK_SECONDS)
        assert done.is_set()


def test_a_look_is_work_and_no_waiting() -> None:
    """Who watches the reader sees since when it works, and the limit for reading cannot end it amid a look."""
    overdue_at = time.monotonic()
    counters = Counters(overdue_at=overdue_at)
    seen: list[tuple[float, float]] = []
    looked = threading.Event()

    def look() -> None:
        seen.append((counters.working_since, counters.overdue_at))
        looked.set()

    with silence_of(counters, look) as silence:
        with silence.waiting():
            assert looked.wait(SLACK_SECONDS)
        ((working_since, during),) = seen
        assert time.monotonic() - 2 * SLACK_SECONDS < working_since
        assert during == math.inf
        assert math.isnan(counters.working_since)
        assert overdue_at <= counters.overdue_at <= time.monotonic()


def test_what_a_look_raises_is_told_to_the_reading_thread() -> None:
    """Nothing is swallowed, and nothing is tried again."""
    looks: list[None] = []

    def look() -> None:
        looks.append(None)
        raise MemoryError

    with silence_of(Counters(), look) as silence:
        with silence.waiting():
            until_in_thread(lambda: bool(looks))
        with silence.waiting():
            time.sleep(3 * PAUSE)
        with pytest.raises(MemoryError):
            silence.check()

    assert looks == [None]


def test_the_thread_ends_with_whatever_ends_the_reading() -> None:
    """An error of the source while it is waited for, or while a packet is handled, leaves no thread behind."""
    for is_waiting in (True, False):
        with pytest.raises(LookupError), silence_of(Counters()) as silence:  # noqa: PT012 - where it is raised counts
            if is_waiting:
                with silence.waiting():
                    raise LookupError
            raise LookupError

    assert "silence" not in {thread.name for thread in threading.enumerate()}
