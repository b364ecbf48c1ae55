"""No value object shows a secret when it is printed: what is printed ends in logs, errors and reports."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import detector
import streams
from detector.alerts.mqtt_connection import MqttSettings
from detector.config.addresses import SourceUrl
from detector.config.loading import load_config
from detector.config.servers import HookUrl
from detector.credentials import Credentials
from detector.events import Publisher, StreamKey
from detector.ingest.adapter import PublisherEnded, PublisherStarted
from detector.supervisor import Watched
from streams.job import Job, SandboxMode, SourceKind
from streams.sampling import SamplingSettings

SUSPECTS = {"url", "password", "secret", "token", "hook", "deployment", "credentials", "value", "playpath", "user"}
"""Names of fields that hold secrets somewhere; such a field is printed nowhere, or its type hides itself."""

HIDES_ITSELF = ("SourceUrl", "Secret", "Credentials", "HookUrl", "MqttUrl", "Callable[[], str | None]")

KEPT_OUT = {"detector.__main__", "detector.demo"}


def _dataclasses() -> Iterator[type]:
    for package in (detector, streams):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in KEPT_OUT:
                for found in vars(importlib.import_module(module.name)).values():
                    if dataclasses.is_dataclass(found) and isinstance(found, type) and found.__module__ == module.name:
                        yield found


def test_no_field_that_may_hold_a_secret_is_printed() -> None:
    """Every dataclass of the service and the readers: a field with a suspicious name is kept out of its repr."""
    printed = [
        f"{found.__module__}.{found.__qualname__}.{field.name}: {field.type}"
        for found in _dataclasses()
        for field in dataclasses.fields(found)
        if field.name in SUSPECTS and field.repr and not any(word in str(field.type) for word in HIDES_ITSELF)
    ]

    assert printed == []


SAMPLING = SamplingSettings(detect_within_seconds=3, interval_seconds=1)


@given(st.text("abcdef0123456789", min_size=12, max_size=40))
def test_what_holds_a_secret_prints_none(secret: str) -> None:
    """Keys, publishers, sessions' URLs, jobs and credentials: as repr, as text and within others."""
    key = StreamKey("edge", "live", secret)
    holders: list[Any] = [
        key,
        Publisher(key, "c1", 0.0),
        PublisherStarted(Publisher(key, "c1", 0.0)),
        PublisherEnded(key, "c1"),
        Watched(key, SourceKind.RTMP, f"rtmp://h/live/{secret}", "c1"),
        Job(SourceKind.RTMP, f"rtmp://h/live/{secret}", 1935, live=True, sampling=SAMPLING, sandbox=SandboxMode.OFF),
        Credentials(deployment=secret.encode(), hook=secret),
        SourceUrl.parse(f"http://{secret}:{secret}@h/{secret}?{secret}={secret}"),
        HookUrl.parse(f"https://h/{secret}?{secret}"),
        MqttSettings(host="h", node="node", username="me", password=lambda: secret),
    ]
    for holder in [*holders, holders, dict(enumerate(holders))]:
        assert secret not in repr(holder)
        assert secret not in str(holder)
        assert secret not in f"{holder!r:.9999}"


@pytest.mark.parametrize("kind", ["mediamtx", "node-media-server"])
def test_a_config_prints_no_secret(tmp_path: Path, kind: str) -> None:
    """A loaded config as repr, as text, as JSON and as a dict of its values shows where secrets come from alone."""
    secret = "aVerySecretThing123"
    for name in ("api", "mqtt", "token"):
        (tmp_path / name).write_text(secret)
    file = tmp_path / "stopframe.yaml"
    file.write_text(
        f"ingest: {{kind: {kind}, username: me, password: {{file: api}}}}\nhttp: {{token: {{file: token}}}}\n"
        "alerts: {mqtt: {username: me, password: {file: mqtt}}}\n"
        'sources: [{name: s, url: "${URL}"}, {name: t, url: "http://u:aVerySecretThing123@h/aVerySecretThing123"}]\n'
    )

    config = load_config(file, environment={"URL": f"rtmp://h/live/{secret}?k={secret}"})

    for shown in (repr(config), str(config), config.model_dump_json(), repr(config.model_dump())):
        assert secret not in shown
    assert config.sources[0].url.reveal().endswith(secret)
