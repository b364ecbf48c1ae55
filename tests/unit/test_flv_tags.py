"""FLV on its way to libav: nothing is lost or changed but what libav would leave out."""

import io
from itertools import pairwise
from random import Random

import av
import pytest

from benchmarks import upload_material
from streams.flv_tags import FlvTags, is_hidden_video
from tests.hostile import two_faced


@pytest.fixture(scope="module")
def hidden() -> bytes:
    """An FLV of 60 pictures, of which the last 30 are marked as commands."""
    return two_faced.commanded()


def _read(tags: FlvTags, size: int = 4096) -> bytes:
    return b"".join(iter(lambda: tags.read(size), b""))


@pytest.mark.parametrize("longest", [1, 7, 300, 100_000])
def test_pictures_in_commands_come_out_however_the_stream_is_cut(hidden: bytes, longest: int) -> None:
    """In pieces of any length, and in reads of any size."""
    draw = Random(longest)
    cuts = [0]
    while cuts[-1] < len(hidden):
        cuts.append(min(len(hidden), cuts[-1] + draw.randint(1, longest)))
    read = _read(FlvTags(hidden[start:end] for start, end in pairwise(cuts)), draw.randint(1, 5000))

    assert len(read) == len(hidden)
    assert sum(ours != theirs for ours, theirs in zip(read, hidden, strict=True)) == 30
    assert _pictures(io.BytesIO(hidden)) == 30
    assert _pictures(io.BytesIO(read)) == 60


def test_libav_reads_them_as_a_file(hidden: bytes) -> None:
    """As a live stream is read: with no way back."""
    assert _pictures(FlvTags(hidden[at : at + 1000] for at in range(0, len(hidden), 1000))) == 60


@pytest.mark.parametrize("content", [b"", b"FLV", b"FLV\x01\x05\0\0\0\x09\0\0\0\0\x09", bytes(1000), b"\xff" * 1000])
def test_what_is_no_whole_flv_is_handed_on_as_it_is(content: bytes) -> None:
    """Cut off in its header or in a tag's, or nothing of the kind."""
    assert _read(FlvTags([content])) == content


def test_an_honest_stream_is_not_touched() -> None:
    """Every byte of it comes out as it came."""
    honest = upload_material.clip("card:7:2")
    written = io.BytesIO()
    with av.open(io.BytesIO(honest)) as source, av.open(written, "w", format="flv") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    assert _read(FlvTags([written.getvalue()])) == written.getvalue()


@pytest.mark.parametrize(
    ("kind", "size", "first", "is_hidden"),
    [
        (9, 500, 0x57, True),
        (0x29, 500, 0xD1, True),
        (9, 2, 0x57, False),  # as the format has it: what the command is
        (9, 500, 0xD4, False),
        (9, 500, 0x17, False),
        (8, 500, 0x57, False),
    ],
)
def test_commands_with_more_than_a_byte_hold_video(kind: int, size: int, first: int, is_hidden: bool) -> None:  # noqa: FBT001
    """In the old format and in the enhanced one, of which metadata is left alone."""
    assert is_hidden_video(bytes([kind, 0, *size.to_bytes(2, "big"), *bytes(7), first])) == is_hidden


def _pictures(file: io.BytesIO | FlvTags) -> int:
    with av.open(file, format="flv") as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))
