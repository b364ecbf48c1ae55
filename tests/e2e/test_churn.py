"""Publishers come and go on a real nginx-rtmp for a minute: none unwatched, no end missed, nothing left behind."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.churn import Plan, run
from tests.slack import SLACK_SECONDS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs_nginx_rtmp,
    pytest.mark.needs_mosquitto,
    pytest.mark.needs_ffmpeg,
    pytest.mark.needs_cage,
]


_SAMPLE = Plan(8, 15.0, longest_stay_seconds=4.0, longest_pause_seconds=1.5, seed=3, patience_seconds=SLACK_SECONDS)
_WHOLE = Plan(16, 45.0, longest_stay_seconds=9.0, longest_pause_seconds=3.0, seed=3, patience_seconds=SLACK_SECONDS)


@pytest.mark.parametrize("plan", [_SAMPLE, pytest.param(_WHOLE, marks=pytest.mark.slow)], ids=["sample", "whole"])
async def test_publishers_come_and_go_and_leave_nothing_behind(tmp_path: Path, plan: Plan) -> None:
    """Every publication is seen, every end noticed within 6 s; no reader, descriptor or topic stays."""
    outcome = await run(plan, tmp_path)
    before, after = outcome.before, outcome.after
    assert before is not None
    assert after is not None
    stays = Counter(stay.path for stay in outcome.stays)
    assert sum(count > 1 for count in stays.values()) == plan.keys
    assert [stay for stay in outcome.stays if stay.was_refused or stay.seen_at is None] == []
    assert max(outcome.notice_seconds) < 6 + SLACK_SECONDS
    assert (after.readers, after.processes - before.processes, outcome.outlived) == (0, 0, 0)
    assert after.descriptors <= before.descriptors
    assert outcome.retained_halfway
    assert outcome.retained == []
