"""`stopframe run` as systemd runs it: the words it says, and the unit that is shipped."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures_cli import ROOT, CommandLine

pytestmark = pytest.mark.e2e

UNIT = ROOT / "configs/systemd/stopframe.service"


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)

    def wait_for(self, word: str, seconds: float = 60) -> str:
        """The next message with this line in it; others are passed over."""
        give_up_at = time.monotonic() + seconds
        while (left := give_up_at - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                break
            if word in message.split("\n"):
                return message
        raise AssertionError(f"{word} did not come within {seconds} s")

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path)
    with one.socket:
        yield one


def test_the_manager_hears_ready_life_and_end(
    stopframe: CommandLine, manager: Manager, free_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY only when everything listens; no sign of life from a service that hangs; RELOADING, STOPPING when told to.

    No child process holds the manager's address.
    """
    stopframe.write_config(
        f'ingest: {{listen: "127.0.0.1:0"}}\nhttp: {{listen: "127.0.0.1:0"}}\n'
        f'alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{free_tcp_port}"}}}}\n'
    )
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    process = stopframe.start("run")
    try:
        assert "STATUS=0 streams" in manager.wait_for("READY=1")
        with socket.create_connection(("127.0.0.1", free_tcp_port)):
            manager.wait_for("WATCHDOG=1")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4  # two forkservers, two analysis processes
        assert all("NOTIFY_SOCKET" not in child.environ() for child in children)

        process.send_signal(signal.SIGSTOP)
        while not manager.is_silent(1.2):
            pass
        process.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")

        process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")

        process.send_signal(signal.SIGTERM)
        assert "STATUS=" in manager.wait_for("STOPPING=1")
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err


def _unit() -> list[tuple[str, str]]:
    """Every (key, value) of the shipped unit in order."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [(key, value) for line in lines if line[:1].isalpha() for key, _, value in [line.partition("=")]]


def test_the_unit_says_what_the_service_relies_on() -> None:
    """Its own user and folder, the protocol of test one, and every call by which the cage is made."""
    unit = _unit()
    said = dict(unit)

    assert (said["Type"], said["NotifyAccess"], said["Restart"]) == ("notify", "main", "on-failure")
    assert (said["RestartPreventExitStatus"], said["StartLimitIntervalSec"]) == ("2", "0")  # only a config is final
    assert said["KillMode"] == "mixed"  # the service ends its processes in its own order
    assert said["OOMPolicy"] == "continue"  # a bomb in one stream ends one reader
    assert said["ExecReload"].endswith("kill -HUP $MAINPID")
    assert said["CapabilityBoundingSet"] == ""
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} == set(said["RestrictAddressFamilies"].split())
    allowed = " ".join(value for key, value in unit if key == "SystemCallFilter" and not value.startswith("~")).split()
    assert {"@system-service", "seccomp", "landlock_restrict_self"} <= set(allowed)
    refused = " ".join(value for key, value in unit if key == "SystemCallFilter" and value.startswith("~"))
    assert "@process" not in refused
    assert set(said) >= {"ProtectSystem", "NoNewPrivileges", "WatchdogSec", "StateDirectory", "LoadCredential"}


@pytest.mark.needs_systemd_analyze
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, and the exposure that systemd counts stays below 2 of 10."""
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8").replace("/opt/stopframe/bin/stopframe", "/bin/true")
    unit.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("Documentation=")))
    verify = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    score = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (verify.returncode, verify.stderr) == (0, "")
    assert score.returncode == 0, score.stdout.splitlines()[-1]
