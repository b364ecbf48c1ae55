"""Commands that need not import the product first: one process has done that, and forks each of them.

A command is a process of its own as ever, with its arguments, folder, environment and outputs. What it imports was
imported before it began: that costs more CPU than most commands do themselves.
"""

import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

_NUMBER = struct.Struct("<q")


class WarmCommands:
    """`with WarmCommands() as warm`; several threads may run commands at once."""

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[1])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm_commands", str(theirs.fileno())],
                cwd=root,
                env={**os.environ, "PYTHONPATH": root},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait(30)

    def run(
        self,
        arguments: tuple[str, ...],
        *,
        folder: Path,
        environment: Mapping[str, str],
        outputs: tuple[IO[Any], IO[Any]],
        seconds: float,
    ) -> int:
        """Run a command to its end and return its exit code; after `seconds` it is killed and TimeoutError raised."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                asked = json.dumps([arguments, str(folder), dict(environment)]).encode()
                handed = [theirs.fileno(), *(output.fileno() for output in outputs)]
                socket.send_fds(self._control, [asked], handed)
            ours.settimeout(seconds)
            (pid,) = _NUMBER.unpack(ours.recv(_NUMBER.size))
            try:
                (status,) = _NUMBER.unpack(ours.recv(_NUMBER.size))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
            return os.waitstatus_to_exitcode(status)


def _become_a_command(control: socket.socket) -> bool:
    """Fork what is asked for. True in each command's process, False when nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for commands
    while True:
        asked, handed, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not asked:
            return False
        if os.fork() == 0:
            break
        for descriptor in handed:
            os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    answer, out, err = handed
    if (pid := os.fork()) != 0:
        os.write(answer, _NUMBER.pack(pid))
        os.write(answer, _NUMBER.pack(os.waitpid(pid, 0)[1]))
        os._exit(0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in handed:
        os.close(descriptor)
    arguments, folder, environment = json.loads(asked)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["stopframe", *arguments]
    return True


def main() -> None:
    """Import every command, then become each that is asked for."""
    from detector.__main__ import main as run  # noqa: PLC0415 - only this process is to import it
    from detector.cli.main import build_app  # noqa: PLC0415

    build_app()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        is_command = _become_a_command(control)
    if is_command:
        run()


if __name__ == "__main__":
    main()
