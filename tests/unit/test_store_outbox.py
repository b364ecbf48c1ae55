"""The outbox: one transaction before anything is sent, one row per sink until it is settled."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from detector.events import Step, StreamKey
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.incidents import IncidentRecord, Incidents
from detector.store.outbox import Outbox


@dataclass(frozen=True)
class FakeAlert:
    alert_id: str
    stream_id: str = "s"
    urgency: int = 1
    expires_at_ms: int = 10_000
    incident_id: str | None = None
    padding: int = 0

    def encode(self, seq: int | None, *, durable: bool) -> bytes:
        return json.dumps({"id": self.alert_id, "seq": seq, "durable": durable, "p": "x" * self.padding}).encode()


def _incident(incident_id: str = "i1") -> IncidentRecord:
    return IncidentRecord(
        incident_id=incident_id,
        stream_id="s",
        session="1",
        key=StreamKey("m", "live", "k"),
        opened_at_ms=1,
        action=Step.CUT,
        is_live=True,
        signals="x",
    )


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    # A disk that others fill takes its time for what some of these tests write.
    async with Database.open(tmp_path / "s.db", answer_seconds=120.0) as database:
        yield database


async def _record(outbox: Outbox, *alerts: FakeAlert, sinks: tuple[str, ...] = ("mqtt",)) -> list[int]:
    return [(await outbox.record(a, None, sinks=sinks, now_ms=1)).seq for a in alerts]


def _fill(
    connection: sqlite3.Connection,
    count: int,
    *,
    state: str,
    sinks: Sequence[str] = ("mqtt",),
    first: int = 0,
    expires_at_ms: Callable[[int], int] = lambda _: 100,
) -> None:
    """So many alerts in one state, with a payload that is not small."""
    payload = b"x" * 400
    for number in range(first, first + count):
        row = (f"a{number}", number + 1, f"s{number % 50}", "i", 1, payload, number, expires_at_ms(number))
        connection.execute("INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        rows = [(f"a{number}", sink, state, 2, 50, None if state == "sent" else 60) for sink in sinks]
        connection.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, ?)", rows)


async def test_incident_and_alert_are_one_transaction(db: Database) -> None:
    """Where the alert's row is refused, its incident is not there either."""
    outbox = Outbox(db)
    pages = await db.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await db.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    with pytest.raises(StoreUnavailable):
        await outbox.record(FakeAlert("a", padding=50_000), _incident(), sinks=("mqtt",), now_ms=1)
    assert await Incidents(db).newest() == []

    await db.read(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
    stored = await outbox.record(FakeAlert("a"), _incident(), sinks=("mqtt",), now_ms=1)
    assert stored.seq == 1
    assert [r.incident_id for r in await Incidents(db).newest()] == ["i1"]


async def test_seq_has_no_gaps_under_concurrency_and_restarts(tmp_path: Path) -> None:
    """Numbers count on without a gap: over concurrent submits, rows that were removed, and a restart."""
    seqs = []
    for run in range(2):
        async with Database.open(tmp_path / "s.db") as db:
            outbox = Outbox(db)
            results = await asyncio.gather(*(_record(outbox, FakeAlert(f"{run}-{n}"), sinks=()) for n in range(30)))
            seqs += [seq for result in results for seq in result]
            await db.write(lambda c: c.execute("DELETE FROM alerts").rowcount)

    assert sorted(seqs) == list(range(1, 61))


async def test_same_alert_is_stored_once(db: Database) -> None:
    """Recording an alert again returns the number and the bytes of the first time."""
    outbox = Outbox(db)
    first = await outbox.record(FakeAlert("a"), None, sinks=("mqtt",), now_ms=1)
    again = await outbox.record(FakeAlert("a"), None, sinks=("mqtt",), now_ms=5)

    assert first == again
    assert json.loads(first.payload) == {"id": "a", "seq": 1, "durable": True, "p": ""}
    assert await outbox.counts("mqtt") == {"pending": 1}


async def test_due_puts_streams_with_a_cut_first_and_keeps_each_in_order(db: Database) -> None:
    """A stream with a cut goes first, from its oldest alert on; the others follow by age."""
    outbox = Outbox(db)
    order = [("a", False), ("b", False), ("a", False), ("b", True), ("c", True)]
    await _record(outbox, *(FakeAlert(f"{n}", stream_id=s, urgency=cut) for n, (s, cut) in enumerate(order)))

    rows = await outbox.due("mqtt", 5, 10)
    assert [row.alert_id for row in rows] == ["1", "3", "4", "0", "2"]
    assert [row.alert_id for row in await outbox.due("mqtt", 5, 3)] == ["1", "3", "4"]


async def test_states_of_a_row(db: Database) -> None:
    """An attempt is counted and waits for its time; accepted rows never come back; sinks are independent."""
    outbox = Outbox(db)
    await _record(outbox, FakeAlert("a"), sinks=("mqtt", "other"))
    await outbox.attempted("a", "mqtt", next_attempt_at_ms=500)

    assert await outbox.due("mqtt", 499, 10) == []
    (row,) = await outbox.due("mqtt", 500, 10)
    assert row.attempts == 1
    assert await outbox.counts("mqtt") == {"sent": 1}
    assert await outbox.open_count("mqtt") == (1, 500)

    await outbox.acked("a", "mqtt", 600)
    await outbox.attempted("a", "mqtt", next_attempt_at_ms=700)
    assert await outbox.due("mqtt", 9_000, 10) == []
    assert (await outbox.counts("mqtt"), await outbox.counts("other")) == ({"acked": 1}, {"pending": 1})


async def test_new_alert_wakes_its_whole_stream(db: Database) -> None:
    """An alert that is due brings along the older ones of its stream that are still backing off."""
    outbox = Outbox(db)
    await _record(outbox, FakeAlert("old"))
    await outbox.attempted("old", "mqtt", next_attempt_at_ms=900)
    await _record(outbox, FakeAlert("new"))

    assert [row.alert_id for row in await outbox.due("mqtt", 5, 10)] == ["old", "new"]


async def test_expired_rows_are_kept_and_counted(db: Database) -> None:
    """What expires is settled, stays on disk and counts, but is never due again."""
    outbox = Outbox(db)
    await _record(outbox, FakeAlert("a", expires_at_ms=100), FakeAlert("b", expires_at_ms=900))

    assert [row.alert_id for row in await outbox.due("mqtt", 100, 10)] == ["b"]
    assert [await outbox.expire(100), await outbox.expire(100)] == [1, 0]
    assert await outbox.counts("mqtt") == {"expired": 1, "pending": 1}
    assert (await outbox.expired_since(100, 900), await outbox.expired_since(101, 900)) == ({"mqtt": 1}, {})
    assert await outbox.expired_since(0, 99) == {}  # of a run under a clock that stood ahead


async def test_what_expires_is_found_whenever_it_was_recorded(db: Database) -> None:
    """After a look that found nothing, an alert that expires before all others is settled in its time."""
    outbox = Outbox(db, clock=lambda: 0.0)
    await _record(outbox, FakeAlert("late", expires_at_ms=90_000))
    assert await outbox.expire(10) == 0

    await _record(outbox, FakeAlert("soon", expires_at_ms=50))
    assert [await outbox.expire(now) for now in (20, 49, 50, 51)] == [0, 0, 1, 0]
    assert await Outbox(db).expire(90_000) == 1


async def test_more_than_a_bite_expires_at_once(db: Database) -> None:
    """Six thousand open rows of two sinks are settled but for those whose time is still to come."""
    await db.write(lambda c: _fill(c, 6000, state="sent", sinks=("a", "b"), expires_at_ms=lambda n: 100 + n % 2))
    outbox = Outbox(db)

    assert await outbox.expire(100) == 6000
    assert [await outbox.counts(sink) for sink in ("a", "b")] == [{"expired": 3000, "sent": 3000}] * 2


async def test_settled_alerts_cost_a_second_of_delivery_next_to_nothing(db: Database) -> None:
    """Beside ten thousand expired and twenty thousand accepted alerts a look for more steps through no table."""
    await db.write(lambda c: _fill(c, 10_000, state="expired"))
    await db.write(lambda c: _fill(c, 20_000, state="acked", first=10_000))
    outbox = Outbox(db)
    await outbox.forget_step()

    def counted(connection: sqlite3.Connection) -> Callable[[], int]:
        steps = [0]

        def step() -> int:
            steps[0] += 1
            return 0

        connection.set_progress_handler(step, 100)
        return lambda: (connection.set_progress_handler(None, 0), steps[0])[1]

    steps = await db.read(counted)
    for _ in range(5):
        assert await outbox.expire(1_000_000) == 0
        assert await outbox.due("mqtt", 1_000_000, 256) == []
        assert await outbox.open_count("mqtt") == (0, None)
    hundreds = await db.read(lambda _: steps())
    assert hundreds < 20, f"{100 * hundreds} steps of SQLite's machine"


async def test_probe_tells_a_full_disk_from_a_free_one(db: Database) -> None:
    """The probe fails while there is no room for an alert and leaves no trace when there is."""
    outbox = Outbox(db)
    await outbox.probe()
    assert await db.read(lambda c: c.execute("SELECT count(*) FROM counters").fetchone()[0]) == 0
    pages = await db.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    spare = await db.read(lambda c: c.execute("PRAGMA freelist_count").fetchone()[0])
    await db.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    await db.write(lambda c: c.execute("INSERT INTO retained_topics VALUES (?)", ("x" * 4000 * spare,)).rowcount)

    with pytest.raises(StoreUnavailable):
        await outbox.probe()


async def test_twenty_thousand_open_rows_do_not_hold_up_the_next(db: Database) -> None:
    """What goes next is found in the CPU time of a few passes over the open rows, however many there are."""
    urgencies, streams, count = 4, 50, 20_000
    payload = b"x" * 1400

    def fill(connection: sqlite3.Connection) -> None:
        alerts = (
            (f"a{n:06d}", n + 1, f"s{n % streams}", None, n % urgencies, payload, 1, 10_000) for n in range(count)
        )
        connection.executemany("INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", alerts)
        rows = ((f"a{n:06d}",) for n in range(count))
        connection.executemany("INSERT INTO deliveries (alert_id, sink, state) VALUES (?, 'mqtt', 'pending')", rows)

    def one_pass(connection: sqlite3.Connection) -> float:
        began = time.process_time()
        connection.execute(
            "SELECT count(*), max(a.urgency) FROM deliveries CROSS JOIN alerts a USING (alert_id)"
        ).fetchone()
        return time.process_time() - began

    await db.write(fill)
    passes = [await db.read(one_pass) for _ in range(3)]
    outbox = Outbox(db)
    taken = []
    for _ in range(3):
        began = time.process_time()
        found = await outbox.due("mqtt", 1, 256)
        taken.append(time.process_time() - began)
    assert [row.seq for row in found[:2]] == [2, 52]
    assert {row.stream_id for row in found} == {"s1"}
    assert len(found) == 256
    assert min(taken) < 8 * min(passes)


async def test_due_fills_its_limit_from_the_next_streams(db: Database) -> None:
    """Whole streams in the order of their urgency, and of the last one the oldest; each in its own order."""
    outbox = Outbox(db)
    for n in range(12):
        alert = FakeAlert(f"a{n:02d}", stream_id=f"s{n % 3}", urgency=3 if n == 8 else 1)
        await _record(outbox, alert)
    found = await outbox.due("mqtt", 1, 6)
    assert [(row.stream_id, row.seq) for row in found] == [
        *(("s2", seq) for seq in (3, 6, 9, 12)),
        *(("s0", seq) for seq in (1, 4)),
    ]


async def test_open_alerts_of_an_incident(db: Database) -> None:
    """Only those that ask for its cut, of this sink, and not yet answered."""
    outbox = Outbox(db)
    await _record(outbox, FakeAlert("a", urgency=3, incident_id="i"), FakeAlert("b", urgency=1, incident_id="i"))
    await _record(outbox, FakeAlert("c", urgency=3, incident_id="other"), FakeAlert("d", urgency=3, incident_id="i"))
    assert await outbox.open_of_incident("i", "mqtt") == ["a", "d"]
    await outbox.acked("a", "mqtt", 2)
    assert await outbox.open_of_incident("i", "mqtt") == ["d"]
    assert await outbox.open_of_incident("i", "file") == []
