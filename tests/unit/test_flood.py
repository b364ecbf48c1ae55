"""Entries that match many streams at once: counted, held to reviews, kept on disk, released by people."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from detector.banks.flood import Floods, FloodSettings
from detector.banks.quarantine import Quarantine
from detector.events import Decision, Signal, Step
from detector.metrics import Metrics
from models.bank_store import INCIDENT_BANK, add_entries, annotate, load_bank, notes, remove_entry
from tests.waiting import until

LIMITS = FloodSettings(streams=3, share=0.1, window_seconds=60.0)


def _signal(source: str = "CARDS/one", step: Step = Step.CUT) -> Signal:
    bank, entry = source.split("/")
    return Signal(kind="hash", name="pdq", source=source, step=step, threshold=31, bank=bank, entry=entry, distance=3)


def _decision(stream: str, *signals: Signal) -> Decision:
    action = max((signal.step for signal in signals), default=Step.OFF)
    return Decision(stream, f"session-{stream}", None, action, is_live=True, signals=signals, votes=(1, 1))


def test_one_stream_more_than_the_limit_is_a_flood() -> None:
    """Distinct streams count, however often each is matched; the entry is named once."""
    floods = Floods(LIMITS)
    named = [
        floods.note(_decision(f"s{number // 5}", _signal()), now=float(number), live_streams=10) for number in range(40)
    ]
    assert [place for place, signals in enumerate(named) if signals] == [15]
    assert floods.quarantined == {"CARDS/one"}


@pytest.mark.parametrize(("live", "most"), [(10, 3), (30, 3), (40, 4), (100, 10)])
def test_the_larger_of_number_and_share_counts(live: int, most: int) -> None:
    """On a large platform an entry may match a share of the streams."""
    floods = Floods(LIMITS)
    for number in range(most):
        assert not floods.note(_decision(f"s{number}", _signal()), now=0.0, live_streams=live)
    assert floods.note(_decision("last", _signal()), now=0.0, live_streams=live)


def test_streams_beyond_the_window_are_forgotten() -> None:
    """An entry that is matched now and then is no flood."""
    floods = Floods(LIMITS)
    for number in range(50):
        assert not floods.note(_decision(f"s{number}", _signal()), now=20.5 * number, live_streams=10)


@pytest.mark.parametrize(
    "signal",
    [
        _signal(step=Step.SHADOW),
        _signal(f"{INCIDENT_BANK}/019abc"),
        Signal(kind="class", name="m/l", source="m/l", step=Step.CUT, threshold=0.9, score=0.95),
    ],
    ids=["shadow", "incident", "class"],
)
def test_what_is_no_entry_that_acts_is_not_counted(signal: Signal) -> None:
    """Shadows do nothing, re-streams of what was cut are expected, and classes have the breaker."""
    floods = Floods(LIMITS)
    for number in range(50):
        assert not floods.note(_decision(f"s{number}", signal), now=0.0, live_streams=10)


def test_a_trusted_entry_may_match_as_many_as_there_are() -> None:
    """Whoever confirmed it said that so many copies are copies."""
    floods = Floods(LIMITS)
    floods.hold([], ["CARDS/one"])
    for number in range(50):
        assert not floods.note(_decision(f"s{number}", _signal()), now=0.0, live_streams=10)


def test_a_cut_that_only_quarantined_entries_ask_for_is_a_review() -> None:
    """It names the entry as its reason; what another source asks for as strongly stands."""
    floods = Floods(LIMITS)
    floods.hold(["CARDS/one"])
    held = floods.judge(_decision("s", _signal(), _signal("CARDS/two", Step.REVIEW)))
    assert (held.action, held.refused_by) == (Step.REVIEW, "CARDS/one")
    for stands in (_decision("s", _signal(), _signal("CARDS/two")), _decision("s", _signal("CARDS/two"))):
        assert floods.judge(stands) is stands


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.floats(0, 30)), max_size=80))
def test_nothing_is_held_that_matched_no_more_than_it_may(hits: list[tuple[int, int, float]]) -> None:
    """However matches arrive, an entry in quarantine had more distinct streams in one window than the limit."""
    floods, now = Floods(LIMITS), 0.0
    seen: list[tuple[str, str, float]] = []
    for stream, entry, later in hits:
        now += later
        source = f"CARDS/e{entry}"
        seen.append((source, f"s{stream}", now))
        if floods.note(_decision(f"s{stream}", _signal(source)), now=now, live_streams=1):
            latest = {name for one, name, at in seen if one == source and at > now - LIMITS.window_seconds}
            assert len(latest) > LIMITS.streams


class Site:
    """A bank CARDS with an entry, and the quarantine over it."""

    def __init__(self, folder: Path) -> None:
        self.banks = folder
        self.bank = folder / "CARDS"
        rows = np.frombuffer(secrets.token_bytes(32), np.uint8)[None]
        add_entries(self.bank, rows, ["one"])
        self.metrics = Metrics()
        self.quarantine = Quarantine(folder, self.metrics, lambda: LIMITS)

    def flood(self) -> Decision:
        """Have the entry match more streams than it may; gives what becomes of the last decision."""
        for number in range(4):
            judged = self.quarantine.judge(_decision(f"s{number}", _signal()), now=0.0, live_streams=1)
        return judged

    def is_on_disk(self) -> bool:
        """Whether the bank itself says that the entry is in quarantine."""
        found = notes(self.bank).get("one")
        return found is not None and found.quarantined

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The work that writes it down."""
        work = asyncio.create_task(self.quarantine.run(), name="test.quarantine")
        try:
            yield
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def test_a_flood_is_held_at_once_and_kept_on_disk(tmp_path: Path) -> None:
    """The decision that makes it a flood cuts nobody; the bank, a metric, the log and health tell of it."""
    site = Site(tmp_path)
    with capture_logs() as logs:
        async with site.running():
            last = site.flood()
            await until(site.is_on_disk)
    assert (last.action, last.refused_by) == (Step.REVIEW, "CARDS/one")
    assert [line for line in logs if line["event"] == "entry.quarantined"] == [
        {"event": "entry.quarantined", "log_level": "warning", "bank": "CARDS", "entry": "one"}
    ]
    assert site.metrics.value("stopframe_quarantined_entries_total") == 1
    (told,) = site.quarantine.problems()
    assert told.startswith("CARDS/one matched many streams at once")
    assert "stopframe hashes confirm" in told
    assert load_bank(site.bank).is_quarantined("one")


async def test_a_restart_remembers(tmp_path: Path) -> None:
    """Another service over the same banks holds the entry from its first look on."""
    site = Site(tmp_path)
    annotate(site.bank, "one", lambda noted: replace(noted, quarantined=True))
    await site.quarantine.look()
    held = site.quarantine.judge(_decision("s", _signal()), now=0.0, live_streams=1)
    assert (held.action, held.refused_by) == (Step.REVIEW, "CARDS/one")


async def test_releasing_it_on_disk_or_by_hand_lets_it_act_again(tmp_path: Path) -> None:
    """Whoever says that it is right, at the shell or to the service, is heard; the count begins anew."""
    site = Site(tmp_path)
    annotate(site.bank, "one", lambda noted: replace(noted, quarantined=True))
    await site.quarantine.look()
    annotate(site.bank, "one", lambda noted: replace(noted, quarantined=False))
    await site.quarantine.look()
    assert site.quarantine.judge(_decision("s", _signal()), now=0.0, live_streams=1).action is Step.CUT
    assert site.quarantine.problems() == []

    async with site.running():
        site.flood()
        await until(site.is_on_disk)
        assert await site.quarantine.release("CARDS/one")
    assert not site.is_on_disk()
    assert not await site.quarantine.release("CARDS/one")


async def test_an_entry_that_people_confirmed_is_left_alone(tmp_path: Path) -> None:
    """It may match as many streams as show it."""
    site = Site(tmp_path)
    annotate(site.bank, "one", lambda noted: replace(noted, confirmations=1))
    await site.quarantine.look()
    async with site.running():
        assert site.flood().action is Step.CUT
    assert not site.is_on_disk()


async def test_an_entry_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    """A removed entry is no longer in quarantine, and nothing fails over it."""
    site = Site(tmp_path)
    remove_entry(site.bank, "one")
    async with site.running():
        site.flood()
        await until(lambda: not site.quarantine.problems())


async def test_a_bank_that_cannot_be_written_is_told_and_the_entry_held(tmp_path: Path) -> None:
    """Until the service ends the entry stays in quarantine, in memory alone."""
    site = Site(tmp_path)
    await site.quarantine.look()
    (site.bank / "bank.json").write_text("{")
    with capture_logs() as logs:
        async with site.running():
            site.flood()
            await until(lambda: any(line["event"] == "quarantine.unsaved" for line in logs))
            await asyncio.sleep(0.05)
    assert site.quarantine.problems()
