"""What is uploaded in measurements and tests: pictures, clips, and files that are small to send and large to decode."""

import io
import zlib
from collections.abc import Iterator
from fractions import Fraction

import av
import cv2
from cv2.typing import MatLike

from benchmarks import hostile_clips
from benchmarks.bitstreams import Picture
from detector.cards import parse_script, synthetic_card
from detector.publisher import Chunk, Encoding, encoded

FPS = 25

_NULL_PACKET = b"\x47\x1f\xff\x10" + b"\xff" * 184


def picture(seed: int, width: int = 1920, height: int = 1080) -> bytes:
    """Return the synthetic card of `seed` as a JPEG."""
    return _encoded(cv2.cvtColor(synthetic_card(seed, width, height), cv2.COLOR_RGB2BGR))


def edited(seed: int, number: int) -> bytes:
    """Return a copy of that card that was mirrored, cropped, framed or scaled, by turns."""
    card = cv2.cvtColor(synthetic_card(seed, 1280, 720), cv2.COLOR_RGB2BGR)
    match number % 4:
        case 0:
            card = cv2.flip(card, 1)
        case 1:
            card = card[14:-14, 25:-25]  # two of a hundred at each side
        case 2:
            card = cv2.copyMakeBorder(card, 60, 60, 100, 100, cv2.BORDER_CONSTANT)
        case _:
            card = cv2.resize(card, (500, 281), interpolation=cv2.INTER_AREA)
    return _encoded(card)


def clip(script: str, *, size: str = "640x360") -> bytes:
    """Return a script of cards (`card:5:2,card:6:2`) as MPEG-TS."""
    width, height = map(int, size.split("x"))
    chunks = encoded(parse_script(script), Encoding(width=width, height=height))
    return b"".join(chunk.payload for chunk in chunks if isinstance(chunk, Chunk))


def long_clip(content: bytes, length_bytes: int, rounds: int) -> bytes:
    """Repeat an MPEG-TS `rounds` times, with null packets between to come to that length, as a constant rate has them.

    Its times start anew each time, as in what somebody joined by hand.
    """
    stuffing = max(0, length_bytes - rounds * len(content)) // rounds // len(_NULL_PACKET)
    return (content + _NULL_PACKET * stuffing) * rounds


def png_bomb(side: int = 50_000) -> bytes:
    """Return a whole PNG of `side` x `side` pixels that are all black: some 300 kB for 2.5 thousand million of them."""
    packer, row = zlib.compressobj(9), bytes(1 + (side + 7) // 8)
    rows = b"".join(packer.compress(row * 500) for _ in range(side // 500)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in (
            (b"IHDR", side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"),
            (b"IDAT", rows),
            (b"IEND", b""),
        )
    )


def mp4_bomb(frames: int, width: int = 1920, height: int = 1080) -> bytes:
    """Return an MP4 of one black keyframe and `frames` repetitions: some 60 bytes for each picture to be decoded."""
    shown = Picture(width, height)
    template = hostile_clips.as_bytes(hostile_clips.clean(1.0))
    written = io.BytesIO()
    with av.open(io.BytesIO(template), "r", format="mpegts") as source, av.open(written, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.codec_context.extradata = shown.headers()
        stream.width, stream.height = width, height
        for number in range(frames + 1):
            packet = av.Packet(shown.repeat(number) if number else shown.keyframe())
            packet.stream, packet.is_keyframe = stream, not number
            packet.pts = packet.dts = number * 90_000 // FPS
            packet.duration, packet.time_base = 90_000 // FPS, Fraction(1, 90_000)
            target.mux(packet)
    return written.getvalue()


def endless_matroska(seed: int = 1) -> Iterator[bytes]:
    """Yield a Matroska whose segment and clusters have no size and never end."""
    written = io.BytesIO()
    content, options = io.BytesIO(clip(f"card:{seed}:2")), {"live": "1"}
    with (
        av.open(content, "r", format="mpegts") as source,
        av.open(written, "w", format="matroska", options=options) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = written.getvalue()
    first = whole.index(b"\x1f\x43\xb6\x75")  # the first cluster
    yield whole[:first]
    cluster = whole[first:]
    while True:
        yield cluster


def _encoded(shown: MatLike) -> bytes:
    is_done, content = cv2.imencode(".jpg", shown)
    assert is_done
    return content.tobytes()
