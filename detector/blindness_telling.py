"""Tells a stream's blindness when it is due: waits for that moment, and for whatever moves it."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable

import structlog

from detector.blindness import BlindAlert
from detector.sight import Sight

log = structlog.get_logger()


class BlindnessTelling:
    """`tell` is handed each alert of one stream's `sight`; what it raises ends nothing. Times are those of `clock`."""

    def __init__(
        self, stream_id: str, sight: Sight, tell: Callable[[BlindAlert], Awaitable[None]], clock: Callable[[], float]
    ) -> None:
        self._stream_id = stream_id
        self._sight = sight
        self._tell = tell
        self._clock = clock
        self._has_moved = asyncio.Event()
        self._looks_again_at = -math.inf

    def moved(self) -> None:
        """The sight changed: look again at once if blindness is to be told sooner than it was."""
        if self._sight.blindness.due_at() < self._looks_again_at:
            self._has_moved.set()

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Tell what is due until `is_over`, or until cancelled."""
        while not is_over():
            self._has_moved.clear()
            now = self._clock()
            alert = self._sight.blindness.take(now)
            if alert is not None:
                await self._tell_one(alert)
                continue
            self._looks_again_at = self._sight.blindness.due_at()
            seconds = self._looks_again_at - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                    await self._has_moved.wait()

    async def _tell_one(self, alert: BlindAlert) -> None:
        try:
            await self._tell(alert)
        except Exception as error:  # noqa: BLE001 - the task's edge: the next blindness is to be told all the same
            log.warning("session.blindness_untold", stream=self._stream_id, why=type(error).__name__)
