"""The shipped mosquitto example, run as it is: who may do what, what each failure looks like, what a crash takes."""

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
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from structlog.testing import capture_logs

from detector.alerts.clock import Clock
from detector.alerts.courier import DeliverySettings
from detector.alerts.delivery import Delivery
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.setup import mqtt_settings
from detector.alerts.sink import Receipt
from detector.config.loading import check_files, load_config
from detector.store.database import Database
from detector.store.outbox import Outbox
from detector.store.retained import RetainedTopics
from tests.fixtures_brokers import EXAMPLE, Authority, ExampleBroker, Mosquitto, alert, listening, notice
from tests.slack import SLACK_SECONDS
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.needs_mosquitto]

Make = Callable[..., Mosquitto]

ALERTS = "stopframe/stream/+/alert"
_QUICK: dict[str, Any] = {
    "answer_timeout_seconds": 5.0,
    "reconnect_first_seconds": 0.05,
    "reconnect_limit_seconds": 0.2,
}


def _settings(broker: ExampleBroker, tmp_path: Path, **changes: Any) -> MqttSettings:
    """What the service makes of the example's config, with shorter waits."""
    config = load_config(broker.service_config(tmp_path / "state"))
    return replace(mqtt_settings(config), **{**_QUICK, **changes})


async def _problem(settings: MqttSettings) -> tuple[str, int, list[str]]:
    """The problem that a sink reports, how many tries it has counted by then, and the log events."""
    with capture_logs() as logs:
        async with MqttSink(settings) as sink:
            await until(lambda: sink.counters.connection_errors_total >= 3)
            (problem,) = sink.problems()
            errors = sink.counters.connection_errors_total
    assert "service-pw" not in str(logs) + problem
    return problem, errors, [entry["event"] for entry in logs]


# ---- the example: who may do what


def test_the_examples_config_has_no_fault() -> None:
    """`stopframe check` finds nothing in the shipped file as it stands."""
    assert check_files([EXAMPLE / "stopframe.yaml"]) == []


async def test_alerts_reach_the_consumer_over_tls_with_a_password_from_a_file(
    example_broker: ExampleBroker, tmp_path: Path
) -> None:
    """The example's service and its consumer meet at the example's broker; nothing is denied, nothing is a problem."""
    async with listening(example_broker.port, five=True, **example_broker.login("consumer")) as ear:
        async with MqttSink(_settings(example_broker, tmp_path)) as sink:
            sink.set_health({"ok": True})
            sink.set_status("S1", {"state": "live"})
            await sink.wait_ready()
            sink.send_coverage("S1", {"seen_s": 1})
            assert await sink.deliver(notice()) is Receipt.ACCEPTED
            await until(lambda: ear.of("/available") == ["online"])
            assert (sink.problems(), sink.notes(), sink.protocol) == ([], [], "5")
        await until(lambda: ear.of("/available")[-1] == "stopped")

    kinds = Counter(message.topic.value.rsplit("/", 1)[-1] for message in ear.messages)
    assert kinds == {"available": 2, "health": 1, "status": 1, "coverage": 1, "alert": 1}


async def test_password_from_the_environment_reaches_the_broker(example_broker: ExampleBroker, tmp_path: Path) -> None:
    """`${NAME}` in the file is what the broker gets as the password."""
    path = example_broker.service_config(tmp_path / "state")
    text = path.read_text()
    path.write_text(text.replace(f"{{file: {example_broker.folder}/mqtt-password}}", '"${MQTT_PASSWORD}"'))
    config = load_config(path, environment={"MQTT_PASSWORD": "service-pw"})
    async with MqttSink(replace(mqtt_settings(config), **_QUICK)) as sink:
        await asyncio.wait_for(sink.wait_ready(), 30)
        assert sink.problems() == []


async def test_acl_lets_each_user_do_its_part_and_no_more(example_broker: ExampleBroker) -> None:
    """The service writes exactly its topics, the consumer nothing, a cutter acks, an operator commands one node."""
    own = ("available", "health", "selftest", "answer")
    tried = [
        *(f"stopframe/ingest-1/{kind}" for kind in own),
        *(f"stopframe/stream/S/{kind}" for kind in ("alert", "status", "coverage", "ack")),
        "stopframe/other/available",
        *(f"stopframe/cmd/{node}/cut" for node in ("ingest-1", "ingest-2")),
        "stopframe/cmd/ingest-1/else",
        "elsewhere",
    ]
    allowed = {
        user: {topic for topic in tried if _may_publish(example_broker, user, topic)} for user in example_broker.users
    }
    assert allowed == {
        "stopframe": {f"stopframe/ingest-1/{kind}" for kind in own}
        | {f"stopframe/stream/S/{kind}" for kind in ("alert", "status", "coverage")},
        "cutter": {"stopframe/stream/S/ack"},
        "operator": {"stopframe/cmd/ingest-1/cut"},
        "consumer": set(),
        "stranger": set(),
    }


def _may_publish(broker: ExampleBroker, user: str, topic: str) -> bool:
    """Whether the broker takes a message: MQTT 5 says so in the PUBACK, which mosquitto_pub prints."""
    done = subprocess.run(
        _client_command(broker, "mosquitto_pub", user, topic, "-m", "x"), capture_output=True, check=False
    )
    return b"Not authorized" not in done.stdout + done.stderr


def _client_command(broker: ExampleBroker, program: str, user: str, topic: str, *more: str) -> list[str]:
    login = ["--cafile", str(broker.authority.certificate), "-u", user, "-P", broker.users[user]]
    return [program, *login, "-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5", "-q", "1", "-t", topic, *more]


async def test_denied_subscription_looks_granted_and_the_documented_test_finds_it(
    example_broker: ExampleBroker, tmp_path: Path
) -> None:
    """The broker grants a subscription that the ACL denies and calls the alert accepted: nobody can see it there.

    What does see it is the README's message along the alerts' way.
    """
    version = aiomqtt.ProtocolVersion.V5
    login = example_broker.login("stranger")
    async with (
        aiomqtt.Client("127.0.0.1", example_broker.port, protocol=version, **login) as stranger,
        MqttSink(_settings(example_broker, tmp_path)) as sink,
    ):
        (code,) = await stranger.subscribe(ALERTS, qos=1)
        assert str(code) == "Granted QoS 1"
        await sink.wait_ready()
        assert await sink.deliver(notice()) is Receipt.ACCEPTED

        assert await asyncio.gather(*(_hears(example_broker, user) for user in ("stranger", "consumer"))) == [27, 0]
    await asyncio.sleep(0)
    assert stranger._queue.qsize() == 0


async def _hears(broker: ExampleBroker, user: str) -> int:
    """Exit status of the README's mosquitto_sub while its mosquitto_pub runs."""
    listener = await asyncio.create_subprocess_exec(
        *_client_command(broker, "mosquitto_sub", user, ALERTS, "-C", "1", "-W", "2"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    send = _client_command(broker, "mosquitto_pub", "stopframe", "stopframe/stream/acl-test/alert", "-m", "{}")
    while listener.returncode is None:
        await asyncio.to_thread(subprocess.run, send, capture_output=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(listener.wait(), 0.3)
    return listener.returncode


# ---- what cannot be used is said in one sentence, counted, and logged once


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": lambda: "service-pw-wrong"}, "correct alerts.mqtt.username and password"),
        ({"ca_file": None}, "name the one that does under alerts.mqtt.ca_file"),
        ({"host": "localhost"}, "its certificate is not for localhost; write the name that it is for"),
        ({"tls": False}, "or write mqtts://"),
        ({"ca_file": "/nowhere/ca.crt"}, "/nowhere/ca.crt: no such file or directory; name a readable PEM file"),
        ({"port": 1}, "nothing listens there; start the broker"),
    ],
    ids=["password", "unknown authority", "other host", "no TLS", "no file", "no broker"],
)
async def test_broker_that_cannot_be_used_is_one_sentence(
    example_broker: ExampleBroker, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Health says why and what to do, each try is counted, the log has one line, and the password is in none."""
    problem, errors, events = await _problem(_settings(example_broker, tmp_path, **changes))
    assert words in problem
    assert "\n" not in problem
    assert errors >= 3
    assert events == ["mqtt.disconnected"]


async def test_expired_certificate_is_one_sentence(make_mosquitto: Make, tmp_path: Path) -> None:
    """A certificate that ran out yesterday is named as such."""
    authority = Authority.make(tmp_path)
    certificate, key = authority.sign("broker", days=-1)
    broker = make_mosquitto("allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    problem, _, events = await _problem(
        MqttSettings(
            host="127.0.0.1", port=broker.port, node="n1", tls=True, ca_file=str(authority.certificate), **_QUICK
        )
    )
    assert "its certificate has expired; renew it at the broker" in problem
    assert events == ["mqtt.disconnected"]


async def test_client_certificate_lets_in_and_its_lack_is_told(make_mosquitto: Make, tmp_path: Path) -> None:
    """A broker that asks for certificates takes ours; without one health points at the option."""
    authority = Authority.make(tmp_path)
    certificate, key = authority.sign("broker")
    demands = (f"cafile {authority.certificate}", "require_certificate true")
    broker = make_mosquitto("allow_anonymous true", f"certfile {certificate}", f"keyfile {key}", *demands)
    settings = MqttSettings(
        host="127.0.0.1", port=broker.port, node="n1", tls=True, ca_file=str(authority.certificate), **_QUICK
    )
    problem, _, _ = await _problem(settings)
    assert "alerts.mqtt.certificate_file" in problem

    ours, our_key = authority.sign("service")
    async with MqttSink(replace(settings, certificate_file=str(ours), key_file=str(our_key))) as sink:
        await asyncio.wait_for(sink.wait_ready(), 30)
        assert sink.problems() == []

    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "ec", "-in", str(our_key), "-aes128", "-passout", "pass:abcdef", "-out", str(encrypted)]
    subprocess.run(command, check=True, capture_output=True)
    problem, _, _ = await _problem(replace(settings, certificate_file=str(ours), key_file=str(encrypted)))
    assert "its key not encrypted" in problem


async def test_two_services_with_one_node_name_are_told(make_mosquitto: Make) -> None:
    """Two connections with one identifier end each other: slowly, said in health, and not once a second in the log."""
    settings = MqttSettings(host="127.0.0.1", port=make_mosquitto().port, node="n1", **_QUICK)
    with capture_logs() as logs:
        async with MqttSink(settings) as one, MqttSink(settings) as two:
            await until(lambda: all("node name of its own" in str(sink.problems()) for sink in (one, two)))
            before = len(logs)
            await asyncio.sleep(1)
            assert len(logs) == before
    assert [entry["event"] for entry in logs].count("mqtt.flickering") == 2


# ---- what each failure of the broker does


async def test_killed_broker_brings_everything_back(example_broker: ExampleBroker, tmp_path: Path) -> None:
    """After kill -9 and a restart: state and will stand again by themselves, and a new alert is accepted."""
    async with MqttSink(_settings(example_broker, tmp_path)) as sink:
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
    async with MqttSink(_settings(example_broker, tmp_path)) as sink:
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
    async with MqttSink(_settings(example_broker, tmp_path, answer_timeout_seconds=0.5)) as sink:
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
            await until(lambda: ear.of("")[-1:] == ["offline"])
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


# ---- no alert is lost while the broker is killed at random


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
        MqttSink(_settings(example_broker, tmp_path)) as sink,
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
        client.subscribe(ALERTS, qos=1)

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


# ---- retained topics


async def test_ended_streams_are_gone_after_retain_ended_and_not_before(
    example_broker: ExampleBroker, tmp_path: Path
) -> None:
    """50 ended streams stand for `retain_ended` (an hour) and no longer."""
    gone_by = [0.0]
    settings = _settings(example_broker, tmp_path, retain_ended_seconds=3600.0)
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
        async with MqttSink(_settings(example_broker, tmp_path), retained=retained) as sink:
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


async def test_long_messages_never_make_the_service_deaf(make_mosquitto: Callable[..., Mosquitto]) -> None:
    """Whoever may write to us may send long messages in between: what others send still arrives.

    mosquitto 2.0.11 sends nothing more to a client that it withheld twenty packets from for their length.
    """
    broker = make_mosquitto("allow_anonymous true")
    sink = MqttSink(MqttSettings(host="127.0.0.1", port=broker.port, node="n"))
    lengths: list[int] = []
    sink.listen("to/us", lambda received: lengths.append(len(received.payload)))
    async with sink, aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await sink.wait_ready()
        while not lengths:  # the subscription follows the connection
            await client.publish("to/us", b"?", qos=1)
        for number in range(1, 41):
            await asyncio.gather(
                client.publish("to/us", b"y" * 100_000, qos=1),
                *(client.publish("to/us", b"xx", qos=1) for _ in range(20)),
            )
            counts = (20 * number, number)  # what waits unread is bounded: no more is sent before all of it was heard
            await until(lambda counts=counts: (lengths.count(2), lengths.count(100_000)) == counts)  # type: ignore[misc]
