"""Many live streams through nginx-rtmp: what the whole service uses for each second of one, and ffmpeg's floor beside.

ffmpeg replays a clip at real pace, packets copied, once for each stream. The service and, for each stream, one
`ffmpeg -skip_frame nokey` read the same streams from the same nginx in the same window. Time counts from when every
stream was seen and every ffmpeg reads, so that no start is in it; what publishers and nginx use does not count.
"""

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.brokers import ServerMissing
from benchmarks.decode_references import FLOOR
from benchmarks.file_watcher import BANK_ROWS, fill_large_bank
from benchmarks.nginx import Nginx, ServiceBesideNginx
from benchmarks.ports import free_port
from benchmarks.processes import CpuSeconds, own_cpu_seconds, pss_bytes
from benchmarks.running import ServiceFailed

_LIVE_SECONDS = 60.0
_SETTLE_SECONDS = 3.0
_IDLE_SECONDS = 2.0
_FIRST_READ_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class LivePlan:
    """`streams` at once, watched for `window_seconds`, against a bank of `rows`."""

    streams: int
    window_seconds: float
    rows: int = BANK_ROWS


@dataclass(frozen=True, slots=True)
class LiveCost:
    """CPU seconds of all streams together in one window; `idle` is what the service used for each second before.

    `analysis_pss_bytes` is the memory of each analysis process at the end, None where the kernel does not show it.
    """

    streams: int
    seconds: float
    ours: CpuSeconds
    floor: float
    idle: float
    judged: int
    analysis_pss_bytes: tuple[int | None, ...] = ()

    @property
    def stream_seconds(self) -> float:
        """Streams times seconds."""
        return self.streams * self.seconds

    @property
    def times_floor(self) -> float:
        """Ours in the floor's."""
        return self.ours.total / self.floor


async def watch_live(
    plan: LivePlan,
    clip: Path,
    folder: Path,
    *,
    sampling: str,
    matching: str,
    models: str = "[]",
) -> LiveCost:
    """Publish `clip` many times and watch; raises `ServerMissing` and `ServiceFailed`."""
    if shutil.which("ffmpeg") is None:
        raise ServerMissing("ffmpeg is not installed (apt-get install ffmpeg)")
    with Nginx(folder / "nginx") as nginx:
        settings = (
            f"models: {models}\nsampling: {sampling}\nmatching: {matching}\n"
            f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}", embedded_broker: true}}}}'
        )
        service = ServiceBesideNginx(folder / "service", nginx, settings)
        fill_large_bank(service.state_dir, plan.rows)
        await nginx.start(service.http_port, service.hook_secret)
        async with service:
            await asyncio.sleep(_SETTLE_SECONDS)  # the last analysis processes are still starting
            before = service.tree.cpu_seconds()
            await asyncio.sleep(_IDLE_SECONDS)
            idle = (service.tree.cpu_seconds() - before).total / _IDLE_SECONDS
            urls = [f"rtmp://127.0.0.1:{nginx.rtmp_port}/live/s{number}" for number in range(plan.streams)]
            with _publishers(clip, urls):
                await service.wait_live(plan.streams, _LIVE_SECONDS)
                with _floors(urls) as floors:
                    return await _window(plan, service, floors, idle)


async def _window(
    plan: LivePlan, service: ServiceBesideNginx, floors: "Sequence[subprocess.Popen[bytes]]", idle: float
) -> LiveCost:
    begun_at = time.monotonic()
    while not all(_is_reading(one) for one in floors):
        if time.monotonic() - begun_at > _FIRST_READ_SECONDS:
            raise ServiceFailed("an ffmpeg did not begin to read its stream")
        await asyncio.sleep(0.1)
    await asyncio.sleep(_SETTLE_SECONDS)
    judged = sum(row.judged for row in (await service.streams()).values())
    ours, floor, started_at = service.tree.cpu_seconds(), _sum(floors), time.monotonic()
    await asyncio.sleep(plan.window_seconds)
    ours, floor, seconds = (
        service.tree.cpu_seconds() - ours,
        _sum(floors) - floor,
        time.monotonic() - started_at,
    )
    rows = await service.streams()
    if len(rows) != plan.streams or any(one.poll() is not None for one in floors):
        raise ServiceFailed("a stream or an ffmpeg ended while it was watched")
    judged = sum(row.judged for row in rows.values()) - judged
    memory = tuple(pss_bytes(one.pid) for one in service.tree.analysts())
    return LiveCost(plan.streams, seconds, ours, floor, idle, judged, memory)


def _sum(processes: "Sequence[subprocess.Popen[bytes]]") -> float:
    return sum(own_cpu_seconds(one.pid) for one in processes)


def _is_reading(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it has got past its start: it has decoded something."""
    return own_cpu_seconds(process.pid) > 0.03


@contextlib.contextmanager
def _publishers(clip: Path, urls: Sequence[str]) -> "Iterator[None]":
    source = ("ffmpeg", "-nostdin", "-v", "quiet", "-re", "-stream_loop", "-1", "-i", str(clip))
    with contextlib.ExitStack() as stack:
        for url in urls:
            stack.enter_context(_running([*source, "-c", "copy", "-f", "flv", url]))
            time.sleep(2.0 / len(urls))  # so that their keyframes do not come together
        yield


@contextlib.contextmanager
def _floors(urls: Sequence[str]) -> "Iterator[list[subprocess.Popen[bytes]]]":
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(_running([url if word == "FILE" else word for word in FLOOR.command])) for url in urls
        ]


@contextlib.contextmanager
def _running(command: Sequence[str]) -> "Iterator[subprocess.Popen[bytes]]":
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
