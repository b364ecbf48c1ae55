"""Readers that are killed as often as they start, as by a stream that crashes its decoder."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from benchmarks.hostile_clips import clean
from streams.job import SourceKind
from streams.nursery import Nursery
from tests.hostile.blind_scene import Chunk, Watch, serving, watching
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

_EVERY_SECONDS = 0.6
"""A hundred crashes a minute."""


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery("streams.reader:main") as one:
        yield one


def film(seconds: float) -> list[Chunk]:
    clip = clean()
    return [
        (clip.seconds * number + chunk.offset_seconds, clip.payload(index, number))
        for number in range(round(seconds / clip.seconds))
        for index, chunk in enumerate(clip.chunks)
    ]


async def crash(watch: Watch) -> list[float]:
    """Send SIGSEGV to each reader of a session every 0.6 s until it rests; gives how long each took to be replaced."""
    repairs: list[float] = []
    while watch.session.state != "quarantined":
        await asyncio.sleep(_EVERY_SECONDS)
        pid, readers = watch.session.reader_pid, watch.session.readers
        if pid is None:
            continue
        killed_at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSEGV)
        while watch.session.readers == readers and watch.session.state != "quarantined":
            await asyncio.sleep(0.002)
        if watch.session.readers > readers:
            repairs.append(time.monotonic() - killed_at)
    return repairs


async def test_a_stream_that_crashes_its_readers_is_left_alone_and_nobody_else_notices(nursery: Nursery) -> None:
    """A reader that died is replaced within 200 ms; after five in a minute the stream rests, with an alert."""
    async with (
        serving(film(40.0)) as url,
        watching(nursery, SourceKind.HTTP_TS, url) as hostile,
        watching(nursery, SourceKind.HTTP_TS, url) as first,
        watching(nursery, SourceKind.HTTP_TS, url) as second,
    ):
        async with asyncio.timeout(35):
            repairs = await crash(hostile)
            while min(other.session.judge.judged for other in (first, second)) < 7:
                await asyncio.sleep(0.05)
        quiet_seconds = time.monotonic() - first.session.started_at

        assert hostile.session.state == "quarantined"
        assert hostile.metrics.value("stopframe_crashes_total", process="reader") == 5
        assert [cause for _, cause in hostile.told] == ["crash_loop"]
        assert len(repairs) == 4
        assert min(repairs) <= 0.5, repairs
        assert max(repairs) <= 0.2 + SLACK_SECONDS, repairs
        for other in (first, second):
            assert other.session.readers == 1
            assert other.told == []
        assert quiet_seconds < 10.0 + SLACK_SECONDS, "a keyframe a second"
        assert nursery.restarts == 0
