"""Alerts on disk before they are sent, one row per sink until that sink accepted them or they expired."""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from detector.alerts.urgency import Urgency
from detector.store.database import Database
from detector.store.incidents import IncidentRecord, incident_job, write_incident

_OPEN: Final = "state IN ('pending', 'sent')"
"""`pending` was never handed to its sink; `sent` was, and was not accepted yet."""

_LOOK_MS: Final = 60_000
"""What expires is looked for so often at least: another file may lie at the place of the one that was counted."""

_BITE_ROWS: Final = 2000
_BEGINNING: Final = ("", -1, "")
_EXPIRY_REST: Final = 20.0

_STEP: Final = "outbox_step_ms"
_FOR_EVER_MS: Final = 2**62


class OutgoingAlert(Protocol):
    """What the outbox needs to know of an alert."""

    @property
    def alert_id(self) -> str:
        """The id, stable on every resend."""

    @property
    def stream_id(self) -> str:
        """Whose alert it is."""

    @property
    def incident_id(self) -> str | None:
        """The incident that it tells of, if any."""

    @property
    def urgency(self) -> int:
        """What goes first where many wait: higher before lower."""

    @property
    def expires_at_ms(self) -> int:
        """Wall-clock milliseconds after which nobody needs it."""

    def encode(self, seq: int | None, *, durable: bool) -> bytes:
        """Return the payload with its number."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was put down: the alert's number, gap-free on this node, and the bytes that every sink will get."""

    seq: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One alert that one sink still owes us an answer for."""

    alert_id: str
    seq: int
    stream_id: str
    urgency: int
    payload: bytes
    expires_at_ms: int
    attempts: int
    next_attempt_at_ms: int


class Outbox:
    """The alerts of one node. Every method raises `StoreUnavailable` when the disk refuses."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._rests_until = 0.0
        self._expires_ms = 0
        """Nothing that is open expires before, by all that was written and looked at."""
        self._looked_ms = 0

    async def record(
        self,
        alert: OutgoingAlert,
        incident: IncidentRecord | None,
        *,
        sinks: Sequence[str],
        now_ms: int,
        expires_at_ms: int | None = None,
    ) -> Stored:
        """Put the incident and its alert on disk in one transaction; the same alert twice is stored once.

        `expires_at_ms` is when it expires by the clock that the other methods are given, where that is another one than
        the alert's own.
        """
        until_ms = alert.expires_at_ms if expires_at_ms is None else expires_at_ms
        self._expires_ms = min(self._expires_ms, until_ms)
        stored = await self._database.write(lambda c: _record(c, alert, incident, sinks, (now_ms, until_ms)))
        if incident is not None:  # what waits to be written of it is older
            self._database.drop_late(incident_job(incident.incident_id))
        return stored

    def record_later(self, incident: IncidentRecord) -> None:
        """Keep an incident whose alert went out without the disk, for `write_late`."""
        self._database.write_later(incident_job(incident.incident_id), lambda c: write_incident(c, incident))

    async def write_late(self) -> int:
        """As `Database.write_late`: incidents and what became of their cuts."""
        return await self._database.write_late()

    async def due(
        self, sink: str, now_ms: int, limit: int, *, due_by_ms: int | None = None, longest_ms: int = _FOR_EVER_MS
    ) -> list[OutboxRow]:
        """Return open rows of streams with one due by `due_by_ms` (now): the most urgent first, each in order.

        A stream that has anything due is returned from its oldest open row on, so that its order holds. Rows that
        are expired by `now_ms` are left out. No row waits for longer than `longest_ms`: one that says so was written
        before the clock was set back, and is due.
        """
        values = {"sink": sink, "now": now_ms, "limit": limit, "longest": longest_ms}
        values["due_by"] = now_ms if due_by_ms is None else due_by_ms
        return await self._database.read(lambda c: _due(c, values))

    async def find_open(self, alert_id: str, sink: str) -> OutboxRow | None:
        """Return one alert that this sink still owes us an answer for."""
        query = f"""SELECT a.alert_id, a.seq, a.stream_id, a.urgency, a.payload, a.expires_at_ms, d.attempts,
            d.next_attempt_at_ms FROM deliveries d JOIN alerts a USING (alert_id)
            WHERE d.alert_id = ? AND d.sink = ? AND d.{_OPEN}"""  # noqa: S608 - text of this file
        row = await self._database.read(lambda c: c.execute(query, (alert_id, sink)).fetchone())
        return None if row is None else _row(row)

    async def open_of_incident(self, incident_id: str, sink: str) -> list[str]:
        """Return the alerts that ask for this incident's cut and that the sink still owes us an answer for."""
        query = f"""SELECT a.alert_id FROM deliveries d CROSS JOIN alerts a USING (alert_id)
            WHERE d.sink = ? AND d.{_OPEN} AND a.incident_id = ? AND a.urgency = ?"""  # noqa: S608 - text of this file
        values = (sink, incident_id, int(Urgency.CUT))
        return await self._database.read(lambda c: [row[0] for row in c.execute(query, values)])

    async def acked(self, alert_id: str, sink: str, now_ms: int) -> None:
        """Write down that the sink accepted the alert: it is never sent there again."""
        await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE deliveries SET state = 'acked', settled_at_ms = ? WHERE alert_id = ? AND sink = ?",
                    (now_ms, alert_id, sink),
                ).rowcount
            )
        )

    async def attempted(self, alert_id: str, sink: str, next_attempt_at_ms: int) -> None:
        """Count an attempt that was not accepted, and when the next one is due."""
        await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE deliveries SET state = 'sent', attempts = attempts + 1, next_attempt_at_ms = ?"
                    " WHERE alert_id = ? AND sink = ? AND state IN ('pending', 'sent')",
                    (next_attempt_at_ms, alert_id, sink),
                ).rowcount
            )
        )

    async def expire(self, now_ms: int) -> int:
        """Settle every open row whose time is over; the rows stay. Returns how many there were.

        Costs nothing while there can be none. Else it goes through the open rows alone, as a month of settled ones may
        lie beside them, in bites that an alert need not wait for, and rests twenty times as long as that took.
        """
        begun_at = self._clock()
        could_be = now_ms >= self._expires_ms and begun_at >= self._rests_until
        if not could_be and 0 <= now_ms - self._looked_ms < _LOOK_MS:
            return 0
        before_ms, self._expires_ms = self._expires_ms, _FOR_EVER_MS  # what is recorded from now on lowers it again
        expired, first_ms = 0, _FOR_EVER_MS
        place: tuple[str, int, str] | None = _BEGINNING
        try:
            while place is not None:
                count, next_ms, place = await self._database.write(partial(_expire, place=place, now_ms=now_ms))
                expired, first_ms = expired + count, min(first_ms, next_ms)
        except BaseException:
            self._expires_ms = min(self._expires_ms, before_ms)
            raise
        self._expires_ms, self._looked_ms = min(self._expires_ms, first_ms), now_ms
        self._rests_until = self._clock() + _EXPIRY_REST * (self._clock() - begun_at)
        return expired

    async def expired_since(self, since_ms: int, now_ms: int) -> dict[str, int]:
        """Return how many alerts expired unaccepted since then, by sink.

        A time that is still to come is one of a run under a clock that stood ahead: it says nothing of what is now.
        """
        query = """SELECT sink, count(*) FROM deliveries
            WHERE state = 'expired' AND settled_at_ms BETWEEN ? AND ? GROUP BY sink"""
        return await self._database.read(lambda c: dict(c.execute(query, (since_ms, now_ms)).fetchall()))

    async def counts(self, sink: str) -> dict[str, int]:
        """Return how many rows of one sink are in each state."""
        query = "SELECT state, count(*) FROM deliveries WHERE sink = ? GROUP BY state"
        return await self._database.read(lambda c: dict(c.execute(query, (sink,)).fetchall()))

    async def open_count(self, sink: str) -> tuple[int, int | None]:
        """Return how many rows of one sink are open, and when the first is due (milliseconds), if any."""
        query = f"SELECT count(*), min(next_attempt_at_ms) FROM deliveries WHERE sink = ? AND {_OPEN}"  # noqa: S608
        count, first = await self._database.read(lambda c: c.execute(query, (sink,)).fetchone())
        return int(count), first

    async def note_step(self, step_ms: int) -> None:
        """Write down how far the machine's clock stands ahead of the one that open rows were written by."""
        await self._database.write(
            lambda c: c.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (_STEP, step_ms)).rowcount
        )

    async def forget_step(self) -> None:
        """Turn the times of open rows into those of the machine's clock, which a new run begins with."""

        def work(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT value FROM counters WHERE name = ?", (_STEP,)).fetchone()
            if row is None:
                return
            still_open = f"SELECT alert_id FROM deliveries WHERE {_OPEN}"  # noqa: S608 - text of this file
            connection.execute(
                f"UPDATE alerts SET expires_at_ms = expires_at_ms + ? WHERE alert_id IN ({still_open})",  # noqa: S608
                row,
            )
            connection.execute(
                f"UPDATE deliveries SET next_attempt_at_ms = next_attempt_at_ms + ? WHERE {_OPEN}",  # noqa: S608
                row,
            )
            connection.execute("DELETE FROM counters WHERE name = ?", (_STEP,))

        self._expires_ms = 0
        await self._database.write(work)

    async def probe(self) -> None:
        """Find out whether the disk takes an alert again: writes as much as one needs, and takes it back."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO counters VALUES (hex(zeroblob(8192)), 0)")
            connection.execute("DELETE FROM counters WHERE name = hex(zeroblob(8192))")

        await self._database.write(work)


def _expire(
    connection: sqlite3.Connection, *, place: tuple[str, int, str], now_ms: int
) -> tuple[int, int, tuple[str, int, str] | None]:
    """One bite: how many rows were over, when the first of the others is, and where the next bite begins."""
    rows = connection.execute(
        f"""SELECT d.sink, d.next_attempt_at_ms, d.alert_id, a.expires_at_ms
        FROM deliveries d INDEXED BY deliveries_open CROSS JOIN alerts a USING (alert_id)
        WHERE d.{_OPEN} AND (d.sink, d.next_attempt_at_ms, d.alert_id) > (?, ?, ?)
        ORDER BY d.sink, d.next_attempt_at_ms, d.alert_id LIMIT ?""",  # noqa: S608 - text of this file
        (*place, _BITE_ROWS),
    ).fetchall()
    over = [(now_ms, alert_id, sink) for sink, _, alert_id, expires_at_ms in rows if expires_at_ms <= now_ms]
    connection.executemany(
        "UPDATE deliveries SET state = 'expired', settled_at_ms = ? WHERE alert_id = ? AND sink = ?", over
    )
    first_ms = min((row[3] for row in rows if row[3] > now_ms), default=_FOR_EVER_MS)
    return len(over), first_ms, rows[-1][:3] if len(rows) == _BITE_ROWS else None


def _due(connection: sqlite3.Connection, values: dict[str, Any]) -> list[OutboxRow]:
    """First whose turn it is, then their rows, and payloads of what is returned alone.

    200,000 open rows take half a second so. A window over whole rows took three: longer than delivery waits for the
    disk, so that nothing ever came off it again.
    """
    open_rows = f"""deliveries d CROSS JOIN alerts a USING (alert_id)
        WHERE d.sink = :sink AND d.{_OPEN} AND a.expires_at_ms > :now"""
    streams = connection.execute(
        f"""SELECT a.stream_id, count(*) FROM {open_rows} GROUP BY a.stream_id
        HAVING min(CASE WHEN d.next_attempt_at_ms - :now > :longest THEN 0 ELSE d.next_attempt_at_ms END) <= :due_by
        ORDER BY max(a.urgency) DESC, min(a.seq) LIMIT :limit""",  # noqa: S608 - text of this file
        values,
    ).fetchall()
    chosen: dict[str, int] = {}
    room = int(values["limit"])
    for stream_id, count in streams:
        if room <= 0:
            break
        chosen[stream_id] = len(chosen)
        room -= count
    if not chosen:
        return []
    # All but the last have room for all they have; of that one the oldest come.
    more = {"chosen": json.dumps(list(chosen)), "last": list(chosen)[-1]}
    found = connection.execute(
        f"""WITH taken AS MATERIALIZED (
            SELECT a.rowid AS id FROM {open_rows} AND a.stream_id IN (SELECT value FROM json_each(:chosen))
            ORDER BY a.stream_id = :last, a.seq LIMIT :limit
        )
        SELECT a.alert_id, a.seq, a.stream_id, a.urgency, a.payload, a.expires_at_ms, d.attempts, d.next_attempt_at_ms
        FROM taken t CROSS JOIN alerts a ON a.rowid = t.id
            CROSS JOIN deliveries d ON d.alert_id = a.alert_id AND d.sink = :sink""",  # noqa: S608 - text of this file
        values | more,
    )
    rows = [_row(row) for row in found]
    return sorted(rows, key=lambda row: (chosen[row.stream_id], row.seq))


def _record(
    connection: sqlite3.Connection,
    alert: OutgoingAlert,
    incident: IncidentRecord | None,
    sinks: Sequence[str],
    queued_and_expires_ms: tuple[int, int],
) -> Stored:
    known = connection.execute("SELECT seq, payload FROM alerts WHERE alert_id = ?", (alert.alert_id,)).fetchone()
    if known is not None:
        return Stored(int(known[0]), bytes(known[1]))
    if incident is not None:
        write_incident(connection, incident)
    connection.execute(
        "INSERT INTO counters VALUES ('alert_seq', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
    )
    seq = int(connection.execute("SELECT value FROM counters WHERE name = 'alert_seq'").fetchone()[0])
    payload = alert.encode(seq, durable=True)
    connection.execute(
        "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            alert.alert_id,
            seq,
            alert.stream_id,
            alert.incident_id,
            int(alert.urgency),
            payload,
            *queued_and_expires_ms,
        ),
    )
    connection.executemany(
        "INSERT INTO deliveries (alert_id, sink, state) VALUES (?, ?, 'pending')",
        [(alert.alert_id, sink) for sink in sinks],
    )
    return Stored(seq, payload)


def _row(row: tuple[str, int, str, int, bytes, int, int, int]) -> OutboxRow:
    alert_id, seq, stream_id, urgency, payload, expires_at_ms, attempts, next_attempt_at_ms = row
    return OutboxRow(alert_id, seq, stream_id, urgency, bytes(payload), expires_at_ms, attempts, next_attempt_at_ms)
