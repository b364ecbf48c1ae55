"""The attackers' streams are what they say: else the benchmarks would measure something harmless."""

import io
from collections import Counter

import av
import pytest

from benchmarks import hostile_clips
from benchmarks.bitstreams import Picture, adts_frames
from benchmarks.clips import Clip
from benchmarks.hostile_clips import BOMB, CLIPS, VIDEO_PID, as_bytes
from benchmarks.transport import AAC, PACKET_BYTES, Track, TransportWriter, pids


def opened(clip: Clip, **options: str) -> av.container.InputContainer:
    return av.open(io.BytesIO(as_bytes(clip)), format="mpegts", options=options)


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (640, 360), (90, 50)])
def test_hand_written_pictures_decode_to_their_size(size: tuple[int, int]) -> None:
    """A keyframe, its repetition and a picture of slices decode without an error, in the size asked for."""
    picture = Picture(*size)
    decoder = av.CodecContext.create("h264", "r")
    frames = []
    for number, data in enumerate([picture.keyframe(), picture.repeat(1), picture.sliced(0), picture.sliced(1)]):
        packet = av.Packet(data)
        packet.pts = number
        frames += decoder.decode(packet)
    frames += decoder.decode(None)

    assert [(frame.width, frame.height) for frame in frames] == [size] * 4
    assert not any(frame.is_corrupt for frame in frames)


def test_audio_frames_are_as_many_as_asked() -> None:
    """A demuxer finds each of the tiny audio frames."""
    writer = TransportWriter([Track(0x100, AAC)])
    stream = writer.tables() + b"".join(writer.pes(0x100, adts_frames(100), number / 10) for number in range(10))
    with av.open(io.BytesIO(stream), format="mpegts") as container:
        assert sum(1 for packet in container.demux(container.streams.audio[0]) if packet.size) >= 990


def test_bomb_is_small_and_huge() -> None:
    """16000x16000 pixels are announced by less than a megabyte, in a valid keyframe."""
    clip = hostile_clips.bomb()
    assert len(as_bytes(clip)) < 1_000_000
    with opened(clip, max_pixels="1000000000") as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (BOMB.width, BOMB.height)


def test_switch_goes_on_under_the_same_pid() -> None:
    """The big pictures come as keyframes of the track that began small."""
    clip = hostile_clips.resolution_switch()
    first_big = next(chunk for chunk in clip.chunks if chunk.offset_seconds >= hostile_clips.VALID_SECONDS)
    assert first_big.is_keyframe
    decoder = av.CodecContext.create("h264", "r")
    packet = av.Packet(hostile_clips.SWITCHED.keyframe())
    frame = [*decoder.decode(packet), *decoder.decode(None)][0]
    assert (frame.width, frame.height) == (8192, 8192)
    assert set(pids(as_bytes(clip))) == {0, 0x1F00, VIDEO_PID}


def test_many_pids_are_all_announced() -> None:
    """A demuxer without a limit sees 1,000 tracks."""
    with opened(hostile_clips.many_pids(), max_streams="2000") as container:
        assert len(container.streams) == 1000


def test_two_tracks_show_two_pictures() -> None:
    """The second track decodes, and shows something else."""
    with opened(hostile_clips.two_tracks()) as container:
        shown = {}
        for packet in container.demux():
            for frame in packet.decode():
                shown.setdefault(packet.stream_index, frame.to_ndarray(format="gray"))
    assert sorted(shown) == [0, 1]
    assert abs(shown[0].astype(int) - shown[1]).mean() > 20


def test_hollow_keyframes_hold_no_picture() -> None:
    """What follows the valid start is flagged as keyframes, and decoding gives nothing."""
    with opened(hostile_clips.hollow_keyframes()) as container:
        stream = container.streams.video[0]
        late = [
            packet
            for packet in container.demux(stream)
            if packet.size and packet.pts * packet.time_base > hostile_clips.VALID_SECONDS + 0.5
        ]
        assert len(late) > 100
        assert all(packet.is_keyframe for packet in late)
        outcomes = Counter()
        for packet in late[:20]:
            try:
                outcomes["frames"] += len(stream.codec_context.decode(packet))
            except av.error.InvalidDataError:
                outcomes["errors"] += 1
    assert outcomes == {"errors": 20}


@pytest.mark.parametrize("name", sorted(CLIPS))
def test_attack_is_sent_in_order(name: str) -> None:
    """Every chunk has its time within the round; what is no noise consists of whole packets."""
    clip = CLIPS[name]()
    offsets = [chunk.offset_seconds for chunk in clip.chunks]
    assert offsets == sorted(offsets)
    assert offsets[-1] < clip.seconds
    if not clip.is_verbatim:
        assert all(len(chunk.payload) % PACKET_BYTES == 0 for chunk in clip.chunks)
        assert all(chunk.payload[0] == 0x47 for chunk in clip.chunks)


def test_endless_gop_has_one_keyframe() -> None:
    """Only its first picture is a keyframe, and no other picture claims to be one."""
    keyframes = [chunk.is_keyframe for chunk in hostile_clips.endless_gop().chunks]
    assert keyframes[0]
    assert sum(keyframes) == 1
