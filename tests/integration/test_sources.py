"""Every kind of source, read from inside the whole cage: names, TLS, the gate, UDP, RTSP, and SRT through a relay."""

import asyncio
import base64
import contextlib
import io
import itertools
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from benchmarks.loopback import serving
from benchmarks.ports import free_port
from streams import address
from streams.address import SourceUnreachable
from streams.job import Job, SourceKind
from streams.keeper import Nursery
from streams.reach import reach
from streams.sampling import SamplingSettings
from streams.wire import EndCode
from tests.fixtures_media import Clip, MediaMaker
from tests.fixtures_web import MakeAuthority, Page, Seen, Web, command, look, source_job

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage]

Look = Callable[..., Awaitable[Seen]]


@pytest.fixture
async def look_at() -> AsyncIterator[Look]:
    """Return what reads a job in a cage."""
    async with Nursery("streams.reader:main", silences_children=True) as nursery:

        async def one(job: Job, *, frames: int = 1) -> Seen:
            async with asyncio.timeout(20):
                return await look(nursery, job, frames=frames)

        yield one


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every name that ends in .test mean this machine."""
    real = address._addresses

    async def addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host.endswith(".test") else await real(host, port)

    monkeypatch.setattr(address, "_addresses", addresses)


def hls(media: MediaMaker, *names: str) -> dict[str, Page | bytes]:
    """A playlist `/live/a.m3u8` of one second for each of `names`, and the segment that they all mean."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", "#EXT-X-PLAYLIST-TYPE:VOD"]
    lines += [line for name in names for line in ("#EXTINF:1.0,", name)] + ["#EXT-X-ENDLIST", ""]
    return {"/live/a.m3u8": "\n".join(lines).encode(), "/live/a.ts": media.clip(Clip(frames=30, gop=15))}


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("container", ["mpegts", "flv"])
async def test_a_server_is_called_by_the_name_in_the_url(media: MediaMaker, look_at: Look, container: str) -> None:
    """Many sites share an address: the reader goes to the address, and asks for the site by its name."""
    kind = SourceKind.HTTP_TS if container == "mpegts" else SourceKind.HTTP_FLV
    with Web({"/live": media.clip(Clip(container=container))}) as web:
        seen = await look_at(source_job(kind, f"http://media.test:{web.port}/live?key=1"))
        assert (seen.codec, len(seen.frames)) == ("h264", 1)
        assert [(one.path, one.host) for one in web.asked] == [("/live?key=1", f"media.test:{web.port}")]


@pytest.mark.needs_openssl
@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("kind", [SourceKind.HTTP_TS, SourceKind.HLS])
async def test_tls_is_verified(
    kind: SourceKind, media: MediaMaker, look_at: Look, make_authority: MakeAuthority
) -> None:
    """A stream over TLS is read when the server proves the URL's name, and else refused with what to do."""
    authority = make_authority("DNS:media.test")
    path = "/live/a.ts" if kind is SourceKind.HTTP_TS else "/live/a.m3u8"
    with Web(hls(media, "a.ts"), authority.server()) as web, Web(hls(media, "a.ts")) as clear:
        trusted = {"ca_file": str(authority.ca_file)}
        seen = await look_at(source_job(kind, f"https://media.test:{web.port}{path}", **trusted))
        assert seen.codec == "h264"
        assert {(one.host, one.server_name) for one in web.asked} == {(f"media.test:{web.port}", "media.test")}

        asked = len(web.asked)
        for url, changes, remedy in [
            (f"https://media.test:{web.port}{path}", {}, "under ca_file"),
            (f"https://other.test:{web.port}{path}", trusted, "for another name"),
            (f"https://127.0.0.1:{web.port}{path}", trusted, "for another name"),
            (f"https://media.test:{clear.port}{path}", trusted, "does not speak TLS"),
            (f"https://media.test:{web.port}{path}", {"ca_file": "/nothing/here.pem"}, "PEM file"),
        ]:
            with pytest.raises(SourceUnreachable, match=remedy):
                await look_at(source_job(kind, url, **changes))
        assert len(web.asked) == asked


@pytest.mark.needs_openssl
async def test_a_certificate_may_be_for_an_address(
    media: MediaMaker, look_at: Look, make_authority: MakeAuthority
) -> None:
    """A server without a name proves its address."""
    authority = make_authority("IP:127.0.0.1")
    with Web({"/a.ts": media.clip()}, authority.server()) as web:
        url = f"https://127.0.0.1:{web.port}/a.ts"
        seen = await look_at(source_job(SourceKind.HTTP_TS, url, ca_file=str(authority.ca_file)))
        assert seen.codec == "h264"


@pytest.mark.needs_openssl
@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_what_a_playlist_names_is_verified_as_its_server_was(
    media: MediaMaker, look_at: Look, make_authority: MakeAuthority, *, is_chunked: bool
) -> None:
    """Whole https URLs in a playlist are read over verified TLS; another host's, or the same without TLS, are not."""
    authority, forged = make_authority("DNS:media.test"), make_authority("DNS:media.test")
    with Web({}, authority.server()) as web, Web(hls(media), forged.server()) as forger, Web(hls(media)) as clear:
        web.pages |= hls(
            media,
            f"https://media.test:{web.port}/live/a.ts?1",
            f"https://media.test:{forger.port}/live/a.ts",
            f"http://media.test:{clear.port}/live/a.ts",
            f"HTTPS://media.test:{web.port}/live/a.ts?2",
        )
        playlist = web.pages["/live/a.m3u8"]
        assert isinstance(playlist, bytes)
        web.pages["/live/a.m3u8"] = Page(playlist, is_chunked=is_chunked)
        job = source_job(SourceKind.HLS, f"https://media.test:{web.port}/live/a.m3u8", ca_file=str(authority.ca_file))
        seen = await look_at(job, frames=1000)
        assert (seen.codec, seen.refusals) == ("h264", 2)
        assert [one.path for one in web.asked] == ["/live/a.m3u8", "/live/a.ts?1", "/live/a.ts?2"]
        assert forger.connections == clear.connections == 0


@pytest.mark.needs_openssl
@pytest.mark.usefixtures("names")
async def test_who_takes_a_servers_place_later_is_not_read(
    media: MediaMaker, look_at: Look, make_authority: MakeAuthority
) -> None:
    """Every connection is verified: who forges the segments after a true playlist is not read, and counted."""
    authority, forged = make_authority("DNS:media.test"), make_authority("DNS:media.test")

    class TakenOver(dict[str, Page | bytes]):
        def get(self, path: str, default: object = None) -> Page | bytes:  # type: ignore[override]
            web.tls = forged.server()
            return super().get(path, Page(status=404))

    with Web({}, authority.server()) as web:
        web.pages = TakenOver(hls(media, "a.ts", "a.ts?2"))
        job = source_job(SourceKind.HLS, f"https://media.test:{web.port}/live/a.m3u8", ca_file=str(authority.ca_file))
        seen = await look_at(job)
        assert [one.path for one in web.asked] == ["/live/a.m3u8"]
    assert (seen.opened, seen.frames) == (None, [])
    assert seen.refusals > 0


async def test_a_segment_is_looked_at_as_it_is_shown(media: MediaMaker, look_at: Look) -> None:
    """Four seconds of HLS that come at once are sampled over their four seconds, as a stream's would be."""
    pages = hls(media, "long.ts") | {"/live/long.ts": media.clip(Clip(frames=120, gop=15))}
    with Web(pages) as web:
        url = f"http://127.0.0.1:{web.port}/live/a.m3u8"
        seen = await look_at(source_job(SourceKind.HLS, url, sampling=SamplingSettings(1.0, 0.5)), frames=1000)
    shown = sorted({frame.pts_seconds or 0.0 for frame in seen.frames})
    assert all(after - before <= 1.0 for before, after in itertools.pairwise(shown))
    assert shown[-1] - shown[0] > 2.5
    assert seen.frames[-1].arrived_at - seen.frames[0].arrived_at > 2.5


async def test_every_variant_of_a_playlist_is_a_track(media: MediaMaker, look_at: Look) -> None:
    """Where all are asked for, what a viewer may be shown at another quality is looked at, too."""
    pages = hls(media, "a.ts") | {"/live/small.ts": media.clip(Clip(frames=30, gop=15, size=(160, 120)))}
    pages["/live/b.m3u8"] = bytes(pages["/live/a.m3u8"]).replace(b"a.ts", b"small.ts")  # type: ignore[arg-type]
    variants = (
        b"#EXT-X-STREAM-INF:BANDWIDTH=%d\n%b\n" % (rate, name) for rate, name in ((9, b"a.m3u8"), (5, b"b.m3u8"))
    )
    with Web({**pages, "/live/master.m3u8": b"#EXTM3U\n" + b"".join(variants)}) as web:
        job = source_job(SourceKind.HLS, f"http://127.0.0.1:{web.port}/live/master.m3u8", all_renditions=True)
        seen = await look_at(job, frames=1000)
    assert {(frame.track, frame.width) for frame in seen.frames} == {(0, 320), (1, 160)}


@pytest.mark.needs_openssl
@pytest.mark.needs_ffmpeg
@pytest.mark.usefixtures("names")
async def test_rtmps_is_rtmp_whose_server_proved_its_name(
    media: MediaMaker, look_at: Look, make_authority: MakeAuthority, tmp_path: Path
) -> None:
    """Behind the TLS that ends in the gate, RTMP works, and the server hears which host it was asked for."""
    authority = make_authority("DNS:media.test")
    clip = tmp_path / "clip.flv"
    clip.write_bytes(media.clip(Clip(frames=300, container="flv")))
    port = free_port()
    with command(
        "ffmpeg", "-re", "-i", str(clip), "-c", "copy", "-f", "flv", "-listen", "1", f"rtmp://127.0.0.1:{port}/a/b"
    ):
        await until_open(port)
        heard = bytearray()
        async with tls_in_front(authority.server(), port, heard) as tls_port:
            job = source_job(SourceKind.RTMP, f"rtmps://media.test:{tls_port}/a/b", ca_file=str(authority.ca_file))
            seen = await look_at(job)
    assert (seen.codec, len(seen.frames)) == ("h264", 1)
    assert f"rtmps://media.test:{tls_port}/a".encode() in heard


async def until_open(port: int) -> None:
    """Wait until the kernel lists a listener, without connecting to it: it takes one connection only."""
    wanted = f":{port:04X} 00000000:0000 0A"
    while wanted not in Path("/proc/net/tcp").read_text():
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def tls_in_front(context: ssl.SSLContext, port: int, heard: bytearray) -> AsyncIterator[int]:
    """Speak TLS in front of `port`; connects only when the first bytes come. Gives its own port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        if not first:
            return
        onward, back = await asyncio.open_connection("127.0.0.1", port)
        heard.extend(first)
        back.write(first)
        returning = asyncio.create_task(copy(onward, writer, bytearray()))
        try:
            await copy(reader, back, heard)
        finally:
            returning.cancel()
            await asyncio.gather(returning, return_exceptions=True)
            back.transport.abort()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: bytearray) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                note.extend(block)
                writer.write(block)
                await writer.drain()

    async with serving(serve, tls=context) as own_port:
        yield own_port


@pytest.mark.parametrize("group", ["127.0.0.1", "239.255.77.1"])
async def test_a_transport_stream_comes_by_udp(media: MediaMaker, look_at: Look, group: str) -> None:
    """The service listens and hands the socket over: the reader has no network at all. Silence is a timeout."""
    clip = media.clip(Clip(frames=60, gop=15))
    port = free_port(socket.SOCK_DGRAM)
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            for start in itertools.cycle(range(0, len(clip), 1316)):
                with contextlib.suppress(OSError):
                    sender.sendto(clip[start : start + 1316], (group, port))
                if stop.wait(0.003):
                    return

    job = source_job(SourceKind.UDP, f"udp://{group}:{port}", read_timeout_seconds=0.5, open_timeout_seconds=1.0)
    thread = threading.Thread(target=send, name="sender")
    thread.start()
    try:
        seen = await look_at(job, frames=2)
        assert (seen.codec, len(seen.frames)) == ("h264", 2)
        assert seen.opened is not None
        assert seen.opened.limits_network
    finally:
        stop.set()
        thread.join()
    quiet = await look_at(job)
    assert quiet.ended is not None
    assert quiet.ended.code is EndCode.TIMEOUT


async def test_a_udp_port_that_is_taken_is_said() -> None:
    """The sentence names the remedy; nothing is left open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        job = source_job(SourceKind.UDP, f"udp://127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(SourceUnreachable, match="a port that is free"):
            async with reach(job):
                pass


class RtspServer:
    """The least of an RTSP server: describes one H.264 track and sends it inside the connection, or redirects."""

    def __init__(self, clip: bytes = b"", redirect: str = "") -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.asked: list[str] = []
        self._redirect = redirect
        self._nals = [bytes(packet) for packet in self._packets(clip)] if clip else []

    @contextmanager
    def serving(self) -> Iterator["RtspServer"]:
        """Serve until the block ends."""
        threading.Thread(target=self._accept, name="rtsp", daemon=True).start()
        try:
            yield self
        finally:
            self._socket.close()

    def _packets(self, clip: bytes) -> Iterator[bytes]:
        with av.open(io.BytesIO(clip)) as container:
            for packet in container.demux(video=0):
                yield from (nal for nal in bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if nal)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                with client, contextlib.suppress(OSError):
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        received = b""
        while block := client.recv(4096):
            received += block
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                method, url, _ = head.decode().split("\r\n")[0].split()
                self.asked.append(f"{method} {url}")
                number = next(line for line in head.decode().split("\r\n") if line.lower().startswith("cseq"))
                client.sendall(self._answer(method, number))
                if method == "PLAY":
                    self._play(client)
                    return

    def _answer(self, method: str, number: str) -> bytes:
        if self._redirect and method == "DESCRIBE":
            return f"RTSP/1.0 302 Moved\r\n{number}\r\nLocation: {self._redirect}\r\n\r\n".encode()
        body, more = "", ""
        if method == "DESCRIBE":
            sets = ",".join(base64.b64encode(nal).decode() for nal in self._nals if nal[0] & 31 in (7, 8))
            body = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                f"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\n"
                "a=control:track1\r\n"
            )
            more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            more = "Session: 1\r\n"
        return f"RTSP/1.0 200 OK\r\n{number}\r\n{more}\r\n{body}".encode()

    def _play(self, client: socket.socket) -> None:
        numbers = itertools.count()
        stamp = 0
        for nal in self._nals * 3:
            pieces = [nal] if len(nal) < 1200 else list(self._fragments(nal))
            for place, piece in enumerate(pieces):
                is_last = nal[0] & 31 in (1, 5) and place == len(pieces) - 1
                head = bytes([0x80, 96 | 128 * is_last]) + (next(numbers) & 0xFFFF).to_bytes(2, "big")
                packet = head + stamp.to_bytes(4, "big") + b"\0\0\0\1" + piece
                client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
            stamp += 3000 * (nal[0] & 31 in (1, 5))

    def _fragments(self, nal: bytes) -> Iterator[bytes]:
        """RFC 6184, 5.8: FU-A."""
        starts = range(1, len(nal), 1200)
        for start in starts:
            flags = 0x80 * (start == 1) | 0x40 * (start == starts[-1])
            yield bytes([nal[0] & 0xE0 | 28, flags | nal[0] & 31]) + nal[start : start + 1200]


async def test_rtsp_is_read_over_tcp_where_it_is_allowed(media: MediaMaker, look_at: Look) -> None:
    """RTSP works inside one connection through the gate; without the operator's word it is not even connected to."""
    with RtspServer(media.clip(Clip(frames=60, gop=15))).serving() as server:
        url = f"rtsp://127.0.0.1:{server.port}/cam"
        with pytest.raises(SourceUnreachable, match=r"set reader\.allow_rtsp"):
            await look_at(source_job(SourceKind.RTSP, url))
        assert server.asked == []
        seen = await look_at(source_job(SourceKind.RTSP, url, allow_rtsp=True))
        assert (seen.codec, len(seen.frames)) == ("h264", 1)
        assert [line.split()[0] for line in server.asked] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]


async def test_rtsp_cannot_be_sent_elsewhere(media: MediaMaker, look_at: Look) -> None:
    """Libav follows a redirect to any address; the cage and the gate end at the server that the operator named."""
    with RtspServer(media.clip(Clip(frames=60))).serving() as internal:
        target = f"rtsp://127.0.0.1:{internal.port}/cam"
        with RtspServer(redirect=target).serving() as hostile:
            with av.open(f"rtsp://127.0.0.1:{hostile.port}/cam", options={"rtsp_transport": "tcp"}) as naive:
                assert naive.streams.video
            asked = len(internal.asked)
            assert asked > 0
            seen = await look_at(source_job(SourceKind.RTSP, f"rtsp://127.0.0.1:{hostile.port}/cam", allow_rtsp=True))
            assert seen.opened is None
            assert len(internal.asked) == asked


@pytest.mark.needs_srt
async def test_srt_comes_through_a_relay(media: MediaMaker, look_at: Look, tmp_path: Path) -> None:
    """The recipe in docs/sources.md: srt-live-transmit takes SRT and sends MPEG-TS to our UDP port."""
    clip = tmp_path / "clip.ts"
    clip.write_bytes(media.clip(Clip(frames=900, gop=15)))
    srt, udp = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    relay = ("srt-live-transmit", f"srt://127.0.0.1:{srt}?mode=listener", f"udp://127.0.0.1:{udp}")
    publisher = ("ffmpeg", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", "mpegts")
    with command(*relay):
        await asyncio.sleep(0.5)
        with command(*publisher, f"srt://127.0.0.1:{srt}?mode=caller"):
            job = source_job(SourceKind.UDP, f"udp://127.0.0.1:{udp}", open_timeout_seconds=10.0)
            seen = await look_at(job, frames=2)
    assert (seen.codec, len(seen.frames)) == ("h264", 2)
