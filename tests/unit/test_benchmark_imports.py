"""The benchmark of lists that come in: each format once, incomplete banks said, withdrawals held to a second."""

from pathlib import Path

import pytest

from benchmarks import imports
from benchmarks.imports import WITHDRAWN, Ran, checks
from benchmarks.report import Options
from models.lists.registry import FORMATS


def test_a_format_that_loses_rows_is_not_measured() -> None:
    """A fast import that is not complete holds no promise."""
    good = {"method": "csv", "rows": 10, "import_s": 61.0, "peak_mb": 10.0, "is_complete": True}
    held, memory, lost, _, late = checks(
        [good, {**good, "is_complete": False}, {"method": WITHDRAWN, "last_match_max_s": 1.2}]
    )

    assert (held.value, held.ok, memory.ok) == (61.0, False, True)
    assert (lost.value, lost.ok) == (None, False)
    assert "does not hold" in lost.reason
    assert (late.value, late.ok) == (1.2, False)


def test_every_format_is_written_and_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes through all formats; what it imports is what it wrote."""
    from detector.banks.intake import take_in  # noqa: PLC0415 - in place of the command

    async def no_stream(*_: object) -> dict[str, object]:
        return {"method": WITHDRAWN, "last_match_max_s": 0.1}

    def imported(_word: str, _c: str, config: str, _format: str, name: str, bank: str, path: str) -> Ran:
        banks = Path(config).parent / "state" / "banks"
        take_in(banks / bank, FORMATS[name].read(Path(path)), stem="list")
        return Ran(1.0, 0.5, 10.0)

    monkeypatch.setattr(imports, "_ROWS", 1_200)
    monkeypatch.setattr(imports, "_run", imported)
    monkeypatch.setattr(imports, "_withdrawals", no_stream)
    report = imports.measure(Options())

    assert [one["method"] for one in report.results] == [*FORMATS, WITHDRAWN]
    assert all(check.ok for check in report.checks)
