"""How the service is: what its parts say of themselves, put together each second and passed on to whoever listens."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Final

from detector.api.view import Health
from detector.live_streams import LiveStreams
from detector.metric_words import AlertState, CrashKind, RowsLost
from detector.parts import Parts

EVERY_SECONDS: Final = 1.0

Say = Callable[[], Iterable[str]]
"""A part's sentences, none where all is well."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """Whose sentences health shows, in that order: `problems` turn it red, `notes` do not.

    `by_streams` says of how many of the `live_streams` each of its sentences is.
    """

    problems: tuple[Say, ...]
    notes: tuple[Say, ...]
    by_streams: Callable[[], Iterable[tuple[int, str]]]
    live_streams: Callable[[], int]

    def gathered(self) -> tuple[list[str], list[str]]:
        """What is wrong, and what else an operator should know."""
        problems = [sentence for say in self.problems for sentence in say()]
        notes = [sentence for say in self.notes for sentence in say()]
        for count, sentence in self.by_streams():
            # One hostile publisher must not be able to turn the whole node red: it takes more than half of them.
            (problems if 2 * count > self.live_streams() else notes).append(sentence)
        return problems, notes


class Vitals:
    """Passes health on each second: to MQTT, to the alarms and to the metrics."""

    def __init__(self, parts: Parts, *, health: Callable[[], Health], live: LiveStreams) -> None:
        self._parts = parts
        self._health = health
        self._live = live
        self._counted: dict[CrashKind | AlertState, int] = {}
        self._incidents_lost = 0

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._tell()
            await asyncio.sleep(EVERY_SECONDS)

    async def _tell(self) -> None:
        parts, metrics = self._parts, self._parts.metrics
        health = self._health()
        told = asdict(health)
        del told["load"]  # what is retained is sent again when it changes, and that does all the time
        parts.sink.set_health(told)
        parts.alarms.hear(health.problems)
        for session in self._live.supervisor.sessions.values():
            self._live.accounts.show(session)
        metrics.set_health_problems(len(health.problems))
        metrics.set_live_streams(len(self._live.supervisor.sessions))
        metrics.set_analysis_workers(parts.pool.ready_workers)
        metrics.set_queue_depth(parts.pool.waiting)
        metrics.set_outbox_pending(await parts.delivery.open_count())
        self._count()

    def _count(self) -> None:
        """Pass on what the parts count themselves, as increments."""
        parts, metrics = self._parts, self._parts.metrics
        metrics.rows_lost(RowsLost.INCIDENTS, parts.database.late_lost_total - self._incidents_lost)
        self._incidents_lost = parts.database.late_lost_total
        totals: dict[CrashKind | AlertState, int] = {
            CrashKind.ANALYSIS_WORKER: parts.pool.restarts,
            CrashKind.GPU: 0 if parts.pool.gpu is None else parts.pool.gpu.restarts,
            CrashKind.FORKSERVER: parts.nursery.restarts + parts.pool.forkserver_restarts,
            AlertState.EXPIRED: parts.delivery.expired_total,
        }
        for what, total in totals.items():
            for _ in range(total - self._counted.get(what, 0)):
                metrics.alert(what) if isinstance(what, AlertState) else metrics.crashed(what)
            self._counted[what] = total
