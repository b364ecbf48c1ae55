"""A bank that a command changed is noticed by the running service."""

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from detector.banks import watch as bank_watch
from detector.banks.watch import BankWatch
from models.bank_store import add_entries, bank_names, load_bank
from models.inspector import Inspector
from tests.slack import SLACK_SECONDS


def add(folder: Path, name: str, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 256, (1, 32), dtype=np.uint8)
    add_entries(folder / name, rows, [f"entry-{seed}"])


async def test_a_new_bank_and_a_new_entry_are_each_one_change(tmp_path: Path) -> None:
    """Both a bank that appears and one that grows make one change each, within a second."""
    watch = BankWatch(tmp_path)
    changes = watch.changes()

    add(tmp_path, "CARDS", 1)
    async with asyncio.timeout(30):
        await anext(changes)
    assert set(watch.names()) == {"CARDS"}

    add(tmp_path, "CARDS", 2)
    async with asyncio.timeout(30):
        await anext(changes)


async def test_one_hash_more_in_a_long_bank_acts_within_a_second(tmp_path: Path) -> None:
    """From the command's start to a process that has the long bank open and finds the new hash: less than a second."""
    rows = np.random.default_rng(1).integers(0, 256, (200_000, 32), dtype=np.uint8)
    add_entries(tmp_path / "LIST", rows, [f"entry-{number}" for number in range(len(rows))])
    inspector = Inspector(clock=time.perf_counter, banks=[load_bank(tmp_path / "LIST")])
    held = inspector.banks[0].shelves["pdq"]
    changes = BankWatch(tmp_path).changes()
    new = rows[:1] ^ np.uint8(0x5A)
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    began = time.monotonic()

    await asyncio.to_thread(add_entries, tmp_path / "LIST", new, ["new"])
    await waiting
    inspector.reload_bank("LIST")

    took = time.monotonic() - began
    shelf = inspector.banks[0].shelves["pdq"]
    found = shelf.search_all([new.tobytes()], 31)[0][0].tolist()
    assert [shelf.entry(number) for number in found] == ["new"]
    assert shelf.base is held.base
    assert took < 1 + SLACK_SECONDS


async def test_nothing_changes_while_nothing_is_written(tmp_path: Path) -> None:
    """A bank that stays as it is wakes nobody."""
    add(tmp_path, "CARDS", 1)
    watch = BankWatch(tmp_path)
    waiting = asyncio.ensure_future(anext(watch.changes()))

    await asyncio.sleep(2.5 * bank_watch._LOOK_EVERY_SECONDS)

    assert not waiting.done()
    waiting.cancel()


async def test_a_folder_that_cannot_be_read_for_a_while_ends_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that fails once must not cost the service every bank that is added afterwards."""
    watch = BankWatch(tmp_path)
    failures = [OSError(5, "Input/output error"), PermissionError(13, "Permission denied")]

    def names(folder: Path) -> list[str]:
        if failures:
            raise failures.pop()
        return bank_names(folder)

    monkeypatch.setattr(bank_watch, "bank_names", names)
    monkeypatch.setattr(bank_watch, "_LOOK_EVERY_SECONDS", 0.01)
    add(tmp_path, "CARDS", 1)
    async with asyncio.timeout(30):
        await anext(watch.changes())

    assert set(watch.names()) == {"CARDS"}


async def test_a_frozen_folder_holds_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a disk that does not answer is no reason for the service to stand still."""
    watch = BankWatch(tmp_path)
    thaw = threading.Event()

    def names(_folder: Path) -> list[str]:
        thaw.wait(60)
        return []

    monkeypatch.setattr(bank_watch, "bank_names", names)
    monkeypatch.setattr(bank_watch, "_LOOK_EVERY_SECONDS", 0.01)
    waiting = asyncio.ensure_future(anext(watch.changes()))
    began = time.monotonic()
    await asyncio.sleep(0.1)

    assert time.monotonic() - began < 2 + SLACK_SECONDS
    thaw.set()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def test_a_configured_bank_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    """A typo in a bank's name would leave a platform undefended, so health says so."""
    add(tmp_path, "CARDS", 1)
    watch = BankWatch(tmp_path)

    problems = watch.problems({"CARDS": None, "CRADS": None})

    assert len(problems) == 1
    assert "CRADS" in problems[0]
