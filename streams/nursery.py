"""The service's side of the forkserver: starts it, has it fork children, replaces it when it dies."""

import asyncio
import contextlib
import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from streams import forkserver
from streams.forkserver import REPLY, REQUEST, ReplyKind

log = structlog.get_logger()

_BOOTSTRAP = (
    "import sys; cut = sys.argv.index('--'); sys.path[:] = sys.argv[cut + 1:]; "
    "from streams.forkserver import main; main(sys.argv[1:cut])"
)
_START_SECONDS = 60.0  # imports of a cold machine
_SPAWN_SECONDS = 10.0
_SPAWN_TRIES = 3
_END_SECONDS = 2.0
_SPAWNS_AT_ONCE = 8
_RESTART_SECONDS = 0.1
_RESTART_LIMIT_SECONDS = 5.0


class NurseryBroken(Exception):
    """Raised by `Nursery.__aenter__` and `spawn`: no child can be had; nothing of the request is left behind."""


class _ForkserverLost(Exception):
    """The forkserver died before it answered."""


class Child:
    """One child process. Use it as `async with`, or `close()` it; until then it holds two descriptors.

    `socket` is the service's end of its private, non-blocking stream socket.
    """

    def __init__(self, pid: int, pidfd: int, own_end: socket.socket) -> None:
        self.pid = pid
        self.socket = own_end
        self._pidfd = pidfd
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        """Return the child."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    def kill(self) -> None:
        """Send SIGKILL; once it has ended, or is closed, do nothing. Never hits another process of the same number."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int:
        """Return its wait status (`os.waitstatus_to_exitcode`) when it has ended and no zombie is left."""
        return await asyncio.shield(self._exited)

    async def close(self) -> None:
        """Kill it if it lives, wait for its end, release its socket and descriptors."""
        self.kill()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self.wait()
        except TimeoutError:  # SIGKILL is on its way; what keeps the process is the kernel's
            log.warning("child.lingers", pid=self.pid)
        finally:
            self.release()

    def release(self) -> None:
        """Kill it and release everything, without waiting for its end."""
        self.kill()
        self.socket.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def note_exit(self, status: int) -> None:
        """Take the wait status from the forkserver."""
        if not self._exited.done():
            self._exited.set_result(status)


@dataclass(frozen=True, slots=True)
class _Request:
    """A spawn on its way: who waits, and the end of the socket that the child will be spoken to through."""

    answer: asyncio.Future[Child]
    own_end: socket.socket


class _ForkserverProcess:
    """One forkserver process and the conversation with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.children: dict[int, Child] = {}
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[int] = loop.create_future()
        self.lost = asyncio.Event()
        self._requests: dict[int, _Request] = {}
        self._numbers = itertools.count(1)
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            os.set_inheritable(other.fileno(), True)
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own words
                [sys.executable, "-I", "-c", _BOOTSTRAP, "--control-fd", str(other.fileno()), *command],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._control.setblocking(False)
        loop.add_reader(self._control, self._receive)

    async def spawn(self, media_fd: int | None, extra_fds: Sequence[int]) -> Child:
        """Return a new child; raises `_ForkserverLost`, or `OSError` if the fork failed."""
        own_end, childs_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        own_end.setblocking(False)
        number = next(self._numbers)
        request = _Request(asyncio.get_running_loop().create_future(), own_end)
        self._requests[number] = request
        try:
            with childs_end:
                self._send(number, childs_end.fileno(), media_fd, extra_fds)
            async with asyncio.timeout(_SPAWN_SECONDS):
                return await request.answer
        except BaseException as error:
            self._requests.pop(number, None)
            own_end.close()
            answer = request.answer
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().release()  # it was born in the very moment in which nobody wanted it any more
            if isinstance(error, _ForkserverLost | TimeoutError):
                self._process.kill()  # gone already, or it hangs
                raise _ForkserverLost from error
            raise

    async def stop(self) -> None:
        """End it and its children; returns when the process is gone."""
        self._lose()
        if self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(_END_SECONDS):
                await readable(self._pidfd)
        except TimeoutError:  # it was stopped or hung: it is killed now, and its children die with it
            pass
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._pidfd)

    def _send(self, number: int, childs_end: int, media_fd: int | None, extra_fds: Sequence[int]) -> None:
        media = [] if media_fd is None else [media_fd]
        message = REQUEST.pack(number, bool(media), len(extra_fds))
        try:
            socket.send_fds(self._control, [message], [childs_end, *media, *extra_fds])
        except (BrokenPipeError, ConnectionResetError, BlockingIOError) as error:
            raise _ForkserverLost from error

    def _receive(self) -> None:
        """Handle one message; called by the event loop when there is one."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, REPLY.size, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message, descriptors = b"", []
        if not message:
            self._lose()
            return
        kind, number, pid, value = REPLY.unpack(message)
        match ReplyKind(kind):
            case ReplyKind.READY:
                self.ready.set_result(value)
            case ReplyKind.SPAWNED:
                self._born(number, pid, descriptors)
            case ReplyKind.FAILED:
                self._failed(number, OSError(value, os.strerror(value)))
            case ReplyKind.EXITED:
                if child := self.children.pop(pid, None):
                    child.note_exit(value)

    def _born(self, number: int, pid: int, descriptors: Sequence[int]) -> None:
        if not descriptors:  # the kernel drops what exceeds our limit; the child reads the end of its socket and ends
            self._failed(number, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        (pidfd,) = descriptors
        request = self._requests.pop(number, None)
        if request is None:  # who asked for it was cancelled
            with contextlib.suppress(ProcessLookupError):  # it read the end of its socket, and ended
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            return
        child = Child(pid, pidfd, request.own_end)
        self.children[pid] = child
        if request.answer.done():
            child.release()
        else:
            request.answer.set_result(child)

    def _failed(self, number: int, error: Exception) -> None:
        request = self._requests.pop(number, None)
        if request is not None and not request.answer.done():
            request.answer.set_exception(error)

    def _lose(self) -> None:
        """Close the conversation: who waits hears of it, and the children count as killed, for they die with it."""
        if self.lost.is_set():
            return
        self.lost.set()
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        if not self.ready.done():
            self.ready.set_exception(_ForkserverLost())
        for number in list(self._requests):
            self._failed(number, _ForkserverLost())
        for child in self.children.values():
            child.kill()
            child.note_exit(signal.SIGKILL)
        self.children.clear()


class Nursery:
    """Starts children by forking a warm process: about 10 ms each, and none of the service's memory in them.

    `entry` is the `MODULE:FUNCTION` that each child runs; `preload` names further modules to import once.
    `search_paths` come before the service's own import path. `silences_children` sends their error output to /dev/null.
    Enter it before secrets are read. Leaving it ends every child.
    """

    def __init__(
        self,
        entry: str,
        *,
        preload: Sequence[str] = (),
        search_paths: Sequence[str] = (),
        silences_children: bool = False,
    ) -> None:
        self.restarts = 0
        self._entry = entry
        self._command = [entry, *(f"--preload={name}" for name in preload)]
        if silences_children:
            self._command.append("--silence-children")
        root = str(Path(forkserver.__file__).resolve().parents[1])
        paths = dict.fromkeys([*search_paths, *sys.path, root])
        self._command += ["--", *(str(Path(path).absolute()) for path in paths)]
        self._gate = asyncio.Semaphore(_SPAWNS_AT_ONCE)
        self._running = asyncio.Event()
        self._forkserver: _ForkserverProcess | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the forkserver; raises `NurseryBroken` if it does not come up."""
        await self._start()
        self._watch = asyncio.create_task(self._replace_when_lost(), name=f"nursery[{self._entry}].watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every child and the forkserver."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._forkserver is not None:
            await self._forkserver.stop()

    @property
    def live_children(self) -> int:
        """How many children run."""
        return 0 if self._forkserver is None else len(self._forkserver.children)

    async def spawn(self, media_fd: int | None = None, *, extra_fds: Sequence[int] = ()) -> Child:
        """Return a new child; `media_fd` becomes its descriptor 4, `extra_fds` 5 and up. The caller keeps its own.

        Raises `NurseryBroken` if none can be had.
        """
        async with self._gate:
            for _ in range(_SPAWN_TRIES):
                try:
                    async with asyncio.timeout(_SPAWN_SECONDS):
                        await self._running.wait()
                    server = self._forkserver
                    assert server is not None
                    return await server.spawn(media_fd, extra_fds)
                except _ForkserverLost:
                    if server is self._forkserver:  # not replaced yet
                        self._running.clear()
                except TimeoutError:
                    break
                except OSError as error:
                    raise NurseryBroken(
                        f"no process can be started for {self._entry} ({error.strerror}): "
                        "raise the limits on processes, memory or open files"
                    ) from error
        raise NurseryBroken(f"the forkserver of {self._entry} keeps dying: its error output says why")

    async def _start(self) -> None:
        server = _ForkserverProcess(self._command)
        try:
            async with asyncio.timeout(_START_SECONDS):
                threads = await server.ready
        except (TimeoutError, _ForkserverLost) as error:
            await server.stop()
            raise NurseryBroken(f"the forkserver of {self._entry} does not start: its error output says why") from error
        except asyncio.CancelledError:
            await server.stop()
            raise
        if threads != 1:
            log.warning("forkserver.threads", entry=self._entry, threads=threads)
        self._forkserver = server
        self._running.set()

    async def _replace_when_lost(self) -> None:
        delay = _RESTART_SECONDS
        while True:
            assert self._forkserver is not None
            await self._forkserver.lost.wait()
            self._running.clear()
            await self._forkserver.stop()
            self.restarts += 1
            log.warning("forkserver.lost", entry=self._entry, restarts=self.restarts)
            while not self._running.is_set():
                try:
                    await self._start()
                    delay = _RESTART_SECONDS
                except NurseryBroken as error:
                    log.warning("forkserver.broken", entry=self._entry, error=str(error))
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, _RESTART_LIMIT_SECONDS)


async def readable(descriptor: int) -> None:
    """Return when `descriptor` can be read; for a pidfd, when its process has ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
