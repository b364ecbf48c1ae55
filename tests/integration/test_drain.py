"""The end of the service: nothing new is begun, what was begun is judged, told and proved."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from detector.analysis.pool import AnalysisPool
from detector.assembly import open_service
from detector.events import CutResult, CutState, Publisher, StreamKey
from detector.ingest.adapter import PublisherStarted
from detector.ingest.embedded import EmbeddedIngest
from models.evidence import Inspection
from streams.frame import Frame
from tests.fixtures_site import class_rule, open_site

pytestmark = pytest.mark.integration


async def test_a_cut_under_way_is_proved_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to end in the middle of a cut: readers read on until it is proved, and the incident says confirmed."""
    cutting = asyncio.Event()
    cut = EmbeddedIngest.cut

    async def slow(self: EmbeddedIngest, key: StreamKey, connection: str | None = None) -> CutResult:
        cutting.set()
        await asyncio.sleep(0.5)
        return await cut(self, key, connection)

    monkeypatch.setattr(EmbeddedIngest, "cut", slow)
    async with open_site(tmp_path, class_rule("cut", 0.5)) as site, site.published("smptebars:60"):
        await cutting.wait()
        await site.service.drain()
        incident = (await site.service.incidents(5))[0]
        assert incident.cut_state is CutState.CONFIRMED
        assert await site.service.delivery.open_count() == 0


async def test_a_cut_that_cannot_be_proved_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end waits for a cut for a few seconds; the next start takes it up where it was left."""
    cutting = asyncio.Event()

    async def stuck(_: EmbeddedIngest, key: StreamKey, connection: str | None = None) -> CutResult:
        cutting.set()
        await asyncio.sleep(60)
        raise AssertionError("nobody waits that long")

    long_ago = class_rule("cut", 0.5).replace("live: true", "live: true, deadline: 1m")
    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedIngest, "cut", stuck)
        async with open_site(tmp_path, long_ago) as site, site.published("smptebars:60"):
            await cutting.wait()
            file, config = site.path, site.service.config
            loop = asyncio.get_running_loop()
            begun_at = loop.time()
            await site.service.drain()
            assert loop.time() - begun_at < 20
    assert file.exists()
    with capture_logs() as logs:
        async with open_service(config) as service:
            assert (await service.incidents(1))[0].action == "cut"
    assert [entry["event"] for entry in logs].count("cut.resumed") == 1


async def test_nobody_new_is_watched_and_what_waits_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the service ends, a publisher who comes gets no session, and a frame under way is judged."""
    inspect = AnalysisPool.inspect
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(self: AnalysisPool, frame: Frame, **how: Any) -> Inspection:
        begun.set()
        try:
            await asyncio.sleep(0.5)
            return await inspect(self, frame, **how)
        finally:
            ended.set()

    monkeypatch.setattr(AnalysisPool, "inspect", slow)
    async with open_site(tmp_path, class_rule("review", 0.5)) as site, site.published("smptebars:60") as session:
        supervisor = site.service.supervisor
        begun.clear()
        await begun.wait()
        ended.clear()
        await site.service.drain()
        assert ended.is_set()
        key = StreamKey("embedded", "live", "too-late")
        supervisor._follow(PublisherStarted(Publisher(key, "9", 0.0)))
        assert [one.key.name for one in supervisor.sessions.values()] == [session.key.name]
