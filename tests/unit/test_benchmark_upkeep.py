"""The benchmark of retention, on a small file: it removes what is due and reports every figure."""

import pytest

from benchmarks import upkeep
from benchmarks.report import Options


def test_it_removes_what_is_due_and_reports_each_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table loses its due rows and no other, and alerts are timed alone and beside the removal."""
    monkeypatch.setattr(upkeep, "_FULL", {"coverage": 3000, "incidents": 3000, "alerts": 3000})
    monkeypatch.setattr(upkeep, "_ALONE_SECONDS", 0.0)  # one alert all the same

    report = upkeep.measure(Options(is_quick=True))

    assert report.checks[0].value == 1.0
    counts = {result["what"]: result.get("count", 1) for result in report.results}
    assert len(counts) == 6
    assert min(counts.values()) > 0
