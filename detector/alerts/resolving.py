"""The addresses of one host: looked up in a thread of its own, once for all who ask, and remembered for bad times."""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from detector.alerts.own_thread import in_own_thread

_PATIENCE_SECONDS: Final = 1.0
"""So long a look-up is waited for where an earlier one is known."""

_FRESH_SECONDS: Final = 5.0
_KEPT_SECONDS: Final = 3600.0
_ADDRESSES: Final = 4


class HostResolver:
    """Resolves a host anew when its addresses are 5 s old, or did not serve; an address is its own answer.

    A resolver that hangs or fails is passed by with what the host resolved to within the last hour.
    """

    def __init__(self, host: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._port = port
        self._clock = clock
        self._looking: asyncio.Future[list[Any]] | None = None
        self._known: tuple[str, ...] = ()
        self._known_at = self._fresh_until = 0.0

    @property
    def is_looking(self) -> bool:
        """Whether a look-up is under way."""
        return self._looking is not None

    async def addresses(self) -> tuple[str, ...]:
        """Return up to four addresses, in the resolver's order. Raises OSError where the host is not known."""
        if is_address(self._host):
            return (self._host,)
        if self._clock() < self._fresh_until:
            return self._known
        if self._looking is None:
            work = partial(socket.getaddrinfo, self._host, self._port, type=socket.SOCK_STREAM)
            self._looking = in_own_thread(work, "stopframe-resolve")
            self._looking.add_done_callback(self._take)
        is_known = self._known and self._clock() - self._known_at < _KEPT_SECONDS
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS if is_known else None):
                await asyncio.shield(self._looking)
        except (OSError, UnicodeError):  # a TimeoutError is one
            if not is_known:
                raise
        return self._known

    def _take(self, looked: "asyncio.Future[list[Any]]") -> None:
        self._looking = None
        if not looked.cancelled() and looked.exception() is None:
            found = dict.fromkeys(str(entry[4][0]) for entry in looked.result())
            self._known, self._known_at = tuple(found)[:_ADDRESSES], self._clock()
            self._fresh_until = self._known_at + _FRESH_SECONDS

    def did_not_serve(self) -> None:
        """Nobody was reached there: look it up again."""
        self._fresh_until = 0.0


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
