"""`stopframe run` as systemd runs it: the words it says, and the unit that is shipped."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures_cli import CommandLine

pytestmark = pytest.mark.e2e


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)

    def wait_for(self, word: str, seconds: float = 30) -> str:
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
    """READY only when everything listens; no sign of life from a service that hangs; STOPPING on SIGTERM.

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
            manager.wait_for("WATCHDOG=1", 5)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4  # two forkservers, two analysis processes
        assert all("NOTIFY_SOCKET" not in child.environ() for child in children)

        process.send_signal(signal.SIGSTOP)
        while not manager.is_silent(1.2):
            pass
        process.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1", 5)

        process.send_signal(signal.SIGTERM)
        assert "STATUS=" in manager.wait_for("STOPPING=1", 5)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
