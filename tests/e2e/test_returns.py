"""Real publishers, the real service: who was cut comes back under new keys, and stays off."""

from pathlib import Path

import pytest

from benchmarks.returns import Plan, run

pytestmark = [pytest.mark.e2e, pytest.mark.needs_cage]


async def test_votes_add_up_over_short_sessions_and_new_keys_do_not_help(tmp_path: Path) -> None:
    """No session of two seconds has the votes for a cut, all have other keys: a later one is cut, the rest stay out."""
    account = (await run(Plan(sessions=0, account_seconds=9.0, fingerprint_seconds=0.0), tmp_path)).account
    assert account.first_cut_session is not None
    assert account.first_cut_session > 1
    assert account.cut == 1
    assert account.denied == account.attempts - account.first_cut_session > 0
