"""Sampling that an operator asks of one stream for a while: only ever closer than the config has it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from detector.session_settings import SessionSettings
from streams.sampling import SamplingMode, SamplingSettings

OVERRIDES_LIMIT: Final = 4096
CLOSEST_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 3600.0

_LOOK_SECONDS: Final = 1.0


class TooManyOverrides(Exception):
    """Raised by `SamplingOverrides.put`: nothing was taken in; one sentence."""


@dataclass(frozen=True, slots=True)
class _Override:
    detect_within_seconds: float
    until: float


class SamplingOverrides:
    """What holds for which stream, by its id; `changed` is told whenever streams are to be looked at differently."""

    def __init__(self, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = changed
        self._clock = clock
        self._overrides: dict[str, _Override] = {}

    def put(self, stream_id: str, detect_within_seconds: float, lasts_seconds: float) -> None:
        """Have what is on a stream's screen for so long be seen, for `lasts_seconds`; the last word on a stream holds.

        Raises:
            TooManyOverrides: there is no room.
        """
        if stream_id not in self._overrides and len(self._overrides) >= OVERRIDES_LIMIT:
            raise TooManyOverrides(f"{OVERRIDES_LIMIT} streams are looked at more closely already; wait, or end some.")
        self._overrides[stream_id] = _Override(detect_within_seconds, self._clock() + lasts_seconds)
        self._changed()

    def apply(self, stream_id: str, settings: SessionSettings) -> SessionSettings:
        """Return the settings with what holds for the stream now."""
        override = self._overrides.get(stream_id)
        if override is None or override.until <= self._clock():
            return settings
        sampling = closer(settings.job.sampling, override.detect_within_seconds)
        return replace(settings, job=replace(settings.job, sampling=sampling))

    async def run(self) -> None:
        """End what is over, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._clock()
            over = [stream_id for stream_id, override in self._overrides.items() if override.until <= now]
            for stream_id in over:
                del self._overrides[stream_id]
            if over:
                self._changed()


def closer(sampling: SamplingSettings, detect_within_seconds: float) -> SamplingSettings:
    """Return sampling that also sees what is shown for so long; `keyframes` alone promises nothing, so it is `auto`."""
    within = min(sampling.detect_within_seconds, detect_within_seconds)
    mode = SamplingMode.AUTO if sampling.mode is SamplingMode.KEYFRAMES else sampling.mode
    return replace(
        sampling, detect_within_seconds=within, interval_seconds=min(sampling.interval_seconds, within), mode=mode
    )
