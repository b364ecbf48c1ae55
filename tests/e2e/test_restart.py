"""The whole service is killed or told to end in bad moments: alerts and cuts survive, processes do not."""

import asyncio
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.brokers import Mosquitto
from benchmarks.churn import make_clip
from benchmarks.clips import encode_clip
from benchmarks.losses import CLEAN_SCRIPT, HARMFUL_SCRIPT, kill_before_delivery
from benchmarks.nginx import Nginx, ServiceBesideNginx
from benchmarks.ports import free_port
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService, wait_until
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.e2e


@pytest.mark.needs_mosquitto
@pytest.mark.parametrize(
    "waits_for_cut", [pytest.param(False, marks=pytest.mark.slow), True], ids=["alert-on-disk", "publisher-cut"]
)
async def test_an_alert_and_a_cut_survive_a_kill(waits_for_cut: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Killed between decision and delivery, the service sends the same alert once after its start, and denies the key.

    Nothing of the killed service lives on.
    """
    clip = await asyncio.to_thread(encode_clip, HARMFUL_SCRIPT)
    with Mosquitto(tmp_path) as broker:
        restart = await kill_before_delivery(tmp_path / "service", clip, waits_for_cut=waits_for_cut, broker=broker)
    assert (restart.alerts, restart.lost, restart.most_copies) == (1, 0, 1)
    assert restart.is_key_refused
    assert restart.outlived == 0


async def test_it_ends_in_order_while_publishers_leave(tmp_path: Path) -> None:
    """Told to end in the moment in which publishers leave, it ends within seconds, with exit code 0, and all of it."""
    clip = await asyncio.to_thread(encode_clip, CLEAN_SCRIPT)
    service = RunningService(tmp_path, f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}')
    async with service:
        async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            publishers.start_many(6, clip, spread_seconds=0.5)
            await service.wait_live(6, 60)
            everyone = service.tree.everyone()
        assert await service.stop() < 15
        assert await wait_until(lambda: not any(one.is_running() for one in everyone), 20)
    assert len(everyone) >= 9, "the service, two forkservers and six readers at least"


async def test_a_publisher_who_stays_is_watched_again_after_a_restart(tmp_path: Path) -> None:
    """A killed service that starts again takes and watches whoever publishes next, with the same state folder."""
    clip = await asyncio.to_thread(encode_clip, CLEAN_SCRIPT)
    service = RunningService(tmp_path, f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}')
    names = []
    async with service:
        for _ in range(2):
            async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
                publishers.start("live/again", clip)
                rows = await service.wait_live(1, 60)
                names.append(rows["live/again"].stream_id)
                assert await service.kill() == []
            await service.start()
    assert names[0] == names[1], "the stream's identifier outlives a restart"


@pytest.mark.needs_nginx_rtmp
@pytest.mark.needs_ffmpeg
@pytest.mark.needs_cage
async def test_whoever_is_live_is_watched_again_after_a_restart(tmp_path: Path) -> None:
    """Publishers of a server of its own notice nothing, and are seen within two seconds and one keyframe interval."""
    names = [f"live/p{number}" for number in range(4)]
    clip = await asyncio.to_thread(make_clip, tmp_path / "clip.flv")
    with Nginx(tmp_path / "nginx") as nginx:
        settings = f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}"}}}}'
        service = ServiceBesideNginx(tmp_path / "service", nginx, settings)
        await nginx.start(service.http_port, service.hook_secret)
        async with service:
            command = ["ffmpeg", "-loglevel", "quiet", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy"]
            quiet = subprocess.DEVNULL
            publishers = [
                await asyncio.create_subprocess_exec(
                    *command, "-f", "flv", f"rtmp://127.0.0.1:{nginx.rtmp_port}/{name}", stdin=quiet, stdout=quiet
                )
                for name in names
            ]
            try:
                before = await _all_seen(service, names)
                await service.kill()
                await service.start()
                answered_at = time.monotonic()
                after = await _all_seen(service, names)
                seconds = time.monotonic() - answered_at
                assert [one.returncode for one in publishers] == [None] * len(names)
            finally:
                for one in publishers:
                    one.kill()
                await asyncio.gather(*(one.wait() for one in publishers))
    assert after == before, "a stream's identifier outlives a restart"
    assert seconds < 3.0 + SLACK_SECONDS, seconds


async def _all_seen(service: RunningService, names: list[str]) -> dict[str, str]:
    """Wait until a frame of each stream was analysed; returns the streams' identifiers."""
    async with asyncio.timeout(60):
        while True:
            rows = await service.streams()
            if all(name in rows and rows[name].last_sample_age_seconds is not None for name in names):
                return {name: rows[name].stream_id for name in names}
            await asyncio.sleep(0.05)
