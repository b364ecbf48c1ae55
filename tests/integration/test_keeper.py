"""The keeper against readers that crash, hang, lie and flood."""

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from streams.frame import Frame, SampleReason
from streams.job import Job, SandboxMode, SourceKind
from streams.keeper import (
    SILENCE_SECONDS,
    Keeper,
    Nursery,
    ReaderCrashed,
    ReaderFailed,
    ReaderMisbehaved,
    ReaderStalled,
)
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import Burst, EndCode, Ended, Heartbeat, Opened
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

CHILDREN = str(Path(__file__).with_name("children"))


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("acting_reader:main", search_paths=[CHILDREN]) as nursery:
        yield nursery


def part(name: str, *, live: bool = True) -> Job:
    return Job(SourceKind.RTMP, name, 1935, live=live, sampling=SamplingSettings(), sandbox=SandboxMode.PREFER)


async def failure_of(nursery: Nursery, job: Job) -> tuple[ReaderFailed, list[object]]:
    """Return how the reader failed and what was delivered before."""
    seen: list[object] = []
    async with Keeper(nursery, job) as keeper:
        try:
            async for message in keeper.messages():
                seen.append(message)  # noqa: PERF401 - what came before the error counts
        except ReaderFailed as failure:
            return failure, seen
    pytest.fail(f"the reader did not fail: {seen}")


async def test_messages_arrive_in_order_and_end_with_one_ended(nursery: Nursery) -> None:
    """A well-behaved reader's words come through once each, the last word last."""
    async with Keeper(nursery, part("whole:5", live=False)) as keeper:
        seen = [message async for message in keeper.messages()]
        assert keeper.last_heartbeat is not None

    assert isinstance(seen[0], Opened)
    assert [message.sequence for message in seen if isinstance(message, Frame)] == [0, 1, 2, 3, 4]
    assert [message for message in seen if isinstance(message, Ended)] == [seen[-1]]


async def test_messages_after_the_end_are_over(nursery: Nursery) -> None:
    """Asking again after the last word gives nothing and does not wait."""
    async with Keeper(nursery, part("whole:1")) as keeper:
        assert [message async for message in keeper.messages()]
        assert [message async for message in keeper.messages()] == []


@pytest.mark.parametrize(("how", "exit_code"), [("segv", -signal.SIGSEGV), ("raise", 1), ("0", 0), ("7", 7)])
async def test_crash_is_reported_with_its_status(nursery: Nursery, how: str, exit_code: int) -> None:
    """A reader that ends without a last word raises ReaderCrashed after what it said before was delivered."""
    failure, seen = await failure_of(nursery, part(f"crash:{how}"))

    assert isinstance(failure, ReaderCrashed)
    assert os.waitstatus_to_exitcode(failure.status) == exit_code
    assert [type(message) for message in seen] == [Opened, Frame]


async def test_silence_is_a_stall(nursery: Nursery) -> None:
    """A reader that is stopped, hangs or drips bytes is given up after 2.5 s."""

    async def is_given_up(how: str) -> None:
        began = time.monotonic()
        failure, seen = await failure_of(nursery, part(f"mute:{how}"))
        assert isinstance(failure, ReaderStalled), how
        assert [type(message) for message in seen] == [Opened], how
        assert SILENCE_SECONDS - 0.1 < time.monotonic() - began < SILENCE_SECONDS + 2 * SLACK_SECONDS, how

    async with asyncio.TaskGroup() as group:
        for how in ("stopped", "half", "drip", "hang"):
            group.create_task(is_given_up(how))


async def test_endless_work_is_a_stall(nursery: Nursery) -> None:
    """A decoder that has worked on one packet for more than 5 s is given up although its heart beats."""
    failure, _ = await failure_of(nursery, part("busy:5.5"))

    assert isinstance(failure, ReaderStalled)


async def test_three_seconds_of_work_are_no_stall(nursery: Nursery) -> None:
    """A decoder that has worked for 3 s is left alone."""
    async with Keeper(nursery, part("busy:3")) as keeper:
        heartbeats = 0
        async for message in keeper.messages():
            heartbeats += isinstance(message, Heartbeat)
            if heartbeats == 3:
                break

    assert heartbeats == 3


@pytest.mark.parametrize(
    "lie",
    [
        "repeats", "backwards", "frame_first", "opens_twice", "too_old", "from_the_future", "decoded_before",
        "clock_ahead", "orders", "garbage", "no_such_track", "burst_repeats", "burst_first", "counts_back",
        "costs_much",
    ],
)  # fmt: skip
async def test_lie_ends_the_reader(nursery: Nursery, lie: str) -> None:
    """What no honest reader says raises ReaderMisbehaved, and the process is dead."""
    async with Keeper(nursery, part(f"lie:{lie}")) as keeper:
        with pytest.raises(ReaderMisbehaved):
            async for _ in keeper.messages():
                pass
        deadline = time.monotonic() + 20.0
        while psutil.pid_exists(keeper.pid) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not psutil.pid_exists(keeper.pid)


async def test_file_may_have_old_media_times(nursery: Nursery) -> None:
    """With `live` False the arrival clock is the media's own and may be any time."""
    async with Keeper(nursery, part("lie:too_old", live=False)) as keeper:
        async for message in keeper.messages():
            if isinstance(message, Frame):
                return
    pytest.fail("the frame was not delivered")


@pytest.mark.parametrize("what", ["frames", "heartbeats"])
async def test_flood_ends_the_reader_and_leaves_the_others_their_time(nursery: Nursery, what: str) -> None:
    """A reader that sends as fast as it can is ended, and meanwhile the event loop serves others."""
    longest = 0.0

    async def be_another() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()  # what others on this machine take is not the keeper's
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    other = asyncio.create_task(be_another())
    failure, _ = await failure_of(nursery, part(f"flood:{what}"))
    other.cancel()

    assert isinstance(failure, ReaderMisbehaved)
    assert longest < 0.5


async def test_closed_socket_of_a_living_reader_is_no_crash(nursery: Nursery) -> None:
    """A reader that closes its socket and lives on is killed."""
    failure, _ = await failure_of(nursery, part("closes"))

    assert isinstance(failure, ReaderMisbehaved)


async def test_slow_consumer_of_a_live_stream_gets_the_newest_of_each_reason(nursery: Nursery) -> None:
    """One frame of each reason waits; a newer one takes its place and is counted."""
    async with Keeper(nursery, part("burst")) as keeper:
        async with asyncio.timeout(30):
            while keeper.replaced_frames < 18:
                await asyncio.sleep(0.01)
        frames = [message async for message in keeper.messages() if isinstance(message, Frame)]

        assert {frame.reason: frame.sequence for frame in frames} == {
            SampleReason.KEYFRAME: 18,
            SampleReason.INTERVAL: 19,
        }
        assert len(frames) == 2
        assert keeper.replaced_frames == 18


async def test_slow_consumer_of_a_live_stream_gets_each_burst_whole(nursery: Nursery) -> None:
    """Nothing takes the place of a burst that waits; those that find two waiting are left out and counted."""
    async with Keeper(nursery, part("whole_gops:4")) as keeper:
        async with asyncio.timeout(30):
            while keeper.replaced_frames < 2 * 3 + 9:
                await asyncio.sleep(0.01)
        bursts = [message async for message in keeper.messages() if isinstance(message, Burst)]

        assert [[frame.sequence for frame in burst.frames] for burst in bursts] == [[0, 1, 2], [10, 11, 12]]
        assert keeper.replaced_frames == 2 * 3 + 9


async def test_burst_from_a_scan_ends_its_reader(nursery: Nursery) -> None:
    """A file has no GOPs that are decoded by chance."""
    failure, _ = await failure_of(nursery, part("whole_gops:1", live=False))

    assert isinstance(failure, ReaderMisbehaved)


async def test_slow_consumer_of_a_file_loses_nothing(nursery: Nursery) -> None:
    """With `live` False the reader waits for its consumer, longer than any stall would last."""
    sequences: list[int] = []
    async with Keeper(nursery, part("burst", live=False)) as keeper:
        async for message in keeper.messages():
            if isinstance(message, Frame):
                if not sequences:
                    await asyncio.sleep(SILENCE_SECONDS + 0.1)
                sequences.append(message.sequence)

        assert sequences == list(range(20))
        assert keeper.replaced_frames == 0


async def test_service_that_sleeps_blames_no_reader(nursery: Nursery) -> None:
    """When the service itself was stopped for longer than that, its readers are not taken for silent."""
    async with Keeper(nursery, part("alive")) as alive, Keeper(nursery, part("busy:3")) as busy:
        time.sleep(SILENCE_SECONDS + 0.1)
        for keeper in (alive, busy):
            messages = keeper.messages()
            assert isinstance(await anext(messages), Opened)
            for _ in range(5):
                assert isinstance(await anext(messages), Heartbeat)


async def test_order_reaches_the_reader(nursery: Nursery) -> None:
    """`look_closer` and `adjust` arrive at the reader with their values."""
    async with Keeper(nursery, part("obey")) as keeper:
        assert await keeper.look_closer(0.25, 1234.5)
        *_, last = [message async for message in keeper.messages()]

    assert last == Ended(EndCode.END_OF_STREAM, 1234.5, "every 0.25")

    async with Keeper(nursery, part("obey")) as keeper:
        assert await keeper.adjust(SamplingSettings(4.5, 2.0, SamplingMode.FULL))
        *_, last = [message async for message in keeper.messages()]

    assert last == Ended(EndCode.END_OF_STREAM, 4.5, "full")


async def test_order_to_a_dead_reader_is_refused(nursery: Nursery) -> None:
    """An order to a reader that is gone says so and raises nothing."""
    async with Keeper(nursery, part("crash:7")) as keeper:
        with pytest.raises(ReaderCrashed):
            async for _ in keeper.messages():
                pass

        assert not await keeper.look_closer(1.0, 2.0)
        assert not await keeper.adjust(SamplingSettings())


async def test_fifty_lives_leave_nothing_behind(nursery: Nursery) -> None:
    """Fifty readers, started and killed, leave no descriptor, process, zombie or task; a start and an end are quick."""
    ourselves = psutil.Process()

    def holdings() -> tuple[int, int, int]:
        return ourselves.num_fds(), len(ourselves.children(recursive=True)), len(asyncio.all_tasks())

    before = holdings()
    spans = []
    for _ in range(50):
        began = time.monotonic()
        async with Keeper(nursery, part("alive")) as keeper:
            assert isinstance(await anext(keeper.messages()), Opened)
        spans.append(time.monotonic() - began)

    assert nursery.live_children == 0
    assert holdings() == before
    assert sorted(spans)[5] < 0.1  # the others may have waited for a turn


async def test_dead_forkserver_is_replaced(nursery: Nursery) -> None:
    """When the forkserver dies, its readers count as crashed and the next reader starts nevertheless."""
    async with Keeper(nursery, part("alive")) as keeper:
        await anext(keeper.messages())
        parent = psutil.Process(keeper.pid).parent()
        assert parent is not None
        parent.kill()
        with pytest.raises(ReaderCrashed):
            async for _ in keeper.messages():
                pass

    async with Keeper(nursery, part("whole:1")) as keeper:
        seen = [message async for message in keeper.messages()]
    assert isinstance(seen[-1], Ended)
    assert nursery.restarts == 1
    assert math.isnan(seen[-1].media_end_seconds)
