"""The assembled service: what fails inside it is told, never hidden."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from detector.assembly import open_service
from detector.bank_watch import BankWatch
from detector.config.loading import load_config

pytestmark = pytest.mark.integration


async def _fails(_watch: BankWatch) -> AsyncIterator[None]:
    raise RuntimeError("nobody expected this")
    yield


async def test_a_part_that_fails_turns_health_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of the service that ends by a fault is a problem with a remedy, though everything else goes on."""
    file = tmp_path / "stopframe.yaml"
    file.write_text(
        f"state_dir: {tmp_path / 'state'}\ningest: {{kind: none}}\nmodels: []\nanalysis: {{workers: 1}}\n"
        'http: {listen: "127.0.0.1:0"}\nalerts: {mqtt: {url: "mqtt://127.0.0.1:1", embedded_broker: false}}\n'
    )
    monkeypatch.setattr(BankWatch, "changes", _fails)
    async with open_service(load_config(file)) as service:
        await asyncio.sleep(0.05)
        health = service.health()
    assert not health.ok
    assert any("service.banks has failed" in problem and "restart" in problem for problem in health.problems)
