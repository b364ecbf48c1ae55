"""Pictures that are sent behind a keyframe and shown before it: they refer to the GOP that it ends. Pure.

Such GOPs are called open (H.264's recovery points, H.265's CRA pictures with RASL pictures behind). Whoever decodes
a GOP up to the next keyframe alone has not seen them, and nearly all of a stream can be of their kind.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from streams.whole_gop import WholeGop

_MOST_LEADING = 32
"""Twice as many as any encoder puts between two pictures that refer to none of them."""


class TimedPacket(Protocol):
    """What is asked of a packet."""

    @property
    def pts(self) -> int | None:
        """When it is shown."""

    @property
    def is_keyframe(self) -> bool:
        """What the container claims."""


PacketT = TypeVar("PacketT", bound=TimedPacket)
FrameT = TypeVar("FrameT")
SampleT = TypeVar("SampleT")


@dataclass(slots=True)
class OpenEnd(Generic[PacketT, FrameT, SampleT]):
    """A GOP that is decoded whole and has ended, but for what leads up to the keyframe behind it.

    `entries` are its packets with their arrival times, then the keyframe and what was sent behind and shown before it.
    """

    whole: WholeGop[PacketT, FrameT, SampleT]
    entries: list[tuple[PacketT, float]]
    leading: int = field(default=0, init=False)


class LeadingPictures(Generic[PacketT, FrameT, SampleT]):
    """Tells them by their times, and holds one GOP open for them where a stream has any."""

    def __init__(self) -> None:
        self.are_usual = False
        self._keyframe_pts: int | None = None
        self._open: OpenEnd[PacketT, FrameT, SampleT] | None = None

    def hear(self, packet: PacketT, arrived_at: float) -> OpenEnd[PacketT, FrameT, SampleT] | None:
        """Note the next packet; return the GOP that is complete without it."""
        leads = not packet.is_keyframe and _is_before(packet.pts, self._keyframe_pts)
        self.are_usual |= leads
        if packet.is_keyframe:
            self._keyframe_pts = packet.pts
        if self._open is None:
            return None
        if not leads or self._open.leading == _MOST_LEADING:
            return self.take()
        self._open.leading += 1
        self._open.entries.append((packet, arrived_at))
        return None

    def hold(self, whole: WholeGop[PacketT, FrameT, SampleT], entries: Iterable[tuple[PacketT, float]]) -> None:
        """Wait with a GOP for what leads up to the keyframe that ends it, the last of `entries`."""
        self._open = OpenEnd(whole, list(entries))

    def take(self) -> OpenEnd[PacketT, FrameT, SampleT] | None:
        """Return the GOP that is held open, if one is: nothing more is waited for."""
        held, self._open = self._open, None
        return held


def _is_before(pts: int | None, other: int | None) -> bool:
    return pts is not None and other is not None and pts < other
