"""Long banks are read whole once, by a process of its own, and opened by all others without reading them."""

import asyncio
import fcntl
from pathlib import Path

import numpy as np
import pytest

from detector.banks import readings as bank_readings
from detector.banks.readings import Readings, base_folders
from models import arrays
from models.bank_store import add_entries, load_bank, open_bank
from models.rebuild import rebuild
from models.shelves import NotRead, Trust, is_long, state_of


@pytest.fixture
def long_bank(tmp_path: Path) -> Path:
    """A bank that looks long: its base's folder holds a large file, though one without content."""
    return _long(tmp_path / "banks" / "LIST", seed=1)


def _long(bank_dir: Path, seed: int) -> Path:
    rows = np.random.default_rng(seed).integers(0, 256, (25_000, 32), dtype=np.uint8)
    add_entries(bank_dir, rows, [f"entry-{seed}-{number}" for number in range(len(rows))])
    _lengthen(bank_dir)
    return bank_dir


def _lengthen(bank_dir: Path) -> None:
    (folder,) = base_folders(bank_dir)
    with (folder / "room").open("wb") as file:
        file.truncate(129 << 20)
    assert is_long(folder)


def _states(bank_dir: Path) -> frozenset[str]:
    return frozenset(state_of(folder) for folder in base_folders(bank_dir))


async def _next_states(readings: Readings) -> frozenset[str]:
    async with asyncio.timeout(30):
        async for _ in readings.changes():
            return frozenset(readings.states())
    raise AssertionError("it runs for ever")


def test_who_has_no_time_reads_no_long_base(long_bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others read is opened without reading it; what nobody has read is not opened at all."""
    monkeypatch.setattr(arrays, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(NotRead):
        open_bank(long_bank, Trust(frozenset(), has_no_time=True))
    bank = open_bank(long_bank, Trust(_states(long_bank), has_no_time=True))
    assert len(bank) == 25_000


def test_a_file_that_changes_is_not_what_was_read(long_bank: Path) -> None:
    """Trust is in files as they were: one that was written again is read again, by who has the time."""
    states = _states(long_bank)
    (folder,) = base_folders(long_bank)
    content = (folder / "opinions.npy").read_bytes()
    (folder / "opinions.npy").write_bytes(content[:-1] + b"\x09")
    with pytest.raises(NotRead):
        open_bank(long_bank, Trust(states, has_no_time=True))
    with pytest.raises(arrays.IndexCorrupt):
        open_bank(long_bank, Trust(states))


async def test_a_process_of_its_own_reads_what_is_new(long_bank: Path) -> None:
    """The state of a sound base is told as soon as it was read."""
    assert await _next_states(Readings(long_bank.parent)) == _states(long_bank)


async def test_a_damaged_bank_is_told_of_and_not_read_again(long_bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in no one's way: the others are read, and it is a problem until its files change."""
    sound = _long(long_bank.parent / "SOUND", seed=2)
    (folder,) = base_folders(long_bank)
    (folder / "rows.npy").write_bytes((folder / "rows.npy").read_bytes()[:-1] + b"\x00")
    refusals: list[str] = []
    monkeypatch.setattr(bank_readings.log, "warning", lambda _, **facts: refusals.append(facts["bank"]))
    readings = Readings(long_bank.parent)
    assert await _next_states(readings) == _states(sound)
    readings.confirm("something else")
    await _next_states(readings)
    assert refusals == ["LIST"]
    assert len(readings.problems()) == 1
    assert "rows.npy is not the file that was written" in readings.problems()[0]


def test_a_rebuild_tells_what_it_wrote_before_it_is_in_force(long_bank: Path) -> None:
    """Nobody has to read a base that was made of verified rows a moment ago."""
    add_entries(long_bank, np.full((1, 32), 7, np.uint8), ["new"])
    told: list[tuple[str, bool]] = []
    before = _states(long_bank)
    assert rebuild(long_bank, is_forced=True, tell=lambda state: told.append((state, _states(long_bank) == before)))
    assert told == [(*_states(long_bank), True)]
    assert len(load_bank(long_bank)) == 25_001


def test_no_writer_waits_while_a_rebuild_reads(long_bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a base takes seconds, at the lowest priority for ever: whoever adds a hash meanwhile is not held up."""
    add_entries(long_bank, np.full((1, 32), 7, np.uint8), ["new"])
    waits: list[str] = []
    plain = arrays._sha256

    def watched(path: Path) -> str:
        if path.parent.parent.name.startswith("gen-"):
            with (long_bank / "lock").open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waits.append(path.name)
        return plain(path)

    monkeypatch.setattr(arrays, "_sha256", watched)
    assert rebuild(long_bank, is_forced=True)
    assert waits == []


def test_changes_while_a_bank_is_read_make_nobody_read_it_again(
    long_bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who adds a hash each second keeps nobody from opening a bank that takes seconds to read."""
    add_entries(long_bank, np.full((1, 32), 7, np.uint8), ["new"])
    reads: list[Path] = []
    plain = arrays._sha256

    def busy(path: Path) -> str:
        if path.name == "rows.npy" and path.parent.parent.name.startswith("gen-"):
            reads.append(path)
            for number in range(3):
                add_entries(long_bank, np.full((1, 32), 10 * len(reads) + number, np.uint8), ["newer"])
        return plain(path)

    monkeypatch.setattr(arrays, "_sha256", busy)
    bank = load_bank(long_bank)
    assert len(bank) >= 25_001
    assert len(reads) == 1
