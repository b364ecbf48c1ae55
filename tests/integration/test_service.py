"""The assembled service: what fails inside it is told, never hidden."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from detector.alerts.alert import uuid7
from detector.assembly import open_service
from detector.banks.watch import BankWatch
from detector.canary import secret_picture
from detector.config.loading import load_config
from detector.credentials import load_or_create, stream_id
from detector.events import CutState, Step, StreamKey
from detector.ingest.revocations import FileRevocations
from detector.store.database import Database
from detector.store.incidents import IncidentRecord, Incidents
from models.bank_store import INCIDENT_BANK
from models.evidence import HashMatch, Inspection, Opinion

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
        async with asyncio.timeout(30):
            while len(left := await service.incidents(9)) == 2:
                await asyncio.sleep(0.05)
    assert [row.incident_id for row in left] == ["denied"]


async def test_undo_takes_the_frames_of_an_incident_back(tmp_path: Path) -> None:
    """What a cut left in the incident bank is gone with its undo, and the stream is exempt, after a restart too."""
    state, file = tmp_path / "state", tmp_path / "stopframe.yaml"
    file.write_text(f"state_dir: {state}\n{_ALONE.replace('{kind: none}', '{listen: 127.0.0.1:0}')}")
    key = StreamKey("embedded", "live", "bad")
    name, picture = uuid7(time.time_ns() // 1_000_000, bytes(10)), secret_picture(b"undo", "frame")
    async with open_service(load_config(file)) as service, asyncio.timeout(20):
        stream = stream_id(load_or_create(state).deployment, key)
        record = IncidentRecord(
            incident_id=name, stream_id=stream, session="s1", key=key, opened_at_ms=0, action=Step.CUT, is_live=True,
            signals="BANK/x", cut_state=CutState.CONFIRMED,
        )  # fmt: skip
        await service.incident_store.open(record)
        trail = service.incident_bank.follow(stream, "s1")
        trail.hit(time.monotonic(), picture.frame(time.monotonic()), picture.fingerprint)
        service.incident_bank.cut_made(name, trail)
        while not service.metrics.value("stopframe_incidents_known"):
            await asyncio.sleep(0.02)
        await service.undo(name)
        assert service.metrics.value("stopframe_incidents_known") == 0
    async with open_service(load_config(file)) as service:
        other = uuid7(time.time_ns() // 1_000_000, bytes([1] * 10))
        offender, back = service.incident_bank.follow("worse", "s2"), service.incident_bank.follow(stream, "s3")
        offender.hit(time.monotonic(), picture.frame(time.monotonic()), picture.fingerprint)
        service.incident_bank.cut_made(other, offender)
        back.began_at = time.monotonic() + 1
        assert [one.opinion for one in back.bounded(_matched(other)).matches] == [Opinion.SEED]


def _matched(incident: str) -> Inspection:
    match = HashMatch(INCIDENT_BANK, incident, "pdq", 256, 5, 31, "identity", 90, Opinion.POSITIVE, "gen-1")
    return Inspection(90, True, False, bytes(32), (match,))
