"""What a cutter remembers on disk is bounded, and what it needs is not what goes."""

from pathlib import Path

import pytest

import detector.cutter.asked as asked_module
from detector.cutter.asked import AskedAlerts
from detector.store.database import Database


async def test_incidents_that_were_taken_back_are_bounded_by_their_age_and_no_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids rise with the time: the oldest make room, whatever the clock said when they came."""
    monkeypatch.setattr(asked_module, "TAKEN_BACK_KEPT", 3)
    async with Database.open(tmp_path / "cutter.db") as database:
        alerts = AskedAlerts(database)
        for place, number in enumerate((5, 1, 2, 3, 4, 4)):
            await alerts.take_back(f"01a20a1f-000{number}", at_ms=10**12 - place)
        known = [number for number in range(1, 6) if await alerts.is_taken_back(f"01a20a1f-000{number}")]
        assert known == [3, 4, 5]
