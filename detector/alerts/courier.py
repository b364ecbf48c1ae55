"""Brings one sink's alerts out of its window, again and again until the sink accepted them or they expired."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from detector.alerts.backoff import backoff_seconds
from detector.alerts.clock import Clock
from detector.alerts.sink import GivesUpByItself, HoldsAlerts, Notice, Receipt, Sink, SinkUnavailable
from detector.alerts.window import Lane, Row, Window
from detector.store.outbox import Outbox

log = structlog.get_logger()

_REFILL_PAUSE_SECONDS: Final = 0.05
_LONGEST_PATIENCE_SECONDS: Final = 10.0
_REFILL_SHARE: Final = 4.0
"""The disk rests so many times as long as its last answer took: with very many open rows each one takes a while."""

_UNMARKED_LIMIT: Final = 10_000
_END_OF_TIME_MS: Final = 2**62

Report = Callable[[Notice, Receipt | None], None]
"""Told of every attempt: the alert and the sink's answer, None where none came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How stubborn delivery is, and what it may hold in memory (all bounds are per sink)."""

    window_alerts: int = 256
    streams_at_once: int = 16
    backoff_first_seconds: float = 0.5
    backoff_limit_seconds: float = 30.0
    attempt_timeout_seconds: float = 10.0
    disk_timeout_seconds: float = 2.0
    expired_is_problem_seconds: float = 86_400.0


@dataclass(slots=True)
class CourierCounters:
    """What happened at one sink since start."""

    accepted_total: int = 0
    attempts_failed_total: int = 0
    by_receipt_total: dict[str, int] = field(default_factory=dict)
    expired_in_memory_total: int = 0
    lost_total: int = 0
    unmarked_total: int = 0
    restarts_total: int = 0


class Courier:
    """One sink's deliveries: `run` is the body of the sink's own task, `offer` feeds it.

    One pass works on one stream at a time and sends that stream's open alerts in order; passes on other streams go on
    beside it. A pass that leaves alerts behind is repeated after a backoff, or at once when the stream gets a new one.
    """

    def __init__(
        self,
        sink: Sink,
        outbox: Outbox,
        *,
        settings: DeliverySettings,
        clock: Clock,
        jitter: Callable[[], float],
        report: Report = lambda _notice, _receipt: None,
    ) -> None:
        self.sink = sink
        self._report = report
        self.counters = CourierCounters()
        self._outbox = outbox
        self._settings = settings
        self._clock = clock
        self._jitter = jitter
        self._window = Window(settings.window_alerts)
        self._wakeup = asyncio.Event()
        self._passes: set[asyncio.Task[None]] = set()
        self._refill_at = 0.0
        self._rests_until = 0.0
        self._patience_seconds = settings.disk_timeout_seconds
        self._is_hurried = True  # what an earlier run left does not wait out that run's backoff
        self._unmarked: dict[str, None] = {}
        self._settling: set[str] = set()
        self._ended: set[str] | None = None  # since the disk was asked what is open; None while it is not

    def offer(self, notice: Notice) -> None:
        """Take a new alert; what memory has no room for is fetched from the disk later."""
        self._window.offer(notice, self._clock.monotonic())
        self.counters.lost_total = self._window.lost_total
        self._refill_at = self._rests_until
        self._wakeup.set()

    async def open_count(self) -> int:
        """Return how many alerts this sink has not accepted yet, on disk or in memory."""
        in_memory = len(self._window)
        if not self._window.is_spilled:
            return in_memory
        try:
            on_disk, _ = await self._outbox.open_count(self.sink.name)
        except Exception:  # noqa: BLE001 - a disk, or a fault of the store: memory's count is known all the same
            return in_memory
        return max(on_disk, in_memory)

    async def settle(self, alert_id: str) -> None:
        """End one alert's delivery: whoever acts on it said what became of it."""
        notice = self._window.drop(alert_id)
        self.counters.accepted_total += 1
        # What waits for its next try may be on disk alone; whoever counts goes by the id.
        self._report(notice or Notice(alert_id, "", 0, b"", 0, 0.0), Receipt.ACCEPTED)
        if notice is None or notice.is_durable:
            self._settling.add(alert_id)
            self._note_end(alert_id)
            try:
                await self._mark(alert_id)
            finally:
                self._settling.discard(alert_id)

    def look_again(self) -> None:
        """The disk may hold alerts that nobody offered."""
        self._window.look_again()
        self._refill_at = 0.0
        self._wakeup.set()

    def hurry(self) -> None:
        """Try everything that waits once more, now."""
        self._is_hurried = True
        self._refill_at = 0.0
        self._window.hurry(self._clock.monotonic())
        self._wakeup.set()

    def send_again(self, stream_id: str) -> None:
        """Try what one stream has open now; what has left memory comes when the disk says."""
        self._window.hurry(self._clock.monotonic(), stream_id)
        self._wakeup.set()

    async def tidy(self) -> None:
        """Let go of what expired, and write down acceptances that the disk refused before."""
        gone = self._window.drop_expired(self._clock.wall_ms())
        self.counters.expired_in_memory_total += sum(not notice.is_durable for notice in gone)
        for alert_id in list(self._unmarked):
            await self._outbox.acked(alert_id, self.sink.name, self._clock.wall_ms())
            del self._unmarked[alert_id]
            self._note_end(alert_id)

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                self._wakeup.clear()
                await self.sink.wait_ready()
                pause = await self._refill()
                while len(self._passes) < self._settings.streams_at_once:
                    lane = self._window.take(self._clock.monotonic())
                    if lane is None:
                        break
                    self._start_pass(lane)
                await self._sleep(pause)
        finally:
            passes = tuple(self._passes)
            for task in passes:
                task.cancel()
            await asyncio.gather(*passes, return_exceptions=True)

    async def _refill(self) -> float | None:
        """Bring back what was left to the disk; returns after how many seconds that makes sense again, if ever."""
        if not self._window.is_spilled:
            return None
        now = self._clock.monotonic()
        if now < self._refill_at:
            return self._refill_at - now
        ticket = self._window.begin_refill()
        self._ended = set(self._settling)
        self._refill_at = now + _REFILL_PAUSE_SECONDS
        try:
            async with asyncio.timeout(self._patience_seconds):  # what is in memory waits for it
                open_rows, first_due_ms = await self._outbox.open_count(self.sink.name)
                rows = await self._open_rows(takes_all=self._is_hurried or open_rows <= self._settings.window_alerts)
        except Exception as error:  # noqa: BLE001 - a disk, or a fault of the store: what is in memory goes out all the same
            if isinstance(error, TimeoutError):  # it may only be slow: asked so again and again it would never answer
                self._patience_seconds = min(2 * self._patience_seconds, _LONGEST_PATIENCE_SECONDS)
            self._refill_at = now + self._settings.backoff_first_seconds
            return self._settings.backoff_first_seconds
        finally:
            self._ended = None
        self._patience_seconds = self._settings.disk_timeout_seconds
        ended_at = self._clock.monotonic()
        self._rests_until = ended_at + _REFILL_SHARE * (ended_at - now)
        self._refill_at = max(self._refill_at, self._rests_until)
        self._is_hurried = False
        is_spilled = self._window.refill(ticket, rows, open_rows=open_rows)
        if not is_spilled or first_due_ms is None:
            return None
        pause = (first_due_ms - self._clock.wall_ms()) / 1000
        return min(max(_REFILL_PAUSE_SECONDS, pause), self._settings.backoff_limit_seconds)

    async def _open_rows(self, *, takes_all: bool) -> list[Row]:
        """Read what is due from the disk, or everything in a hurry and where everything has room."""
        now, wall_ms = self._clock.monotonic(), self._clock.wall_ms()
        due_by_ms = _END_OF_TIME_MS if takes_all else wall_ms
        limit = self._settings.window_alerts + len(self._window)
        longest = self._settings.backoff_limit_seconds  # a wall clock that was set back must not make it longer
        longest_ms = round(longest * 1000)
        found = await self._outbox.due(self.sink.name, wall_ms, limit, due_by_ms=due_by_ms, longest_ms=longest_ms)
        # The answer may still hold as open what ended while it was on its way.
        over = self._unmarked.keys() | (self._ended or ())
        return [
            Row(
                Notice(row.alert_id, row.stream_id, row.urgency, row.payload, row.expires_at_ms, row.seq),
                row.attempts,
                now if self._is_hurried else now + min(max(0.0, (row.next_attempt_at_ms - wall_ms) / 1000), longest),
            )
            for row in found
            if row.alert_id not in over
        ]

    async def _sleep(self, pause: float | None) -> None:
        """Wait for news: an offer, the end of a pass, or the time of the next try."""
        due_at = self._window.next_due_at()
        if due_at is not None and len(self._passes) < self._settings.streams_at_once:
            until_due = max(0.0, due_at - self._clock.monotonic())
            pause = until_due if pause is None else min(pause, until_due)
        try:
            async with asyncio.timeout(pause):
                await self._wakeup.wait()
        except TimeoutError:
            return

    def _start_pass(self, lane: Lane) -> None:
        task = asyncio.create_task(self._pass(lane), name=f"deliver-{self.sink.name}-{lane.stream_id}")
        self._passes.add(task)
        task.add_done_callback(self._end_pass)

    def _end_pass(self, task: asyncio.Task[None]) -> None:
        self._passes.discard(task)
        self._wakeup.set()

    async def _pass(self, lane: Lane) -> None:
        """Try every open alert of one stream once, in order."""
        snapshot = list(lane.notices)
        backoff = backoff_seconds(
            lane.attempts + 1,
            first_seconds=self._settings.backoff_first_seconds,
            limit_seconds=self._settings.backoff_limit_seconds,
            jitter=self._jitter(),
        )
        has_fault, wait = False, math.inf
        try:
            for notice in snapshot:
                if notice not in lane.notices:  # settled meanwhile
                    continue
                if notice.expires_at_ms <= self._clock.wall_ms():
                    lane.drop(notice.alert_id)
                    self.counters.expired_in_memory_total += not notice.is_durable
                    continue
                receipt = await self._deliver(notice)
                if receipt is Receipt.ACCEPTED:
                    lane.drop(notice.alert_id)
                    await self._mark_accepted(notice)
                    continue
                # What is held must not come off the disk before its time: it would keep newer alerts from the window.
                is_waiting = receipt in {Receipt.HELD, Receipt.AWAITED}
                has_fault = has_fault or not is_waiting
                pause = self._held_seconds(notice) if is_waiting else backoff
                wait = min(wait, pause)
                await self._mark_attempt(notice, pause)
                if receipt is None or receipt is Receipt.NOBODY_LISTENS:
                    break  # the next one must not overtake it
        finally:
            has_news = len(lane.notices) > sum(notice in snapshot for notice in lane.notices)
            now = self._clock.monotonic()
            lane.due_at = now if has_news else now + min(wait, self._settings.backoff_limit_seconds)
            lane.attempts = 0 if has_news else lane.attempts + has_fault
            self._window.settle(lane)

    async def _deliver(self, notice: Notice) -> Receipt | None:
        """Hand one alert to the sink; None means that no answer came."""
        receipt: Receipt | None = None
        try:
            async with asyncio.timeout(self._longest_seconds):
                receipt = await self.sink.deliver(_by_machine_clock(notice, self._clock.step_ms()))
        except (SinkUnavailable, TimeoutError):
            pass  # counted below; the sink itself reports why
        except Exception as error:  # noqa: BLE001 - a sink from another package may raise anything; its alerts stay ours
            log.warning("sink.failed", sink=self.sink.name, error=type(error).__name__)
        word = "no answer" if receipt is None else receipt.value
        counters = self.counters
        counters.by_receipt_total[word] = counters.by_receipt_total.get(word, 0) + 1
        if receipt is Receipt.ACCEPTED:
            counters.accepted_total += 1
        elif receipt not in {Receipt.AWAITED, Receipt.HELD}:
            counters.attempts_failed_total += 1
        if receipt is not Receipt.HELD:
            self._report(notice, receipt)
        return receipt

    @property
    def _longest_seconds(self) -> float:
        """A sink that was told how long it may take gets that, and a second to say so."""
        own = self.sink.patience_seconds + 1.0 if isinstance(self.sink, GivesUpByItself) else 0.0
        return max(self._settings.attempt_timeout_seconds, own)

    def _held_seconds(self, notice: Notice) -> float:
        """When a sink that waits for somebody's answer wants to be asked again; never at once."""
        seconds = self.sink.held_seconds(notice.alert_id) if isinstance(self.sink, HoldsAlerts) else 0.0
        return min(max(self._settings.backoff_first_seconds, seconds), self._settings.backoff_limit_seconds)

    def _note_end(self, alert_id: str) -> None:
        if self._ended is not None:
            self._ended.add(alert_id)

    async def _mark_accepted(self, notice: Notice) -> None:
        if notice.is_durable:
            await self._mark(notice.alert_id)

    async def _mark(self, alert_id: str) -> None:
        try:
            await self._outbox.acked(alert_id, self.sink.name, self._clock.wall_ms())
        except Exception:  # noqa: BLE001 - as above: the rest of the stream's alerts wait behind this one
            self.counters.unmarked_total += 1
            if len(self._unmarked) < _UNMARKED_LIMIT:
                self._unmarked[alert_id] = None

    async def _mark_attempt(self, notice: Notice, wait: float) -> None:
        if not notice.is_durable:
            return
        try:
            next_at_ms = self._clock.wall_ms() + round(wait * 1000)
            await self._outbox.attempted(notice.alert_id, self.sink.name, next_at_ms)
        except Exception:  # noqa: BLE001 - as above
            # Only the count is lost: the row stays open, and memory keeps the schedule.
            self.counters.unmarked_total += 1


def _by_machine_clock(notice: Notice, step_ms: int) -> Notice:
    """What a sink is told expires by the clock that it and everybody else reads."""
    return replace(notice, expires_at_ms=notice.expires_at_ms + step_ms) if step_ms else notice
