"""A disk without room."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from detector.ingest.revocations import RevocationStore, RevocationStoreError
from detector.simulation.fault import LastingFault
from detector.store.database import Database

T = TypeVar("T")


class DiskFull(LastingFault):
    """Whatever the service keeps under `state_dir` while it runs is refused; what is there can be read."""

    name = "disk-full"
    usual = "30s"

    def database(self, path: Path) -> Database | None:
        """As `Fault.database`."""
        found = _FullDatabase(path, must_open=False)
        found.fault = self
        return found

    def denials(self, store: RevocationStore) -> RevocationStore:
        """As `Fault.denials`."""
        return _FullDenials(store, self)


class _FullDatabase(Database):
    """The store, whose thread meets SQLite's own error for each row while the fault is on."""

    fault: DiskFull

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `Database.write`."""
        return await super().write(_no_room if self.fault.is_on else work)


def _no_room(_connection: sqlite3.Connection) -> T:  # type: ignore[type-var]  # it never returns
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    raise error


class _FullDenials:
    """Where denied keys are kept, while there is room."""

    def __init__(self, store: RevocationStore, fault: DiskFull) -> None:
        self._store = store
        self._fault = fault

    def load(self) -> frozenset[str]:
        """As `RevocationStore.load`."""
        return self._store.load()

    def add(self, stream_id: str) -> None:
        """As `RevocationStore.add`."""
        self._look()
        self._store.add(stream_id)

    def remove(self, stream_id: str) -> None:
        """As `RevocationStore.remove`."""
        self._look()
        self._store.remove(stream_id)

    def _look(self) -> None:
        if self._fault.is_on:
            raise RevocationStoreError("the disk is full in this rehearsal; wait until --simulate disk-full is over")
