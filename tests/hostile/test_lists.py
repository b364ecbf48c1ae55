"""Lists that are poisoned, stale or made to harm: nothing of them counts before it has been found right."""

import asyncio
import gzip
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import detector.exchanges.sync as sync_module
from detector.exchanges import transport
from detector.exchanges.canaries import canary_planes, canary_views, matching_too_much
from detector.exchanges.client import ExchangeFailed
from detector.exchanges.job import SyncJob
from detector.exchanges.manifest import Manifest, file_digest
from detector.exchanges.records import Outcome, SyncState
from detector.exchanges.sync import sync
from detector.exchanges.transport import Access, Transport
from detector.trust.signing import Signer, public_key_text
from models.bank_store import bank_stats, load_bank, notes
from models.hashing.registry import hash_algorithms
from models.lists.contents import ListContents, ListedRows
from models.radii import UNGATED
from tests.exchange_servers import NOW, Asked, FakeExchange, Holdings, Reply, made_up, stopncii

SIGNER = Signer.of_seed(b"k" * 32)
STRANGER = Signer.of_seed(b"s" * 32)
BANK = "banks/OWN"
DAY = 86_400.0


@dataclass
class OwnList:
    """A list of our own on disk, signed anew by each `put`, and the job that takes it in."""

    folder: Path
    version: int = 0
    now: float = NOW
    most_change: float = 0.1
    accepted: tuple[int, int] | None = None
    keys: tuple[tuple[str, int | None], ...] = ((public_key_text(SIGNER.public_key), None),)
    text: str = field(default="", init=False)

    @property
    def manifest(self) -> Path:
        return self.folder / "own.json"

    def put(self, hashes: NDArray[np.uint8], *, signer: Signer = SIGNER, **changes: Any) -> None:
        """Write the list and its manifest; `changes` are what the manifest says otherwise."""
        self.version += 1
        self.text = "".join(f"pdq {row.tobytes().hex()}\n" for row in hashes)
        (self.folder / "own.txt").write_text(self.text)
        now = round(self.now * 1000)
        made = Manifest(
            name="own",
            file="own.txt",
            format="plain",
            sha256=file_digest(self.folder / "own.txt"),
            rows=len(hashes),
            version=self.version,
            issued_ms=now,
            expires_ms=now + 86_400_000,
        )
        self.manifest.write_text(json.dumps(replace(made, **changes).signed(signer)))

    async def sync(self) -> SyncState:
        job = SyncJob(
            exchange="own",
            kind="file",
            bank_dir=str(self.folder / BANK),
            state_dir=str(self.folder),
            most_rows=100_000,
            most_change=self.most_change,
            path=str(self.manifest),
            keys=self.keys,
            accepted=self.accepted,
        )
        return await sync(job.client(lambda: self.now), job.adoption(), lambda: self.now)

    def rows(self) -> int:
        return sum(bank_stats(self.folder / BANK).rows.values())


def _altered(own: OwnList) -> None:
    said = json.loads(own.manifest.read_text())
    own.manifest.write_text(json.dumps(said | {"rows": said["rows"] + 1}))


def _unsigned(own: OwnList) -> None:
    said = json.loads(own.manifest.read_text())
    own.manifest.write_text(json.dumps({name: value for name, value in said.items() if name not in ("sig", "key_id")}))


def _other_bytes(own: OwnList) -> None:
    (own.folder / "own.txt").write_text(own.text.replace(own.text[4:8], "0000", 1))


def _the_list_itself(own: OwnList) -> None:
    own.manifest.write_text(own.text)


def _longer(own: OwnList) -> None:
    (own.folder / "own.txt").write_text(own.text + f"pdq {'7' * 64}\n")


UNBELIEVABLE: dict[str, tuple[dict[str, Any], Callable[[OwnList], None] | None, str]] = {
    "a key that nobody trusts": ({"signer": STRANGER}, None, "if it is one of yours"),
    "no signature": ({}, _unsigned, "carries no signature"),
    "a manifest that was altered": ({}, _altered, "is not what key"),
    "a list that was altered": ({}, _other_bytes, "is not the file that was signed"),
    "a list that was added to": ({}, _longer, "is not the file that was signed"),
    "the manifest of another list": ({"name": "others"}, None, "is of another list"),
    "the list in the manifest's place": ({}, _the_list_itself, "name FILE.manifest.json"),
    "an older version": ({"version": 1}, None, "older than 5"),
    "the same version with another list": ({"version": 5}, None, "signed twice"),
    "a manifest that is over": ({"expires_ms": round(NOW * 1000) - 1}, None, "its time is over"),
    "a manifest of the future": ({"issued_ms": round(NOW * 1000) + 3_600_000}, None, "issued in the future"),
    "another number of rows": ({"rows": 7}, None, "its manifest says 7"),
    "a file elsewhere": ({"file": "../own.txt"}, None, "lacks what a manifest says"),
}


@pytest.mark.parametrize("fault", UNBELIEVABLE)
async def test_of_a_list_that_is_not_believed_no_row_is_taken(fault: str, tmp_path: Path) -> None:
    """Wrong signature, wrong list, wrong time, wrong version: the list in force stays as it was, to the byte."""
    own = OwnList(tmp_path, version=4)
    own.put(made_up(50))
    assert (await own.sync()).rows == 50
    before = (tmp_path / BANK / "bank.json").read_bytes()
    changes, spoil, sentence = UNBELIEVABLE[fault]
    own.put(made_up(55), **changes)
    if spoil is not None:
        spoil(own)
    state = await own.sync()
    assert state.outcome in (Outcome.REFUSED, Outcome.FAILED)
    assert sentence in state.sentence
    assert (tmp_path / BANK / "bank.json").read_bytes() == before
    assert load_bank(tmp_path / BANK).rows_of("pdq") == 50
    own.put(made_up(55))
    assert (await own.sync()).outcome == Outcome.SYNCED


async def test_a_key_that_may_not_sign_lists_signs_none(tmp_path: Path) -> None:
    """With no key trusted for lists, none is taken, whatever else the keys are trusted for."""
    own = OwnList(tmp_path, keys=())
    own.put(made_up(5))
    state = await own.sync()
    assert (state.outcome, (tmp_path / BANK).exists()) == (Outcome.REFUSED, False)


async def test_a_list_that_grows_by_more_than_a_tenth_beyond_usual_needs_a_word(tmp_path: Path) -> None:
    """Of 2,000 rows 200 may come in a day; 201 are refused as a whole until somebody accepts them, and only them."""
    rows = made_up(5000)
    own = OwnList(tmp_path)
    own.put(rows[:2000])
    await own.sync()
    own.put(rows[:2201])
    state = await own.sync()
    assert (state.outcome, state.came, state.went, own.rows()) == (Outcome.REFUSED, 201, 0, 2000)
    assert "stopframe lists accept own" in state.sentence
    own.put(rows[:2200])
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.SYNCED, 2200)

    own.put(rows[:2700])
    refused = await own.sync()
    assert (refused.outcome, refused.came) == (Outcome.REFUSED, 500)
    own.accepted = (refused.came, refused.went)
    own.put(rows[:3000])  # more than what was accepted came meanwhile
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.REFUSED, 2200)
    own.put(rows[:2700])
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.SYNCED, 2700)


async def test_what_usually_changes_may_change(tmp_path: Path) -> None:
    """A list of 2,000 that takes 150 rows each day may take 390 (its usual 150 and a tenth), not 500."""
    rows = made_up(5000)
    own = OwnList(tmp_path)
    for count in (2000, 2150, 2300, 2450):
        own.put(rows[:count])
        assert (await own.sync()).outcome == Outcome.SYNCED
        own.now += DAY
    own.put(rows[: 2450 + 500])
    assert (await own.sync()).outcome == Outcome.REFUSED
    own.put(rows[: 2450 + 390])
    assert (await own.sync()).outcome == Outcome.SYNCED


async def test_what_is_withdrawn_goes_though_what_comes_is_refused(tmp_path: Path) -> None:
    """An exchange that takes five rows back and brings a thousand gets its five; the thousand wait for a word."""
    rows = made_up(4000)
    own = OwnList(tmp_path)
    own.put(rows[:2000])
    await own.sync()
    own.put(rows[5:3000])
    state = await own.sync()
    assert (state.outcome, state.came, state.went, own.rows()) == (Outcome.REFUSED, 1000, 5, 1995)
    assert "but what was withdrawn" in state.sentence


async def test_a_list_that_is_emptied_or_replaced_needs_a_word(tmp_path: Path) -> None:
    """Who takes a list's place takes no more of it away than a tenth, and brings no more."""
    rows = made_up(4000)
    own = OwnList(tmp_path)
    own.put(rows[:2000])
    await own.sync()
    own.put(rows[:1000])
    state = await own.sync()
    assert (state.outcome, state.came, state.went) == (Outcome.REFUSED, 0, 1000)
    own.put(rows[2000:])
    state = await own.sync()
    assert (state.outcome, state.came, state.went, own.rows()) == (Outcome.REFUSED, 2000, 2000, 2000)
    own.put(np.concatenate([rows[1:2000], rows[2000:2001]]))
    assert (await own.sync()).outcome == Outcome.SYNCED


async def test_a_row_that_matches_what_every_stream_shows_may_only_ask_for_reviews(tmp_path: Path) -> None:
    """Of 20 rows of common screens among 500 each that matches over 0.1 % is held back at once, and no other.

    They are of the screens as they are, mirrored, turned and inverted: streams are looked at in all these ways.
    """
    draw = np.random.default_rng(4)
    common = [view[matching_too_much(view, [view], UNGATED)] for view in canary_views("pdq")]
    poison = np.concatenate([view[draw.choice(len(view), 2, replace=False)] for view in common])
    rows = np.concatenate([made_up(250), poison, made_up(250, seed=2)])
    own = OwnList(tmp_path)
    own.put(rows)
    state = await own.sync()
    assert (state.outcome, state.quarantined, state.rows) == (Outcome.SYNCED, 20, 520), state.sentence
    noted = notes(tmp_path / BANK)
    assert {name for name, note in noted.items() if note.quarantined} == {row.tobytes().hex() for row in poison}
    assert bank_stats(tmp_path / BANK).generation == "gen-00000001"  # no generation had them and did not hold them back


def test_a_view_of_a_harmless_picture_is_what_its_pixels_hash_to() -> None:
    """Mirrored, turned and inverted in the spectrum they come to the hashes of changed pixels, but for a few bits."""
    planes = list(canary_planes())[::60]
    ways = [np.asarray, np.fliplr, np.flipud, np.rot90, lambda plane: 255 - plane]
    ways += [lambda plane: np.rot90(plane, 2), lambda plane: np.rot90(plane, 3), np.transpose]
    for way in ways:
        changed = [hash_algorithms()["pdq"].hash_plane(np.ascontiguousarray(way(plane))).value for plane in planes]
        rows = np.array([np.frombuffer(value, np.uint8) for value in changed])
        apart = [np.median(np.bitwise_count(rows ^ view[::60]).sum(axis=1)) for view in canary_views("pdq")]
        assert min(apart) <= 2


async def test_what_an_operator_calls_harmless_is_asked_too(tmp_path: Path) -> None:
    """A row near what a negative bank holds is held back."""
    rows = made_up(300)
    own = OwnList(tmp_path)
    own.put(rows[:299])
    await own.sync()
    mine = sync_module.take_in
    mine(tmp_path / "banks/MINE", replace(ListContents(), rows=_listed(rows[299:300] ^ np.uint8(1))), stem="mine")
    own.put(rows)
    job = SyncJob(
        exchange="own",
        kind="file",
        bank_dir=str(tmp_path / BANK),
        state_dir=str(tmp_path),
        most_rows=1000,
        most_change=0.1,
        path=str(own.manifest),
        keys=own.keys,
        harmless=(str(tmp_path / "banks/MINE"), str(tmp_path / "banks/GONE")),
    )
    state = await sync(job.client(lambda: NOW), job.adoption(), lambda: NOW)
    assert (state.outcome, state.quarantined) == (Outcome.SYNCED, 1), state.sentence
    assert notes(tmp_path / BANK)[rows[299].tobytes().hex()].quarantined


def _listed(hashes: NDArray[np.uint8]) -> dict[str, Any]:
    return {"pdq": ListedRows(hashes, np.arange(1, len(hashes) + 1))}


async def test_a_generation_that_does_not_load_gives_way_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are damaged as they are written bring the old list back, and the next sync tries again."""
    rows = made_up(300)
    own = OwnList(tmp_path)
    own.put(rows[:250])
    await own.sync()
    whole = sync_module.take_in

    def damaging(bank_dir: Path, *given: Any, **more: Any) -> Any:
        intake = whole(bank_dir, *given, **more)
        for path in (bank_dir / intake.generation).rglob("rows*"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        return intake

    own.put(rows)
    monkeypatch.setattr(sync_module, "take_in", damaging)
    state = await own.sync()
    assert state.outcome == Outcome.FAILED
    assert "the old one is in force again" in state.sentence
    assert load_bank(tmp_path / BANK).rows_of("pdq") == 250
    monkeypatch.undo()
    assert ((await own.sync()).outcome, own.rows()) == (Outcome.SYNCED, 300)


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


async def test_a_sync_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Killed at any moment, the old list or the new one is in force, whole, and the next sync ends with the new one."""
    rows = made_up(3000)
    own = OwnList(tmp_path, most_change=1.0)
    own.put(rows[:1000])
    # The process goes by the real time.
    now = round(time.time() * 1000)
    job = SyncJob(
        exchange="own",
        kind="file",
        bank_dir=str(tmp_path / BANK),
        state_dir=str(tmp_path),
        most_rows=100_000,
        most_change=1.0,
        path=str(own.manifest),
        keys=own.keys,
    )
    own.put(rows[:1000], issued_ms=now, expires_ms=now + 10**7)
    took = await _run(job, None)
    drawn = random.Random(5)
    for attempt in range(3):
        count = 1000 + (attempt + 1) * 150
        own.put(rows[:count], issued_ms=now, expires_ms=now + 10**7)
        await _run(job, took * drawn.uniform(0.6, 1.1))
        assert load_bank(tmp_path / BANK).rows_of("pdq") in range(1000, count + 1, 150)
    assert (await sync(job.client(), job.adoption(), time.time)).rows == count


async def _run(job: SyncJob, killed_after: float | None) -> float:
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "detector.exchanges",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    if killed_after is None:
        said, _ = await process.communicate(job.encode())
        assert json.loads(said)["outcome"] == Outcome.SYNCED, said
        return time.monotonic() - began
    assert process.stdin is not None
    process.stdin.write(job.encode())
    process.stdin.close()
    await asyncio.sleep(killed_after)
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await process.wait()
    return 0.0
