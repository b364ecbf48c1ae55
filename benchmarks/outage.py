"""The broker is killed and stays away for ten minutes, while publishers show what somebody must be told of.

Part of the soak. The whole service with its embedded ingest, a mosquitto of its own and a subscriber: six publishers at
once show four listed cards and leave, each time under another key, and every few seconds somebody else is to be cut.
Everything that the service wrote down must arrive, each stream's in order, what asks for a cut before the rest; and
what waits must wait on disk, not in memory. A service remembers something of every new stream for an hour, so its
growth is held against that of a second one beside it, which has the same publishers and a broker that stays.
"""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.brokers import AlertReceiver, Arrival, Mosquitto
from benchmarks.clips import Clip
from benchmarks.crowd import BANK, BANKED, CLASS_CARD, encode_all, fill_bank
from benchmarks.processes import resident_bytes
from benchmarks.publishers import PacedPublishers
from benchmarks.report import Check, at_least, at_most
from benchmarks.running import RunningService
from detector.alerts.urgency import Urgency

SECONDS: Final = 600.0
QUICK_SECONDS: Final = 16.0

_AT_ONCE: Final = 6
_CUT_EVERY_SECONDS: Final = 8.0
_SCRIPTS: Final = {
    "listed": ",".join(["card:100:2", *(f"{card}:1" for card in BANKED)]),
    "harmful": f"card:100:1,{CLASS_CARD}:12",
}
_SETTINGS: Final = (
    f"banks: {{{BANK}: {{step: review}}}}\nclasses: {{standin-cards/{CLASS_CARD}: {{step: cut}}}}\n"
    "votes: {k: 1, of: 1}\nenforcement: {live: true, incidents: {cool_down: 2s}, breaker: {cuts: 10000}}\n"
)
_BEFORE_SECONDS: Final = 3.0
_AFTER_SECONDS: Final = 5.0
_ARRIVAL_SECONDS: Final = 60.0
_CUT_LIMIT_SECONDS: Final = 5.0
_ALL_LIMIT_SECONDS: Final = 30.0
_GROWTH_LIMIT_MIB: Final = 3.0
_WINDOW_ALERTS: Final = 256
"""What is held for the broker in memory: so many lesser alerts may be on their way already when it is back."""


@dataclass(frozen=True, slots=True)
class Written:
    """One alert as the service's disk holds it in the end."""

    alert_id: str
    seq: int
    stream_id: str
    urgency: int
    state: str
    is_of_outage: bool


@dataclass(slots=True)
class Away:
    """What an outage came to. `returned_at` is monotonic; `resident` one look a second while the broker was away."""

    seconds: float = 0.0
    returned_at: float = 0.0
    written: list[Written] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    harmful: int = 0
    dropped: int = 0
    resident: list[int] = field(default_factory=list)
    usual_growth_bytes: int | None = None
    """Of the service whose broker stayed; None where there was none."""
    log_bytes: int = 0

    @property
    def first_arrivals(self) -> dict[str, float]:
        """When each alert came first."""
        return {one.alert_id: one.at for one in reversed(self.arrivals)}

    @property
    def lost(self) -> int:
        """Alerts that the disk has and nobody was told of."""
        return len({one.alert_id for one in self.written} - set(self.first_arrivals))

    @property
    def out_of_order(self) -> int:
        """Alerts whose first copy came after a later one of their stream."""
        came = self.first_arrivals
        last: dict[str, int] = {}
        late = 0
        for one in sorted((one for one in self.written if one.alert_id in came), key=lambda one: came[one.alert_id]):
            late += one.seq < last.get(one.stream_id, 0)
            last[one.stream_id] = max(one.seq, last.get(one.stream_id, 0))
        return late

    def since_return(self, *, of_cuts: bool) -> list[float]:
        """Seconds from the broker's return, of what was written while it was away."""
        came = self.first_arrivals
        return [
            came[one.alert_id] - self.returned_at
            for one in self.written
            if one.is_of_outage and one.alert_id in came and (one.urgency == Urgency.CUT) is of_cuts
        ]

    @property
    def growth_bytes(self) -> int:
        """The most that was resident in the last tenth of the outage beyond the most in its second tenth."""
        tenth = max(1, len(self.resident) // 10)
        return max(self.resident[-tenth:], default=0) - max(self.resident[tenth : 2 * tenth], default=0)


async def outage(folder: Path, seconds: float) -> Away:
    """Take the broker away for so long, bring it back, and wait for what was written; raises `ServerMissing`."""
    for name in ("away", "usual"):
        (folder / name).mkdir()
    Mosquitto(folder)  # is it there?
    clips = await encode_all(_SCRIPTS, folder)
    async with asyncio.TaskGroup() as group:
        away = group.create_task(_site(folder / "away", clips, seconds, leaves=True), name="outage.away")
        if seconds >= SECONDS:
            usual = group.create_task(_site(folder / "usual", clips, seconds, leaves=False), name="outage.usual")
        else:  # before, neither has opened everything that it holds for good
            usual = None
    found = away.result()
    found.usual_growth_bytes = usual.result().growth_bytes if usual else None
    return found


async def _site(folder: Path, clips: dict[str, Clip], seconds: float, *, leaves: bool) -> Away:
    """One service, its broker and its publishers; without `leaves` the broker stays."""
    away = Away()
    with Mosquitto(folder) as broker:
        service = RunningService(folder / "service", f"{_SETTINGS}{_alerts(broker)}")
        fill_bank(service.state_dir)
        await broker.start()
        async with AlertReceiver(broker.port) as receiver:
            await receiver.is_subscribed.wait()
            async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
                stop = asyncio.Event()
                crowd = [
                    asyncio.create_task(_listed(publishers, clips["listed"], number, stop), name=f"outage[{number}]")
                    for number in range(_AT_ONCE)
                ]
                crowd.append(asyncio.create_task(_harmful(publishers, clips["harmful"], away, stop), name="outage.cut"))
                await asyncio.sleep(_BEFORE_SECONDS)
                if leaves:
                    broker.stop()
                left_ms = await _look(service, seconds, away)
                if leaves:
                    await broker.start()
                returned_ms = round(time.time() * 1000)
                await asyncio.sleep(_AFTER_SECONDS)
                stop.set()
                await asyncio.gather(*crowd)
                await asyncio.sleep(2.0 + _AFTER_SECONDS)  # the last incidents end
                away.written = _written(service.state_dir, left_ms, returned_ms)
                await receiver.wait_for({one.alert_id for one in away.written}, _ARRIVAL_SECONDS)
                away.written = _written(service.state_dir, left_ms, returned_ms)
            away.log_bytes = service.log.stat().st_size
        away.arrivals = list(receiver.arrivals)
    return away


async def _look(service: RunningService, seconds: float, away: Away) -> int:
    """Look at the service's memory for so long; returns when that began (Unix ms)."""
    begun_ms, begun_at = round(time.time() * 1000), time.monotonic()
    while time.monotonic() < begun_at + seconds:
        away.resident.append(resident_bytes(service.tree.pid))
        await asyncio.sleep(min(1.0, max(0.0, begun_at + seconds - time.monotonic())))
    away.returned_at = time.monotonic()
    away.seconds = away.returned_at - begun_at
    return begun_ms


async def _listed(publishers: PacedPublishers, clip: Clip, number: int, stop: asyncio.Event) -> None:
    """One publisher after the other, each under a key of its own; no two in step."""
    await asyncio.sleep(number * clip.seconds / _AT_ONCE)
    turn = 0
    while not stop.is_set():
        turn += 1
        path = f"live/listed{number}t{turn}"
        publishers.start(path, clip, rounds=1)
        await publishers.wait(path)


async def _harmful(publishers: PacedPublishers, clip: Clip, away: Away, stop: asyncio.Event) -> None:
    """Every few seconds somebody who is to be cut."""
    while not stop.is_set():
        away.harmful += 1
        path = f"live/harmful{away.harmful}"
        publishers.start(path, clip, rounds=1)
        told = await publishers.wait(path)
        away.dropped += told.closed_at is not None
        begun_at = told.connected_at or time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.1, begun_at + _CUT_EVERY_SECONDS - time.monotonic()))


def _alerts(broker: Mosquitto) -> str:
    return f'alerts: {{retain_ended: 0s, mqtt: {{url: "mqtt://127.0.0.1:{broker.port}", embedded_broker: false}}}}'


def _written(state_dir: Path, left_ms: int, returned_ms: int) -> list[Written]:
    query = (
        "SELECT a.alert_id, a.seq, a.stream_id, a.urgency, d.state, a.queued_at_ms"
        " FROM alerts a JOIN deliveries d USING (alert_id) WHERE d.sink = 'mqtt' ORDER BY a.seq"
    )
    with closing(sqlite3.connect(f"file:{state_dir / 'stopframe.db'}?mode=ro", uri=True, timeout=5)) as database:
        rows = database.execute(query).fetchall()
    return [Written(a, n, s, u, state, left_ms <= at_ms < returned_ms) for a, n, s, u, state, at_ms in rows]


def row(away: Away) -> dict[str, Any]:
    """Return what the report shows of it."""
    cuts, others = away.since_return(of_cuts=True), away.since_return(of_cuts=False)
    return {
        "what": "broker away",
        "seconds": round(away.seconds, 1),
        "alerts_meanwhile": sum(one.is_of_outage for one in away.written),
        "cuts_meanwhile": sum(one.is_of_outage and one.urgency == Urgency.CUT for one in away.written),
        "streams": len({one.stream_id for one in away.written}),
        "copies": len(away.arrivals) - len(away.first_arrivals),
        "last_cut_after_return_s": max(cuts, default=None),
        "first_other_after_return_s": min(others, default=None),
        "last_other_after_return_s": max(others, default=None),
        "others_before_the_last_cut": _before_last_cut(cuts, others),
        "resident_first_mib": round(away.resident[0] / 2**20, 2) if away.resident else None,
        "resident_most_mib": round(max(away.resident, default=0) / 2**20, 2),
        "grown_mib": round(away.growth_bytes / 2**20, 2),
        "grown_where_it_stayed_mib": (
            None if away.usual_growth_bytes is None else round(away.usual_growth_bytes / 2**20, 2)
        ),
        "log_kib": away.log_bytes // 1024,
    }


def checks(away: Away, seconds: float) -> list[Check]:
    """Return one check for each promised figure."""
    cuts, others = away.since_return(of_cuts=True), away.since_return(of_cuts=False)
    meanwhile = sum(one.is_of_outage for one in away.written)
    never = float("inf")
    found = [
        at_least("broker away: for", away.seconds, "s", seconds),
        at_least("broker away: alerts written meanwhile", meanwhile, "alerts", seconds),
        at_least("broker away: of them cuts", len(cuts), "alerts", max(1, int(seconds / _CUT_EVERY_SECONDS / 2))),
        at_most("broker away: alerts lost", away.lost, "alerts", 0),
        at_most("broker away: alerts expired", sum(one.state == "expired" for one in away.written), "alerts", 0),
        at_most("broker away: alerts out of their stream's order", away.out_of_order, "alerts", 0),
        at_most("broker away: publishers to be cut that stayed", away.harmful - away.dropped, "publishers", 0),
        at_most("broker back: last cut told after", max(cuts, default=never), "s", _CUT_LIMIT_SECONDS),
        at_most(
            "broker back: lesser alerts told before the last cut",
            _before_last_cut(cuts, others),
            "alerts",
            _WINDOW_ALERTS,
        ),
        at_most("broker back: last alert told after", max([*cuts, *others], default=never), "s", _ALL_LIMIT_SECONDS),
    ]
    if away.usual_growth_bytes is not None:
        grown = (away.growth_bytes - away.usual_growth_bytes) / 2**20
        what = "broker away: memory grew by more than where it stayed"
        found.append(at_most(what, grown, "MiB", _GROWTH_LIMIT_MIB))
    return found


def _before_last_cut(cuts: Sequence[float], others: Sequence[float]) -> int:
    return sum(other < max(cuts, default=0.0) for other in others)
