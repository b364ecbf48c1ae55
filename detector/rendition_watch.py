"""One stream's renditions: which is looked at, when another one is to be, and what is told of a switch."""

import math
from collections.abc import Callable

import structlog

from detector.coverage import Cause
from detector.metrics import Metrics
from streams.renditions import Renditions

log = structlog.get_logger()

SWITCHED_AFTER_SECONDS = 3.0
"""So long without a picture of one rendition another is looked at: the players of viewers do the same."""

_CAUSES = frozenset({Cause.STALL, Cause.NO_VIDEO, Cause.NO_KEYFRAME, Cause.DECODE_ERRORS})
"""What can be wrong with one rendition while the others go on."""


class RenditionWatch:
    """Watches the renditions of one session's source; `renditions` is what each of its readers is opened with."""

    def __init__(self, stream_id: str, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.renditions = Renditions(clock)
        self._stream_id = stream_id
        self._metrics = metrics
        self._clock = clock
        self._told_switches = 0
        self._opened_at = -math.inf

    def opened(self) -> None:
        """A reader was started; say so if it looks at another rendition than the one before."""
        self._opened_at = self._clock()
        if self.renditions.switches != self._told_switches:
            self._told_switches = self.renditions.switches
            self._metrics.rendition_switched()
            log.warning("session.rendition_switched", stream=self._stream_id, rendition=self.renditions.shown)

    def is_stuck(self, blind_since: float | None, cause: Cause) -> bool:
        """Whether the source that is open has shown nothing for so long that another rendition of it might."""
        if blind_since is None or cause not in _CAUSES or not self.renditions.has_another:
            return False
        return self._clock() - max(blind_since, self._opened_at) > SWITCHED_AFTER_SECONDS
