"""What was seen is not acted on twice: not after a restart, not once it made room, not when a number is used again."""

from pathlib import Path

import pytest

from detector.alerts.alert import uuid7
from detector.instants import rfc3339
from detector.store.database import Database
from detector.trust.replay import CommandNumbers, SeenAlerts, Sighting
from detector.trust.signing import NotTrusted, Purpose, Reason, Verified

_NOW = 1_800_000_000_000
_DAY = 24 * 3600 * 1000


def _alert(number: int, *, key: str = "a" * 16, seq: int | None = 0, life_ms: int = 60_000) -> Verified:
    body = {"alert_id": uuid7(_NOW + number, bytes(10)), "seq": number if seq == 0 else seq}
    return Verified(key, Purpose.ALERT, body | {"expires_at": rfc3339(_NOW + number + life_ms)})


async def test_an_alert_is_new_once_across_restarts_and_says_how_far_it_got(tmp_path: Path) -> None:
    """A repeat is known after a restart, with what was settled; another node's alert of that number is another one."""
    async with Database.open(tmp_path / "s.db") as db:
        seen = SeenAlerts(db)
        assert await seen.admit(_alert(1), now_ms=_NOW) == Sighting(is_new=True)
        assert await seen.admit(_alert(1), now_ms=_NOW) == Sighting(is_new=False)
        await seen.settle("a" * 16, _alert(1).object["alert_id"], "cut")
    async with Database.open(tmp_path / "s.db") as db:
        seen = SeenAlerts(db)
        assert await seen.admit(_alert(1), now_ms=_NOW) == Sighting(is_new=False, state="cut")
        assert (await seen.admit(_alert(1, key="b" * 16), now_ms=_NOW)).is_new
        assert (await seen.admit(_alert(7), now_ms=_NOW)).is_new
        assert (await seen.admit(_alert(3), now_ms=_NOW)).is_new, "alerts of two streams may change places"


async def test_what_made_room_is_refused_and_rows_stay_bounded(tmp_path: Path) -> None:
    """Beyond the limit the oldest leave, and neither they nor anything older is taken for new."""
    async with Database.open(tmp_path / "s.db") as db:
        seen = SeenAlerts(db, limit=50)
        for number in range(1, 201):
            assert (await seen.admit(_alert(number, seq=None if number % 10 == 0 else 0), now_ms=_NOW)).is_new
        assert await seen.count() <= 55
        for number in range(1, 146):
            with pytest.raises(NotTrusted) as refused:
                await seen.admit(_alert(number, seq=None if number % 10 == 0 else 0), now_ms=_NOW)
            assert refused.value.reason is Reason.REPLAYED
        assert not (await seen.admit(_alert(200, seq=None), now_ms=_NOW)).is_new
        assert (await seen.admit(_alert(201, seq=1), now_ms=_NOW)).is_new, "a node that lost its disk counts anew"


async def test_a_clock_set_back_brings_nothing_back(tmp_path: Path) -> None:
    """Rows that are long over leave, and what they held is refused even by a clock that stands before its end."""
    async with Database.open(tmp_path / "s.db") as db:
        seen = SeenAlerts(db, limit=20)
        for number in range(1, 11):
            await seen.admit(_alert(number), now_ms=_NOW)
        for number in range(1001, 1003):
            await seen.admit(_alert(number, life_ms=3 * _DAY), now_ms=_NOW + 2 * _DAY)
        assert await seen.count() <= 4
        with pytest.raises(NotTrusted):
            await seen.admit(_alert(5), now_ms=_NOW)


async def test_numbers_of_commands_only_rise_per_key_and_across_restarts(tmp_path: Path) -> None:
    """The same number or a lower one is refused, whatever happened to the service; each key counts for itself."""
    for last, refused in ((5, (5, 4)), (6, (5, 6))):
        async with Database.open(tmp_path / "s.db") as db:
            numbers = CommandNumbers(db)
            await numbers.take("a" * 16, last)
            for number in refused:
                with pytest.raises(NotTrusted) as error:
                    await numbers.take("a" * 16, number)
                assert error.value.reason is Reason.REPLAYED
    async with Database.open(tmp_path / "s.db") as db:
        await CommandNumbers(db).take("b" * 16, 1)
