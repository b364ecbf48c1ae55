"""Incidents and coverage on disk."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from detector.events import CutState, Step, StreamKey
from detector.store.coverage import CoverageStore, CoverageTotals
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.incidents import CutProgress, IncidentNotFound, IncidentRecord, Incidents, write_incident
from detector.store.retained import RetainedTopics


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "s.db") as database:
        yield database


def _incident(number: int, **changes: Any) -> IncidentRecord:
    values: dict[str, Any] = {
        "incident_id": f"0190-{number:04d}",
        "stream_id": "streamone",
        "session": "s1",
        "key": StreamKey("main", "live", "secretkey"),
        "connection": "17",
        "opened_at_ms": 1_700_000_000_000 + number,
        "action": Step.CUT,
        "is_live": True,
        "signals": "pdq CARDS/card-1",
    }
    return IncidentRecord(**(values | changes))


async def test_record_comes_back_as_it_was(db: Database) -> None:
    """What is stored is returned unchanged, the real path included."""
    record = _incident(1, cut_state=CutState.PENDING, refused_by="breaker", detail="x")
    await Incidents(db).open(record)

    assert await Incidents(db).get(record.incident_id) == record


async def test_key_shows_nowhere(db: Database) -> None:
    """Neither `repr` nor what is shown to people names the publisher's key."""
    record = _incident(1)

    assert "secretkey" not in repr(record) + str(record.public())
    assert record.public()["opened_at"] == "2023-11-14T22:13:20.001Z"


async def test_newest_first_and_by_stream(db: Database) -> None:
    """The list starts with the newest and can be held to one stream."""
    incidents = Incidents(db)
    for number in range(5):
        await incidents.open(_incident(number, stream_id=f"stream{number % 2}"))

    assert [r.incident_id[-1] for r in await incidents.newest(3)] == ["4", "3", "2"]
    assert [r.incident_id[-1] for r in await incidents.newest(stream_id="stream1")] == ["3", "1"]


async def test_unique_prefix_is_enough(db: Database) -> None:
    """An id may be shortened as far as it stays unique; otherwise the error says why it is not enough."""
    incidents = Incidents(db)
    await incidents.open(_incident(1))
    await incidents.open(_incident(2))

    assert (await incidents.get("0190-0002")).incident_id == "0190-0002"
    with pytest.raises(IncidentNotFound, match="more than one"):
        await incidents.get("0190-")
    for absent in ("0191", "", "%", "0190-0001x"):
        with pytest.raises(IncidentNotFound, match="no incident"):
            await incidents.get(absent)


async def test_cut_progress_survives_and_is_not_set_back(db: Database) -> None:
    """A cut's progress is kept step by step, and a later alert about the incident does not undo it."""
    incidents = Incidents(db)
    await incidents.open(_incident(1, cut_state=CutState.PENDING, action=Step.REVIEW))
    await incidents.set_cut("0190-0001", CutProgress(state=CutState.PENDING, gone_at_ms=5))
    await incidents.set_cut("0190-0001", CutProgress(state=CutState.CONFIRMED, confirmed_at_ms=9, time_to_cut_ms=4))
    await incidents.open(_incident(1, signals="more", detail="d"))

    record = await incidents.get("0190-0001")
    assert (record.cut_state, record.gone_at_ms, record.confirmed_at_ms, record.time_to_cut_ms) == (
        CutState.CONFIRMED,
        5,
        9,
        4,
    )
    assert (record.signals, record.action) == ("more", Step.CUT)


async def test_pending_cuts_are_found_after_a_restart(tmp_path: Path) -> None:
    """A new process finds the cuts that were begun, oldest first, with what it needs to go on."""
    async with Database.open(tmp_path / "x.db") as first:
        for number, state in enumerate([CutState.PENDING, CutState.FAILED, CutState.NONE, CutState.PENDING]):
            await Incidents(first).open(_incident(number, cut_state=state))

    async with Database.open(tmp_path / "x.db") as second:
        pending = await Incidents(second).pending_cuts()
    assert [(r.incident_id, r.key.name, r.connection) for r in pending] == [
        ("0190-0000", "secretkey", "17"),
        ("0190-0003", "secretkey", "17"),
    ]


async def test_a_cut_that_was_taken_back_is_not_gone_on_with(db: Database) -> None:
    """What an operator undid is not done again by a restart, even if the end of the cut was never written."""
    incidents = Incidents(db)
    await incidents.open(_incident(1, cut_state=CutState.PENDING))
    await incidents.open(_incident(2, cut_state=CutState.PENDING))
    await incidents.mark_undone("0190-0001", 7)

    assert [record.incident_id for record in await incidents.pending_cuts()] == ["0190-0002"]


async def test_withdrawn_cuts_are_not_gone_on_with(db: Database) -> None:
    """All cuts of the key that are under way end with the undo of one, before it is marked; nothing else changes."""
    incidents = Incidents(db)
    for number in (1, 2):
        await incidents.open(_incident(number, cut_state=CutState.PENDING))
    await incidents.open(_incident(3, cut_state=CutState.CONFIRMED))
    await incidents.open(_incident(4, cut_state=CutState.PENDING, key=StreamKey("main", "live", "k\udcff")))

    await incidents.withdraw("0190-0001", (await incidents.get("0190-0001")).key)

    assert [record.incident_id for record in await incidents.pending_cuts()] == ["0190-0004"]
    found = {record.incident_id: (record.cut_state, record.detail) for record in await incidents.newest()}
    assert found["0190-0001"] == found["0190-0002"] == (CutState.FAILED, "an operator took the cut back")
    assert found["0190-0003"][0] is CutState.CONFIRMED
    await incidents.withdraw("0190-0004", (await incidents.get("0190-0004")).key)
    assert await incidents.pending_cuts() == []


async def test_undo_is_marked_once(db: Database) -> None:
    """The first undo is kept with its time; a second one changes nothing and says so."""
    incidents = Incidents(db)
    await incidents.open(_incident(1))

    assert [await incidents.mark_undone("0190-0001", at) for at in (7, 8)] == [True, False]
    assert (await incidents.get("0190-0001")).undone_at_ms == 7
    assert await incidents.mark_undone("absent", 1) is False


async def test_coverage_keeps_the_last_totals_per_session(db: Database) -> None:
    """Totals replace those of the same session and stand beside those of others."""
    store = CoverageStore(db)
    old = CoverageTotals(stream_id="a", session="1", seen_seconds=1.0, updated_at_ms=1)
    new = CoverageTotals(
        stream_id="a",
        session="1",
        seen_seconds=9.5,
        skipped_seconds={"overload": 1.5},
        blind_seconds={"stall": 2.0},
        max_gap_seconds=2.0,
        updated_at_ms=5,
    )
    other = CoverageTotals(stream_id="a", session="2", seen_seconds=3.0, updated_at_ms=9)
    await store.upsert([old])
    await store.upsert([new, other])

    assert await store.of_stream("a") == [other, new]


async def test_retained_topics_are_a_set(db: Database) -> None:
    """A topic is noted once, however often it is remembered, until it is struck out."""
    topics = RetainedTopics(db)
    for topic in ("b", "a", "b"):
        await topics.remember(topic)
    await topics.forget("a")
    await topics.forget("never")

    assert await topics.all() == ["b"]


async def test_a_path_that_is_no_utf8_is_stored_as_any_other(db: Database) -> None:
    """Bytes that are no UTF-8 in a publisher's path cost neither the incident nor the way back to its key."""
    key = StreamKey("main", "li\udcffve", "\ud800\udcfe")
    record = _incident(1, key=key, connection="\udc80", detail="\udcff", cut_state=CutState.PENDING)
    await Incidents(db).open(record)
    await Incidents(db).set_cut(record.incident_id, CutProgress(state=CutState.PENDING, detail="\udcfe"))

    (found,) = await Incidents(db).pending_cuts()
    assert (found.key, found.connection, found.detail) == (key, "\udc80", "\udcfe")


async def _refuse_all(db: Database) -> None:
    pages = await db.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await db.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())


async def _take_all(db: Database) -> None:
    await db.read(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())


async def test_the_end_of_a_cut_is_never_overtaken_by_what_a_full_disk_held_up(db: Database) -> None:
    """Incident and beginning of a cut wait for room, its end comes when there is some: all of it is there, in order."""
    incidents, record = Incidents(db), _incident(1, cut_state=CutState.PENDING, signals="x" * 100_000)
    await _refuse_all(db)
    with pytest.raises(StoreUnavailable):
        await incidents.open(record)
    with pytest.raises(StoreUnavailable):
        await incidents.set_cut(record.incident_id, CutProgress(state=CutState.PENDING, detail="y" * 100_000))
    await _take_all(db)
    await incidents.set_cut(record.incident_id, CutProgress(state=CutState.CONFIRMED, time_to_cut_ms=7))
    await db.write_late()

    found = await incidents.get(record.incident_id)
    assert (found.cut_state, found.time_to_cut_ms) == (CutState.CONFIRMED, 7)
    assert await incidents.pending_cuts() == []


async def test_what_nobody_waited_for_and_the_disk_then_refused_is_written_at_the_end(tmp_path: Path) -> None:
    """A caller that gives up on a frozen disk loses nothing if that disk is full, and the service ends soon after."""
    thaw = threading.Event()
    async with Database.open(tmp_path / "late.db") as db:
        await Incidents(db).open(_incident(1, cut_state=CutState.PENDING))
        await _refuse_all(db)
        blocker = asyncio.create_task(db.read(lambda _: thaw.wait(5)))
        progress = CutProgress(state=CutState.CONFIRMED, detail="x" * 100_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Incidents(db).set_cut("0190-0001", progress), 0.05)
        thaw.set()
        await asyncio.gather(blocker, return_exceptions=True)  # it shares its commit with what is refused
        assert (await Incidents(db).get("0190-0001")).cut_state is CutState.PENDING
        await _take_all(db)
    async with Database.open(tmp_path / "late.db") as db:
        assert (await Incidents(db).get("0190-0001")).cut_state is CutState.CONFIRMED


async def test_a_work_that_is_faulty_itself_holds_up_no_other(db: Database) -> None:
    """What no disk can take is dropped and counted; what waits behind it is written."""
    db.write_later("faulty", lambda c: c.execute("SELECT * FROM absent"))
    db.write_later("incident", lambda c: write_incident(c, _incident(1)))
    await db.write_late()

    assert (await Incidents(db).get("0190-0001")).stream_id == "streamone"
    assert (db.late_lost_total, await db.write_late()) == (1, 0)
    assert db.problems()[0].startswith("1 incidents or ends of cuts are lost")
