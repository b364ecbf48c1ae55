"""A session changes to another rendition where one gives nothing, and tells a publisher's times that are off."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from detector import rendition_watch
from streams.address import Place
from streams.job import Job
from streams.reach import Reached
from streams.renditions import Renditions
from streams.sampling import SamplingSettings
from streams.wire import EndCode, Ended
from tests.fixtures_session import OPENED, FakeReader, Scene, frame, heartbeat

PLACE = Place(urlsplit("http://h/master.m3u8"), "h", 80, "127.0.0.1")
MASTER = b"""#EXTM3U
#EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION=640x360
low.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=2,RESOLUTION=1280x720
high.m3u8
"""


class Ladder(Scene):
    """A scene whose source is a playlist of two renditions: each reader asks for it once."""

    def _reach(
        self, job: Job, refused: Callable[[], None], renditions: object = None
    ) -> AbstractAsyncContextManager[Reached]:
        assert isinstance(renditions, Renditions)
        renditions.lowest_of(MASTER, PLACE, "/master.m3u8")
        return super()._reach(job, refused)


async def test_rendition_whose_reader_ends_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read is tried once; the other size is looked at, and the switch is counted."""
    scene = Ladder(monkeypatch, [Ended(EndCode.NOT_FOUND, math.nan, "")], [OPENED, frame(1), 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.state == "live")
        assert (session.renditions.shown, session.renditions.switches) == ("1280x720 of 2", 1)
    assert scene.metrics.value("stopframe_rendition_switches_total") == 1


async def test_rendition_that_shows_nothing_gives_way_while_its_reader_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes come and no picture: after a while the next rendition is looked at; the last one is not left so."""
    monkeypatch.setattr(rendition_watch, "SWITCHED_AFTER_SECONDS", 0.1)
    dark = [OPENED, *[line for _ in range(6) for line in (heartbeat(), 0.05)], 60.0]
    scene = Ladder(monkeypatch, list(dark), list(dark), [OPENED, frame(1), 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.renditions.switches == 1)
        await scene.until(lambda: len(FakeReader.jobs) == 2)
        assert session.renditions.shown == "1280x720 of 2"
        assert not session.renditions.has_another
    assert len(FakeReader.jobs) == 2


async def test_times_that_are_off_are_counted_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jump and a skew are each told once, summed over readers, and change nothing else."""
    now = time.monotonic()
    beats = [
        replace(heartbeat(), sent_at=now, time_jumps=1),
        replace(heartbeat(), sent_at=now + 0.5, time_jumps=1, time_skew_seconds=-7.0),
        replace(heartbeat(), sent_at=now + 1.0, time_jumps=1, time_skew_seconds=-7.5),
    ]
    scene = Scene(monkeypatch, [OPENED, frame(1), *beats, 60.0])
    async with scene.running() as session:
        await scene.until(lambda: session.times.skew_seconds == -7.5)
        assert (session.times.jumps, session.state) == (1, "live")
        assert session.settings.job.sampling == SamplingSettings()
    assert scene.metrics.value("stopframe_time_faults_total", kind="jump") == 1
    assert scene.metrics.value("stopframe_time_faults_total", kind="skew") == 1
    assert not scene.decisions
