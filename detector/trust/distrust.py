"""What was not believed: counted by purpose and reason, logged once per burst, told in health with the remedy."""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import structlog

from detector.metrics import Metrics
from detector.trust.signing import Purpose, Reason

log = structlog.get_logger()

_BURST: Final = 10
"""So many within the window are a burst: a message altered on the way, or a key not yet in the config, is none."""

_WINDOW_SECONDS: Final = 600.0

_REMEDIES: Final = {
    Reason.EXPIRED: "compare the clocks of sender and node",
    Reason.TOO_LONG_LIFE: "compare the clocks of sender and node",
    Reason.RETIRED_KEY: "the sender still signs with a retired key",
    Reason.NOT_ALLOWED: "see may under trust.trusted_keys",
    Reason.UNKNOWN_KEY: "add the sender's key to trust.trusted_keys, or take its right to write there away",
    Reason.RETAINED: "clear what the broker retains on these topics",
}
_REMEDY: Final = "see who may write these topics in the broker's ACL"


class Distrust:
    """Counts refusals; `notes` says what to do about a burst of them for ten minutes."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._recent: dict[Purpose, deque[tuple[float, Reason]]] = {}
        self._told: dict[Purpose, float] = {}
        self.total = 0

    def note(self, purpose: Purpose, reason: Reason) -> None:
        """One message was refused."""
        self.total += 1
        self._metrics.untrusted(purpose, reason)
        now = self._clock()
        self._recent.setdefault(purpose, deque(maxlen=_BURST)).append((now, reason))
        if self._is_burst(purpose) and self._told.get(purpose, -_WINDOW_SECONDS) <= now - _WINDOW_SECONDS:
            self._told[purpose] = now
            log.warning("trust.refused_many", purpose=purpose.value, reason=self._usual(purpose).value)

    def notes(self) -> list[str]:
        """One sentence for each purpose of which many were refused of late."""
        told = []
        for purpose in self._recent:
            if self._is_burst(purpose):
                reason = self._usual(purpose)
                told.append(
                    f"many {purpose.value}s are refused, mostly because of {reason.value}: "
                    f"{_REMEDIES.get(reason, _REMEDY)}; stopframe_untrusted_total counts them"
                )
        return told

    def _is_burst(self, purpose: Purpose) -> bool:
        recent = self._recent[purpose]
        return len(recent) == _BURST and recent[0][0] > self._clock() - _WINDOW_SECONDS

    def _usual(self, purpose: Purpose) -> Reason:
        return Counter(reason for _, reason in self._recent[purpose]).most_common(1)[0][0]
