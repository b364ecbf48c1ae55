"""Packets to frames, and frames to fixed-size pixels."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.codec.codec import Codec
from av.codec.context import CodecContext, ThreadType
from av.error import EOFError as AvEOFError
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from streams.claims import CLAIMS
from streams.costs import Costs, Purpose
from streams.frame import MAX_SIDE, PICTURE_SIDE, PLANE_SIDE, shaped_size
from streams.lost_pictures import DEEPEST, LostPictures
from streams.source import AnyPacket, is_too_large

PLANE_INTERPOLATION = Interpolation.AREA
"""Every pixel of the frame counts in the hash plane; point sampling would let fine patterns choose what is hashed."""

PICTURE_INTERPOLATION = Interpolation.AREA
"""As near to the hash of what a view shows as bilinear scaling is, and scores alike, for two thirds of its CPU time."""

_HALFWAY_FORMATS = frozenset({"yuv420p", "yuvj420p", "nv12"})
"""What nearly all streams decode to. Such a frame is scaled once, as it is, to the size of the picture; the picture's
colours and the hash plane are taken from that. Both come as near to the means of their areas as from the frame itself
(PDQ of 150 photographs, against the reference's on the whole frame: 6.8 bits off on average either way at 1080p and
7.9 at 360p, one bit off each other), for half the CPU time."""

_WIDEST_PIXELS = 4.0
"""Nobody shows pixels that are wider or higher than that; H.264 names 160:99 as its widest but for 2:1 (table E-1)."""

_FROM_SIDE = 1080
"""Pixels of a frame's shorter side from which on 256x256 hardly shows whether edges of blocks were smoothed.

Of 24 photographs at 1080p and CRF 20 to 38 it moves no score of two models by more than 0.02 and PDQ by two or three
bits on average; at 720p and CRF 38 a score moved by 0.11.
"""

_EDGES_LEFT_IN = frozenset({"h264"})
"""Codecs measured for that."""

BROKEN = (FFmpegError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What hostile bytes raise: the binding turns many of libav's surprises into errors that are none of libav's."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """One frame in fixed size: `plane` (64, 64) uint8 full-range luma, `picture` (256, 256, 3) uint8 RGB.

    `width` and `height` are the frame's own, in pixels, as it is shown: widened as its pixels are, then rotated.
    `shaped` (height, width, 3) uint8 RGB is the same frame in its own shape, where one is asked for.
    """

    plane: NDArray[np.uint8]
    picture: NDArray[np.uint8]
    width: int
    height: int
    shaped: NDArray[np.uint8] | None = None


class PixelReader:
    """Scales decoded frames of any shape and pixel format to the two fixed sizes.

    `shaped` (short, long) asks for a picture in the frame's own shape as well: see `streams.frame.shaped_size`.
    """

    def __init__(self, shaped: tuple[int, int] = (0, 0)) -> None:
        self._shaped_sides = shaped
        self._to_shaped = VideoReformatter()
        self._shaped_to_colours = VideoReformatter()
        # One reformatter for each way: a reformatter rebuilds its tables whenever source or target changes.
        self._to_plane = VideoReformatter()
        self._to_picture = VideoReformatter()
        self._to_halfway = VideoReformatter()
        self._halfway_to_plane = VideoReformatter()

    def plane(self, frame: VideoFrame, rotation_degrees: int = 0) -> NDArray[np.uint8]:
        """Return the (64, 64) uint8 full-range luma of `frame`, turned by `rotation_degrees` counterclockwise.

        It may be a grey level off the one that `pixels` gives: the two are not for comparing with each other.
        """
        return self._plane(self._to_plane, frame, rotation_degrees)

    def _plane(self, way: VideoReformatter, frame: VideoFrame, rotation_degrees: int) -> NDArray[np.uint8]:
        small = way.reformat(
            frame,
            width=PLANE_SIDE,
            height=PLANE_SIDE,
            format="gray",
            interpolation=PLANE_INTERPOLATION,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        return _turned(_rows(small, PLANE_SIDE, PLANE_SIDE), rotation_degrees)

    def pixels(self, frame: VideoFrame, rotation_degrees: int = 0, pixel_aspect: float = 1.0) -> Pixels:
        """Return both sizes of `frame`, turned by `rotation_degrees` counterclockwise.

        Its pixels are `pixel_aspect` times as wide as they are high: that makes `width` what is shown.
        """
        halfway = self._halfway(frame)
        small = self._to_picture.reformat(
            frame if halfway is None else halfway,
            width=PICTURE_SIDE,
            height=PICTURE_SIDE,
            format="rgb24",
            interpolation=PICTURE_INTERPOLATION,
            threads=1,
        )
        picture = _rows(small, PICTURE_SIDE, PICTURE_SIDE * 3).reshape(PICTURE_SIDE, PICTURE_SIDE, 3)
        is_sideways = _quarter_turns(rotation_degrees) % 2 == 1
        shown_width = min(max(1, round(frame.width * pixel_aspect)), MAX_SIDE)
        width, height = (frame.height, shown_width) if is_sideways else (shown_width, frame.height)
        return Pixels(
            plane=self.plane(frame, rotation_degrees)
            if halfway is None
            else self._plane(self._halfway_to_plane, halfway, rotation_degrees),
            picture=_turned(picture, rotation_degrees),
            width=width,
            height=height,
            shaped=self._shaped(frame, shaped_size(*self._shaped_sides, width, height), rotation_degrees),
        )

    def _shaped(self, frame: VideoFrame, size: tuple[int, int], rotation_degrees: int) -> NDArray[np.uint8] | None:
        """The frame in `size` (width, height) as it is shown, scaled once, in its own colours where that is cheaper."""
        if not any(size):
            return None
        is_sideways = _quarter_turns(rotation_degrees) % 2 == 1
        width, height = size[::-1] if is_sideways else size
        scaled = frame
        if frame.format.name in _HALFWAY_FORMATS:
            scaled = self._to_shaped.reformat(
                frame,
                width=width,
                height=height,
                format="yuvj420p" if frame.format.name == "yuvj420p" else "yuv420p",
                interpolation=PICTURE_INTERPOLATION,
                threads=1,
            )
        coloured = self._shaped_to_colours.reformat(
            scaled, width=width, height=height, format="rgb24", interpolation=PICTURE_INTERPOLATION, threads=1
        )
        return _turned(_rows(coloured, height, width * 3).reshape(height, width, 3), rotation_degrees)

    def _halfway(self, frame: VideoFrame) -> VideoFrame | None:
        """The frame at the picture's size in its own colours and range; None where that would lose some of either."""
        if frame.format.name not in _HALFWAY_FORMATS or min(frame.width, frame.height) < PICTURE_SIDE:
            return None
        return self._to_halfway.reformat(
            frame,
            width=PICTURE_SIDE,
            height=PICTURE_SIDE,
            format="yuvj420p" if frame.format.name == "yuvj420p" else "yuv420p",
            interpolation=PICTURE_INTERPOLATION,
            threads=1,
        )


class Decoder:
    """Decodes one video track in two ways at once, each with a decoder of its own.

    `decode_alone` gives a keyframe at once: it drains the decoder after the packet, else a stream with B-frames would
    hold the picture back until two more keyframes have come. `decode_through` decodes packet after packet and is not
    disturbed by that. A packet that cannot be decoded is counted in `errors` and gives no frame; if that is because its
    pictures are larger than `max_pixels`, `refused_size` says how large. `shown_pixels` is how large the latest frame
    is. `costs` says what all of it cost; who decodes for another purpose than the method's own says so there.

    Of large pictures to which no other refers the edges of blocks are not smoothed (H.264's deblocking): that is a
    tenth of the work, and lost in scaling. To all others it is done, as a prediction may make much of little.
    """

    refused_size: tuple[int, int] | None = None
    shown_pixels: int = 0

    def __init__(self, stream: VideoStream, max_pixels: int, shaped: tuple[int, int] = (0, 0)) -> None:
        self.costs = Costs()
        self._max_pixels = max_pixels
        self._time_base = stream.time_base or Fraction(1, 90000)
        self._codec = stream.codec_context.codec
        self._extradata = stream.codec_context.extradata
        self._alone: VideoCodecContext = stream.codec_context
        self._through: VideoCodecContext | None = None
        self._spare: VideoCodecContext | None = None  # as good as new, and has the memory that pictures need
        self._rotation_degrees = 0
        self._track_aspect = stream.sample_aspect_ratio
        self._errors = 0
        self.lost = LostPictures(self._codec.canonical_name, self._extradata)
        self._depth = self._alone.reorder_depth
        self._pixel_reader = PixelReader(shaped)
        self._is_large = _is_large(stream.codec_context.width, stream.codec_context.height)
        self._set_up(self._alone, is_alone=True)

    @property
    def errors(self) -> int:
        """How many packets or frames could not be used."""
        return self._errors

    @property
    def is_through(self) -> bool:
        """Whether decoding through goes on."""
        return self._through is not None

    def note(self, packet: AnyPacket) -> None:
        """Take over new codec headers that come with `packet`, whether it is decoded or not.

        FLV sends them beside the packets, once; a decoder that skipped that packet could read nothing after it.
        """
        try:
            # Nearly every packet has no side data at all; to be asked for one kind by name costs ten times as much.
            if next(packet.iter_sidedata(), None) is not None and packet.has_sidedata("new_extradata"):
                self._extradata = bytes(packet.get_sidedata("new_extradata"))
                self._alone, self._spare = self._new_context(is_alone=True), None
        except BROKEN:
            self._errors += 1

    def decode_alone(self, packet: AnyPacket) -> VideoFrame | None:
        """Return the picture of the keyframe in `packet`, or None: not every packet flagged as keyframe holds one."""
        self.costs.keyframes += 1
        with self.costs.of(Purpose.KEYFRAME):
            frames = self._feed(self._alone, packet)
            frames += self._drain(self._alone)
            self._alone.flush_buffers()
        if not frames:
            return None
        self._rotation_degrees = frames[0].rotation
        self._note_size(frames[0])
        return frames[0]

    def decode_through(self, packet: AnyPacket) -> list[VideoFrame]:
        """Return the frames that come out when `packet` goes in; starts decoding through if it does not go on."""
        with self.costs.of(Purpose.THROUGH):
            if self._through is None:
                self._through, self._spare = self._spare or self._new_context(is_alone=False), None
            errors = self._errors
            frames = self._feed(self._through, packet)
            if self._errors == errors:
                depth = self._through.reorder_depth
                lost = self.lost.fed(memoryview(packet), len(frames), _interlaced(frames), depth=depth)
                self._note_lost(self._through, lost)
            return frames

    def finish_through(self) -> list[VideoFrame]:
        """End decoding through and return the frames that were held back for reordering."""
        context, self._through = self._through, None
        if context is None:
            return []
        with self.costs.of(Purpose.THROUGH):
            frames = self._drain(context)
            context.flush_buffers()
            self._note_lost(context, self.lost.drained(len(frames), _interlaced(frames)))
        self._spare = context
        return frames

    def is_shown_from(self, packet: AnyPacket, frame: VideoFrame) -> bool:
        """Say whether `frame` is the one in `packet`, or is shown after it; without times it counts as such."""
        return packet.pts is None or frame.pts is None or frame.pts >= packet.pts

    def pts_seconds(self, frame: VideoFrame) -> float | None:
        """Return the frame's presentation time. Drained frames carry no time base, so it is the track's."""
        return None if frame.pts is None else float(frame.pts * self._time_base)

    def plane(self, frame: VideoFrame) -> NDArray[np.uint8] | None:
        """Return the hash plane of `frame`, to tell it apart; see `PixelReader.plane`. None as with `pixels`."""
        try:
            with self.costs.of(Purpose.WHOLE):
                return self._pixel_reader.plane(frame, self._rotation(frame))
        except BROKEN:
            self._errors += 1
            return None

    def pixels(self, frame: VideoFrame) -> Pixels | None:
        """Return both sizes of `frame`; None, counted in `errors`, if it is of a kind that cannot be scaled."""
        try:
            return self._pixel_reader.pixels(frame, self._rotation(frame), self._pixel_aspect())
        except BROKEN:
            self._errors += 1
            return None

    def _rotation(self, frame: VideoFrame) -> int:
        # A container's display matrix reaches only frames of the context that was made from its track.
        return frame.rotation or self._rotation_degrees

    def _pixel_aspect(self) -> float:
        """How wide pixels are by the codec's word, else the container's; frames do not say."""
        aspect = (self._through or self._alone).sample_aspect_ratio or self._track_aspect
        return 1.0 if not aspect else min(max(float(aspect), 1 / _WIDEST_PIXELS), _WIDEST_PIXELS)

    def _note_size(self, frame: VideoFrame) -> None:
        """Take decoders that smooth what they should, where the size is on the other side of the limit by now.

        A new one knows nothing of a rotation that the container told.
        """
        is_large = _is_large(frame.width, frame.height)
        if is_large != self._is_large and not frame.rotation:
            self._is_large = is_large
            self._alone, self._spare = self._new_context(is_alone=True), None

    def _note_lost(self, context: VideoCodecContext, count: int) -> None:
        """Keep one more back where `count` were dropped as their turn was over: from then on such ones come out."""
        if count:
            self._depth = context.reorder_depth = min(context.reorder_depth + 1, DEEPEST)

    def _new_context(self, *, is_alone: bool) -> VideoCodecContext:
        context = CodecContext.create(self._codec, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = self._extradata
        context.reorder_depth = self._depth
        self._set_up(context, is_alone=is_alone)
        return context

    def _set_up(self, context: VideoCodecContext, *, is_alone: bool) -> None:
        # More threads would hold frames back and cost more in all; one process decodes one stream.
        context.thread_count = 1
        context.thread_type = ThreadType.NONE
        context.options = {"max_pixels": str(self._max_pixels)}
        if self._is_large and self._codec.canonical_name in _EDGES_LEFT_IN:
            context.options = {**context.options, "skip_loop_filter": "all" if is_alone else "noref"}

    def _feed(self, context: VideoCodecContext, packet: AnyPacket) -> list[VideoFrame]:
        try:
            return self._usable(context.decode(packet))
        except BROKEN:
            self._errors += 1
            self._check_claim(packet)
            return []

    def _drain(self, context: VideoCodecContext) -> list[VideoFrame]:
        try:
            return self._usable(context.decode(None))
        except AvEOFError:
            return []
        except BROKEN:
            self._errors += 1
            return []

    def _check_claim(self, packet: AnyPacket) -> None:
        """Libav refuses a picture that is too large with the same error as noise: ask its parser for the size."""
        width, height = _claimed_size(self._codec, self._extradata, bytes(packet))
        if is_too_large(width, height, self._max_pixels):
            self.refused_size = width, height

    def _usable(self, frames: list[VideoFrame]) -> list[VideoFrame]:
        usable = []
        for frame in frames:
            self.shown_pixels = frame.width * frame.height
            if self.shown_pixels and not is_too_large(frame.width, frame.height, self._max_pixels):
                usable.append(frame)
                continue
            self._errors += 1
            self.refused_size = frame.width, frame.height
        return usable


def _interlaced(frames: list[VideoFrame]) -> int:
    return sum(frame.interlaced_frame for frame in frames)


def _is_large(width: int, height: int) -> bool:
    return min(width, height) >= _FROM_SIDE


def _claimed_size(codec: Codec, extradata: bytes | None, packet: bytes) -> tuple[int, int]:
    """Return width and height of the pictures in `packet` as its own headers have it, (0, 0) if they do not say."""
    if codec.canonical_name in CLAIMS:
        return CLAIMS[codec.canonical_name](packet)
    context = CodecContext.create(codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = extradata
    try:
        context.parse(packet)
        context.parse(b"")
    except BROKEN:
        return 0, 0
    return context.width, context.height


def _rows(frame: VideoFrame, height: int, row_bytes: int) -> NDArray[np.uint8]:
    plane = frame.planes[0]
    padded = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return padded[:height, :row_bytes]


def _quarter_turns(rotation_degrees: int) -> int:
    return round(rotation_degrees / 90) % 4


def _turned(rows: NDArray[np.uint8], rotation_degrees: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(rows, _quarter_turns(rotation_degrees)))
