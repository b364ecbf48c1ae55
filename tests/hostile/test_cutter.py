"""A cutter among liars, crashes and full disks: it acts on what a trusted key signed, once, and on nothing else."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from detector.alerts.alert import uuid7
from detector.alerts.mqtt_inbox import Received
from detector.api.view import NoSuchIncident
from detector.credentials import stream_id
from detector.cutter.asked import AskedAlerts
from detector.cutter.cutter import Cutter
from detector.cutter.parts import CutterParts
from detector.enforcement import Enforcer, EnforcerSettings
from detector.events import CutResult, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.board import PublisherBoard
from detector.instants import rfc3339
from detector.metric_words import CutterWord
from detector.metrics import Metrics
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.incidents import Incidents
from detector.trust.distrust import Distrust
from detector.trust.replay import SeenAlerts
from detector.trust.signing import NodeSigner, Signer, TrustedKeys

SECRET = bytes(32)
SERVICE, STRANGER, CUTTER = (Signer.of_seed(bytes([n]) * 32) for n in (1, 2, 3))
KEYS = TrustedKeys([SERVICE.trusted_key({"alert"}), CUTTER.trusted_key({"ack"})])


class FakeIngest:
    """A server in memory that counts whom it dropped."""

    name, can_cut = "mtx", True

    def __init__(self) -> None:
        self.live: dict[StreamKey, str] = {}
        self.revoked: set[StreamKey] = set()
        self.drops: Counter[str] = Counter()
        self.pause = 0.0
        self.may_list = asyncio.Event()
        self.may_list.set()
        self.lists = 0
        self.is_down = False
        self._board = PublisherBoard()

    def publish(self, name: str) -> str:
        key = StreamKey(self.name, "live", name)
        self.live[key] = f"c{len(self.drops)}-{name}"
        return stream_id(SECRET, key)

    async def publishers(self) -> list[Publisher]:
        self.lists += 1
        await self.may_list.wait()
        if self.is_down:
            raise IngestUnavailable("the server is down")
        return [Publisher(key, connection, 0.0) for key, connection in self.live.items()]

    def changes(self) -> Any:
        return self._board.changes()

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        await asyncio.sleep(self.pause)
        if connection not in (None, self.live.get(key)) or key not in self.live:
            return CutResult(0)
        del self.live[key]
        self.drops[key.name] += 1
        return CutResult(1)

    async def revoke(self, key: StreamKey) -> None:
        self.revoked.add(key)

    async def restore(self, key: StreamKey) -> None:
        self.revoked.discard(key)

    def is_revoked(self, key: StreamKey) -> bool:
        return key in self.revoked

    def problems(self) -> list[str]:
        return []


@dataclass
class Scene:
    folder: Path
    ingest: FakeIngest = field(default_factory=FakeIngest)
    acks: list[dict[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    wall_offset_ms: int = 0
    database: Database | None = None
    numbers: int = 0
    answers_after: asyncio.Event | None = None
    quiet_seconds: float = 0.02

    @contextlib.asynccontextmanager
    async def cutter(self) -> AsyncIterator[Cutter]:
        """One run of a cutter; the next one finds what it left on disk."""
        settings = EnforcerSettings(
            quiet_seconds=self.quiet_seconds, poll_seconds=0.005, drain_seconds=0.0, first_backoff_seconds=0.02
        )
        async with Database.open(self.folder / "cutter.db") as database:
            self.database = database
            incidents = Incidents(database)
            async with Enforcer(self.ingest, incidents, settings) as enforcer:  # type: ignore[arg-type]
                parts = CutterParts(
                    ingest=self.ingest,  # type: ignore[arg-type]
                    enforcer=enforcer,
                    incidents=incidents,
                    asked=AskedAlerts(database),
                    seen=SeenAlerts(database),
                    signer=CUTTER,
                    node="cutter",
                    secret=SECRET,
                    keys=lambda: KEYS,
                    distrust=Distrust(self.metrics),
                    send_ack=self._send,
                    told=self.metrics.cutter_alert,
                )
                async with Cutter(parts, wall_ms=lambda: time.time_ns() // 1_000_000 + self.wall_offset_ms) as cutter:
                    yield cutter

    async def _send(self, stream: str, ack: bytes) -> None:
        if self.answers_after is not None:
            await self.answers_after.wait()
        said = json.loads(ack)
        KEYS.verify(said, "ack")
        assert said["stream"] == stream
        self.acks.append(said)

    def alert(self, stream: str, *, signer: Signer = SERVICE, **changes: Any) -> bytes:
        self.numbers += 1
        now_ms = time.time_ns() // 1_000_000
        body = {
            "schema": "stopframe/alert/1",
            "alert_id": uuid7(now_ms, self.numbers.to_bytes(10)),
            "incident_id": uuid7(now_ms, (self.numbers + 1000).to_bytes(10)),
            "stream": stream,
            "session": f"s{self.numbers}",
            "action": "cut",
            "mode": "live",
            "seq": self.numbers,
            "expires_at": rfc3339(now_ms + 60_000),
        }
        return json.dumps(NodeSigner("n1", signer)(body | changes)).encode()

    def received(self, payload: bytes, stream: str, *, is_retained: bool = False) -> Received:
        topic = f"stopframe/stream/{stream}/alert"
        return Received(topic, payload, 0.0, is_retained, lambda: self.told.append(topic))

    async def say(self, cutter: Cutter, payload: bytes, stream: str, **more: bool) -> None:
        """Hand an alert in and wait until the broker was told that it was taken."""
        told = len(self.told)
        cutter.hear(self.received(payload, stream, **more))
        async with asyncio.timeout(30):
            while len(self.told) == told:
                await asyncio.sleep(0.002)

    async def answered(self, count: int, state: str = "cut") -> None:
        async with asyncio.timeout(30):
            while sum(ack["state"] == state for ack in self.acks) < count:
                await asyncio.sleep(0.005)

    def refused(self, reason: str) -> float:
        return self.metrics.value("stopframe_untrusted_total", purpose="alert", reason=reason)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_nothing_but_a_trusted_signature_cuts(scene: Scene) -> None:
    """Forged, altered, a stranger's, of a key for acks, on another's topic, over, retained: each is counted."""
    stream = scene.ingest.publish("victim")
    other = scene.ingest.publish("other")
    good = json.loads(scene.alert(stream))
    liars: list[tuple[bytes, str, str, bool]] = [
        (b"not json", stream, "malformed", False),
        (b"[" * 5000, stream, "too_large", False),
        (json.dumps(good | {"action": "cut", "seq": 99}).encode(), stream, "altered", False),
        (json.dumps({name: good[name] for name in good if name != "sig"}).encode(), stream, "unsigned", False),
        (scene.alert(stream, signer=STRANGER), stream, "unknown_key", False),
        (scene.alert(stream, signer=CUTTER), stream, "not_allowed", False),
        (scene.alert(other), stream, "other_stream", False),
        (scene.alert(stream, schema="stopframe/ack/1"), stream, "wrong_schema", False),
        (scene.alert(stream, expires_at=rfc3339(1_000)), stream, "expired", False),
        (scene.alert(stream), stream, "retained", True),
    ]
    async with scene.cutter() as cutter:
        for payload, topic_of, reason, is_retained in liars:
            before = scene.refused(reason)
            await scene.say(cutter, payload, topic_of, is_retained=is_retained)
            assert scene.refused(reason) == before + 1, reason
        await asyncio.sleep(0.05)
    assert (scene.ingest.drops, scene.acks, scene.ingest.revoked) == (Counter(), [], set())


async def test_a_thousand_replays_cut_once(scene: Scene) -> None:
    """Each is answered with the answer there is; reviews and shadow are taken and left alone."""
    stream = scene.ingest.publish("bad")
    watched = scene.ingest.publish("watched")
    payload = scene.alert(stream)
    async with scene.cutter() as cutter:
        await scene.say(cutter, scene.alert(watched, action="review"), watched)
        await scene.say(cutter, scene.alert(watched, mode="shadow"), watched)
        await scene.say(cutter, payload, stream)
        await scene.answered(1)
        for _ in range(300):
            await scene.say(cutter, payload, stream)
        assert cutter.counters.by_word_total[CutterWord.IGNORED] == 2
    assert scene.ingest.drops == {"bad": 1}
    assert {ack["alert_id"] for ack in scene.acks} == {json.loads(payload)["alert_id"]}
    assert Counter(ack["state"] for ack in scene.acks) == {"received": 1, "cut": 301}


async def test_a_crash_between_the_cut_and_its_answer_cuts_nobody_twice(scene: Scene) -> None:
    """The next start finds the incident, denies the key, and answers; the service need not ask again."""
    stream = scene.ingest.publish("bad")
    scene.quiet_seconds = 60.0  # it proves nothing before it ends
    async with scene.cutter() as cutter:
        await scene.say(cutter, scene.alert(stream), stream)
        async with asyncio.timeout(30):
            while not scene.ingest.drops:
                await asyncio.sleep(0.002)
    assert [ack["state"] for ack in scene.acks] == ["received"]
    scene.quiet_seconds = 0.02
    async with scene.cutter():
        await scene.answered(1)
    assert scene.ingest.drops == {"bad": 1}
    assert [key.name for key in scene.ingest.revoked] == ["bad"]


async def test_a_full_disk_keeps_nobody_on_air(scene: Scene) -> None:
    """It cuts, answers, remembers in memory, and is red; the same alert again is answered and cuts nobody."""
    stream = scene.ingest.publish("bad")
    async with scene.cutter() as cutter:
        assert scene.database is not None
        pages = await scene.database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await scene.database.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        fill = scene.alert(stream, session="x" * 2000)
        for _ in range(3):
            await scene.say(cutter, fill, stream)
        await scene.answered(1)
        met = cutter.counters.by_word_total
        assert met[CutterWord.NOT_DURABLE] >= 1 or met[CutterWord.REPEATED] >= 2
    assert scene.ingest.drops == {"bad": 1}


async def test_a_clock_that_is_an_hour_off_cuts_nobody_and_says_so(scene: Scene) -> None:
    """An alert that is over by our clock is refused and counted, never cut late."""
    stream = scene.ingest.publish("bad")
    scene.wall_offset_ms = 3_600_000
    async with scene.cutter() as cutter:
        await scene.say(cutter, scene.alert(stream), stream)
    assert (scene.refused("expired"), scene.ingest.drops) == (1, Counter())


async def test_a_clock_that_steps_refuses_nobody_for_good_and_believes_no_replay(scene: Scene) -> None:
    """An hour ahead, an hour back, and right again: what was refused or given up is cut when it comes again, once."""
    first, waiting = scene.ingest.publish("first"), scene.ingest.publish("waiting")
    early, begun = scene.alert(first), scene.alert(waiting)
    async with scene.cutter() as cutter:
        scene.ingest.is_down = True
        await scene.say(cutter, begun, waiting)
        scene.wall_offset_ms = 3_600_000
        await scene.say(cutter, early, first)
        async with asyncio.timeout(10):
            while not cutter.counters.by_word_total[CutterWord.EXPIRED]:
                await asyncio.sleep(0.02)
        assert (scene.refused("expired"), scene.ingest.drops) == (1, Counter())
        scene.ingest.is_down, scene.wall_offset_ms = False, 0
        for payload, stream in ((early, first), (begun, waiting)):
            await scene.say(cutter, payload, stream)
        await scene.answered(2)
        for scene.wall_offset_ms in (-3_600_000, 3_600_000, 0):
            for payload, stream in ((early, first), (begun, waiting)):
                await scene.say(cutter, payload, stream)
        late = scene.ingest.publish("late")
        scene.wall_offset_ms = -3_600_000
        await scene.say(cutter, scene.alert(late), late)
        async with asyncio.timeout(10):
            while scene.ingest.drops.total() < 3:
                await asyncio.sleep(0.02)
    assert scene.ingest.drops == {"first": 1, "waiting": 1, "late": 1}


async def test_who_left_before_the_cut_is_not_found_or_denied(scene: Scene) -> None:
    """A stream that nobody publishes here is rejected with the reason."""
    async with scene.cutter() as cutter:
        await scene.say(cutter, scene.alert("A" * 26), "A" * 26)
        await scene.answered(1, "rejected")
    assert scene.acks[-1]["detail"] == "nobody publishes this stream here"


async def test_an_incident_that_was_taken_back_cuts_nobody_any_more(scene: Scene) -> None:
    """Neither the alert again nor one of the same incident that comes later; unknown incidents are remembered, too."""
    stream = scene.ingest.publish("bad")
    first = scene.alert(stream)
    incident = json.loads(first)["incident_id"]
    async with scene.cutter() as cutter:
        with pytest.raises(NoSuchIncident):
            await cutter.undo(incident)
        await scene.say(cutter, first, stream)
        await scene.answered(1, "rejected")
        second = scene.alert(stream)
        await scene.say(cutter, second, stream)
        await scene.answered(1)
        assert (await cutter.undo(json.loads(second)["incident_id"])).is_restored
        assert scene.ingest.revoked == set()
        scene.ingest.publish("bad")
        await scene.say(cutter, second, stream)
        await scene.answered(2, "rejected")
    assert scene.ingest.drops == {"bad": 1}


async def test_more_cuts_than_places_do_not_hold_up_a_start(scene: Scene) -> None:
    """A server that is down leaves many under way: the next start begins with all of them, and takes new ones too."""
    streams = [scene.ingest.publish(f"bad{number}") for number in range(80)]
    scene.ingest.is_down = True
    async with scene.cutter() as cutter:
        for stream in streams:
            await scene.say(cutter, scene.alert(stream), stream)
    async with asyncio.timeout(30), scene.cutter() as cutter:
        late = scene.ingest.publish("late")
        await scene.say(cutter, scene.alert(late), late)
        scene.ingest.is_down = False
        await scene.answered(81)
    assert sum(scene.ingest.drops.values()) == 81


async def test_alerts_of_streams_that_left_hold_up_nobodys_cut(scene: Scene) -> None:
    """Hundreds are looked for at once, by one question in a quarter of a second, and the one who is live is cut."""
    gone = [f"{number:026}" for number in range(150)]
    bad = scene.ingest.publish("bad")
    began = time.monotonic()
    async with scene.cutter() as cutter:
        for stream in gone:
            cutter.hear(scene.received(scene.alert(stream), stream))
        await scene.say(cutter, scene.alert(bad), bad)
        await scene.answered(1)
        await scene.answered(150, "rejected")
    assert scene.ingest.drops == {"bad": 1}
    assert scene.ingest.lists < 4 * (time.monotonic() - began) + 20


async def test_a_live_cut_does_not_wait_behind_a_thousand_of_streams_that_left(scene: Scene) -> None:
    """After an outage of the broker all come at once: whoever is on air goes first, and the others are not lost."""
    gone = [f"{number:026}" for number in range(1000)]
    bad = scene.ingest.publish("bad")
    async with scene.cutter() as cutter:
        for stream in gone:
            cutter.hear(scene.received(scene.alert(stream), stream))
        cutter.hear(scene.received(scene.alert(bad), bad))
        async with asyncio.timeout(20):
            while not scene.ingest.drops:
                await asyncio.sleep(0.002)
        assert len(scene.told) < 500  # of those before it
        await scene.answered(20, "rejected")
    assert scene.ingest.drops == {"bad": 1}


async def test_what_is_too_large_or_too_much_is_counted_and_not_kept(scene: Scene) -> None:
    """A message beyond 4 KiB takes no place; beyond 4,096 that wait the service has to send again."""
    async with scene.cutter() as cutter:
        for _ in range(5000):
            cutter.hear(scene.received(b"{}", "A" * 26))
        assert cutter.counters.by_word_total[CutterWord.OVERFLOWED] == 5000 - 4096
        cutter.hear(scene.received(b"x" * 5000, "A" * 26))
        assert (scene.refused("too_large"), len(scene.told)) == (1, 1)


async def test_a_broker_that_takes_no_promise_keeps_nobody_on_air(scene: Scene) -> None:
    """The cut is made while `received` is still on its way."""
    stream = scene.ingest.publish("bad")
    scene.answers_after = asyncio.Event()
    async with scene.cutter() as cutter:
        cutter.hear(scene.received(scene.alert(stream), stream))
        async with asyncio.timeout(30):
            while not scene.ingest.drops:
                await asyncio.sleep(0.005)
        assert scene.acks == []
        scene.answers_after.set()
        await scene.answered(1)
    assert [ack["state"] for ack in scene.acks] == ["received", "cut"]


async def test_an_undo_that_races_a_cut_wins(scene: Scene) -> None:
    """While the publisher is looked for, the incident is taken back: nobody is cut for it, and no key stays denied."""
    stream = scene.ingest.publish("bad")
    scene.ingest.may_list.clear()
    payload = scene.alert(stream)
    async with scene.cutter() as cutter:
        await scene.say(cutter, payload, stream)
        async with asyncio.timeout(30):
            while not scene.ingest.lists:
                await asyncio.sleep(0.002)
        with pytest.raises(NoSuchIncident):
            await cutter.undo(json.loads(payload)["incident_id"])
        scene.ingest.may_list.set()
        await scene.answered(1, "rejected")
    assert (scene.ingest.drops, scene.ingest.revoked) == (Counter(), set())


async def test_an_undo_needs_no_disk(scene: Scene) -> None:
    """Whom a cutter with a full disk cut may publish again, and is not cut for the same incident once more."""
    stream = scene.ingest.publish("bad")
    payload = scene.alert(stream)
    async with scene.cutter() as cutter:
        await scene.say(cutter, payload, stream)
        await scene.answered(1)

        async def refuse(*_: object) -> None:
            raise StoreUnavailable("the disk is full")

        cutter._parts.asked.take_back = refuse  # type: ignore[assignment,method-assign]
        assert (await cutter.undo(json.loads(payload)["incident_id"])).is_restored
    assert scene.ingest.revoked == set()
