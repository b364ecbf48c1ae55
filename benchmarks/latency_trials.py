"""Trials of latency: a publisher that shows a clean card and then the bad one, and what each step of the way took."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.brokers import AlertReceiver, Arrival, Mosquitto
from benchmarks.crowd import BANK, fill_bank
from benchmarks.nginx import SERVER, Nginx, ServiceBesideNginx
from benchmarks.processes import look
from benchmarks.rtmp_publisher import Account, Publication
from detector.credentials import load_or_create, stream_id
from detector.events import CutState, StreamKey
from detector.store.database import Database
from detector.store.incidents import IncidentRecord, Incidents

_ROOT = Path(__file__).resolve().parents[1]
_CLEAN_CARD = "card:100"
WIDTH, HEIGHT, FPS = 640, 360, 30
DETECT_WITHIN_SECONDS = 3.0
_PATIENCE_SECONDS = 10.0
_PROOF_SECONDS = 4.0
_SILENT_SECONDS = 6
_LOOK_SECONDS = 0.1
_PUBLICATION_SECONDS = 60.0
_TOTAL_SLACK_SECONDS = 0.3
_LONG_GOP_SLACK_SECONDS = 0.5

STAGES: Final = (
    "keyframe_wait_s",
    "transport_s",
    "arrived_s",
    "decode_s",
    "score_s",
    "queue_s",
    "deliver_s",
    "alert_to_cut_s",
    "total_s",
    "proof_s",
    "connect_s",
    "first_sample_s",
    "connect_to_sample_s",
)
"""What is measured of every trial, in seconds.

`keyframe_wait_s`: first bad packet to the keyframe that was found, both leaving the encoder (trials found by a keyframe
alone, as is `transport_s`: that keyframe from the encoder to the reader). `arrived_s`: first bad packet to the arrival
of the frame that was found. Then decoded, scored, the alert queued, and at the subscriber. `alert_to_cut_s`: alert
queued to the publisher's connection closed. `total_s`: first bad packet to connection closed. `proof_s`: connection
closed to the cut confirmed. `connect_s`: the publisher begins to connect until it may publish, the hook's time in it.
`first_sample_s`: the service hears in the hook that the publisher publishes, until the first analysed frame arrived at
the reader; `connect_to_sample_s`: the same from when the publisher began to connect. The service writes its times down
to the millisecond, so that a stage may seem a millisecond or two shorter than nothing.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is the same in all trials of a cell. One without sound shows nothing bad: its first sample is measured."""

    gop_seconds: float
    bframes: int
    is_attached_in_hook: bool
    has_audio: bool = True

    @property
    def name(self) -> str:
        """As in the results."""
        attach = "in hook" if self.is_attached_in_hook else "after"
        sound = "" if self.has_audio else ", no sound"
        return f"GOP {self.gop_seconds:g} s, {self.bframes} B-frames, attached {attach}{sound}"

    @property
    def limit_seconds(self) -> float:
        """What 95 of 100 trials must keep."""
        if self.gop_seconds > DETECT_WITHIN_SECONDS:
            return DETECT_WITHIN_SECONDS + _LONG_GOP_SLACK_SECONDS
        return self.gop_seconds + _TOTAL_SLACK_SECONDS

    @property
    def lead_seconds(self) -> float:
        """How long it is clean at least: long enough that the reader is attached and knows the GOP."""
        lead = 2.0 + (1.25 if self.gop_seconds > DETECT_WITHIN_SECONDS else 1.0) * self.gop_seconds
        return lead if self.is_attached_in_hook else lead + self.gop_seconds + 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One publisher. `phase` is where in its GOP it turns bad, in [0, 1)."""

    cell: Cell
    name: str
    phase: float
    bad_card: str | None

    def publication(self, port: int) -> Publication:
        """What its publisher is asked to do."""
        cell = self.cell
        gop = round(cell.gop_seconds * FPS)
        # A keyframe begins every GOP, so the lead is whole GOPs and the phase counts from the last one's beginning.
        whole = -(-round(cell.lead_seconds * FPS) // gop) * gop
        return Publication(
            url=f"rtmp://127.0.0.1:{port}/live/{self.name}",
            clean_card=_CLEAN_CARD,
            bad_card=self.bad_card,
            clean_frames=whole + int(self.phase * gop) if self.bad_card else _SILENT_SECONDS * FPS,
            width=WIDTH,
            height=HEIGHT,
            fps=FPS,
            gop_seconds=cell.gop_seconds,
            bframes=cell.bframes,
            has_audio=cell.has_audio,
            patience_seconds=_PATIENCE_SECONDS,
        )


@dataclass(frozen=True, slots=True)
class FirstSample:
    """When the first analysed frame arrived at the reader (monotonic), and when its session began (wall clock)."""

    arrived_at: float
    session_since: float


@dataclass(slots=True)
class Measured:
    """What one trial came to."""

    trial: Trial
    account: Account
    alert: Arrival | None = None
    incident: IncidentRecord | None = None
    first_sample: FirstSample | None = None

    def stages(self, clocks: "Clocks") -> dict[str, float]:
        """Return what of `STAGES` was measured."""
        account, found = self.account, {}
        first = self.first_sample
        if first is not None:
            found["first_sample_s"] = first.arrived_at - clocks.monotonic(first.session_since)
            found["connect_to_sample_s"] = first.arrived_at - account.asked_at
        if account.accepted_at is not None:
            found["connect_s"] = account.accepted_at - account.asked_at
        if self.alert is None or account.bad_left_at is None or account.closed_at is None:
            return found
        times = {
            name: clocks.monotonic(datetime.fromisoformat(text).timestamp())
            for name, text in self.alert.alert["times"].items()
        }
        found |= {
            "arrived_s": times["arrived"] - account.bad_left_at,
            "decode_s": times["decoded"] - times["arrived"],
            "score_s": times["scored"] - times["decoded"],
            "queue_s": times["queued"] - times["scored"],
            "deliver_s": self.alert.at - times["queued"],
            "alert_to_cut_s": account.closed_at - times["queued"],
            "total_s": account.closed_at - account.bad_left_at,
        }
        # Its arrival was written down to the millisecond, twice rounded: it may seem to precede its departure.
        left = [at for at in account.bad_keyframes_left_at if at <= times["arrived"] + 0.002]
        if self.alert.alert["provenance"].get("sampling_reason") == "keyframe" and left:
            found |= {"keyframe_wait_s": left[-1] - account.bad_left_at, "transport_s": times["arrived"] - left[-1]}
        if self.incident is not None and self.incident.confirmed_at_ms is not None:
            found["proof_s"] = clocks.monotonic(self.incident.confirmed_at_ms / 1000) - account.closed_at
        return found


@dataclass(frozen=True, slots=True)
class Clocks:
    """How far the wall clock is ahead of the monotonic one. The service writes wall times, publishers monotonic."""

    ahead_seconds: float

    @classmethod
    def now(cls) -> "Clocks":
        """Read both."""
        return cls(time.time() - time.monotonic())

    def monotonic(self, wall_seconds: float) -> float:
        """Return a wall time on the monotonic clock."""
        return wall_seconds - self.ahead_seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """How many trials of each cell, and how many publishers at once."""

    trials: int
    publishers: int
    attaches: Sequence[bool]
    silent_trials: int


async def run_trials(
    trials: Sequence[Trial], plan: Plan, folder: Path, loads: list[dict[str, Any]], *, is_attached: bool
) -> list[Measured]:
    """Run all trials that share one service; several publishers at once, each for one trial after the other."""
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(Mosquitto(folder))
        nginx = stack.enter_context(Nginx(folder / "nginx"))
        await broker.start()
        receiver = await stack.enter_async_context(AlertReceiver(broker.port))
        await receiver.is_subscribed.wait()
        changes = {"live: false ": "live: true ", "enforcement:": "enforcement:\n  breaker: {cuts: 10000}"}
        if not is_attached:
            changes["hook_deadline: 500ms"] = "hook_deadline: 0s"
        settings = f"banks: {{{BANK}: {{step: cut}}}}\n{broker.settings}"
        service = ServiceBesideNginx(folder / "service", nginx, settings, changes)
        fill_bank(service.state_dir)
        await nginx.start(service.http_port, service.hook_secret)
        async with service:
            load = _Load(service)
            first_samples = await stack.enter_async_context(_first_samples(service))
            accounts, publishers_cpu = await _publish_all(trials, plan.publishers, nginx.rtmp_port)
            loads.append({"attached_in_hook": is_attached, **load.until_now(publishers_cpu)})
            await asyncio.sleep(_PROOF_SECONDS)
        return await _collected(service, accounts, receiver, first_samples)


async def _collected(
    service: ServiceBesideNginx,
    accounts: Sequence[tuple[Trial, Account]],
    receiver: AlertReceiver,
    first_samples: dict[str, FirstSample],
) -> list[Measured]:
    """Bring together what publishers, subscriber and the service's own records say of each trial."""
    secret = load_or_create(service.state_dir).deployment
    async with Database.open(service.state_dir / "stopframe.db") as database:
        records = await Incidents(database).newest(100_000)
    cuts = {record.stream_id: record for record in records if record.cut_state is CutState.CONFIRMED}
    alerts: dict[str, Arrival] = {}
    for arrival in receiver.arrivals:
        if arrival.alert["action"] == "cut":
            alerts.setdefault(arrival.alert["stream"], arrival)
    measured = []
    for trial, account in accounts:
        stream = stream_id(secret, StreamKey(SERVER, "live", trial.name))
        first = first_samples.get(f"live/{trial.name}")
        measured.append(Measured(trial, account, alerts.get(stream), cuts.get(stream), first))
    return measured


async def _publish_all(
    trials: Sequence[Trial], publishers: int, port: int
) -> tuple[list[tuple[Trial, Account]], float]:
    """Return what became of every trial, and the CPU seconds that all publishers used."""
    waiting = list(reversed(trials))
    accounts: list[tuple[Trial, Account]] = []
    cpu_seconds = 0.0

    async def work(number: int) -> None:
        nonlocal cpu_seconds
        async with _publisher() as process:
            await asyncio.sleep(number * 0.4)  # no two in step
            while waiting:
                trial = waiting.pop()
                accounts.append((trial, await _published(process, trial.publication(port))))
            used = look(process.pid)
            cpu_seconds += used.cpu_seconds if used else 0.0

    await asyncio.gather(*(work(number) for number in range(publishers)))
    return accounts, cpu_seconds


@asynccontextmanager
async def _publisher() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.rtmp_publisher",
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _published(process: asyncio.subprocess.Process, publication: Publication) -> Account:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asdict(publication)).encode() + b"\n")
    async with asyncio.timeout(_PUBLICATION_SECONDS):
        return Account(**json.loads(await process.stdout.readline()))


@asynccontextmanager
async def _first_samples(service: ServiceBesideNginx) -> AsyncIterator[dict[str, FirstSample]]:
    """When the first analysed frame of each path arrived, by what the service answers to who asks often."""
    found: dict[str, FirstSample] = {}

    async def ask() -> None:
        while True:
            for path, row in (await service.streams()).items():
                if row.last_sample_age_seconds is not None and path not in found:
                    since = datetime.fromisoformat(row.since).timestamp()
                    found[path] = FirstSample(time.monotonic() - row.last_sample_age_seconds, since)
            await asyncio.sleep(_LOOK_SECONDS)

    task = asyncio.create_task(ask(), name="latency.first-samples")
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Load:
    """How busy the machine was, and the service's share of it."""

    def __init__(self, service: ServiceBesideNginx) -> None:
        self._service = service
        self._begun_at, self._before = time.monotonic(), service.tree.cpu_seconds()
        self._busy, self._all = _cpu_ticks()

    def until_now(self, publishers_cpu_seconds: float) -> dict[str, float]:
        """Return shares of all cores, 0 to 1."""
        seconds = time.monotonic() - self._begun_at
        busy, everything = _cpu_ticks()
        used = (self._service.tree.cpu_seconds() - self._before).total
        cores = os.cpu_count() or 1
        return {
            "seconds": round(seconds, 1),
            "machine_busy": round((busy - self._busy) / max(1, everything - self._all), 3),
            "service": round(used / seconds / cores, 3),
            "publishers": round(publishers_cpu_seconds / seconds / cores, 3),
        }


def _cpu_ticks() -> tuple[int, int]:
    """Return busy and all ticks of all cores since boot (proc(5), /proc/stat)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
