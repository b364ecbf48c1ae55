"""Who lets the picture freeze on what matters, and keeps the connection open with next to nothing."""

import asyncio
import time
from pathlib import Path

import pytest

from benchmarks.clips import Clip, ClipChunk, encode_clip
from benchmarks.crowd import fill_bank
from benchmarks.losses import CUTTING, HARMFUL
from benchmarks.ports import free_port
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

_HELD_SECONDS = 12
_DETECT_WITHIN_SECONDS = 3.0
_NOTHING_ELSE = "sampling: {bursts: 0%, spikes: false}\n"
"""What finds the switch itself is off: the frozen picture is to be found, not the scene change before it."""


@pytest.mark.parametrize(
    "drip", [pytest.param(b"", marks=pytest.mark.slow), b"\x47"], ids=["nothing", "one byte a second"]
)
async def test_a_picture_frozen_between_keyframes_is_found_while_it_is_frozen(tmp_path: Path, drip: bytes) -> None:
    """A clean keyframe, the card from the middle of the GOP on, then no packet: found in `detect_within` + 2 s."""
    shown = await asyncio.to_thread(encode_clip, f"card:100:4.4,{HARMFUL}:0.5")
    drops = (
        ClipChunk(shown.seconds + number, drip, is_keyframe=False, card=None)
        for number in range(_HELD_SECONDS if drip else 0)
    )
    clip = Clip(shown.seconds + _HELD_SECONDS, (*shown.chunks, *drops), is_verbatim=True)
    settings = f'{CUTTING}{_NOTHING_ELSE}alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}'
    service = RunningService(tmp_path, settings)
    fill_bank(service.state_dir)
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        publication = publishers.start("live/frozen", clip, rounds=1)
        async with asyncio.timeout(60):
            # A stream that stalls is an incident of its own, for people to look at.
            while not any(incident.action == "cut" for incident in await service.incidents()):
                await asyncio.sleep(0.02)
        found_at = time.monotonic()
        await publishers.wait("live/frozen")

    shown_at = publication.switched_at(HARMFUL)
    assert shown_at is not None
    assert found_at - shown_at <= _DETECT_WITHIN_SECONDS + 2.0 + SLACK_SECONDS
    assert publication.closed_at is not None
    assert publication.closed_at - shown_at <= _DETECT_WITHIN_SECONDS + 2.5 + SLACK_SECONDS
