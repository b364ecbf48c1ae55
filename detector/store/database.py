"""One SQLite file, one named thread that owns its only connection, one bounded queue of jobs to it."""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog

from detector.store.faults import StoreRefused, StoreUnavailable, named_fault
from detector.store.schema import STEPS

T = TypeVar("T")

log = structlog.get_logger()

_BATCH_LIMIT: Final = 64
"""Jobs that share one commit: a burst of alerts pays for one fsync, not for one each."""

_LATE_KEPT: Final = 10_000
_CLOSE_SECONDS: Final = 10.0
_LAST_SECONDS: Final = 2.0
_LOOK_AGAIN_SECONDS: Final = 0.9
"""Between two tries to open a file that could not be opened: less than between two probes of delivery."""


@dataclass(slots=True)
class _Job:
    """Work for the thread, and where its outcome goes."""

    work: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Desk:
    """All that the loop's side and the thread share."""

    path: Path
    loop: asyncio.AbstractEventLoop
    jobs: "queue.Queue[_Job | None]"
    opened: "asyncio.Future[None]"
    must_open: bool


class Database:
    """The service's SQLite file.

    `write` and `read` hand a function to the one thread that owns the connection. A write that returned is on disk
    (WAL, `synchronous=FULL`): `kill -9` and power loss keep it. Writes that wait together share one commit; each still
    succeeds or fails alone, unless the commit itself fails. Nobody waits longer than `answer_seconds`. Errors of the
    disk surface as `StoreUnavailable`; errors of the function's own making surface unchanged.

    A file that is removed or replaced while it is open is let go, and the one at its place is used, or begun. With
    `must_open=False` a file that cannot be opened now (a full disk, damage) refuses every job until it can.
    """

    def __init__(
        self, path: Path | str, *, queue_limit: int = 1024, answer_seconds: float = 10.0, must_open: bool = True
    ) -> None:
        self._path = Path(path)
        self._must_open = must_open
        self._queue_limit = queue_limit
        self._answer_seconds = answer_seconds
        self._desk: _Desk | None = None
        self._thread: threading.Thread | None = None
        self._late: dict[str, Callable[[sqlite3.Connection], Any]] = {}
        self.late_lost_total = 0
        """Works left for later that had no room in memory, or were faulty."""

    @classmethod
    def open(
        cls, path: Path | str, *, queue_limit: int = 1024, answer_seconds: float = 10.0, must_open: bool = True
    ) -> Self:
        """Return the database at `path`, to be entered with `async with`; the file is made (mode 0600) if missing."""
        return cls(path, queue_limit=queue_limit, answer_seconds=answer_seconds, must_open=must_open)

    async def __aenter__(self) -> Self:
        """Start the thread, open the file, bring its tables up to date.

        Raises:
            StoreUnavailable: the file cannot be used; no thread is left behind. With `must_open=False` only
                `StoreRefused`.
        """
        loop = asyncio.get_running_loop()
        desk = _Desk(self._path, loop, queue.Queue(self._queue_limit), loop.create_future(), self._must_open)
        self._thread = threading.Thread(target=_serve, args=(desk,), name="stopframe-database", daemon=True)
        self._thread.start()
        try:
            await desk.opened
        except StoreUnavailable:
            await asyncio.to_thread(self._thread.join)
            raise
        self._desk = desk
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is queued or was kept for later, then close the file; a disk that hangs is left behind."""
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self.write_late()
        desk, self._desk = self._desk, None
        if desk is not None and self._thread is not None:
            with contextlib.suppress(queue.Full):
                await asyncio.to_thread(desk.jobs.put, None, timeout=_CLOSE_SECONDS)
            await asyncio.to_thread(self._thread.join, _CLOSE_SECONDS)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction; when this returns, the transaction is on disk.

        A caller that is cancelled does not undo the write: it may still happen.

        Raises:
            StoreUnavailable: the disk refused or does not answer, the queue is full, or the database is closed.
        """
        return await self._submit(work)

    def write_later(self, what: str, work: Callable[[sqlite3.Connection], Any]) -> None:
        """Keep `work`, which the disk did not take, for `write_late`; of works under one name only the last is kept."""
        self._late.pop(what, None)
        self._late[what] = work
        if len(self._late) > _LATE_KEPT:
            del self._late[next(iter(self._late))]
            self.late_lost_total += 1

    async def write_in_order(self, what: str, work: Callable[[sqlite3.Connection], Any]) -> None:
        """Write `work` after everything that was kept for later; it is kept itself until it is on disk.

        It may run twice, and must come to the same then.

        Raises:
            StoreUnavailable: as `write`.
        """
        self.write_later(what, work)
        await self.write_late()

    def problems(self) -> list[str]:
        """One sentence where works that waited were lost, until the service ends."""
        if not self.late_lost_total:
            return []
        return [f"{self.late_lost_total} incidents or ends of cuts are lost: the disk did not take them in time"]

    def drop_late(self, what: str) -> None:
        """Forget a work that was kept for later: something newer is on disk."""
        self._late.pop(what, None)

    async def write_late(self) -> int:
        """Write down what was kept for later, in its order; returns how much that was.

        A work that fails by itself, not by the disk, is dropped and counted: it must not hold up the others.

        Raises:
            StoreUnavailable: as `write`; what is not written yet is still kept.
        """
        done = 0
        while self._late:
            some = dict(list(self._late.items())[:_BATCH_LIMIT])
            for failed, error in await self.write(partial(_run_all, tuple(some.items()))):
                log.warning("store.late_work_failed", what=failed, error=error)
                self.late_lost_total += 1
            for what, work in some.items():
                if self._late.get(what) is work:
                    del self._late[what]
            done += len(some)
        return done

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work`, which sees every write submitted before it.

        Raises:
            StoreUnavailable: the disk refused or does not answer, the queue is full, or the database is closed.
        """
        return await self._submit(work)

    async def _submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        desk = self._desk
        if desk is None:
            raise StoreUnavailable("the database is closed: the service is not running")
        job = _Job(work, desk.loop.create_future())
        try:
            desk.jobs.put_nowait(job)
        except queue.Full:
            raise StoreUnavailable("the database cannot keep up: check the disk's latency") from None
        try:
            async with asyncio.timeout(self._answer_seconds):
                result: T = await job.future
        except TimeoutError:
            raise StoreUnavailable("the disk does not answer: check its latency and its mount") from None
        return result


def _run_all(
    works: Sequence[tuple[str, Callable[[sqlite3.Connection], Any]]], connection: sqlite3.Connection
) -> list[tuple[str, str]]:
    """Run works in their order; returns those that are faulty by themselves, each with the name of its error."""
    faulty: list[tuple[str, str]] = []
    for what, work in works:
        try:
            work(connection)
        except Exception as error:
            if isinstance(named_fault(error, Path()), StoreUnavailable):
                raise
            faulty.append((what, type(error).__name__))
    return faulty


@dataclass(slots=True)
class _File:
    """The file as the thread holds it: open, or why not and when to look again."""

    path: Path
    connection: sqlite3.Connection | None = None
    identity: tuple[int, int] | None = None
    fault: BaseException | None = None
    look_at: float = 0.0

    def open(self) -> None:
        """Open what lies at the path; `fault` says why that cannot be done now."""
        try:
            self.connection = _open(self.path)
            self.identity = _identity(self.path)
            self.fault = None
        except (sqlite3.Error, OSError, StoreUnavailable) as error:
            self.fault = named_fault(error, self.path)
            self.look_at = time.monotonic() + _LOOK_AGAIN_SECONDS

    def usable(self) -> sqlite3.Connection | None:
        """Return the connection to what lies at the path now, if there can be one."""
        if self.connection is not None and _identity(self.path) != self.identity:
            log.warning("store.replaced", file=self.path.name, note="it was removed or replaced under the service")
            self.close()
            self.look_at = 0.0
        if self.connection is None and time.monotonic() >= self.look_at:
            self.open()
        return self.connection

    def close(self) -> None:
        """Let go of the file."""
        if self.connection is not None:
            with contextlib.suppress(sqlite3.Error):  # its last checkpoint may find the disk full: the WAL keeps it
                self.connection.close()
            self.connection = None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _serve(desk: _Desk) -> None:
    """The thread's body: open, answer jobs in batches until `None`, close."""
    file = _File(desk.path)
    file.open()
    if file.fault is not None and (desk.must_open or not _may_pass(file.fault)):
        _tell(desk, desk.opened, None, file.fault)
        return
    try:
        _tell(desk, desk.opened, None, None)
        running = True
        while running:
            batch, running = _next_batch(desk.jobs)
            connection = file.usable() if batch else None
            if connection is not None:
                _run_batch(connection, batch, desk.path)
            for job in batch:
                _tell(desk, job.future, job.result, job.error if connection is not None else file.fault)
    finally:
        file.close()


def _may_pass(fault: BaseException) -> bool:
    return isinstance(fault, StoreUnavailable) and not isinstance(fault, StoreRefused)


def _next_batch(jobs: "queue.Queue[_Job | None]") -> tuple[list[_Job], bool]:
    """Wait for a job, take those that wait with it; False says that the last one was taken."""
    batch: list[_Job] = []
    item = jobs.get()
    while item is not None:
        batch.append(item)
        if len(batch) == _BATCH_LIMIT:
            return batch, True
        try:
            item = jobs.get_nowait()
        except queue.Empty:
            return batch, True
    return batch, False


def _run_batch(connection: sqlite3.Connection, batch: Sequence[_Job], path: Path) -> None:
    """Run every job under its own savepoint and commit once; outcomes are left in the jobs."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in batch:
            _run_job(connection, job, path)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):  # a failing disk may have ended the transaction, or fail once more
            connection.execute("ROLLBACK")
        for job in batch:
            job.error = job.error or named_fault(error, path)


def _run_job(connection: sqlite3.Connection, job: _Job, path: Path) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except Exception as error:
        job.error = named_fault(error, path)
        if isinstance(error, sqlite3.Error) and not connection.in_transaction:
            raise  # a full disk can make SQLite roll the whole batch back by itself: then nobody's row is there
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _tell(desk: _Desk, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    def settle() -> None:
        if future.done():  # the caller was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        desk.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        # The loop is closed: nobody waits any more, and what was committed stays committed.
        return


def _open(path: Path) -> sqlite3.Connection:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # SQLite gives its -wal and -shm files the mode of this one
    finally:
        os.close(descriptor)
    connection = sqlite3.connect(path, isolation_level=None, timeout=2.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # Small checkpoints: each holds up the commit that sets it off, and an alert may be waiting behind that.
        connection.execute("PRAGMA wal_autocheckpoint = 200")
        connection.execute("PRAGMA cache_size = -512")  # KiB; what is read again and again is a few pages
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # rows that were removed hold publishers' real paths
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Take every step that the file lacks, in one transaction: a step that fails, or a kill, leaves it as it was."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(STEPS):
        raise StoreRefused(f"{path} was written by a newer Stopframe: upgrade this one, or name another state_dir")
    if version == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in (statement for step in STEPS[version:] for statement in step):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
    except BaseException:
        if connection.in_transaction:  # a full disk makes SQLite take it back by itself
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
