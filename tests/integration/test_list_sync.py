"""Lists from elsewhere in a running service: fetched, found in a stream, named in alerts, withdrawn, stale, refused."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from structlog.testing import capture_logs

from detector.alerts import alarm
from detector.cards import synthetic_card
from detector.exchanges import care
from detector.exchanges.order import job_of
from detector.exchanges.records import Outcome, SyncState, read_state
from detector.exchanges.sync import sync
from models.hashing.registry import hash_algorithms
from tests import fixtures_site
from tests.exchange_servers import Asked, FakeExchange, Holdings, Reply, made_up, stopncii
from tests.fixtures_site import QUICK, Site, open_site
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration

CARD = 7
PATIENCE = 100.0
"""Seconds; a sync is a process of its own, which gives way to whatever else a machine does."""


def card_hash(seed: int) -> bytes:
    grey = synthetic_card(seed, 64, 64).astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return hash_algorithms()["pdq"].hash_plane(grey.round().astype(np.uint8)).value


@pytest.fixture
def alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the site's alerts are written too."""
    path = tmp_path / "alerts.jsonl"
    monkeypatch.setattr(
        fixtures_site, "BASE", fixtures_site.BASE.replace("alerts: {", f"alerts: {{jsonl: {{path: {path}}}, ")
    )
    return path


def exchanges(folder: Path, url: str, **options: object) -> str:
    """The config's section for a StopNCII on loopback."""
    for name in ("function", "subscription"):
        (folder / name).write_text(f"{name}\n")
        (folder / name).chmod(0o600)
    line = {"name": "peer", "kind": "stopncii", "bank": "PEER", "url": f"{url}/v1", **options}
    keys = {name + "_key": {"file": name} for name in ("function", "subscription")}
    return f"exchanges: [{json.dumps(line | keys)}]\n"


@pytest.fixture(autouse=True)
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first sync of a list begin with the service: when it is due is tested with the schedule."""
    monkeypatch.setattr(care, "_draw", lambda: 0.0)


@asynccontextmanager
async def listed_site(
    folder: Path, holdings: Holdings, more: str = "", **options: object
) -> AsyncIterator[tuple[Site, FakeExchange]]:
    async with (
        FakeExchange(stopncii(holdings)) as exchange,
        open_site(folder, exchanges(folder, exchange.url, **options) + more) as site,
    ):
        yield site, exchange


async def synced(site: Site, accepted: tuple[int, int] | None = None) -> SyncState:
    """As `stopframe lists sync` does it, once the service's own turn is over."""
    config = site.service.config
    job = job_of(config, config.exchanges[0], accepted)
    async with asyncio.timeout(60):
        while (state := await sync(job.client(), job.adoption(), time.time)).outcome == Outcome.BUSY:
            await asyncio.sleep(0.05)
    return state


def state_of(site: Site) -> SyncState | None:
    return read_state(site.service.config.state_dir, "peer")


async def test_what_came_by_sync_is_found_named_and_withdrawn(tmp_path: Path, alerts: Path) -> None:
    """A stream that shows what an exchange listed raises an alert that names list, version, entry and opinion.

    Once the exchange has withdrawn the row, nothing matches it a second after the sync.
    """
    holdings, now = Holdings(size=100), time.time()
    for number, value in enumerate([card_hash(CARD), *map(bytes, made_up(50))]):
        holdings.put(str(number), value, now - 3600 + number)
    async with listed_site(tmp_path, holdings, QUICK) as (site, _), site.published(f"card:{CARD}:60") as session:
        metrics = site.service.metrics

        def matches() -> float:
            return sum(metrics.value("stopframe_matches_total", strength=word) for word in ("cut", "review"))

        await site.until(lambda: metrics.value("stopframe_list_rows", list="peer") == 51, PATIENCE)
        await site.until(lambda: alerts.exists() and alerts.read_text().strip())
        signal = json.loads(alerts.read_text().splitlines()[0])["signals"][0]
        state = state_of(site)
        assert state is not None
        assert signal["bank"] == "PEER"
        assert signal["entry"] == f"ImagePDQ:{card_hash(CARD).hex()}"
        assert (signal["source"], signal["version"], signal["opinion"]) == ("peer", state.version, "positive")
        assert len(alerts.read_bytes().splitlines()[0]) <= 4096

        holdings.put("0", card_hash(CARD), time.time(), is_gone=True)
        state = await synced(site)
        withdrawn_at = time.monotonic()
        assert (state.outcome, state.withdrawn) == (Outcome.SYNCED, 1), state.sentence
        last, seen, judged = matches(), withdrawn_at, session.judge.judged
        assert last > 0
        # Ten frames without a match are the end of it, however slowly they come.
        while session.judge.judged < judged + 10 and time.monotonic() < withdrawn_at + 60:
            await asyncio.sleep(0.01)
            if matches() > last:
                last, seen, judged = matches(), time.monotonic(), session.judge.judged
        print(f"last match {seen - withdrawn_at:.3f} s after the sync")  # noqa: T201 - the figure, with pytest -s
        assert seen - withdrawn_at <= 1.0 + SLACK_SECONDS
        assert session.judge.judged >= judged + 10  # the stream was looked at all the while
        await site.until(lambda: metrics.value("stopframe_list_hashes_total", list="peer", state="added") == 51)


async def test_a_list_that_is_not_to_be_had_grows_stale_and_is_told(
    tmp_path: Path, alerts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before stays in force, health is red after `stale_after` with the reason, and green with the list.

    An alarm that names the list goes to the file, as it would to the webhook.
    """
    holdings, gone_by = Holdings(), [0.0]
    monkeypatch.setattr(alarm, "_SETTLED_SECONDS", 0.5)
    monkeypatch.setattr(care, "time", SimpleNamespace(time=lambda: time.time() + gone_by[0]))
    holdings.put("0", made_up(1)[0], time.time() - 60)
    with capture_logs() as logs:
        async with listed_site(tmp_path, holdings, every="1h", stale_after="2h") as (site, exchange):
            await site.until(lambda: site.service.metrics.value("stopframe_list_rows", list="peer") == 1, PATIENCE)
            assert not [one for one in site.service.health().problems if "peer" in one]
            whole, exchange.answer = exchange.answer, _away
            gone_by[0] = 2.5 * 3600
            await site.until(lambda: "answered 404; correct url" in _problem(site), PATIENCE)
            assert "list peer is" in _problem(site)
            assert "stopframe lists sync peer" in _problem(site)
            assert site.service.metrics.value("stopframe_list_rows", list="peer") == 1
            await site.until(lambda: alerts.exists() and "stopframe/alarm/1" in alerts.read_text(), PATIENCE)
            told = json.loads(alerts.read_text().splitlines()[0])
            assert any("list peer is" in one for one in told["problems"])
            exchange.answer, gone_by[0] = whole, 0.0
            assert (await synced(site)).outcome == Outcome.SYNCED
            await site.until(lambda: not _problem(site), PATIENCE)
    events = [entry["event"] for entry in logs]
    assert "list.synced" in events
    assert "list.stale" in events
    assert "list.failed" in events


def _problem(site: Site) -> str:
    return "; ".join(one for one in site.service.health().problems if "peer" in one)


def _away(_: Asked) -> Reply:
    return Reply(status=404)


async def test_a_refused_list_turns_health_red_until_somebody_says_so_and_lists_follow_the_config(
    tmp_path: Path,
) -> None:
    """A line that comes is fetched; its list, once it takes too much away, waits for a word; one that goes is left.

    The bank of a line that went stays until somebody removes it.
    """
    holdings, now = Holdings(size=500), time.time()
    rows = made_up(300)
    for number, value in enumerate(rows):
        holdings.put(str(number), value, now - 3600)
    async with FakeExchange(stopncii(holdings)) as exchange, open_site(tmp_path, "") as site:

        def count() -> float:
            return site.service.metrics.value("stopframe_list_rows", list="peer")

        site.write(exchanges(tmp_path, exchange.url))
        await site.until(lambda: count() == 300, PATIENCE)
        for number in range(150):
            holdings.put(str(number), rows[number], time.time(), is_gone=True)
        assert (await synced(site)).outcome == Outcome.REFUSED
        await site.until(lambda: "stopframe lists accept peer" in _problem(site), PATIENCE)
        state = await synced(site, (0, 150))
        assert (state.outcome, state.rows) == (Outcome.SYNCED, 150), state.sentence
        await site.until(lambda: count() == 150 and not site.service.health().problems, PATIENCE)
        site.write("")
        await site.until(lambda: not count(), PATIENCE)
        assert (tmp_path / "state/banks/PEER/bank.json").exists()
        assert not _problem(site)
