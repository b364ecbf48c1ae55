"""The two ways to a remote cutter: MQTT until it answers, and after a while the webhook beside it."""

import json
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from detector.alerts.clock import Clock
from detector.alerts.sink import GivesUpByItself, Notice, Receipt, Sink
from detector.alerts.urgency import Urgency
from detector.remote.desk import AnswerDesk, Awaited

FIRST: Final = "first"
SECOND: Final = "second"


class AnsweredSink:
    """A sink whose cuts are not delivered when the other side took them, but when the cutter has answered.

    Everything else it hands on as it is. As second way (`after_seconds` above 0) it sends a cut only when no answer
    came for so long.
    """

    def __init__(self, sink: Sink, desk: AnswerDesk, *, after_seconds: float = 0.0, clock: Clock | None = None) -> None:
        self._sink = sink
        self._desk = desk
        self._after_seconds = after_seconds
        self._way = SECOND if after_seconds else FIRST
        self._clock = clock or Clock()
        self.watch: Callable[[], list[str]] = list
        """What else is told among this sink's problems."""

    @property
    def name(self) -> str:
        """The sink's own."""
        return self._sink.name

    @property
    def patience_seconds(self) -> float:
        """The sink's own."""
        return self._sink.patience_seconds if isinstance(self._sink, GivesUpByItself) else 0.0

    async def __aenter__(self) -> Self:
        """Enter the sink."""
        await self._sink.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the sink."""
        await self._sink.__aexit__(kind, error, trace)

    async def wait_ready(self) -> None:
        """As the sink's."""
        await self._sink.wait_ready()

    async def deliver(self, notice: Notice) -> Receipt:
        """Send what is due; `HELD` where the answer may still come. Raises SinkUnavailable as the sink does."""
        if notice.urgency != Urgency.CUT:
            return await self._sink.deliver(notice)
        now = self._clock.monotonic()
        awaited = await_answer(self._desk, notice, now)
        if awaited is None:
            return Receipt.ACCEPTED
        if now < self._desk.due_at(awaited, self._way, self._after_seconds):
            return Receipt.HELD
        receipt = await self._sink.deliver(notice)
        if receipt is not Receipt.ACCEPTED:
            return receipt
        self._desk.sent(awaited, self._way, now)
        return Receipt.AWAITED

    def held_seconds(self, alert_id: str) -> float:
        """When the alert is due on this way, if no answer comes before."""
        awaited = self._desk.find(alert_id)
        if awaited is None:
            return 0.0
        now = self._clock.monotonic()
        return max(0.0, self._desk.due_at(awaited, self._way, self._after_seconds) - now)

    def problems(self) -> list[str]:
        """As the sink's."""
        return [*self._sink.problems(), *self.watch()]

    def notes(self) -> list[str]:
        """As the sink's."""
        return self._sink.notes()


def await_answer(desk: AnswerDesk, notice: Notice, now: float) -> Awaited | None:
    """Note that a cut waits for its answer; None where that came already."""
    incident_id = json.loads(notice.payload).get("incident_id")
    return desk.await_answer(
        notice.alert_id, notice.stream_id, incident_id, expires_at_ms=notice.expires_at_ms, now=now
    )
