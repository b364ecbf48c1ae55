"""Publishers who come and go on nginx-rtmp: is every one watched, is every end noticed, and does anything stay behind?

Each of many keys is published again and again, for a random while, by ffmpeg that replays an encoded clip at its own
pace; it leaves in an orderly way or is killed. The service is the real one with the shipped files, beside mosquitto.
"""

import asyncio
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiomqtt

from benchmarks.brokers import Mosquitto, ServerMissing
from benchmarks.crowd import percentile
from benchmarks.nginx import Nginx, ServiceBesideNginx
from benchmarks.processes import Process, descriptor_count, pss_bytes
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.running import wait_until
from detector.api.view import StreamRow

_LOOK_SECONDS = 0.1
_NOTICED_LIMIT_SECONDS = 6.0
_RETAIN_SECONDS = 5.0
_SETTLE_SECONDS = 15.0
_FAREWELL_SECONDS = 2.0
_SHORTEST_SECONDS = 4.0
"""How long a publisher stays at least: one who is gone sooner may never have sent a keyframe."""
_WIDTH_X_HEIGHT, _FPS, _CLIP_SECONDS = "320x180", 15, 8


@dataclass(frozen=True, slots=True)
class Plan:
    """`keys` are published for `seconds`, each again and again: a stay and a pause, of which the longest are given.

    Who was not seen by the end of a stay stays on until it is, for `patience_seconds` at most.
    """

    keys: int
    seconds: float
    longest_stay_seconds: float
    longest_pause_seconds: float
    seed: int = 1
    patience_seconds: float = 0.0


@dataclass(slots=True)
class Stay:
    """One publication. Times are monotonic; None: never. `noticed_at` is when the service no longer listed it."""

    path: str
    begun_at: float
    seen_at: float | None = None
    ended_at: float | None = None
    noticed_at: float | None = None
    was_refused: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the service holds: its processes, the readers among them, and the open descriptors of those that stay."""

    processes: int
    readers: int
    descriptors: int
    memory_bytes: int

    @classmethod
    def of(cls, service: ServiceBesideNginx) -> "Holdings":
        """Count now."""
        readers = service.tree.readers()
        everyone = service.tree.everyone()
        lasting = [one for one in everyone if one.pid not in {reader.pid for reader in readers}]
        return cls(
            processes=len(everyone),
            readers=len(readers),
            descriptors=sum(descriptor_count(one.pid) for one in lasting),
            memory_bytes=sum(pss_bytes(one.pid) or 0 for one in lasting),
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """Where it happens."""

    service: ServiceBesideNginx
    rtmp_port: int
    broker_port: int
    clip: Path


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    stays: list[Stay] = field(default_factory=list)
    most_at_once: int = 0
    before: Holdings | None = None
    after: Holdings | None = None
    retained_halfway: list[str] = field(default_factory=list)
    retained: list[str] = field(default_factory=list)
    outlived: int = 0

    @property
    def attached(self) -> int:
        """How many publications were seen: a frame of theirs was analysed."""
        return sum(one.seen_at is not None for one in self.stays)

    @property
    def notice_seconds(self) -> list[float]:
        """How long each end took to be noticed; infinite where it was not."""
        return [_span(one.ended_at, one.noticed_at) for one in self.stays if one.ended_at is not None]

    @property
    def seen_seconds(self) -> list[float]:
        """How long after ffmpeg was started each publication was known to be seen."""
        return [_span(one.begun_at, one.seen_at) for one in self.stays if one.seen_at is not None]


def measure(options: Options) -> Report:
    """Fifty keys for `--trials` minutes (ten in `make churn`, seven by default), a few for half a minute if quick."""
    if options.is_quick:
        plan = Plan(12, 25.0, 8.0, 3.0, options.seed)
    else:
        plan = Plan(50, 60.0 * (options.trials or 7) - 15.0, 60.0, 20.0, options.seed)
    settings: dict[str, Any] = {
        "keys": plan.keys,
        "seconds": plan.seconds,
        "stay_seconds": f"{_SHORTEST_SECONDS:g} to {plan.longest_stay_seconds:g}",
        "pause_seconds": f"1 to {plan.longest_pause_seconds:g}",
        "retain_ended_seconds": _RETAIN_SECONDS,
        "picture": _WIDTH_X_HEIGHT,
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("churn", settings)
    try:
        with tempfile.TemporaryDirectory(prefix="stopframe-churn-") as scratch:
            outcome = asyncio.run(run(plan, Path(scratch)))
    except ServerMissing as missing:
        return Report("churn", settings, [], [not_measured("everything", "s", 0, str(missing))])
    left_out = ["50 keys for minutes"] if options.is_quick else []
    return Report("churn", settings, [_result(outcome)], _checks(outcome), left_out)


async def run(plan: Plan, folder: Path) -> Outcome:
    """Let them come and go; raises `ServerMissing`."""
    clip = await asyncio.to_thread(make_clip, folder / "clip.flv")
    outcome = Outcome()
    with Mosquitto(folder) as broker, Nginx(folder / "nginx") as nginx:
        await broker.start()
        mqtt = f'{{url: "mqtt://127.0.0.1:{broker.port}", embedded_broker: false}}'
        settings = f"alerts: {{retain_ended: {_RETAIN_SECONDS:g}s, mqtt: {mqtt}}}"
        service = ServiceBesideNginx(folder / "service", nginx, settings)
        await nginx.start(service.http_port, service.hook_secret)
        stage = Stage(service, nginx.rtmp_port, broker.port, clip)
        async with service:
            everyone = await _churn(plan, stage, outcome)
        await wait_until(lambda: not any(one.is_running() for one in everyone), 5.0)
        outcome.outlived = sum(one.is_running() for one in everyone)
    return outcome


async def _churn(plan: Plan, stage: Stage, outcome: Outcome) -> list[Process]:
    """Publish, and count before and after; returns the service's processes at the end."""
    draw = random.Random(plan.seed)
    service = stage.service
    async with _watching(service, outcome):
        # What is opened once, for the first stream ever, is no leak.
        await _stay(
            "live/first", _SHORTEST_SECONDS, signal.SIGKILL, (stage, outcome), patience_seconds=plan.patience_seconds
        )
        await _wait_for_quiet(service)
        outcome.before = Holdings.of(service)
        ends_at = time.monotonic() + plan.seconds
        draws = [random.Random(draw.random()) for _ in range(plan.keys)]
        await asyncio.gather(
            _look_at_retained(stage, plan.seconds, outcome),
            *(
                _come_and_go(f"live/k{number}", plan, one, ends_at, (stage, outcome))
                for number, one in enumerate(draws)
            ),
        )
        await _wait_for_quiet(service)
        await asyncio.sleep(_RETAIN_SECONDS + 1.0)
    outcome.after = await _lasting(service, outcome.before)
    outcome.retained = await _retained_streams(stage.broker_port)
    return service.tree.everyone()


async def _lasting(service: ServiceBesideNginx, before: Holdings) -> Holdings:
    """Count until there is no more than before, or for some time: a file that is just being read is no leak."""
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        now = Holdings.of(service)
        is_more = now.descriptors > before.descriptors or now.processes > before.processes
        if not is_more or time.monotonic() > until:
            return now
        await asyncio.sleep(0.2)


async def _look_at_retained(stage: Stage, seconds: float, outcome: Outcome) -> None:
    """Look halfway that there is something to be cleared at all."""
    ends_at = time.monotonic() + seconds
    await asyncio.sleep(seconds / 2)
    while not outcome.retained_halfway and time.monotonic() < ends_at:
        outcome.retained_halfway = await _retained_streams(stage.broker_port)


async def _come_and_go(
    path: str, plan: Plan, draw: random.Random, ends_at: float, place: tuple[Stage, Outcome]
) -> None:
    await asyncio.sleep(draw.uniform(0.0, plan.longest_pause_seconds))
    while time.monotonic() + _SHORTEST_SECONDS < ends_at:
        seconds = draw.uniform(_SHORTEST_SECONDS, plan.longest_stay_seconds)
        seconds = min(seconds, max(_SHORTEST_SECONDS, ends_at - time.monotonic()))
        how = draw.choice((signal.SIGKILL, signal.SIGTERM))
        await _stay(path, seconds, how, place, patience_seconds=plan.patience_seconds)
        await asyncio.sleep(draw.uniform(1.0, plan.longest_pause_seconds))


async def _stay(
    path: str, seconds: float, how: signal.Signals, place: tuple[Stage, Outcome], *, patience_seconds: float
) -> None:
    """Publish for so long, and until it is seen, leave like this, and note it."""
    stage, outcome = place
    stay = Stay(path, time.monotonic())
    outcome.stays.append(stay)
    source = ("-re", "-stream_loop", "-1", "-i", str(stage.clip), "-c", "copy", "-f", "flv")
    command = ("ffmpeg", "-loglevel", "quiet", *source, f"rtmp://127.0.0.1:{stage.rtmp_port}/{path}")
    quiet = subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        stay.was_refused = await _ends_within(process, seconds)
        until = time.monotonic() + patience_seconds
        while not stay.was_refused and stay.seen_at is None and time.monotonic() < until:
            stay.was_refused = await _ends_within(process, _LOOK_SECONDS)
        if not stay.was_refused:
            process.send_signal(how)
            await _ends_within(process, _FAREWELL_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        stay.ended_at = time.monotonic()


async def _ends_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.wait()
    return process.returncode is not None


@asynccontextmanager
async def _watching(service: ServiceBesideNginx, outcome: Outcome) -> AsyncIterator[None]:
    """Ask the service often whom it watches, and note it in the stays."""

    async def look() -> None:
        while True:
            # Who was seen last may end while the answer is on its way: the end of such a one is read from the next.
            open_stays = [(stay, stay.ended_at is not None) for stay in outcome.stays if stay.noticed_at is None]
            rows = await service.streams()
            outcome.most_at_once = max(outcome.most_at_once, len(rows))
            ahead_seconds = time.time() - time.monotonic()
            for stay, has_ended in open_stays:
                _note(stay, rows.get(stay.path), ahead_seconds, has_ended=has_ended)
            await asyncio.sleep(_LOOK_SECONDS)

    task = asyncio.create_task(look(), name="churn.watch")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _note(stay: Stay, row: StreamRow | None, ahead_seconds: float, *, has_ended: bool) -> None:
    now = time.monotonic()
    since = -1.0 if row is None else datetime.fromisoformat(row.since).timestamp() - ahead_seconds
    # Dated to the millisecond. One that began before us is our predecessor's, one after our end our successor's.
    is_ours = row is not None and stay.begun_at - 0.005 <= since and (stay.ended_at is None or since <= stay.ended_at)
    if row is not None and is_ours:
        if stay.seen_at is None and row.last_sample_age_seconds is not None:
            stay.seen_at = now
    elif has_ended:
        stay.noticed_at = now


async def _wait_for_quiet(service: ServiceBesideNginx) -> None:
    """Return when nobody is watched and no reader runs, or after some time: what is left then is a finding."""
    until = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < until:
        if not await service.streams() and not service.tree.readers():
            return
        await asyncio.sleep(0.2)


async def _retained_streams(port: int) -> list[str]:
    """Return the topics of streams that the broker still retains."""
    topics = []
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("stopframe/stream/#", qos=1)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                async for message in client.messages:
                    topics += [message.topic.value] if message.retain else []
    return topics


def make_clip(path: Path) -> Path:
    """Encode a few seconds with sound and a keyframe each second, as FLV; raises `ServerMissing`."""
    if shutil.which("ffmpeg") is None:
        raise ServerMissing("ffmpeg is not installed (apt-get install ffmpeg)")
    picture = f"testsrc2=size={_WIDTH_X_HEIGHT}:rate={_FPS}:duration={_CLIP_SECONDS}"
    video = f"-c:v libx264 -preset ultrafast -bf 0 -g {_FPS} -sc_threshold 0 -pix_fmt yuv420p"
    sound = "-f lavfi -i sine=frequency=440:sample_rate=44100"
    words = f"ffmpeg -loglevel error -y -f lavfi -i {picture} {sound} -c:a aac {video} -t {_CLIP_SECONDS} -f flv"
    subprocess.run([*words.split(), str(path)], check=True, stdin=subprocess.DEVNULL, timeout=60)
    return path


def _span(start: float, end: float | None) -> float:
    return float("inf") if end is None else end - start


def _result(outcome: Outcome) -> dict[str, Any]:
    assert outcome.before is not None
    assert outcome.after is not None
    return {
        "publications": len(outcome.stays),
        "attached": outcome.attached,
        "refused": sum(one.was_refused for one in outcome.stays),
        "most_at_once": outcome.most_at_once,
        "seen_after_start_p50_s": percentile(outcome.seen_seconds, 50),
        "seen_after_start_p95_s": percentile(outcome.seen_seconds, 95),
        "end_noticed_p50_s": percentile(outcome.notice_seconds, 50),
        "end_noticed_p95_s": percentile(outcome.notice_seconds, 95),
        "end_noticed_max_s": percentile(outcome.notice_seconds, 100),
        "retained_halfway": len(outcome.retained_halfway),
        "descriptors_before": outcome.before.descriptors,
        "descriptors_after": outcome.after.descriptors,
        "memory_before_mib": outcome.before.memory_bytes / 2**20,
        "memory_after_mib": outcome.after.memory_bytes / 2**20,
    }


def _checks(outcome: Outcome) -> Sequence[Check]:
    before, after = outcome.before, outcome.after
    assert before is not None
    assert after is not None
    slowest = max(outcome.notice_seconds)
    return [
        at_least("publications attached", outcome.attached, "publications", len(outcome.stays)),
        at_most("end of a publication noticed, max", slowest, "s", _NOTICED_LIMIT_SECONDS),
        at_most("readers left when all are gone", after.readers, "processes", 0),
        at_most("processes more than before", after.processes - before.processes, "processes", 0),
        at_most("descriptors more than before", after.descriptors - before.descriptors, "descriptors", 0),
        at_least("retained topics of streams halfway", len(outcome.retained_halfway), "topics", 1),
        at_most("retained topics of streams after their time", len(outcome.retained), "topics", 0),
        at_most("processes that outlived the service", outcome.outlived, "processes", 0),
    ]
