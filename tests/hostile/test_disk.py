"""A full disk under the running service: it watches, tells and cuts, and makes up for it when there is room again."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest
import yaml

from benchmarks.clips import Clip, encode_clip
from benchmarks.crowd import fill_bank
from benchmarks.losses import CUTTING, HARMFUL
from benchmarks.ports import free_port
from benchmarks.publishers import PacedPublishers
from benchmarks.running import RunningService
from detector.api.view import IncidentRow
from detector.cards import synthetic_card
from detector.credentials import load_or_create
from detector.events import CutState
from detector.ingest.revocations import FileRevocations, RevocationStoreError
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from models.bank_store import list_entries
from tests.fixtures_brokers import Ear, listening
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_mount]


class SmallDisk:
    """A file system of a few MiB that a test fills and frees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no byte of room."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A tmpfs of its own, state, config and log of the service on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "stopframe-test", str(folder)], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@asynccontextmanager
async def _serving(disk: SmallDisk) -> AsyncIterator[tuple[RunningService, Ear]]:
    """A service that cuts, not started yet, and everything that it will publish."""
    port = free_port()
    service = RunningService(disk.folder, f'{CUTTING}alerts: {{mqtt: {{url: "mqtt://127.0.0.1:{port}"}}}}')
    fill_bank(service.state_dir)
    await service.start()
    try:
        async with listening(port) as ear:
            yield service, ear
    finally:
        await service.kill()


def _broker_port(service: RunningService) -> int:
    return int(yaml.safe_load(service.config.read_text())["alerts"]["mqtt"]["url"].rpartition(":")[2])


async def _health(service: RunningService) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{service.http_port}/health/ready")
    found: dict[str, Any] = answer.json()
    return found


async def _only_cut(service: RunningService) -> IncidentRow:
    """The one incident that is a cut, when it is proved: packets have to stay out for a while."""
    async with asyncio.timeout(60):
        while True:
            (cut,) = [row for row in await service.incidents() if row.action == "cut"]
            if cut.cut_state is CutState.CONFIRMED:
                return cut
            await asyncio.sleep(0.2)


def _alerts(ear: Ear) -> list[dict[str, Any]]:
    """Those that open an incident or raise it; what closes it comes when its stream is gone."""
    told = [json.loads(payload) for payload in ear.of("/alert")]
    return [alert for alert in told if alert["type"] != "close"]


async def _publish_and_be_cut(service: RunningService, path: str) -> None:
    clip = await asyncio.to_thread(_clip)
    async with PacedPublishers("127.0.0.1", service.ingest_port) as publishers:
        publication = publishers.start(path, clip, rounds=1)
        await until(lambda: publication.closed_at)


@cache
def _clip() -> Clip:
    """One keyframe that is looked at, then those for which the publisher is cut."""
    return encode_clip(f"card:100:1,{HARMFUL}:12")


def _sentence(problems: list[str], *words: str) -> bool:
    return any(all(word in problem for word in words) for problem in problems)


async def test_a_full_disk_stops_neither_alerts_nor_cuts_and_is_made_up_for(disk: SmallDisk) -> None:
    """Alerts leave as not durable, cuts are made, health names it; with room again all of it is on disk."""
    async with _serving(disk) as (service, ear):
        disk.fill()
        await _publish_and_be_cut(service, "live/bad")
        await until(lambda: _alerts(ear))
        alert = _alerts(ear)[0]
        assert (alert["durable"], alert["seq"], alert["action"]) == (False, None, "cut")

        problems = (await _health(service))["problems"]
        assert _sentence(problems, "alerts are sent from memory only", "disk is full")
        assert _sentence(problems, "revoked keys are not on disk", "free space")
        assert (await service.metrics())['stopframe_alerts_total{state="not_durable"}'] >= 1

        disk.free()
        async with asyncio.timeout(60):
            while not (await _health(service))["ok"]:
                await asyncio.sleep(0.2)
        incident = await _only_cut(service)
        assert (incident.incident_id, incident.stream_id) == (alert["incident_id"], alert["stream"])
        assert (service.state_dir / "revoked").read_text().split() == [alert["stream"]]

        await _publish_and_be_cut(service, "live/later")
        await until(lambda: len(_alerts(ear)) == 2)
        assert _alerts(ear)[1]["durable"] is True


async def test_a_start_on_a_full_disk_watches_without_a_store(disk: SmallDisk) -> None:
    """After a restart on a full disk publishers are watched and cut, and alerts go out, though nothing can be kept."""
    async with _serving(disk) as (service, _):
        pass
    for left in service.state_dir.glob("stopframe.db*"):
        left.unlink()
    disk.fill()
    await service.start()
    try:
        assert _sentence((await _health(service))["problems"], "disk is full")
        async with listening(_broker_port(service)) as ear:
            await _publish_and_be_cut(service, "live/bad")
            await until(lambda: _alerts(ear))
        assert _alerts(ear)[0]["durable"] is False
        disk.free()
        async with asyncio.timeout(60):
            while not (await _health(service))["ok"]:
                await asyncio.sleep(0.2)
        await _only_cut(service)
    finally:
        await service.kill()


async def test_a_file_system_that_went_read_only_is_said_in_one_sentence(disk: SmallDisk) -> None:
    """Everything that writes state names the file and the remedy; the service does not start.

    A mount with files open for writing cannot be made read-only, so this is what a start finds.
    """
    state = disk.folder / "state"
    config = disk.folder / "stopframe.yaml"
    config.write_text(f"state_dir: {state}\n")
    load_or_create(state)
    (state / "banks").mkdir()
    revocations = FileRevocations(state / "revoked")
    revocations.add("one")
    async with Database.open(state / "stopframe.db"):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    try:
        with pytest.raises(
            RevocationStoreError, match=r"read-only file system\): free space there, or make it writable"
        ):
            revocations.add("two")
        with pytest.raises(StoreUnavailable, match="Read-only file system"):
            await Database.open(state / "stopframe.db", must_open=False).__aenter__()
        command = [sys.executable, "-m", "detector", "run", "-c", str(config)]
        run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True)
    assert run.returncode != 0
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert "(Read-only file system); make state_dir writable" in run.stderr
    assert revocations.load() == {"one"}


async def test_commands_say_that_the_disk_is_full_in_one_sentence(disk: SmallDisk) -> None:
    """A bank that cannot be written is one sentence on stderr and exit 2, and what was there before stays whole."""
    config = disk.folder / "stopframe.yaml"
    config.write_text(f"state_dir: {disk.folder / 'state'}\n")
    for name, seed in (("a.png", 1), ("b.png", 2)):
        assert cv2.imwrite(str(disk.folder / name), synthetic_card(seed, 640, 360))
    hashes = disk.folder / "list.txt"
    hashes.write_text("".join(f"{number:064x}\n" for number in range(2000)))

    def stopframe(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "detector", *words, "-c", str(config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert stopframe("hashes", "add", "CARDS", str(disk.folder / "a.png")).returncode == 0
    bank = disk.folder / "state" / "banks" / "CARDS"
    before = list_entries(bank)
    disk.fill()
    added = stopframe("hashes", "add", "CARDS", str(disk.folder / "b.png"))
    imported = stopframe("hashes", "import", "LISTED", "--format", "plain", str(hashes))

    for run in (added, imported):
        assert (run.returncode, len(run.stderr.strip().splitlines())) == (2, 1), run.stderr
        assert "no space left" in run.stderr.lower()
    assert list_entries(bank) == before
