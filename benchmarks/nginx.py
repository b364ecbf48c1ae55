"""nginx with the RTMP module and the service beside it, both from the files in configs/examples/nginx-rtmp.

Only what differs from machine to machine is replaced: ports, paths and the hook's secret.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from benchmarks.brokers import ServerMissing
from benchmarks.ports import free_port
from benchmarks.running import RunningService, ServiceFailed, wait_until
from detector.credentials import load_or_create

SERVER = "nginx-rtmp"

_EXAMPLE = Path(__file__).resolve().parents[1] / "configs" / "examples" / SERVER
_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
_START_SECONDS = 10.0


class Nginx:
    """`with Nginx(folder) as nginx`: not running until `start`; ended with the block, its workers too."""

    def __init__(self, folder: Path) -> None:
        search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("nginx", path=search)
        if program is None or not _MODULE.exists():
            raise ServerMissing("nginx with RTMP is not installed (apt-get install nginx libnginx-mod-rtmp)")
        folder.mkdir(parents=True, exist_ok=True)
        self.rtmp_port, self.http_port = free_port(), free_port()
        self._folder = folder
        self._command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    async def start(self, hook_port: int, secret: str) -> None:
        """Start it with its hooks pointed at a service; returns when it listens."""
        assert self._process is None
        hook = self._folder / "stopframe-hook.conf"
        hook.write_text(f"set $stopframe_hook http://127.0.0.1:{hook_port}/hook/{secret}/{SERVER};\n")
        places = {
            "listen 1935;": f"listen 127.0.0.1:{self.rtmp_port};",
            "127.0.0.1:8080": f"127.0.0.1:{self.http_port}",
            "/run/nginx.pid": str(self._folder / "nginx.pid"),
            "/var/log/nginx/error.log": str(self._folder / "error.log"),
            "/etc/nginx/stopframe-hook.conf": str(hook),
        }
        text = _replaced(_EXAMPLE / "nginx.conf", places)
        (self._folder / "nginx.conf").write_text(f"daemon off;\n{text}")
        self._process = self._spawn()
        if not await wait_until(self._listens, _START_SECONDS):
            raise ServiceFailed("nginx did not start")

    def kill(self) -> None:
        """Kill the master and its workers, which would outlive it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _spawn(self) -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        return subprocess.Popen(self._command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.rtmp_port), 0.2):
            return True
        return False


class ServiceBesideNginx(RunningService):
    """The service on the shipped file, with `changes` made to its text and `settings` added to it."""

    def __init__(self, folder: Path, nginx: Nginx, settings: str, changes: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        places = {
            "/var/lib/stopframe": str(self.state_dir),
            "127.0.0.1:8080": f"127.0.0.1:{nginx.http_port}",
            "127.0.0.1:1935": f"127.0.0.1:{nginx.rtmp_port}",
            "127.0.0.1:8936": f"127.0.0.1:{self.http_port}",
        }
        text = _replaced(_EXAMPLE / "stopframe.yaml", {**places, **(changes or {})})
        self.config.write_text(f"{text}\nlog: {{format: json}}\n{settings}\n")

    @property
    def hook_secret(self) -> str:
        """What nginx must show in the hook's path."""
        return load_or_create(self.state_dir).hook


def _replaced(path: Path, places: Mapping[str, str]) -> str:
    text = path.read_text(encoding="utf-8")
    for here, there in places.items():
        if here not in text:
            raise ServiceFailed(f"{path.name} no longer holds {here!r}")
        text = text.replace(here, there)
    return text
