"""From the first bad frame leaving a real encoder to the publisher's connection closed, on nginx-rtmp and mosquitto.

x264 encodes live, nginx-rtmp takes it, the service (its own process, the shipped files) reads it in the cage, finds a
banked card, tells mosquitto and has nginx drop the publisher. Every trial is a new publisher that shows a clean card
and then the bad one, at a random place in its GOP. The places are spread evenly over the GOP, one drawn in each part,
and are the same with and without B-frames, so that a difference between two cells is none of the draw's.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from benchmarks.brokers import AlertReceiver, Arrival, Mosquitto, ServerMissing
from benchmarks.crowd import BANK, BANKED, fill_bank, percentile
from benchmarks.latency_picture import draw_picture
from benchmarks.nginx import SERVER, Nginx, ServiceBesideNginx
from benchmarks.processes import look
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.rtmp_publisher import Account, Publication
from detector.credentials import load_or_create, stream_id
from detector.events import CutState, StreamKey
from detector.store.database import Database
from detector.store.incidents import IncidentRecord, Incidents

_ROOT = Path(__file__).resolve().parents[1]
_CLEAN_CARD = "card:100"
_WIDTH, _HEIGHT, _FPS = 640, 360, 30
_GOPS = (1.0, 2.0, 4.0)
_BFRAMES = (0, 2)
_DETECT_WITHIN_SECONDS = 3.0
_PATIENCE_SECONDS = 10.0
_PROOF_SECONDS = 4.0
_SILENT_SECONDS = 6
_LOOK_SECONDS = 0.1
_PUBLICATION_SECONDS = 60.0

_TOTAL_SLACK_SECONDS = 0.3
_LONG_GOP_SLACK_SECONDS = 0.5
_BFRAMES_LIMIT_SECONDS = 0.2
_ALERT_TO_CUT_LIMIT_MS = 60.0
_FIRST_SAMPLE_LIMIT_SECONDS = {True: 0.5, False: 2.0}
_CONFIRMED_LIMIT_SECONDS = 1.5

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
        if self.gop_seconds > _DETECT_WITHIN_SECONDS:
            return _DETECT_WITHIN_SECONDS + _LONG_GOP_SLACK_SECONDS
        return self.gop_seconds + _TOTAL_SLACK_SECONDS

    @property
    def lead_seconds(self) -> float:
        """How long it is clean at least: long enough that the reader is attached and knows the GOP."""
        lead = 2.0 + (1.25 if self.gop_seconds > _DETECT_WITHIN_SECONDS else 1.0) * self.gop_seconds
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
        gop = round(cell.gop_seconds * _FPS)
        # A keyframe begins every GOP, so the lead is whole GOPs and the phase counts from the last one's beginning.
        whole = -(-round(cell.lead_seconds * _FPS) // gop) * gop
        return Publication(
            url=f"rtmp://127.0.0.1:{port}/live/{self.name}",
            clean_card=_CLEAN_CARD,
            bad_card=self.bad_card,
            clean_frames=whole + int(self.phase * gop) if self.bad_card else _SILENT_SECONDS * _FPS,
            width=_WIDTH,
            height=_HEIGHT,
            fps=_FPS,
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


@dataclass(slots=True)
class _Outcome:
    measured: list[Measured] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)


def measure(options: Options) -> Report:
    """Run every cell. A quick run takes two trials of each, all attached in the hook."""
    trials = options.trials or (2 if options.is_quick else 20)
    plan = (
        Plan(trials, publishers=6, attaches=(True,), silent_trials=0)
        if options.is_quick
        else Plan(trials, publishers=8, attaches=(True, False), silent_trials=trials)
    )
    settings = {
        "trials_per_cell": plan.trials,
        "publishers_at_once": plan.publishers,
        "picture": f"{_WIDTH}x{_HEIGHT}",
        "fps": _FPS,
        "encoder": "x264 veryfast with its look-ahead, keyframes at their distance alone; AAC",
        "ingest": "nginx-rtmp, shipped example",
        "broker": "mosquitto",
        "detect_within": "3s",
        "interval": "1s",
        "breaker": "out of the way (10000 cuts in 60 s)",
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("latency", settings)
    clocks = Clocks.now()
    try:
        outcome = asyncio.run(_measure(plan, options.seed))
    except ServerMissing as missing:
        return Report("latency", settings, [], [not_measured("everything", "s", 0, str(missing))])
    results = list(_results(outcome.measured, clocks))
    left_out = []
    if options.is_quick:
        left_out = ["attached after the publisher began", "B-frames against none", "first sample without sound"]
    picture = _drawn(results, options.json_path)
    report_settings = {**settings, "load": outcome.loads, "picture_file": picture}
    return Report("latency", report_settings, results, _checks(results, is_quick=options.is_quick), left_out)


async def _measure(plan: Plan, seed: int) -> _Outcome:
    outcome = _Outcome()
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="stopframe-latency-") as scratch:
        for is_attached in plan.attaches:
            trials = list(_trials(plan, draw, is_attached=is_attached))
            draw.shuffle(trials)
            folder = Path(scratch) / ("in-hook" if is_attached else "after")
            folder.mkdir()
            outcome.measured += await run_trials(trials, plan, folder, outcome.loads, is_attached=is_attached)
    return outcome


def _trials(plan: Plan, draw: random.Random, *, is_attached: bool) -> Iterator[Trial]:
    for gop in _GOPS:
        phases = [(part + draw.random()) / plan.trials for part in range(plan.trials)]
        for bframes in _BFRAMES:
            cell = Cell(gop, bframes, is_attached)
            for number, phase in enumerate(phases):
                yield Trial(cell, f"g{gop:g}b{bframes}n{number}", phase, BANKED[number % len(BANKED)])
    for number in range(plan.silent_trials if is_attached else 0):
        yield Trial(Cell(2.0, 0, is_attached, has_audio=False), f"silent{number}", 0.0, None)


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


def _results(measured: Sequence[Measured], clocks: Clocks) -> Iterator[dict[str, Any]]:
    cells = dict.fromkeys(one.trial.cell for one in measured)
    for cell in sorted(cells, key=lambda c: (not c.has_audio, not c.is_attached_in_hook, c.gop_seconds, c.bframes)):
        trials = [one for one in measured if one.trial.cell == cell]
        stages = [one.stages(clocks) for one in trials]
        row: dict[str, Any] = {
            "cell": cell.name,
            "gop_seconds": cell.gop_seconds,
            "bframes": cell.bframes,
            "attached_in_hook": cell.is_attached_in_hook,
            "has_audio": cell.has_audio,
            "trials": len(trials),
            "cut": sum("total_s" in one for one in stages),
            "confirmed": sum("proof_s" in one for one in stages),
            "by_keyframe": sum("transport_s" in one for one in stages),
            "faults": sorted({one.account.fault for one in trials if one.account.fault}),
            "encoder_latest_s": round(max(one.account.latest_seconds for one in trials), 3),
        }
        for stage in STAGES:
            values = [one[stage] for one in stages if stage in one]
            if values:
                row[stage] = {f"p{share}": round(_percentile(values, share), 4) for share in (50, 95, 99)}
        row["totals_s"] = sorted(round(one["total_s"], 4) for one in stages if "total_s" in one)
        yield row


def _checks(results: Sequence[dict[str, Any]], *, is_quick: bool) -> list[Check]:
    loud = [row for row in results if row["has_audio"]]
    everyone = sum(row["trials"] for row in loud)
    checks = [
        at_least("publishers cut", sum(row["cut"] for row in loud), "cuts", everyone),
        at_least("cuts confirmed", sum(row["confirmed"] for row in loud), "cuts", everyone),
    ]
    for row in loud:
        cell = Cell(row["gop_seconds"], row["bframes"], row["attached_in_hook"])
        what = f"{cell.name}: bad frame left encoder to connection closed"
        checks.append(_p95(row, "total_s", what, cell.limit_seconds))
    if not is_quick:
        checks += _bframes_checks(loud)
    for row in loud:
        what = f"{row['cell']}: alert queued to connection closed"
        checks.append(_p95(row, "alert_to_cut_s", what, _ALERT_TO_CUT_LIMIT_MS, unit="ms"))
    for row in results:
        if row["attached_in_hook"]:
            limit = _FIRST_SAMPLE_LIMIT_SECONDS[row["has_audio"]]
            checks.append(_p95(row, "first_sample_s", f"{row['cell']}: publish to first sample", limit))
    for row in loud:
        what = f"{row['cell']}: connection closed to cut confirmed"
        checks.append(_p95(row, "proof_s", what, _CONFIRMED_LIMIT_SECONDS))
    return checks


def _bframes_checks(rows: Sequence[dict[str, Any]]) -> Iterator[Check]:
    """Compare with and without B-frames, both attaches together.

    Where keyframes are waited for, the places in the GOP are the same on both sides, and so are the tails. Where the
    service decodes through, its own draws decide how long the wait is: there only the mean of so few trials is steady.
    """
    for gop in _GOPS:
        ours = [row for row in rows if row["gop_seconds"] == gop]
        late, usual = (
            [total for row in ours if bool(row["bframes"]) is has for total in row["totals_s"]] for has in (True, False)
        )
        is_drawn = gop > _DETECT_WITHIN_SECONDS
        what = f"GOP {gop:g} s: B-frames later than none, {'mean' if is_drawn else 'p95'} of all trials"
        if not late or not usual:
            yield not_measured(what, "s", _BFRAMES_LIMIT_SECONDS, "nobody was cut")
        else:
            later = fmean(late) - fmean(usual) if is_drawn else _percentile(late, 95) - _percentile(usual, 95)
            yield at_most(what, later, "s", _BFRAMES_LIMIT_SECONDS)


def _percentile(values: Sequence[float], share: float) -> float:
    found = percentile(values, share)
    assert found is not None
    return found


def _p95(row: dict[str, Any], stage: str, what: str, limit: float, *, unit: str = "s") -> Check:
    what = f"{what}, p95"
    if stage not in row:
        return not_measured(what, unit, limit, "no trial came so far")
    return at_most(what, row[stage]["p95"] * (1000 if unit == "ms" else 1), unit, limit)


def _drawn(results: Sequence[dict[str, Any]], json_path: Path | None) -> str:
    if json_path is None:
        return "none: it is written beside --json OUT"
    path = json_path.with_suffix(".png")
    return draw_picture([row for row in results if row["has_audio"]], path)
