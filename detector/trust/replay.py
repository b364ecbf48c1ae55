"""What a consumer of alerts has seen, on disk: no alert is acted on twice, whoever sends it again."""

import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from detector.store.database import Database
from detector.trust.signing import NotTrusted, Reason, Verified, time_ms

SEEN_LIMIT: Final = 100_000
"""Alerts remembered. Beyond that the oldest make room, and what is not newer than they are is refused unseen."""

_KEPT_AFTER_EXPIRY_MS: Final = 24 * 3600 * 1000
"""An alert that is over is refused for that; its row stays for a day, in case a clock is set back."""

_ROOM: Final = 1_000
"""After so many new ones it is seen to that there is room."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known of an alert: whether it came before, and what `SeenAlerts.settle` wrote of it."""

    is_new: bool
    state: str | None = None


class SeenAlerts:
    """The alerts of every node that a consumer was sent, told apart by the key that signed them.

    A node sends its alerts again until they are acknowledged, and those of two streams may change places. So every
    alert is remembered until it is long over, and a floor under their ids, which rise with the time, stands for those
    that made room. Methods raise `StoreUnavailable` when the disk refuses: an alert that cannot be remembered is then
    the caller's to weigh.
    """

    def __init__(self, database: Database, *, limit: int = SEEN_LIMIT) -> None:
        self._database = database
        self._limit = limit
        self._uncounted = 0

    async def admit(self, alert: Verified, *, now_ms: int) -> Sighting:
        """Remember a verified alert and say whether it came before.

        One that came before may have been left unfinished by a crash: `state` says how far it got.

        Raises:
            NotTrusted: `REPLAYED`: it is older than everything that is remembered.
        """
        said = alert.object
        row = (alert.key_id, str(said["alert_id"]), said.get("seq"), time_ms(said["expires_at"]))
        sighting = await self._database.write(lambda c: _admit(c, row))
        self._uncounted += sighting.is_new
        if self._uncounted >= min(_ROOM, max(1, self._limit // 10)):
            await self._database.write(lambda c: _make_room(c, now_ms - _KEPT_AFTER_EXPIRY_MS, self._limit))
            self._uncounted = 0
        return sighting

    async def settle(self, key_id: str, alert_id: str, state: str) -> None:
        """Write down what became of an alert, so that a repeat is answered without acting."""
        await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE seen_alerts SET state = ? WHERE key_id = ? AND alert_id = ?", (state, key_id, alert_id)
                ).rowcount
            )
        )

    async def count(self) -> int:
        """Return how many alerts are remembered."""
        return await self._database.read(lambda c: int(c.execute("SELECT count(*) FROM seen_alerts").fetchone()[0]))


class CommandNumbers:
    """The last number of each key that commands this node, on disk. Bounded by the keys that are trusted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, key_id: str, seq: int) -> None:
        """Use up a number: once it is on disk, neither it nor a lower one is taken again.

        Raises:
            NotTrusted: `REPLAYED`: it is not above the last one.
            StoreUnavailable: the disk did not take it; the command must not be acted on.
        """
        await self._database.write(lambda c: _take(c, key_id, seq))


def _admit(connection: sqlite3.Connection, row: tuple[str, str, Any, int]) -> Sighting:
    key_id, alert_id, _, _ = row
    known = connection.execute(
        "SELECT state FROM seen_alerts WHERE key_id = ? AND alert_id = ?", (key_id, alert_id)
    ).fetchone()
    if known is not None:
        return Sighting(is_new=False, state=known[0])
    floor = connection.execute("SELECT floor_id FROM seen_floors WHERE key_id = ?", (key_id,)).fetchone()
    # Not the number: a node whose database was lost counts from 1 again, with the same key. Ids rise with the time.
    if floor is not None and alert_id <= floor[0]:
        raise NotTrusted(Reason.REPLAYED, "it is older than everything that is remembered")
    connection.execute("INSERT INTO seen_alerts VALUES (?, ?, ?, ?, NULL)", row)
    return Sighting(is_new=True)


def _make_room(connection: sqlite3.Connection, over_ms: int, limit: int) -> None:
    """Forget what is long over, and the oldest beyond the limit; floors rise to what leaves."""
    excess = int(connection.execute("SELECT count(*) FROM seen_alerts").fetchone()[0]) - limit
    leaving = connection.execute(
        "SELECT key_id, alert_id FROM seen_alerts WHERE expires_at_ms < ?"
        " UNION SELECT * FROM (SELECT key_id, alert_id FROM seen_alerts ORDER BY expires_at_ms, alert_id LIMIT ?)",
        (over_ms, max(0, excess)),
    ).fetchall()
    for key_id, alert_id in leaving:
        connection.execute("DELETE FROM seen_alerts WHERE key_id = ? AND alert_id = ?", (key_id, alert_id))
        connection.execute(
            "INSERT INTO seen_floors VALUES (:key, :id)"
            " ON CONFLICT (key_id) DO UPDATE SET floor_id = max(floor_id, :id)",
            {"key": key_id, "id": alert_id},
        )


def _take(connection: sqlite3.Connection, key_id: str, seq: int) -> None:
    last = connection.execute("SELECT seq FROM command_seqs WHERE key_id = ?", (key_id,)).fetchone()
    if last is not None and seq <= int(last[0]):
        raise NotTrusted(Reason.REPLAYED, "its number is not above the last one of this key")
    connection.execute("INSERT OR REPLACE INTO command_seqs VALUES (?, ?)", (key_id, seq))
