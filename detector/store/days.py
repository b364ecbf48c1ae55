"""What is kept for ever: one row for each day (UTC) and each figure of it, all of them sums or maxima of whole numbers.

A figure of a day is the roll-up of the rows that retention removed, together with the rows that are still there. Both
are counted by the same code, so that removing a row changes no figure.
"""

import itertools
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from detector.events import Step

DAY_MS: Final = 86_400_000

_MAXIMA: Final = frozenset({"time_to_cut_max_ms"})

_BATCH_ROWS: Final = 1000
_COVERAGE: Final = "SELECT updated_at_ms, seen_seconds, skipped_seconds, blind_seconds FROM coverage"
_INCIDENTS: Final = "SELECT opened_at_ms, action, is_live, cut_state, undone_at_ms, refused_by, time_to_cut_ms"
ALERT_STATE: Final = """CASE
    WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.alert_id = alerts.alert_id AND d.state IN ('pending', 'sent'))
    THEN 'open'
    WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.alert_id = alerts.alert_id AND d.state = 'expired')
    THEN 'expired' ELSE 'accepted' END"""
"""An alert is open while any sink owes an answer, expired if one never gave it, accepted otherwise."""


@dataclass(frozen=True, slots=True)
class DayFigures:
    """One day's figures by key; times in microseconds (`_us`) or milliseconds (`_ms`), everything else counts.

    Keys: `streams` and `sessions` (those whose account ended that day), `seen_us`, `skipped_us/CAUSE`,
    `blind_us/CAUSE`, `incidents/ACTION/MODE`, `cuts/STATE`, `undone`, `breaker_refusals`, `time_to_cut_count`,
    `time_to_cut_sum_ms`, `time_to_cut_max_ms`, `alerts/STATE`. A figure that is not there is 0.
    """

    day: date
    figures: Mapping[str, int]

    def __getitem__(self, key: str) -> int:
        """Return one figure."""
        return self.figures.get(key, 0)

    def under(self, key: str) -> dict[str, int]:
        """Return the figures `key/REST` by REST."""
        start = f"{key}/"
        return {name.removeprefix(start): value for name, value in self.figures.items() if name.startswith(start)}

    def total(self, key: str) -> int:
        """Return the sum of `under(key)`."""
        return sum(self.under(key).values())


@dataclass(slots=True)
class Tally:
    """Counts rows into days."""

    days: dict[int, dict[str, int]] = field(default_factory=dict)

    def add(self, at_ms: int, key: str, value: int = 1) -> None:
        """Count `value` under `key` on the day of `at_ms`; of a maximum keep the larger."""
        figures = self._day(at_ms)
        before = figures.get(key, 0)
        figures[key] = max(before, value) if key in _MAXIMA else before + value

    def coverage(self, accounts: Iterable[tuple[int, float, str, str]]) -> None:
        """Count sessions' accounts: `updated_at_ms, seen_seconds, skipped, blind`, JSON objects of seconds by cause.

        Taken by the batch, because a report goes through a million of them: one parse and few calls for many rows.
        """
        accounts = iter(accounts)
        while batch := list(itertools.islice(accounts, _BATCH_ROWS)):
            causes = json.loads(f"[{','.join([row[2] for row in batch])},{','.join([row[3] for row in batch])}]")
            for row, skipped, blind in zip(batch, causes[: len(batch)], causes[len(batch) :], strict=True):
                figures = self._day(row[0])
                figures["sessions"] = figures.get("sessions", 0) + 1
                figures["seen_us"] = figures.get("seen_us", 0) + _us(row[1])
                for cause, seconds in skipped.items():
                    key = f"skipped_us/{cause}"
                    figures[key] = figures.get(key, 0) + _us(seconds)
                for cause, seconds in blind.items():
                    key = f"blind_us/{cause}"
                    figures[key] = figures.get(key, 0) + _us(seconds)

    def incident(self, row: tuple[Any, ...]) -> None:
        """Count one incident: `opened_at_ms, action, is_live, cut_state, undone_at_ms, refused_by, time_to_cut_ms`."""
        opened_at_ms, action, is_live, cut_state, undone_at_ms, refused_by, time_to_cut_ms = row
        self.add(opened_at_ms, f"incidents/{Step(action).word}/{'live' if is_live else 'shadow'}")
        if cut_state != "none":
            self.add(opened_at_ms, f"cuts/{cut_state}")
        if undone_at_ms is not None:
            self.add(opened_at_ms, "undone")
        if refused_by is not None:
            self.add(opened_at_ms, "breaker_refusals")
        if time_to_cut_ms is not None:
            self.add(opened_at_ms, "time_to_cut_count")
            self.add(opened_at_ms, "time_to_cut_sum_ms", time_to_cut_ms)
            self.add(opened_at_ms, "time_to_cut_max_ms", time_to_cut_ms)

    def _day(self, at_ms: int) -> dict[str, int]:
        return self.days.setdefault(at_ms // DAY_MS, {})

    def store(self, connection: sqlite3.Connection) -> None:
        """Add everything to the roll-up, inside a transaction of the caller."""
        rows = [
            (day_text(day), key, value)
            for day, figures in self.days.items()
            for key, value in figures.items()
            if value or key not in _MAXIMA
        ]
        sums = [row for row in rows if row[1] not in _MAXIMA]
        maxima = [row for row in rows if row[1] in _MAXIMA]
        known = "INSERT INTO days VALUES (?, ?, ?) ON CONFLICT (day, key) DO UPDATE SET value ="
        connection.executemany(f"{known} value + excluded.value", sums)
        connection.executemany(f"{known} max(value, excluded.value)", maxima)


def read_days(connection: sqlite3.Connection, since: date | None = None) -> list[DayFigures]:
    """Return every day that has a figure, from `since` on, the oldest first: the roll-up and the rows of now.

    Reads only. To be called inside one transaction, so that both are of one instant.
    """
    tally = Tally()
    first_ms = 0 if since is None else (since - date(1970, 1, 1)).days * DAY_MS
    _count_rows(connection, tally, first_ms)
    for text, key, value in connection.execute("SELECT day, key, value FROM days WHERE day >= ?", (since or "",)):
        tally.add((date.fromisoformat(text) - date(1970, 1, 1)).days * DAY_MS, key, value)
    return [
        DayFigures(date.fromisoformat(day_text(day)), {key: value for key, value in sorted(figures.items()) if value})
        for day, figures in sorted(tally.days.items())
    ]


def day_text(day: int) -> str:
    """Return a day, counted from 1970-01-01, as `YYYY-MM-DD`."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


def count_streams(tally: Tally, streams_of_days: Iterable[tuple[int, str]]) -> None:
    """Count each stream once for each of its days (days since 1970)."""
    for day, _ in set(streams_of_days):
        tally.add(day * DAY_MS, "streams")


def _count_rows(connection: sqlite3.Connection, tally: Tally, first_ms: int) -> None:
    tally.coverage(connection.execute(f"{_COVERAGE} WHERE updated_at_ms >= ?", (first_ms,)))
    streams = "SELECT DISTINCT updated_at_ms / ?, stream_id FROM coverage WHERE updated_at_ms >= ?"
    count_streams(tally, connection.execute(streams, (DAY_MS, first_ms)))
    for row in connection.execute(f"{_INCIDENTS} FROM incidents WHERE opened_at_ms >= ?", (first_ms,)):
        tally.incident(row)
    query = f"SELECT queued_at_ms / {DAY_MS}, {ALERT_STATE}, count(*) FROM alerts WHERE queued_at_ms >= ? GROUP BY 1, 2"  # noqa: S608
    for day, state, count in connection.execute(query, (first_ms,)):
        tally.add(day * DAY_MS, f"alerts/{state}", count)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
