"""A small part of the soak: what comes and goes leaves nothing behind."""

import asyncio
from pathlib import Path

import pytest

from benchmarks import outage
from benchmarks.soak import checks, soak

SESSIONS = 8


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.needs_cage
def test_sessions_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    """After two rounds of publishers the service holds the descriptors, threads, tasks and processes of the first."""
    first, second, *more = series = asyncio.run(soak(SESSIONS, tmp_path, keys=4, steps=2))

    last = more[-1] if more else second
    assert [first.sessions, second.sessions] == [4, 8]
    assert last.samples > first.samples > 50
    assert set(first.resident) >= {"service", "reader forkserver", "analysis forkserver", "analysis 0"}
    assert last.descriptors == first.descriptors
    assert last.tasks == first.tasks
    assert last.processes == first.processes
    assert last.threads == first.threads
    grown = {check.what: check.value for check in checks(series, SESSIONS) if check.unit == "MiB"}
    assert all(value < 10.0 for value in grown.values()), grown


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.needs_cage
@pytest.mark.needs_mosquitto
def test_nothing_is_lost_while_the_broker_is_away(tmp_path: Path) -> None:
    """Eight seconds without a broker: every alert comes, each stream in order, cuts first, whoever is to be cut is."""
    away = asyncio.run(outage.outage(tmp_path, 8.0))
    assert [check.what for check in outage.checks(away, 8.0) if not check.ok] == []
    assert away.usual_growth_bytes is None
