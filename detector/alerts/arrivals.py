"""How long alerts take from their frame to the first sink that has them."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from detector.alerts.sink import Notice, Receipt
from detector.metric_words import AlertState
from detector.metrics import Metrics

KEPT: Final = 10_000
"""Alerts whose time to acknowledgement is still measured; older ones are only delivered."""


class Arrivals:
    """Counts attempts to deliver, and measures the time from a frame to the first acceptance of its alert."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._waiting: OrderedDict[str, float] = OrderedDict()

    def sent(self, alert_id: str, arrived_at: float) -> None:
        """An alert is on its way, because of a frame that came at `arrived_at`."""
        self._waiting[alert_id] = arrived_at
        if len(self._waiting) > KEPT:
            self._waiting.popitem(last=False)

    def attempted(self, notice: Notice, receipt: Receipt | None) -> None:
        """A sink was asked to take an alert; without a receipt it failed."""
        if receipt is Receipt.ACCEPTED:
            self._metrics.alert(AlertState.DELIVERED)
        elif receipt is not Receipt.AWAITED:  # it has arrived, and its cutter has yet to answer
            self._metrics.alert(AlertState.RETRIED if receipt is None else AlertState.REFUSED)
            return
        arrived_at = self._waiting.pop(notice.alert_id, None)
        if arrived_at is not None:
            self._metrics.frame_to_ack(self._clock() - arrived_at)
