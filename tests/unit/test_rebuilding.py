"""Banks are rebuilt in the background by the service, else by the command that changed them."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from detector.banks import rebuilding
from detector.banks.rebuilding import Rebuilds, is_served, rebuild_unless_served
from models import bank_changes
from models.bank_store import add_entries, bank_names, bank_stats, load_bank
from models.rebuild import is_due
from tests.waiting import until


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks in quick succession."""
    monkeypatch.setattr(rebuilding, "_LOOK_EVERY_SECONDS", 0.05)


@pytest.fixture
def due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank with more in its overlay than a base of its size should have."""
    monkeypatch.setattr(bank_changes, "FOLDED_AT_ONCE", 10)
    rows = np.random.default_rng(1).integers(0, 256, (10_000, 32), dtype=np.uint8)
    names = [f"entry-{number}" for number in range(len(rows))]
    add_entries(tmp_path / "banks" / "CARDS", rows[:5_500], names[:5_500])
    add_entries(tmp_path / "banks" / "CARDS", rows[5_500:], names[5_500:])
    assert is_due(tmp_path / "banks" / "CARDS")
    return tmp_path / "banks" / "CARDS"


async def test_the_service_rebuilds_in_a_process_of_its_own(due: Path) -> None:
    """A bank that is worth it gets one layer again; while the service looks after it commands leave it alone."""
    task = asyncio.ensure_future(Rebuilds(due.parent).run())
    await asyncio.sleep(0)
    assert is_served(due.parent)
    assert not rebuild_unless_served(due)
    await until(lambda: not is_due(due), 200)  # of the lowest priority, it waits for everybody else
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    shelf = load_bank(due).shelves["pdq"]
    assert (len(shelf.base), shelf.overlay) == (10_000, None)
    assert not is_served(due.parent)
    assert bank_names(due.parent) == ["CARDS"]


async def test_a_bank_that_cannot_be_rebuilt_is_left_alone(due: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file is told of once, not each time somebody looks; the bank stays as it is."""
    (path,) = due.glob("gen-*/pdq/rows.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    failures: list[str] = []
    monkeypatch.setattr(rebuilding.log, "warning", lambda _, **facts: failures.append(facts["why"]))
    monkeypatch.setattr(rebuilding, "_SHARE_OF_TIME", 1.0)
    generation = bank_stats(due).generation
    task = asyncio.ensure_future(Rebuilds(due.parent).run())
    await until(lambda: failures, 200)
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert len(failures) == 1
    assert "rows.npy is not the file that was written" in failures[0]
    assert bank_stats(due).generation == generation


def test_a_command_rebuilds_where_no_service_does(due: Path) -> None:
    """Without a service the change that made it worth it rebuilds the bank, and only then."""
    assert rebuild_unless_served(due)
    assert not rebuild_unless_served(due)
    assert load_bank(due).shelves["pdq"].overlay is None
