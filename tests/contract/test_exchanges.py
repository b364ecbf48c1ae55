"""Every client of an exchange keeps the same promises, against servers on loopback in the documented shapes."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from detector.exchanges.client import Checkpoint, ExchangeClient, ExchangeFailed
from detector.exchanges.job import SyncJob
from detector.exchanges.kinds import ExchangeKind
from detector.exchanges.manifest import file_digest, write_manifest
from detector.exchanges.records import Outcome, SyncState, read_source
from detector.exchanges.sync import sync
from detector.exchanges.transport import Transport
from detector.trust.signing import Signer, public_key_text
from models.bank_store import load_bank
from tests.exchange_servers import (
    NOW,
    Asked,
    FakeExchange,
    Holdings,
    Reply,
    made_up,
    ncmec,
    stopncii,
    tat,
    threatexchange,
)
from tests.fixtures_web import MakeAuthority

DAY = 86_400.0
SIGNER = Signer.of_seed(b"k" * 32)


@dataclass(frozen=True)
class Peer:
    """One exchange: its server, where it is, what opens it, and what it calls the entry with a hash."""

    kind: ExchangeKind
    server: Callable[[Holdings], Callable[[Asked], Reply]]
    path: str
    credentials: dict[str, str]
    name: Callable[[int], str] = str
    entry: Callable[[int, bytes], str] = lambda number, _: str(number)

    def job(self, state_dir: Path, url: str, **more: object) -> SyncJob:
        values: dict[str, object] = {"most_rows": 1000, "most_change": 0.1, **self.credentials, **more}
        return SyncJob(
            exchange="peer",
            kind=self.kind.value,
            bank_dir=str(state_dir / "banks/PEER"),
            state_dir=str(state_dir),
            url=url + self.path,
            **values,  # type: ignore[arg-type]
        )


PEERS = [
    Peer(
        ExchangeKind.STOPNCII,
        stopncii,
        "/v1",
        {"function_key": "function", "subscription_key": "subscription"},
        entry=lambda _, value: f"ImagePDQ:{value.hex()}",
    ),
    Peer(ExchangeKind.TAT, tat, "", {"username": "name", "password": "word"}),
    Peer(ExchangeKind.THREATEXCHANGE, threatexchange, "/v26.0", {"token": "app|token", "collection": "77"}),
    Peer(
        ExchangeKind.NCMEC,
        ncmec,
        "/hashsharing",
        {"username": "name", "password": "word"},
        name=lambda number: f"42-{number}",
        entry=lambda number, _: f"42-{number}",
    ),
]


@pytest.fixture(params=PEERS, ids=lambda peer: peer.kind.value)
def peer(request: pytest.FixtureRequest) -> Peer:
    found: Peer = request.param
    return found


def filled(peer: Peer, count: int = 10) -> tuple[Holdings, list[bytes]]:
    """An exchange with so many entries, a minute apart, the last a day ago."""
    holdings, values = Holdings(), [bytes(row) for row in made_up(count)]
    for number, value in enumerate(values):
        holdings.put(peer.name(number), value, NOW - DAY - 60 * (count - number))
    return holdings, values


async def had(peer: Peer, state_dir: Path, url: str, now: float = NOW, **more: object) -> SyncState:
    job = peer.job(state_dir, url, **more)
    return await sync(job.client(lambda: now), job.adoption(), lambda: now)


def held(state_dir: Path) -> dict[str, bytes]:
    rows = load_bank(state_dir / "banks/PEER").rows("pdq")
    assert rows is not None
    return {name: row.tobytes() for name, row in zip(rows.names, rows.hashes, strict=True)}


async def test_a_list_comes_whole_over_many_pages(peer: Peer, tmp_path: Path) -> None:
    """All entries are in the bank under the exchange's own names, and the checkpoint says how far that goes."""
    holdings, values = filled(peer)
    async with FakeExchange(peer.server(holdings)) as exchange:
        state = await had(peer, tmp_path, exchange.url)
    assert (state.outcome, state.rows, state.added, state.bad) == (Outcome.SYNCED, 10, 10, 0), state.sentence
    assert held(tmp_path) == {peer.entry(number, value): value for number, value in enumerate(values)}
    source = read_source(tmp_path / "banks/PEER")
    assert source is not None
    assert source.checkpoint is not None
    assert source.version == state.version != ""


async def test_only_what_is_new_is_asked_for_and_what_is_withdrawn_goes(peer: Peer, tmp_path: Path) -> None:
    """A second sync brings the new entry, takes the withdrawn one away, and leaves the others alone."""
    holdings, values = filled(peer)
    async with FakeExchange(peer.server(holdings)) as exchange:
        await had(peer, tmp_path, exchange.url)
        new = bytes(made_up(1, seed=9)[0])
        holdings.put(peer.name(10), new, NOW + 60)
        holdings.put(peer.name(3), values[3], NOW + 120, is_gone=True)
        asked_before = len(exchange.asked)
        state = await had(peer, tmp_path, exchange.url, NOW + 3600)
        assert len(exchange.asked) - asked_before <= 2 + (peer.kind is ExchangeKind.TAT)
    assert (state.outcome, state.added, state.withdrawn) == (Outcome.SYNCED, 11, 1), state.sentence
    expected = {peer.entry(number, value): value for number, value in enumerate(values) if number != 3}
    assert held(tmp_path) == expected | {peer.entry(10, new): new}


async def test_a_sync_without_news_changes_nothing(peer: Peer, tmp_path: Path) -> None:
    """The same list again writes no new generation of the bank."""
    holdings, _ = filled(peer)
    async with FakeExchange(peer.server(holdings)) as exchange:
        await had(peer, tmp_path, exchange.url)
        before = (tmp_path / "banks/PEER/bank.json").read_bytes()
        state = await had(peer, tmp_path, exchange.url, NOW + 3600)
    assert state.outcome == Outcome.SYNCED, state.sentence
    assert (tmp_path / "banks/PEER/bank.json").read_bytes() == before


async def test_a_chain_that_the_exchange_forgot_begins_anew(peer: Peer, tmp_path: Path) -> None:
    """Pages before the break are fetched again: the list is whole, and nothing of it is in force before."""
    holdings, values = filled(peer)
    holdings.broken_after = 2
    async with FakeExchange(peer.server(holdings)) as exchange:
        state = await had(peer, tmp_path, exchange.url)
    assert state.outcome == Outcome.SYNCED, state.sentence
    assert len(held(tmp_path)) == len(values)


async def test_the_checkpoint_stays_where_a_chain_does_not_end(peer: Peer, tmp_path: Path) -> None:
    """An exchange that fails in the middle leaves the old list and the old checkpoint, and the next sync has it all."""
    holdings, values = filled(peer)
    async with FakeExchange(peer.server(holdings)) as exchange:
        await had(peer, tmp_path, exchange.url)
        source = read_source(tmp_path / "banks/PEER")
        for number in range(10, 20):
            holdings.put(peer.name(number), made_up(1, seed=number)[0], NOW + number)
        whole, pages = exchange.answer, 0

        def fails_later(asked: Asked) -> Reply:
            nonlocal pages
            pages += 1
            return whole(asked) if pages < 3 else Reply(status=403)

        exchange.answer = fails_later
        state = await had(peer, tmp_path, exchange.url, NOW + 3600)
        assert state.outcome == Outcome.FAILED
        assert read_source(tmp_path / "banks/PEER") == source
        assert len(held(tmp_path)) == len(values)
        exchange.answer = whole
        state = await had(peer, tmp_path, exchange.url, NOW + 7200)
    assert (state.outcome, len(held(tmp_path))) == (Outcome.SYNCED, 20), state.sentence


async def test_wrong_credentials_are_a_sentence_without_them(peer: Peer, tmp_path: Path) -> None:
    """The exchange's refusal names the remedy and no secret."""
    holdings, _ = filled(peer)
    wrong = {name: "wrong-secret" for name in peer.credentials if name not in {"username", "collection"}}
    async with FakeExchange(peer.server(holdings)) as exchange:
        state = await had(peer, tmp_path, exchange.url, **wrong)
    assert state.outcome == Outcome.FAILED
    assert "refused our credentials (401)" in state.sentence
    assert "wrong-secret" not in state.sentence
    assert not (tmp_path / "banks/PEER/bank.json").exists()


async def test_what_an_exchange_left_out_of_everything_goes(peer: Peer, tmp_path: Path) -> None:
    """When all is fetched again, entries that the exchange has no more are withdrawn, told of or not."""
    holdings, values = filled(peer, 200)
    holdings.size = 50
    async with FakeExchange(peer.server(holdings)) as exchange:
        await had(peer, tmp_path, exchange.url)
        for number in range(5):
            del holdings.records[peer.name(number)]
        lost = {"exchange": "peer", "kind": peer.kind.value, "collection": peer.credentials.get("collection", "")}
        (tmp_path / "banks/PEER/source.json").write_text(json.dumps(lost))
        state = await had(peer, tmp_path, exchange.url, NOW + 3600)
    assert (state.outcome, state.withdrawn) == (Outcome.SYNCED, 5), state.sentence
    assert len(held(tmp_path)) == len(values) - 5


async def test_times_that_are_asked_for_are_utc_wherever_this_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine in another zone asks NCMEC for the same range."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        peer = PEERS[3]
        holdings, _ = filled(peer)
        async with FakeExchange(peer.server(holdings)) as exchange:
            await had(peer, tmp_path, exchange.url)
        assert exchange.asked[0].query == {"from": "1970-01-01T00:00:00Z", "to": "2027-01-15T07:59:55Z"}
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_a_privacy_group_is_fetched_anew_before_its_deletions_are_forgotten(tmp_path: Path) -> None:
    """ThreatExchange tells of deletions for 90 days: 86 days after the last sync everything is asked for."""
    peer = PEERS[2]
    holdings, values = filled(peer)
    async with FakeExchange(peer.server(holdings)) as exchange:
        await had(peer, tmp_path, exchange.url)
        del holdings.records["4"]  # deleted, and the deletion is forgotten too
        await had(peer, tmp_path, exchange.url, NOW + 84 * DAY)
        assert "start_time" in exchange.asked[-1].query
        assert len(held(tmp_path)) == len(values)
        (tmp_path / "banks/PEER/source.json").write_text(
            (tmp_path / "banks/PEER/source.json").read_text().replace(str(NOW + 84 * DAY), str(NOW))
        )
        state = await had(peer, tmp_path, exchange.url, NOW + 86 * DAY)
        assert "start_time" not in exchange.asked[-1].query
    assert state.outcome == Outcome.SYNCED, state.sentence
    assert "4" not in held(tmp_path)


async def test_a_client_gives_no_checkpoint_before_its_last_page(peer: Peer) -> None:
    """Of ten entries in pages of three the fourth page alone has one."""
    holdings, _ = filled(peer)
    async with FakeExchange(peer.server(holdings)) as exchange:
        client: ExchangeClient = peer.job(Path("/nowhere"), exchange.url).client(lambda: NOW)
        pages = [page async for page in client.fetch(None)]
    assert [page.is_last for page in pages] == [False, False, False, True]
    assert [page.checkpoint is not None for page in pages] == [False, False, False, True]
    assert all(page.is_everything for page in pages)
    checkpoint = pages[-1].checkpoint
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.at_seconds == NOW


def own_job(state_dir: Path, url: str, **more: object) -> SyncJob:
    values: dict[str, object] = {"most_rows": 1000, "most_change": 0.1, **more}
    return SyncJob(
        exchange="own",
        kind="https",
        bank_dir=str(state_dir / "banks/PEER"),
        state_dir=str(state_dir),
        url=url,
        keys=((public_key_text(SIGNER.public_key), None),),
        **values,  # type: ignore[arg-type]
    )


@dataclass
class Site:
    """A web server with one own list: `files` by path, and the bearer token that it asks for."""

    files: dict[str, bytes]
    token: str = ""

    def answer(self, asked: Asked) -> Reply:
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(status=403)
        found = self.files.get(asked.path)
        return Reply(status=404) if found is None else Reply(found, kind="application/octet-stream")

    @classmethod
    def of(cls, folder: Path, count: int, version: int, name: str = "own") -> dict[str, bytes]:
        path = folder / "own.txt"
        path.write_text("".join(f"{row.tobytes().hex()}\n" for row in made_up(count)))
        now = round(NOW * 1000)
        made = write_manifest(
            path,
            SIGNER,
            name=name,
            list_format="plain",
            sha256=file_digest(path),
            rows=count,
            version=version,
            issued_ms=now,
            expires_ms=now + 10**8,
        )
        return {"/lists/own.txt": path.read_bytes(), f"/lists/{made.name}": made.read_bytes()}


async def test_an_own_list_comes_over_http_with_its_token(tmp_path: Path) -> None:
    """The manifest first, then the list beside it; what is there is not fetched again, another token is refused."""
    site = Site(Site.of(tmp_path, 50, 1), token="a-token-of-a-list")
    async with FakeExchange(site.answer) as exchange:
        url = f"{exchange.url}/lists/own.txt.manifest.json"
        job = own_job(tmp_path, url, token="a-token-of-a-list")
        state = await sync(job.client(lambda: NOW), job.adoption(), lambda: NOW)
        assert (state.outcome, state.rows, state.version) == (Outcome.SYNCED, 50, "1"), state.sentence
        await sync(job.client(lambda: NOW), job.adoption(), lambda: NOW)
        assert [one.path for one in exchange.asked] == [
            "/lists/own.txt.manifest.json",
            "/lists/own.txt",
            "/lists/own.txt.manifest.json",
        ]
        stranger = own_job(tmp_path, url, token="another-token")
        state = await sync(stranger.client(lambda: NOW), stranger.adoption(), lambda: NOW)
        assert "refused our credentials (403)" in state.sentence
        assert "another-token" not in state.sentence


async def test_a_server_can_change_neither_list_nor_manifest(tmp_path: Path) -> None:
    """Who holds the server of an own list may withhold it, and nothing else."""
    site = Site(Site.of(tmp_path, 50, 2))
    old = Site.of(tmp_path, 40, 1)
    async with FakeExchange(site.answer) as exchange:
        job = own_job(tmp_path, f"{exchange.url}/lists/own.txt.manifest.json")

        async def again() -> SyncState:
            return await sync(job.client(lambda: NOW), job.adoption(), lambda: NOW)

        assert (await again()).rows == 50
        site.files = old
        assert "older than 2" in (await again()).sentence
        site.files = Site.of(tmp_path, 51, 3)
        site.files["/lists/own.txt"] += b"7" * 64 + b"\n"
        assert "is not the file that was signed" in (await again()).sentence
        site.files["/lists/own.txt"] = b" " * (4 << 20)
        assert "sends more than" in (await again()).sentence
        site.files["/lists/own.txt.manifest.json"] = b"x" * 5000
        assert "sends more than" in (await again()).sentence
        del site.files["/lists/own.txt.manifest.json"]
        assert "answered 404" in (await again()).sentence
    assert len(held(tmp_path)) == 50


async def test_tls_is_verified(tmp_path: Path, make_authority: MakeAuthority) -> None:
    """An exchange whose certificate nobody vouches for, or that is another's, is not asked for anything."""
    right, wrong = make_authority("IP:127.0.0.1"), make_authority("DNS:other.example")
    for authority, ca_file, sentence in (
        (right, str(right.ca_file), ""),
        (right, None, "its certificate is not trusted"),
        (wrong, str(wrong.ca_file), "its certificate is not trusted"),
    ):
        peer = PEERS[0]
        holdings, _ = filled(peer)
        async with FakeExchange(peer.server(holdings), tls=authority.server()) as exchange:
            job = peer.job(tmp_path, exchange.url, ca_file=ca_file)
            transport = Transport(job.client(lambda: NOW).access, pause=_at_once)  # type: ignore[attr-defined]
            async with transport:
                if not sentence:
                    assert (await had(peer, tmp_path, exchange.url, ca_file=ca_file)).outcome == Outcome.SYNCED
                    continue
                with pytest.raises(ExchangeFailed, match=sentence):
                    await transport.get(f"{exchange.url}/v1/FetchHashes", "json")
            assert exchange.asked == []


async def _at_once(_: float) -> None:
    pass
