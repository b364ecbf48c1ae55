"""One live stream: packets in, samples out. Ties sampler, ring and decoder together; knows no clock and no libav."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from streams.frame import SampleReason
from streams.gop import GopRing
from streams.sampling import Sampler


class VideoPacket(Protocol):
    """What is asked of a packet."""

    @property
    def size(self) -> int:
        """Payload bytes."""

    @property
    def is_keyframe(self) -> bool:
        """What the container claims."""


PacketT = TypeVar("PacketT", bound=VideoPacket)
FedT_contra = TypeVar("FedT_contra", contravariant=True)
FrameT = TypeVar("FrameT")


class TwoWayDecoder(Protocol[FedT_contra, FrameT]):
    """What is asked of a decoder; see `streams.decoder.Decoder`."""

    @property
    def is_through(self) -> bool:
        """Whether decoding through goes on."""

    def note(self, packet: FedT_contra) -> None:
        """Take over codec headers."""

    def decode_alone(self, packet: FedT_contra) -> FrameT | None:
        """Decode a keyframe at once."""

    def decode_through(self, packet: FedT_contra) -> list[FrameT]:
        """Decode one packet after the other."""

    def finish_through(self) -> list[FrameT]:
        """End decoding through."""


class LiveLook(Generic[PacketT, FrameT]):
    """Looks at one live stream as its sampler decides.

    `emit(frame, arrived_at, reason)` is called for every frame that goes to analysis. `keyframes` and
    `keyframes_without_picture` count since the start. `working` is called before each piece of decoding.
    """

    def __init__(
        self,
        sampler: Sampler,
        ring: GopRing[PacketT],
        decoder: TwoWayDecoder[PacketT, FrameT],
        emit: Callable[[FrameT, float, SampleReason], None],
        working: Callable[[], None] = lambda: None,
    ) -> None:
        self.keyframes = 0
        self.keyframes_without_picture = 0
        self._sampler = sampler
        self._ring = ring
        self._decoder = decoder
        self._emit = emit
        self._working = working
        self._unseen: tuple[FrameT, float] | None = None
        self._has_gap = False

    def take(self, packet: PacketT, arrived_at: float) -> None:
        """Look at the next packet of the video track."""
        self._sampler.begin(arrived_at)
        self._decoder.note(packet)
        if self._sampler.must_look_back(arrived_at):
            self._decode_ring()
            self._look_at_unseen()
        without_picture = self.keyframes_without_picture
        starts_here = packet.is_keyframe and self._take_keyframe(packet, arrived_at)
        # After a gap only a keyframe can be decoded. A flag that proved false is as good as a refresh stream will give.
        self._has_gap &= not starts_here and self.keyframes_without_picture == without_picture
        if self._has_gap:
            return
        if self._sampler.decodes_through(arrived_at, starts_here=starts_here):
            self._decode_through(packet, arrived_at)
            return
        self._decoder.finish_through()
        self._unseen = None
        if starts_here:  # a flag alone proves nothing: what leads up to it stays until a keyframe gave a picture
            self._ring.clear()
        if not self._ring.add(packet, arrived_at):
            self._sampler.ring_overflowed()
            self._sampler.decodes_through(arrived_at, starts_here=False)
            self._decode_through(packet, arrived_at)

    def skim(self, packet: PacketT, arrived_at: float) -> None:
        """Look at the next packet as cheaply as can be: at keyframes alone, thinned as ever; keep nothing.

        It breaks the sampler's promise. What comes after refers to what was passed over, so `take` begins anew at the
        next keyframe.
        """
        self._sampler.begin(arrived_at)
        self._decoder.note(packet)
        if not self._has_gap:
            self._has_gap = True
            self._decoder.finish_through()
            self._ring.clear()
            self._unseen = None
        if packet.is_keyframe:
            self._take_keyframe(packet, arrived_at)

    def overhear(self, arrived_at: float) -> None:
        """A packet of another track came: time goes on, and the last picture may be on screen for too long unseen."""
        if not self._sampler.must_look_back(arrived_at):
            return
        if self._ring.held_bytes:
            self._sampler.ring_emptied()
            self._decode_ring()
        self._look_at_unseen()

    def finish(self) -> None:
        """Look at the last frame before the end, if nobody has: it may stay on viewers' screens for long."""
        self._decode_ring()
        for frame in self._decoder.finish_through():
            if self._unseen is not None:
                self._unseen = (frame, self._unseen[1])
        self._look_at_unseen()

    def _take_keyframe(self, packet: PacketT, arrived_at: float) -> bool:
        self.keyframes += 1
        if not self._sampler.wants_keyframe(arrived_at):
            self._sampler.keyframe_passed(arrived_at)
            return False
        self._working()
        frame = self._decoder.decode_alone(packet)
        if frame is None:
            self.keyframes_without_picture += 1
            self._sampler.keyframe_failed(arrived_at)
            return False
        self._sampler.keyframe_decoded(arrived_at)
        self._analyse(frame, arrived_at, SampleReason.KEYFRAME)
        return True

    def _decode_ring(self) -> None:
        for packet, arrived_at in self._ring:
            self._note_frames(self._decoder.decode_through(packet), arrived_at)
            self._working()
        self._ring.clear()

    def _decode_through(self, packet: PacketT, arrived_at: float) -> None:
        self._decode_ring()
        self._working()
        self._note_frames(self._decoder.decode_through(packet), arrived_at)
        if self._unseen is not None and self._unseen[1] == arrived_at and self._sampler.wants(arrived_at):
            self._look_at_unseen()

    def _note_frames(self, frames: list[FrameT], arrived_at: float) -> None:
        if frames and arrived_at > self._sampler.analysed_at:
            self._unseen = (frames[-1], arrived_at)

    def _look_at_unseen(self) -> None:
        if self._unseen is not None:
            self._analyse(*self._unseen, self._sampler.through_reason)

    def _analyse(self, frame: FrameT, arrived_at: float, reason: SampleReason) -> None:
        self._unseen = None
        self._sampler.analysed(arrived_at)
        self._emit(frame, arrived_at, reason)
