"""An open source: its packets, what it holds, and whether that is allowed to be decoded."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import av
import av.error
import av.logging
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streams.faults import SourceError, while_reading
from streams.frame import MAX_SIDE, MAX_TRACKS
from streams.job import Job
from streams.messages import EndCode
from streams.opening import MAX_STREAMS, PICTURE_FORMATS, OpenMedia, open_media

AnyPacket: TypeAlias = "Packet[Stream]"
"""A packet of any track; quoted, as the binding's type takes its argument only while types are checked."""

STREAM_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9"})
PICTURE_CODECS = frozenset({"png", "mjpeg", "webp"})

_LONGEST_CLAIM = 7 * 86_400 * 1_000_000
"""In microseconds: a container that says it is longer than a week says nothing."""


_LAYOUT_SECONDS = 0.5
"""How often is looked for tracks that were not there before; a look takes some 50 microseconds."""

_VIDEO_LINE = re.compile(r"^ +Stream #0:(\d+).*?: Video: (\w+)", re.MULTILINE)


_LINE_BREAK = re.compile(r"[\b\n\v\f\r]")
_MOST_TITLE_LINES = 2000


@dataclass(frozen=True, slots=True)
class VideoTrack:
    """One video track; `number` counts them from 0. A `width` and `height` of 0 are not known yet."""

    number: int
    stream: VideoStream
    codec: str
    width: int
    height: int
    frame_seconds: float
    tick_seconds: float = 1 / 90_000

    def seconds(self, ticks: int | None) -> float | None:
        """Return a time of one of its packets, which libav counts in ticks, in seconds."""
        return None if ticks is None else ticks * self.tick_seconds


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What opening a source showed, beside its tracks."""

    is_picture: bool
    open_seconds: float


class Source:
    """An open source: its video tracks, and every packet in the order of arrival. Closes as context manager.

    Each of `tracks`, at least one and at most `MAX_TRACKS`, is of a codec and a size that are allowed.
    """

    def __init__(self, media: OpenMedia, tracks: tuple[VideoTrack, ...], facts: SourceFacts) -> None:
        self._media = media
        self._container = media.container
        self.tracks = tracks
        self.facts = facts

    def packets(
        self, begin_wait: Callable[[], object] = int, end_wait: Callable[[], object] = int
    ) -> Iterator[AnyPacket]:
        """Yield the packets of all tracks until the source ends by itself; raise `SourceError` if it ends otherwise.

        It ends with `TRACKS_CHANGED` when video comes on a track that was not there at the start: the binding drops
        such packets without a word. Between `begin_wait` and `end_wait` libav may wait for the network.
        """
        layout = self.layout()
        looked_at = time.monotonic()
        try:
            demuxed = self._container.demux()
            while True:
                begin_wait()
                try:
                    packet = next(demuxed, None)
                finally:
                    end_wait()
                if packet is None:
                    break
                if packet.size:  # the last one of each track is an empty mark
                    yield _shown(packet) if packet.is_discard else packet
                if time.monotonic() - looked_at > _LAYOUT_SECONDS:
                    self._check_layout(layout)
                    looked_at = time.monotonic()
        except av.error.FFmpegError as error:
            raise while_reading(error) from None
        except IndexError:  # at its end the binding trips over tracks that came later
            pass
        self._check_layout(layout)

    def hear_all(self, *, wanted: bool) -> None:
        """Have packets of tracks that are no video come, or have libav drop them; also while one is waited for."""
        for stream in self._container.streams:
            if stream.type != "video":
                stream.discard = Discard.default if wanted else Discard.all

    def layout(self) -> Counter[tuple[str, str]]:
        """Count index and codec of each video stream that libav knows now; the binding's own list never grows.

        Read from libav's description of the container: a line of its own tells of each stream, and what a publisher
        wrote into a value cannot begin a line.
        """
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            described: str = self._container.dumps_format()  # type: ignore[attr-defined]  # not in the binding's stubs
        finally:
            av.logging.set_level(level)
        return Counter(_VIDEO_LINE.findall(described))

    def _check_layout(self, layout: Counter[tuple[str, str]]) -> None:
        if self.layout() - layout:
            raise SourceError(EndCode.TRACKS_CHANGED, "a video track came that was not there when it was opened")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._media.close()


def _shown(packet: AnyPacket) -> AnyPacket:
    """The same packet without libav's mark that its picture need not be shown, of which decoders give no frame.

    Libav marks every sample of a movie's fragments whose time is not beyond the one before, and players show those.
    """
    # A view of it and no bytes: decoders read on into what libav keeps clear behind a packet.
    copy: AnyPacket = Packet(memoryview(packet))  # type: ignore[arg-type]  # not in the binding's stubs
    copy.stream = packet.stream
    copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    copy.is_keyframe, copy.is_corrupt = packet.is_keyframe, packet.is_corrupt
    for side in packet.iter_sidedata():  # among them the parameters of what follows
        copy.set_sidedata(side)
    return copy


def open_source(job: Job, media_fd: int | None) -> Source:
    """Open the source of `job` (files: through the open descriptor `media_fd`); raise `SourceError`."""
    started_at = time.monotonic()
    media = open_media(job, media_fd, quick=True)
    if not media.container.streams.video and len(media.container.streams) < MAX_STREAMS:
        # A server that sends sound first: the quick look was too short to see the picture.
        media.close()
        media = open_media(job, media_fd, quick=False)
    container = media.container
    try:
        is_picture = container.format.name in PICTURE_FORMATS
        _check_titles(container)
        tracks = _video_tracks(container, has_covers=job.whole)
        for track in tracks:
            _check(track, PICTURE_CODECS if is_picture or _is_cover(track.stream) else STREAM_CODECS, job.max_pixels)
        check_total((track.width * track.height for track in tracks), job.max_pixels)
    except SourceError as error:
        if container.duration is not None and 0 <= container.duration < _LONGEST_CLAIM:
            error.media_seconds = container.duration / av.time_base
        media.close()
        raise
    except BaseException:
        media.close()
        raise
    return Source(media, tracks, SourceFacts(is_picture, time.monotonic() - started_at))


def _video_tracks(container: InputContainer, *, has_covers: bool) -> tuple[VideoTrack, ...]:
    """The tracks to be looked at; with `has_covers` pictures that lie beside a film are among them, but never alone."""
    streams = [stream for stream in container.streams.video if has_covers or not _is_cover(stream)]
    if len(streams) > MAX_TRACKS:
        raise SourceError(EndCode.TOO_MANY_TRACKS, f"{len(streams)} video tracks; at most {MAX_TRACKS} are looked at")
    if len(container.streams) >= MAX_STREAMS:  # there may be more, which libav left out
        raise SourceError(EndCode.TOO_MANY_TRACKS, f"it has {MAX_STREAMS} tracks or more; not all can be looked at")
    if all(map(_is_cover, streams)):
        raise SourceError(EndCode.NO_VIDEO, "it has no video track")
    if has_covers and any(stream.metadata.get("alpha_mode", "0") != "0" for stream in streams):
        raise SourceError(EndCode.CODEC, "its video is partly clear by a channel beside it, which is not decoded")
    return tuple(_video_track(number, stream) for number, stream in enumerate(streams))


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _video_track(number: int, stream: VideoStream) -> VideoTrack:
    # The binding has no context for a codec it does not know, whatever its type says.
    context: VideoCodecContext | None = getattr(stream, "codec_context", None)
    # The codec's own word first: with the quick look the container's is a guess, and twice too high.
    rate = (context and context.framerate) or stream.average_rate or stream.guessed_rate
    return VideoTrack(
        number=number,
        stream=stream,
        codec="" if context is None else context.codec.canonical_name,
        width=0 if context is None else context.width,
        height=0 if context is None else context.height,
        frame_seconds=1.0 / float(rate) if rate else 1.0 / 25,
        tick_seconds=float(stream.time_base or 1 / 90_000),
    )


def _check_titles(container: InputContainer) -> None:
    """Libav describes each line of a title by itself: looking for new tracks would take seconds."""
    titles = [
        *container.metadata.values(),
        *(text for stream in container.streams for text in stream.metadata.values()),
    ]
    lines = sum(len(_LINE_BREAK.findall(title)) for title in titles)
    if lines > _MOST_TITLE_LINES:
        raise SourceError(EndCode.NOT_MEDIA, f"its titles hold {lines} line breaks, more than {_MOST_TITLE_LINES}")


def _check(track: VideoTrack, allowed: frozenset[str], max_pixels: int) -> None:
    whose = f"video track {track.number + 1}" if track.number else "its video"
    if track.codec not in allowed:
        raise SourceError(EndCode.CODEC, f"the codec of {whose} is none of {', '.join(sorted(allowed))}")
    if is_too_large(track.width, track.height, max_pixels):
        raise resolution_refused(track.width, track.height, max_pixels)


def is_too_large(width: int, height: int, max_pixels: int) -> bool:
    """Whether pictures of this size are not looked at."""
    return width * height > max_pixels or max(width, height) > MAX_SIDE


def check_total(pixels: Iterable[int], max_pixels: int) -> None:
    """Raise `SourceError` if the tracks together are larger than twice what one may be.

    The renditions of one picture, each half the size of the one before, never are; what eight decoders hold would be.
    """
    total = sum(pixels)
    if total > 2 * max_pixels:
        what = f"its tracks have {total} pixels together, which is beyond {2 * max_pixels}"
        raise SourceError(EndCode.RESOLUTION, what)


def resolution_refused(width: int, height: int, max_pixels: int) -> SourceError:
    """Return how a picture is refused that is larger than the job allows."""
    return SourceError(EndCode.RESOLUTION, f"{width}x{height} is beyond {max_pixels} pixels")
