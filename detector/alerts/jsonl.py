"""Alerts as lines of a file: each on disk before it counts as accepted, the file turned over by its size."""

import asyncio
import contextlib
import errno
import os
import queue
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from detector.alerts.clock import Clock
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.store.retained import RetainedTopics
from models.durable import sync_folder

log = structlog.get_logger()

_WAITING_LIMIT: Final = 1024
_BATCH_LIMIT: Final = 64
"""Lines that share one fsync."""

_GOODBYE_SECONDS: Final = 1.0
_DISK_SECONDS: Final = 5.0
"""So long a line waits for the disk; after that health says so."""

_TURN_AGAIN_SECONDS: Final = 10.0
_LOOK_AGAIN_SECONDS: Final = 10.0
_REMEDIES: Final = {
    errno.ENOENT: "make its folder",
    errno.ENOTDIR: "make its folder",
    errno.EACCES: "let the service write there",
    errno.EPERM: "let the service write there",
    errno.EROFS: "let the service write there",
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
}
_MODE: Final = 0o640


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlSettings:
    """Where the lines go. A file of `rotate_bytes` becomes `PATH.1`, that one `PATH.2`; `keep` of them stay."""

    path: Path
    rotate_bytes: int = 64 * 2**20
    keep: int = 8


@dataclass(slots=True)
class _Line:
    """One alert on its way to the disk, and who waits for it."""

    content: bytes
    answer: "asyncio.Future[None]"


class JsonlSink:
    """The file sink: one alert a line, as every sink gets it.

    A thread of its own writes, so a disk that hangs holds up nobody else. No line is ever torn: what a full disk or a
    crash cut off is taken back, and sent again. A file that was moved away, as logrotate does, is begun anew.
    """

    name = "jsonl"

    def __init__(
        self, settings: JsonlSettings, *, retained: RetainedTopics | None = None, clock: Clock | None = None
    ) -> None:
        del retained, clock  # of other sinks
        self._file = LineFile(settings)
        self._lines: queue.Queue[_Line | None] = queue.Queue(_WAITING_LIMIT)
        self._path = settings.path
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = asyncio.Event()
        self._outage: str | None = None

    async def __aenter__(self) -> Self:
        """Start the thread, which opens the file: what keeps it from that is told before an alert needs it."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="stopframe-jsonl", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is queued and close the file; a disk that hangs is left behind."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(queue.Full, TimeoutError):
            self._lines.put_nowait(None)
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._is_over.wait()

    async def wait_ready(self) -> None:
        """Return at once: there is no connection."""

    async def deliver(self, notice: Notice) -> Receipt:
        """Write one alert and return when it is on disk.

        Raises:
            SinkUnavailable: the disk refuses, or more waits than has room.
        """
        if b"\n" in notice.payload:
            return Receipt.REFUSED
        if self._thread is None:
            raise SinkUnavailable("the sink is closed")
        line = _Line(notice.payload + b"\n", asyncio.get_running_loop().create_future())
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._note("it takes no more, for the disk does not answer; see to that disk")
            raise SinkUnavailable("too many lines wait for the disk") from None
        try:
            async with asyncio.timeout(_DISK_SECONDS):
                await line.answer  # cancelled, it is not written any more: it comes again
        except TimeoutError:
            self._note("the disk does not answer; see to it")
            raise SinkUnavailable("the disk does not answer") from None
        except OSError as error:
            self._note(_what(error))
            raise SinkUnavailable("the disk refused the line") from None
        self._note(None)
        return Receipt.ACCEPTED

    async def tell(self, alarm_id: str, payload: bytes) -> Receipt:
        """Write a line about the node itself; raises as `deliver`."""
        return await self.deliver(Notice(alarm_id, "", 0, payload, 0, 0.0))

    def problems(self) -> list[str]:
        """What keeps alerts from being written."""
        told = []
        if self._outage is not None:
            told.append(f"alerts cannot be written to {self._path}: {self._outage}, or correct alerts.jsonl.path")
        if self._file.turning_fault is not None:
            told.append(
                f"{self._path} grows beyond alerts.jsonl.rotate_at, for it cannot be renamed: "
                f"{self._file.turning_fault}; make its folder writable"
            )
        return told

    def notes(self) -> list[str]:
        """Nothing is worth a note."""
        return []

    def _note(self, why: str | None) -> None:
        """Keep what is wrong; log it once when it begins and once when it is over."""
        if why is not None and self._outage is None:
            log.warning("jsonl.unwritable", path=str(self._path), reason=why)
        elif why is None and self._outage is not None:
            log.info("jsonl.writable", path=str(self._path))
        self._outage = why

    def _serve(self) -> None:
        """The thread: take what waits, write it, flush it once, answer everybody."""
        is_over, is_open = False, self._look()
        while not is_over:
            try:
                batch = [self._lines.get(timeout=None if is_open else _LOOK_AGAIN_SECONDS)]
            except queue.Empty:
                is_open = self._look()
                continue
            with contextlib.suppress(queue.Empty):
                while len(batch) < _BATCH_LIMIT:
                    batch.append(self._lines.get_nowait())
            is_over = None in batch
            lines = [line for line in batch if line is not None and not line.answer.done()]
            fault = self._write(lines)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                assert self._loop is not None
                self._loop.call_soon_threadsafe(_answer, lines, fault)
        self._file.close()
        with contextlib.suppress(RuntimeError):
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._is_over.set)

    def _look(self) -> bool:
        """Whether the file can be opened; health is told."""
        why = None
        try:
            self._file.open()
        except OSError as error:
            why = _what(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._note, why)
        return why is None

    def _write(self, lines: Sequence[_Line]) -> OSError | None:
        try:
            self._file.append([line.content for line in lines])
        except OSError as error:
            return error
        return None


def _what(error: OSError) -> str:
    """What is wrong, and the remedy."""
    why = (error.strerror or type(error).__name__).lower()
    return f"{why}; {_REMEDIES.get(error.errno or 0, 'see to that place')}"


class LineFile:
    """A file of whole lines. Blocking; belongs to one thread.

    A file that cannot be turned over goes on growing: `turning_fault` says why, and it is tried again.
    """

    def __init__(self, settings: JsonlSettings) -> None:
        self.turning_fault: str | None = None
        self._settings = settings
        self._descriptor: int | None = None
        self._turn_at = 0.0

    def append(self, lines: Sequence[bytes]) -> None:
        """Have all lines on disk, or none of them. Raises OSError."""
        if not lines:
            return
        descriptor = self._opened()
        size = os.fstat(descriptor).st_size
        content = b"".join(lines)
        if size and size + len(content) > self._settings.rotate_bytes and time.monotonic() >= self._turn_at:
            self._try_turn_over()
            descriptor = self._opened()
            size = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            self.close()
            raise

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def open(self) -> None:
        """Open the file, if it is not open. Raises OSError."""
        self._opened()

    def _opened(self) -> int:
        if self._descriptor is not None and not self._is_at_its_place(self._descriptor):
            self.close()
        if self._descriptor is None:
            # No waiting for a pipe, and no link: what it leads to would be cut to whole lines, whatever it is.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            try:
                descriptor = os.open(self._settings.path, flags, _MODE)
            except OSError as error:
                raise OSError(0, "it is a link") if error.errno == errno.ELOOP else error from None
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(0, "it is no regular file")
                _take_back_torn_line(descriptor)
                sync_folder(self._settings.path.parent)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def _is_at_its_place(self, descriptor: int) -> bool:
        try:
            there = self._settings.path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    def _try_turn_over(self) -> None:
        """Begin a new file; where the folder refuses, the alerts of the next seconds go on where they are."""
        try:
            self._turn_over()
        except OSError as error:
            self.turning_fault = str(error.strerror or type(error).__name__).lower()
            self._turn_at = time.monotonic() + _TURN_AGAIN_SECONDS
        else:
            self.turning_fault, self._turn_at = None, 0.0

    def _turn_over(self) -> None:
        """Move each file on by one number; the last one goes."""
        self.close()
        path, keep = self._settings.path, self._settings.keep
        numbered = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, keep + 1))]
        if not keep:
            path.unlink()
        for older, newer in zip(reversed(numbered[1:]), reversed(numbered[:-1]), strict=True):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        sync_folder(path.parent)


def _take_back_torn_line(descriptor: int) -> None:
    """Cut off what an earlier run did not finish: nobody was told that it is there."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        begin = max(0, end - 4096)
        piece = os.pread(descriptor, end - begin, begin)
        found = piece.rfind(b"\n")
        if found >= 0:
            end = begin + found + 1
            break
        end = begin
    if end < size:
        os.ftruncate(descriptor, end)


def _answer(lines: Sequence[_Line], fault: OSError | None) -> None:
    for line in lines:
        if not line.answer.done():
            if fault is None:
                line.answer.set_result(None)
            else:
                line.answer.set_exception(fault)
