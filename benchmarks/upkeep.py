"""How long does the removal of old rows hold the database up, and what does that cost an alert which is stored beside?

A file of its own is filled with accounts, incidents and alerts of 60 days; those of before `keep` are due. Alerts are
stored one after the other, first alone, then while everything due is removed. What holds the database is timed inside
its one thread. A machine that does something else meanwhile shows in both: compare them with each other.
"""

import asyncio
import json
import random
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.report import Check, Options, Report, at_least, at_most, machine, print_settings
from detector.alerts.clock import Clock
from detector.store.database import Database
from detector.store.days import DAY_MS, read_days
from detector.store.outbox import Outbox
from detector.store.retention import InUse, Retention, RetentionSettings
from detector.store.schema import STEPS

T = TypeVar("T")

_FULL: Final = {"coverage": 1_000_000, "incidents": 200_000, "alerts": 200_000}
_KEEP_DAYS: Final = 30
_ALONE_SECONDS: Final = 5.0
_BETWEEN_ALERTS_SECONDS: Final = 0.02
_LIMIT_MS: Final = 100.0


@dataclass(frozen=True, slots=True)
class _Alert:
    # As long as an alert with a few signals.
    alert_id: str
    expires_at_ms: int
    stream_id: str = "stream"
    incident_id: str | None = None
    urgency: int = 1

    def encode(self, seq: int | None, *, durable: bool) -> bytes:
        return f"{seq} {durable} ".encode().ljust(900, b".")


class _Timed(Database):
    """Notes how long each work held the thread, in seconds, by the name of whoever gave it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.held: defaultdict[str, list[float]] = defaultdict(list)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `Database.write`."""
        return await super().write(self._timed(work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `Database.read`."""
        return await super().read(self._timed(work))

    def _timed(self, work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
        def timed(connection: sqlite3.Connection) -> T:
            began_at = time.perf_counter()
            try:
                return work(connection)
            finally:
                self.held[work.__qualname__.split(".<locals>")[0]].append(time.perf_counter() - began_at)

        return timed


def measure(options: Options) -> Report:
    """Measure on a million accounts; a quick run takes a tenth of all rows."""
    rows = {name: count // 10 if options.is_quick else count for name, count in _FULL.items()}
    due = rows["alerts"] // 25
    settings = {"rows": rows, "due_rows_of_each": due, "keep_days": _KEEP_DAYS, "seed": options.seed}
    print_settings("upkeep", settings | {"machine": machine()})
    with tempfile.TemporaryDirectory(prefix="stopframe-") as folder:
        path = Path(folder) / "stopframe.db"
        _fill(path, rows, due, options.seed)
        report_wall, report_cpu = _time_report(path)
        timed, alone, beside, removed = asyncio.run(_remove(path))
    results = [
        _figures(f"work held, removing {table}", timed.held[f"Retention._remove_{table}"])
        for table in ("alerts", "incidents", "coverage")
    ]
    results += [_figures("an alert's commit, alone", alone), _figures("an alert's commit beside the removal", beside)]
    results.append({"what": "report days", "wall_seconds": report_wall, "cpu_seconds": report_cpu})
    return Report("upkeep", settings | {"machine": machine()}, results, _checks(results, removed, due))


async def _remove(path: Path) -> tuple[_Timed, list[float], list[float], dict[str, int]]:
    async with _Timed(path) as database:
        async with _alerts_stored(database) as alone:
            await asyncio.sleep(_ALONE_SECONDS)
        kept = RetentionSettings(keep_seconds=lambda: _KEEP_DAYS * 86_400.0, accepted_seconds=_KEEP_DAYS * 86_400.0)
        retention = Retention(database, kept, InUse(list, lambda _: False), Clock())
        async with _alerts_stored(database) as beside:
            removed = await retention.once()
        return database, alone, beside, removed


@asynccontextmanager
async def _alerts_stored(database: Database) -> AsyncIterator[list[float]]:
    """Store one alert after the other meanwhile, one at least; gives the seconds until each was on disk."""
    took: list[float] = []
    enough = asyncio.Event()
    storing = asyncio.create_task(_store_alerts(database, took, enough), name="upkeep.alerts")
    try:
        yield took
    finally:
        enough.set()
        await storing


async def _store_alerts(database: Database, took: list[float], enough: asyncio.Event) -> None:
    outbox = Outbox(database)
    while not (took and enough.is_set()):
        now_ms = time.time_ns() // 1_000_000
        alert = _Alert(f"new-{time.time_ns()}", now_ms + 600_000)
        began_at = time.perf_counter()
        await outbox.record(alert, None, sinks=("mqtt",), now_ms=now_ms)
        took.append(time.perf_counter() - began_at)
        await asyncio.sleep(_BETWEEN_ALERTS_SECONDS)


def _figures(what: str, seconds: list[float]) -> dict[str, Any]:
    ordered = sorted(1000 * each for each in seconds)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return {"what": what, "count": len(ordered), "p50_ms": p50, "p99_ms": p99, "max_ms": ordered[-1]}


def _time_report(path: Path) -> tuple[float, float]:
    """Wall and CPU seconds that the figures of all days take."""
    with closing(sqlite3.connect(path)) as connection:
        wall, cpu = time.perf_counter(), time.process_time()
        read_days(connection)
        return time.perf_counter() - wall, time.process_time() - cpu


def _fill(path: Path, rows: dict[str, int], due: int, seed: int) -> None:
    """Write the tables as the product has them; of each `due` rows lie before what is kept. Indexes come last."""
    statements = [statement for step in STEPS for statement in step]
    draw = random.Random(seed)
    now_ms = time.time_ns() // 1_000_000

    def at(number: int) -> int:
        kept_ms = (_KEEP_DAYS - 1) * DAY_MS
        return now_ms - draw.randrange(kept_ms) - (kept_ms + 2 * DAY_MS if number < due else 0)

    def accounts() -> Iterator[tuple[Any, ...]]:
        for number in range(rows["coverage"]):
            skipped = json.dumps({"stale": 3 * draw.random(), "overload": draw.random()})
            blind = json.dumps({"connecting": draw.random()} if number % 2 else {})
            session = f"{draw.getrandbits(128):032x}"
            yield f"stream{number % 5000}", session, 3600 * draw.random(), skipped, blind, 2.0, at(number)

    opened = [(f"{draw.getrandbits(128):032x}", number, at(number)) for number in range(rows["incidents"])]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for statement in (one for one in statements if not one.startswith("CREATE INDEX")):
            connection.execute(statement)
        connection.executemany("INSERT INTO coverage VALUES (?, ?, ?, ?, ?, ?, ?)", accounts())
        connection.executemany(
            "INSERT INTO incidents (incident_id, opened_at_ms, stream_id, session, name, server, app, connection,"
            " action, is_live, signals, detail, cut_state, time_to_cut_ms) VALUES (?1, ?3, 'stream' || (?2 % 5000), ?2,"
            " 'key' || ?2, 'embedded', 'live', 'c', 3, 1, 'BANK/entry at distance 3', '', 'confirmed', 700)",
            opened,
        )
        connection.executemany(
            "INSERT INTO alerts VALUES ('a' || ?1, ?2, 'stream' || (?2 % 5000), ?1, 0, zeroblob(900), ?3, ?3)",
            opened[: rows["alerts"]],
        )
        connection.execute("INSERT INTO deliveries SELECT alert_id, 'mqtt', 'acked', 1, 0, queued_at_ms FROM alerts")
        newest = "SELECT 'alert_seq', max(seq) FROM alerts UNION SELECT 'clock_trusted_ms', ?"
        connection.execute(f"INSERT INTO counters {newest}", (now_ms,))
        for statement in (one for one in statements if one.startswith("CREATE INDEX")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")


def _checks(results: list[dict[str, Any]], removed: dict[str, int], due: int) -> list[Check]:
    figures = {result["what"]: result for result in results}
    beside = figures["an alert's commit beside the removal"]
    return [
        at_least("rows removed of each table, of those due", min(removed.values()) / due, "ratio", 1.0),
        at_most("an alert's commit beside the removal, p99", beside["p99_ms"], "ms", _LIMIT_MS),
    ]
