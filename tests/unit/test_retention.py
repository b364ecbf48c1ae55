"""Retention: what is old goes, what is open stays, and the days say the same before and after."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.alerts.clock import Clock
from detector.events import StreamKey
from detector.store.clock_trust import ClockTrust
from detector.store.database import Database
from detector.store.days import DAY_MS, DayFigures, read_days
from detector.store.incidents import sql_text
from detector.store.retention import InUse, Retention, RetentionSettings
from detector.upkeep import Upkeep

NOW_MS = 20_000 * DAY_MS + 5_000_000
KEEP_DAYS = 3


@dataclass
class Turned:
    """Two clocks that a test turns."""

    wall_ms: int = NOW_MS
    monotonic: float = 1000.0

    def on(self, days: float) -> None:
        """Let time go by."""
        self.wall_ms += round(days * DAY_MS)
        self.monotonic += days * 86_400

    def clock(self) -> Clock:
        """The clocks as the product takes them."""
        return Clock(lambda: self.monotonic, lambda: self.wall_ms)


@dataclass
class World:
    """What is in use, and the retention of one database."""

    database: Database
    turned: Turned = field(default_factory=Turned)
    open_sessions: set[str] = field(default_factory=set)
    revoked: set[StreamKey] = field(default_factory=set)

    def retention(self, batch_rows: int = 3) -> Retention:
        """A retention that keeps three days and bites small."""
        kept = RetentionSettings(keep_seconds=lambda: KEEP_DAYS * 86_400, batch_rows=batch_rows, pause_seconds=0.0)
        in_use = InUse(lambda: self.open_sessions, self.revoked.__contains__)
        return Retention(self.database, kept, in_use, self.turned.clock())

    async def fill(self, rows: "Rows") -> None:
        """Write rows, and that the clock was trusted a moment ago."""
        await self.database.write(lambda c: write_rows(c, rows))
        trusted = ("clock_trusted_ms", self.turned.wall_ms)
        await self.database.write(
            lambda c: c.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", trusted).rowcount
        )

    async def days(self) -> list[DayFigures]:
        """The figures of every day."""
        return await self.database.read(read_days)

    async def ids(self, table: str, column: str) -> list[str]:
        """What is left in a table."""
        return await self.database.read(lambda c: [r[0] for r in c.execute(f"SELECT {column} FROM {table} ORDER BY 1")])


@dataclass(frozen=True)
class Rows:
    """Rows as strategies make them: ages in days, counted back from now."""

    coverage: list[tuple[str, float, float, dict[str, float], dict[str, float]]] = field(default_factory=list)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[tuple[float, str, int | None]] = field(default_factory=list)


def write_rows(connection: sqlite3.Connection, rows: Rows) -> None:
    """Put rows into the tables, numbered in their order."""
    for number, (stream, age, seen, skipped, blind) in enumerate(rows.coverage):
        values = (stream, f"s{number}", seen, json.dumps(skipped), json.dumps(blind), 0.0, _at(age))
        connection.execute("INSERT INTO coverage VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    for number, given_ in enumerate(rows.incidents):
        row: dict[str, Any] = {
            "incident_id": f"i{number}",
            "stream_id": "a",
            "session": "s",
            "server": "embedded",
            "app": "live",
            "name": f"key{number}",
            "connection": "",
            "action": 3,
            "is_live": 1,
            "signals": "x",
            "detail": "",
            "cut_state": "none",
        } | given_
        row["opened_at_ms"] = _at(row.pop("age"))
        marks = ", ".join(f":{name}" for name in row)
        connection.execute(f"INSERT INTO incidents ({', '.join(row)}) VALUES ({marks})", row)
    for number, (age, state, incident) in enumerate(rows.alerts):
        incident_id = None if incident is None else f"i{incident}"
        alert = (f"a{number}", number, "a", incident_id, 0, b"{}", _at(age), _at(age) + 1)
        connection.execute("INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", alert)
        settled = None if state in ("pending", "sent") else _at(age) + 1
        delivery = (f"a{number}", state, settled)
        connection.execute("INSERT INTO deliveries VALUES (?, 'mqtt', ?, 0, 0, ?)", delivery)


def _at(age: float) -> int:
    return NOW_MS - round(age * DAY_MS)


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    """An empty database with its clocks."""
    async with Database.open(tmp_path / "s.db") as db:
        yield World(db)


_AGES = st.floats(0, 9)
_CAUSES = st.dictionaries(st.sampled_from(["stale", "overload", "codec"]), st.floats(0, 1e7), max_size=2)
_ROWS = st.builds(
    Rows,
    st.lists(st.tuples(st.sampled_from("abc"), _AGES, st.floats(0, 1e7), _CAUSES, _CAUSES), max_size=12),
    st.lists(
        st.fixed_dictionaries(
            {
                "age": _AGES,
                "action": st.integers(1, 3),
                "is_live": st.integers(0, 1),
                "cut_state": st.sampled_from(["none", "pending", "confirmed", "failed"]),
                "undone_at_ms": st.none() | st.just(5),
                "refused_by": st.none() | st.just("B/e"),
                "time_to_cut_ms": st.none() | st.integers(0, 9000),
                "session": st.sampled_from(["s", "open"]),
            }
        ),
        max_size=8,
    ),
    st.lists(
        st.tuples(_AGES, st.sampled_from(["pending", "sent", "acked", "expired"]), st.none() | st.integers(0, 7)),
        max_size=8,
    ),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_ROWS, batch_rows=st.integers(1, 5), steps=st.lists(st.floats(0.01, 2), max_size=3))
def test_no_figure_changes_when_rows_go(rows: Rows, batch_rows: int, steps: list[float], tmp_path: Path) -> None:
    """Whatever there was, in whatever bites it goes, and however often: every figure of every day stays as it was."""

    async def main() -> None:
        path = tmp_path / "s.db"
        for left in tmp_path.iterdir():
            left.unlink()
        async with Database.open(path) as db:
            world = World(db, open_sessions={"open", "s1"}, revoked={StreamKey("embedded", "live", "key0")})
            await world.fill(rows)
            before = await world.days()
            retention = world.retention(batch_rows)
            await retention.once()
            for step in steps:
                world.turned.on(step)
                await retention.once()
            assert await world.days() == before
            assert not any(retention_left(r, world.turned.wall_ms) for r in await _raw_coverage(db, {"s1"}))

    asyncio.run(main())


def retention_left(updated_at_ms: int, now_ms: int) -> bool:
    """Whether a row is older than whole days are kept."""
    return updated_at_ms < (now_ms - KEEP_DAYS * DAY_MS) // DAY_MS * DAY_MS


async def _raw_coverage(db: Database, without: set[str]) -> Iterator[int]:
    rows = await db.read(lambda c: c.execute("SELECT session, updated_at_ms FROM coverage").fetchall())
    return (at for session, at in rows if session not in without)


async def test_the_figures_of_a_day(world: World) -> None:
    """Streams count once a day, times add up by cause, a maximum is the largest; nothing is said twice."""
    cut = {"cut_state": "confirmed", "time_to_cut_ms": 700}
    await world.fill(
        Rows(
            [("a", 6, 1.5, {"stale": 2.0}, {}), ("a", 6, 1.0, {}, {"codec": 0.25}), ("b", 6, 0.0, {}, {})],
            [{"age": 6, **cut}, {"age": 6, **cut, "time_to_cut_ms": 300}, {"age": 6, "action": 2, "refused_by": "B/e"}],
            [(6, "acked", 0), (6, "expired", None)],
        )
    )
    assert await world.retention().once() == {"alerts": 2, "incidents": 3, "coverage": 3}

    (day,) = await world.days()
    assert day.day == date(2024, 9, 28)
    assert day.figures == {
        "alerts/accepted": 1,
        "alerts/expired": 1,
        "blind_us/codec": 250_000,
        "breaker_refusals": 1,
        "cuts/confirmed": 2,
        "incidents/cut/live": 2,
        "incidents/review/live": 1,
        "seen_us": 2_500_000,
        "sessions": 3,
        "skipped_us/stale": 2_000_000,
        "streams": 2,
        "time_to_cut_count": 2,
        "time_to_cut_max_ms": 700,
        "time_to_cut_sum_ms": 1000,
    }
    assert (day.total("cuts"), day["undone"], day.under("incidents/cut")) == (2, 0, {"live": 2})


async def test_what_is_open_stays(world: World) -> None:
    """Cuts under way, incidents with alerts that are out, live sessions and cut keys still denied outlive their age."""
    world.open_sessions = {"s1", "live"}
    world.revoked = {StreamKey("embedded", "live", f"key{n}") for n in (4, 5, 6)}
    world.revoked.add(StreamKey("embedded", "live", "key\udcff"))
    incidents: list[dict[str, Any]] = [
        {"age": 9},
        {"age": 9, "cut_state": "pending"},
        {"age": 9},  # with an alert that nobody took yet
        {"age": 9, "session": "live"},
        {"age": 9, "cut_state": "confirmed"},  # denied
        {"age": 9, "cut_state": "confirmed", "undone_at_ms": 1},  # denied again, by another incident
        {"age": 9},  # denied, but not by it
        {"age": 9, "cut_state": "confirmed"},  # allowed
        {"age": 9, "cut_state": "confirmed", "name": sql_text("key\udcff")},  # denied
    ]
    await world.fill(Rows([("a", 9, 1.0, {}, {}), ("b", 9, 1.0, {}, {})], incidents, [(9, "sent", 2), (9, "acked", 0)]))
    await world.retention().once()

    assert await world.ids("incidents", "incident_id") == ["i1", "i2", "i3", "i4", "i8"]
    assert await world.ids("alerts", "alert_id") == ["a0"]
    assert await world.ids("coverage", "session") == ["s1"]

    world.revoked.clear()
    world.open_sessions.clear()
    assert await world.retention().once() == {"alerts": 0, "incidents": 3, "coverage": 1}


async def test_accepted_alerts_go_after_a_week_and_expired_ones_with_their_incident(tmp_path: Path) -> None:
    """An accepted alert is of no more use; one that nobody took is evidence as long as its incident."""
    async with Database.open(tmp_path / "s.db") as db:
        world = World(db)
        await world.fill(Rows([], [{"age": 20}], [(9, "acked", None), (9, "expired", None), (5, "acked", 0)]))
        kept = RetentionSettings(keep_seconds=lambda: 30 * 86_400, pause_seconds=0.0)
        retention = Retention(db, kept, InUse(set, world.revoked.__contains__), world.turned.clock())

        assert await retention.once() == {"alerts": 1, "incidents": 0, "coverage": 0}
        assert await world.ids("alerts", "alert_id") == ["a1", "a2"]


@pytest.mark.parametrize(
    ("looks", "verdicts"),
    [
        pytest.param([(0, 0), (1, 1), (2, 2)], [True, True, True], id="steady"),
        pytest.param(
            [(0, 0), (365 * 86400, 1), (365 * 86400 + 3600, 3601)], [True, False, False], id="ahead by a year"
        ),
        pytest.param([(0, 0), (-7200, 1), (-7200 + 86400, 86401)], [True, False, True], id="back, then a steady day"),
        pytest.param(
            [(0, 0), (9000, 1), (9001 + 80_000, 80_001), (0, 80_002)], [True, False, False, False], id="twice"
        ),
        pytest.param([(90_000, 0), (90_000 + 86_400, 86_400)], [False, True], id="off for longer than a day"),
        pytest.param([(3599, 0), (7000, 1)], [True, True], id="less than an hour"),
    ],
)
def test_a_clock_that_stepped_is_doubted_for_a_day(looks: list[tuple[int, float]], verdicts: list[bool]) -> None:
    """Neither a jump nor a long absence lets age decide at once; a day later it does."""
    trust = ClockTrust(last_trusted_ms=NOW_MS)
    assert [trust.is_trusted(NOW_MS + wall * 1000, at) for wall, at in looks] == verdicts


async def test_a_jump_by_years_removes_nothing_even_over_restarts(world: World) -> None:
    """Rows survive a clock that is set years ahead, also if the service is restarted under the wrong time."""
    await world.fill(Rows([("a", 1, 1.0, {}, {})], [{"age": 1}], []))
    retention = world.retention()
    await retention.once()
    world.turned.wall_ms += 900 * DAY_MS

    assert [await retention.once(), await world.retention().once(), await world.retention().once()] == [{}, {}, {}]
    assert retention.is_doubtful
    assert await world.ids("incidents", "incident_id") == ["i0"]

    world.turned.wall_ms -= 900 * DAY_MS
    world.turned.on(8)
    assert await retention.once() == {}
    world.turned.on(1)
    assert (await retention.once())["coverage"] == 1


async def test_a_machine_that_is_restarted_daily_believes_its_clock_again(world: World) -> None:
    """After a long absence the day of doubt goes on over restarts, and ends: old rows go at last."""
    await world.fill(Rows([("a", 4, 1.0, {}, {})], [], []))
    world.turned.on(3)
    seen = []
    for _ in range(4):  # on for eight hours, off for four
        retention = world.retention()
        for _ in range(8):
            seen.append((await retention.once()).get("coverage"))
            world.turned.on(1 / 24)
        world.turned.wall_ms += DAY_MS // 6
        world.turned.monotonic = 5.0
    assert seen == [None] * 16 + [1] + [0] * 15


async def test_a_doubted_clock_that_steps_over_a_restart_is_doubted_for_a_whole_day(world: World) -> None:
    """What was left of an earlier doubt says nothing of a clock that has been set since."""
    await world.fill(Rows([("a", 4, 1.0, {}, {})], [], []))
    world.turned.on(3)
    await world.retention().once()
    world.turned.wall_ms += 900 * DAY_MS
    retention, looks = world.retention(), []
    for _ in range(9):
        looks.append(await retention.once())
        world.turned.on(1 / 8)
    assert [bool(look) for look in looks] == [False] * 8 + [True]


async def test_alerts_that_settled_in_the_future_count_from_when_they_were_queued(world: World) -> None:
    """A run that began under a clock years ahead wrote such times: its alerts must not stay for those years."""
    await world.fill(Rows([], [], [(9, "acked", None), (9, "expired", None), (1, "acked", None)]))
    await world.database.write(
        lambda c: c.execute("UPDATE deliveries SET settled_at_ms = ?", (NOW_MS + 9000 * DAY_MS,)).rowcount
    )
    assert (await world.retention().once())["alerts"] == 2
    assert await world.ids("alerts", "alert_id") == ["a2"]


async def test_a_file_of_before_retention_is_judged_by_its_newest_row(world: World) -> None:
    """Where no time was noted yet, the newest row is the last known time; an empty file knows none."""
    await world.database.write(lambda c: write_rows(c, Rows([("a", 9, 1.0, {}, {}), ("a", 4, 1.0, {}, {})])))
    assert await world.retention().once() == {}

    await world.database.write(lambda c: c.execute("DELETE FROM counters").rowcount)
    await world.database.write(
        lambda c: c.execute("UPDATE coverage SET updated_at_ms = ? WHERE session = 's1'", (NOW_MS,)).rowcount
    )
    assert (await world.retention().once())["coverage"] == 1


async def test_removed_paths_leave_no_trace_in_the_file(tmp_path: Path) -> None:
    """What held a publisher's real path is overwritten, not only forgotten."""
    path = tmp_path / "s.db"
    async with Database.open(path) as db:
        rows = [{"age": 9, "name": "a-key-of-somebody"}, {"age": 0, "name": "a-key-of-today"}]
        await World(db).fill(Rows([], rows, []))
    assert b"a-key-of-somebody" in path.read_bytes()
    async with Database.open(path) as db:
        await World(db).retention().once()

    content = path.read_bytes()
    assert (b"a-key-of-somebody" in content, b"a-key-of-today" in content) == (False, True)


async def test_upkeep_goes_on_after_a_disk_that_refused(tmp_path: Path) -> None:
    """The first round is at the start, the next an hour later, and a minute after one that the disk refused."""
    pauses: list[float] = []
    turned = Turned()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await database.__aexit__(None, None, None)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    database = Database(tmp_path / "s.db")
    async with database:
        await World(database, turned).fill(Rows([("a", 40, 1.0, {}, {})]))
        work = Upkeep(database, lambda: 86_400.0, InUse(list, lambda _: False), clock=turned.clock(), sleep=sleep)
        with pytest.raises(asyncio.CancelledError):
            await work.run()
    async with Database.open(tmp_path / "s.db") as db:
        assert [(day.day, day["sessions"]) for day in await World(db).days()] == [(date(2024, 8, 25), 1)]
    assert pauses == [3600.0, 60.0, 60.0]


_PRUNING = """
import asyncio, sys
from detector.alerts.clock import Clock
from detector.store.database import Database
from detector.store.incidents import sql_text
from detector.store.retention import InUse, Retention, RetentionSettings
async def main(path, now_ms):
    async with Database.open(path) as db:
        kept = RetentionSettings(keep_seconds=lambda: 86_400.0, batch_rows=2, pause_seconds=0.0)
        clock = Clock(wall_ms=lambda: now_ms)
        print("begun", flush=True)
        await Retention(db, kept, InUse(list, lambda key: False), clock).once()
        print("done", flush=True)
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_kill_9_amid_the_removal_leaves_every_figure_as_it_was(tmp_path: Path) -> None:
    """However often the service is killed while it removes rows, each is counted once; in the end all have gone."""
    path = tmp_path / "s.db"
    rows = Rows(
        [(f"stream{n % 7}", 5 + n % 3, 1.25, {"stale": 0.5}, {}) for n in range(60)],
        [{"age": 6, "cut_state": "confirmed", "time_to_cut_ms": n} for n in range(40)],
        [(6, "acked", n) for n in range(40)],
    )
    async with Database.open(path) as db:
        await World(db).fill(rows)
        before = await World(db).days()
    kills = 0
    for wait in (0.0, 0.05, 0.15, None):
        child = subprocess.Popen(
            [sys.executable, "-c", _PRUNING, str(path), str(NOW_MS)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        if wait is not None:
            await asyncio.sleep(wait)
            child.kill()
            kills += 1
        said = await asyncio.to_thread(child.communicate)
        async with Database.open(path) as db:
            assert await World(db).days() == before
            left = await World(db).ids("coverage", "session")
    assert (kills, said[0].endswith("done\n"), left) == (3, True, [])
