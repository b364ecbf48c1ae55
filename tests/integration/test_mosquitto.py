"""The shipped mosquitto example, run as it is: who may do what, and what each refusal looks like."""

import asyncio
import contextlib
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from structlog.testing import capture_logs

from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.setup import mqtt_settings
from detector.alerts.sink import Receipt
from detector.config.loading import check_files, load_config
from tests.fixtures_brokers import (
    EXAMPLE,
    QUICK_WAITS,
    Authority,
    ExampleBroker,
    Mosquitto,
    example_settings,
    listening,
    notice,
)
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.needs_mosquitto]

Make = Callable[..., Mosquitto]

ALERTS = "stopframe/stream/+/alert"


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
        async with MqttSink(example_settings(example_broker, tmp_path)) as sink:
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
    async with MqttSink(replace(mqtt_settings(config), **QUICK_WAITS)) as sink:
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
        MqttSink(example_settings(example_broker, tmp_path)) as sink,
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
    problem, errors, events = await _problem(example_settings(example_broker, tmp_path, **changes))
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
            host="127.0.0.1", port=broker.port, node="n1", tls=True, ca_file=str(authority.certificate), **QUICK_WAITS
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
        host="127.0.0.1", port=broker.port, node="n1", tls=True, ca_file=str(authority.certificate), **QUICK_WAITS
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
    # What lasts twice the longest wait for a connection is steady, also while the machine stands still.
    brief = QUICK_WAITS | {"reconnect_limit_seconds": 1.0}
    settings = MqttSettings(host="127.0.0.1", port=make_mosquitto().port, node="n1", **brief)
    with capture_logs() as logs:
        async with MqttSink(settings) as one, MqttSink(settings) as two:
            await until(lambda: all("node name of its own" in str(sink.problems()) for sink in (one, two)))
            before = len(logs)
            await asyncio.sleep(1)
            assert len(logs) == before
    assert [entry["event"] for entry in logs].count("mqtt.flickering") == 2


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
