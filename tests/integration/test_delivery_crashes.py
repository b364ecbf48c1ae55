"""Delivery with a broker that is not there, and with a service that is killed: nothing is lost on the way."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from detector.alerts.delivery import Delivery
from detector.alerts.embedded_broker import EmbeddedBroker
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.store.database import Database
from detector.store.incidents import Incidents
from detector.store.outbox import Outbox
from tests.fixtures_delivery import QUICK, some_alert
from tests.waiting import until

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def _heard(port: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Collect the alerts that arrive at a subscriber."""
    heard: list[dict[str, Any]] = []
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("stopframe/stream/+/alert", qos=1)

        async def collect() -> None:
            with contextlib.suppress(aiomqtt.MqttError):
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    heard.append(json.loads(message.payload))

        task = asyncio.create_task(collect())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _mqtt(port: int) -> MqttSink:
    settings = MqttSettings(
        host="127.0.0.1",
        port=port,
        node="n1",
        answer_timeout_seconds=5.0,
        reconnect_first_seconds=0.05,
        reconnect_limit_seconds=0.1,
    )
    return MqttSink(settings)


async def test_broker_that_comes_late_and_goes_again_loses_nothing(tmp_path: Path) -> None:
    """Alerts from before the broker was there, and from while it was gone, arrive: each exactly once."""
    async with EmbeddedBroker() as found:
        port = found.port
    sent: list[str] = []
    heard_ids: Counter[str] = Counter()
    async with (
        Database.open(tmp_path / "s.db") as database,
        _mqtt(port) as sink,
        Delivery(Outbox(database), [sink], settings=QUICK) as delivery,
    ):
        for round_number in range(3):
            sent += [(await delivery.submit(some_alert(f"S{n % 4}"))).alert_id for n in range(15)]
            # The listener connects before the sink may, so that nothing is published to nobody.
            held, sink._settings = sink._settings, MqttSettings(host="127.0.0.1", port=1, node="n1")
            async with EmbeddedBroker(port=port), _heard(port) as heard:
                sink._settings = held
                await until(lambda: len(heard) >= 15)
                assert await delivery.drain(5) == 0
            heard_ids.update(alert["alert_id"] for alert in heard)
            assert len(sent) == 15 * (round_number + 1)

    assert heard_ids == Counter(sent)


_KILLED = """
import asyncio, os, sys, time
from detector.alerts.alert import AlertFacts, WallAnchor, build_alert, uuid7
from detector.alerts.delivery import Delivery
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.events import CutState, Step, StreamKey
from detector.store.database import Database
from detector.store.incidents import IncidentRecord
from detector.store.outbox import Outbox

async def main(path, port):
    async with Database.open(path) as db, MqttSink(MqttSettings(host="127.0.0.1", port=port, node="n1")) as sink:
        async with Delivery(Outbox(db), [sink]) as delivery:
            while True:
                anchor = WallAnchor(time.monotonic(), int(time.time() * 1000))
                alert_id = uuid7(anchor.wall_ms, os.urandom(10))
                facts = AlertFacts(stream_id="S", session="1", signals=(), votes=(1, 1), action=Step.CUT,
                                   is_live=True, config_digest="c", incident_id=alert_id)
                alert = build_alert(facts, alert_id=alert_id, anchor=anchor, queued_at=anchor.monotonic_seconds,
                                    expires_after_ms=60_000)
                incident = IncidentRecord(incident_id=alert_id, stream_id="S", session="1",
                                          key=StreamKey("main", "live", "k"), opened_at_ms=anchor.wall_ms,
                                          action=Step.CUT, is_live=True, signals="x", cut_state=CutState.PENDING)
                await delivery.submit(alert, incident)
                print(alert_id, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def _killed_after(path: Path, port: int, lines: int) -> list[str]:
    """Submit alerts in a process of their own, kill it with SIGKILL, and return the ids that it had submitted."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _KILLED, str(path), str(port)]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=environment, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        told += child.stdout.read().splitlines(keepends=True)
    return [line.strip() for line in told if len(line) == 37]  # a UUID and its end: neither logs nor half a line


async def test_kill_9_between_commit_and_publish_loses_nothing(tmp_path: Path) -> None:
    """Alerts that a killed process had on disk and not yet sent arrive after the restart, once each, in order."""
    async with EmbeddedBroker() as found:
        port = found.port
    told = await asyncio.to_thread(_killed_after, tmp_path / "s.db", port, 25)

    async with Database.open(tmp_path / "s.db") as database, EmbeddedBroker(port=port), _heard(port) as heard:
        async with _mqtt(port) as sink, Delivery(Outbox(database), [sink]) as delivery:
            await until(lambda: {alert["alert_id"] for alert in heard} >= set(told))
            assert await delivery.drain(5) == 0
        pending = await Incidents(database).pending_cuts()

    arrived = [alert["alert_id"] for alert in heard]
    assert arrived[: len(told)] == told
    assert len(set(arrived)) == len(arrived)
    assert [alert["seq"] for alert in heard] == list(range(1, len(heard) + 1))
    assert sorted(incident.incident_id for incident in pending) == sorted(arrived)
    assert all(alert["durable"] for alert in heard)


async def test_kill_9_amid_delivery_loses_nothing(tmp_path: Path) -> None:
    """Killed while alerts flow, what was submitted is heard before or after the restart; repeats keep their id."""
    async with EmbeddedBroker() as broker, _heard(broker.port) as heard:
        told = await asyncio.to_thread(_killed_after, tmp_path / "s.db", broker.port, 60)
        before = len(heard)
        async with (
            Database.open(tmp_path / "s.db") as database,
            _mqtt(broker.port) as sink,
            Delivery(Outbox(database), [sink]) as delivery,
        ):
            assert await delivery.drain(10) == 0
            await until(lambda: {alert["alert_id"] for alert in heard} >= set(told))

    repeats = len(heard) - len({alert["alert_id"] for alert in heard})
    assert before > 0
    assert repeats <= 1, "only the one alert whose acceptance was not yet on disk may come twice"
