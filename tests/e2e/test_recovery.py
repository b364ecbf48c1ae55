"""The whole service loses a reader, a forkserver, an analysis process or its broker, and goes on."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.brokers import Mosquitto
from benchmarks.clips import encode_clip
from benchmarks.losses import (
    CLEAN_SCRIPT,
    HARMFUL_SCRIPT,
    LOADED,
    LOADED_GOP_SECONDS,
    Losses,
    WatchedStreams,
    lose_analysts,
    lose_broker,
)
from benchmarks.ports import free_port
from benchmarks.processes import ANALYSIS_ENTRY, READER_ENTRY
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def _watched(folder: Path, count: int) -> AsyncIterator[WatchedStreams]:
    clip = await asyncio.to_thread(encode_clip, CLEAN_SCRIPT)
    service = RunningService(folder, f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}')
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        streams = WatchedStreams(service, publishers)
        await streams.begin(count, clip)
        await asyncio.sleep(4)  # a reader that lived longer than detect_within is replaced without a pause
        yield streams


async def test_a_lost_reader_is_replaced_and_disturbs_nobody(tmp_path: Path) -> None:
    """A killed and a stopped reader's streams are watched again in seconds; the third stream notices nothing."""
    killed, stopped = Losses(), Losses()
    async with _watched(tmp_path, 3) as streams:
        await streams.lose_reader("live/w0", signal.SIGKILL, killed)
        await streams.lose_reader("live/w1", signal.SIGSTOP, stopped)
    assert killed.back_seconds[0] < 4 + SLACK_SECONDS, "a GOP of a second and half of one, with room for a busy machine"
    assert stopped.back_seconds[0] < 8 + SLACK_SECONDS, "silence is noticed after two seconds"
    assert max(killed.others_gap_seconds, stopped.others_gap_seconds) < 3 + SLACK_SECONDS


@pytest.mark.parametrize("entry", [READER_ENTRY, pytest.param(ANALYSIS_ENTRY, marks=pytest.mark.slow)])
async def test_a_lost_forkserver_is_replaced_with_all_its_children(entry: str, tmp_path: Path) -> None:
    """After a forkserver was killed, every stream is watched again."""
    losses = Losses()
    async with _watched(tmp_path, 3) as streams:
        await streams.lose_forkserver(entry, losses)
    assert len(losses.back_seconds) == 3
    assert max(losses.back_seconds) < 30


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
async def test_the_only_analysis_process_may_die_under_load(number: signal.Signals, tmp_path: Path) -> None:
    """No verdict comes late, and every frame has a verdict or is counted, though the only process is lost."""
    clip = await asyncio.to_thread(encode_clip, CLEAN_SCRIPT, gop_seconds=LOADED_GOP_SECONDS)
    settings = f'analysis: {{workers: 1}}\n{LOADED}alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}'
    service = RunningService(tmp_path, settings)
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        publishers.start_many(6, clip, spread_seconds=LOADED_GOP_SECONDS)
        await service.wait_live(6, 60)
        losses = await lose_analysts(service, number, workers=1, trials=2, draw=random.Random(3))
    assert losses.verdicts > 20
    assert losses.within_seconds <= 1.5 + SLACK_SECONDS, "the deadline of a second, and the look before it"
    assert losses.unaccounted == 0
    assert max(losses.replaced_seconds) < 30


@pytest.mark.needs_mosquitto
async def test_no_alert_is_lost_while_the_broker_is_away(tmp_path: Path) -> None:
    """Publishers are cut at once while the broker is away, and each alert arrives when it is back."""
    clip = await asyncio.to_thread(encode_clip, HARMFUL_SCRIPT)
    with Mosquitto(tmp_path) as broker:
        away = await lose_broker(tmp_path / "service", clip, away_seconds=5, harmful=2, broker=broker)
    assert (len(away.switch_to_closed_seconds), away.lost) == (2, 0)
    assert away.alerts >= 2
    assert max(away.switch_to_closed_seconds) < 6 + SLACK_SECONDS
    assert away.last_alert_seconds < 60
