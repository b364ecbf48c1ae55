"""Somebody's word on its way to an exchange on loopback: kept, shown, sent when the config says so, not forgotten."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.loopback import serving
from detector.api.server import HttpServer
from detector.banks.judgements import kept_judgements
from detector.cli import incidents_judge, lists
from detector.cli.hashes_judge import confirm, deconfirm
from detector.cli.lists_feedback import feedback
from detector.cli.output import CommandFailed
from detector.config.config import Config
from detector.config.loading import check_files
from detector.config.references import Secret
from detector.exchanges.feedback_courier import FeedbackCourier
from detector.exchanges.kinds import ExchangeKind
from detector.exchanges.records import Source, place_of, write_source
from detector.metrics import Metrics
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.feedback import FeedbackRow, FeedbackState, FeedbackStore, Verdict
from models.bank_store import notes
from tests.contract.test_hma_server import BRIDGE, put
from tests.fixtures_cli import CommandLine

ENTRY = "42-a1b2"


@dataclass
class Exchange:
    """What a server was asked, and what it answers next."""

    url: str = ""
    answer: Callable[[Request], Response] = field(default=lambda _: Response(b"{}"))
    asked: list[tuple[str, str, bytes, dict[str, str]]] = field(default_factory=list)


@asynccontextmanager
async def _exchange() -> AsyncIterator[Exchange]:
    exchange, app = Exchange(), FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "PUT", "POST"])
    async def anything(path: str, request: Request) -> Response:
        exchange.asked.append((request.method, path, await request.body(), dict(request.headers)))
        return exchange.answer(request)

    async with HttpServer(app, "127.0.0.1", 0) as server:
        exchange.url = f"http://127.0.0.1:{server.port}"
        yield exchange


def _config(state_dir: Path, url: str, **options: Any) -> Config:
    section = {
        "name": "ncmec-test", "kind": "ncmec", "bank": "SHARED", "url": url, "username": "u",
        "password": Secret("test", "a-password"), "feedback": "on", **options,
    }  # fmt: skip
    return Config.model_validate({"state_dir": str(state_dir), "exchanges": [section]})


def _row(verdict: Verdict = Verdict.CONFIRMED, judged_at_ms: int = 1, exchange: str = "ncmec-test") -> FeedbackRow:
    return FeedbackRow(exchange, "SHARED", ENTRY, (BRIDGE,), verdict, judged_at_ms)


class Desk:
    """A courier over an open database, with a clock that a test moves."""

    def __init__(self, database: Database, config: Config) -> None:
        self.config, self.now, self.metrics = config, 1_000_000.0, Metrics()
        self.store = FeedbackStore(database)
        self.courier = FeedbackCourier(database, lambda: self.config, self.metrics, wall_clock=lambda: self.now)

    async def only(self) -> FeedbackRow:
        (row,) = await self.store.rows()
        return row


@asynccontextmanager
async def _desk(tmp_path: Path, url: str, **options: Any) -> AsyncIterator[Desk]:
    async with Database.open(tmp_path / "stopframe.db") as database:
        yield Desk(database, _config(tmp_path, url, **options))


async def test_nothing_is_sent_until_the_config_says_so(tmp_path: Path) -> None:
    """`dry_run`, the default, and `off` keep it; `on` sends it once, with the exchange's login and nothing of ours."""
    async with _exchange() as exchange, _desk(tmp_path, exchange.url) as desk:
        await desk.store.note(_row())
        for mode in ("dry_run", "off"):
            desk.config = _config(tmp_path, exchange.url, feedback=mode)
            await desk.courier.send_due()
        assert exchange.asked == []
        desk.config = _config(tmp_path, exchange.url)
        await desk.courier.send_due()
        await desk.courier.send_due()
        ((method, path, body, headers),) = exchange.asked
        assert (method, path) == ("PUT", "v2/entries/42/a1b2/PDQ/feedback")
        assert b"<affirmative/>" in body
        assert headers["authorization"].startswith("Basic ")
        assert (await desk.only()).state is FeedbackState.SENT
        assert desk.metrics.value("stopframe_feedback_total", end="sent") == 1


async def test_the_last_word_counts_and_the_same_is_not_said_twice(tmp_path: Path) -> None:
    """Another verdict is sent anew; the same again is not, even if the first is on its way."""
    async with _exchange() as exchange, _desk(tmp_path, exchange.url, feedback_reason="g-1") as desk:
        assert await desk.store.note(_row())
        assert not await desk.store.note(_row(judged_at_ms=2))
        await desk.courier.send_due()
        assert not await desk.store.note(_row(judged_at_ms=3))
        assert await desk.store.note(_row(Verdict.FALSE_MATCH, 4))
        await desk.courier.send_due()
        assert [b"affirmative" in body for _, _, body, _ in exchange.asked] == [True, False]

        old = _row(Verdict.FALSE_MATCH, 4)
        await desk.store.note(_row(Verdict.CONFIRMED, 5))
        await desk.store.settle(old, FeedbackState.SENT, 9)  # the answer to the word before
        assert (await desk.only()).state is FeedbackState.PENDING


async def test_an_exchange_that_is_away_is_told_later(tmp_path: Path) -> None:
    """503, 401 and redirects are no refusals: ever later tries, a note in health, and it arrives when it can."""
    async with _exchange() as exchange, _desk(tmp_path, exchange.url) as desk:
        await desk.store.note(_row())
        for status, pause in ((503, 60), (401, 120), (302, 240)):
            exchange.answer = lambda _, status=status: Response(status_code=status, headers={"location": "/elsewhere"})
            await desk.courier.send_due()
            (note,) = desk.courier.notes()
            assert f"takes no feedback now (it answered {status})" in note
            row = await desk.only()
            assert row.next_attempt_at_ms == round((desk.now + pause) * 1000)
            await desk.courier.send_due()  # not yet
            desk.now += pause
        exchange.answer = lambda _: Response(status_code=200)
        await desk.courier.send_due()
        assert len(exchange.asked) == 4
        assert desk.courier.notes() == []
        assert (await desk.only()).state is FeedbackState.SENT


@pytest.mark.parametrize("hostile", ["never", "long", "gone"])
async def test_a_hostile_exchange_harms_nothing(tmp_path: Path, hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing, ten megabytes, or hangs up: it is told later, and the others are told all the same."""
    monkeypatch.setattr("detector.exchanges.feedback_courier._TIMEOUT_SECONDS", 1.0)

    ended = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if hostile == "long":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(400_000))
        if hostile != "gone":
            await asyncio.sleep(1.5)
        ended.set()

    async with serving(accept) as port, _desk(tmp_path, f"http://127.0.0.1:{port}") as desk:
        await desk.store.note(_row())
        await desk.courier.send_due()
        row = await desk.only()
        assert (row.state, row.attempts) == (FeedbackState.PENDING, 1)
        assert row.detail.startswith("it")
        await asyncio.wait_for(ended.wait(), 10)


async def test_what_is_refused_is_not_sent_again_until_judged_again(tmp_path: Path) -> None:
    """404: the exchange does not know the entry; the reason stands where people look."""
    async with _exchange() as exchange, _desk(tmp_path, exchange.url) as desk:
        exchange.answer = lambda _: Response(status_code=404)
        await desk.store.note(_row())
        await desk.courier.send_due()
        await desk.courier.send_due()
        row = await desk.only()
        assert (row.state, len(exchange.asked)) == (FeedbackState.REFUSED, 1)
        assert "answered 404" in row.detail
        exchange.answer = lambda _: Response(status_code=200)
        assert await desk.store.note(_row(judged_at_ms=2))
        await desk.courier.send_due()
        assert (await desk.only()).state is FeedbackState.SENT


async def test_the_token_is_where_it_belongs(tmp_path: Path) -> None:
    """ThreatExchange's in the parameters, StopNCII's keys in headers; neither is in a request that is shown."""
    token = Secret("test", "1234|a-token-of-meta")
    async with _exchange() as exchange:
        exchange.answer = lambda _: Response(json.dumps({"data": [{"id": "77"}]}))
        options = {"kind": "threatexchange", "token": token, "collection": "9", "username": None, "password": None}
        async with _desk(tmp_path, exchange.url, **options) as desk:
            await desk.store.note(FeedbackRow("ncmec-test", "SHARED", "123", (), Verdict.CONFIRMED, 1))
            await desk.courier.send_due()
        assert [(method, path, body) for method, path, body, _ in exchange.asked] == [
            ("GET", "123/descriptors", b""),
            ("POST", "77", b"reactions=HELPFUL&access_token=1234%7Ca-token-of-meta"),
        ]
        keys = {key: Secret("test", f"the-{key}") for key in ("function_key", "subscription_key", "feedback_key")}
        options = {"kind": "stopncii", "username": None, "password": None, **keys}
        (tmp_path / "other").mkdir()
        async with _desk(tmp_path / "other", exchange.url, **options) as desk:
            await desk.store.note(FeedbackRow("ncmec-test", "SHARED", f"ImagePDQ:{BRIDGE}", (), Verdict.CONFIRMED, 1))
            await desk.courier.send_due()
        headers = exchange.asked[-1][3]
        assert headers["x-functions-key"] == "the-feedback_key"
        assert headers["ocp-apim-subscription-key"] == "the-subscription_key"


async def test_an_error_of_meta_s_that_passes_is_no_refusal(tmp_path: Path) -> None:
    """Too many calls and a token that is over come as 400 as well: they are waited for, a wrong descriptor is not."""
    token = Secret("test", "1234|a-token-of-meta")
    options = {"kind": "threatexchange", "token": token, "collection": "9", "username": None, "password": None}
    async with _exchange() as exchange, _desk(tmp_path, exchange.url, **options) as desk:
        await desk.store.note(FeedbackRow("ncmec-test", "SHARED", "123", (), Verdict.CONFIRMED, 1))
        for code, state in ((4, FeedbackState.PENDING), (190, FeedbackState.PENDING), (100, FeedbackState.REFUSED)):
            error = {"error": {"message": "no", "type": "OAuthException", "code": code}}
            exchange.answer = lambda _, error=error: Response(json.dumps(error), 400)
            await desk.courier.send_due()
            assert (await desk.only()).state is state, code
            desk.now += 3600


async def test_a_word_that_cannot_be_settled_is_not_said_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The try is noted first: where the disk fills up behind it, or before it, the exchange is not asked each round."""
    async with _exchange() as exchange, _desk(tmp_path, exchange.url) as desk:
        await desk.store.note(_row())
        store = desk.courier._store

        async def full(*_: object) -> None:
            raise StoreUnavailable("disk full")

        for method, asked in (("settle", 1), ("attempt", 1)):
            monkeypatch.setattr(store, method, full)
            for _ in range(3):
                with contextlib.suppress(StoreUnavailable):
                    await desk.courier.send_due()
            assert len(exchange.asked) == asked
            desk.now += 61
        monkeypatch.undo()
        await desk.courier.send_due()
        assert (await desk.only()).state is FeedbackState.SENT


async def test_what_was_said_of_one_server_s_entries_is_told_to_no_other(tmp_path: Path) -> None:
    """From the test environment to the real one: old words wait until the bank is the new one's, and are refused."""
    async with _exchange() as exchange, _desk(tmp_path, exchange.url) as desk:
        bank = tmp_path / "banks/SHARED"
        bank.mkdir(parents=True)
        await desk.store.note(_row(judged_at_ms=5_000))
        tried, real = (place_of(ExchangeKind.NCMEC, url) for url in ("https://test.example/x", exchange.url + "/"))
        write_source(bank, Source("ncmec-test", "ncmec", place=tried, since=1.0))
        await desk.courier.send_due()
        assert (await desk.only()).state is FeedbackState.PENDING
        write_source(bank, Source("ncmec-test", "ncmec", place=real, since=6.0))
        await desk.courier.send_due()
        row = await desk.only()
        assert (row.state, exchange.asked) == (FeedbackState.REFUSED, [])
        assert "another server" in row.detail
        await desk.store.note(_row(judged_at_ms=7_000))
        await desk.courier.send_due()
        assert (await desk.only()).state is FeedbackState.SENT


async def test_words_survive_and_run_by_themselves(tmp_path: Path) -> None:
    """The work of the service sends what an earlier run kept, and goes on past a database that is away."""
    async with _exchange() as exchange:
        async with _desk(tmp_path, exchange.url) as desk:
            await desk.store.note(_row())
        async with _desk(tmp_path, exchange.url) as desk:
            task = asyncio.create_task(desk.courier.works()[0].run())
            async with asyncio.timeout(20):
                while not desk.metrics.value("stopframe_feedback_total", end="sent"):
                    await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert len(exchange.asked) == 1


def test_a_judgement_is_kept_for_the_exchange_that_gave_the_entry(
    tmp_path: Path, stopframe: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    """`confirm` and `deconfirm` keep it, `lists feedback` shows it; other banks have nobody to tell."""
    file = tmp_path / "stopframe.yaml"
    (tmp_path / "password").write_text("a-password\n")
    file.write_text(
        f"state_dir: {tmp_path}\nexchanges:\n- {{name: shared, kind: ncmec, bank: SHARED, url: 'http://127.0.0.1:9/x',"
        " username: u, password: {file: password}}\n"
    )
    put(tmp_path, "SHARED", ENTRY, BRIDGE)
    put(tmp_path, "OWN", "card", BRIDGE)
    write_source(tmp_path / "banks" / "SHARED", Source("shared", "ncmec"))
    confirm("OWN", "card", file)
    assert not (tmp_path / "stopframe.db").exists()
    deconfirm("SHARED", ENTRY, file)
    assert "kept for shared" in capsys.readouterr().err
    (kept,) = kept_judgements(tmp_path)
    assert (kept.verdict, kept.state, kept.hashes) == (Verdict.FALSE_MATCH, FeedbackState.PENDING, (BRIDGE,))

    shown = stopframe("lists", "feedback", "--json", "-c", str(file))
    (row,) = shown.lines
    assert (row["verdict"], row["state"], row["hashes"]) == ("false_match", "would be sent", [BRIDGE])
    assert row["request"] == "GET http://127.0.0.1:9/v2/feedback/PDQ/reasons, and what its answer leads to"
    assert "password" not in shown.out + shown.err
    confirm("SHARED", ENTRY, file)
    capsys.readouterr()
    feedback(typer.Context(typer.main.get_command(lists.app)), file, requests=True)
    table = capsys.readouterr()
    assert "PUT http://127.0.0.1:9/v2/entries/42/a1b2/PDQ/feedback <feedbackSubmission" in table.err
    assert table.out.count(ENTRY) == 1


def test_an_incident_is_judged_by_its_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each entry of our banks that its alerts name takes the word, once; others, and others' incidents, do not."""
    file = tmp_path / "stopframe.yaml"
    file.write_text(f"state_dir: {tmp_path}\n")
    for entry in ("right", "other"):
        put(tmp_path, "OWN", entry, BRIDGE)

    async def alert(number: int, incident: str, *signals: tuple[str, str]) -> None:
        payload = json.dumps({"signals": [{"kind": "hash", "bank": bank, "entry": entry} for bank, entry in signals]})
        row = (f"a{number}", number, "s", incident, 1, payload.encode(), 0, 1)
        async with Database.open(tmp_path / "stopframe.db") as database:
            await database.write(
                lambda c: c.execute("INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row).rowcount
            )

    asyncio.run(alert(1, "0198c2f1-first", ("OWN", "right"), ("hma:partner", "LIST/1")))
    asyncio.run(alert(2, "0198c2f1-first", ("OWN", "right")))
    asyncio.run(alert(3, "0198c2f2-second", ("hma:partner", "LIST/1")))
    context = typer.Context(typer.main.get_command(lists.app))
    incidents_judge.deconfirm(context, "0198c2f1", file)
    noted = notes(tmp_path / "banks" / "OWN")
    assert noted["right"].objections == 1
    assert "other" not in noted
    incidents_judge.confirm(context, "0198c2f1-first", file)
    assert notes(tmp_path / "banks" / "OWN")["right"].confirmations == 1
    assert "OWN: right is confirmed: it is no longer disputed" in " ".join(capsys.readouterr().err.split())
    for incident, words in (("0198", "at least 8"), ("0198c2f", "at least 8"), ("0198c2f2", "no entry of a bank here")):
        with pytest.raises(CommandFailed, match=words):
            incidents_judge.confirm(context, incident, file)
    with pytest.raises(CommandFailed, match="no alert of it is kept"):
        incidents_judge.confirm(context, "00000000", file)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("kind: https, url: 'https://x.example/m', feedback: on", "takes none"),
        ("kind: stopncii, function_key: '${A}', subscription_key: '${B}', feedback: on", "a key of its own"),
        ("kind: ncmec, url: 'https://x.example', username: u, password: '${A}', feedback: maybe", "dry_run"),
        ("kind: https, url: 'https://x.example/m', feedback_reason: g", "means nothing"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    """Feedback to whoever takes none, without its key, or in a mode that there is not."""
    file = tmp_path / "stopframe.yaml"
    file.write_text(f"exchanges:\n- {{name: a, bank: A, {lines}}}\n")
    faults = check_files([file])
    assert any(words in fault.message for fault in faults), [str(fault) for fault in faults]
