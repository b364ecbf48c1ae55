"""Publishers who come, stay for a hundred samples and go, again and again; and what the service holds in between.

The clip is encoded before: small, every picture a keyframe, so that every picture is a sample and decoding costs next
to nothing. What is held is counted at rest, when nobody publishes and no reader runs.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import soaked_service
from benchmarks.clips import Clip
from benchmarks.processes import (
    ANALYSIS_ENTRY,
    READER_ENTRY,
    descriptor_count,
    resident_bytes,
    thread_count,
)
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService, ServiceFailed, wait_until

FPS: Final = 20
SCRIPT: Final = "card:100:6"
SETTINGS: Final = "sampling: {interval: 50ms, detect_within: 1s}\nalerts: {retain_ended: 0s, mqtt: {url: %s}}\n"

_QUIET_SECONDS = 20.0
_REST_SECONDS = 1.5
_TOLD_SECONDS = 20.0
_PAUSE_SECONDS = 0.05
_LOOKS, _LOOK_SECONDS = 5, 0.1


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the service holds at rest: bytes resident, by part; descriptors and threads of every part; its tasks."""

    sessions: int
    samples: int
    seconds: float
    resident: dict[str, int]
    descriptors: dict[str, int]
    threads: dict[str, int]
    processes: int
    tasks: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    traced: list[str] = field(default_factory=list)

    @property
    def task_count(self) -> int:
        """All asyncio tasks of the service."""
        return sum(self.tasks.values())


class SoakedService(RunningService):
    """The service, with a window into what it holds."""

    command = (sys.executable, "-m", "benchmarks.soaked_service", "run", "-c")

    def __init__(self, folder: Path, settings: str, *, traces: bool = False) -> None:
        super().__init__(folder, settings)
        self._told = folder / "holdings.json"
        self.environment = {soaked_service.PLACE: str(self._told), soaked_service.TRACES: str(int(traces))}

    async def inside(self) -> dict[str, Any]:
        """Ask the service itself what it holds; raises `ServiceFailed` where it does not say."""
        self._told.unlink(missing_ok=True)
        os.kill(self.tree.pid, signal.SIGUSR2)
        if not await wait_until(self._told.exists, _TOLD_SECONDS):
            raise ServiceFailed("the service did not say what it holds")
        told: dict[str, Any] = json.loads(self._told.read_text())
        return told


class Soak:
    """Publishes `clip` under `keys` keys at once, over and over, and counts between rounds."""

    def __init__(self, service: SoakedService, clip: Clip, keys: int) -> None:
        self.sessions = 0
        self.refused = 0
        self._service = service
        self._clip = clip
        self._keys = keys
        self._begun_at = time.monotonic()

    async def until(self, sessions: int) -> Holdings:
        """Publish until that many sessions have been, in all; then count at rest."""
        host_and_port = ("127.0.0.1", self._service.ingest_port)
        async with PacedPublishers(*host_and_port) as publishers, asyncio.TaskGroup() as group:
            for number in range(self._keys):
                group.create_task(self._come_and_go(publishers, f"live/s{number}", sessions), name=f"soak[{number}]")
        return await self.holdings()

    async def _come_and_go(self, publishers: PacedPublishers, path: str, sessions: int) -> None:
        while self.sessions < sessions:
            self.sessions += 1
            publishers.start(path, self._clip, rounds=1)
            publication = await publishers.wait(path)
            self.refused += publication.closed_at is not None and publication.why != "closed"
            await asyncio.sleep(_PAUSE_SECONDS)

    async def holdings(self) -> Holdings:
        """Wait until nobody is watched and no reader runs, then count; raises `ServiceFailed` where that is never."""
        tree = self._service.tree
        until = time.monotonic() + _QUIET_SECONDS
        while await self._service.streams() or tree.readers():
            if time.monotonic() > until:
                raise ServiceFailed(f"readers or streams are left {_QUIET_SECONDS:g} s after the last publisher went")
            await asyncio.sleep(0.1)
        await asyncio.sleep(_REST_SECONDS)
        inside = await self._service.inside()
        parts = {"service": tree.pid}
        for name, entry in (("reader forkserver", READER_ENTRY), ("analysis forkserver", ANALYSIS_ENTRY)):
            server = tree.forkserver(entry)
            if server is not None:
                parts[name] = server.pid
        parts |= {f"analysis {number}": one.pid for number, one in enumerate(tree.analysts())}
        metrics = await self._service.metrics()
        return Holdings(
            sessions=self.sessions,
            samples=round(metrics["stopframe_frame_to_decision_seconds_count"]),
            seconds=time.monotonic() - self._begun_at,
            resident={name: resident_bytes(pid) for name, pid in parts.items()},
            descriptors=await _fewest(parts, descriptor_count),
            threads=await _fewest(parts, thread_count),
            processes=len(tree.everyone()),
            tasks=inside["tasks"],
            objects=inside["objects"],
            traced=inside["traced"],
        )


async def _fewest(parts: Mapping[str, int], count: Callable[[int], int]) -> dict[str, int]:
    """Return the fewest of several looks: what is opened for a moment, by a look at a file, is not held."""
    looks = []
    for _ in range(_LOOKS):
        looks.append({name: count(pid) for name, pid in parts.items()})
        await asyncio.sleep(_LOOK_SECONDS)
    return {name: min(look[name] for look in looks) for name in parts}
