"""Real publishers, the real service: who was cut comes back under new keys, and stays off."""

from pathlib import Path

import pytest

from benchmarks.returns import Plan, run
from benchmarks.returns_nginx import checks, run_on_nginx
from tests.slack import SLACK_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.needs_cage]


async def test_votes_add_up_over_short_sessions_and_new_keys_do_not_help(tmp_path: Path) -> None:
    """No session of two seconds has the votes for a cut, all have other keys: a later one is cut, the rest stay out."""
    plan = Plan(sessions=0, account_seconds=9.0, fingerprint_seconds=0.0, patience_seconds=2 * SLACK_SECONDS)
    account = (await run(plan, tmp_path)).account
    assert account.first_cut_session is not None
    assert account.first_cut_session > 1
    assert account.cut == 1
    assert account.denied == account.attempts - account.first_cut_session > 0


@pytest.mark.needs_nginx_rtmp
@pytest.mark.needs_mosquitto
@pytest.mark.needs_ffmpeg
async def test_an_undo_lets_somebody_back_on_nginx_within_seconds(tmp_path: Path) -> None:
    """Who was cut is refused under his key and account, and on air again soon after an operator took the cut back."""
    (seconds,) = (await run_on_nginx(tmp_path, 0.0, 1)).undo_seconds
    assert seconds < 5.0 + SLACK_SECONDS


@pytest.mark.slow
@pytest.mark.needs_nginx_rtmp
@pytest.mark.needs_mosquitto
@pytest.mark.needs_ffmpeg
async def test_who_was_cut_stays_off_nginx_by_account_or_picture(tmp_path: Path) -> None:
    """New keys every two seconds: by account nginx never lists him again, by the picture for moments."""
    outcome = await run_on_nginx(tmp_path, 8.0, 0)
    assert [check.what for check in checks(outcome) if not check.ok] == []
    assert outcome.account[0].was_on_air
    assert len(outcome.account) == len(outcome.picture) == 4
