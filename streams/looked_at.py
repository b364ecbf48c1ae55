"""What a reader holds for each video track it looks at, and the packets that come for all of them."""

import math
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from av.video.frame import VideoFrame

from streams.decoder import Decoder
from streams.frame import SampleReason
from streams.job import Job, SourceKind
from streams.scan_sampling import MediaClock
from streams.sender import Counters
from streams.source import AnyPacket, Source, VideoTrack, resolution_refused

_READING_SLACK_SECONDS = 0.5


class LookedAt:
    """One video track with a decoder of its own."""

    def __init__(self, track: VideoTrack, job: Job) -> None:
        self.number = track.number
        self.decoder = Decoder(track.stream, job.max_pixels, (job.shaped_short, job.shaped_long))
        self._track = track
        self._job = job

    def seconds(self, ticks: int | None) -> float | None:
        """Return a time of one of the track's packets in seconds."""
        return self._track.seconds(ticks)

    @property
    def frame_seconds(self) -> float:
        """How long a frame is usually shown."""
        return self._track.frame_seconds

    def media_clock(self) -> MediaClock:
        """Return a clock that follows the track's own times."""
        return MediaClock(self._track.frame_seconds, self._job.sampling.detect_within_seconds)

    def check_size(self) -> None:
        """Raise `SourceError` if its pictures have become larger than allowed: nobody looks at them any more."""
        if self.decoder.refused_size is not None:
            raise resolution_refused(*self.decoder.refused_size, self._job.max_pixels)


Emit: TypeAlias = Callable[[LookedAt, VideoFrame, float, SampleReason], bool]
"""Sends a sample: its track, the frame, when it arrived and why it was sampled; False if nothing can be made of it."""


def counted_packets(
    source: Source,
    job: Job,
    counters: Counters,
    begin_wait: Callable[[], object] = int,
    end_wait: Callable[[], object] = int,
) -> Iterator[AnyPacket]:
    """Yield what the source gives; count it, and mark the time between two packets as work.

    Waiting is watched here as well as by the binding, whose timer starts anew with every packet that libav reads, also
    with those that it keeps for itself. What is done after the last packet is work, too, and has no time limit here.
    """
    packets = source.packets(begin_wait, end_wait)
    longest_seconds = math.inf if job.kind is SourceKind.FILE else job.read_timeout_seconds + _READING_SLACK_SECONDS
    while True:
        counters.working_since = math.nan
        asked_at = time.monotonic()
        counters.overdue_at = asked_at + longest_seconds
        try:
            packet = next(packets, None)
        finally:
            counters.overdue_at = math.inf
            counters.working_since = came_at = time.monotonic()
        counters.waited_seconds += came_at - asked_at
        if packet is None:
            return
        counters.last_packet_at = came_at
        counters.packets += 1
        counters.received_bytes += packet.size
        yield packet
