"""Many streams at once: is every harmful publisher cut and no other, how soon, and what does a stream cost?

Half of the publishers show a clean card and then a harmful one: a picture of a bank, or a class of the stand-in model.
The other half stay clean. A second run shows one and the same banked picture everywhere at once: there the breaker must
stop the cutting. Publishers replay clips that were encoded before; the service is the real one, in its own process.
"""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import av
import numpy as np

from benchmarks.brokers import AlertReceiver
from benchmarks.clips import Clip, encode_clip
from benchmarks.ports import free_port
from benchmarks.processes import CpuSeconds, pss_bytes
from benchmarks.publishers import PacedPublishers, Publication
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.running import RunningService, wait_until
from detector.api.view import IncidentRow, StreamRow
from detector.cards import drawn_card
from detector.events import CutState
from models.bank_store import add_entries
from models.hashing.registry import ALGORITHMS
from streams.decoder import PixelReader

BANK: Final = "CROWD_CARDS"
BANKED: Final = ("card:11", "card:12", "card:13", "card:14")
CLASS_CARD: Final = "smptebars"
HARMFUL: Final = (*BANKED, CLASS_CARD)
CLEAN: Final = ("card:101", "card:102", "card:103", "testsrc2")

_WIDTH, _HEIGHT, _FPS = 320, 180, 15
_START_SPREAD_SECONDS = 2.0
_SETTLE_SECONDS = 3.0
_HARMFUL_SECONDS = 10.0
_SAME_SECONDS = 7.0
_PROOF_SECONDS = 12.0
_LIVE_SECONDS = 30.0
_BREAKER_CUTS = 5
_SAME = "same"

_SWITCH_TO_CLOSED_LIMIT_SECONDS = 3.0
_CPU_LIMIT = 0.03
_READER_PSS_LIMIT_MIB = 20.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many publishers, and when what is shown.

    `each` publishers show each harmful card; as many clean ones as harmful stand beside them. CPU time is measured over
    `window_seconds` in which nothing harmful is shown yet; then the switches follow within `switch_spread_seconds`.
    """

    each: int
    window_seconds: float
    switch_spread_seconds: float
    same_card: int
    seed: int

    @property
    def harmful(self) -> int:
        """How many publishers turn harmful."""
        return self.each * len(HARMFUL)

    @property
    def lead_seconds(self) -> float:
        """How long every publisher is clean."""
        return _START_SPREAD_SECONDS + _SETTLE_SECONDS + self.window_seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to. `incidents` are by stream path."""

    harmful: Sequence[Publication]
    clean: Sequence[Publication]
    incidents: dict[str, IncidentRow]
    alerts: int
    switch_to_closed_seconds: Sequence[float]
    latest_seconds: float

    @property
    def cut(self) -> int:
        """How many harmful publishers' connections the service ended."""
        return sum(one.closed_at is not None for one in self.harmful)

    @property
    def clean_cut(self) -> int:
        """How many clean publishers' connections the service ended."""
        return sum(one.closed_at is not None for one in self.clean)

    def count(self, state: CutState) -> int:
        """How many incidents' cuts are in `state`."""
        return sum(one.cut_state is state for one in self.incidents.values())

    @property
    def refused(self) -> int:
        """How many incidents are reviews because the breaker refused the cut."""
        return sum(one.refused_by is not None and one.action == "review" for one in self.incidents.values())


@dataclass(frozen=True, slots=True)
class Cost:
    """What the service used while `streams` streams were watched for `seconds`. `reader_pss` is in bytes."""

    streams: int
    seconds: float
    cpu: CpuSeconds
    samples: float
    reader_pss: Sequence[int]

    @property
    def stream_seconds(self) -> float:
        """Streams times seconds."""
        return self.streams * self.seconds


def measure(options: Options) -> Report:
    """Run both crowds. A quick run takes fewer publishers and a shorter window."""
    crowd = (
        Crowd(each=2, window_seconds=4.0, switch_spread_seconds=2.0, same_card=8, seed=options.seed)
        if options.is_quick
        else Crowd(each=4, window_seconds=15.0, switch_spread_seconds=5.0, same_card=20, seed=options.seed)
    )
    trials = options.trials or 1
    settings = {
        "publishers": 2 * crowd.harmful,
        "harmful": crowd.harmful,
        "same_card": crowd.same_card,
        "picture": f"{_WIDTH}x{_HEIGHT}",
        "fps": _FPS,
        "gop_seconds": 1.0,
        "window_seconds": crowd.window_seconds,
        "breaker": "default (5 cuts in 60 s)",
        "broker": "embedded",
        "trials": trials,
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("crowd", settings)
    results, checks = asyncio.run(_measure(crowd, trials))
    left_out = ["40 publishers at once, 20 of them with the same card"] if options.is_quick else []
    return Report("crowd", settings, results, checks, left_out)


async def _measure(crowd: Crowd, trials: int) -> tuple[list[dict[str, Any]], list[Check]]:
    with tempfile.TemporaryDirectory(prefix="stopframe-crowd-") as scratch:
        folder = Path(scratch)
        clips = await encode_all(mixed_scripts(crowd) | same_scripts(), folder)
        mixed = [await run_mixed(crowd, clips, folder / f"mixed-{trial}") for trial in range(trials)]
        same = [await run_same(crowd, clips, folder / f"same-{trial}") for trial in range(trials)]
    results = [_mixed_result(outcome, cost) for outcome, cost in mixed] + [_same_result(outcome) for outcome in same]
    return results, [*_mixed_checks(crowd, mixed), *_same_checks(crowd, same)]


async def run_mixed(crowd: Crowd, clips: Mapping[str, Clip], folder: Path) -> tuple[Outcome, Cost]:
    """Publish the mixed crowd; return what became of it, and what watching it cost while all were clean."""
    broker = free_port()
    async with _service(folder, broker) as service, AlertReceiver(broker, has_mqtt_5=False) as receiver:
        await receiver.is_subscribed.wait()
        async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            begun_at = time.monotonic()
            harmful, clean = _start_mixed(crowd, clips, publishers)
            streams = len(harmful) + len(clean)
            rows = await service.wait_live(streams, _LIVE_SECONDS)
            cost = await _cost(service, streams, begun_at + crowd.lead_seconds)
            last_switch_at = begun_at + crowd.lead_seconds + _START_SPREAD_SECONDS + crowd.switch_spread_seconds
            outcome = await _watch(service, rows, harmful, clean, until=last_switch_at + _HARMFUL_SECONDS)
        return _with_alerts(outcome, receiver), cost


async def run_same(crowd: Crowd, clips: Mapping[str, Clip], folder: Path) -> Outcome:
    """Publish one banked card everywhere at once; return what became of it."""
    broker = free_port()
    async with _service(folder, broker) as service, AlertReceiver(broker, has_mqtt_5=False) as receiver:
        await receiver.is_subscribed.wait()
        async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            begun_at = time.monotonic()
            clip = clips[_SAME]
            harmful = publishers.start_many(
                crowd.same_card, clip, spread_seconds=_START_SPREAD_SECONDS, prefix="live/s"
            )
            rows = await service.wait_live(crowd.same_card, _LIVE_SECONDS)
            until = begun_at + _START_SPREAD_SECONDS + clip.seconds
            outcome = await _watch(service, rows, harmful, [], until=until, waits_to_the_end=True)
        return _with_alerts(outcome, receiver)


def mixed_scripts(crowd: Crowd) -> dict[str, str]:
    """Return what the mixed crowd shows: harmful scripts by card and number, clean ones by card."""
    draw = random.Random(crowd.seed)
    scripts = {card: f"{card}:8" for card in CLEAN}
    for card in HARMFUL:
        for number in range(crowd.each):
            # Not in step with the keyframes: a card that began with one would be found at once.
            clean_seconds = crowd.lead_seconds + draw.uniform(0, crowd.switch_spread_seconds)
            scripts[f"{card}/{number}"] = f"card:100:{clean_seconds:.2f},{card}:{_HARMFUL_SECONDS + 4}"
    return scripts


def same_scripts() -> dict[str, str]:
    """Return the one script of the run in which everyone shows the same card."""
    return {_SAME: f"card:100:{_START_SPREAD_SECONDS + _SETTLE_SECONDS},{BANKED[0]}:{_SAME_SECONDS}"}


async def encode_all(scripts: Mapping[str, str], folder: Path) -> dict[str, Clip]:
    """Encode scripts, two at a time; returns the clips under the same names."""
    gate = asyncio.Semaphore(2)

    async def encode(script: str) -> Clip:
        async with gate:
            return await asyncio.to_thread(encode_clip, script, folder=folder, fps=_FPS, size=f"{_WIDTH}x{_HEIGHT}")

    clips = await asyncio.gather(*(encode(script) for script in scripts.values()))
    return dict(zip(scripts, clips, strict=True))


def fill_bank(state_dir: Path) -> None:
    """Put the banked cards into the bank, hashed as the reader would see them."""
    pixels = PixelReader()
    rows = []
    for card in BANKED:
        drawn = drawn_card(card, _WIDTH, _HEIGHT)
        assert drawn is not None
        plane = pixels.plane(av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format="yuv420p"))
        rows.append(np.frombuffer(ALGORITHMS["pdq"].hash_plane(plane).value, np.uint8))
    banks = state_dir / "banks"
    banks.mkdir(mode=0o700, parents=True)
    add_entries(banks / BANK, np.stack(rows), [card.replace(":", "-") for card in BANKED])


def _service(folder: Path, broker_port: int) -> RunningService:
    service = RunningService(
        folder,
        "enforcement: {live: true}\n"
        f"banks: {{{BANK}: {{step: cut}}}}\n"
        f"classes: {{standin-cards/{CLASS_CARD}: {{step: cut}}}}\n"
        f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{broker_port}"}}}}',
    )
    fill_bank(service.state_dir)
    return service


def _start_mixed(
    crowd: Crowd, clips: Mapping[str, Clip], publishers: PacedPublishers
) -> tuple[list[Publication], list[Publication]]:
    """Start harmful and clean publishers in turn, spread so that their keyframes are, too."""
    step = _START_SPREAD_SECONDS / (2 * crowd.harmful)
    names = [f"{card}/{number}" for number in range(crowd.each) for card in HARMFUL]
    harmful = [
        publishers.start(f"live/h{place}", clips[name], delay_seconds=2 * place * step, rounds=1)
        for place, name in enumerate(names)
    ]
    clean = [
        publishers.start(f"live/c{place}", clips[CLEAN[place % len(CLEAN)]], delay_seconds=(2 * place + 1) * step)
        for place in range(crowd.harmful)
    ]
    return harmful, clean


async def _cost(service: RunningService, streams: int, until: float) -> Cost:
    """Measure from now to `until` (monotonic)."""
    started_at, before = time.monotonic(), service.tree.cpu_seconds()
    samples_before = await _samples(service)
    await asyncio.sleep(max(1.0, until - time.monotonic()))
    seconds, cpu = time.monotonic() - started_at, service.tree.cpu_seconds() - before
    samples = await _samples(service) - samples_before
    sizes = [pss_bytes(reader.pid) for reader in service.tree.readers()]
    return Cost(streams, seconds, cpu, samples, [size for size in sizes if size is not None])


async def _samples(service: RunningService) -> float:
    return (await service.metrics()).get("stopframe_frame_to_decision_seconds_count", 0.0)


async def _watch(
    service: RunningService,
    rows: dict[str, StreamRow],
    harmful: Sequence[Publication],
    clean: Sequence[Publication],
    *,
    until: float,
    waits_to_the_end: bool = False,
) -> Outcome:
    """Wait until the harmful ones are cut and every cut is proved, at most until `until` and some time for the proof.

    With `waits_to_the_end` all of it passes: one cut too many must have its chance.
    """
    everyone = [*harmful, *clean]
    if waits_to_the_end:
        await asyncio.sleep(max(0.0, until - time.monotonic()))
    else:
        await wait_until(lambda: all(one.closed_at is not None for one in harmful), until - time.monotonic())
    proof_until = time.monotonic() + _PROOF_SECONDS
    while True:
        incidents = await service.incidents()
        if not any(one.cut_state is CutState.PENDING for one in incidents) or time.monotonic() > proof_until:
            break
        await asyncio.sleep(0.2)
    paths = {row.stream_id: path for path, row in rows.items()}
    delays = [
        one.closed_at - switched_at
        for one in harmful
        if one.closed_at is not None and (switched_at := _turned_at(one)) is not None
    ]
    return Outcome(
        harmful=harmful,
        clean=clean,
        incidents={paths.get(one.stream_id, one.stream_id): one for one in incidents},
        alerts=0,
        switch_to_closed_seconds=delays,
        latest_seconds=max(one.latest_seconds for one in everyone),
    )


def _with_alerts(outcome: Outcome, receiver: AlertReceiver) -> Outcome:
    streams = {
        arrival.alert["stream"]
        for arrival in receiver.arrivals
        if any(signal["kind"] != "blind" for signal in arrival.alert["signals"])
    }
    return Outcome(
        outcome.harmful,
        outcome.clean,
        outcome.incidents,
        len(streams),
        outcome.switch_to_closed_seconds,
        outcome.latest_seconds,
    )


def _turned_at(publication: Publication) -> float | None:
    """Return when the first harmful card was sent."""
    return next((switch.sent_at for switch in publication.switches if switch.card in HARMFUL), None)


def _mixed_result(outcome: Outcome, cost: Cost) -> dict[str, Any]:
    pss = [size / 2**20 for size in cost.reader_pss]
    return {
        "run": "mixed",
        "cut": outcome.cut,
        "clean_cut": outcome.clean_cut,
        "cut_states": dict(Counter(one.cut_state.value for one in outcome.incidents.values())),
        "streams_with_alert": outcome.alerts,
        "switch_to_closed_p50_s": percentile(outcome.switch_to_closed_seconds, 50),
        "switch_to_closed_p95_s": percentile(outcome.switch_to_closed_seconds, 95),
        "switch_to_closed_max_s": percentile(outcome.switch_to_closed_seconds, 100),
        "streams": cost.streams,
        "window_s": cost.seconds,
        "samples_per_stream_s": cost.samples / cost.stream_seconds,
        "cpu_readers": cost.cpu.readers / cost.stream_seconds,
        "cpu_analysis": cost.cpu.analysis / cost.stream_seconds,
        "cpu_service": cost.cpu.service / cost.stream_seconds,
        "cpu_total": cost.cpu.total / cost.stream_seconds,
        "reader_pss_mean_mib": fmean(pss) if pss else None,
        "reader_pss_max_mib": max(pss) if pss else None,
        "publishers_latest_s": outcome.latest_seconds,
    }


def _same_result(outcome: Outcome) -> dict[str, Any]:
    return {
        "run": "one card everywhere",
        "cut": outcome.cut,
        "confirmed": outcome.count(CutState.CONFIRMED),
        "reviews_refused_by_breaker": outcome.refused,
        "refused_by": sorted({one.refused_by for one in outcome.incidents.values() if one.refused_by}),
        "streams_with_alert": outcome.alerts,
        "publishers_latest_s": outcome.latest_seconds,
    }


def _mixed_checks(crowd: Crowd, runs: Sequence[tuple[Outcome, Cost]]) -> list[Check]:
    delays = [delay for outcome, _ in runs for delay in outcome.switch_to_closed_seconds]
    costs = [cost for _, cost in runs]
    checks = [
        at_least("harmful publishers cut, fewest in a run", min(o.cut for o, _ in runs), "publishers", crowd.harmful),
        at_most("clean publishers cut", sum(o.clean_cut for o, _ in runs), "publishers", 0),
        at_least(
            "cuts confirmed, fewest in a run", min(o.count(CutState.CONFIRMED) for o, _ in runs), "cuts", crowd.harmful
        ),
        at_least(
            "cut streams with an alert, fewest in a run", min(o.alerts for o, _ in runs), "streams", crowd.harmful
        ),
    ]
    for share in (50, 95):
        what = f"harmful card sent to connection closed, p{share}"
        value = percentile(delays, share)
        checks.append(
            not_measured(what, "s", _SWITCH_TO_CLOSED_LIMIT_SECONDS, "nobody was cut")
            if value is None
            else at_most(what, value, "s", _SWITCH_TO_CLOSED_LIMIT_SECONDS)
        )
    parts = sum(cost.cpu.total for cost in costs) / sum(cost.stream_seconds for cost in costs)
    checks.append(at_most("CPU of the whole service per stream", parts, "core", _CPU_LIMIT))
    return [*checks, _memory_check(costs)]


def _memory_check(costs: Sequence[Cost]) -> Check:
    what = "memory of a reader (PSS), mean"
    sizes = [size / 2**20 for cost in costs for size in cost.reader_pss]
    if not sizes:
        return not_measured(what, "MiB", _READER_PSS_LIMIT_MIB, "the kernel does not show it to this user; run as root")
    return at_most(what, fmean(sizes), "MiB", _READER_PSS_LIMIT_MIB)


def _same_checks(crowd: Crowd, runs: Sequence[Outcome]) -> list[Check]:
    most, fewest = max(run.cut for run in runs), min(run.cut for run in runs)
    held = crowd.same_card - _BREAKER_CUTS
    return [
        at_most("one card everywhere: publishers cut, most in a run", most, "publishers", _BREAKER_CUTS),
        at_least("one card everywhere: publishers cut, fewest in a run", fewest, "publishers", _BREAKER_CUTS),
        at_least(
            "one card everywhere: reviews that name the breaker, fewest in a run",
            min(run.refused for run in runs),
            "incidents",
            held,
        ),
    ]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which `share` percent lie (nearest rank), None of nothing."""
    if not values:
        return None
    if share == 50:
        return median(values)
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, int(np.ceil(share / 100 * len(ordered))) - 1))]
