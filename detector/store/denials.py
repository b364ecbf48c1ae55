"""Accounts that may publish nothing for a while, on disk: by the keyed hashes of their names alone."""

import sqlite3
from dataclasses import dataclass

from detector.store.database import Database


@dataclass(frozen=True, slots=True)
class Denial:
    """`account` may not publish until then (Unix milliseconds), because of this incident."""

    account: str
    incident_id: str
    until_ms: int


class Denials:
    """What is denied by account. Writes wait for the next row of an incident, which a cut and an undo both bring."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, now_ms: int) -> list[Denial]:
        """Return what holds still. Raises `StoreUnavailable`."""
        query = "SELECT account, incident_id, until_ms FROM denied_accounts WHERE until_ms > ? ORDER BY until_ms"
        return await self._database.read(lambda c: [Denial(*row) for row in c.execute(query, (now_ms,))])

    def add(self, denial: Denial, now_ms: int) -> None:
        """Write one down with the next thing that is written, and forget those that are over."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM denied_accounts WHERE until_ms <= ?", (now_ms,))
            row = (denial.account, denial.incident_id, denial.until_ms)
            connection.execute("INSERT OR REPLACE INTO denied_accounts VALUES (?, ?, ?)", row)

        self._database.write_later(f"denial {denial.incident_id}", work)

    def lift(self, account: str) -> None:
        """An account may publish again; written down as by `add`."""
        self._database.write_later(
            f"denial lifted {account}",
            lambda c: c.execute("DELETE FROM denied_accounts WHERE account = ?", (account,)),
        )
