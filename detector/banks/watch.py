"""Notices when banks change on disk: what a command added acts on its running streams within a second."""

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from models.bank_store import bank_names
from models.generations import POINTER

_LOOK_EVERY_SECONDS = 0.5
"""A look is a listing and a `stat` of each pointer: a thousandth of a core."""


class BankWatch:
    """The banks of one folder, by the state of their pointers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = self._look()

    def names(self) -> Collection[str]:
        """The banks that exist, as last seen."""
        return self._seen.keys()

    def problems(self, configured: Collection[str]) -> list[str]:
        """One sentence for each configured bank that does not exist: a typo there would go unnoticed."""
        return [
            f"bank {name} is configured and does not exist; make it with 'stopframe hashes add {name} FILE' or correct "
            "its name"
            for name in sorted(set(configured) - set(self._seen))
        ]

    async def changes(self) -> AsyncIterator[None]:
        """Yield after each change, for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            try:
                found = await asyncio.to_thread(self._look)  # a mount that hangs must not hold up the service
            except OSError:  # what is in force stays so; the next look may succeed
                continue
            if found != self._seen:
                self._seen = found
                yield

    def _look(self) -> dict[str, tuple[int, int]]:
        """Return (inode, modification time) of every pointer; a change replaces the file."""
        found = {}
        for name in bank_names(self._folder):
            try:
                status = (self._folder / name / POINTER).stat()
            except FileNotFoundError:  # removed between the two looks
                continue
            found[name] = (status.st_ino, status.st_mtime_ns)
        return found
