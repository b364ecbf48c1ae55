"""The only place where libav is given an address: what is opened how, and what it may not do there."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import av
from av.container.input import InputContainer

from streams.faults import SourceError, while_opening
from streams.flv_tags import FlvTags
from streams.job import Job, SourceKind
from streams.messages import UNKNOWN_FORMAT, EndCode
from streams.wholeness import check_whole

PICTURE_FORMATS = frozenset({"png_pipe", "jpeg_pipe", "webp_pipe"})

MAX_STREAMS = 32
"""How many tracks of any kind libav takes in; it leaves out the others without a word."""

_SNIFFED_BYTES = 1024
# Still pictures in a movie container: their tiles are tracks, and decoding the first would look at a corner. Browsers
# show them for what any of a file's brands says, beside whatever movie it holds.
_STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"})
_MOVIE_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})

# Decoders that libav may try while it looks for tracks; what is decoded after that is checked by its codec. Sound is
# never decoded for us, but without these a transport stream with AAC takes half a second longer to open.
_PROBED = "h264,hevc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,png,mjpeg,webp,aac,mp2float,mp3float,ac3,eac3,opus"

_OPTIONS = {
    # What a first frame waits for. With the defaults a video-only stream is probed for five seconds, in vain.
    "analyzeduration": "500000",
    "fpsprobesize": "0",
    # Of a publisher who sends no times 50 packets would be waited for, which takes a slow one longer than opening may.
    "max_ts_probe": "3",
    "max_streams": str(MAX_STREAMS),
    "codec_whitelist": _PROBED,
}
_HTTP_OPTIONS = {
    "protocol_whitelist": "http,tcp",
    "max_redirects": "0",
    "seekable": "0",
    # Also keeps an http_proxy variable of the environment out of it.
    "http_proxy": "",
}
_WHOLE_MOVIE = {
    # Everything a file holds: not every player obeys its edit list, and what one calls the pictures of its chapters is
    # a track to the next.
    "ignore_editlist": "1",
    "ignore_chapters": "1",
}
_NETWORK_OPTIONS = {
    SourceKind.RTMP: ("flv", {"protocol_whitelist": "rtmp,tcp", "format_whitelist": "flv"}),
    SourceKind.HTTP_TS: ("mpegts", {**_HTTP_OPTIONS, "format_whitelist": "mpegts"}),
    SourceKind.HTTP_FLV: ("flv", {**_HTTP_OPTIONS, "format_whitelist": "flv"}),
    SourceKind.HLS: (
        "hls",
        {
            **_HTTP_OPTIONS,
            # No https: the demuxer hands no TLS option on to what a playlist names, so nothing of it would be verified.
            "protocol_whitelist": "http,tcp,crypto",
            "format_whitelist": "hls,mpegts,mov,aac,mp3,ac3,eac3,webvtt",
            # The gate serves one request for each connection.
            "http_persistent": "0",
            "http_multiple": "0",
            "http_seekable": "0",
            # The newest segment first: what is read is read at the pace at which it is shown.
            "live_start_index": "-1",
        },
    ),
    SourceKind.RTSP: (
        "rtsp",
        {
            "protocol_whitelist": "tcp",
            "format_whitelist": "rtsp",
            # Never UDP, which would listen; never what it is tunnelled through.
            "rtsp_transport": "tcp",
            "allowed_media_types": "video",
        },
    ),
}
_AS_TAGS = (SourceKind.RTMP, SourceKind.HTTP_FLV)
"""What is read here before libav's demuxer reads it; see `streams.flv_tags`."""

_SCHEMES = {
    SourceKind.RTMP: "rtmp://",
    SourceKind.HTTP_TS: "http://",
    SourceKind.HTTP_FLV: "http://",
    SourceKind.HLS: "http://",
    SourceKind.RTSP: "rtsp://",
}


_AS_IT_COMES = {"analyzeduration": "0", "probesize": "32", "raw_packet_size": "32768"}
"""For bytes that are passed on as soon as they are there: a packet of them is what came."""

_WAITED_SECONDS = 0.002
_TOGETHER_SECONDS = 0.1
"""Nobody needs a tag sooner, and each that wakes this process by itself costs it five times as much."""


@dataclass(frozen=True, slots=True)
class OpenMedia:
    """An open container; `beneath` is where its bytes come from, if that is another one."""

    container: InputContainer
    beneath: InputContainer | None = None

    def close(self) -> None:
        """Close both."""
        self.container.close()
        if self.beneath is not None:
            self.beneath.close()


def open_media(job: Job, media_fd: int | None, *, quick: bool) -> OpenMedia:
    """Open what `job` names (files: through the open descriptor `media_fd`); raise `SourceError`.

    `quick` looks at half a second of it; without it at a second and a half, in which most servers send every track:
    with libav's own five seconds, sound alone would be told apart from a slow server far too late.
    """
    options = {**_OPTIONS, "max_pixels": str(job.max_pixels)}
    if not quick:
        options["analyzeduration"] = "1500000"
    if job.kind is SourceKind.FILE:
        url, format_name, more = _file(media_fd, is_whole=job.whole)
    elif job.kind is SourceKind.UDP:
        url, format_name, more = _socket(media_fd)
    else:
        url, format_name, more = _server(job)
    timeouts = job.open_timeout_seconds, job.read_timeout_seconds
    beneath: InputContainer | None = None
    try:
        file: str | FlvTags = url
        if job.kind in _AS_TAGS:
            raw_options = _AS_IT_COMES | more | {"format_whitelist": "data"}
            beneath = av.open(url, "r", format="data", options=raw_options, timeout=timeouts)
            file, more = FlvTags(_pieces(beneath)), {"format_whitelist": format_name}
        # One byte that is no UTF-8 in a title would else refuse the whole stream.
        container = av.open(
            file, "r", format=format_name, options=options | more, metadata_errors="replace", timeout=timeouts
        )
    except Exception as error:  # noqa: BLE001 - hostile bytes raise anything; each becomes a code, without its text
        if beneath is not None:
            beneath.close()
        raise while_opening(error) from None
    return OpenMedia(container, beneath)


def _pieces(container: InputContainer) -> Iterator[bytes]:
    """What comes, as it comes; while that is less than can be read, what comes within a moment is read together."""
    packets = container.demux()
    while True:
        asked_at = time.monotonic()
        packet = next(packets, None)
        waited_seconds = time.monotonic() - asked_at
        if packet is None:
            return
        if packet.size:
            yield bytes(packet)
        if waited_seconds > _WAITED_SECONDS:
            time.sleep(_TOGETHER_SECONDS)


def sniff(head: bytes) -> str | None:
    """Return the libav name of the format that `head`, a file's first bytes, belongs to; None if it is not allowed.

    None as well for what could be two of them, or a picture of another kind: a viewer may take it for the other one.
    """
    found = [
        name
        for is_one, name in (
            (head[4:8] in _MOVIE_BOXES, "mov"),
            (_is_transport_stream(head), "mpegts"),
            (head.startswith(b"FLV\x01"), "flv"),
            (head.startswith(b"\x1a\x45\xdf\xa3"), "matroska"),
            (head.startswith(b"\x89PNG\r\n\x1a\n"), "png_pipe"),
            (head.startswith(b"\xff\xd8\xff"), "jpeg_pipe"),
            (head[:4] == b"RIFF" and head[8:12] == b"WEBP", "webp_pipe"),
            (head.startswith((b"GIF8", b"BM")), ""),
        )
        if is_one
    ]
    return found[0] or None if len(found) == 1 and not _is_still(head) else None


def _is_still(head: bytes) -> bool:
    """Whether a movie container says that it is a still picture, too (ISO/IEC 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return False
    brands = head[8 : min(int.from_bytes(head[:4], "big"), len(head))]
    return any(brands[at : at + 4] in _STILL_BRANDS for at in range(0, len(brands), 4))


def _server(job: Job) -> tuple[str, str, dict[str, str]]:
    format_name, options = _NETWORK_OPTIONS[job.kind]
    if not job.url.startswith(_SCHEMES[job.kind]):
        raise SourceError(EndCode.REFUSED, f"a source of kind {job.kind} starts with {_SCHEMES[job.kind]}")
    url, exact = _exact_rtmp(job.url)
    more = options | exact
    if job.kind is SourceKind.HLS:
        more["http_proxy"] = f"http://127.0.0.1:{job.port}"
    elif job.origin and job.kind is SourceKind.RTMP:
        more["rtmp_tcurl"] = f"{job.origin}/{exact.get('rtmp_app') or _rtmp_app(url)}"
    elif job.origin and job.kind in (SourceKind.HTTP_TS, SourceKind.HTTP_FLV):
        more["headers"] = f"Host: {job.origin.partition('://')[2]}\r\n"
    return url, format_name, more


def _rtmp_app(url: str) -> str:
    """The application in an RTMP URL as libav reads it: one part of the path, or two where a third follows.

    libav takes the query for a part of the path.
    """
    path = urlsplit(url)._replace(scheme="", netloc="").geturl().removeprefix("/")
    first, _, rest = path.partition("/")
    second, slash, _ = rest.partition("/")
    return f"{first}/{second}" if slash and ":" not in second and first != "ondemand" else first


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


def _socket(media_fd: int | None) -> tuple[str, str, dict[str, str]]:
    if media_fd is None:
        raise SourceError(EndCode.INTERNAL, "no open socket was handed over")
    options = {"fd": str(media_fd), "protocol_whitelist": "fd", "format_whitelist": "mpegts"}
    return "fd:", "mpegts", options


def _file(media_fd: int | None, *, is_whole: bool) -> tuple[str, str, dict[str, str]]:
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
    if is_whole:
        check_whole(media_fd, format_name)
    more = _WHOLE_MOVIE if is_whole and format_name == "mov" else {}
    return "fd:", format_name, {"fd": str(media_fd), "protocol_whitelist": "fd"} | more


def _is_transport_stream(head: bytes) -> bool:
    return any(
        len(head) > start + 2 * size and all(head[start + n * size] == 0x47 for n in range(3))
        for start, size in ((0, 188), (4, 192))
    )
