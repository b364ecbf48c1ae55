"""Why the readers of one stream end, told in the log once, and again where it is news or a while has passed."""

import math

import structlog

from detector.metric_words import CrashKind
from detector.metrics import Metrics
from streams.keeper import ReaderCrashed, ReaderMisbehaved, ReaderStalled
from streams.wire import Ended

log = structlog.get_logger()

_AGAIN_SECONDS = 300.0
"""A source that fails in the same way again and again is counted each time, and logged this often."""


_CRASHES = {
    ReaderCrashed: CrashKind.READER,
    ReaderStalled: CrashKind.READER_STALLED,
    ReaderMisbehaved: CrashKind.READER_MISBEHAVED,
}


class EndTelling:
    """Tells the ends of one stream's readers, and counts them."""

    def __init__(self, stream_id: str, metrics: Metrics) -> None:
        self._metrics = metrics
        self._stream_id = stream_id
        self._told, self._told_at = "", -math.inf

    def tell(self, ending: Ended | Exception, code: str, now: float, *, is_news: bool) -> None:
        """Count how a reader ended, and log it, as `code` says it in a word."""
        if isinstance(ending, Ended):
            self._metrics.reader_ended(ending.code)
        elif (kind := _CRASHES.get(type(ending))) is not None:
            self._metrics.crashed(kind)
        detail = ending.detail if isinstance(ending, Ended) else str(ending)
        words = code + "".join(letter for letter in detail if not letter.isdigit())
        if not is_news and words == self._told and now < self._told_at + _AGAIN_SECONDS:
            return
        self._told, self._told_at = words, now
        if isinstance(ending, Ended):
            log.info("session.reader_ended", stream=self._stream_id, code=ending.code.value, detail=detail)
        else:
            log.warning("session.reader_lost", stream=self._stream_id, why=type(ending).__name__, detail=detail)
