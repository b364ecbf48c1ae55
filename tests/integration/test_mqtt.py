"""The MQTT sink against real brokers: the embedded one, and mosquitto where MQTT 5 or a broker's moods matter."""

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from benchmarks.ports import free_port
from detector.alerts.courier import DeliverySettings
from detector.alerts.delivery import Delivery
from detector.alerts.embedded_broker import BrokerUnavailable, EmbeddedBroker
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.sink import Receipt, SinkUnavailable
from detector.store.database import Database
from detector.store.outbox import Outbox
from detector.store.retained import RetainedTopics
from tests.fixtures_brokers import Ear, Mosquitto, alert, listening, notice
from tests.slack import SLACK_SECONDS
from tests.waiting import until

pytestmark = pytest.mark.integration


def _settings(port: int, **changes: Any) -> MqttSettings:
    values: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "node": "n1",
        "answer_timeout_seconds": 5.0,
        "reconnect_first_seconds": 0.05,
        "reconnect_limit_seconds": 0.2,
    }
    return MqttSettings(**(values | changes))


# ---- the embedded broker: MQTT 3.1.1


async def test_state_comes_before_online_and_stopped_comes_last() -> None:
    """On connect the retained state is sent first, then `online`; a clean end says `stopped`."""
    async with EmbeddedBroker() as broker, listening(broker.port) as ear:
        async with MqttSink(_settings(broker.port)) as sink:
            sink.set_health({"ok": True})
            sink.set_status("S1", {"state": "live"})
            await until(lambda: ear.of("/available"))
            assert (sink.protocol, len(sink.notes()), sink.problems()) == ("3.1.1", 1, [])
        await until(lambda: len(ear.of("/available")) == 2)

    assert [m.topic.value for m in ear.messages] == [
        "stopframe/n1/health",
        "stopframe/stream/S1/status",
        "stopframe/n1/available",
        "stopframe/n1/available",
    ]
    assert ear.of("/available") == ["online", "stopped"]


async def test_lost_connection_leaves_offline_and_comes_back_by_itself() -> None:
    """When the connection breaks the broker says `offline`; the sink returns at once with its state, then `online`."""
    async with EmbeddedBroker() as broker, listening(broker.port) as ear, MqttSink(_settings(broker.port)) as sink:
        sink.set_health({"ok": True})
        await until(lambda: ear.of("/available") == ["online"])
        assert sink._link is not None
        sink._link._paho.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        await until(lambda: ear.of("/available") == ["online", "offline", "online"])

        assert ear.of("/health") == ['{"ok":true}'] * 2
        assert sink.counters.connects_total == 2
        assert await sink.deliver(notice()) is Receipt.ACCEPTED


async def test_outage_is_logged_once_and_its_end_once() -> None:
    """However often connecting fails, the log has one line for the outage and one for its end; errors are counted."""
    port = free_port()
    with capture_logs() as logs:
        async with MqttSink(_settings(port)) as sink:
            await until(lambda: sink.counters.connection_errors_total >= 4)
            (problem,) = sink.problems()
            async with EmbeddedBroker(port=port):
                await until(lambda: sink.is_connected)
                assert sink.problems() == []
                events = [entry["event"] for entry in logs]

    assert f"127.0.0.1:{port}" in problem
    assert events == ["mqtt.disconnected", "mqtt.connected"]


async def test_ended_streams_leave_the_broker(tmp_path: Path) -> None:
    """An ended stream's status stands for a while, then it is cleared; what a killed run left is cleared at start."""
    async with Database.open(tmp_path / "s.db") as database, EmbeddedBroker() as broker:
        retained = RetainedTopics(database)
        async with MqttSink(_settings(broker.port, retain_ended_seconds=0.2), retained=retained) as sink:
            for stream in ("ENDED", "BACK", "LEFT"):
                sink.set_status(stream, {"state": "live"})
            await until(lambda: sink.is_connected)
            for stream in ("ENDED", "BACK"):
                sink.end_stream(stream)
            sink.set_status("BACK", {"state": "live", "again": 1})
            async with asyncio.timeout(30):
                while [topic.split("/")[2] for topic in await retained.all()] != ["BACK", "LEFT"]:
                    await asyncio.sleep(0.02)

        async with MqttSink(_settings(broker.port), retained=retained) as sink, listening(broker.port) as ear:
            sink.set_status("BACK", {"state": "live"})
            await until(lambda: ear.of("/available")[-1:] == ["online"])
            for _ in range(500):
                if len(await retained.all()) == 1:
                    break
                await asyncio.sleep(0.01)
        async with listening(broker.port) as late:
            await until(lambda: late.of("n1/available") and late.of("BACK/status"))

    assert {m.topic.value for m in late.messages if "status" in m.topic.value} == {"stopframe/stream/BACK/status"}


async def test_coverage_is_sent_or_counted() -> None:
    """Coverage goes out while there is a connection, and is dropped and counted while there is none."""
    async with EmbeddedBroker() as broker, listening(broker.port) as ear:
        sink = MqttSink(_settings(broker.port))
        sink.send_coverage("S1", {"seen_s": 1})
        async with sink:
            await sink.wait_ready()
            sink.send_coverage("S1", {"seen_s": 2})
            await until(lambda: ear.of("/coverage"))

    assert (ear.of("/coverage"), sink.counters.coverage_dropped_total) == (['{"seen_s":2}'], 1)


async def test_port_that_is_taken_has_a_remedy() -> None:
    """A second broker on the same port fails with one sentence that says what to do, and leaves the first alone."""
    async with EmbeddedBroker() as broker:
        with pytest.raises(BrokerUnavailable, match="is taken: end what listens there"):
            await EmbeddedBroker(port=broker.port).__aenter__()
        async with MqttSink(_settings(broker.port)) as sink:
            await until(lambda: sink.is_connected)


def test_embedded_broker_stays_on_this_machine() -> None:
    """The broker without passwords refuses any address but loopback."""
    with pytest.raises(ValueError, match="loopback only"):
        EmbeddedBroker("0.0.0.0")


@pytest.mark.parametrize(
    "changes", [{"prefix": "a/#"}, {"node": "+"}, {"node": ""}, {"prefix": "/x"}, {"prefix": "$S"}]
)
def test_names_that_are_no_topics_are_refused(changes: dict[str, str]) -> None:
    """A prefix or node that would make other topics than promised is refused by name."""
    with pytest.raises(ValueError, match="is no topic name"):
        _settings(1, **changes)


async def test_unreadable_password_is_a_problem() -> None:
    """A password file that cannot be read is reported in a sentence; the sink goes on trying."""

    def missing() -> str:
        raise FileNotFoundError(2, "No such file or directory", "/secret/place")

    async with MqttSink(_settings(1, username="u", password=missing)) as sink:
        await until(lambda: sink.counters.connection_errors_total >= 2)
        (problem,) = sink.problems()

    assert "the password cannot be read" in problem
    assert "/secret/place" not in problem


# ---- mosquitto: MQTT 5


@pytest.mark.needs_mosquitto
async def test_nobody_listening_is_told_and_ends_when_somebody_does(make_mosquitto: Callable[..., Mosquitto]) -> None:
    """Without a subscriber the alert is not accepted and health says so; with one it is, expiry and type included."""
    broker = make_mosquitto()
    async with MqttSink(_settings(broker.port)) as sink:
        await sink.wait_ready()
        assert sink.protocol == "5"
        assert await sink.deliver(notice()) is Receipt.NOBODY_LISTENS
        assert ["nobody subscribes" in problem for problem in sink.problems()] == [True]

        async with listening(broker.port, "stopframe/stream/+/alert", five=True) as ear:
            assert await sink.deliver(notice(expires_in_ms=9_500)) is Receipt.ACCEPTED
            await until(lambda: ear.messages)
        assert (sink.problems(), sink.notes()) == ([], [])

    (message,) = ear.messages
    properties: Any = message.properties
    assert properties.ContentType == "application/json"
    assert properties.MessageExpiryInterval in {9, 10}


@pytest.mark.needs_mosquitto
async def test_denied_topics_are_problems_until_allowed(
    make_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """What the broker's ACL denies is not accepted and turns health red, by topic; allowing it ends that."""
    acl = tmp_path / "acl"
    acl.write_text("topic write stopframe/n1/#\n")
    broker = make_mosquitto("allow_anonymous true", f"acl_file {acl}")
    async with MqttSink(_settings(broker.port)) as sink:
        sink.set_status("S1", {"state": "live"})
        await sink.wait_ready()
        assert await sink.deliver(notice()) is Receipt.NOT_AUTHORIZED
        await until(lambda: len(sink.problems()) == 2)
        assert [p.split(":")[0].rsplit(" ", 1)[-1] for p in sink.problems()] == ["alert", "status"]

        acl.write_text("topic readwrite #\n")
        broker.signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            while (receipt := await sink.deliver(notice())) is Receipt.NOT_AUTHORIZED:
                await asyncio.sleep(0.05)
        assert receipt is Receipt.NOBODY_LISTENS
        sink.set_status("S1", {"state": "stalled"})
        await until(lambda: not any("denies" in problem for problem in sink.problems()))


@pytest.mark.needs_mosquitto
async def test_refused_login_never_shows_the_password(make_mosquitto: Callable[..., Mosquitto]) -> None:
    """A broker that does not let us in is a problem with its reason; the password is in no log and no problem."""
    broker = make_mosquitto("allow_anonymous false")
    with capture_logs() as logs:
        async with MqttSink(_settings(broker.port, username="node", password=lambda: "hunter2")) as sink:
            await until(sink.problems)
            (problem,) = sink.problems()

    assert "Not authorized" in problem
    assert "hunter2" not in problem + str(logs) + repr(_settings(1, password=lambda: "hunter2"))


@pytest.mark.needs_mosquitto
async def test_frozen_broker_is_noticed_in_time_and_used_again(make_mosquitto: Callable[..., Mosquitto]) -> None:
    """A broker that takes bytes and answers nothing fails the delivery in time; once it thaws, alerts are accepted."""
    broker = make_mosquitto()
    async with (
        listening(broker.port, "stopframe/stream/+/alert") as ear,
        MqttSink(_settings(broker.port, answer_timeout_seconds=0.5)) as sink,
    ):
        await sink.wait_ready()
        broker.signal(signal.SIGSTOP)
        started_at = time.monotonic()
        with pytest.raises(SinkUnavailable):
            await sink.deliver(notice())
        assert time.monotonic() - started_at < 2 + SLACK_SECONDS
        await until(sink.problems)
        await asyncio.sleep(0.7)
        sink._settings = _settings(broker.port)  # from here on nothing is to be taken for frozen

        broker.signal(signal.SIGCONT)
        await until(lambda: sink.is_connected)
        assert await sink.deliver(notice(2)) is Receipt.ACCEPTED
        await until(lambda: '{"alert_id": "id-2"}' in ear.of("/alert"))
        assert sink.protocol == "5"
        assert sink.problems() == []


@pytest.mark.needs_mosquitto
async def test_frozen_broker_does_not_hold_up_the_end(make_mosquitto: Callable[..., Mosquitto]) -> None:
    """Leaving takes a second or two even if the broker does not answer any more."""
    broker = make_mosquitto()
    async with MqttSink(_settings(broker.port, answer_timeout_seconds=30)) as sink:
        await sink.wait_ready()
        broker.signal(signal.SIGSTOP)
        started_at = time.monotonic()

    assert time.monotonic() - started_at < 3 + SLACK_SECONDS


@pytest.mark.needs_mosquitto
async def test_broker_frozen_and_killed_under_load_loses_nothing(
    make_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """While alerts flow the broker is frozen, then killed and started anew: every id arrives, with its own bytes."""
    broker = make_mosquitto("allow_anonymous true", "persistence true", f"persistence_location {tmp_path}/")
    settings = _settings(broker.port, answer_timeout_seconds=0.4)
    quick = DeliverySettings(backoff_first_seconds=0.05, backoff_limit_seconds=0.2)
    ears: list[Ear] = []
    async with (
        Database.open(tmp_path / "s.db") as database,
        MqttSink(settings) as sink,
        Delivery(Outbox(database), [sink], settings=quick) as delivery,
    ):
        async with listening(broker.port, "stopframe/stream/+/alert") as ear:
            ears.append(ear)
            sent = [(await delivery.submit(alert(n))).alert_id for n in range(10)]
            broker.signal(signal.SIGSTOP)
            sent += [(await delivery.submit(alert(n))).alert_id for n in range(10)]
            await asyncio.sleep(0.8)
            broker.signal(signal.SIGCONT)
            await until(lambda: len(set(ear.ids())) == 20)
            await delivery.drain(5)
        broker.stop()
        sink._settings = _settings(broker.port)  # from here on nothing is to be taken for frozen
        sent += [(await delivery.submit(alert(n))).alert_id for n in range(10)]
        broker.start()
        async with listening(broker.port, "stopframe/stream/+/alert") as ear:
            ears.append(ear)
            await until(lambda: len(set(ear.ids())) == 10)
            assert await delivery.drain(5) == 0
        assert (await Outbox(database).counts("mqtt"), delivery.problems()) == ({"acked": 30}, [])

    assert {alert_id for ear in ears for alert_id in ear.ids()} == set(sent)
    assert sorted(ears[1].ids()) == sorted(sent[20:]), "after the restart each comes once"


@pytest.mark.needs_mosquitto
async def test_killed_node_is_offline(make_mosquitto: Callable[..., Mosquitto]) -> None:
    """A late subscriber finds `offline` retained where the node's connection just vanished."""
    broker = make_mosquitto()
    sink = MqttSink(_settings(broker.port, reconnect_first_seconds=60, reconnect_limit_seconds=60))
    async with listening(broker.port) as ear, sink:
        await until(lambda: ear.of("/available") == ["online"])
        broker_side = sink._link
        assert broker_side is not None
        sink._is_version_known = True
        sink._settings = _settings(1, reconnect_first_seconds=60, reconnect_limit_seconds=60)  # nowhere to return to
        broker_side._paho.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        await until(lambda: ear.of("/available") == ["online", "offline"])
        async with listening(broker.port) as late:
            await until(lambda: late.of("/available"))
            assert late.of("/available") == ["offline"]


@pytest.mark.needs_mosquitto
async def test_denied_clearing_is_tried_again_at_the_next_start(
    make_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """A status that the broker does not let us clear stays noted, and goes once it lets us."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite stopframe/n1/#\n")
    broker = make_mosquitto("allow_anonymous true", f"acl_file {acl}")
    async with Database.open(tmp_path / "s.db") as database:
        retained = RetainedTopics(database)
        await retained.remember("stopframe/stream/OLD/status")
        async with MqttSink(_settings(broker.port), retained=retained) as sink:
            await until(lambda: any("denies publishing status" in problem for problem in sink.problems()))
        assert await retained.all() == ["stopframe/stream/OLD/status"]

        acl.write_text("topic readwrite #\n")
        broker.signal(signal.SIGHUP)
        await asyncio.sleep(0.3)
        async with MqttSink(_settings(broker.port), retained=retained):
            for _ in range(200):
                if not await retained.all():
                    break
                await asyncio.sleep(0.02)
        assert await retained.all() == []


@pytest.mark.needs_mosquitto
async def test_leaving_at_once_still_ends_with_stopped(make_mosquitto: Callable[..., Mosquitto]) -> None:
    """However soon after connecting the service leaves, the last word on `available` is `stopped`."""
    broker = make_mosquitto()
    async with listening(broker.port, "stopframe/n1/available") as ear:
        for _ in range(10):
            async with MqttSink(_settings(broker.port)) as sink:
                for number in range(20):
                    sink.set_status(f"S{number}", {"state": "live"})
                await sink.wait_ready()
            await until(lambda: ear.of("/available")[-1:] == ["stopped"])
            await asyncio.sleep(0.05)
            assert ear.of("/available")[-1:] == ["stopped"], "and nothing comes after it"
