"""A cutter elsewhere: asked by signed alerts, believed by its signed answers, and proved by our own eyes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import pytest

from benchmarks.fake_ingest import FakeIngest
from benchmarks.numbered_service import Numbered, numbered
from benchmarks.ports import free_port
from detector.cli.cutter import health_of_cutter
from detector.config.loading import load_config, load_other
from detector.credentials import load_or_create, stream_id
from detector.cutter.assembly import CutterRefused, CutterService, open_cutter
from detector.cutter.config import CutterConfig
from detector.events import CutState, Step
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.revocations import FileRevocations
from detector.metric_words import CutterWord
from detector.open_incidents import StreamFacts
from detector.store.database import Database
from detector.store.days import DAY_MS
from detector.store.incidents import IncidentRecord, Incidents
from detector.trust.keyring import load_keyring
from detector.trust.signing import public_key_text
from tests.fixtures_brokers import Ear, Mosquitto, listening
from tests.fixtures_cli import ROOT
from tests.fixtures_endpoint import SECRET, Endpoint
from tests.slack import SLACK_SECONDS
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.needs_mosquitto]


@dataclass
class Site:
    """An ingest server, a broker, and the configs of a service and its cutter."""

    folder: Path
    ingest: FakeIngest
    broker: Mosquitto

    def key_of(self, who: str) -> str:
        return public_key_text(load_keyring(self.folder / who).signer.public_key)

    def service(self, more: str = "") -> Path:
        path = self.folder / "stopframe.yaml"
        path.write_text(
            f"state_dir: service\n{self.ingest.section}\nenforcement: {{live: true, where: remote, deadline: 2s}}\n"
            f"alerts:\n  mqtt: {{url: 'mqtt://127.0.0.1:{self.broker.port}', embedded_broker: false}}\n{more}"
            f"trust: {{trusted_keys: [{{name: cutter, public_key: '{self.key_of('cutter')}', may: [ack, alert]}}]}}\n"
        )
        return path

    def cutter(self, *, may: str = "[alert, command]", port: int | None = None, more: str = "") -> Path:
        load_or_create(self.folder / "service")
        path = self.folder / "cutter.yaml"
        path.write_text(
            f"state_dir: cutter\nsecret: {{file: service/secrets/deployment}}\n{self.ingest.section}\n"
            f"mqtt: {{url: 'mqtt://127.0.0.1:{port or self.broker.port}'}}\nhttp: {{listen: '127.0.0.1:0'}}\n{more}"
            f"trust: {{trusted_keys: [{{name: service, public_key: '{self.key_of('service')}', may: {may}}}]}}\n"
        )
        return path

    @contextlib.asynccontextmanager
    async def running_cutter(self, **more: Any) -> AsyncIterator[CutterService]:
        async with open_cutter(load_other(CutterConfig, self.cutter(**more))) as cutter:
            yield cutter

    @contextlib.asynccontextmanager
    async def running_service(self, more: str = "") -> AsyncIterator[Numbered]:
        async with numbered(load_config(self.service(more))) as service:
            await service.mqtt.wait_ready()
            yield service

    async def show(self, service: Numbered, name: str, action: Step = Step.CUT) -> None:
        """A publisher shows something; returns when the service has decided."""
        self.ingest.publish(f"live/{name}")
        publisher = next(one for one in await service.ingest.publishers() if one.key.name == name)
        await service.decide(publisher, action, f"session-{name}")


@pytest.fixture
async def site(tmp_path: Path, make_mosquitto: Callable[..., Mosquitto]) -> AsyncIterator[Site]:
    (tmp_path / "cutter").mkdir(mode=0o700)
    async with FakeIngest() as ingest:
        yield Site(tmp_path, ingest, make_mosquitto())


async def _again(service: Numbered, alerts: Ear) -> None:
    """Whoever may publish sends the first alert once more, byte for byte."""
    topic, payload = str(alerts.messages[0].topic), alerts.messages[0].payload
    assert isinstance(payload, bytes)
    await service.mqtt.send(topic, payload, expires_in_seconds=60)


async def _incident(service: Numbered) -> IncidentRecord:
    return (await service.incidents.newest(1))[0]


async def _until_cut(service: Numbered, state: CutState, seconds: float = 10.0) -> IncidentRecord:
    async with asyncio.timeout(seconds):
        while (record := await _incident(service)).cut_state is not state:
            await asyncio.sleep(0.02)
    return record


async def test_a_signed_alert_is_cut_acknowledged_and_proved(site: Site) -> None:
    """The publisher is gone, its key is denied on both sides, nothing is left open, and a review is nobody's cut."""
    async with site.running_cutter() as cutter, site.running_service() as service:
        await site.show(service, "innocent", Step.REVIEW)
        await site.show(service, "bad")
        record = await _until_cut(service, CutState.CONFIRMED)
        async with asyncio.timeout(30):
            while await service.delivery.open_count():
                await asyncio.sleep(0.02)

        assert site.ingest.kicks == {"live/bad": 1}
        assert list(site.ingest.live) == ["live/innocent"]
        assert service.ingest.is_revoked(record.key)
        assert cutter.cutter.counters.by_word_total[CutterWord.CUT] == 1
        assert service.delivery.problems() == []
        assert cutter.health().ok


async def test_an_alert_seen_twice_cuts_once_and_is_answered_twice(site: Site) -> None:
    """Its answer is sent again, also by a cutter that was started anew since."""
    port = site.broker.port
    async with (
        listening(port, "stopframe/stream/+/ack") as acks,
        listening(port, "stopframe/stream/+/alert") as alerts,
        site.running_service() as service,
    ):
        async with site.running_cutter() as cutter:
            await site.show(service, "bad")
            await _until_cut(service, CutState.CONFIRMED)
            await _again(service, alerts)
            await until(lambda: len(acks.messages) >= 3)
            assert cutter.cutter.counters.by_word_total[CutterWord.REPEATED] == 1
        async with site.running_cutter() as cutter:
            await _again(service, alerts)
            await until(lambda: len(acks.messages) >= 4)
    said = [json.loads(bytes(message.payload))["state"] for message in acks.messages]  # type: ignore[arg-type]
    assert said == ["received", "cut", "cut", "cut"]
    assert site.ingest.kicks == {"live/bad": 1}


async def test_what_comes_while_the_cutter_is_away_waits_for_it(site: Site) -> None:
    """The session at the broker keeps it; the service is red meanwhile where that takes long, and cuts follow."""
    async with site.running_cutter():
        pass  # its session is there from now on
    async with site.running_service() as service:
        await site.show(service, "bad")
        record = await _until_cut(service, CutState.FAILED)
        assert "has not answered" in record.detail
        async with site.running_cutter():
            await _until_cut(service, CutState.CONFIRMED)
    assert site.ingest.kicks == {"live/bad": 1}


async def test_undo_reaches_the_cutter_and_calls_back_what_is_on_its_way(site: Site) -> None:
    """The key may publish again on both sides within seconds; the same alert cuts nobody any more."""
    async with (
        site.running_cutter() as cutter,
        site.running_service() as service,
        listening(site.broker.port, "stopframe/stream/+/alert") as alerts,
    ):
        await site.show(service, "bad")
        record = await _until_cut(service, CutState.CONFIRMED)
        async with asyncio.timeout(30):
            await service.cutting.undo(record.key, stream_id=record.stream_id, incident_id=record.incident_id)
        assert not service.ingest.is_revoked(record.key)
        site.ingest.publish("live/bad")
        await _again(service, alerts)
        await until(lambda: cutter.cutter.counters.by_word_total[CutterWord.REPEATED])
        await asyncio.sleep(1.0)
    assert site.ingest.kicks == {"live/bad": 1}
    assert "live/bad" in site.ingest.live


async def test_undo_without_a_cutter_says_so(site: Site) -> None:
    """Nobody is told that a key may publish again before it may."""
    async with site.running_cutter(may="[alert]"), site.running_service() as service:
        await site.show(service, "bad")
        record = await _until_cut(service, CutState.CONFIRMED)
        with pytest.raises(IngestUnavailable, match="nobody listens"):
            await service.cutting.undo(record.key, stream_id=record.stream_id, incident_id=record.incident_id)


async def test_a_server_that_only_says_that_it_cut_turns_health_red(site: Site) -> None:
    """The cutter's word alone ends nothing: who is still listed is uncuttable, and asked for again."""
    site.ingest.obeys = False
    async with site.running_cutter(), site.running_service() as service:
        await site.show(service, "bad")
        await _until_cut(service, CutState.FAILED, 15)
        assert await service.delivery.open_count() == 1
        site.ingest.obeys = True
        await _until_cut(service, CutState.CONFIRMED, 15)


async def test_a_silent_cutter_is_passed_by_on_the_second_channel(site: Site) -> None:
    """After `second_channel.after` the webhook gets the cut, once for each backoff, and reviews never."""
    async with Endpoint() as endpoint:
        (site.folder / "webhook-secret").write_text(SECRET)
        (site.folder / "webhook-secret").chmod(0o600)
        more = (
            f"  webhook: {{url: '{endpoint.url}', secret: {{file: webhook-secret}}, takes: unanswered}}\n"
            "  second_channel: {after: 1s}\n"
        )
        async with site.running_service(more) as service:
            await site.show(service, "innocent", Step.REVIEW)
            await site.show(service, "bad")
            await until(lambda: endpoint.bodies, 10)
            said = json.loads(endpoint.bodies[0])
            assert (said["action"], said["mode"]) == ("cut", "live")
            async with site.running_cutter():  # what the second channel said ends nothing; an answer does
                async with asyncio.timeout(20):
                    while await service.delivery.open_count():
                        service.delivery._couriers["mqtt"].hurry()
                        await asyncio.sleep(0.05)


async def test_a_cutter_refuses_to_start_in_one_sentence(site: Site) -> None:
    """A second one in the same folder names the remedy."""
    async with site.running_cutter():
        with pytest.raises(CutterRefused, match="another stopframe"):
            async with site.running_cutter():
                pass


async def test_a_cut_by_hand_is_undone_by_the_incident_that_the_service_has(site: Site) -> None:
    """The cutter lets the key in again, not the service alone."""
    async with site.running_cutter() as cutter, site.running_service() as service:
        site.ingest.publish("live/bad")
        publisher = (await service.ingest.publishers())[0]
        name = stream_id(service.secret, publisher.key)
        facts = StreamFacts(name, "session", publisher.key, publisher.connection, {}, lambda: None)
        incident, outcome = await service.responder.cut_by_hand(facts)
        assert (outcome.state, site.ingest.kicks) == (CutState.CONFIRMED, {"live/bad": 1})
        assert cutter._ingest.is_revoked(publisher.key)
        await service.cutting.undo(publisher.key, stream_id=name, incident_id=incident)
        assert not cutter._ingest.is_revoked(publisher.key)


async def test_the_second_channel_cuts_where_no_broker_is(site: Site) -> None:
    """The cutter's broker is away: the service posts the cut, the reply ends delivery, and our own eyes prove it."""
    (site.folder / "webhook-secret").write_text(SECRET)
    (site.folder / "webhook-secret").chmod(0o600)
    section = "webhook: {listen: '127.0.0.1:0', secret: {file: webhook-secret}}\n"
    async with site.running_cutter(port=free_port(), more=section) as cutter:
        assert cutter.webhook is not None
        await until(lambda: cutter.health().problems)
        assert "correct mqtt.url" in cutter.health().problems[0]
        async with httpx.AsyncClient() as http, asyncio.timeout(30):
            while (
                "stopframe_health_problems 1.0"
                not in (await http.get(f"http://127.0.0.1:{cutter.http_port}/metrics")).text
            ):
                await asyncio.sleep(0.1)
        assert "alerts.mqtt" not in cutter.health().problems[0]
        more = (
            f"  webhook: {{url: '{cutter.webhook}', secret: {{file: webhook-secret}}, takes: unanswered}}\n"
            "  second_channel: {after: 1s}\n"
        )
        async with site.running_service(more) as service:
            await site.show(service, "bad")
            await _until_cut(service, CutState.CONFIRMED)
            async with asyncio.timeout(30):
                while await service.delivery.open_count():
                    await asyncio.sleep(0.02)
    assert site.ingest.kicks == {"live/bad": 1}


async def test_incidents_of_whom_nobody_denies_any_more_go_with_their_age(site: Site) -> None:
    """Their rows name publishers; one whose cut an undo may still take back stays, and so does a new one."""
    async with site.running_cutter(), site.running_service() as service:
        for name in ("free", "denied", "new"):
            await site.show(service, name)
            await _until_cut(service, CutState.CONFIRMED)
    async with Database.open(site.folder / "cutter" / "cutter.db") as database:
        old_ms = time.time_ns() // 1_000_000 - 40 * DAY_MS
        move = "UPDATE incidents SET opened_at_ms = ? WHERE name <> 'new'"
        await database.write(lambda connection: connection.execute(move, (old_ms,)))
        (free,) = [one for one in await Incidents(database).newest() if one.key.name == "free"]
    FileRevocations(site.folder / "cutter" / "revoked").remove(free.stream_id)

    async with site.running_cutter(), Database.open(site.folder / "cutter" / "cutter.db") as database:
        async with asyncio.timeout(SLACK_SECONDS):
            while len(left := await Incidents(database).newest()) > 2:
                await asyncio.sleep(0.05)

    assert sorted(one.key.name for one in left) == ["denied", "new"]


async def test_sighup_takes_up_a_new_key_and_ends_nothing(site: Site) -> None:
    """As an operator does it, with the process: a fault in the file is told, and what is mended is taken up."""
    file, port = site.cutter(port=free_port()), free_port()
    good = file.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}")
    file.write_text(good)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "detector", "cutter", "-c", str(file)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None

    async def heard(event: str) -> None:
        assert process.stderr is not None
        async with asyncio.timeout(40):
            while f'"{event}"' not in (await process.stderr.readline()).decode():
                assert process.returncode is None

    try:
        await heard("cutter.ready")
        assert "no connection to the MQTT broker" in (await asyncio.to_thread(health_of_cutter, file)).problems[0]
        for text, event in ((f"{good}deadline: [\n", "config.refused"), (f"{good}deadline: 9s\n", "config.applied")):
            file.write_text(text)
            process.send_signal(signal.SIGHUP)
            await heard(event)
    finally:
        process.terminate()
        await process.stderr.read()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_a_services_folder_is_refused(site: Site) -> None:
    """Its key would sign what a cutter says."""
    (site.folder / "cutter/stopframe.db").touch()
    with pytest.raises(CutterRefused, match="is a service's"):
        async with site.running_cutter():
            pass


async def test_a_burst_from_the_broker_is_read_to_its_last_message(site: Site) -> None:
    """The broker sends on, however few it was told to: none is dropped unread, and the one in earnest is cut."""
    async with site.running_cutter() as cutter, site.running_service() as service:
        version = aiomqtt.ProtocolVersion.V5
        async with aiomqtt.Client("127.0.0.1", site.broker.port, protocol=version) as stranger:
            topic = f"stopframe/stream/{'A' * 26}/alert"
            await asyncio.gather(*(stranger.publish(topic, b"{}", qos=1) for _ in range(600)))
        await site.show(service, "bad")
        await _until_cut(service, CutState.CONFIRMED)
        await until(lambda: cutter._distrust.total == 600)
    assert cutter.cutter.counters.by_word_total[CutterWord.OVERFLOWED] == 0
