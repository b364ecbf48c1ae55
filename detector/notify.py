"""What the service tells systemd: ready, alive, reloading, ending. The protocol of sd_notify(3), in datagrams.

The watchdog's sign of life comes from the event loop, and only while every long-lived work of the service is there: a
thread that only ticks would prove nothing.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from typing import Self

import structlog

log = structlog.get_logger()

_STATUS_SECONDS = 10.0
_MOST_STATUS_CHARACTERS = 300


class Notifier:
    """Speaks to the service manager that started this process; does nothing where there is none.

    Args:
        address: A path, or a name in the abstract namespace behind an `@`; None where nobody listens.
        watchdog_seconds: Without a sign of life for so long the manager ends the service; None where it does not look.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self._watchdog_seconds = watchdog_seconds if address else None
        self._is_silent = False
        self._is_ready = False
        self._is_well: Callable[[], bool] = lambda: True
        self._status: Callable[[], str] = str
        self._told = ""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Take the manager's address out of the environment, so that no child process can speak in our name."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        is_ours = environment.pop("WATCHDOG_PID", "") in {"", str(os.getpid())}
        watchdog = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() and int(microseconds) else None
        return cls(address if address.startswith(("/", "@")) and len(address) > 1 else None, watchdog)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Self]:
        """Give signs of life from `ready` on until the block ends."""
        if self._address is None:
            yield self
            return
        task = asyncio.create_task(self._keep_alive(), name="notify.watchdog")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def ready(self, is_well: Callable[[], bool], status: Callable[[], str]) -> None:
        """The service is up. Signs of life come while `is_well`; `status` is one line for `systemctl status`."""
        self._is_well, self._status = is_well, status
        self._is_ready = True
        self._told = _line(status())
        self._send("READY=1", f"STATUS={self._told}")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The config is read again while the block lasts."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def stopping(self) -> None:
        """The service ends now; signs of life go on until it has."""
        self._send("STOPPING=1", "STATUS=open alerts get a last chance to leave")
        self._status = str

    async def _keep_alive(self) -> None:
        """A sign every half of the watchdog's time, as sd_watchdog_enabled(3) advises; the status when it changes."""
        pause = min(self._watchdog_seconds / 2, _STATUS_SECONDS) if self._watchdog_seconds else _STATUS_SECONDS
        while True:
            await asyncio.sleep(pause)
            if not self._is_ready:
                continue
            if self._watchdog_seconds and self._is_well():
                self._send("WATCHDOG=1")
            status = _line(self._status())
            if status and status != self._told:
                self._told = status
                self._send(f"STATUS={status}")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        name = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(lines).encode(), name)
        except OSError as error:  # a manager that does not listen is no reason to stop watching streams
            if not self._is_silent:
                log.warning("notify.unheard", why=error.strerror)
            self._is_silent = True
        else:
            self._is_silent = False


def _line(text: str) -> str:
    """One printable line: a line break would be read as another message."""
    return "".join(char if char.isprintable() else " " for char in text)[:_MOST_STATUS_CHARACTERS]
