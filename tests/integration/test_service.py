"""The assembled service: what fails inside it is told, never hidden."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from detector.assembly import open_service
from detector.bank_watch import BankWatch
from detector.config.loading import load_config
from detector.credentials import load_or_create, stream_id
from detector.events import CutState, Step, StreamKey
from detector.ingest.revocations import FileRevocations
from detector.store.database import Database
from detector.store.incidents import IncidentRecord, Incidents

pytestmark = pytest.mark.integration


async def _fails(_watch: BankWatch) -> AsyncIterator[None]:
    raise RuntimeError("nobody expected this")
    yield


_ALONE = (
    "ingest: {kind: none}\nmodels: []\nanalysis: {workers: 1}\n"
    'http: {listen: "127.0.0.1:0"}\nalerts: {mqtt: {url: "mqtt://127.0.0.1:1", embedded_broker: false}}\n'
)


async def test_a_part_that_fails_turns_health_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of the service that ends by a fault is a problem with a remedy, though everything else goes on."""
    file = tmp_path / "stopframe.yaml"
    file.write_text(f"state_dir: {tmp_path / 'state'}\n{_ALONE}")
    monkeypatch.setattr(BankWatch, "changes", _fails)
    async with open_service(load_config(file)) as service:
        await asyncio.sleep(0.05)
        health = service.health()
    assert not health.ok
    assert any("service.banks has failed" in problem and "restart" in problem for problem in health.problems)


async def test_keys_stay_denied_and_can_be_undone_while_no_ingest_is_configured(tmp_path: Path) -> None:
    """What is old goes, but not the incident of a key that is denied still: its undo is needed when ingest is back."""
    state = tmp_path / "state"
    file = tmp_path / "stopframe.yaml"
    file.write_text(f"state_dir: {state}\n{_ALONE}")
    state.mkdir(mode=0o700)
    secret = load_or_create(state).deployment
    keys = [StreamKey("embedded", "live", name) for name in ("denied", "allowed")]
    FileRevocations(state / "revoked").add(stream_id(secret, keys[0]))
    now_ms = time.time_ns() // 1_000_000
    async with Database.open(state / "stopframe.db") as database:
        for key in keys:
            await Incidents(database).open(
                IncidentRecord(
                    incident_id=key.name,
                    stream_id=stream_id(secret, key),
                    session=key.name,
                    key=key,
                    opened_at_ms=now_ms - 40 * 86_400_000,
                    action=Step.CUT,
                    is_live=True,
                    signals="BANK/x",
                    cut_state=CutState.CONFIRMED,
                )
            )
        trusted = "INSERT INTO counters VALUES ('clock_trusted_ms', ?)"
        await database.write(lambda c: c.execute(trusted, (now_ms,)).rowcount)
    async with open_service(load_config(file)) as service:
        async with asyncio.timeout(10):
            while len(left := await service.incidents(9)) == 2:
                await asyncio.sleep(0.05)
    assert [row.incident_id for row in left] == ["denied"]
