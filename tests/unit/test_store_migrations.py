"""Migrations: a file of an earlier version keeps its rows, and is either as it was or all the way up to date."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import detector.store.database as database_module
from detector.store.coverage import CoverageStore, CoverageTotals
from detector.store.database import Database
from detector.store.days import read_days
from detector.store.faults import StoreUnavailable
from detector.store.incidents import Incidents
from detector.store.outbox import Outbox
from detector.store.schema import STEPS

VERSION_1 = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE incidents (
    incident_id TEXT PRIMARY KEY, stream_id TEXT NOT NULL, session TEXT NOT NULL, server TEXT NOT NULL,
    app TEXT NOT NULL, name TEXT NOT NULL, connection TEXT NOT NULL, opened_at_ms INTEGER NOT NULL,
    action INTEGER NOT NULL, is_live INTEGER NOT NULL, signals TEXT NOT NULL, refused_by TEXT, detail TEXT NOT NULL,
    cut_state TEXT NOT NULL, gone_at_ms INTEGER, confirmed_at_ms INTEGER, time_to_cut_ms INTEGER,
    undone_at_ms INTEGER
);
CREATE INDEX incidents_by_time ON incidents (opened_at_ms);
CREATE INDEX incidents_by_stream ON incidents (stream_id, opened_at_ms);
CREATE INDEX incidents_being_cut ON incidents (opened_at_ms) WHERE cut_state = 'pending';
CREATE TABLE alerts (
    alert_id TEXT PRIMARY KEY, seq INTEGER NOT NULL UNIQUE, stream_id TEXT NOT NULL, incident_id TEXT,
    is_cut INTEGER NOT NULL, payload BLOB NOT NULL, queued_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL
);
CREATE TABLE deliveries (
    alert_id TEXT NOT NULL REFERENCES alerts ON DELETE CASCADE, sink TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'acked', 'expired')),
    attempts INTEGER NOT NULL DEFAULT 0, next_attempt_at_ms INTEGER NOT NULL DEFAULT 0, settled_at_ms INTEGER,
    PRIMARY KEY (alert_id, sink)
) WITHOUT ROWID;
CREATE INDEX deliveries_open ON deliveries (sink, next_attempt_at_ms) WHERE state IN ('pending', 'sent');
CREATE INDEX deliveries_expired ON deliveries (settled_at_ms) WHERE state = 'expired';
CREATE TABLE coverage (
    stream_id TEXT NOT NULL, session TEXT NOT NULL, seen_seconds REAL NOT NULL, skipped_seconds TEXT NOT NULL,
    blind_seconds TEXT NOT NULL, max_gap_seconds REAL NOT NULL, updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (stream_id, session)
) WITHOUT ROWID;
CREATE TABLE retained_topics (topic TEXT PRIMARY KEY) WITHOUT ROWID;
PRAGMA user_version = 1;
INSERT INTO counters VALUES ('alert_seq', 41);
INSERT INTO incidents VALUES ('i1', 'a', 's1', 'edge', 'live', 'key', 'c1', 86400000, 3, 1, 'B/e', NULL, '',
    'confirmed', 86400500, 86401500, 500, NULL);
INSERT INTO alerts VALUES ('a1', 41, 'a', 'i1', 1, x'7b7d', 86400000, 99999999999999);
INSERT INTO deliveries VALUES ('a1', 'mqtt', 'sent', 2, 5, NULL);
INSERT INTO coverage VALUES ('a', 's1', 12.5, '{"stale": 1.0}', '{}', 2.0, 86400000);
INSERT INTO retained_topics VALUES ('stopframe/stream/a/status');
"""
"""A file as version 1 made it; frozen here, whatever the code of today says."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The path of a version-1 file with a row in every table."""
    path = tmp_path / "s.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; BEGIN;" + VERSION_1 + "COMMIT;")
    return path


def _dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [*connection.iterdump(), str(connection.execute("PRAGMA user_version").fetchone())]


async def test_rows_of_version_1_survive_and_are_used(old: Path) -> None:
    """Incidents, open alerts, numbers and accounts of an old file are there, and count in today's figures."""
    async with Database.open(old) as db:
        assert await db.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0]) == len(STEPS)
        incident = await Incidents(db).get("i1")
        assert (incident.key.name, incident.time_to_cut_ms) == ("key", 500)
        (row,) = await Outbox(db).due("mqtt", 10, 10)
        assert (row.alert_id, row.seq, row.attempts) == ("a1", 41, 2)
        assert (await CoverageStore(db).of_stream("a"))[0] == CoverageTotals(
            stream_id="a",
            session="s1",
            seen_seconds=12.5,
            skipped_seconds={"stale": 1.0},
            max_gap_seconds=2.0,
            updated_at_ms=86_400_000,
        )
        (day,) = await db.read(read_days)
        assert (day["sessions"], day["cuts/confirmed"], day["alerts/open"]) == (1, 1, 1)


async def test_an_old_file_becomes_the_same_as_a_new_one(old: Path, tmp_path: Path) -> None:
    """Tables and indexes do not depend on where a file began."""
    for path in (old, tmp_path / "new.db"):
        async with Database.open(path):
            pass
    schemas = []
    for path in (old, tmp_path / "new.db"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT type, name, tbl_name FROM sqlite_schema ORDER BY 1, 2").fetchall()
            columns = [
                connection.execute(f"PRAGMA table_info({name})").fetchall() for kind, name, _ in rows if kind == "table"
            ]
            schemas.append((rows, columns))
    assert schemas[0] == schemas[1]


async def test_a_step_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are one transaction: a fault in the last statement of the last takes the first back, too."""
    before = _dump(old)
    broken = (*STEPS, ("CREATE TABLE more (x)", "DELETE FROM incidents", "INSERT INTO absent VALUES (1)"))
    monkeypatch.setattr(database_module, "STEPS", broken)
    with pytest.raises(sqlite3.OperationalError, match="absent"):
        await Database.open(old).__aenter__()
    assert _dump(old) == before

    monkeypatch.undo()
    async with Database.open(old) as db:
        assert (await Incidents(db).get("i1")).stream_id == "a"


async def test_a_disk_without_room_for_the_step_leaves_the_file_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that finds the disk full is refused in a sentence, and succeeds when there is room."""
    before = _dump(old)
    monkeypatch.setattr(database_module, "STEPS", (STEPS[0], ("PRAGMA max_page_count = 1", *STEPS[1])))
    with pytest.raises(StoreUnavailable, match="the disk is full: free space"):
        await Database.open(old).__aenter__()
    assert _dump(old) == before

    monkeypatch.undo()
    async with Database.open(old) as db:
        assert await db.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0]) == len(STEPS)


_SLOW_MIGRATION = """
import asyncio, sys
import detector.store.database as module
from detector.store.database import Database
module.STEPS = (module.STEPS[0], (*module.STEPS[1], "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    " INSERT INTO counters SELECT 'slow' || x, x FROM n WHERE x < 1e12"))
print("begun", flush=True)
asyncio.run(Database.open(sys.argv[1]).__aenter__())
"""


async def test_a_killed_migration_is_taken_up_again(old: Path) -> None:
    """`kill -9` amid the step costs nothing: the next start finds the old file and brings it up to date."""
    child = subprocess.Popen([sys.executable, "-c", _SLOW_MIGRATION, str(old)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"begun\n"
    wal = old.with_name(old.name + "-wal")
    until = time.monotonic() + 20
    while time.monotonic() < until and not (wal.exists() and wal.stat().st_size):
        time.sleep(0.02)
    child.kill()
    child.wait()
    child.stdout.close()

    async with Database.open(old) as db:
        names = await db.read(lambda c: [row[0] for row in c.execute("SELECT name FROM counters")])
        assert (names, (await Incidents(db).get("i1")).stream_id) == (["alert_seq"], "a")
        assert await db.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0]) == len(STEPS)


_KILLED_OPENINGS = """
import os, random, shutil, signal, sqlite3, sys, time
from contextlib import closing
from pathlib import Path
from detector.store.database import _open
from detector.store.schema import STEPS

old, kills = Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(11)

def of_version(version):
    path = old.with_name(f"v{version}.db")
    shutil.copy(old, path)
    with closing(sqlite3.connect(path)) as connection:
        for step in STEPS[1:version]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
        connection.execute("PRAGMA journal_mode = WAL")
    return path

def opened(path):
    pid = os.fork()
    if pid == 0:
        _open(path)
        os._exit(0)
    return pid

versions = [of_version(version) for version in range(1, len(STEPS))]
for trial in range(kills):
    path = old.with_name(f"t{trial}.db")
    shutil.copy(versions[trial % len(versions)], path)
    if trial < len(versions):  # how long one takes that nobody kills
        begun = time.perf_counter()
        os.waitpid(opened(path), 0)
        if trial == 0:
            longest = time.perf_counter() - begun
        continue
    for again in range(2):
        pid = opened(path)
        time.sleep(draw.uniform(0.0, 1.1 * longest))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with closing(sqlite3.connect(path)) as connection:
        left = connection.execute("PRAGMA user_version").fetchone()[0]
    with closing(_open(path)) as connection:
        (fine,) = connection.execute("PRAGMA integrity_check").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        counts = [connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("incidents", "alerts",
                  "deliveries", "coverage")]
        told = connection.execute("SELECT sum(urgency = 3) FROM alerts").fetchone()[0]
        payloads = connection.execute("SELECT count(DISTINCT payload) FROM alerts").fetchone()[0]
    assert left in {trial % len(versions) + 1, len(STEPS)}, left
    print(left < len(STEPS), fine, version, *counts, told, payloads)
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
"""


def test_a_file_of_any_version_survives_kills_while_it_is_opened(old: Path) -> None:
    """Killed twice at random moments, dozens of files: it is as it was or up to date, whole, and has every row."""
    rows, kills = 1500, 45
    with contextlib.closing(sqlite3.connect(old)) as connection, connection:
        first = connection.execute("SELECT * FROM incidents").fetchone()
        for number in range(2, rows + 1):
            marks = ", ".join("?" * len(first))
            connection.execute(f"INSERT INTO incidents VALUES ({marks})", (f"i{number}", *first[1:]))
            values = (f"a{number}", number + 41, f"i{number}", b"{%d}" % number, 86_400_000 + number)
            connection.execute("INSERT INTO alerts VALUES (?, ?, 'a', ?, 1, ?, ?, 99999999999999)", values)
            connection.execute("INSERT INTO deliveries VALUES (?, 'mqtt', 'sent', 1, 5, NULL)", (f"a{number}",))
            connection.execute("INSERT INTO coverage VALUES ('a', ?, 1.0, '{}', '{}', 2.0, 5)", (f"s{number}",))
    command = [sys.executable, "-c", _KILLED_OPENINGS, str(old), str(kills)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == kills - (len(STEPS) - 1)
    assert {tuple(line[1:]) for line in lines} == {("ok", str(len(STEPS)), *[str(rows)] * 6)}
    assert {line[0] for line in lines} == {"True", "False"}, "no kill came before, or none after, the end of an opening"
