"""Serving an app inside the service's event loop: on a TCP port, or on a Unix socket that only its owner may open."""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Self

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from detector.api.connections import CONNECTIONS, HEAD_BYTES, BoundedConnection
from streams.listening import end_listening

_GRACE_SECONDS = 1.0
_TICK_SECONDS = 1.0


class ListenFailed(Exception):
    """Raised on entering a server: nothing listens. The text is one sentence with the remedy."""


class _Quiet(uvicorn.Server):
    """uvicorn without its signal handlers, and without a look ten times a second: the service decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._is_asked_to_stop = asyncio.Event()

    def ask_to_stop(self) -> None:
        """Have it stop soon."""
        self.should_exit = True
        self._is_asked_to_stop.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # what is due once a second: the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._is_asked_to_stop.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave nobody between the door and the room, who would wait for an answer that does not come."""
        for server in self.servers:
            await end_listening(server)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Serving:
    """One running uvicorn on one listening socket."""

    def __init__(self, app: FastAPI, name: str) -> None:
        self._app, self._name = app, name
        self._is_dropping = False
        self._task: asyncio.Task[None] | None = None
        self._server = _Quiet(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                http=partial(BoundedConnection, {}),  # type: ignore[arg-type] # it is called, never looked at
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # its warnings are what anybody who connects can make it say
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=CONNECTIONS,
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=5,
            )
        )

    async def start(self, listening: socket.socket) -> None:
        self._task = asyncio.create_task(self._server.serve([listening]), name=self._name)
        is_listening = asyncio.create_task(self._server.listening.wait(), name=f"{self._name}.start")
        await asyncio.wait([self._task, is_listening], return_when=asyncio.FIRST_COMPLETED)
        is_listening.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Stop listening, let running requests end for a moment, then drop them."""
        if self._task is None:
            return
        self._server.ask_to_stop()
        try:
            done, _ = await asyncio.wait([self._task], timeout=_GRACE_SECONDS)
            if not done:
                await self._drop()
            await self._task
        finally:
            self._task.cancel()

    async def _drop(self) -> None:
        self._is_dropping = self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the requests learn that their connections are gone
        for request in list(self._server.server_state.tasks):
            request.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = _REFUSE_BOTH if _says_two_lengths(scope) else self._app
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            # uvicorn would log the traceback of a request that we dropped on purpose.
            if not self._is_dropping:
                raise


_REFUSE_BOTH = JSONResponse(
    {"error": "send Content-Length or Transfer-Encoding, not both."},
    HTTPStatus.BAD_REQUEST,
    headers={"Connection": "close"},
)


def _says_two_lengths(scope: Scope) -> bool:
    """Whether a proxy before us may have seen another end of the body than we do (RFC 9112, 6.1 and 11.2)."""
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names


class HttpServer:
    """`async with HttpServer(app, host, port) as server`: serves until the block ends. Port 0 takes a free one.

    `option` is the config's, for the sentence that says why it cannot listen.
    """

    def __init__(self, app: FastAPI, host: str, port: int, *, option: str = "http.listen") -> None:
        self._host, self._wanted, self._option = host, port, option
        self._serving = _Serving(app, "api.http")
        self.port = port

    async def __aenter__(self) -> Self:
        listening = _bind_tcp(self._host, self._wanted, self._option)
        self.port = listening.getsockname()[1]
        await self._serving.start(listening)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._serving.stop()


class UnixServer:
    """`async with UnixServer(app, path)`: serves on a socket of mode 0600 until the block ends.

    A lock beside the socket says whether its service lives: what a dead one left behind is replaced, a live one's is
    refused. `path` may be longer than the 107 bytes that an address takes.
    """

    def __init__(self, app: FastAPI, path: Path) -> None:
        self._path = path
        self._serving = _Serving(app, "api.control")
        self._resources = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            try:
                folder = undo.enter_context(open_folder(self._path.parent))
                undo.enter_context(exclusive(self._path.with_suffix(".lock")))
                listening = undo.enter_context(_bind_unix(folder, self._path))
            except OSError as error:
                sentence = (
                    f"cannot make {self._path} ({error.strerror}); give stopframe a state_dir that it may write to."
                )
                raise ListenFailed(sentence) from None
            undo.callback(self._path.unlink, missing_ok=True)
            await self._serving.start(listening)
            self._resources = undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._resources:
            await self._serving.stop()


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """Hold `folder` open; `socket_address` makes short addresses of it. Raises OSError."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def socket_address(folder: int, name: str) -> str:
    """Return an address of the socket `name` in an open folder that fits into the 107 bytes of a Unix address."""
    return f"/proc/self/fd/{folder}/{name}"


def _bind_tcp(host: str, port: int, option: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
    except socket.gaierror:
        raise ListenFailed(
            f"'{host}' is no address to listen on; use 127.0.0.1, or an address of this machine."
        ) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
        listening.listen()
    except OSError as error:
        listening.close()
        raise ListenFailed(_why_not(error, host, port, option)) from None
    return listening


def _why_not(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop what listens there, or write another port under {option}."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; write 127.0.0.1, or one that 'ip address' shows, under {option}."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} needs a privilege that this process lacks; write one above 1023 under {option}."
    return f"cannot listen on port {port} of {host} ({error.strerror}); write another address under {option}."


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock file for as long as the block lasts; raise `ListenFailed` if nobody may, or another process does."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ListenFailed(
            f"cannot write {lock} ({error.strerror}); make state_dir writable for the service."
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ListenFailed(_another(lock.parent)) from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _bind_unix(folder: int, path: Path) -> Iterator[socket.socket]:
    address = socket_address(folder, path.name)
    _remove_stale(address, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        # On Linux a socket file is born with the mode of its socket less the umask: there is no instant at which
        # another user could open it, and the process's umask, which all threads share, stays as it is.
        os.fchmod(listening.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        listening.bind(address)
        listening.setblocking(False)
        listening.listen()
        yield listening


def _remove_stale(address: str, path: Path) -> None:
    """Remove a socket that nobody listens on any more; raise `ListenFailed` for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenFailed(f"{path} is in the way of the control socket; move it elsewhere.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ListenFailed(f"{path} cannot be examined ({error.strerror}); remove it if no service runs.") from None
    raise ListenFailed(_another(path.parent))


def _another(state_dir: Path) -> str:
    return f"another stopframe runs on this state_dir ({state_dir}); stop it, or give this one its own state_dir."
