"""Part of `returns`, on a real nginx-rtmp with ffmpeg: who comes back every two seconds, and whom an undo lets back in.

Whether somebody is on air is told by nginx alone: his name is among the publishers of its stat page, which is read
twenty times a second.
"""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.brokers import Mosquitto
from benchmarks.churn import make_clip
from benchmarks.crowd import BANK, BANKED, fill_bank, percentile
from benchmarks.nginx import SERVER, Nginx, ServiceBesideNginx
from benchmarks.report import Check, at_least, at_most
from benchmarks.running import ServiceFailed, wait_until
from detector.api.client import ControlClient
from detector.cards import drawn_card
from detector.credentials import load_or_create, stream_id
from detector.events import CutState, StreamKey
from detector.ingest.nginx_stat import BadStat, parse_stat
from models.bank_store import remove_entry

_EVERY_SECONDS: Final = 2.0
_LONGEST_STAY_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 0.05
_AGAIN_SECONDS: Final = 0.1
_UNDO_LIMIT_SECONDS: Final = 5.0
_ON_AIR_LIMIT_SECONDS: Final = 3.0
_CHANGES: Final = {"live: false ": "live: true ", "enforcement:": "enforcement:\n  breaker: {cuts: 10000}"}


@dataclass(slots=True)
class Attempt:
    """One publication: whether nginx ever listed it, for how long, and whether nginx ended it."""

    on_air_seconds: float = 0.0
    was_on_air: bool = False
    was_ended: bool = False


@dataclass(slots=True)
class NginxOutcome:
    """Attempts of who was cut, known by account or by the picture; seconds from each undo until he is on air again."""

    account: list[Attempt] = field(default_factory=list)
    picture: list[Attempt] = field(default_factory=list)
    undo_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stage:
    service: ServiceBesideNginx
    nginx: Nginx
    on_air: Mapping[str, tuple[float, float]]
    """When each name was first and last seen among nginx's publishers, monotonic."""


async def run_on_nginx(folder: Path, seconds: float, undos: int) -> NginxOutcome:
    """Come back for so long by account and by picture, then undo so many cuts; raises `ServerMissing`."""
    for name in ("account", "picture", "undo"):
        (folder / name).mkdir()
    outcome = NginxOutcome()
    bad = await asyncio.to_thread(card_clip, folder / "bad.flv", BANKED[0])
    if seconds:
        async with _stage(folder / "account", "query:user") as stage:
            outcome.account = await _come_back(stage, bad, seconds, "?user=mallory")
        async with _stage(folder / "picture", "key") as stage:
            outcome.picture = await _come_back(stage, bad, seconds, "", forgets=True)
    if undos:
        clean = await asyncio.to_thread(make_clip, folder / "clean.flv")
        async with _stage(folder / "undo", "query:user") as stage:
            outcome.undo_seconds = [await _undone(stage, bad, clean, number) for number in range(undos)]
    return outcome


@asynccontextmanager
async def _stage(folder: Path, identity: str) -> AsyncIterator[_Stage]:
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(Mosquitto(folder))
        nginx = stack.enter_context(Nginx(folder / "nginx"))
        await broker.start()
        settings = f"banks: {{{BANK}: {{step: cut}}}}\nidentity: {{by: '{identity}'}}\n{broker.settings}"
        service = ServiceBesideNginx(folder / "service", nginx, settings, _CHANGES)
        fill_bank(service.state_dir)
        await nginx.start(service.http_port, service.hook_secret)
        await stack.enter_async_context(service)
        on_air: dict[str, tuple[float, float]] = {}
        watch = asyncio.create_task(_watch(nginx, on_air), name="returns.stat")
        stack.callback(watch.cancel)
        yield _Stage(service, nginx, on_air)


async def _watch(nginx: Nginx, on_air: dict[str, tuple[float, float]]) -> None:
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        while True:
            with suppress(httpx.HTTPError, BadStat):
                page = (await client.get(f"http://127.0.0.1:{nginx.http_port}/stat")).content
                now = time.monotonic()
                for publisher in parse_stat(page).publishers:
                    on_air[publisher.name] = (on_air.get(publisher.name, (now, now))[0], now)
            await asyncio.sleep(_LOOK_SECONDS)


async def _come_back(stage: _Stage, clip: Path, seconds: float, query: str, *, forgets: bool = False) -> list[Attempt]:
    """Publish under a new key every two seconds, so long; `forgets` empties the list after the first cut."""
    attempts: list[Attempt] = []
    ends_at = time.monotonic() + seconds
    while (begun_at := time.monotonic()) < ends_at:
        name = f"again{len(attempts)}"
        was_ended = await _publish(stage, clip, f"{name}{query}", _LONGEST_STAY_SECONDS)
        await asyncio.sleep(2 * _LOOK_SECONDS)
        span = stage.on_air.get(name)
        attempts.append(
            Attempt()
            if span is None
            else Attempt(max(span[1] - span[0], _LOOK_SECONDS), was_on_air=True, was_ended=was_ended)
        )
        if forgets and span is not None and len(attempts) == 1:
            await asyncio.to_thread(remove_entry, stage.service.state_dir / "banks" / BANK, BANKED[0].replace(":", "-"))
        await asyncio.sleep(max(0.0, begun_at + _EVERY_SECONDS - time.monotonic()))
    return attempts


async def _undone(stage: _Stage, bad: Path, clean: Path, number: int) -> float:
    """Have somebody cut, see that he stays out, take it back, and return how long it takes until he is on air."""
    name = f"undone{number}"
    where = f"{name}?user=user{number}"
    if not await _publish(stage, bad, where, _LONGEST_STAY_SECONDS):
        raise ServiceFailed("the publisher to be taken back was not cut")

    stream = stream_id(load_or_create(stage.service.state_dir).deployment, StreamKey(SERVER, "live", name))

    def cut() -> str | None:
        with ControlClient(stage.service.state_dir) as control:
            rows = control.incidents(50)
        confirmed = (one for one in rows if one.stream_id == stream and one.cut_state is CutState.CONFIRMED)
        return next((one.incident_id for one in confirmed), None)

    until = time.monotonic() + _LONGEST_STAY_SECONDS
    while (incident := await asyncio.to_thread(cut)) is None:
        if time.monotonic() > until:
            raise ServiceFailed("the cut to be taken back was not confirmed")
        await asyncio.sleep(0.1)
    first = stage.on_air[name]
    await _publish(stage, clean, where, 1.0)
    if stage.on_air[name] != first:
        raise ServiceFailed("whoever was cut was let in before the undo")
    trying = asyncio.create_task(_try_again(stage, clean, where), name="returns.try")
    try:
        begun_at = time.monotonic()
        with ControlClient(stage.service.state_dir) as control:
            await asyncio.to_thread(control.undo, incident)
        await wait_until(lambda: stage.on_air[name] != first, 4 * _UNDO_LIMIT_SECONDS)
        return time.monotonic() - begun_at
    finally:
        trying.cancel()
        with suppress(asyncio.CancelledError):
            await trying


async def _try_again(stage: _Stage, clip: Path, where: str) -> None:
    """As an encoder that connects again as soon as it was refused."""
    while True:
        await _publish(stage, clip, where, _LONGEST_STAY_SECONDS)
        await asyncio.sleep(_AGAIN_SECONDS)


async def _publish(stage: _Stage, clip: Path, where: str, seconds: float) -> bool:
    """Publish the clip over and over, for so long at most; returns whether the server ended or refused it."""
    source = ("-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", "flv")
    command = ("ffmpeg", "-loglevel", "quiet", *source, f"rtmp://127.0.0.1:{stage.nginx.rtmp_port}/live/{where}")
    quiet = subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return True


def card_clip(path: Path, card: str) -> Path:
    """Encode six seconds of one card with a keyframe each second, as FLV."""
    width, height, fps = 320, 180, 15
    drawn = drawn_card(card, width, height)
    assert drawn is not None
    raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    video = f"-c:v libx264 -preset veryfast -bf 0 -g {fps} -sc_threshold 0 -pix_fmt yuv420p -f flv"
    words = f"ffmpeg -loglevel error -y {raw} {video}"
    subprocess.run([*words.split(), str(path)], check=True, input=drawn.tobytes() * (6 * fps), timeout=60)
    return path


def row(outcome: NginxOutcome) -> dict[str, Any]:
    """Return what the report shows of it."""
    return {
        "what": "on nginx-rtmp, with ffmpeg",
        **_told("account", outcome.account),
        **_told("picture", outcome.picture),
        "undo_to_on_air_p50_s": percentile(outcome.undo_seconds, 50),
        "undo_to_on_air_max_s": percentile(outcome.undo_seconds, 100),
        "undos": len(outcome.undo_seconds),
    }


def _told(by: str, attempts: list[Attempt]) -> dict[str, Any]:
    return {
        f"{by}_attempts": len(attempts),
        f"{by}_on_air": sum(one.was_on_air for one in attempts),
        f"{by}_on_air_s": round(sum(one.on_air_seconds for one in attempts), 2),
        f"{by}_on_air_each_s": [round(one.on_air_seconds, 2) for one in attempts],
    }


def checks(outcome: NginxOutcome) -> list[Check]:
    """Return one check for each promised figure that was measured."""
    found = []
    if outcome.account:
        later = outcome.account[1:]
        found += [
            at_least("nginx: returns under new keys", len(later), "attempts", 3),
            at_most("nginx: of them on air, known by account", sum(one.was_on_air for one in later), "attempts", 0),
        ]
    if outcome.picture:
        later = outcome.picture[1:]
        longest = max((one.on_air_seconds for one in later), default=float("inf"))
        ended = sum(one.was_ended or not one.was_on_air for one in later)
        found += [
            at_least("nginx: returns ended by us, known by the picture alone", ended, "attempts", len(later)),
            at_most("nginx: longest of them on air", longest, "s", _ON_AIR_LIMIT_SECONDS),
        ]
    if outcome.undo_seconds:
        slowest = max(outcome.undo_seconds)
        found.append(at_most("nginx: undo to on air again, max", slowest, "s", _UNDO_LIMIT_SECONDS))
    return found
