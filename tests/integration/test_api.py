"""Health and metrics over TCP: honest states, nothing that names a stream, prompt start and end."""

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from benchmarks.ports import free_port
from detector.api.app import create_app
from detector.api.server import HttpServer, ListenFailed
from detector.api.view import CutReport, Health, HintReport, HintRequest, IncidentRow, StreamRow, UndoReport
from detector.metrics import Metrics
from streams.frame import SampleReason
from tests.slack import SLACK_SECONDS

SECRET_PATH = "live/secret-key"


class View:
    """A service that says what it is told to say."""

    def __init__(self, health: Health) -> None:
        self.said = health

    def health(self) -> Health:
        return self.said

    def streams(self) -> list[StreamRow]:
        return [
            StreamRow(
                stream_id="a" * 26,
                path=SECRET_PATH,
                state="watching",
                since="2026-01-01T00:00:00.000Z",
                codec="h264",
                width=320,
                height=180,
                sampling="auto",
                last_sample_age_seconds=0.5,
                seen_seconds=1,
                skipped_seconds=0,
                blind_seconds=0,
                cpu_seconds=0.1,
                decision=None,
            )
        ]

    async def incidents(self, limit: int) -> list[IncidentRow]:
        raise AssertionError("not over TCP")

    async def cut(self, stream: str) -> CutReport:
        raise AssertionError("not over TCP")

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        return HintReport(stream, hint.score, hint.lasts_seconds)

    async def undo(self, incident: str) -> UndoReport:
        raise AssertionError("not over TCP")

    async def release(self, source: str) -> bool:
        raise AssertionError("not over TCP")


@asynccontextmanager
async def _serving(view: View, metrics: Metrics | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        HttpServer(create_app(view, metrics or Metrics()), "127.0.0.1", 0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


async def test_ready_answers_503_with_the_problems_while_the_job_is_not_done() -> None:
    """Readiness is whether the service does its job; liveness is only whether it runs."""
    view = View(Health(ok=True, versions={"stopframe": "0.1.0"}, sandbox={"landlock_abi": 4}))
    async with _serving(view) as client:
        good = await client.get("/health/ready")
        view.said = Health(ok=False, problems=("2 streams are blind.",), notes=("MQTT 3.1.1",))
        bad = await client.get("/health/ready")
        live = await client.get("/health/live")

    assert good.status_code == 200
    assert good.json()["sandbox"] == {"landlock_abi": 4}
    assert bad.status_code == 503
    assert bad.json()["problems"] == ["2 streams are blind."]
    assert bad.json()["notes"] == ["MQTT 3.1.1"]
    assert (live.status_code, live.json()) == (200, {"ok": True})


async def test_metrics_are_served_as_prometheus_text() -> None:
    """What was counted is what is served."""
    metrics = Metrics()
    metrics.sample(SampleReason.KEYFRAME)
    async with _serving(View(Health(ok=True)), metrics) as client:
        answer = await client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    assert 'stopframe_samples_total{reason="keyframe"} 1.0' in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/redoc", "/openapi.json", "/streams", "/incidents", "/status", "/health/ready/x"]
)
async def test_nothing_else_is_there(path: str) -> None:
    """Unknown addresses are a JSON 404; control and documentation are not on the TCP port."""
    async with _serving(View(Health(ok=True))) as client:
        answer = await client.get(path)

    assert answer.status_code == 404
    assert answer.json() == {"error": "there is nothing at this address."}
    assert SECRET_PATH not in answer.text


async def test_a_wrong_method_is_refused_as_json() -> None:
    """A POST to a read-only address changes nothing and says so."""
    async with _serving(View(Health(ok=True))) as client:
        answer = await client.post("/health/ready")

    assert answer.status_code == 405
    assert set(answer.json()) == {"error"}


async def test_a_busy_port_is_one_sentence_with_the_remedy() -> None:
    """Who takes a taken port reads which one and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenFailed, match=f"port {port} on 127.0.0.1 is taken; .*another port"):
            await HttpServer(create_app(View(Health(ok=True)), Metrics()), "127.0.0.1", port).__aenter__()


@pytest.mark.parametrize(("host", "words"), [("192.0.2.1", "no address of this machine"), ("no such", "no address")])
async def test_a_foreign_address_is_one_sentence_with_the_remedy(host: str, words: str) -> None:
    """Who listens on an address that is not the machine's reads which would be."""
    with pytest.raises(ListenFailed, match=words):
        await HttpServer(create_app(View(Health(ok=True)), Metrics()), host, 0).__aenter__()


async def test_the_port_is_free_again_at_once() -> None:
    """A service that restarts takes the same port."""
    app = create_app(View(Health(ok=True)), Metrics())
    port = free_port()
    async with HttpServer(app, "127.0.0.1", port) as first:
        assert first.port == port
    async with HttpServer(app, "127.0.0.1", port) as second:
        assert second.port == port


async def test_shutdown_waits_for_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Idle connections, half a request and an answer that never comes cannot hold the service up."""
    app = FastAPI()
    entered = asyncio.Event()

    @app.get("/for-ever")
    async def for_ever() -> None:
        entered.set()
        await asyncio.Event().wait()

    async with HttpServer(app, "127.0.0.1", 0) as server:
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        half = await asyncio.open_connection("127.0.0.1", server.port)
        half[1].write(b"GET / HT")
        stuck = await asyncio.open_connection("127.0.0.1", server.port)
        stuck[1].write(b"GET /for-ever HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(entered.wait(), 5)
        leaving_at = time.monotonic()

    assert time.monotonic() - leaving_at < 3 + SLACK_SECONDS
    for reader, writer in (idle, half, stuck):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 20)
        writer.close()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_comes_in_the_moment_of_the_end_is_let_go() -> None:
    """A connection that was taken as the door closed is closed like the others: nobody waits for what does not come."""
    clients: deque[socket.socket] = deque()

    def come(port: int) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            while True:
                clients.append(socket.create_connection(("127.0.0.1", port), 5))
                if len(clients) > 100:
                    clients.popleft().close()

    async with HttpServer(create_app(View(Health(ok=True)), Metrics()), "127.0.0.1", 0) as server:
        coming = asyncio.create_task(asyncio.to_thread(come, server.port))
        await asyncio.sleep(0.05)
    await coming
    assert clients
    for client in clients:
        client.settimeout(10)
        with client, contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""


@pytest.mark.usefixtures("expects_errors")
async def test_a_fault_of_ours_is_json_without_a_traceback() -> None:
    """A bug in the service is a 500 with one sentence; what went wrong stays in the log."""
    view = View(Health(ok=True))
    view.health = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    async with _serving(view) as client:
        answer = await client.get("/health/ready")

    assert answer.status_code == 500
    assert "division" not in answer.text
    assert set(answer.json()) == {"error"}
