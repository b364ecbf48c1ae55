"""Every video track that a viewer could choose is looked at, or the stream is said to be blind."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import numpy as np
import pytest

from benchmarks import hostile_clips
from benchmarks.bitstreams import Picture
from benchmarks.clips import Clip
from benchmarks.transport import Track, TransportWriter
from streams.frame import MAX_TRACKS
from streams.keeper import Nursery
from streams.sampling import SamplingSettings
from streams.wire import EndCode, Ended
from tests.fixtures_hostile import Chunks, Seen, watch
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

FIRST, SECOND = 0x100, 0x101
RATE = 15


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main") as nursery:
        yield nursery


def paced(clip: Clip) -> Chunks:
    return [(chunk.offset_seconds, chunk.payload) for chunk in clip.chunks]


def grown(seconds: float, late_from: float, *, first_stays: bool = True) -> Chunks:
    """A track from the start, and another that the tables name only from `late_from` on."""
    size = Picture(320, 240)
    chunks: list[tuple[float, bytes]] = []
    writers = {False: TransportWriter([Track(FIRST)]), True: TransportWriter([Track(FIRST), Track(SECOND)])}
    for number in range(round(seconds * RATE)):
        at = number / RATE
        is_key, is_late = number % RATE == 0, at >= late_from
        writer = writers[is_late]
        data = size.keyframe() if is_key else size.repeat(number % RATE)
        payload = writer.tables() if is_key else b""
        if first_stays or not is_late:
            payload += writer.pes(FIRST, data, at, is_keyframe=is_key)
        if is_late:
            payload += writer.pes(SECOND, data, at, is_keyframe=is_key)
        chunks.append((at, payload))
    return chunks


def longest_gap(seen: Seen, track: int) -> float:
    at = [frame.arrived_at for frame in seen.frames if frame.track == track]
    return max(later - earlier for earlier, later in pairwise(at))


def stood_still(seen: Seen) -> float:
    """For how long this machine gave no time to the reader or to us, by the heartbeats that came late."""
    late = (later - earlier - 0.6 for (earlier, _), (later, _) in pairwise(seen.beats))
    return sum(max(0.0, seconds) for seconds in late)


async def test_second_track_is_looked_at_like_the_first(nursery: Nursery) -> None:
    """Of two tracks each is sampled as promised, and no sample of one is taken for the other's."""
    sampling = SamplingSettings(detect_within_seconds=1.5)
    seen = await watch(nursery, paced(hostile_clips.two_tracks()), sampling=sampling)

    assert seen.opened.video_tracks == 2
    planes = [
        np.mean([np.frombuffer(frame.plane, np.uint8) for frame in seen.frames if frame.track == track], axis=0)
        for track in (0, 1)
    ]
    assert np.abs(planes[0] - planes[1]).mean() > 15
    for track in (0, 1):
        assert sum(frame.track == track for frame in seen.frames) >= 4
        assert longest_gap(seen, track) <= 1.6 + stood_still(seen)
    assert seen.beats[-1][1].tracks_heard == 0b11
    assert [frame.sequence for frame in seen.frames] == sorted({frame.sequence for frame in seen.frames})


@pytest.mark.parametrize("first_stays", [True, False])
async def test_track_that_comes_later_ends_the_reader(nursery: Nursery, *, first_stays: bool) -> None:
    """A PID that the tables add on the way is noticed within a second beside the first, else with the read timeout."""
    late_from = 2.0
    seen = await watch(nursery, grown(6.0, late_from, first_stays=first_stays), stays=True, read_timeout_seconds=2.0)

    code, at = seen.end()
    if first_stays:
        assert code is EndCode.TRACKS_CHANGED
        assert at <= late_from + 1.5 + SLACK_SECONDS
    else:  # the demuxer gives out nothing any more: only time tells
        assert code is EndCode.TIMEOUT
        assert at <= late_from + 2.0 + 2.0 + SLACK_SECONDS


async def test_track_that_was_announced_and_never_came_is_told(nursery: Nursery) -> None:
    """A track that only stands in the tables shows nobody anything: heartbeats say which ones were heard."""
    size, writer = Picture(320, 240), TransportWriter([Track(FIRST), Track(SECOND)])
    chunks = [
        (number / RATE, writer.tables() + writer.pes(FIRST, size.keyframe(), number / RATE, is_keyframe=True))
        for number in range(2 * RATE)
    ]
    seen = await watch(nursery, chunks)

    assert seen.opened.video_tracks == 2
    assert seen.beats[-1][1].tracks_heard == 0b01


async def test_crowd_of_tracks_is_refused_at_once(nursery: Nursery) -> None:
    """A thousand video PIDs cost one look, and the stream is told to be blind."""
    seen = await watch(nursery, paced(hostile_clips.many_pids()), stays=True)

    code, at = seen.end()
    assert code is EndCode.TOO_MANY_TRACKS
    assert at <= 1.5 + SLACK_SECONDS
    assert not seen.frames


async def test_as_many_tracks_as_promised_share_one_ring(nursery: Nursery) -> None:
    """Eight tracks are looked at, each of them, and hold no more packets together than one could."""
    size = Picture(320, 240)
    pids = [FIRST + number for number in range(MAX_TRACKS)]
    writer = TransportWriter([Track(pid) for pid in pids])
    ring_limit_bytes = 64 * 1024
    chunks = []
    for number in range(3 * RATE):
        data = size.keyframe() if number % (2 * RATE) == 0 else size.repeat(number % (2 * RATE))
        payload = writer.tables() + b"".join(
            writer.pes(pid, data, number / RATE, is_keyframe=number % (2 * RATE) == 0) for pid in pids
        )
        chunks.append((number / RATE, payload))
    seen = await watch(nursery, chunks, ring_limit_bytes=ring_limit_bytes)

    assert {frame.track for frame in seen.frames} == set(range(MAX_TRACKS))
    assert max(beat.ring_bytes for _, beat in seen.beats) <= ring_limit_bytes
    assert seen.beats[-1][1].ring_overflows > 0


async def test_readers_of_a_stream_that_changes_are_quickly_replaced(nursery: Nursery) -> None:
    """Opened anew, the stream with the late track is looked at whole in less than three seconds."""
    chunks = grown(8.0, 1.5)
    first = await watch(nursery, chunks, stays=True)
    noticed_at = first.told[-1][0]
    rest = [(at - noticed_at, payload) for at, payload in chunks if at >= noticed_at]

    def both_are_seen(seen: Seen) -> bool:
        return {frame.track for frame in seen.frames} == {0, 1}

    second = await asyncio.wait_for(watch(nursery, rest, until=both_are_seen), 30)
    assert not isinstance(second.told[-1][1], Ended)
    assert noticed_at - 1.5 + second.told[-1][0] < 3.0 + SLACK_SECONDS
