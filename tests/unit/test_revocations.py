"""Revoked keys: in force at once, on disk as soon as it takes them, and told until then."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

from detector.events import StreamKey
from detector.ingest.revocations import Revocations, RevocationStoreError
from tests.slack import SLACK_SECONDS
from tests.waiting import until

KEY = StreamKey("edge", "live", "k")
OTHER = StreamKey("edge", "live", "other")


@dataclass
class _Disk:
    """A store that is full, frozen or well, as a test says."""

    kept: set[str] = field(default_factory=set)
    is_full: bool = False
    thaw: threading.Event = field(default_factory=threading.Event)

    def load(self) -> frozenset[str]:
        return frozenset(self.kept)

    def add(self, stream_id: str) -> None:
        self._answer()
        self.kept.add(stream_id)

    def remove(self, stream_id: str) -> None:
        self._answer()
        self.kept.discard(stream_id)

    def _answer(self) -> None:
        self.thaw.wait(60)
        if self.is_full:
            raise RevocationStoreError("cannot write revoked (no space left on device): free space there")


def _disk(*, is_full: bool = False, is_frozen: bool = False) -> _Disk:
    disk = _Disk(is_full=is_full)
    if not is_frozen:
        disk.thaw.set()
    return disk


def _revocations(disk: _Disk, disk_seconds: float = 60.0) -> Revocations:
    return Revocations(disk, lambda key: key.name, disk_seconds=disk_seconds, retry_seconds=0.02)


async def _until_saved(revocations: Revocations) -> None:
    await until(lambda: not revocations.problems())


async def test_what_a_full_disk_refuses_holds_is_told_and_is_written_when_there_is_room() -> None:
    """A denial is in force without the disk, health names it, and the disk gets it by itself as soon as it can."""
    disk = _disk(is_full=True)
    async with _revocations(disk) as revocations:
        await revocations.add(KEY)
        assert KEY in revocations
        (problem,) = revocations.problems()
        assert problem.startswith("1 changes of revoked keys are not on disk")
        assert "free space" in problem

        disk.is_full = False
        await _until_saved(revocations)
    assert (disk.kept, revocations.unsaved_total) == ({"k"}, 1)


async def test_a_frozen_disk_holds_nobody_for_long() -> None:
    """A disk that does not answer costs a moment, once; what it takes late counts."""
    disk = _disk(is_frozen=True)
    async with _revocations(disk, disk_seconds=0.1) as revocations:
        began_at = time.monotonic()
        await revocations.add(KEY)
        assert time.monotonic() - began_at < 2 + SLACK_SECONDS
        assert KEY in revocations
        assert "does not answer" in revocations.problems()[0]

        disk.thaw.set()
        await _until_saved(revocations)
    assert disk.kept == {"k"}


async def test_the_last_word_on_a_key_counts() -> None:
    """However changes cross on a slow disk, memory and disk end with what was said last."""
    for words in ((True, False), (False, True), (True, False, True)):
        disk = _disk(is_frozen=True)
        async with _revocations(disk) as revocations:
            asked = [revocations.add(KEY) if word else revocations.remove(KEY) for word in words]
            tasks = [asyncio.create_task(one, name="change") for one in asked]
            asyncio.get_running_loop().call_later(0.02, disk.thaw.set)
            await asyncio.gather(*tasks, revocations.add(OTHER))
            await _until_saved(revocations)
            assert (KEY in revocations, "k" in disk.kept) == (words[-1], words[-1])
            assert "other" in disk.kept


async def test_leaving_tries_once_more() -> None:
    """What could not be written is tried a last time when the service ends."""
    disk = _disk(is_full=True)
    revocations = Revocations(disk, lambda key: key.name, disk_seconds=60, retry_seconds=60)
    async with revocations:
        await revocations.add(KEY)
        disk.is_full = False
    assert disk.kept == {"k"}
