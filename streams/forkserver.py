"""The process that makes children fast: it has imported what they need, holds no secret, and forks one per request.

`python -m streams.forkserver MODULE:FUNCTION --control-fd N` imports MODULE, empties its environment and serves the
socket N (AF_UNIX, SOCK_SEQPACKET): a `REQUEST` with descriptors attached in, `REPLY`s out. Each child calls
FUNCTION(3): descriptor 3 is its private socket, 4 its media if it got some, 5 and up what else was passed. It is alone
in its session, dies with the forkserver, and has no other descriptor and no environment. The forkserver ends when N
closes and takes its children along.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import IntEnum, unique

from streams.sandbox import die_with_parent

Entry = Callable[[int], None]
"""What a child runs; its argument is the descriptor of its private socket."""

SOCKET_FD = 3
MEDIA_FD = 4
FIRST_EXTRA_FD = 5
MAX_EXTRA_FDS = 16

REQUEST = struct.Struct("<I?B")
"""Request number, whether a media descriptor is attached, how many others are."""

REPLY = struct.Struct("<BIIi")
"""Kind, request number, pid, value; what the fields mean stands at `ReplyKind`."""

_FRAMES = 8
_DETAIL_CHARACTERS = 300
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@unique
class ReplyKind(IntEnum):
    """What the forkserver says."""

    READY = 1  # pid: its own; value: how many threads the imports left running (1 is right)
    SPAWNED = 2  # request, pid; the child's pidfd is attached
    FAILED = 3  # request; value: errno of the failed fork
    EXITED = 4  # pid; value: wait status


def load(entry: str) -> Entry:
    """Return the function that `MODULE:FUNCTION` names; raises `ImportError`, `AttributeError` or `ValueError`."""
    module_name, separator, function_name = entry.partition(":")
    if not separator:
        raise ValueError(f"{entry!r} is not MODULE:FUNCTION")
    function: Entry = getattr(importlib.import_module(module_name), function_name)
    return function


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the control socket closes."""
    parser = argparse.ArgumentParser(prog="streams.forkserver")
    parser.add_argument("entry", help="MODULE:FUNCTION that each child runs")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--preload", action="append", default=[], metavar="MODULE")
    parser.add_argument("--silence-children", action="store_true", help="their error output goes to /dev/null")
    options = parser.parse_args(arguments)
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with its control socket, in the service's own order
        signal.signal(number, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ.update(_ONE_THREAD)  # a fork takes along only the calling thread: the imports must start none
    gc.disable()  # what is collected before the fork leaves holes that every child would copy
    try:
        function = load(options.entry)
        for name in options.preload:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - the edge of the process: an import raises anything, and is told
        # Its text names what is missing, and there is no secret here yet that it could quote.
        _tell_of(error, detail=str(error)[:_DETAIL_CHARACTERS])
        sys.exit(1)
    _clear_environment()
    gc.freeze()
    with socket.socket(fileno=options.control_fd) as control:
        _Forkserver(control, function, silences_children=options.silence_children).serve()


class _Forkserver:
    """The loop: answers requests and reports exits."""

    def __init__(self, control: socket.socket, function: Entry, *, silences_children: bool) -> None:
        self._control = control
        self._function = function
        self._silences_children = silences_children
        self._pids: dict[int, int] = {}  # by pidfd
        self._poller = select.poll()
        self._poller.register(control, select.POLLIN)

    def serve(self) -> None:
        try:
            threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - no pathlib in the children
            self._send(ReplyKind.READY, pid=os.getpid(), value=threads)
            while self._turn():
                pass
        except (BrokenPipeError, ConnectionResetError):  # the service is gone
            pass
        finally:
            self._end_children()

    def _turn(self) -> bool:
        """Handle what is ready; return False when the control socket has closed."""
        for descriptor, _ in self._poller.poll():
            if descriptor in self._pids:
                self._report_exit(descriptor)
            elif not self._answer():
                return False
        return True

    def _answer(self) -> bool:
        request, descriptors, _, _ = socket.recv_fds(
            self._control, REQUEST.size, MAX_EXTRA_FDS + 2, socket.MSG_CMSG_CLOEXEC
        )
        if not request:
            return False
        number, has_media, extra_count = REQUEST.unpack(request)
        try:
            if len(descriptors) != 1 + has_media + extra_count:  # the kernel drops what exceeds the limit on files
                raise OSError(errno.EMFILE, "descriptors were lost on the way")
            server_pid, pid = os.getpid(), os.fork()
        except OSError as error:
            self._send(ReplyKind.FAILED, request=number, value=error.errno or 0)
        else:
            if pid == 0:
                targets = _targets(descriptors, has_media=has_media)
                _become_child(self._function, targets, server_pid, silent=self._silences_children)
            pidfd = os.pidfd_open(pid)
            self._pids[pidfd] = pid
            self._poller.register(pidfd, select.POLLIN)
            self._send(ReplyKind.SPAWNED, request=number, pid=pid, descriptors=[pidfd])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _report_exit(self, pidfd: int) -> None:
        pid = self._pids.pop(pidfd)
        self._poller.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._send(ReplyKind.EXITED, pid=pid, value=status)

    def _end_children(self) -> None:
        for pidfd in self._pids:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pid in self._pids.values():
            os.waitpid(pid, 0)

    def _send(
        self, kind: ReplyKind, *, request: int = 0, pid: int = 0, value: int = 0, descriptors: Sequence[int] = ()
    ) -> None:
        socket.send_fds(self._control, [REPLY.pack(kind, request, pid, value)], list(descriptors))


def _targets(descriptors: Sequence[int], *, has_media: bool) -> dict[int, int]:
    """Return which received descriptor becomes which of the child's."""
    extras = descriptors[1 + has_media :]
    targets = {SOCKET_FD: descriptors[0]}
    if has_media:
        targets[MEDIA_FD] = descriptors[1]
    return targets | {FIRST_EXTRA_FD + index: descriptor for index, descriptor in enumerate(extras)}


def _become_child(function: Entry, targets: dict[int, int], server_pid: int, *, silent: bool) -> None:
    """Never returns: the child ends here whatever its function does."""
    status = 1
    try:
        die_with_parent()
        if os.getppid() != server_pid:  # it died before the kernel was asked to watch it
            os._exit(1)
        os.setsid()
        _reset_signals()
        _place_descriptors(targets, silent=silent)
        gc.enable()
        function(SOCKET_FD)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:  # noqa: BLE001 - the edge of the process: what it was is told and becomes the status
        _tell_of(error)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def _tell_of(error: BaseException, **more: str) -> None:
    """Write one line that says what broke and where, as one event of the service's log.

    Never a child's error's own text: it may quote a URL with its key, or what a publisher sent.
    """
    # Without the lines themselves: in the cage their files cannot be opened.
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    frames = [(code, line) for code, line in frames if not code.co_filename.startswith("<frozen importlib")][-_FRAMES:]
    where = [f"{code.co_filename.rpartition('/')[2]}:{line} {code.co_name}" for code, line in frames]
    event = {"event": "child.fault", "level": "error", "error": type(error).__name__, "pid": os.getpid(), "at": where}
    sys.stderr.write(json.dumps(event | more) + "\n")


def _reset_signals() -> None:
    """Defaults, but what Python ignores itself, so that a write fails by an error: SIGPIPE and SIGXFSZ."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _place_descriptors(targets: dict[int, int], *, silent: bool) -> None:
    """Put each descriptor at its number, /dev/null at 0 and 1 (and 2), and close all others."""
    above = max(targets) + 1
    parked = {target: _park(descriptor, above) for target, descriptor in targets.items()}
    for target, descriptor in parked.items():
        os.dup2(descriptor, target)
    null = _park(os.open(os.devnull, os.O_RDWR), above)
    for number in (0, 1, 2) if silent else (0, 1):
        os.dup2(null, number)
    for number in range(SOCKET_FD, above):
        if number not in targets:
            with contextlib.suppress(OSError):  # it was not open
                os.close(number)
    os.closerange(above, os.sysconf("SC_OPEN_MAX"))


def _park(descriptor: int, above: int) -> int:
    """Return a copy of `descriptor` with a number of at least `above`, out of the way of the targets."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, above)


def _clear_environment() -> None:
    """Empty Python's and the C library's environment; the kernel's copy was empty from the start."""
    os.environ.clear()
    ctypes.CDLL(None).clearenv()


if __name__ == "__main__":
    main()
