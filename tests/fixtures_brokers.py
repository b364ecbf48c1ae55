"""Real brokers for tests: mosquitto on a port of its own, certificates, subscribers, and the shipped example."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import aiomqtt
import pytest

from benchmarks.ports import free_port
from detector.alerts.alert import Alert, AlertFacts, WallAnchor, build_alert, uuid7
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.setup import mqtt_settings
from detector.alerts.sink import Notice
from detector.config.loading import load_config
from detector.events import Step

EXAMPLE = Path(__file__).parents[1] / "configs" / "examples" / "mosquitto"

_SERVER_FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


class Mosquitto:
    """A mosquitto of the test's own, on a port of its own. `lines` are its whole config beside the listener."""

    def __init__(self, folder: Path, *lines: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder
        self.log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        # As root it would become another user, who cannot read the test's folder.
        listener = [] if port else [f"listener {self.port} 127.0.0.1"]
        self._config.write_text("\n".join([*listener, *lines, "user root", ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [shutil.which("mosquitto", path=_SERVER_FOLDERS) or "mosquitto", "-c", str(self._config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.02)
        raise AssertionError(f"mosquitto did not start: {self.log.read_text()}")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        """Ask it to end, and wait until it has: what it keeps is written."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)
        self._process = None

    def stop(self) -> None:
        """Kill it: nothing is written any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def make_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """A mosquitto with these lines as its config, running; anonymous where there are none."""
    made: list[Mosquitto] = []

    def make(*lines: str, start: bool = True) -> Mosquitto:
        made.append(Mosquitto(tmp_path, *(lines or ("allow_anonymous true",))))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder: `sign` makes a certificate and key, and returns their paths."""

    folder: Path
    name: str = "ca"

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    @classmethod
    def make(cls, folder: Path, name: str = "ca") -> "Authority":
        made = cls(folder, name)
        _openssl(folder, *_NEW_KEY, "-x509", "-days", "2", "-subj", f"/CN={name}", *_out(name, "crt"))
        return made

    def sign(self, name: str, subject: str = "IP:127.0.0.1", *, days: int = 2) -> tuple[Path, Path]:
        """`days` -1 makes one that expired yesterday."""
        _openssl(self.folder, *_NEW_KEY, "-subj", f"/CN={name}", *_out(name, "csr"))
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={subject}\n")
        by = ("-CA", f"{self.name}.crt", "-CAkey", f"{self.name}.key", "-CAcreateserial", "-days", str(days))
        with_name = ("-extfile", f"{name}.ext")
        _openssl(self.folder, "x509", "-req", "-in", f"{name}.csr", *by, "-out", f"{name}.crt", *with_name)
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"


_NEW_KEY = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _out(name: str, suffix: str) -> tuple[str, ...]:
    return ("-keyout", f"{name}.key", "-out", f"{name}.{suffix}")


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


class ExampleBroker(Mosquitto):
    """mosquitto with the shipped example's files: only ports, paths and certificates are other ones."""

    users: ClassVar = {
        "stopframe": "service-pw",
        "cutter": "cutter-pw",
        "operator": "operator-pw",
        "consumer": "consumer-pw",
        "stranger": "stranger-pw",
    }

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.authority = Authority.make(folder)
        (folder / "certs").mkdir()
        for made, name in zip(self.authority.sign("broker"), ("server.crt", "server.key"), strict=True):
            made.rename(folder / "certs" / name)
        shutil.copy(EXAMPLE / "acl", folder / "acl")
        (folder / "passwd").touch(mode=0o600)
        for user, password in self.users.items():
            command = ["mosquitto_passwd", "-b", str(folder / "passwd"), user, password]
            subprocess.run(command, check=True, capture_output=True)
        text = (EXAMPLE / "mosquitto.conf").read_text()
        for shipped, ours in {
            "listener 8883": f"listener {port} 127.0.0.1",
            "/etc/mosquitto/": f"{folder}/",
            "/var/lib/mosquitto/": f"{folder}/",
        }.items():
            assert shipped in text
            text = text.replace(shipped, ours)
        super().__init__(folder, text, port=port)

    def service_config(self, state_dir: Path) -> Path:
        """The example's `stopframe.yaml`, for this broker."""
        password = self.folder / "mqtt-password"
        password.write_text(self.users["stopframe"] + "\n")
        text = (EXAMPLE / "stopframe.yaml").read_text()
        for shipped, ours in {
            "broker.example.org:8883": f"127.0.0.1:{self.port}",
            "/etc/stopframe/broker-ca.crt": str(self.authority.certificate),
            "/etc/stopframe/mqtt-password": str(password),
        }.items():
            assert shipped in text
            text = text.replace(shipped, ours)
        path = self.folder / "stopframe.yaml"
        path.write_text(f"state_dir: {state_dir}\n{text}")
        return path

    def login(self, user: str) -> dict[str, Any]:
        """What aiomqtt needs to connect as one of the users."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        return {"username": user, "password": self.users[user], "tls_context": context}


@pytest.fixture
def example_broker(tmp_path: Path) -> Iterator[ExampleBroker]:
    """The shipped example, running."""
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    broker = ExampleBroker(folder)
    broker.start()
    yield broker
    broker.stop()


@dataclass
class Ear:
    """A subscriber to everything under one filter."""

    messages: list[aiomqtt.Message] = field(default_factory=list)

    def of(self, suffix: str) -> list[str]:
        return [bytes(m.payload).decode() for m in self.messages if m.topic.value.endswith(suffix)]

    def ids(self) -> list[str]:
        return [json.loads(payload)["alert_id"] for payload in self.of("/alert")]


@contextlib.asynccontextmanager
async def listening(port: int, topics: str = "stopframe/#", *, five: bool = False, **login: Any) -> AsyncIterator[Ear]:
    """Hear what is published on a broker of this machine while the block lasts."""
    ear = Ear()
    version = aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311
    async with aiomqtt.Client("127.0.0.1", port, protocol=version, **login) as client:
        await client.subscribe(topics, qos=1)

        async def collect() -> None:
            with contextlib.suppress(aiomqtt.MqttError):
                async for message in client.messages:
                    ear.messages.append(message)

        task = asyncio.create_task(collect())
        try:
            yield ear
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def notice(number: int = 1, *, expires_in_ms: int = 60_000) -> Notice:
    """A notice with little in it."""
    payload = json.dumps({"alert_id": f"id-{number}"}).encode()
    return Notice(f"id-{number}", "S1", True, payload, int(time.time() * 1000) + expires_in_ms, number)


def alert(number: int) -> Alert:
    """An alert as delivery takes it, about one of three streams."""
    facts = AlertFacts(
        stream_id=f"S{number % 3}",
        session="1",
        signals=(),
        votes=(1, 1),
        action=Step.CUT,
        is_live=True,
        config_digest="c",
    )
    anchor = WallAnchor(time.monotonic(), int(time.time() * 1000))
    alert_id = uuid7(anchor.wall_ms, os.urandom(10))
    return build_alert(facts, alert_id=alert_id, anchor=anchor, queued_at=time.monotonic(), expires_after_ms=60_000)


QUICK_WAITS: dict[str, Any] = {
    "answer_timeout_seconds": 5.0,
    "reconnect_first_seconds": 0.05,
    "reconnect_limit_seconds": 0.2,
}


def example_settings(broker: ExampleBroker, tmp_path: Path, **changes: Any) -> MqttSettings:
    """What the service makes of the example's config, with shorter waits."""
    config = load_config(broker.service_config(tmp_path / "state"))
    return replace(mqtt_settings(config), **{**QUICK_WAITS, **changes})
