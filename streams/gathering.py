"""Few wake-ups: after a packet that had to be waited for, the next ones gather in the kernel for a while."""

import resource
import time

from streams.job import Job, SourceKind

GATHER_SECONDS = 0.04
"""A stream of 30 frames a second and sound has 73 packets in a second; each that is waited for alone costs a wake-up.

So much later than its last byte came a sample may be read at most: half a keyframe's own transmission over a slow line.
"""

_GATHERED = frozenset({SourceKind.RTMP, SourceKind.HTTP_TS, SourceKind.HTTP_FLV, SourceKind.RTSP})
"""What comes over TCP, which holds its sender back and loses nothing."""

_WAITED_SECONDS = 0.001


class Gathering:
    """Sleeps between two reads of one source, in the reading thread, and never while there is something to read.

    A read that waited has found nothing in the kernel: the reader is level with the source, and may sleep. One that
    was long because others had the processor proves nothing, so what counts is that the thread itself gave it up.
    """

    def __init__(self, job: Job) -> None:
        self._is_active = job.kind in _GATHERED
        self._waits = 0

    def rest(self, read_seconds: float) -> None:
        """Sleep if the latest read, of `read_seconds`, waited for its packet."""
        if not self._is_active or read_seconds < _WAITED_SECONDS:
            return
        waits = _waits()
        if waits > self._waits:
            time.sleep(GATHER_SECONDS)
            self._waits = _waits()


def _waits() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
