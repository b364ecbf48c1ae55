"""Tells of every stream's account: to the metrics, to the board of retained state, and to the database."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Any

import structlog

from detector.alerts.sink import StatusBoard
from detector.coverage import Kind
from detector.metric_words import RowsLost
from detector.metrics import Metrics
from detector.session import StreamSession
from detector.store.coverage import CoverageStore, CoverageTotals
from detector.store.faults import StoreUnavailable

log = structlog.get_logger()


_ENDED_KEPT = 10_000
"""Final accounts that wait for the disk; a disk that is away for longer loses the oldest."""


_LOOK_SECONDS = 0.5
"""How soon a shorter distance between two rounds is noticed."""


class Accounts:
    """What was told of which session, so that counters only ever grow and status changes only when something did."""

    def __init__(self, board: StatusBoard, metrics: Metrics, store: CoverageStore) -> None:
        self._board = board
        self._metrics = metrics
        self._store = store
        self._told: dict[str, dict[str, Any]] = {}
        self._counted: dict[str, dict[tuple[Kind, str], float]] = {}
        self._ended: dict[str, CoverageTotals] = {}
        self.lost_total = 0
        """Final accounts that never reached the disk."""

    async def keep_telling(
        self, sessions: Callable[[], Collection[StreamSession]], every_seconds: Callable[[], float]
    ) -> None:
        """Send, count and store the accounts of all live sessions, for ever; `every_seconds` may change meanwhile."""
        told_at = time.monotonic()
        while True:
            await asyncio.sleep(min(every_seconds(), _LOOK_SECONDS))
            if time.monotonic() < told_at + every_seconds():
                continue
            told_at = time.monotonic()
            live = list(sessions())
            self._told = {session.session: coverage_words(session) for session in live}
            for session in live:
                self._count(session)
                self._board.send_coverage(session.stream_id, self._told[session.session])
            await self._write([_totals(session) for session in live])

    def show(self, session: StreamSession) -> None:
        """Show a session's state on the board, with the account that was last told."""
        self._board.set_status(session.stream_id, self._status(session))

    def close(self, session: StreamSession, *, is_back: bool = False) -> None:
        """Tell of a session for the last time; its account is stored with the next round's.

        With `is_back` the stream has another session by now, and the board shows that one.
        """
        self._count(session)
        self._counted.pop(session.session, None)
        self._told[session.session] = coverage_words(session)
        if not is_back:
            self.show(session)
            self._board.end_stream(session.stream_id)
        log.info("session.ended", stream=session.stream_id, **self._told.pop(session.session))
        self._ended[session.session] = _totals(session)
        if len(self._ended) > _ENDED_KEPT:
            del self._ended[next(iter(self._ended))]
            self.lost_total += 1
            self._metrics.rows_lost(RowsLost.ACCOUNTS, 1)

    def problems(self) -> list[str]:
        """One sentence where accounts were lost, until the service ends."""
        if not self.lost_total:
            return []
        return [f"{self.lost_total} accounts of sessions are lost: the disk took none and memory had no more room"]

    def unstored(self) -> list[str]:
        """Sessions that ended and whose account is not on disk yet."""
        return list(self._ended)

    async def store_ended(self) -> None:
        """Store the accounts of sessions that ended since the last round."""
        await self._write([])

    async def _write(self, totals: list[CoverageTotals]) -> None:
        ended = dict(self._ended)
        with contextlib.suppress(StoreUnavailable):  # health tells of the disk; the next round stores all of it
            await self._store.upsert([*ended.values(), *totals])
            for session in ended:
                self._ended.pop(session, None)

    def _count(self, session: StreamSession) -> None:
        """Add what came to a stream's account since it was last counted."""
        account = session.coverage()
        totals = {(Kind.SEEN, ""): account.seen_seconds}
        totals |= {(cause.kind, cause.value): ns / 1e9 for cause, ns in account.by_cause_ns.items()}
        counted = self._counted.setdefault(session.session, {})
        for (kind, cause), total in totals.items():
            before = counted.get((kind, cause), 0.0)
            if total > before:
                self._metrics.coverage(kind.value, total - before, cause)
                counted[kind, cause] = total

    def _status(self, session: StreamSession) -> dict[str, Any]:
        return {
            "state": session.state,
            "since": session.since,
            "code": session.code,
            "sampling": session.settings.job.sampling.mode.value,
            "coverage": self._told.get(session.session, {}),
        }


def coverage_words(session: StreamSession) -> dict[str, Any]:
    """A stream's account up to now, as alerts, status and coverage messages tell it."""
    account = session.coverage()
    skipped = {c.value: ns / 1e9 for c, ns in account.by_cause_ns.items() if c.kind.value == "skipped"}
    return {
        "seen_s": round(account.seen_seconds, 3),
        "skipped_s": {cause: round(seconds, 3) for cause, seconds in skipped.items()},
        "blind_s": {cause: round(seconds, 3) for cause, seconds in account.blind_seconds_by_cause().items()},
        "max_gap_s": round(account.max_gap_seconds, 3),
    }


def _totals(session: StreamSession) -> CoverageTotals:
    account = session.coverage()
    return CoverageTotals(
        stream_id=session.stream_id,
        session=session.session,
        seen_seconds=account.seen_seconds,
        skipped_seconds={c.value: ns / 1e9 for c, ns in account.by_cause_ns.items() if c.kind.value == "skipped"},
        blind_seconds=account.blind_seconds_by_cause(),
        max_gap_seconds=account.max_gap_seconds,
        updated_at_ms=time.time_ns() // 1_000_000,
    )
