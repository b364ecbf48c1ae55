"""What the whole service really sends, held against the shipped AsyncAPI document and its schemas."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any, Self

import aiomqtt
import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from benchmarks.clips import encode_clip
from benchmarks.crowd import fill_bank
from benchmarks.losses import CUTTING, HARMFUL_SCRIPT
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService
from detector.alerts.messages import SCHEMAS, asyncapi, message_schema
from detector.trust.keyring import load_keyring
from detector.trust.messages import Ack, AckState, Command, CommandName, build_ack, build_command, command_topic
from detector.trust.signing import Signer, TrustedKeys, public_key_text
from detector.trust.verifying import verify_lines
from tests.fixtures_brokers import Ear, ExampleBroker, listening
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_mosquitto]


def _validators() -> dict[str, jsonschema.Draft202012Validator]:
    resources = {f"./{kind}.schema.json": DRAFT202012.create_resource(message_schema(kind)) for kind in SCHEMAS}
    registry: Registry[Any] = Registry().with_resources(resources.items())
    return {kind: jsonschema.Draft202012Validator(message_schema(kind), registry=registry) for kind in SCHEMAS}


def _channel_of(topic: str) -> str:
    """The one channel of the document whose address a topic fits."""
    found = [
        name
        for name, channel in asyncapi()["channels"].items()
        if re.fullmatch(re.sub(r"{\w+}", "[^/+#]+", channel["address"]), topic)
    ]
    assert len(found) == 1, f"{topic} fits {found or 'no channel'}"
    return str(found[0])


async def test_all_that_is_sent_is_described_and_all_that_is_described_is_sent(
    example_broker: ExampleBroker, tmp_path: Path
) -> None:
    """A service on the example's broker watches, obeys, alerts, cuts, ends: every message fits channel and schema."""
    operator, cutter = Signer.of_seed(b"o" * 32), Signer.of_seed(b"c" * 32)
    clip = await asyncio.to_thread(encode_clip, HARMFUL_SCRIPT)
    example = example_broker.service_config(tmp_path).read_text().split("\n", 1)[1]
    service = RunningService(
        tmp_path / "service",
        CUTTING + example.replace("alerts:", "alerts:\n  coverage_every: 1s") + _trusting(operator, cutter),
    )
    said: list[tuple[str, bytes]] = []
    fill_bank(service.state_dir)
    async with listening(example_broker.port, five=True, **example_broker.login("consumer")) as ear:
        async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            publishers.start("live/key", clip)
            await until(lambda: any(json.loads(text)["state"] == "live" for text in ear.of("/status")), 60)
            stream = next(m.topic.value.split("/")[-2] for m in ear.messages if m.topic.value.endswith("/status"))
            async with _Operator(example_broker, operator, said) as order:
                hint = {"score": 1.0, "source": "tests", "reason": "contract", "lasts_s": 5.0}
                await order(CommandName.HINT, {"stream": stream} | hint)
                await order(CommandName.SAMPLING, {"stream": stream, "detect_within_s": 0.5, "lasts_s": 2.0})
                await order(CommandName.CUT, {"stream": "A" * 26})
                await until(lambda: ear.of("/alert"), 60)
                alert = json.loads(ear.of("/alert")[0])
                await order(CommandName.UNDO, {"incident": alert["incident_id"]})
                await until(lambda: len(ear.of("/answer")) == 4, 60)
            ack = Ack(alert["alert_id"], stream, AckState.CUT, "cutter-1", order.now_ms())
            said.append((f"stopframe/stream/{stream}/ack", build_ack(ack, cutter)))
            await until(lambda: ear.of("/alert") and ear.of("/coverage"), 60)
            await until(lambda: any(json.loads(text)["state"] == "ended" for text in ear.of("/status") if text), 60)
        await until(lambda: ear.of("/available")[-1:] == ["stopped"], 30)

    answers = [json.loads(text) for text in ear.of("/answer")]
    assert {(one["command"], one["result"]) for one in answers} >= {("cut", "refused"), ("undo", "done")}
    _hold_to_contract(ear, said)
    _hold_signatures(ear, [operator, cutter], said, service.state_dir)
    assert not any("key" in str(message.topic) or b"live/key" in bytes(message.payload) for message in ear.messages)


def _trusting(operator: Signer, cutter: Signer) -> str:
    lines = [
        f"    - {{name: {name}, public_key: {public_key_text(signer.public_key)}, may: [{right}]}}\n"
        for name, signer, right in (("anna", operator, "command"), ("cutter", cutter, "ack"))
    ]
    return "\ntrust:\n  trusted_keys:\n" + "".join(lines)


class _Operator:
    """Commands the node as `operator`, and keeps what was said."""

    def __init__(self, broker: ExampleBroker, signer: Signer, said: list[tuple[str, bytes]]) -> None:
        version = aiomqtt.ProtocolVersion.V5
        self._client = aiomqtt.Client("127.0.0.1", broker.port, protocol=version, **broker.login("operator"))
        self._signer, self._said, self._seq = signer, said, 0

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__(None, None, None)

    async def __call__(self, name: CommandName, arguments: dict[str, Any]) -> None:
        self._seq += 1
        now = self.now_ms()
        payload = build_command(Command("ingest-1", name, arguments, self._seq, now, now + 30_000), self._signer)
        self._said.append((command_topic("stopframe", "ingest-1", name), payload))
        await self._client.publish(*self._said[-1], qos=1)

    @staticmethod
    def now_ms() -> int:
        return time.time_ns() // 1_000_000


def _hold_signatures(ear: Ear, others: list[Signer], said: list[tuple[str, bytes]], state_dir: Path) -> None:
    """What may make somebody act is signed by whom its topic says, and `stopframe verify` finds so."""
    trusted = [each.trusted_key(["ack", "command"]) for each in others]
    keys = TrustedKeys([*trusted, load_keyring(state_dir).signer.trusted_key(["alert"])])
    lines = [text.encode() for suffix in ("/alert", "/answer") for text in ear.of(suffix)]
    findings = list(verify_lines([*lines, *(payload for _, payload in said)], keys, now_ms=None, in_order=True))
    assert len(findings) >= 1 + 4 + 5
    assert [finding for finding in findings if finding.reason is not None] == []


def _hold_to_contract(ear: Ear, said: list[tuple[str, bytes]]) -> None:
    """Each message has the form, the quality of service and the properties that its channel promises."""
    validators, document = _validators(), asyncapi()
    for topic, payload in said:
        validators[_channel_of(topic)].validate(json.loads(payload))
    for message in ear.messages:
        kind = _channel_of(message.topic.value)
        payload = bytes(message.payload)
        if kind == "available":
            assert payload.decode() in document["components"]["messages"]["available"]["payload"]["enum"]
        elif payload:
            validators[kind].validate(json.loads(payload))
        operation = next(o for o in document["operations"].values() if o["channel"]["$ref"] == f"#/channels/{kind}")
        assert message.qos == operation["bindings"]["mqtt"]["qos"]
        assert _has_expiry(message) is (kind in {"alert", "selftest", "answer"})
    heard = {_channel_of(message.topic.value) for message in ear.messages}
    assert heard | {_channel_of(topic) for topic, _ in said} == set(document["channels"])


def _has_expiry(message: aiomqtt.Message) -> bool:
    return hasattr(message.properties, "MessageExpiryInterval")
