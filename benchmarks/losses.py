"""The losses that `benchmarks.recovery` measures, one function each: what is taken away, and what came of it."""

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.brokers import AlertReceiver, Mosquitto
from benchmarks.clips import Clip
from benchmarks.crowd import BANK, BANKED, fill_bank
from benchmarks.processes import Process
from benchmarks.publishers import PacedPublishers, Publication
from benchmarks.running import RunningService, ServiceFailed, wait_until

GOP_SECONDS: Final = 1.0
HARMFUL: Final = BANKED[0]
CLEAN_SCRIPT: Final = "card:100:8"
HARMFUL_SCRIPT: Final = f"card:100:3.4,{HARMFUL}:20"

LOADED_GOP_SECONDS: Final = 0.2
LOADED: Final = "sampling: {interval: 200ms}\n"
"""Settings under which every keyframe of the streams that make a load is analysed."""

CUTTING: Final = f"enforcement: {{live: true}}\nbanks: {{{BANK}: {{step: cut}}}}\n"
"""Settings under which the harmful card is cut."""

_LIVE_SECONDS = 30.0
_BACK_SECONDS = 20.0
_ALERT_SECONDS = 60.0
_COPIES_SECONDS = 2.0
_ANALYSTS_SETTLE_SECONDS = 1.0
_VERDICT_LIMIT = "1.0"


@dataclass(slots=True)
class Losses:
    """What several trials of one loss came to.

    `back_seconds`: from the loss until a frame of the stream that arrived after it was analysed, by arrival.
    `others_gap_seconds`: the longest that any other stream's newest analysed frame was old meanwhile.
    """

    back_seconds: list[float] = field(default_factory=list)
    others_gap_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class AnalysisLosses:
    """What losing analysis processes under load came to.

    `late`: verdicts later than a second after the frame arrived; `within_seconds`: the histogram's smallest bound that
    holds all of them. `unaccounted`: sampled frames with neither verdict nor counted drop.
    """

    replaced_seconds: Sequence[float]
    verdicts: int
    late: int
    within_seconds: float
    dropped: Mapping[str, int]
    unaccounted: int


@dataclass(frozen=True, slots=True)
class Restart:
    """What killing the service between decision and delivery came to; seconds count from its start anew.

    `outlived`: processes of it that did not die with it. `is_key_refused`: whether the key stays revoked.
    """

    alerts: int
    lost: int
    most_copies: int
    alert_seconds: float
    start_seconds: float
    outlived: int
    is_key_refused: bool


@dataclass(frozen=True, slots=True)
class BrokerAway:
    """What a broker's absence came to; `last_alert_seconds` counts from its return."""

    alerts: int
    lost: int
    most_copies: int
    last_alert_seconds: float
    switch_to_closed_seconds: Sequence[float]
    harmful: int


class WatchedStreams:
    """Clean streams of a running service, each with the reader that watches it."""

    def __init__(self, service: RunningService, publishers: PacedPublishers) -> None:
        self.readers: dict[str, Process] = {}
        self._service = service
        self._publishers = publishers

    async def begin(self, count: int, clip: Clip) -> None:
        """Publish `count` streams one after another, so that each new reader is known by its stream."""
        for number in range(count):
            path = f"live/w{number}"
            self._publishers.start(path, clip)
            await self._find_reader(path)
        await self._service.wait_live(count, _LIVE_SECONDS)

    async def lose_reader(self, path: str, number: signal.Signals, losses: Losses) -> None:
        """Send a signal to the reader of `path`, and note how long it takes until the stream is watched again."""
        reader = self.readers.pop(path)
        lost_at = time.monotonic()
        os.kill(reader.pid, number)
        await self.wait_back([path], lost_at, losses)
        await self._find_reader(path)
        if not await wait_until(lambda: not reader.is_running(), _BACK_SECONDS):
            raise ServiceFailed(f"the lost reader of {path} still runs")

    async def lose_forkserver(self, entry: str, losses: Losses) -> None:
        """Kill the forkserver of `entry`, and note how long it takes until every stream is watched again."""
        server = self._service.tree.forkserver(entry)
        assert server is not None
        lost_at = time.monotonic()
        os.kill(server.pid, signal.SIGKILL)
        await self.wait_back(list(self.readers), lost_at, losses)

    async def wait_back(self, paths: Sequence[str], lost_at: float, losses: Losses) -> None:
        """Note when a frame of each of `paths` that arrived after `lost_at` was analysed."""
        missing = set(paths)
        while missing:
            asked_at = time.monotonic()
            rows = await self._service.streams()
            answered_at = time.monotonic()
            for path, row in rows.items():
                age = row.last_sample_age_seconds
                if age is None:
                    continue
                if path not in paths:
                    losses.others_gap_seconds = max(losses.others_gap_seconds, age)
                elif path in missing and asked_at - age > lost_at:
                    missing.discard(path)
                    losses.back_seconds.append(answered_at - age - lost_at)
            if answered_at - lost_at > _BACK_SECONDS:
                raise ServiceFailed(f"{len(missing)} streams are not watched again after {_BACK_SECONDS:g} s")
            await asyncio.sleep(0.02)

    async def _find_reader(self, path: str) -> None:
        known = {reader.pid for reader in self.readers.values()}
        found: list[Process] = []

        def look() -> bool:
            found[:] = [reader for reader in self._service.tree.readers() if reader.pid not in known]
            return len(found) == 1

        if not await wait_until(look, _LIVE_SECONDS):
            raise ServiceFailed(f"{len(found)} new readers where one was expected")
        self.readers[path] = found[0]


async def lose_analysts(
    service: RunningService, number: signal.Signals, *, workers: int, trials: int, draw: random.Random
) -> AnalysisLosses:
    """Send a signal to one analysis process after another under load; the service must have `workers` of them."""
    tree = service.tree
    before = await service.metrics()
    replaced = []
    for _ in range(trials):
        await asyncio.sleep(draw.uniform(0.2, 0.8))
        known = tree.analysts()
        victim = draw.choice(known)
        pids = {one.pid for one in known}
        lost_at = time.monotonic()
        os.kill(victim.pid, number)

        def is_replaced(known: set[int] = pids, gone: int = victim.pid) -> bool:
            now = {one.pid for one in tree.analysts()}
            return gone not in now and bool(now - known) and len(now) == workers

        if not await wait_until(is_replaced, _BACK_SECONDS):
            raise ServiceFailed("a lost analysis process was not replaced")
        replaced.append(time.monotonic() - lost_at)
    await asyncio.sleep(_ANALYSTS_SETTLE_SECONDS)
    unaccounted = min([await _unaccounted(service) for _ in range(10)])
    return _analysis_losses(before, await service.metrics(), replaced, unaccounted)


async def kill_before_delivery(folder: Path, clip: Clip, *, waits_for_cut: bool, broker: Mosquitto) -> Restart:
    """Have an alert raised while the broker is away, kill the service, bring both back, and see what arrives.

    Killed as soon as the alert is on disk, or, with `waits_for_cut`, when the publisher is cut.
    """
    service = RunningService(folder, CUTTING + broker.settings)
    fill_bank(service.state_dir)
    async with service:
        async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            publication = publishers.start("live/k", clip, rounds=1)
            done = (lambda: publication.closed_at) if waits_for_cut else (lambda: alerts_on_disk(service.state_dir))
            if not await wait_until(done, _LIVE_SECONDS):
                raise ServiceFailed("the harmful publisher raised no alert")
            left = await service.kill()
        ids = alerts_on_disk(service.state_dir)
        await broker.start()
        async with AlertReceiver(broker.port) as receiver:
            await receiver.is_subscribed.wait()
            begun_at = time.monotonic()
            start_seconds = await service.start()
            missing = await receiver.wait_for(ids, _ALERT_SECONDS)
            first_at = min((arrival.at for arrival in receiver.arrivals), default=time.monotonic())
            is_refused = await _is_refused(service, clip)
            await asyncio.sleep(_COPIES_SECONDS)
            copies = max((receiver.copies(alert_id) for alert_id in ids), default=0)
    return Restart(len(ids), len(missing), copies, first_at - begun_at, start_seconds, len(left), is_refused)


async def lose_broker(folder: Path, clip: Clip, *, away_seconds: float, harmful: int, broker: Mosquitto) -> BrokerAway:
    """Take the broker away while publishers turn harmful; bring it back and see what arrives."""
    service = RunningService(folder, CUTTING + broker.settings)
    fill_bank(service.state_dir)
    await broker.start()
    async with service, AlertReceiver(broker.port) as receiver:
        await receiver.is_subscribed.wait()
        async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            broker.stop()
            away_until = time.monotonic() + away_seconds
            room = max(0.0, away_seconds - clip_turns_after(clip) - 1.0)
            published = publishers.start_many(harmful, clip, spread_seconds=room)
            await wait_until(lambda: all(one.closed_at for one in published), away_seconds + _LIVE_SECONDS)
            await asyncio.sleep(max(0.0, away_until - time.monotonic()))
            ids = alerts_on_disk(service.state_dir)
            await broker.start()
            back_at = time.monotonic()
            missing = await receiver.wait_for(ids, _ALERT_SECONDS)
            last_at = max((arrival.at for arrival in receiver.arrivals), default=time.monotonic())
            await asyncio.sleep(_COPIES_SECONDS)
    copies = max((receiver.copies(alert_id) for alert_id in ids), default=0)
    return BrokerAway(len(ids), len(missing), copies, last_at - back_at, _delays(published), harmful)


def alerts_on_disk(state_dir: Path) -> set[str]:
    """Return the alerts that the outbox holds, sent or not."""
    with closing(sqlite3.connect(f"file:{state_dir / 'stopframe.db'}?mode=ro", uri=True)) as database:
        return {row[0] for row in database.execute("SELECT alert_id FROM alerts")}


def clip_turns_after(clip: Clip) -> float:
    """Return after how many seconds the harmful card begins."""
    return next(chunk.offset_seconds for chunk in clip.chunks if chunk.card == HARMFUL)


def _delays(published: Sequence[Publication]) -> list[float]:
    return [
        one.closed_at - switched_at
        for one in published
        if one.closed_at is not None and (switched_at := one.switched_at(HARMFUL)) is not None
    ]


async def _is_refused(service: RunningService, clip: Clip) -> bool:
    """Whether a publisher who comes back under the same key is turned away before its card shows again."""
    async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        back = publishers.start("live/k", clip, rounds=1)
        await wait_until(lambda: back.closed_at, clip_turns_after(clip))
        return back.closed_at is not None


async def _unaccounted(service: RunningService) -> int:
    """Return how many sampled frames have neither verdict nor drop yet; some are just being looked at."""
    now = await service.metrics()
    sampled = sum(value for name, value in now.items() if name.startswith("stopframe_samples_total"))
    return round(sampled - now["stopframe_frame_to_decision_seconds_count"] - sum(_drops(now).values()))


def _drops(samples: Mapping[str, float]) -> dict[str, float]:
    """Return the frames that were dropped in the service, by cause; what a reader replaced was never sent."""
    prefix = 'stopframe_dropped_frames_total{cause="'
    drops = {name.removeprefix(prefix)[:-2]: value for name, value in samples.items() if name.startswith(prefix)}
    drops.pop("replaced", None)
    return drops


def _analysis_losses(
    before: Mapping[str, float], after: Mapping[str, float], replaced: Sequence[float], unaccounted: int
) -> AnalysisLosses:
    name = "stopframe_frame_to_decision_seconds"
    verdicts = round(after[f"{name}_count"] - before[f"{name}_count"])
    bucket = f"{name}_bucket{{le="
    within = {
        float(key.removeprefix(bucket).strip('"}')): round(value - before[key])
        for key, value in after.items()
        if key.startswith(bucket)
    }
    dropped = {cause: round(count - _drops(before)[cause]) for cause, count in _drops(after).items()}
    return AnalysisLosses(
        replaced_seconds=replaced,
        verdicts=verdicts,
        late=verdicts - within[float(_VERDICT_LIMIT)],
        within_seconds=min(bound for bound, count in within.items() if count == verdicts),
        dropped={cause: count for cause, count in dropped.items() if count},
        unaccounted=unaccounted,
    )
