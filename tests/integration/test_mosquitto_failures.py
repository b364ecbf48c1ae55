"""What a broker takes with it that is killed, stopped or frozen, and a service that is: nothing, in the end."""

import asyncio
import contextlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from detector.alerts.clock import Clock
from detector.alerts.courier import DeliverySettings
from detector.alerts.delivery import Delivery
from detector.alerts.mqtt import MqttSink
from detector.alerts.sink import Receipt
from detector.store.database import Database
from detector.store.outbox import Outbox
from detector.store.retained import RetainedTopics
from tests.fixtures_brokers import (
    ExampleBroker,
    Mosquitto,
    alert,
    example_settings,
    listening,
    notice,
)
from tests.slack import SLACK_SECONDS
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.needs_mosquitto]

Make = Callable[..., Mosquitto]


async def test_killed_broker_brings_everything_back(example_broker: ExampleBroker, tmp_path: Path) -> None:
    """After kill -9 and a restart: state and will stand again by themselves, and a new alert is accepted."""
    async with MqttSink(example_settings(example_broker, tmp_path)) as sink:
        sink.set_health({"ok": True})
        sink.set_status("S1", {"state": "live"})
        await sink.wait_ready()
        example_broker.stop()
        await until(sink.problems)
        assert not sink.is_connected
        example_broker.start()
        await until(lambda: sink.is_connected)
        async with listening(example_broker.port, **example_broker.login("consumer")) as ear:
            await until(lambda: len(ear.messages) == 3)
            assert sorted(ear.of("")) == sorted(["online", '{"ok":true}', '{"state":"live"}'])
            assert await sink.deliver(notice()) is Receipt.ACCEPTED
    assert sink.counters.connects_total == 2


async def test_stopped_broker_keeps_what_it_had(example_broker: ExampleBroker, tmp_path: Path) -> None:
    """A service that left says `stopped`; it and the last state outlive a restart of the broker."""
    async with MqttSink(example_settings(example_broker, tmp_path)) as sink:
        sink.set_status("S1", {"state": "live"})
        await sink.wait_ready()
        await _until_retained(example_broker, {"stopframe/stream/S1/status"})
    await _retained(example_broker)  # before it serves another one it has read the goodbye, and sends no last will
    await asyncio.to_thread(example_broker.end)
    example_broker.start()
    async with listening(example_broker.port, **example_broker.login("consumer")) as ear:
        await until(lambda: len(ear.messages) == 2)
    assert (ear.of("/available"), ear.of("/status")) == (["stopped"], ['{"state":"live"}'])


async def test_frozen_broker_over_tls_fails_in_time_and_thaws(example_broker: ExampleBroker, tmp_path: Path) -> None:
    """A frozen broker is a problem after the answer timeout; once it thaws the connection is back without a word."""
    async with MqttSink(example_settings(example_broker, tmp_path, answer_timeout_seconds=0.5)) as sink:
        await sink.wait_ready()
        example_broker.signal(signal.SIGSTOP)
        sink.set_health({"ok": True})
        started_at = time.monotonic()
        await until(sink.problems)
        assert time.monotonic() - started_at < 2 + SLACK_SECONDS
        assert "stopped answering" in sink.problems()[0]
        example_broker.signal(signal.SIGCONT)
        await until(lambda: sink.is_connected)
        assert sink.problems() == []


async def test_frozen_service_is_offline_until_it_thaws(make_mosquitto: Make) -> None:
    """A service that neither speaks nor closes is declared `offline` by its last will, and `online` when it thaws."""
    broker = make_mosquitto()
    code = f"""
import asyncio
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
async def main():
    async with MqttSink(MqttSettings(host="127.0.0.1", port={broker.port}, node="n1", keepalive_seconds=1)) as sink:
        await asyncio.sleep(60)
asyncio.run(main())
"""
    async with listening(broker.port, "stopframe/n1/available") as ear:
        with _child(code) as child:
            await until(lambda: ear.of("")[-1:] == ["online"])
            child.send_signal(signal.SIGSTOP)
            while ear.of("")[-1:] != ["offline"]:
                await asyncio.sleep(0.05)
                child.send_signal(signal.SIGSTOP)  # whoever starves the processes of a test may have woken it
            child.send_signal(signal.SIGCONT)
            await until(lambda: ear.of("")[-1:] == ["online"])


@contextlib.contextmanager
def _child(code: str) -> Any:
    """A Python process of its own, killed at the end."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment, stdout=subprocess.DEVNULL) as child:
        try:
            yield child
        finally:
            child.kill()


async def test_no_alert_is_lost_while_the_broker_is_killed_at_random(
    example_broker: ExampleBroker, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Of 60 alerts sent while the broker is killed (-9) and restarted 6 times, the consumer gets every one."""
    rng = random.Random(20_260_801)
    delivery_settings = DeliverySettings(backoff_first_seconds=0.05, backoff_limit_seconds=0.2)
    sent: list[str] = []
    async with (
        _persistent_consumer(example_broker) as heard,
        Database.open(tmp_path / "s.db") as database,
        MqttSink(example_settings(example_broker, tmp_path)) as sink,
        Delivery(Outbox(database), [sink], settings=delivery_settings) as delivery,
    ):
        for _ in range(6):
            kill_after = rng.randrange(10)
            for number in range(10):
                sent.append((await delivery.submit(alert(number))).alert_id)
                await asyncio.sleep(rng.uniform(0, 0.03))
                if number == kill_after:
                    example_broker.stop()
                    await asyncio.sleep(rng.uniform(0, 0.15))
                    example_broker.start()
        assert await delivery.drain(10) == 0
        await until(lambda: set(heard) >= set(sent), 10)
        assert await Outbox(database).counts("mqtt") == {"acked": len(sent)}

    repeats = len(heard) - len(set(heard))
    assert set(heard) == set(sent)
    assert repeats <= len(sent) // 2, "repeats come only from answers that a kill swallowed"
    record_property("figures", f"{len(sent)} alerts, 6 kills, {repeats} repeats, 0 lost")


@contextlib.asynccontextmanager
async def _persistent_consumer(broker: ExampleBroker) -> AsyncIterator[list[str]]:
    """A consumer as the docs want it: its own identifier, a session that outlives connections, acks after handling."""
    heard: list[str] = []
    is_ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="consumer-1", protocol=paho.MQTTv5, manual_ack=True)
    client.tls_set_context(ssl.create_default_context(cafile=broker.authority.certificate))
    client.username_pw_set("consumer", broker.users["consumer"])
    client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]  # seconds, and fractions work

    def connected(client: paho.Client, *_: Any) -> None:
        client.subscribe("stopframe/stream/+/alert", qos=1)

    def received(client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        heard.append(json.loads(message.payload)["alert_id"])
        client.ack(message.mid, message.qos)

    client.on_connect, client.on_message = connected, received
    client.on_subscribe = lambda *_: is_ready.set()
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    session.SessionExpiryInterval = 3600
    client.connect("127.0.0.1", broker.port, clean_start=False, properties=session)
    client.loop_start()
    try:
        assert await asyncio.to_thread(is_ready.wait, 5)
        yield heard
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def test_ended_streams_are_gone_after_retain_ended_and_not_before(
    example_broker: ExampleBroker, tmp_path: Path
) -> None:
    """50 ended streams stand for `retain_ended` (an hour) and no longer."""
    gone_by = [0.0]
    settings = example_settings(example_broker, tmp_path, retain_ended_seconds=3600.0)
    async with Database.open(tmp_path / "s.db") as database:
        retained = RetainedTopics(database)
        clock = Clock(monotonic=lambda: time.monotonic() + gone_by[0])
        async with MqttSink(settings, retained=retained, clock=clock) as sink:
            all_topics = {f"stopframe/stream/S{number}/status" for number in range(50)}
            for number in range(50):
                sink.set_status(f"S{number}", {"state": "ended"})
                sink.end_stream(f"S{number}")
            for seconds, standing in ((0.0, all_topics), (3500.0, all_topics), (3601.0, set())):
                gone_by[0] = seconds
                sink.set_health({"after": seconds})  # it looks what is due whenever something is to be said
                await _until_retained(example_broker, standing)
            assert await retained.all() == []


async def test_what_a_killed_service_left_is_cleared_at_the_next_start(
    example_broker: ExampleBroker, tmp_path: Path
) -> None:
    """Statuses of a service that was killed (-9) leave the broker when it starts again, though nothing ended them."""
    config = example_broker.service_config(tmp_path / "state")
    code = f"""
import asyncio
from pathlib import Path
from detector.alerts.mqtt import MqttSink
from detector.alerts.setup import mqtt_settings
from detector.config.loading import load_config
from detector.store.database import Database
from detector.store.retained import RetainedTopics
async def main():
    settings = mqtt_settings(load_config({str(config)!r}))
    async with Database.open(Path({str(tmp_path / "s.db")!r})) as db:
        async with MqttSink(settings, retained=RetainedTopics(db)) as sink:
            for number in range(20):
                sink.set_status(f"S{{number}}", {{"state": "live"}})
            await asyncio.sleep(60)
asyncio.run(main())
"""
    with _child(code):
        await _until_retained(example_broker, {f"stopframe/stream/S{number}/status" for number in range(20)})

    async with Database.open(tmp_path / "s.db") as database:
        retained = RetainedTopics(database)
        async with MqttSink(example_settings(example_broker, tmp_path), retained=retained) as sink:
            sink.set_status("S7", {"state": "live"})
            await sink.wait_ready()
            await _until_retained(example_broker, {"stopframe/stream/S7/status"})
            assert len(await retained.all()) == 1


async def _until_retained(broker: ExampleBroker, topics: set[str]) -> None:
    """Return when these are the status topics that a new subscriber finds."""
    async with asyncio.timeout(30):
        while await _retained(broker) != topics:
            pass


async def _retained(broker: ExampleBroker) -> set[str]:
    """The status topics that a new subscriber finds; nothing says which is the last one."""
    async with listening(broker.port, "stopframe/stream/+/status", **broker.login("consumer")) as ear:
        await asyncio.sleep(0.3)
        return {message.topic.value for message in ear.messages if message.payload}
