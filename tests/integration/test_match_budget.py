"""The false-match budget and the quarantine in a running service: refused, held, told, released."""

import secrets
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from detector.analysis.setup import BANKS_FOLDER
from detector.assembly import ServiceRefused, open_service
from detector.cli.main import app
from detector.config_file import ConfigFile
from models.bank_store import add_entries, annotate, list_entries, notes
from tests.fixtures_site import BASE, open_site

pytestmark = pytest.mark.integration

WIDE = "banks: {LIST: {step: cut, max_distance: 64}}\n"
TIGHT = "matching: {false_matches_per_day: 0.1}\n"


def _fill(folder: Path, count: int) -> Path:
    bank = folder / "state" / BANKS_FOLDER / "LIST"
    rows = np.frombuffer(secrets.token_bytes(count * 32), np.uint8).reshape(count, 32)
    add_entries(bank, rows, [f"entry-{secrets.token_hex(4)}" for _ in range(count)])
    return bank


async def test_a_start_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    """The service does not start, and trying again would not help; the sentence has the arithmetic."""
    _fill(tmp_path, 50)
    path = tmp_path / "stopframe.yaml"
    path.write_text(BASE + WIDE + TIGHT)
    config = ConfigFile(path).read().config
    assert config is not None
    with pytest.raises(ServiceRefused, match="bank LIST: 50 rows x 40 views") as refused:
        async with open_service(config):
            pass
    assert not refused.value.may_pass


async def test_a_reload_is_refused_and_a_growing_bank_is_held(tmp_path: Path) -> None:
    """A running service keeps its config; a list that grows narrows its own limit and health notes it."""
    _fill(tmp_path, 20)
    async with open_site(tmp_path, WIDE + "matching: {false_matches_per_day: 50}\n") as site:
        service = site.service
        before = service.config
        site.write(WIDE + TIGHT)
        await site.until(lambda: any("config file has a fault" in note for note in service.health().notes))
        assert service.config is before
        report = await service.reload(None)
        assert any("banks.LIST.max_distance: bank LIST: 20 rows x 40 views" in fault for fault in report.faults)
        assert service.pool._settings.setup.bank_limits == {"LIST": 64}

        _fill(tmp_path, 300)

        await site.until(lambda: any("bank LIST is held to" in note for note in service.health().notes))
        held = service.pool._settings.setup.bank_limits["LIST"]
        assert 31 < held < 64
        assert service.health().problems == ()


async def test_a_quarantine_is_told_and_released_from_either_side(tmp_path: Path) -> None:
    """What the bank says holds within a second; the release of the service writes it there, too."""
    bank = _fill(tmp_path, 1)
    entry = next(iter(_entries(bank)))
    async with open_site(tmp_path, "banks: {LIST: {step: cut}}\n") as site:
        service = site.service
        annotate(bank, entry, lambda noted: replace(noted, quarantined=True))
        await site.until(lambda: any(f"LIST/{entry} matched many" in one for one in service.health().problems))
        annotate(bank, entry, lambda noted: replace(noted, quarantined=False))
        await site.until(lambda: not service.health().problems)
        annotate(bank, entry, lambda noted: replace(noted, quarantined=True))
        await site.until(lambda: service.health().problems)

        assert await service.release(f"LIST/{entry}")

        assert not service.health().problems
        assert entry not in notes(bank)
        assert not await service.release(f"LIST/{entry}")


def _entries(bank: Path) -> set[str]:
    return {one.entry for one in list_entries(bank)}


def test_check_says_what_a_config_cannot_know(tmp_path: Path) -> None:
    """`check` reads the file alone, so it takes a limit that a start may refuse, and says who finds out."""
    _fill(tmp_path, 50)
    path = tmp_path / "stopframe.yaml"
    path.write_text(BASE + WIDE + TIGHT)
    (tmp_path / "plain.yaml").write_text(BASE)
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    files = (path, tmp_path / "plain.yaml", tmp_path / "empty.yaml")
    told = [CliRunner().invoke(app, ["check", str(one)]).output for one in files]
    assert "no fault; 'run' finds out whether its banks keep to the budget" in told[0]
    assert told[1].endswith("plain.yaml: no fault\n")
    assert told[2].endswith("empty.yaml: no fault; it names no option, so every one is at its default\n")
