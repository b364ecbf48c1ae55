"""`stopframe report`: the figures of days, from the file itself."""

import json
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from detector.store.coverage import CoverageStore, CoverageTotals
from detector.store.database import Database
from tests.fixtures_cli import CommandLine

pytestmark = pytest.mark.integration


async def _written(folder: Path) -> Database:
    """A database, still open, with a day of the past and an account of now."""
    (folder / "state").mkdir()
    database = await Database.open(folder / "state" / "stopframe.db").__aenter__()
    old = (datetime.now(UTC) - timedelta(days=300)).date().isoformat()
    rows = [(old, "streams", 2), (old, "seen_us", 3_600_000_000), (old, "cuts/confirmed", 4)]
    await database.write(lambda c: c.executemany("INSERT INTO days VALUES (?, ?, ?)", rows).rowcount)
    totals = CoverageTotals(
        stream_id="a",
        session="1",
        seen_seconds=9.0,
        blind_seconds={"codec": 1.0},
        updated_at_ms=time.time_ns() // 10**6,
    )
    await CoverageStore(database).upsert([totals])
    return database


async def test_days_are_shown_while_the_service_runs_and_afterwards(stopframe: CommandLine) -> None:
    """The same figures come from a file that is in use and from one that is not: those of now and those kept."""
    database = await _written(stopframe.folder)
    running = stopframe("report", "days", "--days", "365", "--json")
    await database.__aexit__(None, None, None)
    stopped = stopframe("report", "days", "--days", "365", "--json")

    assert (running.code, running.out) == (0, stopped.out)
    then, today = running.lines
    assert (then["streams"], then["seen_s"], then["cuts"]) == (2, 3600.0, {"confirmed": 4})
    assert (today["sessions"], today["seen_s"], today["blind_s"]) == (1, 9.0, {"codec": 1.0})

    shown = stopframe("report", "days")
    assert (shown.code, len(shown.out.splitlines())) == (0, 2)
    assert "90.00%" in shown.out


@pytest.mark.parametrize(("version", "words"), [(None, "there is no"), (1, "older one: start it once"), (99, "newer")])
def test_a_file_that_cannot_be_reported_on(stopframe: CommandLine, version: int | None, words: str) -> None:
    """A missing file and one of another version are one sentence with the remedy, and nothing is written."""
    path = stopframe.folder / "state" / "stopframe.db"
    path.parent.mkdir()
    if version is not None:
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
    run = stopframe("report", "days")

    assert (run.code, run.out) == (2, "")
    assert words in run.err
    assert len(run.err.splitlines()) == 1
    assert path.exists() is (version is not None)


def test_json_of_a_damaged_file_is_a_sentence_too(stopframe: CommandLine) -> None:
    """What is no database is said to be unreadable."""
    path = stopframe.folder / "state" / "stopframe.db"
    path.parent.mkdir()
    path.write_bytes(json.dumps({"no": "database"}).encode() * 100)
    run = stopframe("report", "days", "--json")

    assert run.code == 2
    assert "cannot be read" in run.err
