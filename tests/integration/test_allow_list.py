"""A stream on the allow-list in a running service: asked about, not cut, until the entry is taken out."""

from pathlib import Path

import pytest

from detector.allow_list import REFUSED_BY
from tests.fixtures_site import CARDS, QUICK, open_site

pytestmark = pytest.mark.integration

_RULE = f"{QUICK}classes: {{{CARDS}: {{step: cut, review: 0.5, cut: 0.6}}}}\n"
_ALLOWED = "[{match: 'live/key-*', until: '2099-01-01', reason: a test}]"


async def test_nobody_on_the_list_is_cut_until_the_entry_is_taken_out(tmp_path: Path) -> None:
    """A card that would cut asks for a review; once the file says no more, the same stream is cut without a restart."""
    async with (
        open_site(tmp_path, f"{_RULE}enforcement: {{live: true, allow: {_ALLOWED}}}\n") as site,
        site.published("smptebars:60") as session,
    ):
        await site.until(lambda: session.judge.judged >= 5)
        await site.service.responder.settle()
        rows = await site.service.incidents(10)
        assert [(row.action, row.refused_by, row.cut_state) for row in rows] == [("review", REFUSED_BY, "none")]
        assert f"{REFUSED_BY}[0] (a test) keeps 1 live streams from being cut until 2099-01-01T00:00:00Z" in (
            site.service.health().notes
        )
        site.write(f"{_RULE}enforcement: {{live: true}}\n")
        await site.until(lambda: not site.service.supervisor.sessions)
        assert not any(REFUSED_BY in note for note in site.service.health().notes)
        assert (await site.service.incidents(1))[0].action == "cut"
