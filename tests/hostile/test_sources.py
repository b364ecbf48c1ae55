"""Pages, files and URLs made to have the reader fetch what its operator never named; none of them gets anything."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pytest

from detector.config.addresses import SourceUrl
from detector.media_files import MediumUnreadable, find_media, reading
from streams.job import SourceKind
from streams.keeper import Keeper, Nursery
from streams.wire import Ended
from tests.fixtures_media import Clip, MediaMaker
from tests.fixtures_web import Page, Seen, Web, look, source_job

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage]

_NAIVE = """
import json, sys, av
for url in json.load(sys.stdin):
    try:
        with av.open(url, timeout=(1.5, 1.5)) as container:
            for count, packet in enumerate(container.demux()):
                if count > 40:
                    break
    except Exception:
        pass
"""


class Lure:
    """A pipe with a media file's name. Who opens it to read is noticed, and gets a clip."""

    def __init__(self, path: Path, clip: bytes) -> None:
        self.path = path
        self.openings = 0
        self._clip = clip
        self._is_over = False
        os.mkfifo(path)
        self._thread = threading.Thread(target=self._wait, name="lure")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        while self._thread.is_alive():  # whoever waits to write is let go by a reader
            os.close(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK))
            self._thread.join(0.02)

    def _wait(self) -> None:
        while not self._is_over:
            descriptor = os.open(self.path, os.O_WRONLY)
            with contextlib.suppress(BrokenPipeError):
                if not self._is_over:
                    self.openings += 1
                    os.write(descriptor, self._clip[:60_000])
            os.close(descriptor)


@dataclass
class Trap:
    """What must not be touched: a server beside the one that is read, and a file. `page` makes the hostile ones."""

    internal: Web
    lure: Lure
    clip: bytes
    hostile_port: int = 0

    def page(self, name: str) -> Page:
        """The answer that is called `name`; `{inside}` is a URL of the server beside, `{file}` the file."""
        inside = f"http://127.0.0.1:{self.internal.port}/{name}"
        port, file, path = self.internal.port, f"file://{self.lure.path}", str(self.lure.path)
        segments = {
            "file": file,
            "absolute_path": path,
            "concat": f"concat:{file}|{file}",
            "subfile": f"subfile,,start,0,end,9999,,:{path}",
            "crypto_file": f"crypto+{file}",
            "text_file": "file:///etc/hostname",
            "inside": f"{inside}/a.ts",
            "data": f"data:video/mp2t;base64,{base64.b64encode(self.clip).decode()}",
            "nested_playlist": f"http://127.0.0.1:{self.hostile_port}/inside.m3u8",
            "moved_segment": f"http://127.0.0.1:{self.hostile_port}/moved",
            "cross_port": f"http://127.0.0.1:{port}/cross_port/a.ts",
            "other_name": f"http://localhost:{port}/other_name/a.ts",
            "mapped_ipv6": f"http://[::ffff:127.0.0.1]:{port}/mapped_ipv6/a.ts",
            "decimal": f"http://2130706433:{port}/decimal/a.ts",
            "octal": f"http://0177.0.0.1:{port}/octal/a.ts",
            "userinfo": f"http://127.0.0.1:{self.hostile_port}@127.0.0.1:{port}/userinfo/a.ts",
            "no_scheme": f"//127.0.0.1:{port}/no_scheme/a.ts",
            "tcp": f"tcp://127.0.0.1:{port}/a.ts",
        }
        if name in segments:
            return _playlist(f"#EXTINF:1,\n{segments[name]}\n")
        if name == "moved":
            return Page(status=302, headers=(("Location", f"{inside}/a.ts"),))
        own = f"#EXTINF:1,\nhttp://127.0.0.1:{self.hostile_port}/good.ts\n"
        return {
            "map_file": _playlist(f'#EXT-X-MAP:URI="{file}"\n{own}'),
            "key_file": _playlist(f'#EXT-X-KEY:METHOD=AES-128,URI="{file}"\n{own}'),
            "key_inside": _playlist(f'#EXT-X-KEY:METHOD=AES-128,URI="{inside}/key"\n{own}'),
            "variant": _playlist(f"#EXT-X-STREAM-INF:BANDWIDTH=1\n{inside}/a.m3u8\n"),
            "garbage": Page(b"\xef\xbb\xbf#EXTM3U\n\xff\xfe\0\n" + _playlist(f"#EXTINF:1,\n{inside}/a.ts\n").body),
            "ffconcat": Page(f"ffconcat version 1.0\nfile '{path}'\nfile '{inside}/a.ts'\n".encode()),
            "session_description": Page(
                b"v=0\no=- 1 1 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
                b"m=video %d RTP/AVP 96\na=rtpmap:96 H264/90000\n" % port
            ),
            "dash": Page(
                f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
                f'<AdaptationSet mimeType="video/mp2t"><Representation id="1" bandwidth="1"><BaseURL>{inside}/a.ts'
                f"</BaseURL></Representation></AdaptationSet></Period></MPD>".encode()
            ),
        }[name]

    @property
    def touched(self) -> set[str]:
        """Which pages led to the server beside, `file` for the lure; connections without a request count as `tcp`."""
        found = {one.path.split("/")[1] for one in self.internal.asked}
        if self.internal.connections > len(self.internal.asked):
            found.add("tcp")
        return found | ({"file"} if self.lure.openings else set())

    def reset(self) -> None:
        """Forget what was touched."""
        self.internal.asked.clear()
        self.internal.connections = self.lure.openings = 0


PAGES = (
    *("file", "absolute_path", "concat", "subfile", "crypto_file", "map_file", "key_file", "text_file", "ffconcat"),
    *("inside", "key_inside", "variant", "moved", "moved_segment", "session_description", "data", "nested_playlist"),
    *("cross_port", "other_name", "mapped_ipv6", "decimal", "octal", "userinfo", "no_scheme", "tcp", "garbage", "dash"),
)
TO_ANOTHER_SERVER = {
    *("inside", "key_inside", "variant", "moved", "cross_port", "other_name", "mapped_ipv6", "decimal", "octal"),
    *("userinfo", "no_scheme"),
}
"""Pages that have a reader without defences ask the server beside."""


def _playlist(entries: str) -> Page:
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-PLAYLIST-TYPE:VOD\n"
    return Page(f"{head}{entries}#EXT-X-ENDLIST\n".encode(), headers=(("Content-Type", "application/x-mpegurl"),))


@pytest.fixture
def trap(media: MediaMaker, tmp_path: Path) -> Iterator[Trap]:
    clip = media.clip(Clip(frames=30, gop=10))

    class Everything(dict[str, Page | bytes]):
        def get(self, path: str, default: object = None) -> Page | bytes:  # type: ignore[override]
            return b"0123456789abcdef" if path.endswith("key") else clip

    with Web({}) as internal, Lure(tmp_path / "lure.ts", clip) as lure:
        internal.pages = Everything()
        yield Trap(internal, lure, clip)


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main", silences_children=True) as running:
        yield running


def naively(urls: list[str]) -> None:
    """Open each URL as libav does by itself."""
    subprocess.run([sys.executable, "-c", _NAIVE], input=json.dumps(urls).encode(), timeout=120, check=False)


@pytest.mark.parametrize("kind", [SourceKind.HLS, SourceKind.HTTP_TS, SourceKind.HTTP_FLV])
async def test_no_page_has_another_server_asked_or_a_file_opened(
    kind: SourceKind, trap: Trap, nursery: Nursery
) -> None:
    """27 pages: 0 requests to the server beside, 0 files opened, and a good stream is read all the while."""
    assert len(PAGES) == 27
    with Web({}) as hostile:
        trap.hostile_port = hostile.port
        hostile.pages = {f"/{name}.m3u8": trap.page(name) for name in PAGES}
        hostile.pages |= {"/moved": trap.page("moved"), "/good.ts": trap.clip}
        hostile.pages["/good.m3u8"] = _playlist("#EXTINF:1,\ngood.ts\n")
        base = f"http://127.0.0.1:{hostile.port}"
        if kind is SourceKind.HLS:
            await asyncio.to_thread(naively, [f"{base}/{name}.m3u8" for name in PAGES])
            assert trap.touched >= TO_ANOTHER_SERVER
            trap.reset()

        at_once = asyncio.Semaphore(4)

        async def read(name: str) -> Seen:
            job = source_job(kind, f"{base}/{name}.m3u8", open_timeout_seconds=1.0, read_timeout_seconds=1.0)
            async with at_once, asyncio.timeout(30):
                return await look(nursery, job, frames=5)

        good = source_job(SourceKind.HLS, f"{base}/good.m3u8")
        seen, *others = await asyncio.gather(look(nursery, good), *(read(name) for name in PAGES))
        assert trap.touched == set()
        assert (seen.codec, len(seen.frames), seen.refusals) == ("h264", 1, 0)
        by_name = dict(zip(PAGES, others, strict=True))
        own = {"map_file", "key_file", "key_inside"}  # they hold the good segment beside the bad line
        assert all(not page.frames for name, page in by_name.items() if name not in own)
        if kind is SourceKind.HLS:
            counted = {name for name, page in by_name.items() if page.refusals}
            assert counted >= TO_ANOTHER_SERVER - {"moved"}


LOCAL = {
    "hls_file.m3u8": "file",
    "hls_inside.m3u8": "inside",
    "hls_named_ts.ts": "absolute_path",
    "hls_named_mp4.mp4": "subfile",
    "hls_concat.m3u8": "concat",
    "hls_key.m3u8": "key_file",
    "hls_variant.m3u8": "variant",
    "garbage.m3u8": "garbage",
    "list.ffconcat": "ffconcat",
    "session.sdp": "session_description",
    "manifest.mpd": "dash",
}


async def test_no_local_playlist_has_a_file_opened_or_a_server_asked(
    trap: Trap, nursery: Nursery, tmp_path: Path
) -> None:
    """11 playlists as files: refused by their first bytes, whatever their names; a naive reader obeys them."""
    assert len(LOCAL) == 11
    for name, page in LOCAL.items():
        (tmp_path / name).write_bytes(trap.page(page).body)
    await asyncio.to_thread(naively, [str(tmp_path / name) for name in LOCAL])
    assert trap.touched == {"file"}
    trap.reset()

    for name in LOCAL:
        descriptor = os.open(tmp_path / name, os.O_RDONLY)
        try:
            job = replace(source_job(SourceKind.FILE), live=False)
            async with asyncio.timeout(30), Keeper(nursery, job, descriptor) as keeper:
                (ended,) = [message async for message in keeper.messages() if isinstance(message, Ended)]
        finally:
            os.close(descriptor)
        assert ended.code == "not_media", name
    assert trap.touched == set()


async def test_no_url_string_reaches_a_file_or_another_scheme(trap: Trap, nursery: Nursery) -> None:
    """14 strings that libav would read from: no config takes them as a source, and no scan reads them."""
    path, port = trap.lure.path, trap.internal.port
    strings = [
        f"file:{path}",
        f"file://{path}",
        f"concat:{path}|{path}",
        f"concatf:{path}",
        f"subfile,,start,0,end,9999,,:{path}",
        f"cache:{path}",
        f"async:{path}",
        f"crypto:{path}",
        f"crypto+file://{path}",
        f"hls+file://{path}",
        f"hls+http://127.0.0.1:{port}/a.m3u8",
        f"tcp://127.0.0.1:{port}",
        f"httpproxy://127.0.0.1:{port}/x",
        "data:video/mp2t;base64,R0A=",
    ]
    assert len(strings) == 14
    await asyncio.to_thread(naively, strings)
    assert {"file", "tcp"} <= trap.touched
    trap.reset()

    for string in strings:
        with pytest.raises(ValueError, match="is no URL of a stream"):
            SourceUrl.parse(string)
        (medium,) = find_media([string])
        with pytest.raises(MediumUnreadable):
            async with reading(nursery, source_job(SourceKind.FILE), medium):
                pass
    assert trap.touched == set()
