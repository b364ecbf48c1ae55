"""Files sent to `POST /scan` beside live streams: fifty at once, a trickle of 100 MB, bombs; and what the streams lose.

The service is the real one, in its own process, with the shipped limits but for the time that one file is looked at.
Live streams are published to it all the while. How late their samples are judged is measured without uploads, with
fifty at once (each client sends its next file as soon as it is answered), and without again; memory is read from /proc.
"""

import asyncio
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import hostile_clips, upload_material
from benchmarks.clips import encode_clip
from benchmarks.crowd import percentile
from benchmarks.processes import pss_bytes, resident_bytes
from benchmarks.publishers import PacedPublishers
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.running import wait_until
from benchmarks.upload_service import TOKEN, UploadService

_MIB: Final = 1 << 20
_AT_ONCE: Final = 50
_LIVE_SECONDS: Final = 30.0
_SPREAD_SECONDS: Final = 1.0
_PART_BYTES: Final = 64 * 1024
_CLIENT_NICENESS: Final = 10

_DELAY_LIMIT_SECONDS: Final = 0.25
_KEPT: Final = f"live frames judged with {_AT_ONCE} uploads at once"
_KEPT_LIMIT: Final = 0.95
_SERVICE_LIMIT_MIB: Final = 64.0
_READER_LIMIT_MIB: Final = 150.0
_TRICKLE_LIMIT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: live streams, seconds of each window, bytes of the trickles, known cards."""

    streams: int
    window_seconds: float
    trickle_bytes: int
    trickle_bytes_per_second: int
    known: tuple[int, ...]
    clean: tuple[int, ...]
    alone: int
    look_within_seconds: float
    bomb_side: int
    bomb_pictures: int
    trickle_rounds: int

    @property
    def counts_frames(self) -> bool:
        """Whether the windows are long enough to tell a twentieth of the frames from one frame."""
        return self.window_seconds >= 10.0


_FULL: Final = Plan(
    8, 20.0, 100_000_000, 4_000_000, (1, 2, 3, 4, 5, 6), (31, 32, 33, 34, 35, 36), 30, 45.0, 50_000, 100_000, 20
)
_QUICK: Final = Plan(4, 3.0, 20_000_000, 4_000_000, (1, 2), (31, 32), 10, 5.0, 10_000, 20_000, 2)


@dataclass(frozen=True, slots=True)
class Sent:
    """One file and what must be said of it: `cut` of a planted copy, `allow` of what is clean."""

    content: bytes
    decision: str


@dataclass(slots=True)
class Crowd:
    """What came of files that were sent side by side. Seconds are from the first byte sent to the answer."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    planted: int = 0
    found: int = 0
    elapsed_seconds: float = 0.0

    def took(self, sent: Sent, status: int, told: dict[str, Any], seconds: float) -> None:
        """Take in an answer."""
        self.statuses[status] += 1
        if status != httpx.codes.OK:
            return
        self.seconds.append(seconds)
        is_right = told["decision"] == sent.decision and told["complete"]
        self.planted += sent.decision == "cut"
        self.found += sent.decision == "cut" and is_right
        self.wrong += sent.decision != "cut" and not is_right


@dataclass(slots=True)
class Watched:
    """How late live samples were judged, in seconds; the most memory of the service and of any reader, in bytes."""

    delays: list[float] = field(default_factory=list)
    service_bytes: int = 0
    reader_bytes: int = 0
    total_bytes: int = 0
    readers: int = 0
    judged_a_second: float = 0.0


def measure(options: Options) -> Report:
    """Run it. A quick run takes fewer streams, shorter windows and a fifth of the trickle."""
    plan = _QUICK if options.is_quick else _FULL
    settings = {
        "live_streams": plan.streams,
        "uploads_at_once": _AT_ONCE,
        "window_seconds": plan.window_seconds,
        "trickle_bytes": plan.trickle_bytes,
        "known_pictures": len(plan.known),
        "look_within_seconds": plan.look_within_seconds,
        "machine": machine(),
    }
    print_settings("uploads", settings)
    with tempfile.TemporaryDirectory(prefix="stopframe-uploads-") as scratch:
        results, checks = asyncio.run(_measure(plan, Path(scratch)))
    left_out = ["a trickle of 100 MB, 8 live streams, windows of 20 s", _KEPT] if options.is_quick else []
    return Report("uploads", settings, results, checks, left_out)


async def _measure(plan: Plan, folder: Path) -> tuple[list[dict[str, Any]], list[Check]]:
    files = await asyncio.to_thread(_material, plan)
    live = await asyncio.to_thread(encode_clip, "card:101:4", folder=folder)
    uploads = (
        f"uploads: {{enabled: true, look_within: {plan.look_within_seconds:g}s, wait: 2m}}\n"
        "sampling: {bursts: 0%, spikes: false}"  # what is decoded later on purpose would hide what is late
    )
    service = UploadService(folder / "service", uploads, known=plan.known)
    async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        publishers.start_many(plan.streams, live, spread_seconds=_SPREAD_SECONDS)
        await service.wait_live(plan.streams, _LIVE_SECONDS)
        await asyncio.sleep(3.0)
        return await _run(plan, service, files)


async def _run(plan: Plan, service: UploadService, files: Sequence[Sent]) -> tuple[list[dict[str, Any]], list[Check]]:
    async with _client(service.http_port) as client:
        dropped = [await _dropped(service)]
        async with _watching(service) as before:
            await asyncio.sleep(plan.window_seconds)
        dropped.append(await _dropped(service))
        cpu_before = service.tree.cpu_seconds()
        alone = await _one_by_one(client, files, plan.alone)
        alone_cpu = (service.tree.cpu_seconds() - cpu_before).total
        dropped.append(await _dropped(service))
        async with _watching(service) as crowded:
            crowd = await _crowd_elsewhere(service.http_port, files, plan.window_seconds)
        dropped.append(await _dropped(service))
        async with _watching(service) as after:
            await asyncio.sleep(plan.window_seconds)
        async with _watching(service) as slow:
            trickles = await _trickles(service, plan, await asyncio.to_thread(_long, plan))
        async with _watching(service) as bombed:
            bombs = await _bombs(client, service, plan)
        left = await _left(service, plan)
    quiet = [*before.delays, *after.delays]
    idle = replace(before, delays=quiet, judged_a_second=(before.judged_a_second + after.judged_a_second) / 2)
    figures = _Figures(plan, alone, crowd, trickles, bombs, left)
    results = [
        _window("live alone", idle, dropped[1] - dropped[0]),
        {"run": "one by one", "files": len(alone.seconds), "p50_s": percentile(alone.seconds, 50),
         "p95_s": percentile(alone.seconds, 95), "cpu_beside_live_s": alone_cpu / max(1, len(alone.seconds))},
        _window(f"{_AT_ONCE} at once", crowded, dropped[3] - dropped[2])
        | {"files": len(crowd.seconds), "p50_s": percentile(crowd.seconds, 50), "p95_s": percentile(crowd.seconds, 95),
           "files_a_second": len(crowd.seconds) / crowd.elapsed_seconds, "planted": crowd.planted, "found": crowd.found,
           "wrong": crowd.wrong, "statuses": {str(key): count for key, count in crowd.statuses.items()}},
        _window("trickles", slow, 0.0) | trickles,
        _window("bombs", bombed, 0.0) | {"answers": bombs},
    ]  # fmt: skip
    return results, figures.checks(idle, crowded, [slow, bombed], dropped[3] - dropped[2])


def _material(plan: Plan) -> list[Sent]:
    """Return copies of what is known, edited in four ways, and as many clean pictures, and a clip of each kind."""
    copies = [Sent(upload_material.edited(seed, number), "cut") for seed in plan.known for number in range(4)]
    clean = [Sent(upload_material.picture(seed), "allow") for seed in plan.clean]
    clips = [Sent(upload_material.clip(f"card:41:2,card:{plan.known[0]}:2"), "cut")]
    clips.append(Sent(upload_material.clip("card:42:4"), "allow"))
    mixed = list(itertools.chain(*zip(copies, itertools.cycle(clean), strict=False)))
    return [*mixed[:20], *clips, *mixed[20:]]


def _long(plan: Plan) -> bytes:
    return upload_material.long_clip(
        upload_material.clip("card:43:4", size="1280x720"), plan.trickle_bytes, plan.trickle_rounds
    )


async def _one_by_one(client: httpx.AsyncClient, files: Sequence[Sent], count: int) -> Crowd:
    crowd = Crowd()
    pictures = [one for one in files if one.content.startswith(b"\xff\xd8")]
    for sent in itertools.islice(itertools.cycle(pictures), count):
        await _send(client, sent, crowd)
    return crowd


async def _crowd_elsewhere(port: int, files: Sequence[Sent], seconds: float) -> Crowd:
    """Have the clients run in a process of their own: in ours they would hold up the publishers of the streams."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return await asyncio.get_running_loop().run_in_executor(processes, run_crowd, port, files, seconds)


def run_crowd(port: int, files: Sequence[Sent], seconds: float) -> Crowd:
    """Run the crowd's clients; they stand back, as clients on other machines would take no time of this one."""
    os.nice(_CLIENT_NICENESS)

    async def run() -> Crowd:
        async with _client(port) as client:
            return await _crowd(client, files, seconds)

    return asyncio.run(run())


def _client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=False,  # noqa: S501 - plain HTTP, on loopback
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=180,
        limits=httpx.Limits(max_connections=2 * _AT_ONCE),
    )


async def _crowd(client: httpx.AsyncClient, files: Sequence[Sent], seconds: float) -> Crowd:
    """Have fifty clients send file after file for so long; each waits for its answers."""
    crowd, began_at = Crowd(), time.monotonic()
    draw = itertools.cycle(files)

    async def one() -> None:
        while time.monotonic() < began_at + seconds:
            await _send(client, next(draw), crowd)

    async with asyncio.TaskGroup() as group:
        for number in range(_AT_ONCE):
            group.create_task(one(), name=f"uploader[{number}]")
    crowd.elapsed_seconds = time.monotonic() - began_at
    return crowd


async def _send(client: httpx.AsyncClient, sent: Sent, crowd: Crowd) -> None:
    began_at = time.monotonic()
    answer = await client.post("/scan", content=sent.content)
    crowd.took(sent, answer.status_code, answer.json(), time.monotonic() - began_at)


async def _trickles(service: UploadService, plan: Plan, content: bytes) -> dict[str, Any]:
    """Send a long clip steadily but slowly, and beside it one that hardly comes at all."""
    held: list[int] = []
    async with asyncio.TaskGroup() as group:
        steady = group.create_task(_trickle(service, content, plan.trickle_bytes_per_second, held))
        stuck = group.create_task(_trickle(service, content, 1024, []))
    (status, told, seconds), (stuck_status, stuck_told, stuck_seconds) = steady.result(), stuck.result()
    seen = told.get("summary", {}).get("coverage", {}).get("seen_s", 0.0)
    return {
        "steady_status": status,
        "steady_ended": told.get("ended", told.get("error", "")),
        "steady_seen_s": seen,
        "steady_s": seconds,
        "readers_more": max(held) - plan.streams,
        "stuck_status": stuck_status,
        "stuck_error": stuck_told.get("error", ""),
        "stuck_s": stuck_seconds,
    }


async def _trickle(
    service: UploadService, content: bytes, pace: int, held: list[int]
) -> tuple[int, dict[str, Any], float]:
    began_at = time.monotonic()
    part = min(_PART_BYTES, pace)

    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(content), part):
            await asyncio.sleep(max(0.0, began_at + at / pace - time.monotonic()))
            if at // part % max(1, pace // part) == 0:  # once a second
                held.append(len(service.tree.readers()))
            yield content[at : at + part]

    status, told = await service.send(parts(), len(content))
    return status, told, time.monotonic() - began_at


async def _bombs(client: httpx.AsyncClient, service: UploadService, plan: Plan) -> dict[str, str]:
    """Send each bomb and return what was said of it: the status and how the look ended."""
    said = {}
    bombs = {
        f"png {plan.bomb_side}x{plan.bomb_side}": lambda: upload_material.png_bomb(plan.bomb_side),
        "h264 16000x16000": lambda: hostile_clips.as_bytes(hostile_clips.bomb()),
        f"mp4 of {plan.bomb_pictures} pictures": lambda: upload_material.mp4_bomb(plan.bomb_pictures),
    }
    for name, make in bombs.items():
        content = await asyncio.to_thread(make)
        answer = await client.post("/scan", content=content)
        told = answer.json()
        said[f"{name}, {len(content)} bytes"] = f"{answer.status_code} {told.get('decision')} {told.get('ended')}"
    status, told = await service.send(_endless())
    said["endless matroska"] = f"{status} {told.get('error', '')}"
    return said


async def _endless() -> AsyncIterator[bytes]:
    for part in upload_material.endless_matroska():
        yield part


async def _left(service: UploadService, plan: Plan) -> dict[str, float]:
    """What is there when all is over, once readers had a moment to end."""
    await wait_until(lambda: len(service.tree.readers()) == plan.streams, 5.0)
    held = await asyncio.to_thread(service.value, "stopframe_uploads_held_bytes")
    return {"held_bytes": held, "readers_more": len(service.tree.readers()) - plan.streams}


async def _dropped(service: UploadService) -> float:
    return await asyncio.to_thread(service.value, "stopframe_dropped_frames_total")


async def _judged(service: UploadService) -> float:
    """How many frames of live streams were judged so far; uploads are not among them."""
    return await asyncio.to_thread(service.value, "stopframe_frame_to_decision_seconds_count")


@asynccontextmanager
async def _watching(service: UploadService) -> AsyncIterator[Watched]:
    """Watch memory and the delay of live samples for as long as the block lasts."""
    watched = Watched()
    tasks = [asyncio.create_task(_delays(service, watched)), asyncio.create_task(_memory(service, watched))]
    began_at, judged = time.monotonic(), await _judged(service)
    try:
        yield watched
        watched.judged_a_second = (await _judged(service) - judged) / (time.monotonic() - began_at)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _delays(service: UploadService, watched: Watched) -> None:
    judged: dict[str, int] = {}
    while True:
        for path, row in (await service.streams()).items():
            if judged.get(path, row.judged) != row.judged and row.decision_seconds is not None:
                watched.delays.append(row.decision_seconds)
            judged[path] = row.judged
        await asyncio.sleep(0.1)


async def _memory(service: UploadService, watched: Watched) -> None:
    while True:
        readers = [pss_bytes(one.pid) or resident_bytes(one.pid) for one in service.tree.readers()]
        rest = sum(pss_bytes(one.pid) or 0 for one in service.tree.analysts())
        own = resident_bytes(service.tree.pid)
        watched.service_bytes = max(watched.service_bytes, own)
        watched.reader_bytes = max(watched.reader_bytes, *readers, 0)
        watched.total_bytes = max(watched.total_bytes, own + rest + sum(readers))
        watched.readers = max(watched.readers, len(readers))
        await asyncio.sleep(0.1)


def _window(run: str, watched: Watched, dropped: float) -> dict[str, Any]:
    return {
        "run": run,
        "live_samples": len(watched.delays),
        "live_judged_a_second": watched.judged_a_second,
        "live_p50_s": percentile(watched.delays, 50),
        "live_p95_s": percentile(watched.delays, 95),
        "live_max_s": percentile(watched.delays, 100),
        "live_dropped": dropped,
        "service_mib": watched.service_bytes / _MIB,
        "reader_mib": watched.reader_bytes / _MIB,
        "all_mib": watched.total_bytes / _MIB,
        "readers": watched.readers,
    }


@dataclass(frozen=True, slots=True)
class _Figures:
    plan: Plan
    alone: Crowd
    crowd: Crowd
    trickles: dict[str, Any]
    bombs: dict[str, str]
    left: dict[str, float]

    def checks(self, idle: Watched, crowded: Watched, rest: Sequence[Watched], dropped: float) -> list[Check]:
        """What was promised, a check each."""
        kept = crowded.judged_a_second / max(idle.judged_a_second, 1e-9)
        both, memory = [self.alone, self.crowd], [crowded, *rest]
        planted, found = sum(one.planted for one in both), sum(one.found for one in both)
        refused = sum(count for one in both for status, count in one.statuses.items() if status != httpx.codes.OK)
        growth = (max(one.service_bytes for one in memory) - idle.service_bytes) / _MIB
        reader = max(one.reader_bytes for one in memory) / _MIB
        clear = sum(said.startswith(("422 unknown", "200 unknown deadline", "413")) for said in self.bombs.values())
        stuck = self.trickles
        return [
            at_least("planted copies found", found, "files", planted),
            at_most("clean files called anything but that", sum(one.wrong for one in both), "files", 0),
            at_most(f"files of {_AT_ONCE} at once that were not answered", refused, "files", 0),
            self._delay_check(idle, crowded),
            *([at_least(_KEPT, kept, "of those without", _KEPT_LIMIT)] if self.plan.counts_frames else []),
            at_most(f"live frames dropped with {_AT_ONCE} uploads at once", dropped, "frames", 0),
            at_most("memory of the service with uploads, more than before", growth, "MiB", _SERVICE_LIMIT_MIB),
            at_most("memory of a reader (PSS), most", reader, "MiB", _READER_LIMIT_MIB),
            at_most("readers that a trickle holds while it comes", stuck["readers_more"], "readers", 0),
            at_most("a file that hardly comes is refused after", stuck["stuck_s"], "s", _TRICKLE_LIMIT_SECONDS),
            at_least(
                "a slow file that comes is looked at to its end", float(stuck["steady_ended"] == "end_of_stream"), "", 1
            ),
            at_least("bombs that are refused or called unknown", clear, "bombs", len(self.bombs)),
            at_most("left behind: readers, bytes on disk", sum(self.left.values()), "", 0),
        ]

    def _delay_check(self, idle: Watched, crowded: Watched) -> Check:
        what = f"live samples later with {_AT_ONCE} uploads at once, p95"
        without, beside = percentile(idle.delays, 95), percentile(crowded.delays, 95)
        if without is None or beside is None:
            return not_measured(what, "s", _DELAY_LIMIT_SECONDS, "no live sample was judged")
        return at_most(what, beside - without, "s", _DELAY_LIMIT_SECONDS)
