"""What the cutter was asked to do, on disk: no cut is made twice, none forgotten, each answer ready to be repeated."""

import sqlite3
from dataclasses import dataclass, field
from typing import Final

from detector.store.database import Database

UNDER_WAY: Final = "received"
CUT: Final = "cut"
REJECTED: Final = "rejected"

_FORGET_EVERY: Final = 1_000
"""After so many new alerts those are forgotten that nobody could send again."""

TAKEN_BACK_KEPT: Final = 20_000
"""Incidents that are known as taken back. By their ids, which rise with the time, and by no clock that may be set."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One alert that asks for a cut. `ack` is the signed final answer, empty while there is none."""

    alert_id: str
    stream_id: str
    incident_id: str
    session: str
    expires_at_ms: int
    state: str = UNDER_WAY
    ack: bytes = field(default=b"", repr=False)

    @property
    def is_over(self) -> bool:
        """Whether it was answered for good."""
        return self.state != UNDER_WAY


_COLUMNS: Final = "alert_id, stream_id, incident_id, session, expires_at_ms, state, ack"


class AskedAlerts:
    """The alerts of a cutter. Every method raises `StoreUnavailable` when the disk refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._taken = 0

    async def take(self, asked: Asked) -> Asked:
        """Write down a new alert before anything is done about it; returns it as it is known, if it came before."""
        known = await self._database.write(lambda c: _take(c, asked))
        self._taken += known is asked
        if self._taken >= _FORGET_EVERY:
            self._taken = 0
            await self._database.write(_forget)
        return known

    async def answer(self, alert_id: str, state: str, ack: bytes) -> None:
        """Write down the final answer before it is sent."""
        await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE asked_alerts SET state = ?, ack = ? WHERE alert_id = ?", (state, ack, alert_id)
                ).rowcount
            )
        )

    async def under_way(self, now_ms: int) -> list[Asked]:
        """Return what an earlier run began and did not answer, oldest first; what is over is forgotten."""

        def work(connection: sqlite3.Connection) -> list[Asked]:
            _forget(connection)
            query = f"SELECT {_COLUMNS} FROM asked_alerts WHERE state = ? AND expires_at_ms > ? ORDER BY alert_id"  # noqa: S608
            return [Asked(*row) for row in connection.execute(query, (UNDER_WAY, now_ms))]

        return await self._database.write(work)

    async def take_back(self, incident_id: str, at_ms: int) -> None:
        """Write down that nothing of this incident is to be cut any more, whatever still arrives.

        Of very many the oldest are forgotten: of those no alert is on its way any more.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO taken_back VALUES (?, ?)", (incident_id, at_ms))
            surplus = "SELECT incident_id FROM taken_back ORDER BY incident_id DESC LIMIT 1 OFFSET ?"
            connection.execute(f"DELETE FROM taken_back WHERE incident_id <= ({surplus})", (TAKEN_BACK_KEPT,))  # noqa: S608

        await self._database.write(work)

    async def is_taken_back(self, incident_id: str) -> bool:
        """Whether an operator took the incident back."""
        query = "SELECT 1 FROM taken_back WHERE incident_id = ?"
        return await self._database.read(lambda c: c.execute(query, (incident_id,)).fetchone() is not None)


def _forget(connection: sqlite3.Connection) -> None:
    """Forget what `detector.trust.replay` forgot, which refuses it from then on: no clock that is set has a say here.

    One that is known there and not here would be cut once more by whoever sends it again.
    """
    seen = "SELECT alert_id FROM seen_alerts"
    connection.execute(f"DELETE FROM asked_alerts WHERE alert_id NOT IN ({seen})")  # noqa: S608


def _take(connection: sqlite3.Connection, asked: Asked) -> Asked:
    query = f"SELECT {_COLUMNS} FROM asked_alerts WHERE alert_id = ?"  # noqa: S608
    row = connection.execute(query, (asked.alert_id,)).fetchone()
    if row is not None:
        return Asked(*row)
    connection.execute(
        f"INSERT INTO asked_alerts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            asked.alert_id,
            asked.stream_id,
            asked.incident_id,
            asked.session,
            asked.expires_at_ms,
            asked.state,
            asked.ack,
        ),
    )
    return asked
