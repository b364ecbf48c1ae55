"""The door for uploads as a client meets it: every refusal, at once where it can be, and places that come free."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from detector.api.app import create_app
from detector.api.server import HttpServer
from detector.config.config import Config
from detector.config.loading import load_config
from detector.metrics import Metrics
from detector.uploads.answer import UploadAnswer
from detector.uploads.ask import Ask
from detector.uploads.desk import UploadParts, Uploads
from detector.uploads.file import Received
from tests.integration.test_http_token import RIGHT, TOKEN, View
from tests.waiting import until

pytestmark = pytest.mark.integration

HEAD = f"POST /scan HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n".encode()


class Looks(Uploads):
    """Looks at nothing: answers that all is well once it may, and counts what it was shown."""

    def __init__(self, parts: UploadParts, folder: Path) -> None:
        super().__init__(parts, folder)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.began = self.ended = 0
        self.seen: list[tuple[int, Ask]] = []

    async def _look(self, received: Received, ask: Ask) -> UploadAnswer:
        self.began += 1
        self.seen.append((received.length_bytes, ask))
        try:
            await self.may_answer.wait()
        finally:
            self.ended += 1
        answer = UploadAnswer(received, {"problems": []}, is_live=False)
        look: Any = SimpleNamespace(summary=lambda *_: {"cpu_s": 0.0}, frames_analysed=1, frames_not_analysed=0)
        answer.end("end_of_stream", None, look)
        return answer


class Door:
    """A service with that door alone."""

    def __init__(self, uploads: Looks, metrics: Metrics, client: httpx.AsyncClient, port: int) -> None:
        self.uploads, self.metrics, self.client, self.port = uploads, metrics, client, port

    def count(self, end: str) -> float:
        """How many uploads came to that."""
        return self.metrics.value("stopframe_uploads_total", end=end)

    async def raw(self, more: bytes, *, seconds: float = 60) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Send the head with `more` behind it; returns status, headers and body of the answer, sent or not."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(HEAD + more)
            async with asyncio.timeout(seconds):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
        finally:
            writer.close()
        return int(head[0].split()[1]), headers, json.loads(body)


def _config(folder: Path, uploads: str) -> Config:
    file = folder / "stopframe.yaml"
    section = f"uploads: {{enabled: true, {uploads}}}\n" if uploads != "off" else ""
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    file.write_text(f"state_dir: {folder}\nhttp: {{token: {{file: token}}}}\n{section}")
    return load_config(file)


@asynccontextmanager
async def _door(folder: Path, uploads: str = "") -> AsyncIterator[Door]:
    config, metrics, nobody = _config(folder, uploads), Metrics(), SimpleNamespace(workers=2)
    parts = UploadParts(
        nursery=nobody,  # type: ignore[arg-type]
        pool=nobody,  # type: ignore[arg-type]
        metrics=metrics,
        manifests=(),
        config=lambda: config,
        is_held=lambda _: False,
    )
    with Looks(parts, folder) as looks:
        app = create_app(View(), metrics, token=lambda: TOKEN, uploads=looks)
        async with (
            HttpServer(app, "127.0.0.1", 0) as server,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=RIGHT) as client,
        ):
            yield Door(looks, metrics, client, server.port)


async def test_a_file_with_a_length_or_in_chunks_is_taken_and_answered(tmp_path: Path) -> None:
    """Every byte comes, whatever type a client names; what is wanted is passed on; the books are even afterwards."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(300_000)

    async with _door(tmp_path) as door:
        plain = await door.client.post("/scan", content=bytes(70_000))
        chunked = await door.client.post("/scan?until=first_cut", content=parts())
        told = plain.json()

        assert (plain.status_code, chunked.status_code) == (200, 200)
        assert (told["decision"], told["complete"], told["mode"], told["bytes"]) == ("allow", True, "shadow", 70_000)
        assert door.uploads.seen == [(70_000, Ask(70_000)), (1_500_000, Ask(None, until_first_cut=True))]
        assert door.count("allow") == 2
        assert door.metrics.value("stopframe_upload_bytes_total") == 1_570_000
        assert (
            door.metrics.value("stopframe_uploads_held_bytes") == door.metrics.value("stopframe_uploads_present") == 0
        )
        assert {path.name for path in tmp_path.iterdir()} == {"stopframe.yaml", "token"}


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (b"Content-Length: 2097153\r\n\r\n", 413, "uploads.size_limit"),
        (b"\r\n", 411, "Content-Length"),
        (b"Content-Length: 0\r\n\r\n", 400, "empty"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "empty"),
        (b"Content-Length: 9\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n", 415, "--data-binary"),
        (b"Content-Length: 9\r\nContent-Encoding: gzip\r\n\r\n", 415, "Content-Encoding"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + bytes(0x100000) + b"\r\n200000\r\n", 408, "slower"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + bytes(0x100000) + b"\r\n") * 3, 413, "longer"),
        (b"Content-Length: 9\r\n\r\nabc", 408, "slower"),
    ],
    ids=["announced too long", "no length", "zero", "empty chunks", "form", "packed", "stuck", "grows", "half"],
)
async def test_what_is_refused_is_refused_in_one_sentence(
    more: bytes, status: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the body where the head says it all, else as soon as it shows; and nothing is looked at or kept."""
    if status == 408:
        monkeypatch.setattr("detector.uploads.ask.GRACE_SECONDS", 0.3)
    async with _door(tmp_path, "size_limit: 2MiB, slowest: 1GiB") as door:
        answered, _, told = await door.raw(more)

        assert answered == status
        assert says in told["error"]
        assert told["error"].endswith(".")
        assert "\n" not in told["error"]
        assert door.uploads.began == 0
        await until(lambda: door.metrics.value("stopframe_uploads_held_bytes") == 0)


async def test_who_asks_first_is_answered_before_sending(tmp_path: Path) -> None:
    """With Expect: 100-continue, as curl sends for large files, a refusal comes before the file, and a yes too."""
    async with _door(tmp_path, "size_limit: 2MiB") as door:
        refused, *_ = await door.raw(b"Content-Length: 2097153\r\nExpect: 100-continue\r\n\r\n")
        assert refused == 413

        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(HEAD + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 100 ")
        writer.write(b"file")
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_wrong_tokens_are_counted_over_both_doors(tmp_path: Path) -> None:
    """Ten guesses at one door are ten at the other: there is one token."""
    async with _door(tmp_path) as door:
        for _ in range(10):
            await door.client.get("/v1/status", headers={"Authorization": "Bearer wrong-wrong-wrong"})
        guessed = await door.client.post("/scan", content=b"x", headers={"Authorization": "Bearer wrong-again-again"})
        right = await door.client.post("/scan", content=b"x")

    assert (guessed.status_code, right.status_code) == (429, 200)


async def test_without_the_token_or_while_it_is_off_nothing_is_taken(tmp_path: Path) -> None:
    """401 for strangers, 403 with the remedy where uploads are off, 405 for who does not send, 400 for a typo."""
    async with _door(tmp_path) as door:
        strange = await door.client.post("/scan", content=b"x", headers={"Authorization": "Bearer wrong"})
        read = await door.client.get("/scan")
        typo = await door.client.post("/scan?unitl=first_cut", content=b"x")
    async with _door(tmp_path, "off") as door:
        off = await door.client.post("/scan", content=b"x")
        assert door.count("off") == 1

    assert (strange.status_code, read.status_code, typo.status_code, off.status_code) == (401, 405, 400, 403)
    assert "uploads.enabled" in off.json()["error"]
    assert "first_cut" in typo.json()["error"]


async def test_too_many_at_once_and_too_much_together_are_told_when_to_come_back(tmp_path: Path) -> None:
    """429 with Retry-After for one file too many, and for bytes beyond what all may have; both pass."""
    async with _door(tmp_path, "at_once: 2, size_limit: 1MiB, disk_limit: 1MiB") as door:
        door.uploads.may_answer.clear()
        first = asyncio.create_task(door.client.post("/scan", content=bytes(700_000)))
        await until(lambda: door.uploads.began == 1)
        much, headers, told = await door.raw(b"Content-Length: 400000\r\n\r\n")
        assert (much, "retry-after" in headers) == (429, True)
        assert "uploads.disk_limit" in told["error"]
        second = asyncio.create_task(door.client.post("/scan", content=b"small"))
        await until(lambda: door.uploads.began == 2)
        many, headers, told = await door.raw(b"Content-Length: 5\r\n\r\n")
        assert (many, "retry-after" in headers) == (429, True)
        assert "uploads.at_once" in told["error"]
        door.uploads.may_answer.set()

        assert [(await one).status_code for one in (first, second)] == [200, 200]
        assert (await door.client.post("/scan", content=bytes(900_000))).status_code == 200
        assert door.count("crowded") == 2


async def test_whose_turn_does_not_come_is_told_so(tmp_path: Path) -> None:
    """503 with Retry-After after `wait`; who had the turn is looked at undisturbed."""
    async with _door(tmp_path, "looked_at_once: 1, wait: 100ms") as door:
        door.uploads.may_answer.clear()
        first = asyncio.create_task(door.client.post("/scan", content=b"first"))
        await until(lambda: door.uploads.began == 1)
        late = await door.client.post("/scan", content=b"second")
        door.uploads.may_answer.set()

        assert (late.status_code, "retry-after" in late.headers) == (503, True)
        assert "uploads.wait" in late.json()["error"]
        assert (await first).status_code == 200


@pytest.mark.parametrize("sent", [b"Content-Length: 500000\r\n\r\nabc", b"Content-Length: 3\r\n\r\nabc"])
async def test_who_leaves_frees_place_turn_and_disk(sent: bytes, tmp_path: Path) -> None:
    """A client that goes, amid its file or amid the look at it, leaves nothing behind, and the look ends."""
    async with _door(tmp_path, "at_once: 1") as door:
        door.uploads.may_answer.clear()
        is_whole = sent.endswith(b"\r\n\r\nabc") and b": 3" in sent
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(HEAD + sent)
        await until(lambda: door.uploads.began == is_whole and door.metrics.value("stopframe_uploads_present") == 1)
        writer.close()
        await until(lambda: door.count("left") == 1)

        assert door.uploads.ended == door.uploads.began
        assert door.metrics.value("stopframe_uploads_held_bytes") == 0
        door.uploads.may_answer.set()
        assert (await door.client.post("/scan", content=b"next")).status_code == 200


async def test_an_ending_service_takes_no_more_and_waits_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way is refused at once, what is looked at has its time and is then answered, not dropped."""
    monkeypatch.setattr("detector.uploads.desk.DRAIN_SECONDS", 1.5)
    async with _door(tmp_path) as door:
        door.uploads.may_answer.clear()
        coming = asyncio.create_task(door.raw(b"Content-Length: 9\r\n\r\nabc"))
        looked_at = asyncio.create_task(door.client.post("/scan", content=b"whole"))
        await until(lambda: door.uploads.began == 1 and door.metrics.value("stopframe_uploads_present") == 2)
        began_at = time.monotonic()
        draining = asyncio.create_task(door.uploads.drain())
        refused = await coming
        assert not looked_at.done()
        assert (refused[0], "retry-after" in refused[1]) == (503, True)
        assert (await door.client.post("/scan", content=b"new")).status_code == 503
        broken_off = await looked_at
        await draining

    assert broken_off.status_code == 503
    assert "ending" in broken_off.json()["error"]
    assert time.monotonic() - began_at >= 1.45


async def test_a_look_that_ends_while_the_service_does_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the service waits no longer than there is something to wait for."""
    monkeypatch.setattr("detector.uploads.desk.DRAIN_SECONDS", 30.0)
    async with _door(tmp_path) as door:
        door.uploads.may_answer.clear()
        looked_at = asyncio.create_task(door.client.post("/scan", content=b"whole"))
        await until(lambda: door.uploads.began == 1)
        began_at = time.monotonic()
        draining = asyncio.create_task(door.uploads.drain())
        await asyncio.sleep(0.05)
        door.uploads.may_answer.set()
        assert (await looked_at).status_code == 200
        await draining

    assert time.monotonic() - began_at < 15


async def test_a_patient_place_outlives_the_time_of_small_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body may take longer than a control request's, at the pace asked for; without the token it may not."""
    monkeypatch.setattr("detector.api.connections.BODY_SECONDS", 0.3)
    async with _door(tmp_path, "slowest: 1KiB") as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(HEAD + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            writer.write(b"x")
            await asyncio.sleep(0.08)
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 200")
        await asyncio.wait_for(reader.readuntil(b"}}"), 30)
        writer.write(b"POST /v1/reload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{")  # the same connection
        with pytest.raises((ConnectionError, EOFError)):  # noqa: PT012 - either way it is gone
            async with asyncio.timeout(30):
                while True:
                    if not await reader.read(1000):
                        raise EOFError
        writer.close()
