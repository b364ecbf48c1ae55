"""Alerts that somebody must act on: what was sent when, what was answered, when to send again. Pure; time is passed in.

A cut that a remote cutter makes is not delivered when a broker has it, but when the cutter said what became of it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from detector.alerts.backoff import backoff_seconds

_OVER_KEPT: Final = 4096
_OPEN_LIMIT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """How long an answer is waited for, in seconds.

    `hold_seconds` is how long the promise `received` keeps an alert from being sent again; `overdue_seconds` when a
    missing answer is a problem.
    """

    first_seconds: float = 1.0
    limit_seconds: float = 30.0
    hold_seconds: float = 30.0
    overdue_seconds: float = 15.0


@dataclass(slots=True)
class Awaited:
    """One alert without its final answer. Times are monotonic seconds, `expires_at_ms` is wall-clock."""

    alert_id: str
    stream_id: str
    incident_id: str | None
    expires_at_ms: int
    since: float
    held_until: float = 0.0
    is_promised: bool = False
    sends: dict[str, int] = field(default_factory=dict)
    next_at: dict[str, float] = field(default_factory=dict)


class AnswerDesk:
    """What waits for an answer, at most 10,000 alerts; `jitter` gives numbers in [0, 1)."""

    def __init__(self, settings: AnswerSettings, jitter: Callable[[], float]) -> None:
        self._settings = settings
        self._jitter = jitter
        self._open: OrderedDict[str, Awaited] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def await_answer(
        self, alert_id: str, stream_id: str, incident_id: str | None, *, expires_at_ms: int, now: float
    ) -> Awaited | None:
        """Note that an alert waits for an answer; None where the answer came already."""
        if alert_id in self._over:
            return None
        known = self._open.get(alert_id)
        if known is None:
            known = self._open[alert_id] = Awaited(alert_id, stream_id, incident_id, expires_at_ms, now)
            if len(self._open) > _OPEN_LIMIT:  # it is noted again when it is sent again
                self._open.popitem(last=False)
        return known

    def is_over(self, alert_id: str) -> bool:
        """Whether the final answer came lately."""
        return alert_id in self._over

    def find(self, alert_id: str) -> Awaited | None:
        """The open alert of this id."""
        return self._open.get(alert_id)

    def due_at(self, awaited: Awaited, way: str, after_seconds: float) -> float:
        """When the alert is due on this way: no promise holds it, and its backoff is over."""
        return max(awaited.held_until, awaited.next_at.get(way, 0.0), awaited.since + after_seconds)

    def sent(self, awaited: Awaited, way: str, now: float) -> None:
        """It went out on this way; the next time is later."""
        sends = awaited.sends[way] = awaited.sends.get(way, 0) + 1
        settings = self._settings
        wait = backoff_seconds(
            sends, first_seconds=settings.first_seconds, limit_seconds=settings.limit_seconds, jitter=self._jitter()
        )
        awaited.next_at[way] = now + wait

    def hold(self, awaited: Awaited, now: float) -> None:
        """Whoever acts has it: no need to send it again for a while. Said again, it holds nothing up any more."""
        if not awaited.is_promised:
            awaited.is_promised = True
            awaited.held_until = now + self._settings.hold_seconds

    def release(self, awaited: Awaited) -> None:
        """What was promised or said is not so: send it again as its backoff allows."""
        awaited.held_until = 0.0

    def settle(self, alert_id: str) -> Awaited | None:
        """The final answer is there."""
        self._over[alert_id] = None
        if len(self._over) > _OVER_KEPT:
            self._over.popitem(last=False)
        return self._open.pop(alert_id, None)

    def of_incident(self, incident_id: str) -> list[Awaited]:
        """The open alerts of one incident."""
        return [each for each in self._open.values() if each.incident_id == incident_id]

    def drop_expired(self, wall_ms: int) -> None:
        """Forget what nobody needs any more: delivery counts it."""
        for alert_id in [each.alert_id for each in self._open.values() if each.expires_at_ms <= wall_ms]:
            del self._open[alert_id]

    def overdue(self, now: float) -> Iterator[Awaited]:
        """What has waited for its answer for too long, promise or not."""
        limit = now - self._settings.overdue_seconds
        return (each for each in self._open.values() if each.since <= limit)
