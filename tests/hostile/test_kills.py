"""Service, broker and cutter killed at random beside numbered alerts: small runs of the benchmark."""

import pytest

from benchmarks.faults import Plan, measure, measure_plan
from benchmarks.report import Options, Report

HANDFUL = Plan(
    kills=3, alerts=10, cuts_per_second=3.0, looks_per_second=1.0, longest_seconds=20.0, rest_seconds=(0.2, 0.6)
)


def assert_kept(report: Report) -> None:
    """All nine promises of the benchmark hold."""
    broken = [check.what for check in report.checks if not check.ok]
    assert broken == []
    assert len(report.checks) == 9


@pytest.mark.needs_mosquitto
def test_nothing_is_lost_by_a_handful_of_kills() -> None:
    """Three kills: every cut answered and made once, every other alert met, no stream out of order, no number gone."""
    assert_kept(measure_plan(HANDFUL, Options(seed=3)))


@pytest.mark.slow
@pytest.mark.needs_mosquitto
@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_out_of_order_under_kills() -> None:
    """The same for eight kills and five times the alerts."""
    assert_kept(measure(Options(is_quick=True, seed=7)))
