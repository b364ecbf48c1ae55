"""Removes what is older than it is kept, a few rows at a time, and adds it to the days in the same transaction."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import structlog

from detector.alerts.clock import Clock
from detector.events import StreamKey
from detector.store.clock_trust import ClockTrust, Doubt
from detector.store.database import Database
from detector.store.days import ALERT_STATE, DAY_MS, Tally, count_streams
from detector.store.incidents import from_sql

log = structlog.get_logger()

_TRUSTED: Final = "clock_trusted_ms"
_DOUBTED: Final = "clock_doubted_ms"
_DOUBTED_UNTIL: Final = "clock_doubted_until_ms"
_COVERAGE_AFTER: Final = """SELECT updated_at_ms, stream_id, session, seen_seconds, skipped_seconds, blind_seconds
    FROM coverage WHERE updated_at_ms < :before AND (updated_at_ms, stream_id, session) > (:at, :id, :session)
    ORDER BY updated_at_ms, stream_id, session LIMIT :limit"""
_ALERTS_AFTER: Final = f"""SELECT queued_at_ms, alert_id, {ALERT_STATE},
    (SELECT max(settled_at_ms) FROM deliveries d WHERE d.alert_id = alerts.alert_id)
    FROM alerts WHERE queued_at_ms < :before AND (queued_at_ms, alert_id) > (:at, :id)
    ORDER BY queued_at_ms, alert_id LIMIT :limit"""  # noqa: S608 - text of this package only
_INCIDENTS_AFTER: Final = """SELECT opened_at_ms, incident_id, session, cut_state, undone_at_ms, server, app, name
    FROM incidents WHERE opened_at_ms < :before AND (opened_at_ms, incident_id) > (:at, :id)
    AND (cut_state != 'pending' OR undone_at_ms IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM alerts a WHERE a.incident_id = incidents.incident_id)
    ORDER BY opened_at_ms, incident_id LIMIT :limit"""
_REMOVE_INCIDENT: Final = """DELETE FROM incidents WHERE incident_id = ?
    AND (cut_state != 'pending' OR undone_at_ms IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM alerts a WHERE a.incident_id = incidents.incident_id)
    RETURNING opened_at_ms, action, is_live, cut_state, undone_at_ms, refused_by, time_to_cut_ms"""

_LONG_SECONDS: Final = 0.01
_LEAST_ROWS: Final = 5

Removed = dict[str, int]
"""How many rows went, by table."""

_Place = dict[str, Any]
"""Where a bite begins and how much it takes: the values of the queries above."""

_Bitten = tuple[int, tuple[int, str, str] | None]
"""How many rows went, and the last one that was looked at; None at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """How long rows are kept, and in which bites they go.

    `accepted_seconds`: alerts that every sink accepted are of no further use and go after this long, or after
    `keep_seconds()` if that is shorter. The database's thread works on at most `batch_rows` rows at once,
    on fewer where that takes long, then leaves `pause_seconds` to everybody else.
    """

    keep_seconds: Callable[[], float]
    accepted_seconds: float = 7 * 86_400.0
    batch_rows: int = 50
    pause_seconds: float = 0.05


@dataclass(frozen=True, slots=True)
class InUse:
    """What age does not remove: sessions that still write, and keys that are denied, which `undo` must find."""

    open_sessions: Callable[[], Collection[str]]
    is_revoked: Callable[[StreamKey], bool]


class Retention:
    """Removes whole days (UTC): those that ended at least `keep_seconds` ago.

    What is open stays: an alert that a sink has not settled, an incident with alerts or with a cut under way, the
    account of a session that goes on, an incident whose cut key is still denied. Nothing is removed on the word of a
    wall clock that just stepped. Every method raises `StoreUnavailable` when the disk refuses.
    """

    def __init__(self, database: Database, settings: RetentionSettings, in_use: InUse, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._in_use = in_use
        self._clock = clock
        self._trust: ClockTrust | None = None
        self.is_doubtful = False
        """Whether the wall clock stepped less than a day ago, so that nothing is removed."""

    async def once(self) -> Removed:
        """Remove everything that is due now; returns what went."""
        if self._trust is None:
            self._trust = await self._database.read(_last_trust)
        now_ms = self._clock.wall_ms()
        is_trusted = self._trust.is_trusted(now_ms, self._clock.monotonic())
        if is_trusted is self.is_doubtful:
            self.is_doubtful = not is_trusted
            say = log.warning if self.is_doubtful else log.info
            say("retention.clock_stepped" if self.is_doubtful else "retention.clock_trusted")
        doubt = self._trust.doubt
        await self._database.write(lambda connection: _note_trust(connection, now_ms, doubt))
        if not is_trusted:
            return {}
        before_ms = _start_of_day(now_ms - round(self._settings.keep_seconds() * 1000))
        accepted_ms = max(before_ms, _start_of_day(now_ms - round(self._settings.accepted_seconds * 1000)))
        removed = {
            "alerts": await self._walk(accepted_ms, lambda place: self._remove_alerts(place, before_ms, now_ms)),
            "incidents": await self._walk(before_ms, self._remove_incidents),
            "coverage": await self._walk(before_ms, self._remove_coverage),
        }
        if any(removed.values()):
            log.info("retention.removed", **removed)
        return removed

    async def _walk(self, before_ms: int, bite: Callable[[_Place], Awaitable[_Bitten]]) -> int:
        """Go through the old rows of one table in bites, over those that stay; returns how many went.

        A bite that takes long is followed by a smaller one: an alert may wait behind it.
        """
        removed, last, limit = 0, (-1, "", ""), self._settings.batch_rows
        while True:
            place = {"before": before_ms, "at": last[0], "id": last[1], "session": last[2], "limit": limit}
            began_at = self._clock.monotonic()
            count, end = await bite(place)
            took = self._clock.monotonic() - began_at
            removed += count
            if end is None:
                return removed
            last = end
            limit = max(_LEAST_ROWS, limit // 2) if took > _LONG_SECONDS else min(limit + 1, self._settings.batch_rows)
            await asyncio.sleep(max(self._settings.pause_seconds, 4 * took))

    async def _remove_alerts(self, place: _Place, before_ms: int, now_ms: int) -> _Bitten:
        def work(connection: sqlite3.Connection) -> _Bitten:
            rows = connection.execute(_ALERTS_AFTER, place).fetchall()
            gone = [row for row in rows if _is_over(row, before_ms, place["before"], now_ms)]
            tally = Tally()
            for queued_at_ms, _, state, _ in gone:
                tally.add(queued_at_ms, f"alerts/{state}")
            connection.executemany("DELETE FROM alerts WHERE alert_id = ?", [(row[1],) for row in gone])
            tally.store(connection)
            return len(gone), (rows[-1][0], rows[-1][1], "") if rows else None

        return await self._database.write(work)

    async def _remove_incidents(self, place: _Place) -> _Bitten:
        def look(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(_INCIDENTS_AFTER, place).fetchall()

        rows = await self._database.read(look)
        open_sessions = frozenset(self._in_use.open_sessions())
        ids = [(row[1],) for row in rows if row[2] not in open_sessions and not self._must_be_found(row)]

        def work(connection: sqlite3.Connection) -> int:
            tally = Tally()
            gone = [row for one in ids for row in connection.execute(_REMOVE_INCIDENT, one).fetchall()]
            for row in gone:
                tally.incident(row)
            tally.store(connection)
            return len(gone)

        return await self._database.write(work) if ids else 0, (rows[-1][0], rows[-1][1], "") if rows else None

    async def _remove_coverage(self, place: _Place) -> _Bitten:
        open_sessions = frozenset(self._in_use.open_sessions())

        def work(connection: sqlite3.Connection) -> _Bitten:
            rows = connection.execute(_COVERAGE_AFTER, place).fetchall()
            gone = [row for row in rows if row[2] not in open_sessions]
            _roll_up_coverage(connection, gone)
            return len(gone), rows[-1][:3] if rows else None

        return await self._database.write(work)

    def _must_be_found(self, row: tuple[Any, ...]) -> bool:
        """Whether `undo` of this incident would change something: its cut stands and its key is denied."""
        cut_state, undone_at_ms, server, app, name = map(from_sql, row[3:])
        if cut_state == "none" or undone_at_ms is not None:
            return False
        return self._in_use.is_revoked(StreamKey(server, app, name))


def _roll_up_coverage(connection: sqlite3.Connection, gone: list[tuple[Any, ...]]) -> None:
    """Remove accounts; a stream counts for its day once the last account of that day has gone."""
    tally = Tally()
    tally.coverage((row[0], *row[3:]) for row in gone)
    connection.executemany("DELETE FROM coverage WHERE stream_id = ? AND session = ?", [row[1:3] for row in gone])
    days = {(row[0] // DAY_MS, row[1]) for row in gone}
    left = "SELECT 1 FROM coverage WHERE stream_id = ? AND updated_at_ms >= ? AND updated_at_ms < ? LIMIT 1"
    count_streams(
        tally,
        [
            (day, stream_id)
            for day, stream_id in days
            if connection.execute(left, (stream_id, day * DAY_MS, (day + 1) * DAY_MS)).fetchone() is None
        ],
    )
    tally.store(connection)


def _is_over(row: tuple[int, str, str, int | None], before_ms: int, accepted_ms: int, now_ms: int) -> bool:
    """Whether an alert has been of no use for long enough; what expired keeps health red for a while.

    A time of settling that is still to come is one of a run that began under a wrong clock: it says nothing.
    """
    queued_at_ms, _, state, settled_at_ms = row
    until_ms = accepted_ms if state == "accepted" else before_ms
    over_at_ms = queued_at_ms if settled_at_ms is None or settled_at_ms > now_ms else max(queued_at_ms, settled_at_ms)
    return state != "open" and over_at_ms < until_ms


def _start_of_day(at_ms: int) -> int:
    return at_ms // DAY_MS * DAY_MS


def _note_trust(connection: sqlite3.Connection, now_ms: int, doubt: Doubt | None) -> None:
    """Write down for the next run that the clock is right, or how long it is doubted."""
    if doubt is None:
        notes = [(_TRUSTED, now_ms)]
        connection.execute("DELETE FROM counters WHERE name IN (?, ?)", (_DOUBTED, _DOUBTED_UNTIL))
    else:
        notes = [(_DOUBTED, doubt.seen_ms), (_DOUBTED_UNTIL, doubt.until_ms)]
    connection.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?)", notes)


def _last_trust(connection: sqlite3.Connection) -> ClockTrust:
    """What the last run knew; in a file of before that was noted, its newest row says when that was."""
    names = (_TRUSTED, _DOUBTED, _DOUBTED_UNTIL)
    known = dict(connection.execute("SELECT name, value FROM counters WHERE name IN (?, ?, ?)", names).fetchall())
    doubt = Doubt(known[_DOUBTED], known[_DOUBTED_UNTIL]) if _DOUBTED in known and _DOUBTED_UNTIL in known else None
    if _TRUSTED in known:
        return ClockTrust(known[_TRUSTED], doubt)
    newest = connection.execute(
        "SELECT max((SELECT coalesce(max(updated_at_ms), -1) FROM coverage),"
        " (SELECT coalesce(max(opened_at_ms), -1) FROM incidents),"
        " (SELECT coalesce(max(queued_at_ms), -1) FROM alerts))"
    ).fetchone()[0]
    return ClockTrust(None if newest < 0 else int(newest), doubt)
