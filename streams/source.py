"""An open source: its packets, what it holds, and whether that is allowed to be decoded."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import av
import av.error
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streams.faults import SourceError, while_reading
from streams.job import Job
from streams.opening import PICTURE_FORMATS, open_container
from streams.wire import EndCode

AnyPacket: TypeAlias = "Packet[Stream]"
"""A packet of any track; quoted, as the binding's type takes its argument only while types are checked."""

STREAM_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9"})
PICTURE_CODECS = frozenset({"png", "mjpeg", "webp"})

_LONGEST_CLAIM = 7 * 86_400 * 1_000_000
"""In microseconds: a container that says it is longer than a week says nothing."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What opening a source showed. `video_tracks` above 1 means that viewers may see what nobody here looks at."""

    codec: str
    width: int
    height: int
    video_tracks: int
    is_picture: bool
    frame_seconds: float
    open_seconds: float


class Source:
    """An open source: its first video track, and every packet in the order of arrival. Closes as context manager."""

    def __init__(self, container: InputContainer, stream: VideoStream, facts: SourceFacts) -> None:
        self._container = container
        self.stream = stream
        self.facts = facts

    def packets(self) -> Iterator[AnyPacket]:
        """Yield the packets of all tracks until the source ends by itself; raise `SourceError` if it ends otherwise."""
        try:
            for packet in self._container.demux():
                if packet.size:  # the last one of each track is an empty mark
                    yield packet
        except av.error.FFmpegError as error:
            raise while_reading(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._container.close()


def open_source(job: Job, media_fd: int | None) -> Source:
    """Open the source of `job` (files: through the open descriptor `media_fd`); raise `SourceError`."""
    started_at = time.monotonic()
    container = open_container(job, media_fd, quick=True)
    try:
        if not container.streams.video:
            # A server that sends sound first: the quick look was too short to see the picture.
            container.close()
            container = open_container(job, media_fd, quick=False)
        stream, tracks = _video_track(container)
        facts = _facts(container, stream, tracks, started_at)
        _check(facts, job.max_pixels)
    except SourceError as error:
        if container.duration is not None and 0 <= container.duration < _LONGEST_CLAIM:
            error.media_seconds = container.duration / av.time_base
        container.close()
        raise
    except BaseException:
        container.close()
        raise
    return Source(container, stream, facts)


def _video_track(container: InputContainer) -> tuple[VideoStream, int]:
    tracks = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not tracks:
        raise SourceError(EndCode.NO_VIDEO, "it has no video track")
    return tracks[0], len(tracks)


def _facts(container: InputContainer, stream: VideoStream, tracks: int, started_at: float) -> SourceFacts:
    # The binding has no context for a codec it does not know, whatever its type says.
    context: VideoCodecContext | None = getattr(stream, "codec_context", None)
    # The codec's own word first: with the quick look the container's is a guess, and twice too high.
    rate = (context and context.framerate) or stream.average_rate or stream.guessed_rate
    return SourceFacts(
        codec="" if context is None else context.codec.canonical_name,
        width=0 if context is None else context.width,
        height=0 if context is None else context.height,
        video_tracks=tracks,
        is_picture=container.format.name in PICTURE_FORMATS,
        frame_seconds=1.0 / float(rate) if rate else 1.0 / 25,
        open_seconds=time.monotonic() - started_at,
    )


def _check(facts: SourceFacts, max_pixels: int) -> None:
    allowed = PICTURE_CODECS if facts.is_picture else STREAM_CODECS
    if facts.codec not in allowed:
        raise SourceError(EndCode.CODEC, f"its codec is none of {', '.join(sorted(allowed))}")
    if facts.width * facts.height > max_pixels:
        raise SourceError(EndCode.RESOLUTION, f"{facts.width}x{facts.height} is beyond {max_pixels} pixels")
