"""Rehearsals: each simulated fault shows what an operator is promised of the real one, and none is taken for real."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.clips import Clip, encode_clip
from benchmarks.fake_ingest import FakeIngest
from benchmarks.publishers import PacedPublishers
from detector.alerts.messages import message_schema
from detector.assembly import ServiceRefused, open_service
from detector.config.addresses import MqttUrl
from detector.config.loading import load_config, load_other
from detector.coverage import Cause, Kind
from detector.credentials import load_or_create, stream_id
from detector.cutter.assembly import open_cutter
from detector.cutter.config import CutterConfig
from detector.events import CutState, Decision, Signal, Step, StreamKey
from detector.open_incidents import StreamFacts
from detector.remote import setup as remote_setup
from detector.service import Service
from detector.session import StreamSession
from detector.simulation.fault import Fault
from detector.simulation.registry import faults_of
from detector.simulation.rehearsal import Rehearsal
from detector.trust.keyring import load_keyring
from detector.trust.signing import public_key_text
from tests.fixtures_brokers import Ear, Mosquitto, listening
from tests.fixtures_endpoint import SECRET, Endpoint
from tests.waiting import until

pytestmark = pytest.mark.integration

_WATCHING = (
    "ingest: {listen: 127.0.0.1:0}\nhttp: {listen: 127.0.0.1:0}\nalerts: {mqtt: {url: 'mqtt://127.0.0.1:0'}}\n"
    "sampling: {detect_within: 500ms, interval: 500ms}\n"
)

_ALONE = "models: []\nanalysis: {workers: 1}\n"


@dataclass
class Rehearsed:
    """A running service, who hears its alerts, and its publishers."""

    service: Service
    ear: Ear
    publishers: PacedPublishers

    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.ear.of("/alert")]

    async def decide(self, entry: str, action: Step = Step.REVIEW) -> None:
        """The policy finds one more thing on the same stream."""
        await _decide(self.service, StreamKey("embedded", "live", "found"), entry, action)

    @property
    def fault(self) -> Fault:
        """The one that is simulated."""
        return self.service._rehearsal.faults[0]

    async def session(self, count: int = 1) -> StreamSession:
        """The first of so many streams, when all of them are watched."""
        sessions = self.service.supervisor.sessions
        await until(lambda: len(sessions) == count and all(one.opened for one in sessions.values()))
        return next(iter(sessions.values()))


async def _decide(service: Service, key: StreamKey, entry: str, action: Step) -> None:
    name = stream_id(load_or_create(service.config.state_dir).deployment, key)
    signal = Signal("hash", "pdq", f"CARDS/{entry}", action, 31, bank="CARDS", entry=entry, distance=4)
    decision = Decision(
        name, f"session-{key.name}", None, action, is_live=action is Step.CUT, signals=(signal,), votes=(1, 1)
    )
    facts = StreamFacts(name, f"session-{key.name}", key, "c1", {}, lambda: None)
    await service.responder.respond(decision, facts)


@contextlib.asynccontextmanager
async def rehearsing(folder: Path, simulate: str, more: str = _ALONE) -> AsyncIterator[Rehearsed]:
    """A service that simulates these faults."""
    file = folder / "stopframe.yaml"
    file.write_text(f"state_dir: {folder / 'state'}\n{_WATCHING}{more}")
    rehearsal = Rehearsal(faults_of(simulate))
    async with open_service(load_config(file), rehearsal=rehearsal) as service:
        broker = MqttUrl.parse(str(service.addresses.broker))
        host, port = str(service.addresses.ingest).removeprefix("http://").split(":")
        async with listening(broker.port) as ear, PacedPublishers(host, int(port)) as publishers:
            rehearsal.begin()  # however long the start took
            yield Rehearsed(service, ear, publishers)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return encode_clip("card:7:1,card:8:1", folder=tmp_path_factory.mktemp("clips"), fps=10, gop_seconds=0.5)


def _begin(fault: Fault) -> None:
    """Have it hold now, however long the start took."""
    fault.started_at = time.monotonic() - fault.begins.seconds
    assert fault.is_on


def _end(fault: Fault) -> None:
    """Have it be over now."""
    fault.started_at = -1e9
    assert not fault.is_on


def _red(service: Service, word: str) -> bool:
    return any(word in problem for problem in service.health().problems)


async def test_lost_packets_are_accounted_for(clip: Clip, tmp_path: Path) -> None:
    """Every second stays in the account, those not seen by their cause, and no reader crashes over it."""
    async with rehearsing(tmp_path, "packet-loss=90%@1s") as rehearsed:
        rehearsed.publishers.start("live/lossy", clip)
        session = await rehearsed.session()
        await until(lambda: rehearsed.fault.is_on)
        before = session.coverage()
        await until(lambda: session.coverage().skipped_ns + session.coverage().blind_ns > 200_000_000, 20)
        after = session.coverage()
        assert after.alive_ns == after.seen_ns + after.skipped_ns + after.blind_ns
        assert after.alive_ns > before.alive_ns
        assert rehearsed.service.metrics.value("stopframe_crashes_total", kind="reader") == 0
        assert rehearsed.service.health().notes[0] == "simulating packet-loss=90%@1s: under way"


async def test_damaged_packets_make_a_stream_blind(clip: Clip, tmp_path: Path) -> None:
    """The decoder meets the noise; after the limit there is an alert with the cause, marked as simulated."""
    more = _ALONE + "blind: {decode_errors: {after: 1s}, keyframe_without_picture: {after: 1s}}\n"
    async with rehearsing(tmp_path, "decode-error=100%@1s", more) as rehearsed:
        rehearsed.publishers.start("live/noisy", clip)
        session = await rehearsed.session()
        await until(rehearsed.alerts, 20)
        alert = rehearsed.alerts()[0]
        assert [(one["kind"], one["name"]) for one in alert["signals"]] == [("blind", "decode_errors")]
        assert alert["simulated"] == "decode-error=100%@1s"
        assert set(alert) <= set(message_schema("alert")["properties"])
        assert {cause for cause in session.coverage().by_cause_ns if cause.kind is Kind.BLIND} <= {
            Cause.DECODE_ERRORS,
            Cause.CONNECTING,
            Cause.NO_KEYFRAME,
            Cause.KEYFRAME_WITHOUT_PICTURE,
        }


async def test_slow_models_cost_stale_frames_and_no_stream(clip: Clip, tmp_path: Path) -> None:
    """Frames that waited too long are dropped and counted, while each of the streams is still looked at."""
    more = "analysis: {workers: 1, deadline: 300ms}\n"
    async with rehearsing(tmp_path, "slow-model=400ms@0s", more) as rehearsed:
        pool = rehearsed.service.pool
        for number in range(2):
            rehearsed.publishers.start(f"live/s{number}", clip, delay_seconds=number * 0.1)
        await rehearsed.session(2)
        since = pool.dropped["stale"]
        seen = {one.stream_id: one.coverage().seen_ns for one in rehearsed.service.supervisor.sessions.values()}
        await until(lambda: pool.dropped["stale"] > since, 20)
        sessions = rehearsed.service.supervisor.sessions
        await until(lambda: all(sessions[name].coverage().seen_ns > ns for name, ns in seen.items()), 20)
        assert max(one.coverage().max_gap_seconds for one in sessions.values()) < 10
        assert pool.restarts == 0


async def test_alerts_outlast_a_broker_that_is_away(tmp_path: Path) -> None:
    """Red meanwhile; afterwards every alert is there, in the order of its stream."""
    async with rehearsing(tmp_path, "broker-drop=1h@1h") as rehearsed:
        await rehearsed.decide("before")
        await until(rehearsed.alerts)
        _begin(rehearsed.fault)
        await until(lambda: _red(rehearsed.service, "away in this rehearsal"))
        for number in range(5):
            await rehearsed.decide(f"meanwhile-{number}")
        await asyncio.sleep(0.2)
        assert len(rehearsed.alerts()) == 1
        _end(rehearsed.fault)
        await until(lambda: len({alert["seq"] for alert in rehearsed.alerts()}) == 6, 20)
        first_seen = list(dict.fromkeys(alert["seq"] for alert in rehearsed.alerts()))
        assert first_seen == sorted(first_seen)
        await until(lambda: not _red(rehearsed.service, "rehearsal"))


async def test_a_full_disk_keeps_no_alert_back(tmp_path: Path) -> None:
    """It goes out from memory and says so, health is red; when there is room again alerts are durable."""
    async with rehearsing(tmp_path, "disk-full=1h@1h") as rehearsed:
        _begin(rehearsed.fault)
        await rehearsed.decide("full")
        await until(rehearsed.alerts)
        assert [(alert["durable"], alert["seq"]) for alert in rehearsed.alerts()] == [(False, None)]
        assert _red(rehearsed.service, "the disk is full")
        _end(rehearsed.fault)
        await until(lambda: not _red(rehearsed.service, "the disk is full"), 20)
        await rehearsed.decide("room")
        await until(lambda: len(rehearsed.alerts()) == 2)
        assert rehearsed.alerts()[1]["durable"]
        assert len(await rehearsed.service.incidents(9)) == 2  # the first was written down late


async def test_a_clock_that_is_set_costs_nothing(clip: Clip, tmp_path: Path) -> None:
    """No sample is missed, no alert expires early; alerts are dated by the clock as it stands."""
    for name in ("ahead", "back"):
        (tmp_path / name).mkdir()
    await asyncio.gather(_set("1h", clip, tmp_path / "ahead"), _set("-1h", clip, tmp_path / "back"))


async def _set(step: str, clip: Clip, tmp_path: Path) -> None:
    more = _ALONE + "enforcement: {incidents: {cool_down: 0s}}\n"
    async with rehearsing(tmp_path, f"clock-step={step}@1h", more) as rehearsed:
        rehearsed.publishers.start("live/steady", clip)
        session = await rehearsed.session()
        await until(lambda: session.coverage().seen_seconds > 0.2)
        _begin(rehearsed.fault)
        before, began_at = session.coverage(), time.monotonic()
        await rehearsed.decide("after")
        await until(rehearsed.alerts)
        rehearsed.service.responder.session_ended("session-found")
        await until(lambda: [alert for alert in rehearsed.alerts() if alert["type"] == "close"])
        await asyncio.sleep(1.3)  # what expired is looked for every second
        after = session.coverage()
        missed_ns = after.skipped_ns + after.blind_ns - before.skipped_ns - before.blind_ns
        assert missed_ns < 0.5e9, "a sample may be late on a busy machine, by no hour"
        assert after.seen_seconds - before.seen_seconds > 0.5 * (time.monotonic() - began_at)
        assert rehearsed.service.delivery.expired_total == 0
        assert not _red(rehearsed.service, "expired")
        offsets = {
            datetime.fromisoformat(alert["expires_at"]).timestamp() - time.time() for alert in rehearsed.alerts()
        }
        hour = 3_600_000 * (1 if step == "1h" else -1)
        assert all(abs(offset - hour / 1000 - 900) < 30 for offset in offsets)
        record = (await rehearsed.service.incident_store.newest(1))[0]
        assert abs(record.opened_at_ms - time.time_ns() // 1_000_000 - hour) < 30_000


@pytest.mark.needs_mosquitto
async def test_a_silent_cutter_is_asked_again_and_passed_by(
    tmp_path: Path, make_mosquitto: Callable[..., Mosquitto], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its alert goes out again and over the second channel, health is red; when it is heard again the cut is proved."""
    monkeypatch.setattr(remote_setup, "_ENOUGH_SECONDS", 0.5)
    broker = make_mosquitto()
    mqtt = f"url: 'mqtt://127.0.0.1:{broker.port}'"
    for who in ("service", "cutter"):
        (tmp_path / who).mkdir(mode=0o700)
    load_or_create(tmp_path / "service")
    keys = {who: public_key_text(load_keyring(tmp_path / who).signer.public_key) for who in ("service", "cutter")}
    (tmp_path / "word").write_text(SECRET)
    (tmp_path / "word").chmod(0o600)
    async with FakeIngest() as server, Endpoint() as endpoint:
        (tmp_path / "cutter.yaml").write_text(
            f"state_dir: cutter\nsecret: {{file: service/secrets/deployment}}\n{server.section}\nmqtt: {{{mqtt}}}\n"
            "http: {listen: '127.0.0.1:0'}\n"
            f"trust: {{trusted_keys: [{{name: s, public_key: '{keys['service']}', may: [alert, command]}}]}}\n"
        )
        (tmp_path / "stopframe.yaml").write_text(
            f"state_dir: service\n{server.section}\nhttp: {{listen: 127.0.0.1:0}}\nmodels: []\n"
            "enforcement: {live: true, where: remote, deadline: 1s}\nanalysis: {workers: 1}\n"
            f"alerts:\n  mqtt: {{{mqtt}, embedded_broker: false}}\n  second_channel: {{after: 1s}}\n"
            f"  webhook: {{url: '{endpoint.url}', secret: {{file: word}}, takes: unanswered}}\n"
            f"trust: {{trusted_keys: [{{name: c, public_key: '{keys['cutter']}', may: [ack, alert]}}]}}\n"
        )
        config = load_config(tmp_path / "stopframe.yaml")
        silent = faults_of("cutter-silent=1h@0s")
        with pytest.raises(ServiceRefused, match=r"enforcement.live: a rehearsal must not cut.*--may-cut"):
            async with open_service(config, rehearsal=Rehearsal(silent)):
                pass
        async with (
            open_cutter(load_other(CutterConfig, tmp_path / "cutter.yaml")),
            listening(broker.port, "stopframe/stream/+/alert") as ear,
            open_service(config, rehearsal=Rehearsal(silent, may_cut=True)) as service,
        ):
            await service.delivery._couriers["mqtt"].sink.wait_ready()
            server.publish("live/bad")
            publisher = next(one for one in await service.ingest.publishers())
            await _decide(service, publisher.key, "bad", Step.CUT)
            await until(lambda: server.kicks and endpoint.bodies and len(ear.messages) > 1)
            assert json.loads(endpoint.bodies[0])["simulated"] == "cutter-silent=1h@0s"
            await until(lambda: _red(service, "the cutter has not answered"))
            _end(silent[0])
            async with asyncio.timeout(20):
                while (await service.incidents(1))[0].cut_state is not CutState.CONFIRMED:
                    service.delivery._couriers["mqtt"].hurry()
                    await asyncio.sleep(0.05)
            assert server.kicks == {"live/bad": 1}
