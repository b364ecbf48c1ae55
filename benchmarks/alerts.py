"""How soon an alert is out: from an analysed frame to the broker's acknowledgement, and the gravest ones in a storm.

**Frames.** The whole service with its embedded ingest, eight publishers with a keyframe a second, each of which shows a
banked card: every new card is an alert. Its time runs from the frame's arrival at our reader, as the alert tells it, to
its arrival at a subscriber of mosquitto, which is later than the broker's acknowledgement.

**Storm.** Fifty streams begin and end again and again, each time with a review; beside them cuts are decided. What
comes before the decision is left out (`benchmarks.numbered_service`); the rest is the service's own, with a real
mosquitto that is away for a while in the middle, so that hundreds of reviews wait when a cut comes.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.brokers import AlertReceiver, Mosquitto, ServerMissing
from benchmarks.clips import Clip, encode_clip
from benchmarks.crowd import BANK, BANKED, fill_bank, percentile
from benchmarks.fake_ingest import FakeIngest
from benchmarks.numbered_service import Numbered, numbered
from benchmarks.publishers import PacedPublishers
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.running import RunningService
from detector.config.loading import load_config
from detector.events import Publisher, Step, StreamKey

_STREAMS: Final = 8
_FLAPPING: Final = 50
_P50_LIMIT_MS: Final = 150.0
_P99_LIMIT_MS: Final = 500.0
_STORM_LIMIT_SECONDS: Final = 5.0
_SCRIPT: Final = ",".join(["card:100:2", *(f"{card}:1" for card in BANKED)])
_LAST_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long frames are measured, how long the storm lasts, and how long the broker is away in it."""

    frames_seconds: float
    storm_seconds: float
    away_seconds: float


_FULL: Final = Plan(frames_seconds=120.0, storm_seconds=60.0, away_seconds=10.0)
_QUICK: Final = Plan(frames_seconds=16.0, storm_seconds=10.0, away_seconds=2.0)


def measure(options: Options) -> Report:
    """Measure both; a quick run takes seconds of each."""
    plan = _QUICK if options.is_quick else _FULL
    settings: dict[str, Any] = {
        "streams": _STREAMS,
        "frames_per_second_and_stream": 1,
        "frames_seconds": plan.frames_seconds,
        "flapping_streams": _FLAPPING,
        "storm_seconds": plan.storm_seconds,
        "broker_away_seconds": plan.away_seconds,
        "broker": "mosquitto",
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("alerts", settings)
    try:
        results, checks = asyncio.run(_measure(plan, options.seed))
    except ServerMissing as missing:
        return Report("alerts", settings, [], [not_measured("everything", "ms", 0, str(missing))])
    return Report("alerts", settings, results, checks)


async def _measure(plan: Plan, seed: int) -> tuple[list[dict[str, Any]], list[Check]]:
    with tempfile.TemporaryDirectory(prefix="stopframe-alerts-") as scratch:
        folder = Path(scratch)
        for name in ("frames", "storm"):
            (folder / name).mkdir()
        clip = await asyncio.to_thread(encode_clip, _SCRIPT)
        frames = await _frames(folder / "frames", clip, plan.frames_seconds)
        storm = await _storm(folder / "storm", plan, random.Random(seed))
    calm, away = [wait for wait in storm if not wait.is_after_outage], [wait for wait in storm if wait.is_after_outage]
    rows = [_row("frame to subscriber, ms", frames)]
    rows += [_row("cut decided to subscriber, s", [one.seconds for one in calm])] if calm else []
    rows += [_row("the same, decided while the broker was away, s", [one.since_return for one in away])] if away else []
    checks = [
        at_least("alerts measured", len(frames), "alerts", 10),
        at_most("frame to acknowledgement, p50", _at(frames, 50), "ms", _P50_LIMIT_MS),
        at_most("frame to acknowledgement, p99", _at(frames, 99), "ms", _P99_LIMIT_MS),
        at_least("cuts in the storm", len(storm), "alerts", 5),
        at_most(
            "storm: cut to subscriber, p95 (of those decided while the broker was away, from its return)",
            _at([one.since_return for one in storm], 95),
            "s",
            _STORM_LIMIT_SECONDS,
        ),
    ]
    return rows, checks


def _at(values: Sequence[float], share: float) -> float:
    """A percentile, and where nothing was measured one that no limit lets pass."""
    found = percentile(values, share)
    return float("inf") if found is None else found


def _row(what: str, values: Sequence[float]) -> dict[str, Any]:
    names = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {"what": what, "count": len(values), **{name: percentile(values, at) for name, at in names.items()}}


async def _frames(folder: Path, clip: Clip, seconds: float) -> list[float]:
    """Milliseconds from each alert's frame at our reader to the subscriber."""
    with Mosquitto(folder) as broker:
        await broker.start()
        ahead = time.time() - time.monotonic()
        service = RunningService(folder / "service", f"banks: {{{BANK}: {{step: review}}}}\n{broker.settings}")
        fill_bank(service.state_dir)
        async with AlertReceiver(broker.port) as receiver:
            await receiver.is_subscribed.wait()
            async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
                await asyncio.gather(*(_publish(publishers, clip, seconds, number) for number in range(_STREAMS)))
                await asyncio.sleep(1.0)
            arrivals = receiver.arrivals
        return [
            1000 * (arrival.at + ahead - datetime.fromisoformat(arrival.alert["times"]["arrived"]).timestamp())
            for arrival in arrivals
            if "arrived" in arrival.alert["times"]
        ]


async def _publish(publishers: PacedPublishers, clip: Clip, seconds: float, number: int) -> None:
    """One publisher after the other, so that each card is news again; no two in step."""
    await asyncio.sleep(number / _STREAMS)
    until, turn = time.monotonic() + seconds - clip.seconds, 0
    while turn == 0 or time.monotonic() < until:
        turn += 1
        path = f"live/p{number}t{turn}"
        publishers.start(path, clip, rounds=1)
        await publishers.wait(path)


@dataclass(frozen=True, slots=True)
class Wait:
    """One cut of the storm. `since_return` counts from the broker's return, where it was away at the decision."""

    seconds: float
    since_return: float
    is_after_outage: bool


async def _storm(folder: Path, plan: Plan, draw: random.Random) -> list[Wait]:
    decided: dict[str, float] = {}
    async with FakeIngest() as ingest:
        with Mosquitto(folder) as broker:
            await broker.start()
            config = folder / "stopframe.yaml"
            config.write_text(f"state_dir: state\n{ingest.section}\nenforcement: {{live: true}}\n{broker.settings}\n")
            async with AlertReceiver(broker.port) as receiver:
                await receiver.is_subscribed.wait()
                async with numbered(load_config(config)) as service:
                    await service.mqtt.wait_ready()
                    stop = asyncio.Event()
                    flapping = [asyncio.create_task(_flap(service, n, draw, stop)) for n in range(_FLAPPING)]
                    cuts = asyncio.create_task(_cut(service, decided, stop))
                    half = (plan.storm_seconds - plan.away_seconds) / 2
                    await asyncio.sleep(half)
                    broker.stop()
                    left_at = time.monotonic()
                    await asyncio.sleep(plan.away_seconds)
                    await broker.start()
                    returned_at = time.monotonic()
                    await asyncio.sleep(half)
                    stop.set()
                    await asyncio.gather(cuts, *flapping)
                    await asyncio.sleep(_LAST_SECONDS)
                came = {arrival.alert["session"]: arrival.at for arrival in reversed(receiver.arrivals)}
    missing = returned_at + _LAST_SECONDS + plan.storm_seconds  # worse than any that came
    waits = []
    for session, at in decided.items():
        arrived_at = came.get(session, missing)
        is_after = left_at - 1.0 <= at < returned_at
        waits.append(Wait(arrived_at - at, arrived_at - (max(at, returned_at) if is_after else at), is_after))
    return waits


async def _flap(service: Numbered, number: int, draw: random.Random, stop: asyncio.Event) -> None:
    """A stream that begins, shows something doubtful, and leaves, about twice a second."""
    turn = 0
    while not stop.is_set():
        turn += 1
        session = f"flap{number}-{turn}"
        publisher = Publisher(StreamKey("mediamtx", "live", f"flap{number}"), session, time.monotonic())
        await service.decide(publisher, Step.REVIEW, session)
        service.responder.session_ended(session)
        await asyncio.sleep(draw.uniform(0.2, 0.8))


async def _cut(service: Numbered, decided: dict[str, float], stop: asyncio.Event) -> None:
    """Every half second another stream is to be cut."""
    number = 0
    while not stop.is_set():
        number += 1
        session = f"cut{number}"
        publisher = Publisher(StreamKey("mediamtx", "live", session), session, time.monotonic())
        decided[session] = time.monotonic()
        await service.decide(publisher, Step.CUT, session)
        await asyncio.sleep(0.5)
