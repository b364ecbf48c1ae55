"""Each codec in each container that carries it is decoded inside the whole cage, from files and live."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streams.frame import PLANE_SIDE, Frame
from streams.job import SourceKind
from streams.keeper import Keeper, Nursery
from streams.wire import Ended, Opened
from tests.fixtures_media import Clip, MediaMaker, Picture
from tests.fixtures_web import Web, look, source_job

pytestmark = [pytest.mark.integration, pytest.mark.needs_cage]

ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp8": "libvpx", "vp9": "libvpx-vp9"}
CARRIED = {
    "mpegts": ("h264", "hevc"),
    "flv": ("h264", "hevc", "av1", "vp9"),
    "mp4": ("h264", "hevc", "av1", "vp9"),
    "matroska": ("h264", "hevc", "av1", "vp8", "vp9"),
    "webm": ("av1", "vp8", "vp9"),
}
PAIRS = [(container, codec) for container, codecs in CARRIED.items() for codec in codecs]


def bars(_number: int) -> Picture:
    """A picture whose left half is white and whose right half is black."""
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[:, :160] = 255
    return picture


def clip(container: str, codec: str) -> Clip:
    """A second of it."""
    return Clip(frames=30, gop=10, codec=ENCODERS[codec], container=container)


@pytest.fixture(scope="module")
def made(media: MediaMaker) -> dict[tuple[str, str], bytes]:
    """The bars in each container and codec."""
    return {(container, codec): media.clip(clip(container, codec), bars) for container, codec in PAIRS}


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main", silences_children=True) as running:
        yield running


def shows_the_bars(frame: Frame) -> bool:
    """Whether the decoded picture is the one that was encoded."""
    plane = np.frombuffer(frame.plane, np.uint8).reshape(PLANE_SIDE, PLANE_SIDE).astype(int)
    return bool(plane[:, :28].mean() > 220 and plane[:, 36:].mean() < 35)


@pytest.mark.parametrize(("container", "codec"), PAIRS)
async def test_a_codec_in_a_file_is_decoded(
    container: str, codec: str, made: dict[tuple[str, str], bytes], nursery: Nursery, tmp_path: Path
) -> None:
    """A scan of a file sees the picture that was encoded, and reads to the end."""
    path = tmp_path / "clip"
    path.write_bytes(made[container, codec])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        job = replace(source_job(SourceKind.FILE), live=False)
        async with asyncio.timeout(20), Keeper(nursery, job, descriptor) as keeper:
            messages = [message async for message in keeper.messages()]
    finally:
        os.close(descriptor)
    assert [message.codec for message in messages if isinstance(message, Opened)] == [codec]
    frames = [message for message in messages if isinstance(message, Frame)]
    assert frames
    assert all(shows_the_bars(frame) for frame in frames)
    ended = messages[-1]
    assert isinstance(ended, Ended)
    assert (ended.code, ended.media_end_seconds) == ("end_of_stream", pytest.approx(1.0, abs=0.1))


@pytest.mark.parametrize(
    ("kind", "container", "codec"),
    [
        (SourceKind.HTTP_TS, "mpegts", "h264"),
        (SourceKind.HTTP_TS, "mpegts", "hevc"),
        (SourceKind.HTTP_FLV, "flv", "h264"),
        (SourceKind.HTTP_FLV, "flv", "hevc"),
        (SourceKind.HTTP_FLV, "flv", "av1"),
        (SourceKind.HTTP_FLV, "flv", "vp9"),
    ],
)
async def test_a_codec_over_http_is_decoded(
    kind: SourceKind, container: str, codec: str, made: dict[tuple[str, str], bytes], nursery: Nursery
) -> None:
    """Transport streams and FLV, the enhanced one too, as they come from an ingest server."""
    with Web({"/live": made[container, codec]}) as web:
        async with asyncio.timeout(20):
            seen = await look(nursery, source_job(kind, f"http://127.0.0.1:{web.port}/live"))
    assert seen.codec == codec
    assert shows_the_bars(seen.frames[0])


@pytest.mark.parametrize(
    ("form", "codec", "is_encrypted"),
    [
        ("mpegts", "h264", False),
        ("mpegts", "hevc", False),
        ("mpegts", "h264", True),
        ("fmp4", "hevc", False),
        ("fmp4", "av1", False),
        ("fmp4", "vp9", False),
    ],
)
async def test_a_codec_over_hls_is_decoded(
    form: str,
    codec: str,
    media: MediaMaker,
    nursery: Nursery,
    tmp_path: Path,
    *,
    is_encrypted: bool,
) -> None:
    """Both forms of segments; transport streams under AES-128 as well, with the key on the same server."""
    options = {"hls_segment_type": form, "hls_time": "1", "hls_playlist_type": "vod"}
    if is_encrypted:
        (tmp_path / "key").write_bytes(bytes(range(16)))
        (tmp_path / "key-info").write_text(f"key\n{tmp_path / 'key'}\n{'00' * 16}\n")
        options["hls_key_info_file"] = str(tmp_path / "key-info")
    media.write(clip("hls", codec), bars, str(tmp_path / "live.m3u8"), options)
    with Web({f"/{file.name}": file.read_bytes() for file in tmp_path.iterdir()}) as web:
        async with asyncio.timeout(20):
            seen = await look(nursery, source_job(SourceKind.HLS, f"http://127.0.0.1:{web.port}/live.m3u8"))
        assert ("/key" in [one.path for one in web.asked]) == is_encrypted
    assert (seen.codec, seen.refusals) == (codec, 0)
    assert shows_the_bars(seen.frames[0])
