"""A stream's account is told and stored, and nobody waits for the disk to take it."""

import asyncio
from typing import Any

import pytest

import detector.accounts
from detector.accounts import Accounts
from detector.coverage import Ledger
from detector.metrics import Metrics
from detector.store.coverage import CoverageTotals
from detector.store.faults import StoreUnavailable


class FakeSession:
    stream_id = "STREAM"
    state, since, code = "ended", "2026-01-01T00:00:00.000Z", ""

    def __init__(self, session: str) -> None:
        self.session = session
        self.ledger = Ledger(0.0, 3.0)
        self.settings: Any = _Settings

    def coverage(self) -> Any:
        return self.ledger.end(2.0)


class _Settings:
    class job:  # noqa: N801 - stands for an attribute
        class sampling:  # noqa: N801
            class mode:  # noqa: N801
                value = "auto"


class FakeBoard:
    def __init__(self) -> None:
        self.ended: list[str] = []

    def set_status(self, _stream: str, _status: Any) -> None:
        return None

    def end_stream(self, stream: str) -> None:
        self.ended.append(stream)


class FakeStore:
    def __init__(self) -> None:
        self.is_broken = False
        self.rows: dict[str, CoverageTotals] = {}

    async def upsert(self, totals: list[CoverageTotals]) -> None:
        await asyncio.sleep(0)
        if self.is_broken:
            raise StoreUnavailable("the disk is full")
        self.rows |= {row.session: row for row in totals}


async def test_the_end_of_a_stream_waits_for_no_disk_and_is_stored_later() -> None:
    """Streams end one after the other: a frozen disk must not keep the next publisher unwatched."""
    board, store = FakeBoard(), FakeStore()
    accounts = Accounts(board, Metrics(), store)  # type: ignore[arg-type]
    store.is_broken = True

    accounts.close(FakeSession("one"))  # type: ignore[arg-type]
    await accounts.store_ended()
    assert (board.ended, store.rows) == (["STREAM"], {})

    store.is_broken = False
    accounts.close(FakeSession("two"))  # type: ignore[arg-type]
    await accounts.store_ended()
    assert set(store.rows) == {"one", "two"}

    store.rows.clear()
    await accounts.store_ended()
    assert not store.rows, "each is stored once"


async def test_accounts_that_are_lost_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk stays away until memory is full, health and a metric say how many accounts that cost."""
    monkeypatch.setattr(detector.accounts, "_ENDED_KEPT", 2)
    store, metrics = FakeStore(), Metrics()
    accounts = Accounts(FakeBoard(), metrics, store)  # type: ignore[arg-type]
    assert accounts.problems() == []
    for number in range(5):
        accounts.close(FakeSession(f"s{number}"))  # type: ignore[arg-type]

    assert accounts.unstored() == ["s3", "s4"]
    assert accounts.problems()[0].startswith("3 accounts of sessions are lost")
    assert metrics.value("stopframe_rows_lost_total", kind="accounts") == 3
