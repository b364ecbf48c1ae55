"""Where uploads lie: counted, without a name, read by a descriptor that cannot write, gone with the block."""

import asyncio
import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.metric_words import UploadEnd
from detector.uploads.ask import UploadRefused
from detector.uploads.file import BATCH_BYTES, DiskAccount, UploadDisk

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[UploadDisk]:
    with UploadDisk(tmp_path, lambda: 2 * MIB, spare_bytes=0) as disk:
        yield disk


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_what_comes_is_what_can_be_read(disk: UploadDisk, tmp_path: Path) -> None:
    """Every byte in order, its digest, no name in the folder, no way to write, nothing left after the block."""
    content = os.urandom(BATCH_BYTES * 2 + 777)
    before = _descriptors()
    async with disk.file() as file:
        file.expect(len(content))
        for at in range(0, len(content), 50_001):
            await file.add(content[at : at + 50_001])
        received = await file.finish()
        assert os.pread(received.descriptor, len(content) + 1, 0) == content
        assert received.sha256 == hashlib.sha256(content).hexdigest()
        assert received.length_bytes == disk.account.held_bytes == len(content)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(received.descriptor, b"x")
        assert list(tmp_path.iterdir()) == []
    assert disk.account.held_bytes == 0
    assert _descriptors() == before


async def test_an_empty_one_is_refused(disk: UploadDisk) -> None:
    """Chunks that hold nothing are no file."""
    async with disk.file() as file:
        with pytest.raises(UploadRefused, match="empty"):
            await file.finish()


async def test_all_together_have_what_the_limit_says(disk: UploadDisk) -> None:
    """Announced bytes count before they come, others as they come; what is freed is there for the next."""
    async with disk.file() as one, disk.file() as other:
        one.expect(MIB)
        await other.add(bytes(MIB))
        with pytest.raises(UploadRefused) as caught:
            await other.add(b"x")
        assert (caught.value.status, caught.value.end) == (429, UploadEnd.CROWDED)
        assert caught.value.retry_seconds
    async with disk.file() as file:
        file.expect(2 * MIB)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100))))
def test_the_account_never_holds_more_than_the_limit(moves: list[tuple[bool, int]]) -> None:
    """Whatever is taken and given, what is held is what was taken, and no more than may be."""
    account, held = DiskAccount(lambda: 150), []
    for takes, count in moves:
        if takes:
            with contextlib.suppress(UploadRefused):
                account.take(count)
                held.append(count)
        elif held:
            account.give(held.pop())
        assert account.held_bytes == sum(held) <= 150


async def test_a_full_disk_is_said_and_left_room_on(tmp_path: Path) -> None:
    """Where too little would be left for everything else, and where the disk itself refuses, it is a 503."""
    with UploadDisk(tmp_path, lambda: MIB, spare_bytes=1 << 60) as disk:
        async with disk.file() as file:
            await file.add(b"x")
            with pytest.raises(UploadRefused, match="No space left") as caught:
                await file.finish()
    assert (caught.value.status, caught.value.end) == (503, UploadEnd.NO_ROOM)
    with UploadDisk(tmp_path / "missing", lambda: MIB) as disk, pytest.raises(UploadRefused, match="look at the disk"):
        async with disk.file():
            pass


async def test_who_leaves_amid_a_write_closes_nobody_elses_file(
    disk: UploadDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor stays open until the thread that writes to it is done: its number may be another file's after."""
    before = _descriptors()
    is_writing, may_end = threading.Event(), threading.Event()
    ended: list[OSError | None] = []

    def slow(self: object, count: int) -> None:
        is_writing.set()
        assert may_end.wait(10)

    monkeypatch.setattr(UploadDisk, "check_room", slow)

    async def upload() -> None:
        async with disk.file() as file:
            own = file._file.fileno()
            try:
                await file.add(bytes(BATCH_BYTES))
            finally:
                ended.append(None)
                os.fstat(own)

    task = asyncio.create_task(upload())
    assert await asyncio.to_thread(is_writing.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ended == [None]
    assert _descriptors() > before  # open still: the thread is at it
    assert disk.account.held_bytes == 0
    may_end.set()
    async with asyncio.timeout(10):
        while _descriptors() > before:
            await asyncio.sleep(0.01)


async def test_a_folder_without_nameless_files_serves_too(
    disk: UploadDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that has no O_TMPFILE the name is taken away as soon as it is given."""
    real = os.open

    def without(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", without)
    async with disk.file() as file:
        await file.add(b"some bytes")
        received = await file.finish()
        assert os.pread(received.descriptor, 99, 0) == b"some bytes"
        assert list(tmp_path.iterdir()) == []
