"""How much of every stream was seen: totals per session, kept across restarts."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageTotals:
    """One session's time alive, in seconds: seen, skipped by cause and blind by cause add up to it."""

    stream_id: str
    session: str
    seen_seconds: float
    skipped_seconds: Mapping[str, float] = field(default_factory=dict)
    blind_seconds: Mapping[str, float] = field(default_factory=dict)
    max_gap_seconds: float = 0.0
    updated_at_ms: int = 0


class CoverageStore:
    """The last totals of every session."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def upsert(self, totals: Iterable[CoverageTotals]) -> None:
        """Store the sessions' totals in one transaction, each replacing what was known of its session."""
        rows = [
            (
                t.stream_id,
                t.session,
                t.seen_seconds,
                json.dumps(dict(t.skipped_seconds)),
                json.dumps(dict(t.blind_seconds)),
                t.max_gap_seconds,
                t.updated_at_ms,
            )
            for t in totals
        ]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO coverage VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

        await self._database.write(work)

    async def of_stream(self, stream_id: str) -> list[CoverageTotals]:
        """Return the totals of every session of one stream, the latest first."""
        query = "SELECT * FROM coverage WHERE stream_id = ? ORDER BY updated_at_ms DESC"
        return await self._database.read(lambda c: [_totals(row) for row in c.execute(query, (stream_id,))])


def _totals(row: tuple[Any, ...]) -> CoverageTotals:
    stream_id, session, seen, skipped, blind, max_gap, updated = row
    return CoverageTotals(
        stream_id=stream_id,
        session=session,
        seen_seconds=seen,
        skipped_seconds=json.loads(skipped),
        blind_seconds=json.loads(blind),
        max_gap_seconds=max_gap,
        updated_at_ms=updated,
    )
