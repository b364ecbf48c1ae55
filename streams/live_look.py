"""One live stream: packets in, samples out. Ties sampler, ring and decoder together; knows no clock and no libav."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import dropwhile
from typing import Generic, Protocol, TypeVar

from streams.costs import Purpose
from streams.frame import SampleReason
from streams.gop import GopRing
from streams.leading import LeadingPictures, OpenEnd
from streams.peek import LONG_PEEK_PACKETS, PEEK_PACKETS, Peek
from streams.sampling import Sampler
from streams.whole_gop import FrameReader, Output, WholeGop

_LONGEST_WAIT_SECONDS = 0.2
"""So long packets that are only kept may wait for others: what looks at them is in no processor's cache each time."""


class VideoPacket(Protocol):
    """What is asked of a packet."""

    @property
    def size(self) -> int:
        """Payload bytes."""

    @property
    def pts(self) -> int | None:
        """When it is shown, as the publisher has it."""

    @property
    def is_keyframe(self) -> bool:
        """What the container claims."""


PacketT = TypeVar("PacketT", bound=VideoPacket)
FedT_contra = TypeVar("FedT_contra", contravariant=True)
FrameT = TypeVar("FrameT")
SampleT = TypeVar("SampleT")


class TwoWayDecoder(FrameReader[FedT_contra, FrameT], Protocol[FedT_contra, FrameT]):
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


class LiveLook(Generic[PacketT, FrameT, SampleT]):
    """Looks at one live stream as its sampler decides.

    Every frame that goes to analysis goes by `output`. `keyframes`, `keyframes_without_picture`, and the GOPs decoded
    whole in `bursts` and `spikes`, count since the start. `working` is called before each piece of decoding; inside
    `charged(Purpose.WHOLE)` GOPs are decoded whole.
    """

    def __init__(
        self,
        sampler: Sampler,
        ring: GopRing[PacketT],
        decoder: TwoWayDecoder[PacketT, FrameT],
        output: Output[FrameT, SampleT],
        working: Callable[[], None] = lambda: None,
        charged: Callable[[Purpose], AbstractContextManager[object]] = lambda _: nullcontext(),
    ) -> None:
        self.keyframes = 0
        self.keyframes_without_picture = 0
        self.bursts = 0
        self.spikes = 0
        self._sampler = sampler
        self._ring = ring
        self._decoder = decoder
        self._output = output
        self._working = working
        self._charged = charged
        self._unseen: tuple[FrameT, float] | None = None
        self._whole: WholeGop[PacketT, FrameT, SampleT] | None = None
        self._leading: LeadingPictures[PacketT, FrameT, SampleT] = LeadingPictures()
        self._peek: Peek[PacketT, FrameT, SampleT] | None = None
        self._peek_packets = PEEK_PACKETS
        self._has_gap = False
        self._is_proven = False
        self._seen_to: PacketT | None = None
        self._passed: tuple[PacketT, float] | None = None
        """The latest keyframe that was passed over because the stream is slowed; what came before it is still kept."""

    def take(self, packet: PacketT, arrived_at: float) -> None:
        """Look at the next packet of the video track."""
        shows_change = self._hear(packet, arrived_at)
        without_picture = self.keyframes_without_picture
        # Where nothing can be decoded, or a GOP is to be told complete, no keyframe may be passed over.
        is_needed = self._has_gap or self._whole is not None
        keyframe = self._take_keyframe(packet, arrived_at, is_needed=is_needed) if packet.is_keyframe else None
        starts_here = keyframe is not None
        # After a gap only a keyframe can be decoded. A flag that proved false is as good as a refresh stream will give.
        self._has_gap &= not starts_here and self.keyframes_without_picture == without_picture
        if self._has_gap:
            return
        if self._whole is not None and (starts_here or arrived_at >= self._whole.ends_at):
            self._end(self._whole, arrived_at, packet if starts_here else None)
        if shows_change and self._sampler.takes_spike(arrived_at):
            self.spikes += 1
            self._whole = WholeGop(self._decoder, self._output, arrived_at, packet)
        if self._sampler.decodes_through(arrived_at, starts_here=starts_here):
            self._peek = None
            with self._charged(self._through_purpose):
                self._decode_through(packet, arrived_at)
        else:
            self._keep(packet, arrived_at, starts_here=starts_here)
        if self._peek is not None and self._peek.is_complete_with(packet, arrived_at):
            self._end_peek(self._peek, arrived_at)
        if keyframe is not None and self._sampler.chooses_gop():
            self._begin_whole(keyframe, arrived_at)
        if starts_here and self._sampler.takes_peek(arrived_at):
            self._begin_peek(packet, arrived_at, waits=False)

    def may_wait_until(self, now: float) -> float:
        """Until when packets need not be taken, if they are no keyframes and none is large enough to be a spike."""
        if self._peek is not None or self._has_gap or self._decoder.is_through:
            return now
        soon = (
            self._sampler.looks_again_at
            if self._whole is None
            else min(self._sampler.looks_again_at, self._whole.ends_at)
        )
        return min(soon, now + _LONGEST_WAIT_SECONDS)

    def skim(self, packet: PacketT, arrived_at: float) -> None:
        """Look at the next packet as cheaply as can be: at keyframes alone, thinned as ever; keep nothing.

        It breaks the sampler's promise. What comes after refers to what was passed over, so `take` begins anew at the
        next keyframe.
        """
        self._sampler.begin(arrived_at)
        self._decoder.note(packet)
        self._sampler.hear(packet.size, packet.pts, is_keyframe=packet.is_keyframe)
        if not self._has_gap:
            self._has_gap = True
            self._close(self._leading.take(), arrived_at)
            if self._peek is not None:
                self._try_passed()
            self._decoder.finish_through()
            self._ring.clear()
            self._passed = None
            self._unseen = None
            self._peek = None
            if self._whole is not None:
                self._whole.hand_over()
                self._whole = None
        if packet.is_keyframe:
            self._take_keyframe(packet, arrived_at)

    def overhear(self, arrived_at: float) -> None:
        """A packet of another track came: time goes on, and the last picture may be on screen for too long unseen."""
        if self._sampler.must_look_back(arrived_at):
            self._look_back(arrived_at)

    def pause(self) -> None:
        """No packet has come for a while: look at the last frame so far, if nobody has, and change nothing else.

        What comes later is looked at as ever: the ring keeps what it has. While the stream is decoded through, frames
        that its decoder holds back stay there, as nothing could be decoded after them: `finish` looks at those.
        """
        self._close(self._leading.take(), self._sampler.analysed_at)
        if not self._sampler.keeps_promise:
            return
        self._try_passed()
        if self._decoder.is_through:
            self._decode_ring()
            self._look_at_unseen()
            return
        entries = list(self._ring)
        if not entries or entries[-1][1] <= self._sampler.analysed_at or entries[-1][0] is self._seen_to:
            return
        self._seen_to = entries[-1][0]
        last: FrameT | None = None
        for packet, _ in entries:
            self._working()
            last = next(reversed(self._decoder.decode_through(packet)), last)
        last = next(reversed(self._decoder.finish_through()), last)
        if last is not None:
            self._analyse(last, entries[-1][1], self._sampler.through_reason)

    def finish(self) -> None:
        """Look at the last frame before the end, if nobody has: it may stay on viewers' screens for long."""
        self._decode_ring()
        held_back = self._decoder.finish_through()
        arrived_at = self._sampler.analysed_at
        if held_back and self._unseen is not None:
            arrived_at = self._unseen[1]
            self._unseen = (held_back[-1], arrived_at)
        # At a frame in ten seconds each of them was on screen for long.
        if held_back and self._whole is None and self._sampler.keeps_promise:
            self._whole = WholeGop(self._decoder, self._output, arrived_at)
        if self._whole is not None:
            self._whole.show(held_back, arrived_at)
            self._whole.hand_over()
            self._whole = None
        self._look_at_unseen()

    def _hear(self, packet: PacketT, arrived_at: float) -> bool:
        """Look at what cannot wait for what a packet shows; say whether its size tells of a change."""
        self._close(self._leading.hear(packet, arrived_at), arrived_at)
        self._sampler.begin(arrived_at)
        self._decoder.note(packet)
        shows_change = self._sampler.hear(packet.size, packet.pts, is_keyframe=packet.is_keyframe)
        if self._sampler.must_look_back(arrived_at):
            self._look_back(arrived_at)
        if self._peek is not None and packet.is_keyframe:
            self._end_peek(self._peek, arrived_at)
        return shows_change

    def _take_keyframe(self, packet: PacketT, arrived_at: float, *, is_needed: bool = False) -> FrameT | None:
        """Return the keyframe's picture if it was decoded now, and is analysed."""
        self.keyframes += 1
        if not self._sampler.wants_keyframe(arrived_at, is_needed=is_needed):
            self._sampler.keyframe_passed(arrived_at)
            self._passed = (packet, arrived_at) if self._sampler.is_slowed and not self._has_gap else None
            return None
        may_wait = self._is_proven and not is_needed and not self._decoder.is_through
        if may_wait and self._sampler.takes_peek(arrived_at, waits=True):
            self._passed = packet, arrived_at
            self._begin_peek(packet, arrived_at, waits=True)
            return None
        frame = self._try_keyframe(packet, arrived_at)
        if frame is not None:
            self._analyse(frame, arrived_at, SampleReason.KEYFRAME)
        return frame

    def _try_keyframe(self, packet: PacketT, arrived_at: float) -> FrameT | None:
        self._passed = None
        self._working()
        frame = self._decoder.decode_alone(packet)
        self._note_keyframe(arrived_at, is_proven=frame is not None)
        return frame

    def _note_keyframe(self, arrived_at: float, *, is_proven: bool) -> None:
        self._is_proven = is_proven
        if is_proven:
            self._sampler.keyframe_decoded(arrived_at)
        else:
            self.keyframes_without_picture += 1
            self._sampler.keyframe_failed(arrived_at)

    def _try_passed(self) -> None:
        """Try the latest keyframe that was passed over, if one was: what came before one with a picture is not needed.

        Its flag proves nothing. That is why everything before it was kept.
        """
        if self._passed is None:
            return
        packet, arrived_at = self._passed
        frame = self._try_keyframe(packet, arrived_at)
        if frame is None:
            return
        self._decoder.finish_through()
        self._ring.drop_before(packet)
        if arrived_at > self._sampler.analysed_at:
            self._analyse(frame, arrived_at, SampleReason.KEYFRAME)

    def _look_back(self, arrived_at: float) -> None:
        """Look at what was on screen before the packet of `arrived_at`, as far as that is still needed."""
        if self._passed is not None:
            self._try_passed()
            if not self._sampler.must_look_back(arrived_at):
                return
        if self._ring.held_bytes:
            self._sampler.ring_emptied()
            self._decode_ring()
        self._look_at_unseen()

    @property
    def _through_purpose(self) -> Purpose:
        # By chance a GOP is decoded whole when it is complete, unless all is decoded through anyhow.
        return Purpose.WHOLE if self._whole is not None and self._whole.is_spike else Purpose.THROUGH

    def _keep(self, packet: PacketT, arrived_at: float, *, starts_here: bool) -> None:
        self._unseen = None
        if starts_here:  # a flag alone proves nothing: what leads up to it stays until a keyframe gave a picture
            self._decoder.finish_through()
            self._ring.clear()
        if self._ring.add(packet, arrived_at):
            return
        if self._passed is not None:
            self._try_passed()
        if not self._ring.add(packet, arrived_at):
            self._sampler.ring_overflowed()
            self._sampler.decodes_through(arrived_at, starts_here=False)
            self._decode_through(packet, arrived_at)

    def _begin_whole(self, keyframe: FrameT, arrived_at: float) -> None:
        self._whole = WholeGop(self._decoder, self._output, arrived_at, analysed=self._decoder.plane(keyframe))

    def _end(
        self, whole: WholeGop[PacketT, FrameT, SampleT], arrived_at: float, keyframe: PacketT | None = None
    ) -> None:
        """Decode what is left of a GOP that is decoded whole, and hand over what stands for it.

        It is complete with the `keyframe` behind it. The ring keeps what it has: a GOP that is not complete goes on,
        and may be looked back at.
        """
        self._whole = None
        if self._decoder.is_through:
            self._decode_ring()
            if keyframe is not None:  # what comes now can be decoded without what came before
                whole.show(self._decoder.finish_through(), arrived_at)
        elif any(not packet.is_keyframe for packet, _ in self._ring):
            if keyframe is not None and self._leading.are_usual:
                self._leading.hold(whole, [*self._ring, (keyframe, arrived_at)])
                return
            self._show_all(whole, self._ring, arrived_at)
        else:
            return  # keyframes alone are thinned at random as it is
        whole.hand_over()
        self.bursts += not whole.is_spike

    def _show_all(
        self, whole: WholeGop[PacketT, FrameT, SampleT], entries: Iterable[tuple[PacketT, float]], arrived_at: float
    ) -> None:
        with self._charged(Purpose.WHOLE):
            for packet, at in entries:
                self._working()
                whole.show(self._decoder.decode_through(packet), at)
            whole.show(self._decoder.finish_through(), arrived_at)

    def _close(self, ended: OpenEnd[PacketT, FrameT, SampleT] | None, arrived_at: float) -> None:
        """Decode a GOP that is complete now, with the pictures that led up to the next keyframe."""
        if ended is not None:
            self._show_all(ended.whole, ended.entries, arrived_at)
            ended.whole.hand_over()
            self.bursts += not ended.whole.is_spike

    def _begin_peek(self, keyframe: PacketT, arrived_at: float, *, waits: bool) -> None:
        self._peek = Peek(self._decoder, self._output, arrived_at, keyframe, waits=waits, packets=self._peek_packets)

    def _end_peek(self, peek: Peek[PacketT, FrameT, SampleT], arrived_at: float) -> None:
        """Decode a keyframe and the few packets behind it, and go on keeping them: what comes refers to them as before.

        Where the keyframe waited for that, it is looked at now, unless that was done because there was no more time.
        """
        self._peek = None
        is_gone = peek.waits and (self._passed is None or self._passed[0] is not peek.keyframe)
        if is_gone or self._decoder.is_through:
            return
        if not peek.has_any:
            self._try_passed()
            return
        # Charged as what looking at keyframes costs: it is a share of that, and no GOP decoded whole.
        with self._charged(Purpose.KEYFRAME):
            frames: list[FrameT] = []
            for packet, _ in dropwhile(lambda entry: entry[0] is not peek.keyframe, self._ring):
                self._working()
                frames += self._decoder.decode_through(packet)
            frames += self._decoder.finish_through()
            if peek.waits:
                frames = [frame for frame in frames if self._decoder.is_shown_from(peek.keyframe, frame)]
                self._keyframe_waited(peek, frames)
            self._peek_packets = LONG_PEEK_PACKETS if peek.show(frames, arrived_at) else PEEK_PACKETS

    def _keyframe_waited(self, peek: Peek[PacketT, FrameT, SampleT], frames: list[FrameT]) -> None:
        self._passed = None
        self._note_keyframe(peek.begun_at, is_proven=bool(frames))
        if not frames:
            return
        self._ring.drop_before(peek.keyframe)
        self._analyse(frames[0], peek.begun_at, SampleReason.KEYFRAME)
        if self._sampler.chooses_gop():
            self._begin_whole(frames[0], peek.begun_at)

    def _decode_ring(self) -> None:
        self._close(self._leading.take(), self._sampler.analysed_at)
        self._try_passed()
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
        if self._whole is not None:
            self._whole.show(frames, arrived_at)
        if frames and arrived_at > self._sampler.analysed_at:
            self._unseen = (frames[-1], arrived_at)

    def _look_at_unseen(self) -> None:
        if self._unseen is not None:
            self._analyse(*self._unseen, self._sampler.through_reason)

    def _analyse(self, frame: FrameT, arrived_at: float, reason: SampleReason) -> None:
        self._unseen = None
        self._sampler.analysed(arrived_at)
        self._output.emit(frame, arrived_at, reason)
