"""Whoever was cut and comes back under a new key every two seconds: how long is he on air in a minute?

Known by his account, he is turned away at the door; known by what he shows alone, he is cut again each time, also when
no list has it any more. And before: who shows what only several frames together may be cut for, two seconds at a time,
each time under another key and with one keyframe alone, is seen in his short sessions, and his votes add up. The real
service, its embedded ingest and all its processes; then the same returns on a real nginx-rtmp, and how soon an undo
lets somebody back on air there (`benchmarks.returns_nginx`).
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import returns_nginx
from benchmarks.brokers import ServerMissing
from benchmarks.clips import Clip, encode_clip
from benchmarks.ports import free_port
from benchmarks.publishers import PacedPublishers, Publication
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.restream_clips import encoded, scene
from benchmarks.restreams import fill_bank
from benchmarks.running import RunningService
from models.bank_store import remove_entry

ARGUMENTS: Final = {
    "embedded": "0 leaves out what runs on the embedded ingest",
    "nginx": "0 leaves out what runs on nginx-rtmp",
}

_BANK: Final = "KNOWN_SCENES"
_STAY_SECONDS: Final = 2.0
_GAP_SECONDS: Final = 1.0
_EVERY_SECONDS: Final = 2.0
_DECODED: Final = "stopframe_frame_to_decision_seconds_count"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many short sessions are watched without a cut, and how long returns go on after one; 0 leaves a part out.

    By account they go on until one was turned away, for `patience_seconds` more at most.
    """

    sessions: int
    account_seconds: float
    fingerprint_seconds: float
    nginx_seconds: float = 0.0
    undos: int = 0
    patience_seconds: float = 0.0


@dataclass(slots=True)
class Returns:
    """Attempts of one who comes back. `on_air_seconds` of each run from the first byte to the connection's end."""

    attempts: int = 0
    cut: int = 0
    denied: int = 0
    on_air_seconds: list[float] = field(default_factory=list)
    first_cut_session: int | None = None


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    sampled: list[int] = field(default_factory=list)
    account: Returns = field(default_factory=Returns)
    fingerprint: Returns = field(default_factory=Returns)
    nginx: returns_nginx.NginxOutcome | None = None


def measure(options: Options) -> Report:
    """Forty short sessions and a minute of returns by account and by picture; a quick run takes six and 12 s each.

    On nginx for a minute each, too, and ten undos; a quick run leaves that out.
    """
    plan = Plan(5, 12.0, 12.0) if options.is_quick else Plan(40, 60.0, 60.0, nginx_seconds=60.0, undos=10)
    nginx = options.more.get("nginx", 1)
    if options.more.get("embedded") == 0:
        plan = replace(plan, sessions=0, account_seconds=0.0, fingerprint_seconds=0.0)
    if not nginx:
        plan = replace(plan, nginx_seconds=0.0, undos=0)
    settings: dict[str, Any] = {
        "sessions": plan.sessions,
        "session_seconds": _STAY_SECONDS,
        "gap_seconds": _GAP_SECONDS,
        "returns_every_seconds": _EVERY_SECONDS,
        "returns_for_seconds": plan.account_seconds,
        "votes": "8 of 10",
        "undos": plan.undos,
        "machine": machine(),
    }
    print_settings("returns", settings)
    missing = ""
    with tempfile.TemporaryDirectory(prefix="stopframe-returns-") as scratch:
        outcome = asyncio.run(run(plan, Path(scratch)))
        if plan.nginx_seconds or plan.undos:
            place = Path(scratch) / "nginx"
            place.mkdir()
            try:
                outcome.nginx = asyncio.run(returns_nginx.run_on_nginx(place, plan.nginx_seconds, plan.undos))
            except ServerMissing as fault:
                missing = str(fault)
    results, checks = [_result(outcome)], _checks(plan, outcome)
    if outcome.nginx is not None:
        results.append(returns_nginx.row(outcome.nginx))
        checks += returns_nginx.checks(outcome.nginx)
    if missing:
        checks.append(not_measured("nginx: returns and undo", "s", 0, missing))
    return Report("returns", settings, results, checks)


async def run(plan: Plan, folder: Path) -> Outcome:
    """Run the parts, each with a service of its own."""
    outcome = Outcome()
    script = f"smptebars:{_STAY_SECONDS:g}"
    bars = await asyncio.to_thread(encode_clip, script, gop_seconds=_STAY_SECONDS)  # one keyframe, one vote
    if plan.sessions:
        await _short_sessions(plan.sessions, bars, folder / "short", outcome)
    if plan.account_seconds:
        async with _service(folder / "account", "query:user") as service:
            outcome.account = await _come_back(
                service, bars, plan.account_seconds, "?user=mallory", patience_seconds=plan.patience_seconds
            )
    if plan.fingerprint_seconds:
        shown = await asyncio.to_thread(scene, 801, 8.0)
        service = _service(folder / "fingerprint", "key", bank="cut")
        fill_bank(service.state_dir, [("scene", shown[0])])
        clip = await asyncio.to_thread(lambda: encoded(shown, kilobits=600))
        async with service:
            outcome.fingerprint = await _come_back(service, clip, plan.fingerprint_seconds, "", forgets=True)
    return outcome


async def _short_sessions(count: int, clip: Clip, folder: Path, outcome: Outcome) -> None:
    """Sessions of one account that nobody cuts: frames judged of each."""
    async with _service(folder, "query:user", live=False) as service, _publishers(service) as publishers:
        for number in range(count):
            before = (await service.metrics()).get(_DECODED, 0.0)
            begun_at = time.monotonic()
            await _publish(publishers, f"live/short{number}?user=mallory", clip)
            await asyncio.sleep(max(0.0, begun_at + _STAY_SECONDS + _GAP_SECONDS - time.monotonic()))
            outcome.sampled.append(round((await service.metrics()).get(_DECODED, 0.0) - before))


async def _come_back(
    service: RunningService,
    clip: Clip,
    seconds: float,
    query: str,
    *,
    forgets: bool = False,
    patience_seconds: float = 0.0,
) -> Returns:
    """Publish under a new key every two seconds, so long; `forgets` empties the list after the first cut."""
    found = Returns()
    async with _publishers(service) as publishers:
        ends_at = time.monotonic() + seconds
        while (begun_at := time.monotonic()) < ends_at + (0.0 if found.denied else patience_seconds):
            told = await _publish(publishers, f"live/again{found.attempts}{query}", clip)
            found.attempts += 1
            if told.why == "answered 403":
                found.denied += 1
                found.on_air_seconds.append(0.0)
            else:
                ended_at = told.closed_at or told.stopped_at or time.monotonic()
                found.on_air_seconds.append(max(0.0, ended_at - (told.started_at or ended_at)))
                if told.closed_at is not None:
                    found.cut += 1
                    if forgets and found.first_cut_session is None:
                        await asyncio.to_thread(remove_entry, service.state_dir / "banks" / _BANK, "scene")
                    found.first_cut_session = found.first_cut_session or found.attempts
            await asyncio.sleep(max(0.0, begun_at + _EVERY_SECONDS - time.monotonic()))
    return found


async def _publish(publishers: PacedPublishers, path: str, clip: Clip) -> Publication:
    publishers.start(path, clip, rounds=1)
    return await publishers.wait(path)


def _publishers(service: RunningService) -> PacedPublishers:
    return PacedPublishers("127.0.0.1", service.ingest_port)


def _service(folder: Path, identity: str, *, live: bool = True, bank: str = "") -> RunningService:
    broker = f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_port()}", embedded_broker: true}}}}'
    rule = f"banks: {{{_BANK}: {{step: {bank}}}}}"
    if not bank:
        rule = (
            "classes: {standin-cards/smptebars: {step: cut}}\nvotes: {k: 8, of: 10}\n"
            "sampling: {mode: keyframes, interval: 3s, closer_interval: 10s, spikes: false}"
        )
    rule += f"\nenforcement: {{live: {str(live).lower()}}}"
    return RunningService(folder, f"{rule}\nidentity: {{by: '{identity}'}}\n{broker}")


def _result(outcome: Outcome) -> dict[str, Any]:
    return {
        "frames_of_short_sessions": outcome.sampled,
        **{f"account_{key}": value for key, value in _returns(outcome.account).items()},
        **{f"fingerprint_{key}": value for key, value in _returns(outcome.fingerprint).items()},
    }


def _returns(found: Returns) -> dict[str, Any]:
    return {
        "attempts": found.attempts,
        "cut": found.cut,
        "denied": found.denied,
        "on_air_s": sum(found.on_air_seconds),
        "on_air_each_s": [round(one, 2) for one in found.on_air_seconds],
        "first_cut_in_session": found.first_cut_session,
    }


def _checks(plan: Plan, outcome: Outcome) -> list[Check]:
    if not plan.sessions:
        return []
    account, fingerprint = outcome.account, outcome.fingerprint
    seen = sum(count > 0 for count in outcome.sampled) / max(1, plan.sessions)
    later = fingerprint.on_air_seconds[1:] or [0.0]
    return [
        at_least("short sessions with a frame that was looked at", seen, "share", 0.95),
        at_most("session in which votes of several keys cut", account.first_cut_session or 99, "", 4),
        at_least(
            "returns after the cut that were turned away by account",
            account.denied / max(1, account.attempts - (account.first_cut_session or 0)),
            "share",
            1.0,
        ),
        at_most("on air in the whole time, known by account", sum(account.on_air_seconds), "s", 6.0),
        at_least("attempts cut, known by the picture alone", fingerprint.cut / fingerprint.attempts, "share", 0.95),
        at_most("on air in one attempt after the first, by the picture", max(later), "s", 2.0),
    ]
