"""Streams that are small to send and large to decode: what they cost, and how soon they are told."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import av
import pytest

from benchmarks import hostile_clips
from benchmarks.bitstreams import Picture
from benchmarks.clips import Clip
from streams import claims
from streams.decoder import Decoder
from streams.job import SourceKind
from streams.keeper import Nursery
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import EndCode
from tests.fixtures_hostile import Chunks, scan, watch
from tests.fixtures_media import Clip as MadeClip
from tests.fixtures_media import MediaMaker
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

MEMORY_BYTES = 150 * 1024 * 1024
HUGE = Picture(16_000, 16_000)


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main") as nursery:
        yield nursery


def paced(clip: Clip) -> Chunks:
    return [(chunk.offset_seconds, chunk.payload) for chunk in clip.chunks]


def flv(picture: Picture) -> Chunks:
    """Return two seconds of `picture` as FLV, which names its tracks only as their packets come."""
    units = _units(picture.keyframe())
    sps, pps = (next(unit for unit in units if unit[0] & 31 == kind) for kind in (7, 8))
    header = b"\x01" + sps[1:4] + b"\xff\xe1" + len(sps).to_bytes(2, "big") + sps
    header += b"\x01" + len(pps).to_bytes(2, "big") + pps
    chunks = [(0.0, b"FLV\x01\x01\x00\x00\x00\x09\x00\x00\x00\x00" + _tag(0.0, b"\x17\x00\x00\x00\x00" + header))]
    for number in range(50):
        units = _units(picture.repeat(number) if number else picture.keyframe())
        data = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units if unit[0] & 31 in (1, 5))
        kind = b"\x27" if number else b"\x17"
        chunks.append((number / 25, _tag(number / 25, kind + b"\x01\x00\x00\x00" + data)))
    return chunks


def _units(stream: bytes) -> list[bytes]:
    return stream.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")[1:]


def _tag(at_seconds: float, body: bytes) -> bytes:
    at = round(at_seconds * 1000).to_bytes(3, "big")
    tag = b"\x09" + len(body).to_bytes(3, "big") + at + b"\x00\x00\x00\x00" + body
    return tag + len(tag).to_bytes(4, "big")


async def test_bomb_is_refused_at_once_and_takes_no_memory(nursery: Nursery) -> None:
    """16000x16000 pixels in 750 kB: told within a second, in a reader that stays below 150 MB."""
    seen = await watch(nursery, paced(hostile_clips.bomb()), stays=True)

    code, at = seen.end()
    assert code is EndCode.RESOLUTION
    assert at <= 1.0 + SLACK_SECONDS
    assert seen.peak_bytes <= MEMORY_BYTES


async def test_bomb_in_flv_is_refused_while_it_is_opened(nursery: Nursery) -> None:
    """Over FLV, where libav looks for tracks without our limits, memory is kept too; 1.1 GB were taken without.

    It is told when the stream is open, which without sound takes libav 1.3 s of a processor, whatever its pictures are.
    """
    seen = await watch(nursery, flv(HUGE), stays=True, kind=SourceKind.HTTP_FLV)

    code, at = seen.end()
    assert code is EndCode.RESOLUTION
    assert seen.beats[-1][1].cpu_seconds <= 3.5
    assert at <= 3.5 + 4 * SLACK_SECONDS
    assert seen.peak_bytes <= MEMORY_BYTES


async def test_switch_to_a_bomb_ends_the_reader_at_once(nursery: Nursery) -> None:
    """640x360 that becomes 8192x8192 on the way is told as such within a second, and its memory is never taken."""
    seen = await watch(nursery, paced(hostile_clips.resolution_switch()), stays=True)

    code, at = seen.end()
    assert code is EndCode.RESOLUTION
    assert at <= hostile_clips.VALID_SECONDS + 1.0 + SLACK_SECONDS
    assert "8192x8192" in seen.ended.detail
    assert len(seen.frames) >= 4
    assert seen.peak_bytes <= MEMORY_BYTES


def png(width: int, height: int) -> bytes:
    """Return a grey picture whose every row is the same: next to nothing once it is compressed."""
    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(b"\0" + bytes(width)) for _ in range(height)) + compressor.flush()
    chunks = [
        (b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    framed = (
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((16_000, 16_000), EndCode.RESOLUTION),
        ((4, 16_384), EndCode.END_OF_STREAM),
        ((16_384, 4), EndCode.END_OF_STREAM),
        ((1, 65_535), EndCode.DECODE_ERRORS),  # libav does not scale it
        ((65_535, 1), EndCode.DECODE_ERRORS),
        ((65_537, 1), EndCode.RESOLUTION),
    ],
)
async def test_picture_of_any_shape_is_taken_or_refused(
    nursery: Nursery, tmp_path: Path, size: tuple[int, int], code: EndCode
) -> None:
    """A picture bomb in a scan is refused for its size; a thread of pixels is looked at or said to be unreadable."""
    seen = await scan(nursery, tmp_path, png(*size))

    assert seen.end()[0] is code
    assert len(seen.frames) == (code is EndCode.END_OF_STREAM)
    assert seen.peak_bytes <= MEMORY_BYTES


async def test_title_of_a_megabyte_costs_little(nursery: Nursery, tmp_path: Path, media: MediaMaker) -> None:
    """A title of a megabyte refuses no file and takes little memory; one of a million lines is refused as such."""
    for letter, code in (("\u20ac", EndCode.END_OF_STREAM), ("\n", EndCode.NOT_MEDIA)):
        content = media.clip(MadeClip(frames=30, container="matroska", title=letter * 1_000_000))
        assert len(content) > 1_000_000

        seen = await scan(nursery, tmp_path, content)

        assert seen.end()[0] is code
        assert bool(seen.frames) == (code is EndCode.END_OF_STREAM)
        assert seen.peak_bytes <= MEMORY_BYTES


@pytest.mark.parametrize(
    ("codec", "container", "pixel_format"),
    [
        ("libx264", "mpegts", "yuv420p"),
        ("libx264", "flv", "yuv444p10le"),
        ("libx265", "mpegts", "yuv420p"),
        ("libx265", "mp4", "yuv420p"),
        ("libvpx", "matroska", "yuv420p"),
        ("libvpx-vp9", "matroska", "yuv420p"),
        ("libvpx-vp9", "matroska", "yuv444p"),
    ],
)
def test_decoder_tells_a_picture_that_is_too_large_from_a_broken_one(
    media: MediaMaker, tmp_path: Path, codec: str, container: str, pixel_format: str
) -> None:
    """A keyframe beyond the limit in the middle of a track gives no picture, and its size; noise gives neither."""
    clip = MadeClip(frames=4, codec=codec, container=container, pixel_format=pixel_format)
    (tmp_path / "clip").write_bytes(media.clip(clip))
    with av.open(str(tmp_path / "clip"), metadata_errors="replace") as source:
        decoder = Decoder(source.streams.video[0], 320 * 240 - 1)
        packet = next(packet for packet in source.demux(video=0) if packet.size)
        assert decoder.decode_alone(packet) is None
        assert decoder.refused_size == (320, 240)
    with av.open(str(tmp_path / "clip"), metadata_errors="replace") as source:
        honest = Decoder(source.streams.video[0], 320 * 240)
        noise = av.Packet(b"\x00\x00\x01\x65" + bytes(range(256)) * 4)
        assert honest.decode_alone(noise) is None
        assert honest.refused_size is None


@pytest.mark.parametrize("read", claims.CLAIMS.values())
def test_claims_of_anything_are_numbers(read: claims.ReadSize) -> None:
    """Whatever bytes come, a claim is two numbers that are not negative, and no error."""
    for length in (0, 1, 9, 24, 300):
        for filling in (b"\x00", b"\xff", b"\xff\xd8\xff\xc0", b"\x82\x49\x83\x42", b"\x89PNG\r\n\x1a\n"):
            width, height = read((filling * length)[:length])
            assert width >= 0
            assert height >= 0


async def test_high_rates_and_tiny_slices_cost_no_more_than_their_share(nursery: Nursery) -> None:
    """Keyframes at 240 a second, slices of 16x16 and 10,000 packets of sound a second stay far below half a core."""
    clips = (hostile_clips.high_rate(), hostile_clips.tiny_slices(), hostile_clips.tiny_audio())
    for seen in await asyncio.gather(*(watch(nursery, paced(clip)) for clip in clips)):
        at, beat = seen.beats[-1]
        assert beat.cpu_seconds < 0.5 * at
        assert seen.frames
        assert beat.throttled_seconds == 0.0


async def test_stream_that_wants_more_than_its_share_is_thinned(nursery: Nursery) -> None:
    """A stream that decodes for more than its limit is held to it, says so, and is still looked at by keyframes."""
    clip = hostile_clips.clean(8.0)
    limit = 0.004
    full = SamplingSettings(mode=SamplingMode.FULL)
    seen = await watch(nursery, paced(clip), sampling=full, cpu_limit=limit)

    first_at, first = seen.beats[1]
    last_at, last = seen.beats[-1]
    assert last.throttled_seconds > 1.0
    assert last.cpu_seconds - first.cpu_seconds <= limit * (last_at - first_at + 3.0) + 0.05
    assert any(frame.arrived_at > seen.frames[0].arrived_at + 5.0 for frame in seen.frames)


async def test_drip_feed_is_ended_and_heartbeats_go_on(nursery: Nursery) -> None:
    """A server that sends a byte a second is left after the read timeout, told of by heartbeats all the while."""
    seen = await watch(
        nursery,
        [*paced(hostile_clips.clean(2.0)), *((2.0 + at, b"\x47") for at in range(30))],
        read_timeout_seconds=2.0,
    )

    code, at = seen.end()
    assert code is EndCode.TIMEOUT
    assert at <= 2.0 + 2.0 + 1.5 + SLACK_SECONDS
    times = [at for at, _ in seen.beats]
    assert max(later - earlier for earlier, later in pairwise(times)) <= 1.0 + SLACK_SECONDS


async def test_server_that_says_nothing_is_left(nursery: Nursery) -> None:
    """A server that takes the connection and sends no byte is left after twice the opening timeout."""
    seen = await watch(nursery, [(60.0, b"")], open_timeout_seconds=1.0)

    code, at = seen.end()
    assert code is EndCode.TIMEOUT
    assert at <= 4.5 + SLACK_SECONDS
