"""The only place where libav is given an address: what is opened how, and what it may not do there."""

import os
from urllib.parse import parse_qsl, urlsplit

import av
from av.container.input import InputContainer

from streams.faults import SourceError, while_opening
from streams.job import Job, SourceKind
from streams.wire import UNKNOWN_FORMAT, EndCode

PICTURE_FORMATS = frozenset({"png_pipe", "jpeg_pipe", "webp_pipe"})

_SNIFFED_BYTES = 1024
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
_SCHEMES = {SourceKind.RTMP: "rtmp://", SourceKind.HTTP_TS: "http://", SourceKind.HTTP_FLV: "http://"}


def open_container(job: Job, media_fd: int | None, *, quick: bool) -> InputContainer:
    """Open what `job` names (files: through the open descriptor `media_fd`); raise `SourceError`.

    `quick` looks at half a second of it; without it libav takes its own time to find every track.
    """
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
