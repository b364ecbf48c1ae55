"""The event loop as aiomqtt may see it."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any


class ForgivingLoop:
    """The event loop as aiomqtt sees it.

    aiomqtt asks it from a thread to watch the new connection. If the broker closed that meanwhile, there is nothing to
    watch; the loss itself is told by `on_disconnect`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back when there is something to read; a socket that is closed is not watched."""
        with contextlib.suppress(OSError, ValueError):
            self._loop.add_reader(descriptor, callback)

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back when there is room to write; a socket that is closed is not watched."""
        with contextlib.suppress(OSError, ValueError):
            self._loop.add_writer(descriptor, callback)
