"""What happened, stream by stream: what was seen, what was done, how far the cut got, whether it was taken back."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from detector.events import CutState, Step, StreamKey
from detector.instants import rfc3339
from detector.store.database import Database
from detector.store.faults import StoreUnavailable


class IncidentNotFound(Exception):
    """Raised by the incident store when no incident, or more than one, has the id that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRecord:
    """One incident as the local database holds it.

    `key` and `connection` name the real publisher: they stay in the database and out of `repr`, logs and alerts.
    `signals` is a summary for people. Times are wall-clock milliseconds since the epoch: `gone_at_ms` is when the
    server took its last media byte, `confirmed_at_ms` when the proof was complete. `time_to_cut_ms` runs to `gone`.
    """

    incident_id: str
    stream_id: str
    session: str
    key: StreamKey = field(repr=False)
    opened_at_ms: int
    action: Step
    is_live: bool
    signals: str
    connection: str = field(default="", repr=False)
    refused_by: str | None = None
    detail: str = ""
    cut_state: CutState = CutState.NONE
    gone_at_ms: int | None = None
    confirmed_at_ms: int | None = None
    time_to_cut_ms: int | None = None
    undone_at_ms: int | None = None
    closed_at_ms: int | None = None

    def public(self) -> dict[str, Any]:
        """Return what `stopframe incidents` shows: no key, times as RFC 3339."""
        return {
            "incident": self.incident_id,
            "stream": self.stream_id,
            "session": self.session,
            "opened_at": _instant(self.opened_at_ms),
            "action": self.action.word,
            "mode": "live" if self.is_live else "shadow",
            "signals": self.signals,
            "refused_by": self.refused_by,
            "detail": self.detail,
            "cut": self.cut_state.value,
            "gone_at": _instant(self.gone_at_ms),
            "confirmed_at": _instant(self.confirmed_at_ms),
            "time_to_cut_ms": self.time_to_cut_ms,
            "undone_at": _instant(self.undone_at_ms),
            "closed_at": _instant(self.closed_at_ms),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CutProgress:
    """How far a cut got. What is None leaves the stored value as it is; times as in `IncidentRecord`."""

    state: CutState
    gone_at_ms: int | None = None
    confirmed_at_ms: int | None = None
    time_to_cut_ms: int | None = None
    detail: str | None = None


TAKEN_BACK: Final = "an operator took the cut back"

_ANSWER_SECONDS: Final = 2.0
"""A cut by an operator waits for its incident no longer than this."""

_COLUMNS: Final = (
    "incident_id",
    "stream_id",
    "session",
    "server",
    "app",
    "name",
    *(f.name for f in fields(IncidentRecord) if f.name not in {"incident_id", "stream_id", "session", "key"}),
)
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM incidents"  # noqa: S608 - names from this file only
_UPSERT: Final = (
    f"INSERT INTO incidents ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' for _ in _COLUMNS)})"  # noqa: S608
    # A later alert about the same incident may raise what was seen and decided; the cut's progress has its own way in.
    " ON CONFLICT (incident_id) DO UPDATE SET action = max(action, excluded.action), is_live = excluded.is_live,"
    " signals = excluded.signals, refused_by = excluded.refused_by, detail = excluded.detail,"
    " connection = excluded.connection,"
    " cut_state = CASE WHEN cut_state = 'none' THEN excluded.cut_state ELSE cut_state END"
)


def write_incident(connection: sqlite3.Connection, record: IncidentRecord) -> None:
    """Open or update an incident inside a transaction of the caller; a cut's progress is never set back."""
    values = [_column(record, name) for name in _COLUMNS]
    connection.execute(_UPSERT, values)


def sql_text(text: str) -> str | bytes:
    """Return `text` as SQLite takes it: where it is no UTF-8, as a publisher's path may be, as the bytes behind it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def from_sql(value: Any) -> Any:
    """Return a column's value; what `sql_text` turned into bytes is text again."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


class Incidents:
    """The incidents of one node."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, record: IncidentRecord) -> None:
        """Store a new incident, or update what was seen and decided of a known one.

        What the disk refuses or leaves unanswered (`StoreUnavailable`), or the caller does not wait for, is written
        down when it takes rows again; so with `set_cut`.
        """
        await self._write(incident_job(record.incident_id), lambda connection: write_incident(connection, record))

    async def newest(self, limit: int = 50, *, stream_id: str | None = None) -> list[IncidentRecord]:
        """Return at most `limit` incidents, newest first, of one stream or of all."""
        where, values = ("", []) if stream_id is None else (" WHERE stream_id = ?", [stream_id])
        query = f"{_SELECT}{where} ORDER BY opened_at_ms DESC, incident_id DESC LIMIT ?"
        return await self._database.read(lambda c: [_record(row) for row in c.execute(query, [*values, limit])])

    async def get(self, prefix: str) -> IncidentRecord:
        """Return the incident with this id, or the only one whose id starts so.

        Raises:
            IncidentNotFound: there is none, or more than one.
        """
        query = f"{_SELECT} WHERE substr(incident_id, 1, ?) = ? LIMIT 2"
        rows = await self._database.read(lambda c: c.execute(query, (len(prefix), prefix)).fetchall())
        if not prefix or not rows:
            raise IncidentNotFound(f"no incident is called {prefix[:36]!r}: `stopframe incidents` lists them")
        if len(rows) > 1:
            raise IncidentNotFound(f"more than one incident starts with {prefix[:36]!r}: give more of its id")
        return _record(rows[0])

    async def set_cut(self, incident_id: str, progress: CutProgress) -> None:
        """Write down how far the cut got."""
        values = (
            progress.state.value,
            progress.gone_at_ms,
            progress.confirmed_at_ms,
            progress.time_to_cut_ms,
            None if progress.detail is None else sql_text(progress.detail),
            incident_id,
        )

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE incidents SET cut_state = ?, gone_at_ms = coalesce(?, gone_at_ms),"
                " confirmed_at_ms = coalesce(?, confirmed_at_ms), time_to_cut_ms = coalesce(?, time_to_cut_ms),"
                " detail = coalesce(?, detail) WHERE incident_id = ?",
                values,
            )

        await self._write(f"cut {incident_id}", work)

    async def _write(self, what: str, work: Callable[[sqlite3.Connection], None]) -> None:
        """Write after everything that waits: a cut's end must follow its incident, and its beginning not its end."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._database.write_in_order(what, work)
        except TimeoutError:
            raise StoreUnavailable("the disk does not answer: check its latency and its mount") from None

    async def pending_cuts(self) -> list[IncidentRecord]:
        """Return the cuts begun, not finished and not taken back, oldest first: what a restart goes on with."""
        query = f"{_SELECT} WHERE cut_state = 'pending' AND undone_at_ms IS NULL ORDER BY opened_at_ms, incident_id"
        return await self._database.read(lambda c: [_record(row) for row in c.execute(query)])

    async def close(self, incident_id: str, at_ms: int) -> None:
        """Write down that an incident is over; what the disk refuses is kept as by `set_cut`."""

        def work(connection: sqlite3.Connection) -> None:
            query = "UPDATE incidents SET closed_at_ms = ? WHERE incident_id = ? AND closed_at_ms IS NULL"
            connection.execute(query, (at_ms, incident_id))

        await self._write(f"close {incident_id}", work)

    async def not_closed(self, since_ms: int, limit: int = 1000) -> list[IncidentRecord]:
        """Return what an earlier run did not bring to its end since then, the newest first, but for cuts under way."""
        open_ones = "closed_at_ms IS NULL AND cut_state <> 'pending' AND opened_at_ms >= ?"
        query = f"{_SELECT} WHERE {open_ones} ORDER BY opened_at_ms DESC LIMIT ?"
        return await self._database.read(lambda c: [_record(row) for row in c.execute(query, (since_ms, limit))])

    async def withdraw(self, incident_id: str, key: StreamKey) -> None:
        """Write down that no cut of `key` is under way any more: no restart may go on with what is being taken back.

        `incident_id` is the incident that is taken back; what the disk refuses is kept as by `set_cut`.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE incidents SET cut_state = ?, detail = ?"
                " WHERE cut_state = 'pending' AND server = ? AND app = ? AND name = ?",
                (CutState.FAILED.value, TAKEN_BACK, sql_text(key.server), sql_text(key.app), sql_text(key.name)),
            )

        await self._write(f"withdrawal {incident_id}", work)

    async def mark_undone(self, incident_id: str, at_ms: int) -> bool:
        """Write down that an operator took the cut back; False if that was written before."""
        count = await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE incidents SET undone_at_ms = ? WHERE incident_id = ? AND undone_at_ms IS NULL",
                    (at_ms, incident_id),
                ).rowcount
            )
        )
        return count == 1


def _column(record: IncidentRecord, name: str) -> Any:
    if name in {"server", "app", "name"}:
        return sql_text(getattr(record.key, name))
    value = getattr(record, name)
    if isinstance(value, (CutState, Step)):
        return value.value
    return sql_text(value) if isinstance(value, str) else value


def incident_job(incident_id: str) -> str:
    """Return the name under which an incident waits for the disk."""
    return f"incident {incident_id}"


def _record(row: tuple[Any, ...]) -> IncidentRecord:
    values = dict(zip(_COLUMNS, map(from_sql, row), strict=True))
    key = StreamKey(values.pop("server"), values.pop("app"), values.pop("name"))
    values |= {
        "action": Step(values["action"]),
        "is_live": bool(values["is_live"]),
        "cut_state": CutState(values["cut_state"]),
    }
    return IncidentRecord(key=key, **values)


def _instant(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
