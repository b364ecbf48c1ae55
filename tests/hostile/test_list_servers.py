"""Exchanges that mean harm, or are slow: nothing that they send counts, and their patience is asked for no longer."""

import asyncio
import gzip
import json
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from detector.exchanges import transport
from detector.exchanges.client import ExchangeFailed
from detector.exchanges.job import SyncJob
from detector.exchanges.records import Outcome, SyncState
from detector.exchanges.sync import sync
from detector.exchanges.transport import Access, Transport
from tests.exchange_servers import NOW, Asked, FakeExchange, Holdings, Reply, made_up, stopncii
from tests.fixtures_own_list import DAY


async def _trickle() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.02)


async def _flood(megabytes: int) -> AsyncIterator[bytes]:
    for _ in range(megabytes):
        yield b" " * (1 << 20)
        await asyncio.sleep(0)


def _page(number: int, **changes: Any) -> dict[str, Any]:
    values = made_up(2, seed=number % 10_000)
    record = {"signalType": "ImagePDQ", "lastModtimestamp": 1, "hashStatus": "Active", "caseNumbers": {}}
    records = [record | {"hashValue": bytes(value).hex()} for value in values]
    rest = {"nextPageToken": f"page{number + 1}", "nextSetTimestamp": 1, "hasMoreRecords": True}
    return {"count": 2, "hashRecords": records} | rest | changes


class Hostile:
    """Answers of an exchange that means harm, by what it does."""

    def __init__(self) -> None:
        self.pages = 0

    def __call__(self, what: str) -> Callable[[Asked], Reply]:
        return {
            "never ends": lambda _: self._next(),
            "goes in circles": lambda _: Reply.of(_page(1, nextPageToken="page1")),
            "repeats a page under new names": lambda _: self._again(),
            "sends empty pages for ever": lambda _: self._empty(),
            "sends a hundred megabytes": lambda _: Reply(pieces=_flood(100)),
            "sends a byte now and then": lambda _: Reply(pieces=_trickle()),
            "sends a web page": lambda _: Reply(b"<html>please log in</html>", kind="text/html"),
            "sends a compressed page": lambda _: Reply(
                gzip.compress(b" " * (1 << 24)), headers=("content-encoding: gzip",)
            ),
            "redirects": lambda _: Reply(status=302, headers=("location: http://127.0.0.1:1/elsewhere",)),
            "names a time in the future": lambda _: Reply.of(
                _page(1, hasMoreRecords=False, nextSetTimestamp=int(NOW) + 10**6)
            ),
            "does not say whether it ended": lambda _: Reply.of(_page(1, hasMoreRecords=True, nextPageToken=None)),
            "sends no JSON": lambda _: Reply(b'{"hashRecords": [', kind="application/json"),
            "nests without end": lambda _: Reply(b"[" * 500_000),
            "sends a list of numbers": lambda _: Reply.of([1, 2, 3]),
            "closes at once": lambda _: Reply(status=200, headers=("content-length: 100",), pieces=_flood(0)),
            "asks for a day's patience": lambda _: Reply(status=429, headers=("retry-after: 86400",)),
        }[what]

    WHATS = (
        "never ends",
        "goes in circles",
        "repeats a page under new names",
        "sends empty pages for ever",
        "sends a hundred megabytes",
        "sends a byte now and then",
        "sends a web page",
        "sends a compressed page",
        "redirects",
        "names a time in the future",
        "does not say whether it ended",
        "sends no JSON",
        "nests without end",
        "sends a list of numbers",
        "closes at once",
        "asks for a day's patience",
    )

    def _next(self) -> Reply:
        self.pages += 1
        return Reply.of(_page(self.pages))

    def _again(self) -> Reply:
        self.pages += 1
        return Reply.of(_page(self.pages) | {"hashRecords": _page(1)["hashRecords"]})

    def _empty(self) -> Reply:
        self.pages += 1
        return Reply.of(_page(self.pages, hashRecords=[], count=0))


@pytest.mark.parametrize("what", Hostile.WHATS)
async def test_an_exchange_that_means_harm_changes_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it sends, the list in force stays, soon and within bounds, and a sentence says why."""
    monkeypatch.setattr(transport, "_FIRST_PAUSE_SECONDS", 0.01)
    holdings = Holdings(size=100)
    for number, value in enumerate(made_up(100, seed=1)):
        holdings.put(str(number), value, NOW - 1000)
    async with FakeExchange(stopncii(holdings)) as exchange:
        state = await _stopncii(tmp_path, exchange)
        assert state.rows == 100, state.sentence
        if what == "sends a byte now and then":
            monkeypatch.setattr(transport, "_DEADLINE_SECONDS", 1.0)
            monkeypatch.setattr(transport.Transport.__init__, "__kwdefaults__", _short(transport.Transport.__init__))
        before = (tmp_path / "banks/PEER/bank.json").read_bytes(), (tmp_path / "banks/PEER/source.json").read_bytes()
        exchange.answer = Hostile()(what)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        state = await _stopncii(tmp_path, exchange)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert state.outcome in (Outcome.FAILED, Outcome.REFUSED), state
    assert state.sentence
    assert before == (
        (tmp_path / "banks/PEER/bank.json").read_bytes(),
        (tmp_path / "banks/PEER/source.json").read_bytes(),
    )
    assert grown < 200 * 1024  # kibibytes
    if what == "asks for a day's patience":
        assert state.retry_at == NOW + 86_400
        assert len(exchange.asked) == 2


def _short(function: Any) -> dict[str, Any]:
    return dict(function.__kwdefaults__) | {"deadline_seconds": 1.0}


async def _stopncii(tmp_path: Path, exchange: FakeExchange) -> SyncState:
    job = SyncJob(
        exchange="peer",
        kind="stopncii",
        bank_dir=str(tmp_path / "banks/PEER"),
        state_dir=str(tmp_path),
        most_rows=200,
        most_change=0.1,
        url=f"{exchange.url}/v1",
        function_key="function",
        subscription_key="subscription",
    )
    return await sync(job.client(lambda: NOW), job.adoption(), lambda: NOW)


async def test_a_link_that_leads_elsewhere_gets_no_credentials(tmp_path: Path) -> None:
    """Pages are followed on the same server below the same path alone."""
    async with FakeExchange(lambda _: Reply.of({})) as elsewhere, FakeExchange(lambda _: Reply.of({})) as exchange:
        access = Access(url=f"{exchange.url}/v2", basic=("name", "word"))
        async with Transport(access) as client:
            for url in (
                f"{elsewhere.url}/v2/entries",
                f"{exchange.url}/v3/x",
                f"{exchange.url}/v2/../admin",
                f"{exchange.url}/v2/%2e%2E/admin",
                exchange.url.replace("//", "//name:word@") + "/v2/entries",
            ):
                with pytest.raises(ExchangeFailed, match="credentials go nowhere else"):
                    await client.get(url, "json")
            assert await client.get(f"{exchange.url}/v2/entries", "json") == b"{}"
        assert (len(elsewhere.asked), len(exchange.asked)) == (0, 1)


async def test_what_passes_is_waited_for(tmp_path: Path) -> None:
    """503 and 429 with a short Retry-After end in the page; the pauses are those that were asked for."""
    replies = [
        Reply(status=503),
        Reply(status=429, headers=("retry-after: 7",)),
        Reply(status=500, headers=("retry-after: nonsense",)),
        Reply.of({"fine": 1}),
    ]
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    async with FakeExchange(lambda _: replies.pop(0)) as exchange:
        access = Access(url=f"{exchange.url}/v1")
        async with Transport(access, pause=pause, jitter=lambda: 0.5) as client:
            assert json.loads(await client.get(f"{exchange.url}/v1/x", "json")) == {"fine": 1}
    assert waited == [0.5, 7.0, 2.0]


async def test_within_a_chain_a_bad_line_and_a_limit_by_the_hour_are_waited_for(tmp_path: Path) -> None:
    """Minutes of silence, and a quarter of an hour that was asked for, cost no chain what it has."""
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    def replies() -> list[Reply]:
        patience = Reply(status=429, headers=("retry-after: 900",))
        return [*[Reply(status=503)] * 9, patience, Reply.of({"fine": 1})]

    left = replies()
    async with (
        FakeExchange(lambda _: left.pop(0)) as exchange,
        Transport(Access(url=f"{exchange.url}/v1"), pause=pause, jitter=lambda: 0.5) as client,
    ):
        await client.get(f"{exchange.url}/v1/x", "json", is_continued=True)
        assert waited == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 900]
        left = replies()
        with pytest.raises(ExchangeFailed):
            await client.get(f"{exchange.url}/v1/x", "json")
        left = [Reply(status=429, headers=("retry-after: 999999999",))]
        with pytest.raises(ExchangeFailed) as failed:
            await client.get(f"{exchange.url}/v1/x", "json")
        assert failed.value.retry_after_seconds == DAY


async def test_an_error_of_meta_s_is_what_it_says(tmp_path: Path) -> None:
    """Too many calls, which comes as 400, is waited for within a chain; a token that is over is named as such."""
    errors = [{"error": {"code": 4}}, {"error": {"code": 1, "is_transient": True}}, {"error": {"code": 190}}]
    left = [Reply.of(error, status=400) for error in errors]
    left.insert(2, Reply.of({"fine": 1}))
    async with (
        FakeExchange(lambda _: left.pop(0)) as exchange,
        Transport(Access(url=f"{exchange.url}/v1", is_graph=True), pause=_at_once) as client,
    ):
        assert await client.get(f"{exchange.url}/v1/x", "json", is_continued=True) == b'{"fine": 1}'
        with pytest.raises(ExchangeFailed, match="refused our credentials: its token is over"):
            await client.get(f"{exchange.url}/v1/x", "json", is_continued=True)


async def _at_once(_: float) -> None:
    pass
