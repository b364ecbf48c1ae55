"""Where an upload lies until it was looked at: a file without a name, counted against what all of them may have.

On disk and not in memory: fifty files of 256 MiB would be memory that the live streams need. Without a name, so that a
service that is killed leaves nothing behind: the kernel frees it with the last descriptor.
"""

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from typing import Final, Self

from detector.metric_words import UploadEnd
from detector.uploads.ask import UploadRefused, empty

BATCH_BYTES: Final = 256 * 1024
"""So much is gathered before it is written: with what is being written, twice that is in memory for each upload."""

SPARE_BYTES: Final = 256 * 1024 * 1024
"""What uploads leave free on the disk, for alerts and incidents."""

_WRITERS: Final = 2
_RETRY_SECONDS: Final = 5


class DiskAccount:
    """What all uploads together have on disk, or have announced. `limit` says in bytes what they may."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Count `count` bytes more; raises `UploadRefused` where there is no room for them."""
        if self.held_bytes + count > self._limit():
            sentence = f"other files have the {self._limit()} bytes of uploads.disk_limit now; send it again later."
            raise UploadRefused(HTTPStatus.TOO_MANY_REQUESTS, UploadEnd.CROWDED, sentence, retry_seconds=_RETRY_SECONDS)
        self.held_bytes += count

    def give(self, count: int) -> None:
        """Count them no more."""
        self.held_bytes -= count


@dataclass(frozen=True, slots=True)
class Received:
    """A whole upload. `descriptor` reads it and cannot write; `sha256` is of its bytes, in hex."""

    descriptor: int
    length_bytes: int
    sha256: str


class UploadFile:
    """One upload on its way to disk. `UploadDisk.file` makes and ends it; a thread writes, for disks can be slow."""

    def __init__(self, disk: "UploadDisk", opened: tuple[FileIO, int]) -> None:
        self._disk = disk
        self._file, self._descriptor = opened
        self._counted = 0
        self._digest = hashlib.sha256()
        self._batch = bytearray()
        self._writing: Future[None] | None = None
        self.received_bytes = 0

    def expect(self, count: int) -> None:
        """Count what was announced, before any of it comes. Raises `UploadRefused`."""
        self._disk.account.take(count)
        self._counted = count

    async def add(self, part: bytes) -> None:
        """Take the next bytes. Raises `UploadRefused`: there is no room for them."""
        beyond = self.received_bytes + len(part) - self._counted
        if beyond > 0:
            self._disk.account.take(beyond)
            self._counted += beyond
        self.received_bytes += len(part)
        self._batch += part
        if len(self._batch) >= BATCH_BYTES:
            await self._write()

    async def finish(self) -> Received:
        """Write the rest and return the whole, which is there as long as this file is. Raises `UploadRefused`."""
        if not self.received_bytes:
            raise empty()
        await self._write()
        return Received(self._descriptor, self.received_bytes, self._digest.hexdigest())

    def close(self) -> None:
        """Free what it has, once the thread has done what it is at."""
        self._disk.account.give(self._counted)
        self._counted = 0
        if self._writing is None:
            self._close_descriptors()
        else:  # else its descriptor's number might be another file's by then
            self._writing.add_done_callback(lambda _: self._close_descriptors())

    def _close_descriptors(self) -> None:
        os.close(self._descriptor)
        self._file.close()

    async def _write(self) -> None:
        batch, self._batch = self._batch, bytearray()
        if batch:
            self._writing = self._disk.submit(self._put, batch)
            try:
                await asyncio.wrap_future(self._writing)
            except OSError as error:
                raise self._disk.full(error) from None

    def _put(self, batch: bytearray) -> None:
        self._disk.check_room(len(batch))
        self._digest.update(batch)
        view = memoryview(batch)
        while view:
            view = view[self._file.write(view) :]


class UploadDisk:
    """`with UploadDisk(folder, limit) as disk`: room for uploads on the disk of `folder`, `limit()` bytes of it."""

    def __init__(self, folder: Path, limit: Callable[[], int], *, spare_bytes: int = SPARE_BYTES) -> None:
        self.account = DiskAccount(limit)
        self._folder = folder
        self._spare_bytes = spare_bytes
        self._writers = ThreadPoolExecutor(max_workers=_WRITERS, thread_name_prefix="upload.write")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writers.shutdown(wait=True, cancel_futures=True)

    @asynccontextmanager
    async def file(self) -> AsyncIterator[UploadFile]:
        """Give a new file without a name, freed with the block. Raises `UploadRefused`."""
        opening = self._writers.submit(self._open)
        try:
            opened = await asyncio.shield(asyncio.wrap_future(opening))
        except OSError as error:
            raise self.full(error) from None
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unused)
            raise
        file = UploadFile(self, opened)
        try:
            yield file
        finally:
            file.close()

    def submit(self, work: Callable[[bytearray], None], batch: bytearray) -> Future[None]:
        """Have a thread of ours do it."""
        return self._writers.submit(work, batch)

    def check_room(self, count: int) -> None:
        """Raise `OSError` where `count` bytes more would leave too little of the disk for everything else."""
        state = os.statvfs(self._folder)
        if state.f_bavail * state.f_frsize < count + self._spare_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(self, error: OSError) -> UploadRefused:
        """The refusal of an upload that the disk does not take."""
        sentence = f"the service has no room for files now ({error.strerror}); its operator has to look at the disk."
        return UploadRefused(HTTPStatus.SERVICE_UNAVAILABLE, UploadEnd.NO_ROOM, sentence, retry_seconds=60)

    def _open(self) -> tuple[FileIO, int]:
        # O_TMPFILE where the file system has it; else it is unlinked as soon as it is made.
        file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed by whoever uses it
        try:
            # What decodes it gets a descriptor that cannot write.
            return file, os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            file.close()
            raise


def _close_unused(opening: "Future[tuple[FileIO, int]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        file, descriptor = opening.result()
        os.close(descriptor)
        file.close()
