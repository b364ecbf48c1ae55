"""What a cutter remembers on disk is bounded, and what it needs is not what goes."""

from pathlib import Path

import pytest

import detector.cutter.asked as asked_module
from detector.cutter.asked import CUT, Asked, AskedAlerts
from detector.store.database import Database
from detector.trust.replay import SeenAlerts
from detector.trust.signing import NotTrusted, Purpose, Verified


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


def _alert(number: int, expires_at_ms: int = 10**12) -> tuple[Verified, Asked]:
    name = f"01a20a1f-{number:04}"
    said = {"alert_id": name, "seq": number, "expires_at": "2001-09-09T01:46:40.000Z"}
    return Verified("key", Purpose.ALERT, said), Asked(name, "stream", name, "session", expires_at_ms)


async def _count(database: Database) -> int:
    return await database.read(lambda c: int(c.execute("SELECT count(*) FROM asked_alerts").fetchone()[0]))


async def test_what_was_asked_is_bounded_while_a_cutter_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What made room among the alerts that were seen is forgotten here too, and refused if it comes again."""
    monkeypatch.setattr(asked_module, "_FORGET_EVERY", 10)
    async with Database.open(tmp_path / "cutter.db") as database:
        alerts, seen = AskedAlerts(database), SeenAlerts(database, limit=20)
        for number in range(100):
            verified, asked = _alert(number)
            await seen.admit(verified, now_ms=10**12)
            assert await alerts.take(asked) is asked
        assert await _count(database) <= 31
        with pytest.raises(NotTrusted):
            await seen.admit(_alert(3)[0], now_ms=10**12)


async def test_a_clock_that_runs_ahead_at_a_start_forgets_nothing(tmp_path: Path) -> None:
    """A day and an hour ahead, and back: what was cut is known as cut, so that a replay of it cuts nobody."""
    async with Database.open(tmp_path / "cutter.db") as database:
        alerts, (verified, asked) = AskedAlerts(database), _alert(1)
        await SeenAlerts(database).admit(verified, now_ms=10**12)
        await alerts.take(asked)
        await alerts.answer(asked.alert_id, CUT, b"answer")
        assert await alerts.under_way(10**12 + 25 * 3_600_000) == []
        assert (await alerts.take(asked)).ack == b"answer"
