"""The shipped contract of the messages: sound in itself, closed, and in step with the code that fills it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from detector.alerts.alert import alert_schema
from detector.alerts.messages import SCHEMAS, asyncapi, message_schema
from detector.coverage import Cause, Kind
from detector.trust.signing import Purpose, TrustedKey, TrustedKeys


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for inner in schema.values():
            yield from _objects(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _objects(inner)


def _referred(document: dict[str, Any], reference: str) -> Any:
    """What `#/a/b` points at; a file's name comes back as it is."""
    if not reference.startswith("#/"):
        return reference
    found: Any = document
    for part in reference[2:].split("/"):
        found = found[part]
    return found


@pytest.mark.parametrize("kind", SCHEMAS)
def test_each_schema_is_one_and_lets_nothing_unknown_in(kind: str) -> None:
    """Every object says what may stand in it: a key that nobody described is no part of the contract."""
    schema = message_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    for each in _objects(schema):
        assert "additionalProperties" in each or each.get("maxProperties") == 0
        assert each.get("additionalProperties") is not True
    assert json.dumps(alert_schema()) == json.dumps(message_schema("alert"))


def test_coverage_names_every_cause() -> None:
    """The causes in the schema are those of the code, each under its kind."""
    properties = message_schema("coverage")["properties"]
    told = {kind: set(properties[f"{kind}_s"]["properties"]) for kind in ("skipped", "blind")}
    assert told == {
        "skipped": {cause.value for cause in Cause if cause.kind is Kind.SKIPPED},
        "blind": {cause.value for cause in Cause if cause.kind is Kind.BLIND},
    }


def test_the_document_hangs_together() -> None:
    """Every reference leads somewhere, every placeholder of a topic is a parameter, every channel has an operation."""
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    files = {_referred(document, each) for each in references if not each.startswith("#/")}
    assert files == {f"./{kind}.schema.json" for kind in SCHEMAS}
    assert all(_referred(document, each) for each in references)
    for name, channel in document["channels"].items():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
        assert channel["address"].rsplit("/", 1)[-1].strip("{}") == name
        assert list(channel["messages"]) == [name]
    used = [operation["channel"]["$ref"].rsplit("/", 1)[-1] for operation in document["operations"].values()]
    assert sorted(used) == sorted(document["channels"])
    heard = {name for name, operation in document["operations"].items() if operation["action"] == "receive"}
    assert heard == {"hearAck", "hearCommand"}, "everything else is sent by the service"


def test_the_documented_alert_and_topics_are_the_real_ones() -> None:
    """The messages in the docs fit their schemas, and the table has every topic of the contract and no other."""
    text = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    examples = {
        json.loads(found)["schema"]: json.loads(found) for found in re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    }
    assert set(examples) == {"stopframe/alert/1", "stopframe/selftest/1"}
    for name, example in examples.items():
        jsonschema.Draft202012Validator(message_schema(name.split("/")[1])).validate(example)
    key = TrustedKey.of(re.findall(r"ed25519:[\w-]{43}", text)[0], ["alert"])
    TrustedKeys([key]).verify(examples["stopframe/alert/1"], Purpose.ALERT)
    documented = set(re.findall(r"^\| `<prefix>/(\S+)` \| (\d) \| (yes|no) \|", text, re.MULTILINE))
    document = asyncapi()
    expected = set()
    for operation in document["operations"].values():
        channel = document["channels"][operation["channel"]["$ref"].rsplit("/", 1)[-1]]
        topic = channel["address"].removeprefix("{prefix}/").replace("{stream}", "{id}")
        topic = topic.replace("{", "<").replace("}", ">")
        mqtt = operation["bindings"]["mqtt"]
        expected.add((topic, str(mqtt["qos"]), "yes" if mqtt["retain"] else "no"))
    assert documented == expected
