"""Who shows something for a last half second and leaves."""

import asyncio
import time
from pathlib import Path

import pytest

from benchmarks.clips import encode_clip
from benchmarks.crowd import fill_bank
from benchmarks.losses import CUTTING, HARMFUL
from benchmarks.ports import free_port
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.e2e


async def test_a_hit_in_the_last_half_second_is_an_alert_and_the_key_is_denied(tmp_path: Path) -> None:
    """Shown between two keyframes and gone: the alert is there within two seconds, and the key is refused."""
    clip = await asyncio.to_thread(encode_clip, f"card:100:4.4,{HARMFUL}:0.5")
    service = RunningService(tmp_path, f'{CUTTING}alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}')
    fill_bank(service.state_dir)
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        publication = publishers.start("live/runner", clip, rounds=1)
        await publishers.wait("live/runner")
        left_at = time.monotonic()
        assert publication.switched_at(HARMFUL) is not None
        async with asyncio.timeout(30):
            while not await service.incidents():
                await asyncio.sleep(0.05)
        told_after = time.monotonic() - left_at
        (incident,) = await service.incidents()
        assert told_after < 2.0 + SLACK_SECONDS
        assert incident.action == "cut"

        await asyncio.sleep(1.0)
        again = publishers.start("live/runner", clip, rounds=1)
        await publishers.wait("live/runner")
        assert again.why != "done", "the key is denied"
        assert await service.streams() == {}
