"""Alerts that cannot be lost: on disk first, then to every sink, each in its own task, until it accepted them."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog

from detector.alerts.clock import Clock, SteadyWall
from detector.alerts.courier import Courier, CourierCounters, DeliverySettings, Report
from detector.alerts.sink import Notice, Sink
from detector.store.faults import StoreUnavailable
from detector.store.incidents import IncidentRecord
from detector.store.outbox import Outbox, OutgoingAlert

log = structlog.get_logger()

_TIDY_SECONDS: Final = 1.0
_COUNT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of an alert: its number and whether the disk has it. `seq` is None if not."""

    alert_id: str
    seq: int | None
    is_durable: bool


class Delivery:
    """Takes alerts, puts them on disk, and sees to it that every sink gets them.

    Use with `async with`, inside the contexts of the database and of the sinks. Alerts that an earlier run left open
    are sent again, with the ids they had. `takes` says of a sink, by its name, which alerts it gets where not all.
    """

    def __init__(  # noqa: PLR0913 - what tests turn, by name
        self,
        outbox: Outbox,
        sinks: Iterable[Sink],
        *,
        settings: DeliverySettings | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        report: Report = lambda _notice, _receipt: None,
        takes: Mapping[str, Callable[[OutgoingAlert], bool]] | None = None,
    ) -> None:
        self._outbox = outbox
        self._takes = dict(takes or {})
        self._settings = settings or DeliverySettings()
        self._clock = SteadyWall(clock or Clock()).clock()
        self._step_ms: int | None = 0
        self._couriers = {
            sink.name: Courier(sink, outbox, settings=self._settings, clock=self._clock, jitter=jitter, report=report)
            for sink in sinks
        }
        self._tasks: list[asyncio.Task[None]] = []
        self._last_order = 0.0
        self._disk_fault: str | None = None
        self._expired: dict[str, int] = {}
        self._count_again_at = 0.0
        self.submitted_total = 0
        self.not_durable_total = 0
        self.expired_total = 0

    async def __aenter__(self) -> Self:
        """Start one task per sink, and one that tidies."""
        try:
            async with asyncio.timeout(self._settings.disk_timeout_seconds):
                await self._outbox.forget_step()
        except (StoreUnavailable, TimeoutError):  # then the rows go by the clock as it is, and the first round notes it
            self._step_ms = None
        for name, courier in self._couriers.items():
            self._tasks.append(asyncio.create_task(_keep_running(courier), name=f"delivery-{name}"))
        self._tasks.append(asyncio.create_task(self._keep_tidy(), name="delivery-tidy"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sending; what is open stays on disk for the next run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def submit(self, alert: OutgoingAlert, incident: IncidentRecord | None = None) -> Submitted:
        """Store the incident and its alert in one transaction, then begin sending; returns when they are on disk.

        If the disk refuses, or does not answer in time, the alert goes out from memory at once, flagged
        `durable: false`, and `problems` says so. This never raises for a disk, nor for a fault of the store.
        """
        self.submitted_total += 1
        takers = {name: one for name, one in self._couriers.items() if self._takes.get(name, _everything)(alert)}
        step_ms = self._clock.step_ms()
        expires_at_ms = alert.expires_at_ms - step_ms
        try:
            async with asyncio.timeout(self._settings.disk_timeout_seconds):
                stored = await self._outbox.record(
                    alert,
                    incident,
                    sinks=tuple(takers),
                    now_ms=self._clock.wall_ms() + step_ms,
                    expires_at_ms=expires_at_ms,
                )
        except Exception as error:  # noqa: BLE001 - a disk or a fault of the store must cost neither alert nor cut
            self._note_disk(_why(error))
            self.not_durable_total += 1
            if incident is not None:
                self._outbox.record_later(incident)
            payload, seq = alert.encode(None, durable=False), None
        else:
            self._note_disk(None)
            payload, seq = stored.payload, stored.seq
            self._last_order = max(self._last_order, float(stored.seq))
        order = self._last_order if seq is None else float(seq)
        notice = Notice(alert.alert_id, alert.stream_id, alert.urgency, payload, expires_at_ms, order, seq is not None)
        for courier in takers.values():
            courier.offer(notice)
        return Submitted(alert.alert_id, seq, seq is not None)

    async def settle(self, alert_id: str, sinks: Iterable[str]) -> None:
        """End the delivery of one alert to these sinks: whoever acts on it said what became of it."""
        await asyncio.gather(*(self._couriers[name].settle(alert_id) for name in sinks if name in self._couriers))

    def send_again(self, stream_id: str, sink: str) -> None:
        """Try a stream's open alerts to one sink now, whatever they wait for."""
        if sink in self._couriers:
            self._couriers[sink].send_again(stream_id)

    async def drain(self, deadline_seconds: float) -> int:
        """Try everything once more and wait for it, at most so long; returns how many deliveries stay open."""
        until = self._clock.monotonic() + deadline_seconds
        for courier in self._couriers.values():
            courier.hurry()
        while True:
            left = await self.open_count()
            remaining = until - self._clock.monotonic()
            if not left or remaining <= 0:
                return left
            await asyncio.sleep(min(0.02, remaining))

    async def open_count(self) -> int:
        """Return how many deliveries are open, on disk or in memory."""
        return sum([await courier.open_count() for courier in self._couriers.values()])

    def problems(self) -> list[str]:
        """Return what turns health red: a disk that refuses, alerts that expired, sinks that have a problem."""
        told = [] if self._disk_fault is None else [f"alerts are sent from memory only: {self._disk_fault}"]
        for name, count in self._expired.items():
            told.append(f"{count} alerts expired before {name} accepted them: see that its receiver works")
        for name, courier in self._couriers.items():
            told += courier.sink.problems()
            counters = courier.counters
            if counters.lost_total:
                told.append(f"{counters.lost_total} alerts to {name} are lost: neither disk nor memory had room")
            if counters.expired_in_memory_total:
                told.append(f"{counters.expired_in_memory_total} alerts to {name} expired that were never on disk")
        return told

    def notes(self) -> list[str]:
        """Return what is worth knowing and no problem."""
        return [note for courier in self._couriers.values() for note in courier.sink.notes()]

    def counters(self) -> dict[str, CourierCounters]:
        """Return the counters by sink."""
        return {name: courier.counters for name, courier in self._couriers.items()}

    def _note_disk(self, fault: str | None) -> None:
        """Log the disk's fault once when it begins and once when it is over."""
        if fault is not None and self._disk_fault is None:
            log.warning("outbox.unavailable", reason=fault)
        elif fault is None and self._disk_fault is not None:
            log.info("outbox.back", not_durable_total=self.not_durable_total)
            for courier in self._couriers.values():
                courier.look_again()  # what the disk did not answer in time it may have taken all the same
        self._disk_fault = fault

    async def _keep_tidy(self) -> None:
        """Settle what expired, and see whether a disk that refused takes alerts again."""
        while True:
            try:
                await self._tidy_once()
                if self._disk_fault is not None:
                    await self._outbox.probe()
                    self._note_disk(None)
                if written := await self._outbox.write_late():
                    log.info("outbox.written_late", count=written)
            except Exception as error:  # noqa: BLE001 - a task's edge: without it nobody sees the disk come back
                self._note_disk(_why(error))
            await asyncio.sleep(_TIDY_SECONDS)

    async def _tidy_once(self) -> None:
        step_ms = self._clock.step_ms()
        if step_ms != self._step_ms:
            await self._outbox.note_step(step_ms)
            if by_ms := step_ms - (self._step_ms or 0):
                log.warning("clock.stepped", by_ms=by_ms)
            self._step_ms = step_ms
        now_ms = self._clock.wall_ms()
        for courier in self._couriers.values():
            await courier.tidy()
        expired = await self._outbox.expire(now_ms)
        if expired:
            self.expired_total += expired
            log.warning("alert.expired", count=expired)
        if (
            expired or self._clock.monotonic() >= self._count_again_at
        ):  # ten thousand of them are not counted each second
            since_ms = now_ms - round(self._settings.expired_is_problem_seconds * 1000)
            self._expired = await self._outbox.expired_since(since_ms, now_ms)
            self._count_again_at = self._clock.monotonic() + _COUNT_SECONDS


def _everything(_alert: OutgoingAlert) -> bool:
    return True


def _why(error: Exception) -> str:
    if isinstance(error, StoreUnavailable):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the disk does not answer: check its latency and its mount"
    return f"a fault of Stopframe or of its file ({type(error).__name__}): restart, and report it if it stays"


async def _keep_running(courier: Courier) -> None:
    """Run one sink's courier until cancelled, whatever its sink does."""
    while True:
        try:
            await courier.run()
        except Exception as error:  # noqa: BLE001 - a task's edge: one faulty sink must not end its deliveries
            courier.counters.restarts_total += 1
            log.warning("delivery.restarted", sink=courier.sink.name, error=type(error).__name__)
        await asyncio.sleep(_TIDY_SECONDS)
