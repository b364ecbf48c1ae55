"""What the service publishes and hears, as shipped: the AsyncAPI document and the JSON Schemas that it refers to."""

import json
from importlib.resources import files
from typing import Any, Final

import yaml

SCHEMAS: Final = ("ack", "alert", "answer", "command", "coverage", "health", "selftest", "status")
"""The kinds of message with a JSON Schema of their own: the last level of their topic, but for commands."""


def message_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of one of `SCHEMAS`, or of `alarm`, which has no topic.

    References between them are `./KIND.schema.json`.
    """
    text = files("detector.alerts").joinpath(f"{kind}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document: every topic, its messages and how they are sent."""
    document: dict[str, Any] = yaml.safe_load(files("detector.alerts").joinpath("asyncapi.yaml").read_text("utf-8"))
    return document
