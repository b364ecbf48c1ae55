"""The control API over TCP: nothing without the token, guesses told, no keys, no addresses with secrets in them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import structlog

from detector.api.app import create_app
from detector.api.server import HttpServer
from detector.api.token import BODY_LIMIT_BYTES, Guesses
from detector.api.view import (
    CutReport,
    Health,
    HintReport,
    HintRequest,
    IncidentRow,
    ReloadReport,
    StreamRow,
    UndoReport,
)
from detector.config.exposure import exposure_notes
from detector.config.faults import ConfigError
from detector.config.loading import load_config
from detector.events import CutState
from detector.metrics import Metrics
from tests.fixtures_cli import CommandLine

TOKEN = "5f1d7a80c3b24f9e"
STREAM = "a" * 26
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


class View:
    """A service with one live stream that counts what it was told to do."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def health(self) -> Health:
        return Health(ok=True)

    def streams(self) -> list[StreamRow]:
        row = StreamRow(
            STREAM, "live/a-key-of-somebody-3f", "live", "", None, None, None, "auto", None, 0, 0, 0, 0, None
        )
        return [row]

    async def incidents(self, limit: int) -> list[IncidentRow]:
        return []

    async def cut(self, stream: str) -> CutReport:
        self.done.append(f"cut {stream}")
        return CutReport(stream, "incident", CutState.CONFIRMED, 1)

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        return HintReport(stream, hint.score, hint.lasts_seconds)

    async def undo(self, incident: str) -> UndoReport:
        self.done.append(f"undo {incident}")
        return UndoReport(incident, STREAM, is_restored=True)

    async def release(self, source: str) -> bool:
        self.done.append(f"release {source}")
        return True

    async def reload(self, file: str | None) -> ReloadReport:
        self.done.append(f"reload {file}")
        return ReloadReport("stopframe.yaml")


@asynccontextmanager
async def _serving(view: View, metrics: Metrics, token: Callable[[], str | None]) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        HttpServer(create_app(view, metrics, token=token), "127.0.0.1", 0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


async def test_who_has_the_token_can_do_what_the_commands_can() -> None:
    """Streams, incidents, cut, undo, release and health, under /v1; the publisher's key is not shown even there."""
    view = View()
    async with _serving(view, Metrics(), lambda: TOKEN) as client:
        client.headers.update(RIGHT)
        streams = await client.get("/v1/streams", params={"keys": "true"})
        answers = [
            await client.get("/v1/status"),
            await client.get("/v1/incidents"),
            await client.post(f"/v1/streams/{STREAM}/cut"),
            await client.post("/v1/incidents/0123-abcd/undo"),
            await client.post("/v1/breaker/release", json={"source": "BANK/entry"}),
            await client.post("/v1/reload", json={}),
        ]

    assert streams.json()[0]["path"] == "live/a-ke***"
    assert [answer.status_code for answer in answers] == [200] * 6
    assert view.done == [f"cut {STREAM}", "undo 0123-abcd", "release BANK/entry", "reload None"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"X-Token": TOKEN},
    ],
)
async def test_without_the_token_nothing_is_told_or_done(headers: dict[str, str]) -> None:
    """Whatever else is sent, the answer is 401 and one sentence, wherever below /v1, and nothing happens."""
    view = View()
    async with _serving(view, Metrics(), lambda: TOKEN) as client:
        answers = [
            await client.get("/v1/streams", params={"token": TOKEN, "access_token": TOKEN}, headers=headers),
            await client.post(f"/v1/streams/{STREAM}/cut", headers=headers),
            await client.post("/v1/breaker/release", content=b"{", headers=headers),
            await client.get("/v1/no-such-thing", headers=headers),
        ]

    assert {answer.status_code for answer in answers} == {401}
    assert all(set(answer.json()) == {"error"} for answer in answers)
    assert all(answer.headers["www-authenticate"] == "Bearer" for answer in answers)
    assert view.done == []
    assert STREAM not in "".join(answer.text for answer in answers)


async def test_without_a_configured_token_there_is_no_control_api() -> None:
    """Null means that nothing is there: the same 404 as anywhere else, whatever token is sent."""
    async with _serving(View(), Metrics(), lambda: None) as client:
        control = await client.get("/v1/streams", headers=RIGHT)
        elsewhere = await client.get("/nothing")

    assert (control.status_code, control.json()) == (elsewhere.status_code, elsewhere.json())


async def test_a_new_token_counts_at_once() -> None:
    """The token is asked for at every request: after a rotation the old one opens nothing."""
    tokens = [TOKEN]
    async with _serving(View(), Metrics(), lambda: tokens[-1]) as client:
        before = await client.get("/v1/status", headers=RIGHT)
        tokens.append("another-token-of-24-char")
        after = await client.get("/v1/status", headers=RIGHT)

    assert (before.status_code, after.status_code) == (200, 401)


async def test_guessing_is_counted_and_told_and_locks_nobody_out() -> None:
    """Ten wrong tokens in a minute, then 429 for further ones and one line; the right one opens, before and after."""
    metrics = Metrics()
    async with _serving(View(), metrics, lambda: TOKEN) as client:
        wrong, right = [], []
        with structlog.testing.capture_logs() as told:
            for number in range(12):
                answer = await client.get("/v1/status", headers={"Authorization": f"Bearer {number:016}"})
                wrong.append((answer.status_code, answer.headers.get("retry-after")))
                right.append((await client.get("/v1/status", headers=RIGHT)).status_code)
        none = await client.get("/v1/status")

    assert wrong == [(401, None)] * 10 + [(429, "60")] * 2
    assert right == [200] * 12
    assert none.status_code == 401
    assert metrics.value("stopframe_http_refusals_total", reason="wrong") == 10
    assert metrics.value("stopframe_http_refusals_total", reason="too_many") == 2
    assert [(one["event"], one["address"], one["wrong"]) for one in told] == [("http.token_guessed", "127.0.0.1", 10)]


@pytest.mark.parametrize("path", ["/v1", "/health/live/", "/v1/status/", f"/hook/{'x' * 64}/mediamtx/"])
async def test_no_answer_leads_anywhere(path: str) -> None:
    """There are no redirects, which would repeat whatever host and path a stranger asked for."""
    async with _serving(View(), Metrics(), lambda: None) as client:
        answer = await client.get(path, headers={"Host": "evil.example"})

    assert (answer.status_code, answer.headers.get("location")) == (404, None)


def test_guesses_are_forgotten_and_bounded() -> None:
    """A minute later an address may try again; the table holds a thousand addresses, an IPv6 subscriber is one."""
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    for number in range(10):
        guesses.note(f"2001:db8::{number + 1:x}")

    assert guesses.is_spent("2001:db8::ffff")
    assert not guesses.is_spent("2001:db8:0:1::1")
    now[0] = 61.0
    assert not guesses.is_spent("2001:db8::1")
    for number in range(5000):
        guesses.note(f"10.0.{number >> 8}.{number & 255}")
    assert len(guesses) == 1024


async def test_no_page_elsewhere_may_read_an_answer() -> None:
    """There are no CORS headers, and a body beyond the limit is not read."""
    view = View()
    async with _serving(view, Metrics(), lambda: TOKEN) as client:
        client.headers.update(RIGHT)
        asked = await client.options("/v1/status", headers={"Origin": "https://example.org"})
        answer = await client.get("/v1/status", headers={"Origin": "https://example.org"})
        long = await client.post("/v1/breaker/release", content=b'{"source": "' + b"x" * 2 * BODY_LIMIT_BYTES)

    assert long.status_code >= 400
    assert not any(name.startswith("access-control") for name in [*asked.headers, *answer.headers])
    assert view.done == []


@pytest.mark.parametrize("token", ["short", "fifteen-letters", "spaces are no token at all", "umlaut-ü-in-a-token-"])
def test_a_token_that_can_be_guessed_is_refused_when_it_is_loaded(tmp_path: Path, token: str) -> None:
    """Less than 16 characters, or some that a header cannot carry: one sentence with line and remedy, not the token."""
    file = tmp_path / "stopframe.yaml"
    file.write_text('http:\n  token: "${TOKEN}"\n')

    with pytest.raises(ConfigError) as refused:
        load_config(file, environment={"TOKEN": token})

    assert "stopframe.yaml:2: http.token: " in str(refused.value)
    assert "openssl rand -hex 32" in str(refused.value)
    assert token not in str(refused.value)


def test_what_others_can_reach_is_a_note(tmp_path: Path) -> None:
    """Beyond loopback a note says what is served there, or that a proxy has to add TLS; else there is none."""
    file = tmp_path / "stopframe.yaml"
    notes = []
    for text in ("", 'listen: "0.0.0.0:8936"', 'listen: "0.0.0.0:8936", token: "${TOKEN}"'):
        file.write_text(f"http: {{{text}}}\n")
        notes.append(exposure_notes(load_config(file, environment={"TOKEN": TOKEN})))

    assert notes[0] == []
    assert "the control API is not" in notes[1][0]
    assert "reverse proxy" in notes[2][0]


def test_secrets_that_others_can_read_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret file open to others is named with the remedy; one of systemd's credentials may show a group."""
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    file = tmp_path / "stopframe.yaml"
    file.write_text("http: {token: {file: token}}\n")
    notes = []
    for mode in (0o600, 0o400, 0o640, 0o604):
        secret.chmod(mode)
        notes.append(exposure_notes(load_config(file)))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert notes[:2] == [[], []]
    assert f"chmod 600 {secret}" in notes[2][0]
    assert "http.token" in notes[3][0]
    assert exposure_notes(load_config(file)) == []


async def test_a_new_token_in_the_file_counts_after_a_reload(stopframe: CommandLine) -> None:
    """The real service: the token's file is replaced, and within seconds the old token opens nothing any more."""
    token = stopframe.folder / "token"
    token.write_text("the-first-token-of-many\n")
    token.chmod(0o600)
    stopframe.write_config(
        'http: {listen: "127.0.0.1:0", token: {file: token}}\ningest: {kind: none}\nmodels: []\n'
        'alerts: {mqtt: {url: "mqtt://127.0.0.1:0"}}\n'
    )
    process = stopframe.start("run")
    try:
        assert process.stderr is not None
        ready = next(event for event in map(json.loads, process.stderr) if event["event"] == "service.ready")
        async with httpx.AsyncClient(base_url=ready["http"]) as client:

            async def status(text: str) -> int:
                answer = await client.get("/v1/status", headers={"Authorization": f"Bearer {text}"})
                return answer.status_code

            before = await status("the-first-token-of-many")
            token.write_text("the-second-token-of-many\n")
            async with asyncio.timeout(30):
                while await status("the-second-token-of-many") != 200:
                    await asyncio.sleep(1.2)
            after = await status("the-first-token-of-many")
    finally:
        process.kill()
        process.communicate()

    assert (before, after) == (200, 401)
