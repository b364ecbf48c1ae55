"""What people said of entries that an exchange gave, on disk until that exchange took it: the last word on each."""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Final

from detector.store.database import Database

MOST_HASHES: Final = 16
"""Hashes of an entry that are kept with what was said of it."""

_COLUMNS: Final = (
    "exchange, bank, entry, hashes, verdict, judged_at_ms, state, attempts, next_attempt_at_ms, settled_at_ms, detail"
)
_FIRST_PAUSE_MS: Final = 60_000
_LONGEST_PAUSE_MS: Final = 6 * 3_600_000


@unique
class Verdict(StrEnum):
    """What somebody said of an entry: it is rightly on the list, or not."""

    CONFIRMED = "confirmed"
    FALSE_MATCH = "false_match"


@unique
class FeedbackState(StrEnum):
    """How far it got. `refused`: the exchange will not take it, however often it is sent."""

    PENDING = "pending"
    SENT = "sent"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """The last word on one entry. `hashes` are the entry's, in hex; times are Unix milliseconds."""

    exchange: str
    bank: str
    entry: str
    hashes: tuple[str, ...]
    verdict: Verdict
    judged_at_ms: int
    state: FeedbackState = FeedbackState.PENDING
    attempts: int = 0
    next_attempt_at_ms: int = 0
    settled_at_ms: int | None = None
    detail: str = ""


class FeedbackStore:
    """The outbox. Every method may raise `StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, row: FeedbackRow) -> bool:
        """Keep somebody's word. The same again changes nothing; another one takes its place, and is sent anew."""
        return await self._database.write(lambda c: note_in(c, row))

    async def rows(self) -> list[FeedbackRow]:
        """Everything, the newest word first."""
        return await self._database.read(read_feedback)

    async def due(self, exchange: str, now_ms: int, most: int) -> list[FeedbackRow]:
        """What is to be sent to an exchange now, the oldest word first; nobody waits for a clock that was set back."""
        query = (
            f"SELECT {_COLUMNS} FROM feedback WHERE state = 'pending' AND exchange = ? "  # noqa: S608 - its own columns
            "AND NOT next_attempt_at_ms BETWEEN ? + 1 AND ? ORDER BY judged_at_ms LIMIT ?"
        )
        key = (exchange, now_ms, now_ms + _LONGEST_PAUSE_MS, most)
        return await self._database.read(lambda c: [_row(one) for one in c.execute(query, key).fetchall()])

    async def pending(self) -> Mapping[str, int]:
        """How many wait, by exchange."""
        query = "SELECT exchange, COUNT(*) FROM feedback WHERE state = 'pending' GROUP BY exchange"
        return await self._database.read(lambda c: dict(c.execute(query).fetchall()))

    async def settle(self, row: FeedbackRow, state: FeedbackState, now_ms: int, detail: str = "") -> None:
        """It was taken, or refused for good; unless somebody has said another word meanwhile."""
        await self._update(row, "state = ?, settled_at_ms = ?, detail = ?", state, now_ms, detail)

    async def attempt(self, row: FeedbackRow, now_ms: int) -> None:
        """It is about to be sent: again in a minute, then ever later, every six hours at last, unless it is settled.

        Noted before, so that neither a full disk nor a service that breaks says the same again and again.
        """
        pause = min(_FIRST_PAUSE_MS << min(row.attempts, 10), _LONGEST_PAUSE_MS)
        await self._update(row, "next_attempt_at_ms = ?, attempts = attempts + 1", now_ms + pause)

    async def explain(self, row: FeedbackRow, detail: str) -> None:
        """Why it could not be sent."""
        await self._update(row, "detail = ?", detail)

    async def _update(self, row: FeedbackRow, change: str, *values: Any) -> None:
        key = (row.exchange, row.bank, row.entry, row.verdict.value, row.judged_at_ms)
        statement = (
            f"UPDATE feedback SET {change} WHERE exchange = ? AND bank = ? AND entry = ? "  # noqa: S608 - our own words
            "AND verdict = ? AND judged_at_ms = ?"
        )
        await self._database.write(lambda c: c.execute(statement, (*values, *key)).rowcount)


def note_in(connection: sqlite3.Connection, row: FeedbackRow) -> bool:
    """As `FeedbackStore.note`, within a transaction; tells whether anything changed."""
    key = (row.exchange, row.bank, row.entry)
    known = connection.execute(
        "SELECT verdict, state FROM feedback WHERE exchange = ? AND bank = ? AND entry = ?", key
    ).fetchone()
    if known is not None and known[0] == row.verdict and known[1] != FeedbackState.REFUSED:
        return False
    connection.execute(
        "INSERT OR REPLACE INTO feedback (exchange, bank, entry, hashes, verdict, judged_at_ms, state) "
        "VALUES (?, ?, ?, ?, ?, ?, 'pending')",
        (*key, ",".join(row.hashes[:MOST_HASHES]), row.verdict.value, row.judged_at_ms),
    )
    return True


def read_feedback(connection: sqlite3.Connection) -> list[FeedbackRow]:
    """Everything, the newest word first."""
    query = f"SELECT {_COLUMNS} FROM feedback ORDER BY judged_at_ms DESC"  # noqa: S608 - its own columns
    return [_row(one) for one in connection.execute(query).fetchall()]


def _row(raw: Iterable[Any]) -> FeedbackRow:
    exchange, bank, entry, hashes, verdict, judged_at_ms, state, *rest = raw
    values = tuple(hashes.split(",")) if hashes else ()
    return FeedbackRow(exchange, bank, entry, values, Verdict(verdict), judged_at_ms, FeedbackState(state), *rest)
