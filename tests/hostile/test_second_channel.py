"""The second channel's end at the cutter among liars and slow clients: one cut, a signed answer, bounded work."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import detector.cutter.door as door_module
from detector.alerts.webhook import SIGNATURE_HEADER, signature
from detector.api.server import HttpServer
from detector.config.references import Secret
from detector.config.units import Duration
from detector.cutter.config import CutterWebhookSection
from detector.cutter.cutter import Cutter
from detector.cutter.door import PATH, AlertDoor
from detector.instants import rfc3339
from detector.metric_words import PostOutcome
from detector.trust.distrust import Distrust
from tests.hostile.test_cutter import KEYS, STRANGER, Scene

SECRET = "a-secret-of-the-test-0123"
WITHIN = "5s"


@dataclass
class Site:
    scene: Scene
    cutter: Cutter
    port: int
    http: httpx.AsyncClient

    def head(self, payload: bytes, *, secret: str = SECRET, ahead: int = 0) -> dict[str, str]:
        return {SIGNATURE_HEADER: signature(secret, int(time.time()) + ahead, payload)}

    async def post(self, payload: bytes, head: dict[str, str] | None = None) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{PATH}"
        return await self.http.post(url, content=payload, headers=self.head(payload) if head is None else head)

    def count(self, outcome: PostOutcome) -> float:
        return self.scene.metrics.value("stopframe_cutter_posts_total", state=outcome.value)


@contextlib.asynccontextmanager
async def opened(folder: Path, within: str = WITHIN) -> AsyncIterator[Site]:
    scene = Scene(folder)
    section = CutterWebhookSection(secret=Secret("here", SECRET), answer_within=Duration.parse(within))
    async with scene.cutter() as cutter:
        door = AlertDoor(cutter, Distrust(scene.metrics), lambda: section, scene.metrics.cutter_post)
        async with HttpServer(door.app(), "127.0.0.1", 0) as server, httpx.AsyncClient(timeout=20) as http:
            yield Site(scene, cutter, server.port, http)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


def _said(answer: httpx.Response) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    said: dict[str, Any] = answer.json()
    KEYS.verify(said, "ack")
    return said


async def test_a_posted_cut_is_made_and_answered_in_the_reply(site: Site) -> None:
    """The reply holds the signed answer; the same alert over the broker finds it answered, and cuts nobody."""
    stream = site.scene.ingest.publish("bad")
    payload = site.scene.alert(stream)
    said = _said(await site.post(payload))
    assert (said["state"], said["alert_id"], said["stream"]) == ("cut", json.loads(payload)["alert_id"], stream)
    await site.scene.say(site.cutter, payload, stream)
    await site.scene.answered(2)
    assert site.scene.ingest.drops == {"bad": 1}
    assert {ack["sig"] for ack in site.scene.acks} == {said["sig"]}


async def test_replays_and_many_at_once_cut_once(site: Site) -> None:
    """Fifty posts of one alert at the same time, and one later, get one answer."""
    stream = site.scene.ingest.publish("bad")
    payload = site.scene.alert(stream)
    head = site.head(payload)
    answers = await asyncio.gather(*(site.post(payload, head) for _ in range(50)))
    answers.append(await site.post(payload, head))
    assert {_said(answer)["sig"] for answer in answers} == {_said(answers[0])["sig"]}
    assert site.scene.ingest.drops == {"bad": 1}
    assert site.count(PostOutcome.ANSWERED) == 51


async def test_liars_cut_nobody_and_learn_nothing(site: Site) -> None:
    """No HMAC, another's, of another body, an old or early one, a stranger's alert: a bare status, and a count."""
    stream = site.scene.ingest.publish("victim")
    payload = site.scene.alert(stream)
    strangers = site.scene.alert(stream, signer=STRANGER)
    over = site.scene.alert(stream, expires_at=rfc3339(1_000))
    lies: list[tuple[bytes, dict[str, str], int, PostOutcome]] = [
        (payload, {}, 401, PostOutcome.NOT_SIGNED),
        (payload, {SIGNATURE_HEADER: "t=1,v1=zz"}, 401, PostOutcome.NOT_SIGNED),
        (payload, {SIGNATURE_HEADER: f"t={'9' * 400},v1={'a' * 64}"}, 401, PostOutcome.NOT_SIGNED),
        (payload, site.head(payload, secret="another-secret-0123"), 401, PostOutcome.NOT_SIGNED),
        (payload, site.head(payload + b" "), 401, PostOutcome.NOT_SIGNED),
        (payload, site.head(payload, ahead=-400), 401, PostOutcome.STALE),
        (payload, site.head(payload, ahead=400), 401, PostOutcome.STALE),
        (strangers, site.head(strangers), 422, PostOutcome.UNTRUSTED),
        (over, site.head(over), 422, PostOutcome.UNTRUSTED),
        (b"[]", site.head(b"[]"), 422, PostOutcome.UNTRUSTED),
        (b"\xff{", site.head(b"\xff{"), 422, PostOutcome.UNTRUSTED),
    ]
    for content, head, status, outcome in lies:
        before = site.count(outcome)
        answer = await site.post(content, head)
        assert (answer.status_code, answer.content, site.count(outcome)) == (status, b"", before + 1), outcome
    assert (site.scene.ingest.drops, site.scene.ingest.revoked, site.scene.acks) == ({}, set(), [])
    assert site.scene.refused("unknown_key") == site.scene.refused("expired") == 1


async def test_an_alarm_is_left_to_people(site: Site) -> None:
    """A service's word on its own health gets the 404 that ends it, and counts as no lie about trust."""
    alarm = b'{"schema":"stopframe/alarm/1","ok":false,"problems":["the disk is full"]}'
    answer = await site.post(alarm, {**site.head(alarm), "Stopframe-Alarm": "01a20b01"})
    assert (answer.status_code, answer.content, site.count(PostOutcome.ALARM)) == (404, b"", 1)
    assert (site.count(PostOutcome.UNTRUSTED), site.scene.refused("unsigned")) == (0, 0)
    assert (await site.post(alarm, {"Stopframe-Alarm": "01a20b01"})).status_code == 401


async def test_a_hundred_megabytes_and_a_body_that_never_ends_are_let_go(site: Site) -> None:
    """Neither is kept; meanwhile a genuine alert is answered."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1600):
            yield bytes(65536)

    async def trickle() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n{{".encode())
        assert (await reader.read(100)).startswith(b"HTTP/1.1 413")
        writer.close()
        await writer.wait_closed()

    async def flood() -> None:
        with contextlib.suppress(httpx.TransportError):  # it may be cut off before it has read the answer
            url = f"http://127.0.0.1:{site.port}{PATH}"
            assert (await site.http.post(url, content=endless())).status_code == 413

    others = asyncio.gather(flood(), *(trickle() for _ in range(20)))
    stream = site.scene.ingest.publish("bad")
    assert _said(await site.post(site.scene.alert(stream)))["state"] == "cut"
    await others
    assert site.count(PostOutcome.UNREADABLE) == 21


async def test_a_cut_that_takes_long_is_answered_when_it_is_done(tmp_path: Path) -> None:
    """Until then the reply is empty: the service sends it again, and gets the answer, and nobody is cut twice."""
    async with opened(tmp_path, "100ms") as site:
        site.scene.ingest.pause = 0.6
        payload = site.scene.alert(site.scene.ingest.publish("bad"))
        first = await site.post(payload)
        assert (first.status_code, first.content) == (202, b"")
        async with asyncio.timeout(30):
            while (again := await site.post(payload)).status_code == 202:
                await asyncio.sleep(0.05)
        assert _said(again)["state"] == "cut"
        assert site.scene.ingest.drops == {"bad": 1}


class _Slow:
    """Answers nobody until it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.busy = 0

    async def answer(self, payload: bytes, *, within_seconds: float) -> bytes:
        self.busy += 1
        await self.may_answer.wait()
        return b""


async def test_more_than_may_wait_are_told_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many wait for their answers, the next one is refused with 503; all are answered, and it can come again."""
    assert door_module._AT_ONCE == 256
    monkeypatch.setattr(door_module, "_AT_ONCE", 16)
    slow, section = _Slow(), CutterWebhookSection(secret=Secret("here", SECRET), answer_within=Duration.parse(WITHIN))
    scene = Scene(tmp_path)
    door = AlertDoor(slow, Distrust(scene.metrics), lambda: section, scene.metrics.cutter_post)
    async with HttpServer(door.app(), "127.0.0.1", 0) as server, httpx.AsyncClient(timeout=60) as http:
        site = Site(scene, slow, server.port, http)  # type: ignore[arg-type]
        waiting = [asyncio.create_task(site.post(b"{}")) for _ in range(16)]
        async with asyncio.timeout(60):
            while slow.busy < 16:
                await asyncio.sleep(0.01)
        refused = await site.post(b"{}")
        assert (refused.status_code, slow.busy, site.count(PostOutcome.TOO_MANY)) == (503, 16, 1)
        slow.may_answer.set()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {202}
        assert (await site.post(b"{}")).status_code == 202


async def test_what_asks_for_no_cut_is_taken_and_left_alone(site: Site) -> None:
    """Reviews, shadow, another address, another method."""
    stream = site.scene.ingest.publish("watched")
    for changes in ({"action": "review"}, {"mode": "shadow"}):
        assert (await site.post(site.scene.alert(stream, **changes))).status_code == 202
    url = f"http://127.0.0.1:{site.port}"
    assert (await site.http.get(url + PATH)).status_code == 405
    assert (await site.http.get(url + "/health/ready")).status_code == 404
    assert site.scene.ingest.drops == {}
