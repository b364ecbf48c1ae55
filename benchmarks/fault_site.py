"""A service, a broker and a cutter in processes of their own, which can be killed at any moment and started again."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from benchmarks.brokers import ServerMissing
from benchmarks.running import ServiceFailed
from detector.credentials import load_or_create
from detector.trust.keyring import load_keyring
from detector.trust.signing import public_key_text

_ROOT: Final = Path(__file__).resolve().parents[1]
_START_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.02


class Part:
    """A process of ours: started, killed, started again. `is_up` asks whether it does its work."""

    def __init__(self, name: str, command: Sequence[str], log: Path, is_up: Callable[[], bool]) -> None:
        self.name = name
        self.kills = 0
        self.start_seconds: list[float] = []
        self._command = list(command)
        self._log = log
        self._is_up = is_up
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    async def up(self) -> None:
        """Return when it does its work. Raises ServiceFailed."""
        assert self._process is not None
        begun_at = time.monotonic()
        while not await asyncio.to_thread(self._is_up):
            if self._process.poll() is not None or time.monotonic() - begun_at > _START_SECONDS:
                words = " | ".join(self._log.read_text(errors="replace").splitlines()[-4:])[:1500]
                raise ServiceFailed(f"{self.name} did not start; its last words: {words}")
            await asyncio.sleep(_LOOK_SECONDS)
        self.start_seconds.append(time.monotonic() - begun_at)

    def kill(self) -> None:
        """SIGKILL, to this process alone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.kills += 1

    def end(self) -> None:
        """As an operator ends it; killed if it does not in time."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
            self._process = None


class FaultSite:
    """`with FaultSite(folder, ingest_section) as site`: the three parts, not running until `start`."""

    def __init__(self, folder: Path, ingest_section: str) -> None:
        self.folder = folder
        self.broker_port = _lasting_port()
        self.service_dir, self.cutter_dir = folder / "service", folder / "cutter"
        for state_dir in (self.service_dir, self.cutter_dir):
            state_dir.mkdir(mode=0o700)
            load_or_create(state_dir)
        self.broker = self._broker()
        self.service = self._service(ingest_section)
        self.cutter = self._cutter(ingest_section)
        self.parts = (self.service, self.broker, self.cutter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self.service, self.cutter, self.broker):
            part.end()

    async def start(self) -> None:
        """Start all parts; the cutter's session is at the broker before the service says anything."""
        for part in (self.broker, self.cutter, self.service):
            part.spawn()
            await part.up()

    def _broker(self) -> Part:
        search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("mosquitto", path=search)
        if program is None:
            raise ServerMissing("mosquitto is not installed (apt-get install mosquitto)")
        folder = self.folder / "broker"
        folder.mkdir()
        lines = [
            f"listener {self.broker_port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "max_queued_messages 100000",
            "set_tcp_nodelay true",
            *(["user root"] if os.geteuid() == 0 else []),  # else it would become one who cannot read the folder
        ]
        config = folder / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return Part("broker", [program, "-c", str(config)], self.folder / "broker.log", self._broker_listens)

    def _service(self, ingest_section: str) -> Part:
        config, log = self.folder / "stopframe.yaml", self.folder / "service.log"
        key = public_key_text(load_keyring(self.cutter_dir).signer.public_key)
        config.write_text(
            f"state_dir: {self.service_dir}\nnode: faulty\n{ingest_section}\n"
            "enforcement: {live: true, where: remote}\n"
            f"alerts: {{mqtt: {{url: 'mqtt://127.0.0.1:{self.broker_port}', embedded_broker: false}}}}\n"
            f"trust: {{trusted_keys: [{{name: cutter, public_key: '{key}', may: [ack, alert]}}]}}\n"
        )
        command = [sys.executable, "-m", "benchmarks.numbered_service", str(config)]
        return Part("service", command, log, lambda: _grew(log, b"ready\n", self.service))

    def _cutter(self, ingest_section: str) -> Part:
        config = self.folder / "cutter.yaml"
        key = public_key_text(load_keyring(self.service_dir).signer.public_key)
        config.write_text(
            f"state_dir: {self.cutter_dir}\nsecret: {{file: {self.service_dir}/secrets/deployment}}\n{ingest_section}\n"
            f"log: {{format: json}}\nmqtt: {{url: 'mqtt://127.0.0.1:{self.broker_port}'}}\n"
            "http: {listen: '127.0.0.1:0'}\n"
            f"trust: {{trusted_keys: [{{name: service, public_key: '{key}', may: [alert, command]}}]}}\n"
        )
        command = [sys.executable, "-m", "detector", "cutter", "-c", str(config)]
        log = self.folder / "cutter.log"
        return Part("cutter", command, log, lambda: _grew(log, b'"cutter.ready"', self.cutter))

    def _broker_listens(self) -> bool:
        return _listens(self.broker_port)


def _lasting_port() -> int:
    """A port that nobody is given for an outgoing connection while what listens there is dead."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


def _grew(log: Path, word: bytes, part: Part) -> bool:
    """Whether a part said its word as often as it was started."""
    return log.exists() and log.read_bytes().count(word) > part.kills
