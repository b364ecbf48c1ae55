"""What the report on shadow mode reads: alerts in their order, and how many streams were live when."""

import json
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from detector.shadow import Told


@dataclass(frozen=True, slots=True)
class Lives:
    """Sessions: how many there were at a time (Unix seconds), and how long each stream was live, in seconds."""

    at: Callable[[float], int]
    seconds_by_stream: dict[str, float]


def read_alerts(connection: sqlite3.Connection, since_ms: int) -> Iterator[Told]:
    """Return every alert since then that asked for something, in the order of its number."""
    query = "SELECT payload, queued_at_ms FROM alerts WHERE queued_at_ms >= ? ORDER BY seq"
    for payload, queued_at_ms in connection.execute(query, (since_ms,)):
        told = Told.of(json.loads(payload), queued_at_ms / 1000)
        if told is not None:
            yield told


def read_lives(connection: sqlite3.Connection, since_ms: int) -> Lives:
    """Return when streams were live, from their accounts: a session ends when its account was last written."""
    begun: list[float] = []
    ended: list[float] = []
    seconds: dict[str, float] = {}
    query = "SELECT stream_id, seen_seconds, skipped_seconds, blind_seconds, updated_at_ms FROM coverage"
    query += " WHERE updated_at_ms >= ?"
    for stream, seen, skipped, blind, updated_at_ms in connection.execute(query, (since_ms,)):
        lasted = seen + sum(json.loads(skipped).values()) + sum(json.loads(blind).values())
        end = updated_at_ms / 1000
        seconds[stream] = seconds.get(stream, 0.0) + lasted
        begun.append(end - lasted)
        ended.append(end)
    begun.sort()
    ended.sort()
    return Lives(lambda at: bisect_right(begun, at) - bisect_right(ended, at), seconds)
