"""The first frames after a keyframe, decoded at moments that nobody can foresee: pure.

Whoever keeps his keyframes clean and shows something else in all other frames, or in all B-frames, shows it in the few
frames after each keyframe. Decoding those needs no evidence in packet sizes, so it finds a flat card behind a busy
camera as well as a photograph, and costs a tenth of decoding the GOP.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.frame import MAX_BURST_FRAMES, SampleReason
from streams.motion import difference
from streams.sampling import SCENE_CHANGE_GREY_LEVELS
from streams.whole_gop import Output

PEEK_PACKETS = 2
"""So many packets behind a keyframe are decoded: with B-frames that is a P-frame and one of these."""

LONG_PEEK_PACKETS = 3
"""So many where the last peek showed something: with two B-frames no frame is missing between those that are seen, and
what moves fast can be followed from one to the next."""

_MOST_PACKETS = MAX_BURST_FRAMES - 1
"""What is shown before the keyframe, as in open GOPs, does not count, up to here: else times would decide the cost."""

_MOST_FRAMES = 2
"""So many stand for what is behind a keyframe."""

_PATIENCE_SECONDS = 0.07
"""So long a keyframe waits to be decoded with those behind it. Few frames come meanwhile where there are few."""


class Timed(Protocol):
    """What is asked of a packet."""

    @property
    def pts(self) -> int | None:
        """When it is shown, as the publisher has it."""


Plane = NDArray[np.uint8]

PacketT = TypeVar("PacketT", bound=Timed)
FrameT = TypeVar("FrameT")
FrameT_contra = TypeVar("FrameT_contra", contravariant=True)
SampleT = TypeVar("SampleT")


class PlaneReader(Protocol[FrameT_contra]):
    """What is asked about frames; see `streams.decoder.Decoder`."""

    def plane(self, frame: FrameT_contra) -> NDArray[np.uint8] | None:
        """Return the frame's hash plane."""


class Peek(Generic[PacketT, FrameT, SampleT]):
    """Counts the packets behind one keyframe, until it is time to decode them; then says what they show.

    What looks like the keyframe was seen with it: then nothing is handed over. A keyframe that `waits` is decoded only
    then, together with them, for decoding it twice would be most of the cost; with B-frames a decoder that is not
    drained holds it back for as long anyhow.
    """

    def __init__(
        self,
        reader: PlaneReader[FrameT],
        output: Output[FrameT, SampleT],
        begun_at: float,
        keyframe: PacketT,
        *,
        waits: bool,
        packets: int = PEEK_PACKETS,
    ) -> None:
        self.begun_at = begun_at
        self.keyframe = keyframe
        self.waits = waits
        self._reader = reader
        self._output = output
        self._wanted = packets
        self._packets = 0
        self._counted = 0

    @property
    def has_any(self) -> bool:
        """Whether a packet came behind the keyframe."""
        return self._packets > 0

    def is_complete_with(self, packet: PacketT, arrived_at: float) -> bool:
        """Note the keyframe, or a packet behind it; whether it is the last that is waited for."""
        if packet is self.keyframe:
            return False
        pts, keyframe_pts = packet.pts, self.keyframe.pts
        self._packets += 1
        self._counted += pts is None or keyframe_pts is None or pts >= keyframe_pts
        is_late = arrived_at >= self.begun_at + _PATIENCE_SECONDS
        return is_late or self._counted >= self._wanted or self._packets >= _MOST_PACKETS

    def show(self, frames: Iterable[FrameT], arrived_at: float) -> bool:
        """Look at the keyframe and all that came out behind it; hand over what differs most from it, if anything does.

        The keyframe itself was handed over, and what a camera moves differs in nothing: movement does not count. What
        has moved beside each frame before it comes as `Output.moved` makes it. Whether anything was handed over.
        """
        seen = [(frame, plane) for frame in frames if (plane := self._reader.plane(frame)) is not None]
        distances = [_distance(seen[0][1], plane) for _, plane in seen]
        chosen: list[int] = []
        for place in sorted(range(len(seen)), key=distances.__getitem__, reverse=True):
            if distances[place] <= SCENE_CHANGE_GREY_LEVELS or len(chosen) == _MOST_FRAMES:
                break
            if all(_distance(seen[other][1], seen[place][1]) > SCENE_CHANGE_GREY_LEVELS for other in chosen):
                chosen.append(place)
        followed = _followed([plane for _, plane in seen], distances) if chosen else frozenset()
        samples: list[SampleT] = []
        for place in sorted(chosen):
            sample = self._output.keep(seen[place][0], arrived_at, SampleReason.BURST)
            if sample is not None:
                samples.append(self._output.moved(sample) if place in followed else sample)
        if samples:
            self._output.hand_over(samples)
        return bool(samples)


def _followed(planes: Sequence[Plane], distances: Sequence[float]) -> frozenset[int]:
    """The places of what the keyframe, the first, turns into by movement alone, step by step in the order shown.

    There are a few steps, so it does not lead far; and what is cut in is one step too many.
    """
    places = {0}
    for place in range(1, len(planes)):
        latest = max(places)
        if distances[place] <= SCENE_CHANGE_GREY_LEVELS or _distance(planes[latest], planes[place]) <= (
            SCENE_CHANGE_GREY_LEVELS
        ):
            places.add(place)
    return frozenset(places)


def _distance(before: Plane, after: Plane) -> float:
    return difference(before, after, SCENE_CHANGE_GREY_LEVELS)
