"""Healthy streams and one attacker beside them: what the neighbours lose, and what the attack costs its own reader.

Samples are the service's own counts for each stream, read at both ends of a window in one answer. Memory is read from
the kernel, many times a second, for every reader that is none of the neighbours'.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.clips import Clip
from benchmarks.processes import READER_ENTRY, busy_seconds, forked_pids, memory_peak_bytes
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService, ServiceFailed, wait_until
from detector.api.view import StreamRow

SETTINGS: Final = (
    "sampling: {interval: 200ms}\n"
    'streams: [{match: "live/*", sampling: {mode: keyframes}}]\n'  # an attacker is looked at in every way there is
)
"""Settings under which each keyframe of a neighbour, and nothing else, is a sample: what is due is known exactly."""
GOP_SECONDS: Final = 0.2

_ATTACKER = "attack/"
_LOOK_SECONDS = 0.1
_PEAK_SECONDS = 0.01
_SETTLE_SECONDS = 1.0
_LIVE_SECONDS = 60.0
_GONE_SECONDS = 10.0
_TAKEN_SECONDS = 5.0
_BLIND = "blind/"
_STILL_OPENING = "connecting"
_CRASHES = "stopframe_crashes_total"


@dataclass(slots=True)
class Window:
    """What the neighbours were given in one stretch of time.

    `judged` counts samples by neighbour. `delays_seconds` are those of the samples that were seen by looking often;
    `gap_seconds` is the longest between two samples of one stream. Two figures tell how far to trust the others:
    `late_seconds`, the most that a neighbour's publisher was behind its own pace, and `foreign_cores`, how many cores
    were busy on average with what is neither the service nor this benchmark.
    """

    seconds: float = 0.0
    judged: dict[str, int] = field(default_factory=dict)
    delays_seconds: list[float] = field(default_factory=list)
    gap_seconds: float = 0.0
    late_seconds: float = 0.0
    foreign_cores: float = 0.0

    @property
    def rate(self) -> float:
        """Samples of all neighbours in a second."""
        return sum(self.judged.values()) / self.seconds if self.seconds else 0.0

    def loss_percent(self, baseline: "Window") -> float:
        """How many percent of the samples are missing, if the baseline's rate was due; never below 0."""
        return max(0.0, 100.0 * (1.0 - self.rate / baseline.rate)) if baseline.rate else 100.0

    def worst_loss_percent(self, baseline: "Window") -> float:
        """As `loss_percent`, of the neighbour that lost most."""
        shares = [
            self.judged.get(path, 0) / self.seconds / (count / baseline.seconds)
            for path, count in baseline.judged.items()
            if count
        ]
        return max(0.0, 100.0 * (1.0 - min(shares))) if shares else 100.0


@dataclass(slots=True)
class Blow:
    """What one attack came to. Times count from the first hostile byte; None where it did not happen."""

    name: str
    baseline: Window
    window: Window
    peak_bytes: int = 0
    blind_seconds: float | None = None
    blind_causes: list[str] = field(default_factory=list)
    crashes: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    readers: int = 0
    ends: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attack:
    """A stream that is published, hostile after `lead_seconds`; with `kills_a_minute` its readers are killed."""

    name: str
    clip: Clip
    lead_seconds: float = 0.0
    kills_a_minute: float = 0.0


class Neighbourhood:
    """`async with` it: `count` neighbours are published and seen. `blow` lets one attacker in and out again."""

    def __init__(self, service: RunningService, clip: Clip, count: int) -> None:
        self._service = service
        self._clip = clip
        self._count = count
        self._publishers = PacedPublishers("127.0.0.1", service.ingest_port)
        self._neighbours: set[int] = set()

    async def __aenter__(self) -> Self:
        await self._publishers.__aenter__()
        try:
            self._publishers.start_many(self._count, self._clip, spread_seconds=GOP_SECONDS)
            await self._service.wait_live(self._count, _LIVE_SECONDS)
            await asyncio.sleep(_SETTLE_SECONDS)
        except BaseException:
            await self._publishers.__aexit__()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._publishers.__aexit__(kind, error, trace)

    async def blow(self, attack: Attack, *, baseline_seconds: float, attack_seconds: float) -> Blow:
        """Measure the neighbours alone and then beside `attack`; raises `ServiceFailed` where it cannot be undone."""
        baseline = await self._watch(baseline_seconds)
        self._neighbours = {reader.pid for reader in self._service.tree.readers()}
        before = await self._service.metrics()
        path = _ATTACKER + attack.name.replace(" ", "-")
        with _ReaderPeaks(self._service.tree.pid, self._neighbours) as peaks:
            self._publishers.start(path, attack.clip)
            begun_at = time.time() + attack.lead_seconds
            await self._wait_for(path)
            await asyncio.sleep(max(0.0, begun_at - time.time()))
            async with self._killing(attack, peaks):
                window = await self._watch(attack_seconds)
            after = await self._counted(before, peaks.kills)
            blow = Blow(attack.name, baseline, window, peaks.peak_bytes, kills=peaks.kills, readers=len(peaks.seen))
            await self._note_blindness(blow, path, begun_at)
            await self._leave(path)
        blow.crashes = _rise(before, after, _CRASHES, "process")
        blow.ends = _rise(before, after, "stopframe_reader_ends_total", "code")
        return blow

    async def _watch(self, seconds: float) -> Window:
        window = Window()
        neighbours = [one for path, one in self._publishers.publications.items() if not path.startswith(_ATTACKER)]
        for publication in neighbours:
            publication.latest_seconds = 0.0
        foreign = self._foreign_seconds()
        first, asked_at = await self._rows()
        latest, looked_at = first, asked_at
        sampled_at: dict[str, float] = {}
        while looked_at - asked_at < seconds:
            await asyncio.sleep(_LOOK_SECONDS)
            rows, looked_at = await self._rows()
            for path, row in rows.items():
                _look(window, row, latest.get(path), sampled_at, looked_at)
            latest = rows
        window.seconds = looked_at - asked_at
        window.late_seconds = max(publication.latest_seconds for publication in neighbours)
        window.foreign_cores = max(0.0, self._foreign_seconds() - foreign) / window.seconds
        window.judged = {path: _judged_since(row, latest.get(path)) for path, row in first.items()}
        return window

    def _foreign_seconds(self) -> float:
        """CPU time that neither the service nor this process used."""
        return busy_seconds() - self._service.tree.cpu_seconds().total - time.process_time()

    async def _rows(self) -> tuple[dict[str, StreamRow], float]:
        rows = await self._service.streams()
        return {path: row for path, row in rows.items() if not path.startswith(_ATTACKER)}, time.monotonic()

    async def _wait_for(self, path: str) -> None:
        until = time.monotonic() + _TAKEN_SECONDS
        while path not in await self._service.streams():
            if time.monotonic() > until:
                raise ServiceFailed(f"the service did not take {path} in: {self._publishers.publications[path].why}")
            await asyncio.sleep(_PEAK_SECONDS)

    @asynccontextmanager
    async def _killing(self, attack: Attack, peaks: "_ReaderPeaks") -> AsyncIterator[None]:
        async def kill() -> None:
            due_at = time.monotonic()
            while True:
                await asyncio.sleep(_PEAK_SECONDS)
                if time.monotonic() > due_at and peaks.kill_latest():
                    due_at += 60.0 / attack.kills_a_minute

        task = asyncio.create_task(kill(), name="neighbours.killer") if attack.kills_a_minute else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _counted(self, before: dict[str, float], kills: int) -> dict[str, float]:
        """The figures once every kill is among them, or after some time: the last one may have been just now."""
        until = time.monotonic() + _GONE_SECONDS
        while True:
            now = await self._service.metrics()
            if _rise(before, now, _CRASHES, "process").get("reader", 0) >= kills or time.monotonic() > until:
                return now
            await asyncio.sleep(_LOOK_SECONDS)

    async def _note_blindness(self, blow: Blow, path: str, begun_at: float) -> None:
        row = (await self._service.streams()).get(path)
        told = [
            (datetime.fromisoformat(one.opened_at).timestamp() - begun_at, one.signals.partition(_BLIND)[2])
            for one in await self._service.incidents()
            if row is not None and one.stream_id == row.stream_id and _BLIND in one.signals
        ]
        told = sorted((at, cause) for at, cause in told if cause != _STILL_OPENING)
        blow.blind_seconds = told[0][0] if told else None
        blow.blind_causes = [cause for _, cause in told]

    async def _leave(self, path: str) -> None:
        await self._publishers.stop(path)

        def is_quiet() -> bool:
            return len(self._service.tree.readers()) <= self._count

        if not await wait_until(is_quiet, _GONE_SECONDS):
            raise ServiceFailed(f"readers of {path} are left after its publisher went")
        await asyncio.sleep(_SETTLE_SECONDS)


class _ReaderPeaks:
    """Looks, in a thread, at the memory of every reader that is none of `neighbours`."""

    def __init__(self, service_pid: int, neighbours: set[int]) -> None:
        self.peak_bytes = 0
        self.seen: set[int] = set()
        self._killed: set[int] = set()
        self._service_pid = service_pid
        self._neighbours = neighbours
        self._present: Sequence[int] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="reader-peaks")

    @property
    def kills(self) -> int:
        """How many readers were killed."""
        return len(self._killed)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def kill_latest(self) -> bool:
        """Kill the attacker's reader as a fault of the decoder would; False where there is none that was not killed."""
        for pid in self._present:
            if pid not in self._killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSEGV)
                    self._killed.add(pid)
                    return True
        return False

    def _look(self) -> None:
        while not self._ended.wait(_PEAK_SECONDS):
            self._present = [pid for pid in forked_pids(self._service_pid, READER_ENTRY) if pid not in self._neighbours]
            self.seen.update(self._present)
            for pid in self._present:
                self.peak_bytes = max(self.peak_bytes, memory_peak_bytes(pid))


def neighbour_settings(mqtt_port: int) -> str:
    """Return the service's settings: frequent samples, and the defaults."""
    return f'{SETTINGS}alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{mqtt_port}"}}}}'


def in_folder(folder: Path, mqtt_port: int) -> RunningService:
    """Return the service in which an attacker may live beside others."""
    return RunningService(folder, neighbour_settings(mqtt_port))


def _look(
    window: Window, row: StreamRow, before: StreamRow | None, sampled_at: dict[str, float], looked_at: float
) -> None:
    """Note what one look at one stream shows."""
    age = row.last_sample_age_seconds
    if age is None or before is None:
        return
    window.gap_seconds = max(window.gap_seconds, age)
    if row.judged == before.judged:
        return
    if row.judged == before.judged + 1 and row.path in sampled_at:
        window.gap_seconds = max(window.gap_seconds, looked_at - age - sampled_at[row.path])
    sampled_at[row.path] = looked_at - age
    if row.decision_seconds is not None:
        window.delays_seconds.append(row.decision_seconds)


def _judged_since(before: StreamRow, after: StreamRow | None) -> int:
    return 0 if after is None else max(0, after.judged - before.judged)


def _rise(before: dict[str, float], after: dict[str, float], name: str, label: str) -> dict[str, int]:
    start = f'{name}{{{label}="'
    rises = {
        key.removeprefix(start)[:-2]: round(value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(start)
    }
    return {word: rise for word, rise in rises.items() if rise}
