"""Streams that cannot be seen: each is told with its cause, in time, and none of them costs a process."""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random

import av
import numpy as np
import pytest

from benchmarks.bitstreams import Picture
from benchmarks.clips import Clip
from benchmarks.hostile_clips import VIDEO_PID, clean, drip, hollow_keyframes
from benchmarks.transport import Track, TransportWriter
from streams.job import SourceKind
from streams.nursery import Nursery
from tests.hostile.blind_scene import Chunk, hand_over, serving, watching
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

_TS = ("mpeg1video", "mpeg2video", "mpeg4", "prores", "mjpeg", "ffv1", "snow", "h263", "huffyuv", "wmv2", "cfhd")
_FLV = ("flv", "flashsv", "flashsv2")
_MOV = ("cinepak", "cfhd", "dxv", "h263", "jpeg2000", "mjpeg", "mpeg2video", "prores", "qtrle", "rpza", "svq1", "gif")
_MKV = ("ffv1", "msmpeg4", "snow", "mpeg4", "rawvideo")
EXOTIC = [
    *(("mpegts", codec) for codec in _TS),
    *(("flv", codec) for codec in _FLV),
    *(("mov", codec) for codec in _MOV),
    *(("matroska", codec) for codec in _MKV),
]
_FPS = 25


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main") as one:
        yield one


def film(container: str, codec: str, seconds: float = 1.0) -> bytes:
    """A moving ramp in a codec of another time."""
    buffer = io.BytesIO()
    formats = av.Codec(codec, "w").video_formats or []
    names = [one.name for one in formats] or ["yuv420p"]
    pixel_format = "yuv420p" if "yuv420p" in names else names[0]
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=_FPS, options={"strict": "-2"})
        stream.width, stream.height, stream.pix_fmt = 352, 288, pixel_format
        for number in range(round(seconds * _FPS)):
            row = ((np.arange(352) + 8 * number) % 256).astype(np.uint8)
            picture = np.repeat(np.broadcast_to(row, (288, 352))[:, :, None], 3, axis=2).copy()
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def sound(seconds: float) -> list[Chunk]:
    """A transport stream of silence, a piece for each tenth of a second."""
    buffer, chunks, taken = io.BytesIO(), [], 0
    with av.open(buffer, "w", format="mpegts") as output:
        track = output.add_stream("aac", rate=48_000, layout="mono")
        for number in range(round(seconds * 10)):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 48_000, number * 4800
            output.mux(track.encode(silence))
            written = buffer.getvalue()
            chunks.append((number / 10, written[taken:]))
            taken = len(written)
    return chunks


def paced(clip: Clip) -> list[Chunk]:
    return [(chunk.offset_seconds, chunk.payload) for chunk in clip.chunks]


def rounds(clip: Clip, count: int) -> list[Chunk]:
    return [
        (clip.seconds * number + chunk.offset_seconds, clip.payload(index, number))
        for number in range(count)
        for index, chunk in enumerate(clip.chunks)
    ]


def scrambled(chunks: list[Chunk], pid: int = 0x100) -> list[Chunk]:
    """The same with the payload of one PID encrypted, as conditional access does: control bits set, bytes noise."""
    draw = Random(1)

    def scramble(packet: bytes) -> bytes:
        if (packet[1] & 0x1F) << 8 | packet[2] != pid:
            return packet
        start = 5 + packet[4] if packet[3] & 0x20 else 4
        return packet[:3] + bytes([packet[3] | 0x80]) + packet[4:start] + draw.randbytes(188 - start)

    return [
        (due, b"".join(scramble(piece[at : at + 188]) for at in range(0, len(piece), 188))) for due, piece in chunks
    ]


def noise_in_slices() -> list[Chunk]:
    """Pictures whose every slice is noise behind a start that promises a keyframe; the container has no fault."""
    draw, writer, chunks = Random(2), TransportWriter([Track(VIDEO_PID)]), []
    whole = Picture(640, 360).keyframe()
    begin = whole.rindex(b"\0\0\1") + 4
    for number in range(200):
        noise = bytes(draw.randrange(1, 256) for _ in range(2000))
        chunks.append(
            (number / 10, writer.tables() + writer.pes(VIDEO_PID, whole[:begin] + noise, number / 10, is_keyframe=True))
        )
    return chunks


@pytest.mark.parametrize("films", [EXOTIC[::4], pytest.param(EXOTIC, marks=pytest.mark.slow)], ids=["some", "all"])
async def test_thirty_codecs_of_other_times_are_thirty_alerts(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, films: Sequence[tuple[str, str]]
) -> None:
    """Whatever the codec and the container, within three seconds it is told that nobody can look into it."""
    assert len(EXOTIC) >= 30
    hand_over(monkeypatch)
    at_once = asyncio.Semaphore(3)

    async def told(container: str, codec: str) -> tuple[float, str, float]:
        path = tmp_path / f"{codec}.{container}"
        path.write_bytes(await asyncio.to_thread(film, container, codec))
        async with at_once, watching(nursery, SourceKind.HTTP_TS, str(path)) as watch:
            seconds, cause = await watch.first(within_seconds=20)
            return seconds, cause, watch.metrics.value("stopframe_crashes_total", process="reader")

    results = await asyncio.gather(*(told(container, codec) for container, codec in films))

    by_film = dict(zip(films, results, strict=True))
    assert {film: one for film, one in by_film.items() if one[0] > 3.0 + SLACK_SECONDS} == {}
    assert {film: one for film, one in by_film.items() if one[1] not in ("codec", "not_media", "no_video")} == {}
    assert sum(cause == "codec" for _, cause, _ in results) >= 0.6 * len(films)
    assert sum(crashes for _, _, crashes in results) == 0
    assert nursery.restarts == 0


async def test_sound_alone_is_told_as_no_video(nursery: Nursery) -> None:
    """Viewers see what their player shows; we see nothing, and say so within three seconds."""
    async with serving(sound(20.0)) as url, watching(nursery, SourceKind.HTTP_TS, url) as watch:
        seconds, cause = await watch.first(within_seconds=20)
    assert cause == "no_video"
    assert seconds < 3.4 + SLACK_SECONDS


async def test_an_encrypted_stream_is_told(nursery: Nursery) -> None:
    """Scrambled packets hold nothing for us: the stream cannot be opened, told once that took `open_timeout`."""
    async with (
        serving(scrambled(rounds(clean(), 5))) as url,
        watching(nursery, SourceKind.HTTP_TS, url, open_timeout_seconds=2.5) as watch,
    ):
        seconds, cause = await watch.first(within_seconds=25)
    assert cause == "stall"
    assert seconds < 3.4 + SLACK_SECONDS


@pytest.mark.parametrize("clip", [drip, pytest.param(None, marks=pytest.mark.slow)], ids=["drip", "frozen"])
async def test_a_publisher_that_freezes_is_told_within_three_seconds(nursery: Nursery, clip: object) -> None:
    """Four seconds of a clean picture, then nothing or a byte a second: a stall since the last packet."""
    chunks = paced(drip()) if clip else paced(clean())
    async with serving(chunks, hangs=True) as url, watching(nursery, SourceKind.HTTP_TS, url) as watch:
        await watch.first(within_seconds=22)
        (told_at, cause) = watch.told[0]
        quiet = told_at - (watch.session.last_packet_at or 0.0)
    assert cause == "stall"
    assert 2.9 < quiet < 3.6 + SLACK_SECONDS


async def test_noise_in_every_slice_is_told_as_decode_errors(nursery: Nursery) -> None:
    """A container without a fault around pictures without sense; whatever a decoder makes of the first is looked at."""
    async with (
        serving(noise_in_slices()) as url,
        watching(nursery, SourceKind.HTTP_TS, url) as watch,
    ):
        seconds, cause = await watch.first(within_seconds=25)
    assert cause == "decode_errors"
    assert seconds < 10.0 + SLACK_SECONDS


async def test_keyframes_in_name_alone_are_told(nursery: Nursery) -> None:
    """Packets that call themselves keyframes and hold no picture are no sight, however punctual they are."""
    async with serving(paced(hollow_keyframes())) as url, watching(nursery, SourceKind.HTTP_TS, url) as watch:
        seconds, cause = await watch.first(within_seconds=30)
    assert cause in ("keyframe_without_picture", "decode_errors")
    assert seconds < 4.0 + 5.2 + SLACK_SECONDS


async def test_a_change_of_pids_is_told_as_a_stall(nursery: Nursery) -> None:
    """The old PID ends and a new one starts: the demuxer gives out nothing, which is told three seconds later."""
    old, new = TransportWriter([Track(VIDEO_PID)]), TransportWriter([Track(VIDEO_PID + 1)])
    size, chunks = Picture(640, 360), []
    for number in range(10 * 15):
        at, part = number / 15, number % 15
        writer, pid = (old, VIDEO_PID) if at < 4.0 else (new, VIDEO_PID + 1)
        data = size.repeat(part) if part else size.keyframe()
        tables = b"" if part else writer.tables()
        chunks.append((at, tables + writer.pes(pid, data, at, is_keyframe=not part)))
    async with serving(chunks) as url, watching(nursery, SourceKind.HTTP_TS, url) as watch:
        await watch.first(within_seconds=22)
        told_at, cause = watch.told[0]
        quiet = told_at - (watch.session.last_packet_at or 0.0)
    assert cause == "stall"
    assert 2.9 < quiet < 3.6 + SLACK_SECONDS


async def test_a_track_that_goes_dark_beside_another_is_told(nursery: Nursery) -> None:
    """The second of two tracks sends no picture any more while the first goes on: whoever watches it sees nothing."""
    writer, size, chunks = TransportWriter([Track(VIDEO_PID), Track(VIDEO_PID + 1)]), Picture(640, 360), []
    for number in range(14 * 15):
        at, part = number / 15, number % 15
        data = size.repeat(part) if part else size.keyframe()
        payload = b"" if part else writer.tables()
        for pid in (VIDEO_PID, VIDEO_PID + 1) if at < 3.0 else (VIDEO_PID,):
            payload += writer.pes(pid, data, at, is_keyframe=not part)
        chunks.append((at, payload))
    async with serving(chunks) as url, watching(nursery, SourceKind.HTTP_TS, url) as watch:
        seconds, cause = await watch.first(within_seconds=23)
    assert cause == "no_video"
    assert seconds < 3.0 + 7.6 + SLACK_SECONDS
