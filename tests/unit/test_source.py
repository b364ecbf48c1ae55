"""What is opened, what is refused, and that nothing a stranger wrote comes back in a message."""

import contextlib
import io
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import hostile_clips
from benchmarks.bitstreams import adts_frames
from benchmarks.hostile_clips import as_bytes
from benchmarks.transport import AAC, Track, TransportWriter
from streams.faults import SourceError, while_opening, while_reading
from streams.frame import MAX_TRACKS
from streams.job import Job, SandboxMode, SourceKind
from streams.opening import sniff
from streams.sampling import SamplingSettings
from streams.source import open_source
from streams.wire import EndCode
from tests.fixtures_media import Clip, MediaMaker

KEY = "secret-stream-key"


def job(kind: SourceKind, url: str = "", **changes: float) -> Job:
    limits: dict[str, Any] = {"open_timeout_seconds": 30.0, "read_timeout_seconds": 30.0} | changes
    return Job(kind, url, 0, live=False, sampling=SamplingSettings(), sandbox=SandboxMode.OFF, **limits)


@contextmanager
def on_descriptor(path: Path, content: bytes) -> Iterator[int]:
    """Give an open descriptor of a file with `content`."""
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def answering(*answers: bytes, hangs: bool = False) -> Iterator[str]:
    """Give the URL of a server that sends `answers` in turn, the last to everyone, then closes or hangs."""
    waiting = list(answers)
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(4096)
                    client.sendall(waiting.pop(0) if len(waiting) > 1 else waiting[0])
                    if hangs:
                        done.wait(10)

        thread = threading.Thread(target=serve, name="answering", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/live/{KEY}"
        finally:
            done.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def refusal(a_job: Job, fd: int | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_source(a_job, fd)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("container", ["mpegts", "flv", "mp4", "mov", "matroska", "webm"])
def test_allowed_file_is_opened_through_its_descriptor(media: MediaMaker, tmp_path: Path, container: str) -> None:
    """Every allowed container opens from a descriptor, and again, and all its packets come."""
    codec = "libvpx" if container == "webm" else "libx264"
    content = media.clip(Clip(container=container, codec=codec))
    with on_descriptor(tmp_path / "clip", content) as fd:
        for _ in range(2):
            with open_source(job(SourceKind.FILE), fd) as source:
                (track,) = source.tracks
                assert track.codec == ("vp8" if container == "webm" else "h264")
                assert (track.width, track.height) == (320, 240)
                assert track.frame_seconds == pytest.approx(1 / 30, rel=0.05)
                assert sum(1 for _ in source.packets()) == 60


@pytest.mark.parametrize(("codec", "pixel_format"), [("png", "rgb24"), ("mjpeg", "yuvj420p"), ("libwebp", "yuv420p")])
def test_picture_is_opened_as_one(media: MediaMaker, tmp_path: Path, codec: str, pixel_format: str) -> None:
    """PNG, JPEG and WebP pictures open as pictures."""
    content = media.picture(codec, media.ramp(0), pixel_format)
    with on_descriptor(tmp_path / "picture", content) as fd, open_source(job(SourceKind.FILE), fd) as source:
        assert source.facts.is_picture
        assert source.tracks[0].codec == codec.removeprefix("lib")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        b"<html>",
        bytes(4096),
    ],
)
def test_everything_else_is_no_media(tmp_path: Path, content: bytes) -> None:
    """Playlists, session descriptions, other containers and plain bytes are never handed to a parser."""
    with on_descriptor(tmp_path / "file", content) as fd:
        assert refusal(job(SourceKind.FILE), fd).code is EndCode.NOT_MEDIA


def test_pipe_is_no_media() -> None:
    """A descriptor that cannot be read from its beginning is refused in words."""
    read_end, write_end = os.pipe()
    try:
        assert refusal(job(SourceKind.FILE), read_end).code is EndCode.NOT_MEDIA
    finally:
        os.close(read_end)
        os.close(write_end)


def _movie(*brands: bytes) -> bytes:
    return (8 + 4 * len(brands)).to_bytes(4, "big") + b"ftyp" + b"".join(brands) + b"\0\0\0\x08mdat"


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xd8\xff\xe0moov" + bytes(600),
        b"RIFFmoovWEBP" + bytes(600),
        b"BM\0\0moov" + bytes(600),
        b"".join((b"G", b"\0\0\0mdat", bytes(180), b"G", bytes(187), b"G", bytes(187))),
        _movie(b"isom", bytes(4), b"mp42", b"avif"),
        _movie(b"avis", bytes(4)),
    ],
    ids=["jpeg", "webp", "bmp", "transport stream", "avif among its brands", "pictures in a row"],
)
def test_what_could_be_two_formats_is_none(head: bytes) -> None:
    """A movie to us, and a picture to whoever looks at another byte: which of them is published nobody knows."""
    assert sniff(head) is None
    assert sniff(_movie(b"isom", bytes(4), b"iso2", b"avc1", b"mp41")) == "mov"


@given(st.binary(max_size=2048))
def test_sniff_of_any_bytes_gives_an_allowed_format_or_none(head: bytes) -> None:
    """No bytes lead to a format outside the list."""
    allowed = {None, "mov", "mpegts", "flv", "matroska", "png_pipe", "jpeg_pipe", "webp_pipe"}
    assert sniff(head) in allowed
    assert sniff(b"RIFF1234WEBP" + head) == "webp_pipe"


@pytest.mark.parametrize(
    ("clip", "code"),
    [
        (Clip(codec="mpeg2video", frames=30), EndCode.CODEC),
        (Clip(codec="mpeg4", frames=30, container="mp4"), EndCode.CODEC),
        (Clip(size=(1280, 720), frames=2), EndCode.RESOLUTION),
    ],
    ids=["mpeg2", "mpeg4", "large"],
)
def test_codec_and_size_outside_the_limits_are_named(
    media: MediaMaker, tmp_path: Path, clip: Clip, code: EndCode
) -> None:
    """A codec off the list and a picture beyond the limit end with their own words, before anything is decoded."""
    with on_descriptor(tmp_path / "clip", media.clip(clip)) as fd:
        assert refusal(job(SourceKind.FILE, max_pixels=640 * 360), fd).code is code


def test_a_file_that_is_refused_still_says_how_long_it_is(media: MediaMaker, tmp_path: Path) -> None:
    """Whoever accounts for every second needs to know how many could not be seen."""
    clip = Clip(codec="mpeg4", frames=30, container="mp4")
    with on_descriptor(tmp_path / "clip", media.clip(clip)) as fd:
        assert refusal(job(SourceKind.FILE), fd).media_seconds == pytest.approx(clip.seconds, abs=0.05)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    """A file with nothing to see says so."""
    path = tmp_path / "sound.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        for number in range(50):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with on_descriptor(path, path.read_bytes()) as fd:
        assert refusal(job(SourceKind.FILE), fd).code is EndCode.NO_VIDEO


def test_every_video_track_is_told(media: MediaMaker, tmp_path: Path) -> None:
    """Each of several video tracks is there to be looked at, in its order."""
    with (
        on_descriptor(tmp_path / "clip", media.clip(Clip(tracks=2))) as fd,
        open_source(job(SourceKind.FILE), fd) as source,
    ):
        assert [(track.number, track.stream.index, track.codec) for track in source.tracks] == [
            (0, 0, "h264"),
            (1, 1, "h264"),
        ]


def test_more_tracks_than_are_looked_at_are_refused(media: MediaMaker, tmp_path: Path) -> None:
    """A container with nine video tracks, or with more tracks than libav takes in, is refused whole."""
    for content in (
        media.clip(Clip(frames=10, size=(64, 64), tracks=MAX_TRACKS + 1)),
        as_bytes(hostile_clips.many_pids()),
    ):
        with on_descriptor(tmp_path / "clip", content) as fd:
            assert refusal(job(SourceKind.FILE), fd).code is EndCode.TOO_MANY_TRACKS


def test_track_of_another_codec_beside_a_good_one_is_refused(media: MediaMaker, tmp_path: Path) -> None:
    """What a viewer may choose and nobody here can decode blinds the whole source."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        streams = [container.add_stream(codec, rate=30) for codec in ("libx264", "mpeg4")]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(stream.encode(None))
    with on_descriptor(tmp_path / "clip", buffer.getvalue()) as fd:
        refused = refusal(job(SourceKind.FILE), fd)

    assert refused.code is EndCode.CODEC
    assert "video track 2" in refused.detail


@pytest.mark.parametrize("container", ["flv", "mp4", "matroska"])
def test_title_that_is_no_utf8_does_not_refuse_a_stream(media: MediaMaker, tmp_path: Path, container: str) -> None:
    """One stray byte in a title blinds nobody."""
    content = media.clip(Clip(container=container, title="A-TITLE")).replace(b"A-TITLE", b"A-\xff\xfe\x80LE")
    assert b"\xff\xfe\x80" in content
    with on_descriptor(tmp_path / "clip", content) as fd, open_source(job(SourceKind.FILE), fd) as source:
        assert sum(1 for _ in source.packets()) == 60


def test_title_cannot_pass_for_a_track(media: MediaMaker, tmp_path: Path) -> None:
    """What looks like libav's own line about a track, written into a title, neither adds one nor ends the reading."""
    title = "x\n  Stream #0:1: Video: h264, yuv420p\r\n  Stream #0:2[0x101]: Video: hevc"
    content = media.clip(Clip(container="matroska", title=title))
    with on_descriptor(tmp_path / "clip", content) as fd, open_source(job(SourceKind.FILE), fd) as source:
        assert sum(source.layout().values()) == 1
        assert sum(1 for _ in source.packets()) == 60


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", EndCode.NOT_FOUND),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", EndCode.REFUSED),
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", EndCode.REFUSED),
        (b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n", EndCode.REFUSED),
        (b"HTTP/1.1 200 OK\r\n\r\n", EndCode.REFUSED),
        (b"", EndCode.END_OF_STREAM),
    ],
)
def test_servers_answer_becomes_a_code(answer: bytes, code: EndCode) -> None:
    """What a server says becomes one of our words, without the URL."""
    with answering(answer) as url:
        assert refusal(job(SourceKind.HTTP_TS, url)).code is code


def test_redirect_is_not_followed(media: MediaMaker) -> None:
    """A server cannot send a reader somewhere else."""
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + media.clip()) as elsewhere:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode()
        with answering(moved) as url:
            assert refusal(job(SourceKind.HTTP_TS, url)).code is EndCode.REFUSED


@pytest.mark.parametrize("kind", [SourceKind.HTTP_TS, SourceKind.HTTP_FLV])
def test_playlist_over_http_is_not_obeyed(kind: SourceKind) -> None:
    """The format of a network source is fixed: a playlist is neither a transport stream nor FLV."""
    with answering(b"HTTP/1.1 200 OK\r\n\r\n#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n") as url:
        assert refusal(job(kind, url)).code in (EndCode.REFUSED, EndCode.NOT_MEDIA)


def _chunked(content: bytes) -> bytes:
    pieces = (content[start : start + 4096] for start in range(0, len(content), 4096))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize(
    ("headers", "framed"),
    [
        (b"Content-Type: video/x-flv\r\nConnection: close", bytes),
        # As SRS sends it by its source (srs_app_http_stream.cpp, srs_kernel_flv.cpp); never run against a real SRS.
        (b"Connection: Keep-Alive\r\nContent-Type: video/x-flv\r\nServer: SRS\r\nTransfer-Encoding: chunked", _chunked),
    ],
)
def test_flv_over_http_is_opened_whatever_its_header_promises(
    media: MediaMaker, headers: bytes, framed: Callable[[bytes], bytes]
) -> None:
    """Servers that announce sound and video in every FLV header, SRS and node-media-server, are read all the same."""
    content = media.clip(Clip(container="flv"))
    promising = framed(content[:4] + b"\x05" + content[5:])
    with (
        answering(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n" + promising) as url,
        open_source(job(SourceKind.HTTP_FLV, url), None) as source,
    ):
        assert (source.tracks[0].codec, source.tracks[0].width) == ("h264", 320)
        packets = source.packets()
        assert sum(1 for _ in itertools.islice(packets, 50)) == 50
        with contextlib.suppress(SourceError):  # without a length nobody can tell an end from a breakdown
            list(packets)


def test_a_transport_stream_is_no_flv(media: MediaMaker) -> None:
    """A wrong format in the config is said, not guessed around."""
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + media.clip()) as url:
        assert refusal(job(SourceKind.HTTP_FLV, url)).code in (EndCode.REFUSED, EndCode.NOT_MEDIA)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_silent_server_times_out(answer: bytes) -> None:
    """A server that says nothing, or nothing more, is left after the timeout."""
    with answering(answer, hangs=True) as url:
        assert refusal(job(SourceKind.HTTP_TS, url, open_timeout_seconds=0.3)).code is EndCode.TIMEOUT


def test_closed_port_is_refused() -> None:
    """A port where nobody listens is a refusal."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for kind, url in (
        (SourceKind.HTTP_TS, f"http://127.0.0.1:{port}/{KEY}"),
        (SourceKind.HTTP_FLV, f"http://127.0.0.1:{port}/{KEY}.flv"),
        (SourceKind.RTMP, f"rtmp://127.0.0.1:{port}/live/{KEY}"),
    ):
        assert refusal(job(kind, url)).code is EndCode.REFUSED


@pytest.mark.parametrize("url", ["file:/etc/passwd", "/etc/passwd", "concat:/etc/passwd", "https://127.0.0.1/x"])
@pytest.mark.parametrize("kind", [SourceKind.HTTP_TS, SourceKind.HTTP_FLV, SourceKind.RTMP])
def test_url_of_another_scheme_is_refused(kind: SourceKind, url: str) -> None:
    """A URL is only ever what its kind says."""
    assert refusal(job(kind, url)).code is EndCode.REFUSED


@pytest.mark.parametrize("error", [IndexError(KEY), AttributeError(KEY), UnicodeDecodeError("utf-8", b"", 0, 1, KEY)])
def test_bindings_own_errors_become_codes_without_their_text(error: Exception) -> None:
    """Errors that the binding raises on broken files are refusals like any other."""
    refused = while_opening(error)

    assert refused.code is EndCode.NOT_MEDIA
    assert KEY not in refused.detail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(5, KEY), EndCode.END_OF_STREAM),
        (ConnectionResetError(104, KEY), EndCode.END_OF_STREAM),
        (av.error.ExitError(1414092869, KEY), EndCode.TIMEOUT),
        (TimeoutError(110, KEY), EndCode.TIMEOUT),
        (MemoryError(), EndCode.OUT_OF_MEMORY),
        (av.error.InvalidDataError(1094995529, KEY), EndCode.NOT_MEDIA),
    ],
)
def test_error_while_reading_becomes_a_code(error: Exception, code: EndCode) -> None:
    """A server that closes ends a stream; silence is a timeout; neither names the URL."""
    ended = while_reading(error)

    assert ended.code is code
    assert KEY not in ended.detail


def test_source_that_is_gone_at_the_second_look_is_told_as_such() -> None:
    """A publisher who left between the look that found only sound and the second look is no fault of the reader."""
    writer = TransportWriter([Track(0x100, AAC)])
    sound = writer.tables() + writer.pes(0x100, adts_frames(10), 0.0)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with answering(head + sound, gone) as url, pytest.raises(SourceError) as caught:
        open_source(job(SourceKind.HTTP_TS, url), None)

    assert caught.value.code is EndCode.NOT_FOUND
