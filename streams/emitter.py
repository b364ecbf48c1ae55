"""Decoded frames become numbered samples and go out."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from av.video.frame import VideoFrame

from streams.costs import Purpose
from streams.frame import Frame, SampleReason, ShapedPicture
from streams.looked_at import LookedAt
from streams.messages import Burst
from streams.sender import Counters, Sender

_PURPOSES = {
    SampleReason.KEYFRAME: Purpose.KEYFRAME,
    SampleReason.BURST: Purpose.WHOLE,
    SampleReason.SPIKE: Purpose.WHOLE,
}
"""What a sample is charged to; every other one is of a stream that is decoded through."""


class Emitter:
    """Makes samples of one reader's frames and sends them, one by one or, kept for a while, several as one message."""

    def __init__(self, sender: Sender, counters: Counters) -> None:
        self._sender = sender
        self._counters = counters
        self._sequence = 0

    def emit(self, track: LookedAt, frame: VideoFrame, arrived_at: float, reason: SampleReason) -> bool:
        """Send a sample of `frame`; False if nothing can be made of it."""
        sample = self.keep(track, frame, arrived_at, reason)
        if sample is None:
            return False
        self._put(self._numbered(sample))
        return True

    def keep(self, track: LookedAt, frame: VideoFrame, arrived_at: float, reason: SampleReason) -> Frame | None:
        """Return a sample of `frame` that `hand_over` numbers; it holds on to nothing of the decoder's."""
        with track.decoder.costs.of(_PURPOSES.get(reason, Purpose.THROUGH)):
            pixels = track.decoder.pixels(frame)
            if pixels is None:
                return None
            shaped = pixels.shaped
            return Frame(
                sequence=0,
                arrived_at=arrived_at,
                decoded_at=arrived_at,
                pts_seconds=track.decoder.pts_seconds(frame),
                reason=reason,
                is_corrupt=frame.is_corrupt,
                width=pixels.width,
                height=pixels.height,
                plane=pixels.plane.tobytes(),
                picture=pixels.picture.tobytes(),
                track=track.number,
                shaped=None if shaped is None else ShapedPicture(shaped.shape[1], shaped.shape[0], shaped.tobytes()),
            )

    def hand_over(self, samples: Sequence[Frame]) -> None:
        """Send kept samples, at least one, as one message: they count as decoded now, when all of them are."""
        self._put(Burst(tuple(self._numbered(sample) for sample in samples)))

    def beat(self) -> None:
        """Send a heartbeat beside those that are due by the clock on the wall."""
        self._sender.beat()

    def _numbered(self, sample: Frame) -> Frame:
        self._sequence += 1
        return replace(sample, sequence=self._sequence, decoded_at=time.monotonic())

    def _put(self, message: Frame | Burst) -> None:
        self._counters.working_since = math.nan  # waiting for the service is no work
        self._sender.put(message)
        self._counters.working_since = time.monotonic()
