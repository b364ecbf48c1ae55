"""Keys that may not publish: kept in memory, written to disk, and never written as keys."""

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import structlog

from detector.events import StreamKey
from models.durable import replace_synced

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
        content = "".join(f"{stream_id}\n" for stream_id in sorted(stream_ids)).encode("ascii")
        try:
            replace_synced(self._path, content, mode=0o600)
        except OSError as error:
            raise RevocationStoreError(
                f"cannot write {self._path} ({_why(error)}): free space there, or make it writable"
            ) from error


class Revocations:
    """The revoked keys of one deployment, as an ingest server consults them.

    `stream_id` turns a key into its keyed hash; only that is kept. Raises `RevocationStoreError` when made, if the
    store cannot be read: a key that was denied must not come back because a file was damaged.

    A change that the disk does not take is in force all the same, and is tried again until the disk takes it; leaving
    the context (`async with`) tries a last time and ends that.
    """

    def __init__(
        self,
        store: RevocationStore,
        stream_id: Callable[[StreamKey], str],
        *,
        disk_seconds: float = 1.0,
        retry_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._stream_id = stream_id
        self._denied = set(store.load())
        self._disk_seconds = disk_seconds
        self._retry_seconds = retry_seconds
        self._unsaved: dict[str, bool] = {}
        self._allowing: set[str] = set()
        self._next_attempt = asyncio.Event()
        self._news = asyncio.Event()
        self._saver: asyncio.Task[None] | None = None
        self._fault = ""
        self.unsaved_total = 0
        """Changes that the disk did not take at once."""

    def __contains__(self, key: StreamKey) -> bool:
        return self._stream_id(key) in self._denied

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Try once more to save what is not on disk; a disk that hangs is left behind."""
        if self._unsaved:
            await self._saved_in_time()
        if self._saver is not None:
            self._saver.cancel()
            await asyncio.gather(self._saver, return_exceptions=True)

    async def add(self, key: StreamKey) -> None:
        """Deny `key`: in force before this first waits, on disk when it returns, unless the disk does not take it."""
        stream_id = self._stream_id(key)
        self._denied.add(stream_id)
        self._allowing.discard(stream_id)
        await self._save(stream_id, is_denied=True)

    async def remove(self, key: StreamKey) -> None:
        """Allow `key` again: on disk first, so that a crash in between leaves it denied; in force when this returns."""
        stream_id = self._stream_id(key)
        self._allowing.add(stream_id)
        await self._save(stream_id, is_denied=False)
        if stream_id in self._allowing:  # nobody denied it again meanwhile
            self._allowing.discard(stream_id)
            self._denied.discard(stream_id)

    def problems(self) -> list[str]:
        """One sentence while changes are not on disk; they end with the process then."""
        if not self._unsaved:
            return []
        count = len(self._unsaved)
        return [f"{count} changes of revoked keys are not on disk, a restart would forget them: {self._fault}"]

    async def _save(self, stream_id: str, *, is_denied: bool) -> None:
        self._unsaved.pop(stream_id, None)  # the last word counts, and comes last
        self._unsaved[stream_id] = is_denied
        await self._saved_in_time()
        if stream_id in self._unsaved:
            # A disk that is full or frozen must not keep a publisher on air.
            self.unsaved_total += 1
            log.warning("revocation.unsaved", stream=stream_id, why=self._fault)

    async def _saved_in_time(self) -> None:
        """Wait until everything is on disk or the disk said no, but not for a disk that does not answer."""
        self._fault = self._fault or "the disk does not answer: check its latency and its mount"
        attempt = self._next_attempt  # one that is under way may have begun too early
        self._news.set()
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._keep_saving(), name="revocations.save")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._disk_seconds):
                await attempt.wait()

    async def _keep_saving(self) -> None:
        """Write what is not on disk, again and again until nothing is left."""
        while self._unsaved:
            self._news.clear()
            attempt, self._next_attempt = self._next_attempt, asyncio.Event()
            changes = dict(self._unsaved)
            try:
                await asyncio.to_thread(self._write, changes)
            except RevocationStoreError as error:
                self._fault = str(error)
                attempt.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._retry_seconds):
                        await self._news.wait()
                continue
            for stream_id, is_denied in changes.items():
                if self._unsaved.get(stream_id) is is_denied:
                    del self._unsaved[stream_id]
            if not self._unsaved:
                self._fault = ""
            attempt.set()

    def _write(self, changes: dict[str, bool]) -> None:
        for stream_id, is_denied in changes.items():
            (self._store.add if is_denied else self._store.remove)(stream_id)


def _why(error: Exception) -> str:
    return (error.strerror or "unreadable").lower() if isinstance(error, OSError) else "not ASCII text"
