"""Keys that may not publish: kept in memory, written to disk, and never written as keys."""

import asyncio
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog

from detector.events import StreamKey

log = structlog.get_logger()

_STREAM_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class RevocationStoreError(Exception):
    """The list of revoked keys could not be read or written, and what to do about it. Raised by a store."""


class RevocationStore(Protocol):
    """Where revoked stream ids outlive the service. Blocking; may be called from any thread."""

    def load(self) -> frozenset[str]:
        """Every revoked stream id. Raises `RevocationStoreError` rather than forget one."""

    def add(self, stream_id: str) -> None:
        """Make `stream_id` one of them, durably before this returns."""

    def remove(self, stream_id: str) -> None:
        """Make it none of them, durably before this returns."""


class FileRevocations:
    """A text file with one stream id a line, mode 0600, replaced as a whole so that a crash leaves old or new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # A caller that stops waiting for a slow disk leaves its thread behind: the next one must not overtake it.
        self._lock = threading.Lock()

    def load(self) -> frozenset[str]:
        """As `RevocationStore.load`. A missing file is an empty list, a damaged one an error."""
        try:
            lines = self._path.read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise RevocationStoreError(
                f"cannot read {self._path} ({_why(error)}): restore it from a backup, or delete it to allow every key"
            ) from error
        for number, line in enumerate(lines, start=1):
            if not _STREAM_ID.fullmatch(line):
                raise RevocationStoreError(
                    f"{self._path}:{number} is no stream id: restore the file from a backup, or delete that line"
                )
        return frozenset(lines)

    def add(self, stream_id: str) -> None:
        """As `RevocationStore.add`."""
        with self._lock:
            self._write(self.load() | {stream_id})

    def remove(self, stream_id: str) -> None:
        """As `RevocationStore.remove`."""
        with self._lock:
            self._write(self.load() - {stream_id})

    def _write(self, stream_ids: frozenset[str]) -> None:
        scratch = self._path.with_name(self._path.name + ".new")
        content = "".join(f"{stream_id}\n" for stream_id in sorted(stream_ids)).encode("ascii")
        try:
            with suppress(FileNotFoundError):
                scratch.unlink()
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)  # the rename itself must survive a power cut
            finally:
                os.close(folder)
        except OSError as error:
            raise RevocationStoreError(
                f"cannot write {self._path} ({_why(error)}): free space there, or make it writable"
            ) from error


class Revocations:
    """The revoked keys of one deployment, as an ingest server consults them.

    `stream_id` turns a key into its keyed hash; only that is kept. Raises `RevocationStoreError` when made, if the
    store cannot be read: a key that was denied must not come back because a file was damaged.
    """

    def __init__(self, store: RevocationStore, stream_id: Callable[[StreamKey], str]) -> None:
        self._store = store
        self._stream_id = stream_id
        self._denied = set(store.load())
        self._write_lock = asyncio.Lock()
        self.unsaved_total = 0
        """Changes that are in force but that the disk refused: they end with the process."""

    def __contains__(self, key: StreamKey) -> bool:
        return self._stream_id(key) in self._denied

    async def add(self, key: StreamKey) -> None:
        """Deny `key`: in force at once, on disk when this returns. What the disk refuses is counted, not raised."""
        stream_id = self._stream_id(key)
        self._denied.add(stream_id)
        await self._save(self._store.add, stream_id)

    async def remove(self, key: StreamKey) -> None:
        """Allow `key` again: on disk first, so that it can never be said to be allowed and come back denied."""
        stream_id = self._stream_id(key)
        await self._save(self._store.remove, stream_id)
        self._denied.discard(stream_id)

    async def _save(self, change: Callable[[str], None], stream_id: str) -> None:
        try:
            async with self._write_lock:
                await asyncio.to_thread(change, stream_id)
        except RevocationStoreError as error:
            # A full disk must not keep a publisher on air: the denial holds in memory and /health tells of it.
            self.unsaved_total += 1
            log.warning("revocation.unsaved", stream=stream_id, why=str(error))


def _why(error: Exception) -> str:
    return (error.strerror or "unreadable").lower() if isinstance(error, OSError) else "not ASCII text"
