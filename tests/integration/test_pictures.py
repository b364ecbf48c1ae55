"""Pictures as real encoders make them: interlaced, open GOPs, oblong pixels, turned, and changed on the way."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from benchmarks.bitstreams import _FROM_ABOVE, _FROM_AVERAGE, _ue, _unit, delimiter
from benchmarks.transport import Track, TransportWriter
from models.hashing.registry import ALGORITHMS
from streams.decoder import Decoder, PixelReader
from streams.frame import Frame, SampleReason
from streams.job import SourceKind
from streams.keeper import Nursery
from streams.sampling import SamplingSettings
from streams.wire import EndCode
from tests.fixtures_hostile import Seen, watch
from tests.fixtures_media import Clip, MediaMaker, Picture
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

PDQ = ALGORITHMS["pdq"]
MAX_PIXELS = 4096 * 2304
SECONDS = 1.5


def panorama(width: int) -> Picture:
    """Blobs of a natural picture's size, wide enough to pan over."""
    noise = np.random.default_rng(3).random((480, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 14)
    return np.clip((smooth - smooth.mean()) / smooth.std() * 60 + 128, 0, 255).astype(np.uint8)


def encode(pictures: list[Picture], codec: str, options: dict[str, str], pixel_aspect: Fraction | None = None) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"preset": "ultrafast"} | options
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def keyframes(content: bytes) -> list[tuple[np.ndarray, av.VideoFrame]]:
    """The hash plane of each keyframe, decoded on its own."""
    with av.open(io.BytesIO(content), format="mpegts") as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, MAX_PIXELS)
        frames = [decoder.decode_alone(packet) for packet in container.demux(stream) if packet.is_keyframe]
        assert decoder.errors == 0
        return [(decoder.plane(frame), frame) for frame in frames]


def distance(one: np.ndarray, other: np.ndarray) -> int:
    first, second = (int.from_bytes(PDQ.hash_plane(plane).value, "big") for plane in (one, other))
    return (first ^ second).bit_count()


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("pixels_a_field", [2, 8])
def test_interlaced_keyframe_is_a_whole_picture_without_a_comb_in_its_hash(order: str, pixels_a_field: int) -> None:
    """A pan of up to 400 pixels a second, woven of two fields, is as near to the still picture as matching asks."""
    wide = panorama(640 + 40 * 2 * pixels_a_field)
    fields = [wide[:, number * pixels_a_field :][:, :640] for number in range(40)]
    woven = []
    for first, second in zip(fields[::2], fields[1::2], strict=True):
        picture = (first if order == "tff" else second).copy()
        picture[1::2] = (second if order == "tff" else first)[1::2]
        woven.append(picture)
    options = {"x264-params": f"interlaced=1:{order}=1:keyint=5:scenecut=0"}
    seen = keyframes(encode(woven, "libx264", options))
    still = keyframes(encode(fields[::2], "libx264", {"x264-params": "keyint=5:scenecut=0"}))
    assert len(seen) == len(still) == 4
    for (plane, frame), (expected, _) in zip(seen, still, strict=True):
        assert frame.interlaced_frame
        assert (frame.width, frame.height, frame.is_corrupt) == (640, 480, False)
        assert distance(plane, expected) <= PDQ.max_distance


OPEN_GOP = "open-gop=1:keyint=24:min-keyint=24:bframes=3:b-adapt=0:scenecut=0"


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": OPEN_GOP}),
        ("libx265", {"x265-params": f"{OPEN_GOP}:log-level=none:pools=none"}),
    ],
)
def test_open_gop_shows_no_broken_leading_picture(codec: str, options: dict[str, str]) -> None:
    """From the second keyframe on all that comes out is as in a full decode; the keyframe itself is never lost."""
    wide = panorama(640 + 96 * 4)
    content = encode([wide[::2, number * 4 :][:, :640:2] for number in range(96)], codec, options)
    pixel_reader = PixelReader()
    with av.open(io.BytesIO(content), format="mpegts") as container:
        whole = {frame.pts: pixel_reader.plane(frame) for frame in container.decode(video=0)}
    with av.open(io.BytesIO(content), format="mpegts") as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, MAX_PIXELS)
        packets = [packet for packet in container.demux(stream) if packet.size]
        starts = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        rest = packets[starts[1] :]
        leading = [packet.pts for packet in rest[:8] if packet.pts < rest[0].pts]
        frames = [frame for packet in rest for frame in decoder.decode_through(packet)] + decoder.finish_through()
    assert leading, "the encoder made no open GOP"
    assert rest[0].pts in {frame.pts for frame in frames}
    for frame in frames:
        difference = np.abs(pixel_reader.plane(frame).astype(int) - whole[frame.pts].astype(int)).mean()
        assert frame.is_corrupt or difference < 2.0, (frame.pts in leading, difference)


@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(3, 4)])
def test_oblong_pixels_are_shown_as_wide_as_they_are(aspect: Fraction) -> None:
    """Width is what viewers see of it; the squares that are analysed hold the whole frame either way."""
    picture = panorama(640)
    sizes = {}
    for name, pixel_aspect in (("square", None), ("oblong", aspect)):
        content = encode([picture] * 3, "libx264", {}, pixel_aspect)
        with av.open(io.BytesIO(content), format="mpegts") as container:
            stream = container.streams.video[0]
            decoder = Decoder(stream, MAX_PIXELS)
            frame = decoder.decode_alone(next(container.demux(stream)))
            sizes[name] = decoder.pixels(frame)
    assert (sizes["square"].width, sizes["square"].height) == (640, 480)
    assert (sizes["oblong"].width, sizes["oblong"].height) == (round(640 * aspect), 480)
    assert distance(sizes["square"].plane, sizes["oblong"].plane) == 0


# What changes on the way


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main") as nursery:
        yield nursery


async def changed(nursery: Nursery, before: bytes, after: bytes, **changes: object) -> Seen:
    """What a reader sees of two clips, one after the other on one connection, each at its pace."""
    chunks = [
        (start + SECONDS * number / 25, content[number * len(content) // 25 : (number + 1) * len(content) // 25])
        for start, content in ((0.0, before), (SECONDS, after))
        for number in range(25)
    ]
    sampling = SamplingSettings(detect_within_seconds=1.5, interval_seconds=0.5)
    return await watch(nursery, chunks, stays=True, sampling=sampling, read_timeout_seconds=2.0, **changes)


async def all_changed(media: MediaMaker, nursery: Nursery, clips: list[tuple[Clip, Clip]]) -> dict[str, Seen]:
    """What readers see of each pair of clips in each container, all at once."""
    kinds = {"mpegts": SourceKind.HTTP_TS, "flv": SourceKind.HTTP_FLV}
    cases = [(container, number) for container in kinds for number in range(len(clips))]
    readers = []
    for container, number in cases:
        before, after = (media.clip(replace(one, container=container)) for one in clips[number])
        head = 13 if container == "flv" else 0  # a file's own head comes once
        readers.append(changed(nursery, before, after[head:], kind=kinds[container]))
    return {
        f"{container} {number}": seen
        for (container, number), seen in zip(cases, await asyncio.gather(*readers), strict=True)
    }


PLAIN = Clip(frames=round(SECONDS * 25), gop=12, rate=25)


async def test_other_codec_on_the_way_ends_the_reader(media: MediaMaker, nursery: Nursery) -> None:
    """Whoever changes H.264 for HEVC, or back, is left for another reader: as a changed track, or as no packet came."""
    hevc = replace(PLAIN, codec="libx265")
    for name, seen in (await all_changed(media, nursery, [(PLAIN, hevc), (hevc, PLAIN)])).items():
        code, at = seen.end()
        opened_at = next(at for at, message in seen.told if isinstance(message, Frame))
        assert code is (EndCode.TRACKS_CHANGED if name.startswith("mpegts") else EndCode.TIMEOUT), name
        assert at - opened_at < SECONDS + 2.0 + 1.0 + SLACK_SECONDS, name


async def test_other_size_on_the_way_is_seen_on(media: MediaMaker, nursery: Nursery) -> None:
    """A stream that becomes larger, or smaller, is sampled on by the same reader."""
    large = replace(PLAIN, size=(640, 360))
    for name, seen in (await all_changed(media, nursery, [(PLAIN, large), (large, PLAIN)])).items():
        widths = [frame.width for frame in seen.frames]
        assert list(dict.fromkeys(widths)) == ([320, 640] if name.endswith("0") else [640, 320]), name
        assert min(widths.count(width) for width in (320, 640)) >= 2, name
        assert seen.beats[-1][1].decode_errors == 0, name


def field(*, is_bottom: bool) -> bytes:
    """A grey field of 320x256, intra and by hand (ITU-T H.264, 7.3.3): no encoder at hand codes fields apart."""
    columns, rows = 20, 8
    headers = b""
    if not is_bottom:
        sps = (
            f"{77:08b}{0x40:08b}{31:08b}" + _ue(0) + _ue(12) + _ue(2) + _ue(1) + "0" + _ue(columns - 1) + _ue(rows - 1)
        )
        pps = _ue(0) + _ue(0) + "00" + _ue(0) * 3 + "0" + "00" + _ue(0) * 3 + "100"
        headers = _unit(7, sps + "00100") + _unit(8, pps)
    slice_head = _ue(0) + _ue(7) + _ue(0) + "0" * 16 + f"1{is_bottom:d}"
    slice_head += ("0" if is_bottom else _ue(0) + "00") + _ue(0) + _ue(1)
    blocks = _FROM_AVERAGE * columns + _FROM_ABOVE * (columns * (rows - 1))
    return delimiter() + headers + _unit(1 if is_bottom else 5, slice_head + blocks)


async def test_keyframes_coded_as_two_fields_are_decoded_through(nursery: Nursery) -> None:
    """Each field comes as a packet of its own and gives no picture alone: the stream is seen, at the higher cost."""
    writer, both = TransportWriter([Track(0x100)]), field(is_bottom=False) + field(is_bottom=True)
    chunks = [
        (number / 25, writer.tables() + writer.pes(0x100, both, number / 25, is_keyframe=True)) for number in range(75)
    ]
    seen = await watch(nursery, chunks, sampling=SamplingSettings(detect_within_seconds=1.0, interval_seconds=0.5))
    assert len(seen.frames) >= 4
    assert {(frame.width, frame.height, frame.is_corrupt) for frame in seen.frames} == {(320, 256, False)}
    assert {frame.reason for frame in seen.frames} == {SampleReason.DECODE_THROUGH}
    assert all(len(set(frame.plane)) == 1 for frame in seen.frames), "a field is missing"
    assert seen.beats[-1][1].keyframes_without_picture > 0
    assert seen.beats[-1][1].decode_errors == 0
