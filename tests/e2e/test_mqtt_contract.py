"""What the whole service really sends, held against the shipped AsyncAPI document and its schemas."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

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
from tests.fixtures_brokers import Ear, ExampleBroker, listening, until

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
    """A service on the example's broker watches, alerts, cuts and ends: every message fits its channel and schema."""
    clip = await asyncio.to_thread(encode_clip, HARMFUL_SCRIPT)
    example = example_broker.service_config(tmp_path).read_text().split("\n", 1)[1]
    service = RunningService(
        tmp_path / "service", CUTTING + example.replace("alerts:", "alerts:\n  coverage_every: 1s")
    )
    fill_bank(service.state_dir)
    async with listening(example_broker.port, five=True, **example_broker.login("consumer")) as ear:
        async with service, PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
            publishers.start("live/key", clip)
            await until(lambda: ear.of("/alert") and ear.of("/coverage"), 30)
            await until(lambda: any(json.loads(text)["state"] == "ended" for text in ear.of("/status") if text), 30)
        await until(lambda: ear.of("/available")[-1:] == ["stopped"], 10)

    _hold_to_contract(ear)
    assert not any("key" in str(message.topic) or b"live/key" in bytes(message.payload) for message in ear.messages)


def _hold_to_contract(ear: Ear) -> None:
    """Each message has the form, the quality of service and the properties that its channel promises."""
    validators, document = _validators(), asyncapi()
    for message in ear.messages:
        kind = _channel_of(message.topic.value)
        payload = bytes(message.payload)
        if kind == "available":
            assert payload.decode() in document["components"]["messages"]["available"]["payload"]["enum"]
        elif payload:
            validators[kind].validate(json.loads(payload))
        operation = next(o for o in document["operations"].values() if o["channel"]["$ref"] == f"#/channels/{kind}")
        assert message.qos == operation["bindings"]["mqtt"]["qos"]
        assert _has_expiry(message) is (kind in {"alert", "selftest"})
    assert {_channel_of(message.topic.value) for message in ear.messages} == set(document["channels"])


def _has_expiry(message: aiomqtt.Message) -> bool:
    return hasattr(message.properties, "MessageExpiryInterval")
