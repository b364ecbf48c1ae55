"""The whole way on one machine: publishers of benign cards, a stand-in for prohibited content, the alert, the cut.

There is no special path: the service that `run` runs, with its embedded ingest server and broker on free ports, banks
filled as `hashes add` fills them, publishers in processes of their own, and a consumer of the alerts over MQTT.
"""

import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import cv2

from detector.alerts.mqtt_connection import ConnectionFailed, MqttSettings, listen
from detector.alerts.mqtt_inbox import Received
from detector.analysis.setup import BANKS_FOLDER
from detector.api.view import IncidentRow, StreamRow
from detector.assembly import open_service
from detector.banks.files import add_files
from detector.cards import synthetic_card
from detector.config.addresses import MqttUrl
from detector.config.config import Config
from detector.events import CutState
from detector.media_files import find_media
from detector.service import Service
from detector.settings import reader_job
from detector.simulation.rehearsal import Rehearsal
from models.hashing.registry import hash_algorithms
from streams.job import SourceKind
from streams.keeper import Nursery

Say = Callable[[str], None]
_Found = TypeVar("_Found")

BANK = "DEMO"

_BANKED_SEED = 2077
_CLEAN_SECONDS = 3.4
"""The prohibited card appears in the middle of a GOP of one second: on a keyframe it would be seen at once."""

_SHOWN_SECONDS = 25
_STEP_SECONDS = 25.0
"""How long any one step may take before the demo gives up."""

_POLL_SECONDS = 0.05


class DemoFailed(Exception):
    """Raised by `run_demo` where a step did not happen; everything is closed. One sentence."""


@dataclass(frozen=True, slots=True)
class Act:
    """One publisher: what it is called, the clean card that it begins with, the prohibited one, and what that is."""

    title: str
    clean: str
    prohibited: str
    explanation: str


ACTS = (
    Act("publisher 1", "card:11", "smptebars", "a card that the stand-in classifier knows"),
    Act("publisher 2", "card:23", f"card:{_BANKED_SEED}", f"the card in hash bank {BANK}"),
)


@dataclass(frozen=True, slots=True)
class CutFigures:
    """One act's end. Times are seconds from the first prohibited frame leaving the encoder.

    `time_to_cut_s` ends when the publisher saw its connection closed, `time_to_confirmed_s` when the cut was proved.
    """

    publisher: str
    matched: str
    alert_id: str
    incident_id: str
    cut_confirmed: bool
    time_to_alert_s: float
    time_to_cut_s: float
    time_to_confirmed_s: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What `run_demo` came to."""

    cuts: tuple[CutFigures, ...]

    @property
    def is_cut_confirmed(self) -> bool:
        """Whether every cut was proved."""
        return all(cut.cut_confirmed for cut in self.cuts)

    def as_json(self) -> dict[str, Any]:
        """The figures; those at the top are of the slower cut."""
        slower = max(self.cuts, key=lambda cut: cut.time_to_cut_s)
        return {
            "alert_id": slower.alert_id,
            "cut_confirmed": self.is_cut_confirmed,
            "time_to_alert_s": max(cut.time_to_alert_s for cut in self.cuts),
            "time_to_cut_s": slower.time_to_cut_s,
            "cuts": [{name: getattr(cut, name) for name in cut.__slots__} for cut in self.cuts],
        }


async def run_demo(say: Say, rehearsal: Rehearsal | None = None) -> DemoResult:
    """Run the demo, telling `say` its timeline line by line; `rehearsal` says which faults are simulated.

    Raises:
        DemoFailed: a step did not happen in time.
        ServiceRefused: the service cannot start here.
    """
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stopframe-demo-") as folder:
        config = _config(Path(folder))
        timeline = _Timeline(say, started_at)
        await _fill_bank(config, Path(folder))
        timeline.tell(f"bank {BANK} holds the hash of one benign card; class standin-cards/smptebars may cut")
        async with open_service(config, rehearsal=rehearsal) as service:
            where = service.addresses
            timeline.tell(f"service ready: ingest {where.ingest}, broker {where.broker}, health {where.http}")
            async with _alerts(config, service) as alerts:
                cuts = [await _Performance(act, service, alerts, timeline).run() for act in ACTS]
    result = DemoResult(tuple(cuts))
    _tell_figures(say, result)
    return result


def _config(folder: Path) -> Config:
    return Config.model_validate(
        {
            "state_dir": folder / "state",
            "node": "demo",
            "ingest": {"listen": "127.0.0.1:0"},
            "http": {"listen": "127.0.0.1:0"},
            "alerts": {"mqtt": {"url": MqttUrl("127.0.0.1", 0)}},
            "classes": {f"standin-cards/{label}": {"step": "cut"} for label in ("smptebars", "testsrc2")},
            "banks": {BANK: {"step": "cut"}},
            "enforcement": {"live": True},
        }
    )


async def _fill_bank(config: Config, folder: Path) -> None:
    picture = folder / "card.png"
    if not cv2.imwrite(str(picture), cv2.cvtColor(synthetic_card(_BANKED_SEED, 640, 360), cv2.COLOR_RGB2BGR)):
        raise DemoFailed(f"{picture} cannot be written; set TMPDIR to a folder with room")
    async with Nursery("streams.reader:main", silences_children=True) as nursery:
        added = await add_files(
            find_media([str(picture)]),
            entry=None,
            bank_dir=config.state_dir / BANKS_FOLDER / BANK,
            algorithm=hash_algorithms()["pdq"],
            nursery=nursery,
            job=reader_job(config, "", SourceKind.FILE, "", live=False),
            at_once=1,
        )
    if not added.rows:
        raise DemoFailed(f"the card could not be hashed: {'; '.join(added.faults) or 'its quality is too low'}")


@dataclass(slots=True)
class _Timeline:
    """Tells what happened and when, in seconds since the start."""

    say: Say
    started_at: float

    def tell(self, what: str, at: float | None = None) -> None:
        moment = (time.monotonic() if at is None else at) - self.started_at
        self.say(f"{moment:7.2f} s  {what}")


@dataclass(slots=True)
class _Inbox:
    """Alerts as they came over MQTT."""

    received: list[tuple[Received, dict[str, Any]]] = field(default_factory=list)

    def cut_alert(self, stream_id: str) -> tuple[Received, dict[str, Any]] | None:
        for message, alert in self.received:
            if alert["stream"] == stream_id and alert["action"] == "cut" and alert["mode"] == "live":
                return message, alert
        return None


@contextlib.asynccontextmanager
async def _alerts(config: Config, service: Service) -> AsyncIterator[_Inbox]:
    """Subscribe to the alerts as a platform's own consumer would."""
    broker = MqttUrl.parse(str(service.addresses.broker))
    settings = MqttSettings(host=broker.host, port=broker.port, node="demo-consumer", protocol="3.1.1")
    inbox = _Inbox()

    async def collect(messages: AsyncIterator[Received]) -> None:
        async for message in messages:
            inbox.received.append((message, json.loads(message.payload)))

    try:
        async with listen(settings, f"{config.alerts.mqtt.prefix}/stream/+/alert") as messages:
            collecting = asyncio.create_task(collect(messages), name="demo.alerts")
            try:
                yield inbox
            finally:
                collecting.cancel()
                await asyncio.gather(collecting, return_exceptions=True)
    except ConnectionFailed as error:
        raise DemoFailed(f"the demo cannot listen to its own broker ({error}); run it again") from None


class _Publisher:
    """A publisher in a process of its own, and what it has told so far, by the event's name."""

    def __init__(self, url: str, act: Act) -> None:
        self._url = url
        self._script = f"{act.clean}:{_CLEAN_SECONDS},{act.prohibited}:{_SHOWN_SECONDS}"
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.events: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "detector.publisher",
            "--url",
            self._url,
            "--script",
            self._script,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
        self._reading = asyncio.create_task(self._read(), name="demo.publisher")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reading is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(self._reading, return_exceptions=True)

    def event(self, name: str, card: str | None = None) -> dict[str, Any] | None:
        return next((e for e in self.events if e["event"] == name and card in (None, e.get("name"))), None)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for text in self._process.stdout:
            self.events.append(json.loads(text))


class _Performance:
    """One act, from the publisher's start to the proof that it is gone."""

    def __init__(self, act: Act, service: Service, alerts: _Inbox, timeline: _Timeline) -> None:
        self._act = act
        self._service = service
        self._alerts = alerts
        self._tell = timeline.tell
        self._path = f"live/{secrets.token_hex(8)}"

    async def run(self) -> CutFigures:
        act = self._act
        async with _Publisher(f"{self._service.addresses.ingest}/{self._path}", act) as publisher:
            row = await self._until(self._live_row, "the stream is live")
            self._tell(f"{act.title} is live: stream {row.stream_id}, {row.codec} {row.width}x{row.height}")
            await self._until(self._clean_row, "its clean card is analysed")
            self._tell(f"{act.title}: its clean card was seen, and nothing was found in it")
            shown = await self._until(_of(publisher, "card", act.prohibited), "the prohibited card is shown")
            shown_at = float(shown["left_encoder_at"])
            self._tell(f"{act.title}: the first prohibited frame leaves the encoder ({act.explanation})", shown_at)
            message, alert = await self._until(lambda: self._alerts.cut_alert(row.stream_id), "an alert arrives")
            matched = _matched(alert)
            self._tell(f"alert received over MQTT: {matched}; alert {alert['alert_id']}", message.at)
            closed = await self._until(_of(publisher, "closed"), "the publisher is cut")
            closed_at = float(closed["at"])
            self._tell(f"{act.title} is cut: its connection was {closed['why']}", closed_at)
            incident = await self._until_decided(row.stream_id)
            is_confirmed = incident.cut_state is CutState.CONFIRMED
            confirmed_at = time.monotonic()
            self._tell(f"{act.title}: the cut is {incident.cut_state.value}; its key is revoked and it is gone")
        return CutFigures(
            publisher=act.title,
            matched=matched,
            alert_id=str(alert["alert_id"]),
            incident_id=incident.incident_id,
            cut_confirmed=is_confirmed,
            time_to_alert_s=round(message.at - shown_at, 3),
            time_to_cut_s=round(closed_at - shown_at, 3),
            time_to_confirmed_s=round(confirmed_at - shown_at, 3),
        )

    def _live_row(self) -> StreamRow | None:
        return next((r for r in self._service.streams() if r.path == self._path and r.codec is not None), None)

    def _clean_row(self) -> StreamRow | None:
        row = self._live_row()
        return row if row is not None and row.last_sample_age_seconds is not None and row.decision is None else None

    async def _until_decided(self, stream_id: str) -> IncidentRow:
        async def decided() -> IncidentRow | None:
            for row in await self._service.incidents(10):
                if row.stream_id == stream_id and row.cut_state not in (CutState.NONE, CutState.PENDING):
                    return row
            return None

        return await self._until(decided, "the cut is decided")

    async def _until(self, ask: Callable[[], _Found | Awaitable[_Found | None] | None], what: str) -> _Found:
        """Ask until there is an answer; `DemoFailed` when it takes too long."""
        deadline_at = time.monotonic() + _STEP_SECONDS
        while time.monotonic() < deadline_at:
            answer = ask()
            found = await answer if isinstance(answer, Awaitable) else answer
            if found is not None:
                return found
            await asyncio.sleep(_POLL_SECONDS)
        problems = "; ".join(self._service.health().problems) or "the service reports no problem"
        raise DemoFailed(f"{self._act.title}: waited {_STEP_SECONDS:.0f} s in vain until {what} ({problems})")


def _of(publisher: _Publisher, name: str, card: str | None = None) -> Callable[[], dict[str, Any] | None]:
    return lambda: publisher.event(name, card)


def _matched(alert: dict[str, Any]) -> str:
    signal = alert["signals"][0]
    if signal["kind"] in ("hash", "sequence"):
        return f"{signal['bank']}/{signal['entry']}, {signal['name']} distance {signal['distance']}"
    return f"{signal['name']}, score {signal['score']:.2f}"


def _tell_figures(say: Say, result: DemoResult) -> None:
    say("")
    for cut in result.cuts:
        proof = "confirmed" if cut.cut_confirmed else "NOT confirmed"
        say(
            f"{cut.publisher}: alert after {cut.time_to_alert_s:.2f} s, cut after {cut.time_to_cut_s:.2f} s, "
            f"{proof} after {cut.time_to_confirmed_s:.2f} s ({cut.matched})"
        )
