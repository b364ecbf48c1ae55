"""Opens one source safely: the only place where libav is given an address."""

import errno
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import av
import av.error
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streams.job import Job, SourceKind
from streams.wire import UNKNOWN_FORMAT, EndCode

AnyPacket: TypeAlias = "Packet[Stream]"
"""A packet of any track; quoted, as the binding's type takes its argument only while types are checked."""

STREAM_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9"})
PICTURE_CODECS = frozenset({"png", "mjpeg", "webp"})

_SNIFFED_BYTES = 1024
_PICTURE_FORMATS = frozenset({"png_pipe", "jpeg_pipe", "webp_pipe"})
# Still pictures in a movie container: their tiles are tracks, and decoding the first would look at a corner.
_STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"})
_MOVIE_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})

_OPTIONS = {
    # What a first frame waits for. With the defaults a video-only stream is probed for five seconds, in vain.
    "analyzeduration": "500000",
    "fpsprobesize": "0",
    "max_streams": "32",
}
_HTTP_OPTIONS = {
    "protocol_whitelist": "http,tcp",
    "max_redirects": "0",
    "seekable": "0",
    # Also keeps an http_proxy variable of the environment out of it.
    "http_proxy": "",
}
_NETWORK_OPTIONS = {
    SourceKind.RTMP: ("flv", {"protocol_whitelist": "rtmp,tcp", "format_whitelist": "flv"}),
    SourceKind.HTTP_TS: ("mpegts", {**_HTTP_OPTIONS, "format_whitelist": "mpegts"}),
    SourceKind.HTTP_FLV: ("flv", {**_HTTP_OPTIONS, "format_whitelist": "flv"}),
}
_Faults = tuple[tuple[tuple[type[BaseException], ...], EndCode, str], ...]
_SLOW = (av.error.ExitError, TimeoutError)  # ExitError is how the binding's own timeout shows, and no TimeoutError
_OPENING_FAULTS: _Faults = (
    (_SLOW, EndCode.TIMEOUT, "nothing that could be opened came in time"),
    ((MemoryError,), EndCode.OUT_OF_MEMORY, "the source needs more memory than its reader may take"),
    ((av.error.HTTPNotFoundError,), EndCode.NOT_FOUND, "the server has no such stream"),
    ((av.error.HTTPError, av.error.HTTPClientError), EndCode.REFUSED, "the server answered with an error"),
    ((ConnectionError,), EndCode.REFUSED, "the server refused the connection"),
    # nginx-rtmp's answer for a stream that nobody publishes
    ((PermissionError,), EndCode.NOT_FOUND, "the server does not let this stream be played"),
    ((EOFError,), EndCode.END_OF_STREAM, "it ended before anything could be opened"),
)
_READING_FAULTS: _Faults = (
    (_SLOW, EndCode.TIMEOUT, "no bytes came in time"),
    ((MemoryError,), EndCode.OUT_OF_MEMORY, "the stream needs more memory than its reader may take"),
    ((EOFError, ConnectionError), EndCode.END_OF_STREAM, "the server closed the connection"),
)
_SCHEMES = {SourceKind.RTMP: "rtmp://", SourceKind.HTTP_TS: "http://", SourceKind.HTTP_FLV: "http://"}


_LONGEST_CLAIM = 7 * 86_400 * 1_000_000
"""In microseconds: a container that says it is longer than a week says nothing."""


class SourceError(Exception):
    """Raised by `open_source` and `Source.packets`: nothing (more) can be read; the source is closed.

    `detail` is made of our own words: what a server or a file said could hold a key, or lines for a log.
    `media_seconds` is how long a file that is media, but not for us, says that it is; NaN where it does not say.
    """

    def __init__(self, code: EndCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.media_seconds = math.nan


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
    container = _open(job, media_fd, quick=True)
    try:
        if not container.streams.video:
            # A server that sends sound first: the quick look was too short to see the picture.
            container.close()
            container = _open(job, media_fd, quick=False)
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


def sniff(head: bytes) -> str | None:
    """Return the libav name of the format that `head`, a file's first bytes, belongs to; None if it is not allowed."""
    if head[4:8] in _MOVIE_BOXES:
        return None if head[8:12] in _STILL_BRANDS else "mov"
    if _is_transport_stream(head):
        return "mpegts"
    for magic, name in (
        (b"FLV\x01", "flv"),
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"\x89PNG\r\n\x1a\n", "png_pipe"),
        (b"\xff\xd8\xff", "jpeg_pipe"),
    ):
        if head.startswith(magic):
            return name
    return "webp_pipe" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def while_opening(error: Exception) -> SourceError:
    """Return what a failure to open means to an operator."""
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return SourceError(EndCode.REFUSED, "the server closed the connection, redirected it or sent nothing")
    for kinds, code, detail in _OPENING_FAULTS:
        if isinstance(error, kinds):
            return SourceError(code, detail)
    # Broken files also end in IndexError, AttributeError and UnicodeDecodeError from the binding.
    return SourceError(EndCode.NOT_MEDIA, f"no media that can be opened ({type(error).__name__})")


def while_reading(error: Exception) -> SourceError:
    """Return what a failure after the first packet means to an operator."""
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return SourceError(EndCode.END_OF_STREAM, "the server closed the connection")
    for kinds, code, detail in _READING_FAULTS:
        if isinstance(error, kinds):
            return SourceError(code, detail)
    return SourceError(EndCode.NOT_MEDIA, f"what came is no media any more ({type(error).__name__})")


def _open(job: Job, media_fd: int | None, *, quick: bool) -> InputContainer:
    options = {**_OPTIONS, "max_pixels": str(job.max_pixels)}
    if not quick:
        del options["analyzeduration"]
    if job.kind is SourceKind.FILE:
        url, format_name, more = _file(media_fd)
    else:
        url = job.url
        format_name, more = _NETWORK_OPTIONS[job.kind]
        if not url.startswith(_SCHEMES[job.kind]):
            raise SourceError(EndCode.REFUSED, f"a source of kind {job.kind} starts with {_SCHEMES[job.kind]}")
        url, exact = _exact_rtmp(url)
        more = more | exact
    try:
        return av.open(
            url,
            "r",
            format=format_name,
            options=options | more,
            # One byte that is no UTF-8 in a title would else refuse the whole stream.
            metadata_errors="replace",
            timeout=(job.open_timeout_seconds, job.read_timeout_seconds),
        )
    except Exception as error:  # noqa: BLE001 - hostile bytes raise anything; each becomes a code, without its text
        raise while_opening(error) from None


def _exact_rtmp(url: str) -> tuple[str, dict[str, str]]:
    """Of `rtmp://HOST:PORT/?app=APP&playpath=KEY`, both percent-encoded, the bare address and libav's options.

    libav's own reading of a path ends a key at a space, cuts it at the wrong slash, drops a last `.flv` and puts `mp4:`
    before one that ends in `.mp4`: whoever chose such a key would be watched nowhere. Other URLs stay as they are.
    """
    parts = urlsplit(url)
    named = dict(parse_qsl(parts.query)) if parts.scheme == "rtmp" and parts.path == "/" else {}
    if named.keys() != {"app", "playpath"}:
        return url, {}
    return f"rtmp://{parts.netloc}/", {"rtmp_app": named["app"], "rtmp_playpath": named["playpath"]}


def _file(media_fd: int | None) -> tuple[str, str, dict[str, str]]:
    if media_fd is None:
        raise SourceError(EndCode.INTERNAL, "no open file was handed over")
    try:
        head = os.pread(media_fd, _SNIFFED_BYTES, 0)
        os.lseek(media_fd, 0, os.SEEK_SET)
    except OSError:
        raise SourceError(EndCode.NOT_MEDIA, "only regular files can be read") from None
    format_name = sniff(head)
    if format_name is None:
        raise SourceError(EndCode.NOT_MEDIA, UNKNOWN_FORMAT)
    return "fd:", format_name, {"fd": str(media_fd), "protocol_whitelist": "fd"}


def _is_transport_stream(head: bytes) -> bool:
    return any(
        len(head) > start + 2 * size and all(head[start + n * size] == 0x47 for n in range(3))
        for start, size in ((0, 188), (4, 192))
    )


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
        is_picture=container.format.name in _PICTURE_FORMATS,
        frame_seconds=1.0 / float(rate) if rate else 1.0 / 25,
        open_seconds=time.monotonic() - started_at,
    )


def _check(facts: SourceFacts, max_pixels: int) -> None:
    allowed = PICTURE_CODECS if facts.is_picture else STREAM_CODECS
    if facts.codec not in allowed:
        raise SourceError(EndCode.CODEC, f"its codec is none of {', '.join(sorted(allowed))}")
    if facts.width * facts.height > max_pixels:
        raise SourceError(EndCode.RESOLUTION, f"{facts.width}x{facts.height} is beyond {max_pixels} pixels")
