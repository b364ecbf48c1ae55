"""Service, broker and cutter killed at random beside numbered alerts: a small run of the benchmark."""

import pytest

from benchmarks.faults import measure
from benchmarks.report import Options


@pytest.mark.slow
@pytest.mark.needs_mosquitto
@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_out_of_order_under_kills() -> None:
    """Eight kills: every cut answered and made once, every other alert met, no stream out of order, no number gone."""
    report = measure(Options(is_quick=True, seed=7))
    broken = [check.what for check in report.checks if not check.ok]
    assert broken == []
    assert len(report.checks) == 9
