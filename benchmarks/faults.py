"""Numbered alerts on their way to a signed answer, while service, broker and cutter are killed at random.

A small Jepsen: every alert that was ever on the service's disk must be answered by the cutter, every publisher that is
to be cut must be dropped exactly once, nobody else ever, and a subscriber must meet each stream's alerts in order.
The ingest server is a book without media (`benchmarks.fake_ingest`), which is never killed; whatever stands between a
decision and the dropped publisher is the product's own, in processes of its own, and a real mosquitto.
"""

import asyncio
import json
import random
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.brokers import ServerMissing
from benchmarks.crowd import percentile
from benchmarks.fake_ingest import FakeIngest
from benchmarks.fault_site import FaultSite, Part
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.mqtt_inbox import Received

_LOOKERS_STAY_SECONDS: Final = 6.0
_SETTLE_SECONDS: Final = 75.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many kills, how many alerts at least, how many publishers a second, and when feeding ends at the latest."""

    kills: int
    alerts: int
    cuts_per_second: float
    looks_per_second: float
    longest_seconds: float
    rest_seconds: tuple[float, float]

    @property
    def alerts_per_second(self) -> float:
        """A publisher that is cut raises a review before."""
        return 2 * self.cuts_per_second + self.looks_per_second


_FULL: Final = Plan(
    kills=100,
    alerts=2_000,
    cuts_per_second=2.8,
    looks_per_second=0.5,
    longest_seconds=350.0,
    rest_seconds=(0.5, 5.8),
)
_QUICK: Final = Plan(
    kills=8, alerts=60, cuts_per_second=1.5, looks_per_second=0.5, longest_seconds=22.0, rest_seconds=(0.5, 4.0)
)


@dataclass(slots=True)
class Book:
    """What the feeder did and the subscriber met. Times are monotonic."""

    began_at: dict[str, float] = field(default_factory=dict)
    dropped_at: dict[str, float] = field(default_factory=dict)
    arrivals: list[tuple[str, str, int | None]] = field(default_factory=list)
    """Alert, stream and number, in the order in which they came."""

    def take(self, received: Received) -> None:
        """Write an alert down before the broker is told."""
        alert = json.loads(received.payload)
        self.arrivals.append((alert["alert_id"], alert["stream"], alert["seq"]))
        received.acknowledge()


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the disks of service and cutter say in the end."""

    alerts: list[tuple[str, int, str, bool, str]]
    """Alert, number, stream, whether it asks for a cut, and how far its delivery got."""

    answers: dict[str, str]
    """The cutter's final word by alert."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counts that are promised to be zero, and how many alerts they are of."""

    alerts: int
    cuts: int
    lost_cuts: int
    lost_others: int
    gaps_in_numbers: int
    out_of_order: int
    copies: int
    most_copies: int


def measure(options: Options) -> Report:
    """Kill 100 times beside 2,000 alerts; a quick run kills eight times."""
    return measure_plan(_QUICK if options.is_quick else _FULL, options)


def measure_plan(plan: Plan, options: Options) -> Report:
    """Kill and feed by a plan of one's own."""
    settings: dict[str, Any] = {
        "kills": options.trials or plan.kills,
        "alerts_at_least": plan.alerts,
        "cut_publishers_per_second": plan.cuts_per_second,
        "other_publishers_per_second": plan.looks_per_second,
        "killed": "service, broker or cutter, drawn at random; SIGKILL; started again at once",
        "ingest": "a list and a kick over HTTP without media, never killed",
        "broker": "mosquitto, its database written every second",
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("faults", settings)
    try:
        return asyncio.run(_measure(plan, options, settings))
    except ServerMissing as missing:
        return Report("faults", settings, [], [not_measured("alerts lost", "alerts", 0, str(missing))])


async def _measure(plan: Plan, options: Options, settings: dict[str, Any]) -> Report:
    draw = random.Random(options.seed)
    kills = options.trials or plan.kills
    book = Book()
    with tempfile.TemporaryDirectory(prefix="stopframe-faults-") as scratch:
        async with FakeIngest() as ingest:
            with FaultSite(Path(scratch), ingest.section) as site:
                await site.start()
                async with _subscriber(site.broker_port, book):
                    begun_at = time.monotonic()
                    await _kill_and_feed(site, ingest, book, plan, kills, draw)
                    killed_seconds = time.monotonic() - begun_at
                    left = await _settle(site, ingest, book)
            ledger = read_ledger(site.service_dir / "stopframe.db", site.cutter_dir / "cutter.db")
    verdict = judge(ledger, book.arrivals)
    results = [_row(part) for part in site.parts]
    results.append(
        {
            "what": "alerts",
            "raised": verdict.alerts,
            "cuts": verdict.cuts,
            "copies_at_subscriber": verdict.copies,
            "most_copies": verdict.most_copies,
            "seconds": killed_seconds,
        }
    )
    waits = [at - book.began_at[path] for path, at in book.dropped_at.items()]
    if waits:
        row = {"what": "publisher begins to dropped, kills included", "p50_s": percentile(waits, 50)}
        results.append({**row, "p95_s": percentile(waits, 95), "max_s": max(waits)})
    return Report("faults", settings, results, list(_checks(plan, site, ingest, verdict, left)))


def _checks(plan: Plan, site: FaultSite, ingest: FakeIngest, verdict: Verdict, left: int) -> Iterable[Check]:
    innocent = sum(count for path, count in ingest.kicks.items() if not path.startswith("live/cut"))
    yield at_least("parts killed", sum(part.kills for part in site.parts), "kills", plan.kills)
    yield at_least("alerts raised", verdict.alerts, "alerts", plan.alerts)
    yield at_most("cuts without the cutter's final answer", verdict.lost_cuts, "alerts", 0)
    yield at_most("other alerts that the subscriber never met", verdict.lost_others, "alerts", 0)
    yield at_most("publishers to be cut that stayed", left, "publishers", 0)
    yield at_most("publishers dropped more than once", sum(n > 1 for n in ingest.kicks.values()), "publishers", 0)
    yield at_most("publishers dropped that nobody asked for", innocent, "publishers", 0)
    yield at_most("alerts out of their stream's order", verdict.out_of_order, "alerts", 0)
    yield at_most("gaps in the numbers", verdict.gaps_in_numbers, "numbers", 0)


def _row(part: Part) -> dict[str, Any]:
    starts = part.start_seconds
    return {"what": part.name, "kills": part.kills, "start_p50_s": percentile(starts, 50), "start_max_s": max(starts)}


@asynccontextmanager
async def _subscriber(port: int, book: Book) -> AsyncIterator[None]:
    """A subscriber whose session the broker keeps: it is never killed, and acknowledges what it wrote down."""
    settings = MqttSettings(host="127.0.0.1", port=port, node="subscriber", session_seconds=3600)
    sink = MqttSink(settings)
    sink.listen("stopframe/stream/+/alert", book.take)
    async with sink:
        await sink.wait_ready()
        yield


async def _kill_and_feed(
    site: FaultSite, ingest: FakeIngest, book: Book, plan: Plan, kills: int, draw: random.Random
) -> None:
    """Feed publishers for as long as there are kills left, and until there are enough of them."""
    stop = asyncio.Event()
    starting: dict[str, asyncio.Task[None]] = {}
    feeder = asyncio.create_task(_feed(ingest, book, plan, stop), name="feeder")
    until = time.monotonic() + plan.longest_seconds
    try:
        while sum(part.kills for part in site.parts) < kills and time.monotonic() < until:
            await asyncio.sleep(draw.uniform(*plan.rest_seconds))
            for task in starting.values():
                if task.done():
                    task.result()  # one that cannot start ends the run
            # What is still starting is left alone: a kill of it would be none of a part at work.
            running = [part for part in site.parts if part.name not in starting or starting[part.name].done()]
            if running:
                part = draw.choice(running)
                part.kill()
                part.spawn()
                starting[part.name] = asyncio.create_task(part.up(), name=f"start-{part.name}")
        missing = plan.alerts - _alerts_fed(book)
        await asyncio.sleep(min(max(0.0, until - time.monotonic()), max(0, missing) / plan.alerts_per_second))
        await asyncio.gather(*starting.values())
    finally:
        stop.set()
        await feeder


def _alerts_fed(book: Book) -> int:
    """Each publisher raises a review, and those that are cut a cut."""
    return sum(2 if path.startswith("live/cut") else 1 for path in book.began_at)


async def _feed(ingest: FakeIngest, book: Book, plan: Plan, stop: asyncio.Event) -> None:
    """Let publishers come: some are to be cut and stay until then, others show something doubtful and leave."""
    begun_at, looks, cuts = time.monotonic(), 0, 0
    leaving: list[tuple[float, str]] = []
    while not stop.is_set():
        now = time.monotonic()
        while cuts < (now - begun_at) * plan.cuts_per_second:
            cuts += 1
            _begin(ingest, book, f"live/cut{cuts}", now)
        while looks < (now - begun_at) * plan.looks_per_second:
            looks += 1
            _begin(ingest, book, f"live/look{looks}", now)
            leaving.append((now + _LOOKERS_STAY_SECONDS, f"live/look{looks}"))
        while leaving and leaving[0][0] <= now:
            ingest.leave(leaving.pop(0)[1])
        _note_dropped(ingest, book)
        await asyncio.sleep(0.02)
    for _, path in leaving:
        ingest.leave(path)


def _begin(ingest: FakeIngest, book: Book, path: str, now: float) -> None:
    ingest.publish(path)
    book.began_at[path] = now


def _note_dropped(ingest: FakeIngest, book: Book) -> None:
    now = time.monotonic()
    for path in ingest.kicks:
        book.dropped_at.setdefault(path, now)


async def _settle(site: FaultSite, ingest: FakeIngest, book: Book) -> int:
    """Let everything that runs come to its end; returns how many publishers are live that were to be cut."""
    until = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < until:
        _note_dropped(ingest, book)
        ledger = read_ledger(site.service_dir / "stopframe.db", site.cutter_dir / "cutter.db")
        verdict = judge(ledger, book.arrivals)
        is_open = any(state in {"pending", "sent"} for *_, state in ledger.alerts)
        if not ingest.live and not is_open and not verdict.lost_cuts and not verdict.lost_others:
            break
        await asyncio.sleep(0.5)
    return sum(path.startswith("live/cut") for path in ingest.live)


def read_ledger(service: Path, cutter: Path) -> Ledger:
    """Read both databases while their owners run."""
    with closing(sqlite3.connect(f"file:{service}?mode=ro", uri=True, timeout=5)) as connection:
        alerts = connection.execute(
            "SELECT alert_id, seq, stream_id, urgency = 3, (SELECT state FROM deliveries d WHERE"
            " d.alert_id = alerts.alert_id AND sink = 'mqtt') FROM alerts ORDER BY seq"
        ).fetchall()
    with closing(sqlite3.connect(f"file:{cutter}?mode=ro", uri=True, timeout=5)) as connection:
        answers = connection.execute("SELECT alert_id, state FROM asked_alerts").fetchall()
    return Ledger([(a, int(n), s, bool(cut), str(state)) for a, n, s, cut, state in alerts], dict(answers))


def judge(ledger: Ledger, arrivals: list[tuple[str, str, int | None]]) -> Verdict:
    """Hold what arrived against what was ever on disk."""
    copies: dict[str, int] = defaultdict(int)
    last_of: dict[str, int] = {}
    out_of_order = 0
    for alert_id, stream, number in arrivals:
        copies[alert_id] += 1
        if copies[alert_id] == 1 and number is not None:
            out_of_order += number < last_of.get(stream, 0)
            last_of[stream] = max(number, last_of.get(stream, 0))
    cuts = [row for row in ledger.alerts if row[3]]
    numbers = [row[1] for row in ledger.alerts]
    return Verdict(
        alerts=len(ledger.alerts),
        cuts=len(cuts),
        lost_cuts=sum(state != "acked" or ledger.answers.get(a) not in {"cut", "rejected"} for a, *_, state in cuts),
        lost_others=sum(not is_cut and a not in copies for a, _, _, is_cut, _ in ledger.alerts),
        gaps_in_numbers=(max(numbers) - len(numbers)) if numbers else 0,
        out_of_order=out_of_order,
        copies=sum(count - 1 for count in copies.values()),
        most_copies=max(copies.values(), default=0),
    )
