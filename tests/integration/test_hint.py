"""Risk hints from the command's side of the socket to the reader that looks closer."""

import asyncio
from pathlib import Path

import httpx
import pytest

from detector.api.client import ControlClient, ControlRefused
from detector.api.control import create_control_app
from detector.api.view import HintReport, HintRequest, HintRow, NotNow
from streams.frame import SampleReason
from tests.fixtures_site import Site, open_site

GOOD = {"score": 0.8, "source": "user_reports", "reason": "violence", "lasts_seconds": 600}


class View:
    """Takes hints and keeps them."""

    def __init__(self) -> None:
        self.hints: list[tuple[str, HintRequest]] = []
        self.is_full = False

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        if self.is_full:
            raise NotNow("8 stronger hints hold for this stream already; nothing to add.")
        self.hints.append((stream, hint))
        return HintReport(stream, hint.score, hint.lasts_seconds)


async def _post(view: View, body: object) -> httpx.Response:
    transport = httpx.ASGITransport(create_control_app(view))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        return await client.post("/streams/ABCDEF/hint", json=body)


async def test_a_hint_arrives_as_it_was_given() -> None:
    """Score, source, reason and time reach the service, which answers what holds."""
    view = View()
    answer = await _post(view, GOOD)
    assert answer.json() == {"stream_id": "ABCDEF", "score": 0.8, "lasts_seconds": 600}
    assert view.hints == [("ABCDEF", HintRequest(0.8, "user_reports", "violence", 600))]
    view.is_full = True
    answer = await _post(view, GOOD)
    assert (answer.status_code, answer.json()["error"][:18]) == (429, "8 stronger hints h")


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": 1.1},
        {"score": -0.1},
        {"score": "nan"},
        {"source": ""},
        {"source": "x" * 65},
        {"source": "Two Words"},
        {"reason": "a\nb"},
        {"reason": "a\n"},
        {"lasts_seconds": 0},
        {"lasts_seconds": 3601},
        {"action": "cut"},
    ],
    ids=str,
)
async def test_what_is_no_hint_is_refused_and_not_repeated(wrong: dict[str, object]) -> None:
    """A body that is out of bounds does nothing; the sentence names the key."""
    view = View()
    answer = await _post(view, GOOD | wrong)
    assert answer.status_code == 422
    assert next(iter(wrong)) in answer.json()["error"]
    assert not view.hints


async def _hint(site: Site, stream: str, hint: HintRequest) -> HintReport:
    def give() -> HintReport:
        with ControlClient(site.service.config.state_dir) as client:
            return client.hint(stream, hint)

    return await asyncio.to_thread(give)


@pytest.mark.integration
async def test_a_hinted_stream_is_decoded_through_and_shown_so(tmp_path: Path) -> None:
    """The reader looks closer within seconds, the rows say why, and nothing is cut; an unknown id is refused."""
    async with (
        open_site(tmp_path, "sampling: {bursts: 0%, spikes: false}\n") as site,
        site.published("card:7:60") as live,
    ):
        metrics = site.service.metrics
        assert metrics.value("stopframe_samples_total", reason=SampleReason.CLOSER_LOOK.value) == 0
        report = await _hint(site, live.stream_id[:6], HintRequest(0.8, "user_reports", "violence", 3.0))
        assert report.stream_id == live.stream_id
        await site.until(lambda: metrics.value("stopframe_samples_total", reason=SampleReason.CLOSER_LOOK.value) >= 5)
        row = site.service.streams()[0]
        assert (row.risk, row.ration, len(row.hints)) == ("high", "full", 1)
        assert row.hints[0] == HintRow("user_reports", "violence", 0.8, row.hints[0].left_seconds, is_looked_at=True)
        await site.until(lambda: not site.service.streams()[0].hints and not live.orders.is_close)
        assert site.service.streams()[0].risk == "normal"
        with pytest.raises(ControlRefused, match="no stream has this identifier"):
            await _hint(site, "ABCDEFGH", HintRequest(0.8, "user_reports", "violence", 5.0))
        assert not await site.service.incidents(10)
