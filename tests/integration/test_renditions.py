"""Of an HLS playlist with several variants one is read, as a server counted it; another one if it gives nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from streams.job import SourceKind
from streams.keeper import Nursery
from streams.renditions import Renditions
from streams.wire import EndCode
from tests.fixtures_media import Clip, MediaMaker
from tests.fixtures_web import Page, Seen, Web, look, source_job

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage]

SIZES = {"high": (640, 480), "low": (352, 288), "tiny": (160, 120)}
HEAD = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main", silences_children=True) as nursery:
        yield nursery


def ladder(media: MediaMaker) -> dict[str, Page | bytes]:
    """A master playlist of three sizes with sound apart, subtitles and trick play, and all that they name."""
    lines = [
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="x",DEFAULT=YES,URI="sound.m3u8"',
        '#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",NAME="x",URI="text.m3u8"',
        '#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="trick.m3u8"',
        '#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS="mp4a.40.2"\nsound.m3u8',
    ]
    pages: dict[str, Page | bytes] = {}
    for name, (width, height) in SIZES.items():
        lines.append(f'#EXT-X-STREAM-INF:BANDWIDTH={width},RESOLUTION={width}x{height},AUDIO="a"\n{name}.m3u8')
        pages[f"/{name}.m3u8"] = f"{HEAD}#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF:1,\n{name}.ts\n#EXT-X-ENDLIST\n".encode()
        pages[f"/{name}.ts"] = media.clip(Clip(frames=30, gop=15, size=(width, height)))
    return pages | {"/master.m3u8": "\n".join(["#EXTM3U", *lines, ""]).encode()}


async def seen_of(nursery: Nursery, web: Web, renditions: Renditions) -> Seen:
    job = source_job(SourceKind.HLS, f"http://127.0.0.1:{web.port}/master.m3u8")
    async with asyncio.timeout(20):
        return await look(nursery, job, frames=1000, renditions=renditions)


async def test_nothing_of_the_other_variants_is_asked_for(media: MediaMaker, nursery: Nursery) -> None:
    """One playlist and its segments are read beside the master: no other size, no sound, no subtitles."""
    renditions = Renditions()
    with Web(ladder(media)) as web:
        seen = await seen_of(nursery, web, renditions)
        assert [one.path for one in web.asked] == ["/master.m3u8", "/low.m3u8", "/low.ts"]
    assert seen.opened is not None
    assert (seen.opened.video_tracks, seen.frames[0].width, seen.refusals) == (1, 352, 0)
    assert renditions.shown == "352x288 of 3"


@pytest.mark.parametrize("what", ["its playlist is gone", "its segments are gone", "it is no media", "it lies"])
async def test_variant_that_gives_nothing_is_left_for_another(media: MediaMaker, nursery: Nursery, what: str) -> None:
    """A reader of what cannot be read ends soon, and the next one sees another size."""
    pages, renditions = ladder(media), Renditions()
    match what:
        case "its playlist is gone":
            del pages["/low.m3u8"]
        case "its segments are gone":
            del pages["/low.ts"]
        case "it is no media":
            pages["/low.ts"] = b"nothing" * 1000
        case _:  # says that it is small
            pages["/low.ts"] = media.clip(Clip(frames=2, size=(4320, 2304)))
    with Web(pages) as web:
        started_at = asyncio.get_running_loop().time()
        first = await seen_of(nursery, web, renditions)
        assert not first.frames
        assert first.ended is not None
        assert first.ended.code is not EndCode.INTERNAL
        renditions.failed()
        second = await seen_of(nursery, web, renditions)
        assert asyncio.get_running_loop().time() - started_at < 20.0
    assert second.frames[0].width == 640
    assert (renditions.shown, renditions.switches) == ("640x480 of 3", 1)
