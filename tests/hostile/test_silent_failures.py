"""What fails without a sound is told by the self-test, in a whole service with real analysis processes."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from detector import selftest
from detector.alerts.embedded_broker import EmbeddedBroker
from detector.assembly import open_service
from detector.config.loading import load_config
from detector.service import Service
from models.bank_store import CANARY_BANK, add_entries

pytestmark = pytest.mark.integration


@asynccontextmanager
async def _service(folder: Path, broker: str, models: str = "") -> AsyncIterator[Service]:
    file = folder / "stopframe.yaml"
    file.write_text(
        f"state_dir: {folder / 'state'}\ningest: {{kind: none}}\nmodels: [{models}]\nanalysis: {{workers: 2}}\n"
        f'http: {{listen: "127.0.0.1:0"}}\nalerts: {{mqtt: {{url: "mqtt://{broker}", embedded_broker: false}}}}\n'
    )
    async with open_service(load_config(file)) as service:
        yield service


@pytest.fixture(autouse=True)
def _quick_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute takes 0.6 s and the repeat after a miss 0.15 s: all of it a hundred times as fast."""
    monkeypatch.setattr(selftest, "_EVERY_SECONDS", 0.6)
    monkeypatch.setattr(selftest, "_AFTER_MISS_SECONDS", 0.15)
    monkeypatch.setattr(selftest, "_BROKER_SECONDS", 2.0)


async def _told(service: Service, words: str) -> str:
    async with asyncio.timeout(60):
        while not (found := [problem for problem in service.health().problems if words in problem]):
            await asyncio.sleep(0.05)
    return found[0]


def _empty_files(bank: Path) -> None:
    for file in bank.rglob("*.npy"):
        os.truncate(file, 0)


async def test_a_healthy_service_is_healthy_from_its_first_moment(tmp_path: Path) -> None:
    """Ready means tested: the first test is over, and minute by minute each one finds what it must."""
    async with (
        EmbeddedBroker() as broker,
        _service(tmp_path, f"{broker.host}:{broker.port}", "standin-cards") as service,
    ):
        first = service.selftest.last
        async with asyncio.timeout(60):
            while service.metrics.value("stopframe_selftests_total", state="ok") < 3:
                await asyncio.sleep(0.05)
        last, health = service.selftest.last, service.health()

    assert first is not None
    assert first.ok
    assert first.processes >= 1
    assert last is not None
    assert (last.ok, last.processes) == (True, 2)
    assert "standin-cards" in last.stages_ms
    assert not [problem for problem in health.problems if "self-test" in problem]


async def test_emptied_bank_files_are_told(tmp_path: Path) -> None:
    """Files cut to nothing under a running service, with no stream live: the next test touches them."""
    banks = tmp_path / "state" / "banks"
    banks.mkdir(parents=True, mode=0o700)
    add_entries(banks / "CARDS", np.random.default_rng(1).integers(0, 256, (30_000, 32), np.uint8), ["x"] * 30_000)
    async with EmbeddedBroker() as broker, _service(tmp_path, f"{broker.host}:{broker.port}") as service:
        assert not [problem for problem in service.health().problems if "self-test" in problem or "bank" in problem]
        await asyncio.to_thread(_empty_files, banks / "CARDS")
        problem = await _told(service, "bank CARDS is not in use")

    assert "restart" in problem or "import the list again" in problem


async def test_an_emptied_entry_of_the_self_test_is_written_again(tmp_path: Path) -> None:
    """What the test itself needs is put back before the next one: its loss must not look like a fault of the way."""
    banks = tmp_path / "state" / "banks"
    async with EmbeddedBroker() as broker, _service(tmp_path, f"{broker.host}:{broker.port}") as service:
        await asyncio.to_thread(_empty_files, banks / CANARY_BANK)
        emptied_at = service.metrics.value("stopframe_selftests_total", state="ok")
        async with asyncio.timeout(60):
            while service.metrics.value("stopframe_selftests_total", state="ok") < emptied_at + 3:
                await asyncio.sleep(0.05)
        last, problems = service.selftest.last, service.health().problems
        sizes = [file.stat().st_size for file in (banks / CANARY_BANK).rglob("*.npy")]

    assert last is not None
    assert last.ok
    assert not [problem for problem in problems if "self-test" in problem]
    assert any(sizes)


async def test_a_broker_that_is_not_there_is_told_by_the_way_of_the_test(tmp_path: Path) -> None:
    """The result cannot be published: alerts could not either."""
    async with _service(tmp_path, "127.0.0.1:1") as service:
        problem = await _told(service, "result cannot be published")
        found = service.selftest.last

    assert "alerts go the same way" in problem
    assert found is not None
    assert found.ok
