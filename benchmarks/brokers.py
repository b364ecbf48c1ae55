"""A mosquitto of one's own that can be stopped and started, and the receiver of alerts that proves what arrived."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiomqtt

from benchmarks.ports import free_port
from benchmarks.running import ServiceFailed, wait_until

ALERT_TOPIC = "stopframe/stream/+/alert"

_START_SECONDS = 10.0
_RETRY_SECONDS = 0.1


class ServerMissing(LookupError):
    """Raised where a reference server is not installed; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One alert as it came; `at` is monotonic."""

    alert_id: str
    at: float
    alert: dict[str, Any]


class Mosquitto:
    """`with Mosquitto(folder) as broker`: not running until `start`; it forgets everything when it stops."""

    def __init__(self, folder: Path) -> None:
        search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("mosquitto", path=search)
        if program is None:
            raise ServerMissing("mosquitto is not installed (apt-get install mosquitto)")
        self.port = free_port()
        config = folder / "mosquitto.conf"
        lines = (f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence false")
        config.write_text("\n".join(lines) + "\n")
        self._command = [program, "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def settings(self) -> str:
        """The service's section that names this broker."""
        return f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{self.port}", embedded_broker: false}}}}'

    async def start(self) -> None:
        """Start it; returns when it listens."""
        assert self._process is None
        self._process = self._spawn()
        if not await wait_until(self._listens, _START_SECONDS):
            raise ServiceFailed("mosquitto did not start")

    def _spawn(self) -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        return subprocess.Popen(self._command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
            return True
        return False

    def stop(self) -> None:
        """Kill it: whatever it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class AlertReceiver:
    """`async with AlertReceiver(port) as receiver`: takes every alert, and comes back when the broker does."""

    def __init__(self, port: int, *, has_mqtt_5: bool = True) -> None:
        self.arrivals: list[Arrival] = []
        self.is_subscribed = asyncio.Event()
        self._port = port
        self._version = aiomqtt.ProtocolVersion.V5 if has_mqtt_5 else aiomqtt.ProtocolVersion.V311
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._receive(), name="alert-receiver")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def ids(self) -> set[str]:
        """The alerts that came at least once."""
        return {arrival.alert_id for arrival in self.arrivals}

    def copies(self, alert_id: str) -> int:
        """How often one alert came."""
        return sum(arrival.alert_id == alert_id for arrival in self.arrivals)

    async def wait_for(self, ids: set[str], seconds: float) -> set[str]:
        """Wait until all of `ids` have come, at most so long; returns what has not."""
        await wait_until(lambda: ids <= self.ids, seconds)
        return ids - self.ids

    async def _receive(self) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", self._port, protocol=self._version) as client:
                    await client.subscribe(ALERT_TOPIC, qos=1)
                    self.is_subscribed.set()
                    async for message in client.messages:
                        alert = json.loads(bytes(message.payload))
                        self.arrivals.append(Arrival(alert["alert_id"], time.monotonic(), alert))
            self.is_subscribed.clear()
            await asyncio.sleep(_RETRY_SECONDS)
