"""Nobody is cut by a message that was forged or said before: not by a rival, not by a broker, not by a recording."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from detector.alerts.alert import uuid7
from detector.alerts.mqtt_inbox import Hear, Received
from detector.alerts.sink import Receipt
from detector.api.view import CutReport, HintReport, HintRequest, UndoReport
from detector.events import CutState
from detector.instants import rfc3339
from detector.metrics import Metrics
from detector.store.database import Database
from detector.trust.commands import CommandDesk, DeskParts
from detector.trust.distrust import Distrust
from detector.trust.messages import (
    Ack,
    AckState,
    Command,
    CommandName,
    build_ack,
    build_command,
    command_topic,
    read_ack,
    read_alert,
)
from detector.trust.replay import CommandNumbers, SeenAlerts
from detector.trust.signing import NodeSigner, NotTrusted, Purpose, Reason, Signer, TrustedKeys, parse
from tests.fixtures_brokers import ExampleBroker, listening
from tests.hostile.forgeries import forged
from tests.waiting import until

NOW = time.time_ns() // 1_000_000
STREAM, RIVAL = "A" * 26, "R" * 26
NODE, CUTTER, OPERATOR, OTHER_NODE, STRANGER = (Signer.of_seed(bytes([n]) * 32) for n in range(1, 6))
KEYS = TrustedKeys(
    [
        NODE.trusted_key(["alert"]),
        OTHER_NODE.trusted_key(["alert"]),
        CUTTER.trusted_key(["ack"]),
        OPERATOR.trusted_key(["command"]),
    ]
)


class Service:
    """Counts what it is told to do."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    async def cut(self, stream: str) -> CutReport:
        self.done.append(("cut", stream))
        return CutReport(stream, "incident", CutState.CONFIRMED, detail="rtmp://secret/live/key")

    async def undo(self, incident: str) -> UndoReport:
        self.done.append(("undo", incident))
        return UndoReport(incident, STREAM, is_restored=True)

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        self.done.append(("hint", stream))
        return HintReport(stream, hint.score, hint.lasts_seconds)

    def sample_closer(self, stream: str, detect_within_seconds: float, lasts_seconds: float) -> None:
        self.done.append(("sampling", stream))


class Line:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.filters: list[str] = []
        self.sent: list[tuple[str, bytes]] = []

    def listen(self, topic_filter: str, hear: Hear) -> None:
        self.filters.append(topic_filter)

    async def send(self, topic: str, payload: bytes, *, expires_in_seconds: int) -> Receipt:
        self.sent.append((topic, payload))
        return Receipt.ACCEPTED


class Scene:
    """A desk whose clock goes on a second with every message, so that nothing is refused for being too much."""

    def __init__(self, database: Database, *, is_frozen: bool = False, keys: TrustedKeys = KEYS) -> None:
        self.service, self.line, self.metrics = Service(), Line(), Metrics()
        self.distrust, self.keys = Distrust(self.metrics), keys
        self._ticks, self._is_frozen = 0, is_frozen
        parts = DeskParts(
            line=self.line,
            prefix="stopframe",
            signer=NodeSigner("n1", NODE),
            keys=lambda: self.keys,
            numbers=CommandNumbers(database),
            distrust=self.distrust,
            wall_ms=lambda: NOW,
        )
        self.desk = CommandDesk(self.service, parts, clock=self._clock)

    def _clock(self) -> float:
        self._ticks += not self._is_frozen
        return float(self._ticks)

    async def hear(self, payload: bytes, *, topic: str = "stopframe/cmd/n1/cut", is_retained: bool = False) -> None:
        settled = self.distrust.total + len(self.line.sent)
        self.desk.hear(Received(topic, payload, 0.0, is_retained))
        while self.distrust.total + len(self.line.sent) == settled:
            await asyncio.sleep(0)

    def refused(self, reason: Reason) -> float:
        return self.metrics.value("stopframe_untrusted_total", purpose="command", reason=reason.value)


def command(seq: int, *, stream: str = STREAM, signer: Signer = OPERATOR, **changes: Any) -> bytes:
    facts: dict[str, Any] = {"node": "n1", "command": CommandName.CUT, "arguments": {"stream": stream}, "seq": seq}
    facts |= {"issued_at_ms": NOW - 1000, "expires_at_ms": NOW + 30_000}
    return build_command(Command(**(facts | changes)), signer)


def alert(number: int, *, stream: str = STREAM, signer: Signer = NODE, life_ms: int = 600_000) -> dict[str, Any]:
    body = {"schema": "stopframe/alert/1", "alert_id": uuid7(NOW + number, os.urandom(10)), "stream": stream}
    body |= {"action": "cut", "mode": "live", "seq": number, "by": "x", "expires_at": rfc3339(NOW + life_ms)}
    return NodeSigner("n1", signer)(body)


async def test_a_thousand_forged_and_a_thousand_replayed_commands_do_nothing(tmp_path: Path) -> None:
    """None is acted on and none is answered; the genuine ones between them all are, each once."""
    async with Database.open(tmp_path / "s.db") as database:
        scene = Scene(database)
        async with scene.desk:
            genuine = [command(seq) for seq in range(1, 21)]
            fresh = json.loads(command(1000, stream=RIVAL))
            for number, (_, payload) in enumerate(forged(fresh, 1000, stranger=STRANGER)):
                await scene.hear(payload)
                if number % 50 == 49:
                    await scene.hear(genuine[number // 50])
            for number in range(1000):
                await scene.hear(genuine[number % len(genuine)])
            assert scene.service.done == [("cut", STREAM)] * 20
            assert len(scene.line.sent) == 20
            assert scene.refused(Reason.REPLAYED) == 1000
            assert scene.distrust.total == 2000
            assert not any(word in payload for _, payload in scene.line.sent for word in (b"A" * 26, b"secret", b"inc"))
            assert len(scene.distrust.notes()) == 1
            await scene.hear(_bytes(fresh))
            assert scene.service.done[-1] == ("cut", RIVAL), "what was forged would have been obeyed if it were genuine"


async def test_genuine_commands_in_the_wrong_place_or_time_do_nothing(tmp_path: Path) -> None:
    """Another node's, another topic's, retained, expired, of long life, from the future, by keys for other things."""
    refused = {
        Reason.OTHER_NODE: {"payload": command(1, node="n2")},
        Reason.OTHER_TOPIC: {"payload": command(1), "topic": "stopframe/cmd/n1/undo"},
        Reason.RETAINED: {"payload": command(1), "is_retained": True},
        Reason.EXPIRED: {"payload": command(1, issued_at_ms=NOW - 60_000, expires_at_ms=NOW - 1)},
        Reason.TOO_LONG_LIFE: {"payload": command(1, issued_at_ms=NOW + 60_000, expires_at_ms=NOW + 90_000)},
        Reason.NOT_ALLOWED: {"payload": command(1, signer=CUTTER)},
        Reason.WRONG_SCHEMA: {"payload": _bytes(OPERATOR.sign(alert(1)))},
        Reason.MALFORMED: {"payload": command(0)},
    }
    async with Database.open(tmp_path / "s.db") as database:
        scene = Scene(database)
        async with scene.desk:
            for message in refused.values():
                await scene.hear(**message)  # type: ignore[arg-type]
            await scene.hear(command(1, issued_at_ms=NOW - 1, expires_at_ms=NOW + 400_000))
            assert {reason: scene.refused(reason) for reason in refused} == dict.fromkeys(refused, 1.0) | {
                Reason.TOO_LONG_LIFE: 2.0
            }
            for arguments in ({}, {"stream": STREAM[:8]}, {"stream": STREAM, "x": 1}, {"stream": None}):
                await scene.hear(command(10 + len(scene.line.sent), arguments=arguments))
        assert scene.service.done == []
        results = [(json.loads(payload)["result"], json.loads(payload)["reason"]) for _, payload in scene.line.sent]
        assert results == [("refused", "arguments")] * 4


async def test_what_has_no_canonical_form_is_refused_and_ends_nobody(tmp_path: Path) -> None:
    """Halves of characters in names and texts, numbers beyond JSON's: who holds no key ends no desk with them."""
    genuine = command(1)
    odd = [
        '"\\ud800": 1',
        '"x": {"\\udfff": 1}',
        '"x": "\\ud800"',
        '"x": 1e999',
        '"x": -1e-999',
        '"x": 9007199254740993',
    ]
    async with Database.open(tmp_path / "s.db") as database:
        scene = Scene(database)
        async with scene.desk:
            for each in odd:
                await scene.hear(b"{" + each.encode() + b"," + genuine[1:])
            assert scene.distrust.total == len(odd)
            await scene.hear(genuine)
        assert scene.service.done == [("cut", STREAM)]


async def test_a_flood_is_bounded_and_without_a_key_nothing_is_heard(tmp_path: Path) -> None:
    """10,000 messages at once leave the queue short and cost no signature; a node that trusts nobody never listens."""
    async with Database.open(tmp_path / "s.db") as database:
        scene = Scene(database, is_frozen=True)
        async with scene.desk:
            for seq in range(1, 10_001):
                scene.desk.hear(Received("stopframe/cmd/n1/cut", command(seq) if seq < 3 else b"x" * 4000, 0.0))
            assert scene.desk._waiting.qsize() <= 64
            assert scene.refused(Reason.TOO_MANY) >= 9_900
            assert scene.line.filters == ["stopframe/cmd/n1/+"]
        deaf = Scene(database, keys=TrustedKeys([CUTTER.trusted_key(["ack"])]))
        async with deaf.desk:
            assert deaf.line.filters == []
            deaf.keys = KEYS  # as a reload of the config does
            deaf.desk.listen()
            assert deaf.line.filters == ["stopframe/cmd/n1/+"]


async def test_what_cannot_be_remembered_is_not_obeyed(tmp_path: Path) -> None:
    """While the disk takes no number nothing is done, and who commanded hears so; a fault of ours is told as one."""
    async with Database.open(tmp_path / "s.db") as database:
        scene = Scene(database)
    async with scene.desk:  # the database is closed
        await scene.hear(command(1))
        assert scene.service.done == []
    async with Database.open(tmp_path / "s.db") as database:
        faulty = Scene(database)
        faulty.service.undo = None  # type: ignore[assignment, method-assign]
        incident = uuid7(NOW, bytes(10))
        async with faulty.desk:
            await faulty.hear(
                command(1, command=CommandName.UNDO, arguments={"incident": incident}), topic="stopframe/cmd/n1/undo"
            )
    answers = [json.loads(scene.line.sent[0][1]), json.loads(faulty.line.sent[0][1])]
    assert [(one["result"], one["reason"]) for one in answers] == [("refused", "disk"), ("failed", "fault")]
    for one in answers:
        KEYS.verify(one, Purpose.ANSWER)


async def test_a_thousand_forged_and_a_thousand_replayed_alerts_reach_nobody(tmp_path: Path) -> None:
    """A consumer that verifies and remembers acts on each genuine alert once, also after a restart, and on no other."""
    acted: list[str] = []

    async def consume(seen: SeenAlerts, payload: bytes, topic_stream: str) -> None:
        try:
            found = read_alert(payload, KEYS, stream=topic_stream, now_ms=NOW)
            if (await seen.admit(found, now_ms=NOW)).is_new:
                acted.append(found.object["alert_id"])
        except NotTrusted:
            return

    genuine = [alert(number) for number in range(1, 51)]
    async with Database.open(tmp_path / "s.db") as database:
        seen = SeenAlerts(database)
        for _, payload in forged(alert(900, stream=RIVAL), 1000, stranger=STRANGER):
            await consume(seen, payload, RIVAL)
        for other in (alert(901, stream=RIVAL, life_ms=-1), alert(902, stream=RIVAL, signer=STRANGER)):
            await consume(seen, _bytes(other), RIVAL)
        assert acted == []
        for each in genuine[:25]:
            await consume(seen, _bytes(each), STREAM)
    async with Database.open(tmp_path / "s.db") as database:
        seen = SeenAlerts(database)
        for each in genuine[25:]:
            await consume(seen, _bytes(each), STREAM)
        for number in range(1000):
            await consume(seen, _bytes(genuine[number % 50]), STREAM if number % 3 else RIVAL)
    assert acted == [each["alert_id"] for each in genuine]


def test_a_thousand_forged_and_a_thousand_replayed_acknowledgements_end_no_other_alert() -> None:
    """None is believed; a genuine one says of its own alert what is so, and nothing of any other, however often."""
    ended: set[str] = set()
    ids = [uuid7(NOW + number, bytes(10)) for number in range(20)]
    genuine = [build_ack(Ack(each, STREAM, AckState.CUT, "cutter", NOW), CUTTER) for each in ids]

    def hear(payload: bytes, topic_stream: str) -> None:
        try:
            ended.add(read_ack(payload, KEYS, stream=topic_stream, now_ms=NOW).alert_id)
        except NotTrusted:
            return

    for _, payload in forged(json.loads(genuine[0]), 1000, stranger=STRANGER):
        hear(payload, STREAM)
    for number in range(1000):
        hear(genuine[number % 10], RIVAL)  # a rival's topic
    hear(build_ack(Ack(ids[15], STREAM, AckState.CUT, "x", NOW), OPERATOR), STREAM)
    assert ended == set()
    for number in range(1000):
        hear(genuine[number % 10], STREAM)
    assert ended == set(ids[:10])


def test_what_is_hostile_is_refused_for_less_than_what_is_genuine() -> None:
    """Nothing that can be sent costs more than verifying a genuine message does; a megabyte costs nothing."""
    genuine = command(1)
    usual = min(_seconds(lambda: KEYS.verify(parse(genuine), Purpose.COMMAND)) for _ in range(5))
    for name, payload in _dear():
        dear = min(_seconds(lambda payload=payload: _refuse(payload)) for _ in range(5))  # type: ignore[misc]
        assert dear < 6 * usual, name
    assert min(_seconds(lambda: _refuse(b"[" * 1_000_000)) for _ in range(5)) < usual


def _dear() -> Iterator[tuple[str, bytes]]:
    yield "open lists", b"[" * 4096
    yield "nested objects", b'{"a":' * 680 + b"1" + b"}" * 680
    yield "many names", b"{" + b",".join(b'"%d":1' % number for number in range(480)) + b"}"
    yield "long number", b'{"a":' + b"9" * 4000 + b"}"
    yield "escapes", b'{"a":"' + b"\\u0000" * 680 + b'"}'
    yield "floats", b'{"a":[' + b",".join([b"1e-300"] * 580) + b"]}"


def _refuse(payload: bytes) -> None:
    with pytest.raises(NotTrusted):
        KEYS.verify(parse(payload), Purpose.COMMAND)


def _seconds(work: Any) -> float:
    begun = time.process_time()
    for _ in range(20):
        work()
    return time.process_time() - begun


@pytest.mark.needs_mosquitto
async def test_who_has_no_password_neither_reads_nor_writes(example_broker: ExampleBroker) -> None:
    """At the shipped broker no anonymous client and no wrong password gets in; a user without a line hears nothing."""
    tls = example_broker.login("operator")["tls_context"]
    for login in ({}, {"username": "stopframe"}, {"username": "stopframe", "password": "guess"}):
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", example_broker.port, tls_context=tls, **login):
                raise AssertionError("let in")
    pub = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(example_broker.port), "-t", "stopframe/cmd/n1/cut", "-m", "x"]
    assert (await asyncio.to_thread(subprocess.run, pub, capture_output=True, timeout=20)).returncode != 0, "plain TCP"

    login = example_broker.login("stranger")
    five = aiomqtt.ProtocolVersion.V5
    async with (
        listening(example_broker.port, "#", five=True, **login) as stranger,
        listening(example_broker.port, "stopframe/#", five=True, **example_broker.login("stopframe")) as service,
        aiomqtt.Client("127.0.0.1", example_broker.port, protocol=five, **login) as mouth,
        aiomqtt.Client("127.0.0.1", example_broker.port, protocol=five, **example_broker.login("operator")) as operator,
    ):
        for topic in (
            "stopframe/cmd/ingest-1/cut",
            f"stopframe/stream/{STREAM}/ack",
            f"stopframe/stream/{STREAM}/alert",
        ):
            await mouth.publish(topic, b"forged", qos=1)
        await operator.publish(command_topic("stopframe", "ingest-1", "cut"), b"signed", qos=1)
        await until(lambda: service.messages)
        assert [bytes(message.payload) for message in service.messages] == [b"signed"]
        await asyncio.sleep(0.1)
        assert stranger.messages == []


def _bytes(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()
