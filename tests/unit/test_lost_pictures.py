"""Pictures that a decoder took in and kept for itself, and what an MPEG-TS may hold that libav does not show."""

import io
import os

import av
import pytest

from benchmarks import upload_material
from streams.decoder import Decoder
from streams.lost_pictures import LostPictures
from streams.transport_faults import transport_fault
from tests.hostile import two_faced

_SLICE, _HEADERS = memoryview(b"\0\0\0\1\x41x"), memoryview(b"\0\0\0\1\x67x")
_AVCC = bytes([1, 66, 0, 30, 0xFF])
_NOT_DECODED = "which are not decoded"


def test_a_picture_is_lost_that_no_decoder_would_keep_back_for_so_long() -> None:
    """Beyond what the decoder says to reorder, or at the end; what holds no picture gives none."""
    lost = LostPictures("h264", None)
    assert [lost.fed(_SLICE, 0, 0, depth=1) for _ in range(4)] == [0, 0, 1, 1]
    assert lost.fed(_HEADERS, 0, 0, depth=1) == 0
    assert (lost.drained(1, 0), lost.drained(0, 0), lost.count) == (1, 0, 3)


def test_fields_may_come_in_two_packets() -> None:
    """Interlaced frames, each of two packets, are counted as lost, and may not be."""
    lost = LostPictures("h264", None)
    for number in range(10):
        lost.fed(_SLICE, number % 2, number % 2, depth=0)
    lost.drained(0, 0)
    assert (lost.count, lost.least) == (5, 0)


@pytest.mark.parametrize(
    ("codec", "headers", "packet", "is_counted"),
    [
        ("h264", _AVCC, b"\0\0\0\2\x06x\0\0\0\2\x65x", 1),
        ("h264", _AVCC, b"\0\0\0\2\x06x\0\0\0\2\x07x", 0),
        ("h264", _AVCC, b"\xff\xff\xff\xff", 0),
        ("hevc", None, b"\0\0\1\x26x", 1),
        ("hevc", None, b"\0\0\1\x40x", 0),
        ("vp8", None, b"any", 0),
    ],
)
def test_packets_with_a_slice_hold_a_picture(codec: str, headers: bytes, packet: bytes, is_counted: int) -> None:
    """With start codes and with lengths, and however they lie."""
    lost = LostPictures(codec, headers)
    lost.fed(memoryview(packet), 0, 0, depth=0)
    assert lost.drained(0, 0) == is_counted


def test_what_libav_would_drop_comes_out_once_some_were_lost() -> None:
    """B-frames of a stream that says it has none: a decoder that believes it shows two thirds less."""
    with av.open(io.BytesIO(two_faced.out_of_turn()), format="mpegts") as container:
        stream = container.streams.video[0]
        stream.codec_context.reorder_depth = 0  # as where nothing but the stream's own word is known
        decoder = Decoder(stream, 1 << 20)
        packets = [packet for packet in container.demux(stream) if packet.size]
        frames = sum(len(decoder.decode_through(packet)) for packet in packets) + len(decoder.finish_through())
    assert frames + decoder.lost.count == len(packets) == 45
    assert decoder.lost.count <= 3


@pytest.mark.parametrize("is_in_192", [False, True])
@pytest.mark.parametrize("junk", [b"", b"junk"])
def test_transport_streams_are_read_as_libav_reads_them(junk: bytes, is_in_192: bool) -> None:  # noqa: FBT001
    """In packets of 188 and 192 bytes, also behind bytes that are no packet; honest ones and joined ones pass."""
    good = upload_material.clip("card:5:2")
    told = [_told(_in_192(part) if is_in_192 else part, junk) for part in (good, two_faced.padded(), _doubled_late())]
    assert told[0] is None
    assert _NOT_DECODED in (told[1] or "")
    assert "twice" in (told[2] or "")


def _doubled_late() -> bytes:
    """As `doubled`; a packet that comes again may have another time, near its beginning."""
    content = two_faced.doubled()
    return b"".join(
        content[at : at + 8] + bytes([at // 188 % 256]) + content[at + 9 : at + 188]
        for at in range(0, len(content), 188)
    )


def _in_192(content: bytes) -> bytes:
    return b"".join(b"\x11\x22\x33\x44" + content[at : at + 188] for at in range(0, len(content), 188))


def test_tables_that_come_again_are_no_pictures_that_come_twice() -> None:
    """Where recordings are joined each may begin with the same table under the same number."""
    content = bytearray(upload_material.clip("card:7:2"))
    tables = [at for at in range(0, len(content), 188) if not content[at + 1] & 0x1F and not content[at + 2]]
    for at in tables:
        content[at + 3] &= 0xF0
    assert len(tables) > 5
    assert _told(bytes(content), b"") is None


def _told(content: bytes, junk: bytes) -> str | None:
    descriptor = os.memfd_create("transport")
    try:
        stride = 192 if content[0] == 0x11 else 188
        os.write(descriptor, content[: 4 * stride] + junk + content[4 * stride :])
        return transport_fault(descriptor)
    finally:
        os.close(descriptor)
