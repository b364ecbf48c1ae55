"""The arrival clock: a network's packets arrive when they come, what could be read faster when it would be shown."""

import math
import time

from streams.job import UNPACED, Job, SourceKind
from streams.pacing import Pace
from streams.scan_sampling import MediaClock
from streams.sender import Counters
from streams.source import AnyPacket, VideoTrack


class Arrivals:
    """When each packet of one live source arrived, waiting for that where it was there before.

    On a network that is the moment at which libav gave it. A playlist's segments come seconds at a time: a packet
    arrives when it would have if it were sent when it is to be shown (`Pace`), as the samples of a segment that came at
    once would show one moment of it. A file's packets arrive by the media's own clock, which runs at `job.speed`; one
    that is late arrived late by the clock on the wall alone. `UNPACED`, none is waited for.

    `now` is the latest packet's arrival, in seconds: monotonic time at speed 1 and no delay. `moment` gives the
    monotonic time of an arrival, `arrival` the reverse. `media_end_seconds` is the end of a file so far, else NaN.
    """

    def __init__(self, job: Job, counters: Counters, first: VideoTrack) -> None:
        self.now = time.monotonic()
        self.media_end_seconds = math.nan
        self._kind = job.kind
        self._speed = job.speed
        self._counters = counters
        self._first = first
        self._first_index = first.stream.index
        self._clock = MediaClock(first.frame_seconds, job.sampling.detect_within_seconds)
        self._begun_at = self._taken_at = self.now
        self._pace = Pace(self.now)
        self._waited_before = 0.0

    def take(self, packet: AnyPacket) -> float:
        """Wait until `packet` arrives, and return when that is: never before the one that came before it."""
        is_timed = packet.stream_index == self._first_index
        if is_timed and self._kind is SourceKind.FILE:
            self.now = self._begun_at + self._clock.advance(self._first.seconds(packet.dts))
            self.media_end_seconds = self._clock.end(self._first.seconds(packet.duration))
            self._wait_until(self._begun_at + (self.now - self._begun_at) / self._speed)
        elif is_timed and self._kind is SourceKind.HLS:
            waited_seconds = self._counters.waited_seconds - self._waited_before
            self._waited_before = self._counters.waited_seconds
            shown_at = self._clock.advance(self._first.seconds(packet.dts))
            self._wait_until(self._pace.due_at(time.monotonic(), shown_at, waited_seconds))
        self._taken_at = time.monotonic()
        if self._kind is not SourceKind.FILE:
            self.now = self._taken_at
        return self.now

    def moment(self, arrived_at: float) -> float:
        """Return the monotonic time at which what arrived at `arrived_at` was there; never later than it is now."""
        return self._taken_at + (arrived_at - self.now) / self._speed

    def arrival(self, moment: float) -> float:
        """Return the arrival clock's time at a monotonic one."""
        return self.now + (moment - self._taken_at) * (1.0 if self._speed == UNPACED else self._speed)

    def _wait_until(self, due_at: float) -> None:
        if due_at <= time.monotonic():
            return
        self._counters.working_since = math.nan
        while (left := due_at - time.monotonic()) > 0:
            time.sleep(left)
        self._counters.working_since = time.monotonic()
