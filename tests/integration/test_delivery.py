"""Delivery: what was submitted reaches every sink, whatever breaks in between."""

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiomqtt
import pytest

from detector.alerts.alert import Alert, AlertFacts, WallAnchor, build_alert, uuid7
from detector.alerts.clock import Clock
from detector.alerts.courier import DeliverySettings
from detector.alerts.delivery import Delivery
from detector.alerts.embedded_broker import EmbeddedBroker
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.events import Step, StreamKey
from detector.store.database import Database
from detector.store.incidents import IncidentRecord, Incidents
from detector.store.outbox import Outbox
from tests.waiting import until

pytestmark = pytest.mark.integration

_QUICK = DeliverySettings(backoff_first_seconds=0.05, backoff_limit_seconds=0.2, attempt_timeout_seconds=5)


@dataclass
class FakeSink:
    """A sink that answers as the test says, and keeps what it accepted."""

    name: str = "fake"
    answer: Callable[[Notice], Receipt] = lambda _: Receipt.ACCEPTED
    accepted: list[Notice] = field(default_factory=list)
    tried: list[Notice] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    hangs: bool = False

    def __post_init__(self) -> None:
        self.ready.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def wait_ready(self) -> None:
        await self.ready.wait()

    async def deliver(self, notice: Notice) -> Receipt:
        self.tried.append(notice)
        if self.hangs:
            await asyncio.sleep(3600)
        receipt = self.answer(notice)
        if receipt is Receipt.ACCEPTED:
            self.accepted.append(notice)
        return receipt

    def problems(self) -> list[str]:
        return []

    def notes(self) -> list[str]:
        return []

    def ids(self) -> list[str]:
        return [notice.alert_id for notice in self.accepted]


def _has(items: Sequence[object], count: int) -> bool:
    return len(items) >= count


def _alert(stream: str = "S", *, action: Step = Step.REVIEW, expires_after_ms: int = 60_000) -> Alert:
    facts = AlertFacts(
        stream_id=stream, session="1", signals=(), votes=(1, 1), action=action, is_live=True, config_digest="c"
    )
    anchor = WallAnchor(time.monotonic(), int(time.time() * 1000))
    return build_alert(
        facts,
        alert_id=uuid7(anchor.wall_ms, os.urandom(10)),
        anchor=anchor,
        queued_at=anchor.monotonic_seconds,
        expires_after_ms=expires_after_ms,
    )


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "s.db") as opened:
        yield opened


async def _fill_disk(database: Database) -> None:
    """Leave the database no page to grow into, nor a free one to use."""
    pages = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await database.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())


async def test_a_fault_of_the_store_costs_no_alert(database: Database) -> None:
    """A file whose tables are gone is no reason not to send: the alert leaves from memory, and health says why."""
    sink = FakeSink()
    async with Delivery(Outbox(database), [sink], settings=_QUICK) as delivery:
        await database.write(lambda c: c.execute("DROP TABLE deliveries").rowcount)
        submitted = await delivery.submit(_alert())
        await until(lambda: sink.accepted)
        assert (submitted.is_durable, json.loads(sink.accepted[0].payload)["durable"]) == (False, False)
        assert delivery.problems()[0].startswith("alerts are sent from memory only: a fault of Stopframe")


async def test_hanging_sink_delays_no_other(database: Database) -> None:
    """Beside a sink that never answers, another gets every alert within milliseconds."""
    stuck, quick = FakeSink("stuck", hangs=True), FakeSink("quick")
    async with Delivery(Outbox(database), [stuck, quick], settings=_QUICK) as delivery:
        delays = []
        for number in range(40):
            await delivery.submit(_alert(f"S{number}"))
            submitted_at = time.monotonic()
            await until(functools.partial(_has, quick.accepted, number + 1))
            delays.append(time.monotonic() - submitted_at)

    assert (len(quick.accepted), stuck.accepted) == (40, [])
    assert sorted(delays)[20] < 0.05
    assert len(stuck.tried) <= _QUICK.streams_at_once


async def test_cut_goes_first_and_every_stream_keeps_its_order(database: Database) -> None:
    """What waited for a sink goes out with the streams to be cut first, each stream in the order of submission."""
    sink = FakeSink()
    sink.ready.clear()
    settings = DeliverySettings(streams_at_once=1)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        await asyncio.sleep(0.05)
        for stream, action in [("a", Step.REVIEW), ("b", Step.REVIEW), ("a", Step.REVIEW), ("b", Step.CUT)]:
            await delivery.submit(_alert(stream, action=action))
        sink.ready.set()
        await until(lambda: len(sink.accepted) == 4)

    assert [(n.stream_id, int(n.order)) for n in sink.accepted] == [("b", 2), ("b", 4), ("a", 1), ("a", 3)]


async def test_far_more_than_memory_holds_arrives_once_and_in_order(database: Database) -> None:
    """Alerts beyond the memory window wait on disk; all arrive, none twice, each stream in order."""
    sink = FakeSink()
    sink.ready.clear()
    settings = DeliverySettings(window_alerts=8, streams_at_once=4)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        await asyncio.gather(*(delivery.submit(_alert(f"S{n % 7}")) for n in range(100)))
        sink.ready.set()
        more = [await delivery.submit(_alert(f"S{n % 7}")) for n in range(20)]
        await until(lambda: len(sink.accepted) >= 120)
        assert await delivery.drain(5) == 0

    assert len(set(sink.ids())) == len(sink.accepted) == 120
    assert more[-1].seq == 120
    by_stream: dict[str, list[float]] = {}
    for notice in sink.accepted:
        by_stream.setdefault(notice.stream_id, []).append(notice.order)
    assert all(orders == sorted(orders) for orders in by_stream.values())


async def test_nobody_listening_is_tried_again_until_accepted(database: Database) -> None:
    """`No matching subscribers` does not end a delivery: the same bytes come again, ever later, until accepted."""
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    async with Delivery(Outbox(database), [sink], settings=_QUICK, jitter=lambda: 0.0) as delivery:
        await delivery.submit(_alert())
        await until(lambda: len(sink.tried) == 4)
        assert (await Outbox(database).counts("fake"))["sent"] == 1
        sink.answer = lambda _: Receipt.ACCEPTED
        await until(lambda: sink.accepted)
        assert await delivery.drain(2) == 0
        assert await Outbox(database).counts("fake") == {"acked": 1}

    assert len({(n.alert_id, n.payload) for n in sink.tried}) == 1
    assert delivery.counters()["fake"].by_receipt_total == {"nobody listens": 4, "accepted": 1}


async def test_new_alert_does_not_wait_for_its_streams_backoff(database: Database) -> None:
    """A cut on a stream whose earlier alert is backing off goes out at once, behind that one."""
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    settings = DeliverySettings(backoff_first_seconds=60, backoff_limit_seconds=60)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        await delivery.submit(_alert())
        await until(lambda: sink.tried)
        await asyncio.sleep(0.05)
        sink.answer = lambda _: Receipt.ACCEPTED
        await delivery.submit(_alert(action=Step.CUT))
        await until(lambda: len(sink.accepted) == 2, seconds=2)

    assert [n.order for n in sink.accepted] == [1, 2]


async def test_faulty_sink_keeps_its_alerts(database: Database) -> None:
    """A sink that raises anything at all gets its alerts again, and other sinks never notice."""

    def fail(_: Notice) -> Receipt:
        raise ZeroDivisionError

    faulty, sound = FakeSink("faulty", answer=fail), FakeSink("sound")
    async with Delivery(Outbox(database), [faulty, sound], settings=_QUICK) as delivery:
        await delivery.submit(_alert())
        await until(lambda: len(faulty.tried) >= 2 and sound.accepted)
        faulty.answer = lambda _: Receipt.ACCEPTED
        await until(lambda: faulty.accepted)


async def test_restart_sends_what_is_open_and_never_what_was_accepted(tmp_path: Path) -> None:
    """A new run delivers the alerts that the last one left, under the same ids, and none that was accepted."""
    path = tmp_path / "s.db"
    first, second = FakeSink(), FakeSink()
    async with Database.open(path) as database, Delivery(Outbox(database), [first]) as delivery:
        done = [await delivery.submit(_alert(f"S{n}")) for n in range(3)]
        await until(lambda: len(first.accepted) == 3)
        await delivery.drain(2)
        first.hangs = True
        left = [await delivery.submit(_alert(f"S{n}")) for n in range(3)]
    async with Database.open(path) as database, Delivery(Outbox(database), [second]) as delivery:
        await until(lambda: len(second.accepted) == 3)
        assert await delivery.drain(2) == 0
        fresh = await delivery.submit(_alert())

    assert sorted(second.ids()[:3]) == sorted(s.alert_id for s in left)
    assert not {s.alert_id for s in done} & set(second.ids())
    assert [s.seq for s in (*done, *left, fresh)] == list(range(1, 8))


async def test_full_disk_sends_from_memory_and_says_so(database: Database) -> None:
    """Where the disk refuses the row the alert goes out at once, `durable: false`; health is red until it recovers."""
    sink = FakeSink()
    async with Delivery(Outbox(database), [sink], settings=_QUICK) as delivery:
        await _fill_disk(database)
        sent = [await delivery.submit(_alert(f"S{n}", action=Step.CUT)) for n in range(40)]
        await until(lambda: len(sink.accepted) == 40)
        refused = [s for s in sent if not s.is_durable]
        assert refused
        assert ["the disk is full" in problem for problem in delivery.problems()] == [True]

        await database.read(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
        await until(lambda: not delivery.problems())
        assert (await delivery.submit(_alert())).is_durable

    flags = {n.alert_id: json.loads(n.payload) for n in sink.accepted}
    assert all(flags[s.alert_id]["durable"] is s.is_durable for s in sent)
    assert all(flags[s.alert_id]["seq"] == s.seq for s in sent)
    kept = [s.seq for s in sent if s.is_durable]
    assert kept == list(range(1, len(kept) + 1))


async def test_frozen_disk_delays_an_alert_by_its_timeout_only(database: Database) -> None:
    """A disk that does not answer holds an alert for the configured time, then it goes out from memory."""
    sink = FakeSink()
    settings = DeliverySettings(disk_timeout_seconds=0.1)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        await asyncio.sleep(0.05)
        thaw = threading.Event()
        frozen = asyncio.create_task(database.read(lambda _: thaw.wait(30)))
        await asyncio.sleep(0.01)
        submitted = await delivery.submit(_alert())
        await until(lambda: sink.accepted)
        assert any("does not answer" in problem for problem in delivery.problems())
        thaw.set()
        await frozen

    assert (submitted.is_durable, submitted.seq) == (False, None)


async def test_what_a_frozen_disk_took_late_is_settled_and_not_left_to_expire(database: Database) -> None:
    """The row of an alert that went out from memory may be written after all: it must not turn health red later."""
    sink = FakeSink()
    outbox = Outbox(database)
    async with Delivery(outbox, [sink], settings=DeliverySettings(disk_timeout_seconds=0.1)) as delivery:
        await asyncio.sleep(0.05)
        thaw = threading.Event()
        frozen = asyncio.create_task(database.read(lambda _: thaw.wait(30)))
        await asyncio.sleep(0.01)
        submitted = await delivery.submit(_alert())
        await until(lambda: sink.accepted)
        thaw.set()
        await frozen

        async with asyncio.timeout(30):
            while (await outbox.counts(sink.name)).get("acked") != 1:
                await asyncio.sleep(0.02)
    assert {notice.alert_id for notice in sink.accepted} == {submitted.alert_id}


async def test_a_frozen_disk_at_the_start_delays_an_alert_by_little(database: Database) -> None:
    """What is looked for on the disk does not hold up what is in memory."""
    sink = FakeSink()
    thaw = threading.Event()
    frozen = asyncio.create_task(database.read(lambda _: thaw.wait(30)))
    await asyncio.sleep(0.01)
    async with Delivery(Outbox(database), [sink], settings=DeliverySettings(disk_timeout_seconds=0.1)) as delivery:
        await asyncio.sleep(0.01)
        await delivery.submit(_alert())
        await until(lambda: sink.accepted)
        thaw.set()
        await frozen


async def test_expired_alerts_are_kept_counted_and_red(database: Database) -> None:
    """An alert that nobody accepted in its time stays on disk, is not sent any more, and turns health red."""
    gone_by = [0.0]
    clock = Clock(lambda: time.monotonic() + gone_by[0], lambda: round((time.time() + gone_by[0]) * 1000))
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    async with Delivery(Outbox(database), [sink], settings=_QUICK, clock=clock) as delivery:
        await delivery.submit(_alert(expires_after_ms=30_000))
        await until(lambda: sink.tried)
        gone_by[0] += 31
        await until(delivery.problems)
        tried = len(sink.tried)
        await asyncio.sleep(0.4)

        assert delivery.problems() == ["1 alerts expired before fake accepted them: see that its receiver works"]
        assert await Outbox(database).counts("fake") == {"expired": 1}
        assert (len(sink.tried), delivery.expired_total) == (tried, 1)


async def test_what_expired_under_a_clock_that_stood_ahead_leaves_health_green(database: Database) -> None:
    """A run whose clock was a year ahead wrote times that are to come: the next one, set right, waits for none."""
    ahead = Clock(time.monotonic, lambda: time.time_ns() // 1_000_000 + 365 * 86_400_000)
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    async with Delivery(Outbox(database), [sink], settings=_QUICK, clock=ahead) as delivery:
        await delivery.submit(_alert())  # it was over a year ago, by that clock
        await until(delivery.problems)
    async with Delivery(Outbox(database), [FakeSink()], settings=_QUICK) as delivery:
        await asyncio.sleep(0.4)
        assert delivery.problems() == []
    assert await Outbox(database).counts("fake") == {"expired": 1}


async def test_drain_tells_how_many_stay_open(database: Database) -> None:
    """Draining tries once more at once, waits no longer than told, and returns what is left on disk."""
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    settings = DeliverySettings(backoff_first_seconds=60, backoff_limit_seconds=60)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        for stream in "ab":
            await delivery.submit(_alert(stream))
        await until(lambda: len(sink.tried) == 2)
        await asyncio.sleep(0.05)
        started_at = time.monotonic()
        assert await delivery.drain(0.3) == 2
        assert 0.25 < time.monotonic() - started_at < 20
        assert len(sink.tried) == 4

        sink.answer = lambda _: Receipt.ACCEPTED
        assert await delivery.drain(5) == 0


async def test_unavailable_sink_gets_everything_in_order_when_it_returns(database: Database) -> None:
    """While a sink gives no answer its streams wait; afterwards they come complete and in order."""

    def unavailable(_: Notice) -> Receipt:
        raise SinkUnavailable("gone")

    sink = FakeSink(answer=unavailable)
    async with Delivery(Outbox(database), [sink], settings=_QUICK) as delivery:
        for _ in range(5):
            await delivery.submit(_alert())
        await until(lambda: len(sink.tried) >= 2)
        sink.answer = lambda _: Receipt.ACCEPTED
        await until(lambda: len(sink.accepted) == 5)

    assert [n.order for n in sink.accepted] == [1, 2, 3, 4, 5]


# ---- with a real broker


@contextlib.asynccontextmanager
async def _heard(port: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Collect the alerts that arrive at a subscriber."""
    heard: list[dict[str, Any]] = []
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("stopframe/stream/+/alert", qos=1)

        async def collect() -> None:
            with contextlib.suppress(aiomqtt.MqttError):
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    heard.append(json.loads(message.payload))

        task = asyncio.create_task(collect())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _mqtt(port: int) -> MqttSink:
    settings = MqttSettings(
        host="127.0.0.1",
        port=port,
        node="n1",
        answer_timeout_seconds=1.0,
        reconnect_first_seconds=0.05,
        reconnect_limit_seconds=0.1,
    )
    return MqttSink(settings)


async def test_broker_that_comes_late_and_goes_again_loses_nothing(database: Database) -> None:
    """Alerts from before the broker was there, and from while it was gone, arrive: each exactly once."""
    async with EmbeddedBroker() as found:
        port = found.port
    sent: list[str] = []
    heard_ids: Counter[str] = Counter()
    async with _mqtt(port) as sink, Delivery(Outbox(database), [sink], settings=_QUICK) as delivery:
        for round_number in range(3):
            sent += [(await delivery.submit(_alert(f"S{n % 4}"))).alert_id for n in range(15)]
            # The listener connects before the sink may, so that nothing is published to nobody.
            held, sink._settings = sink._settings, MqttSettings(host="127.0.0.1", port=1, node="n1")
            async with EmbeddedBroker(port=port), _heard(port) as heard:
                sink._settings = held
                await until(functools.partial(_has, heard, 15))
                assert await delivery.drain(5) == 0
            heard_ids.update(alert["alert_id"] for alert in heard)
            assert len(sent) == 15 * (round_number + 1)

    assert heard_ids == Counter(sent)


_KILLED = """
import asyncio, os, sys, time
from detector.alerts.alert import AlertFacts, WallAnchor, build_alert, uuid7
from detector.alerts.delivery import Delivery
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.events import CutState, Step, StreamKey
from detector.store.database import Database
from detector.store.incidents import IncidentRecord
from detector.store.outbox import Outbox

async def main(path, port):
    async with Database.open(path) as db, MqttSink(MqttSettings(host="127.0.0.1", port=port, node="n1")) as sink:
        async with Delivery(Outbox(db), [sink]) as delivery:
            while True:
                anchor = WallAnchor(time.monotonic(), int(time.time() * 1000))
                alert_id = uuid7(anchor.wall_ms, os.urandom(10))
                facts = AlertFacts(stream_id="S", session="1", signals=(), votes=(1, 1), action=Step.CUT,
                                   is_live=True, config_digest="c", incident_id=alert_id)
                alert = build_alert(facts, alert_id=alert_id, anchor=anchor, queued_at=anchor.monotonic_seconds,
                                    expires_after_ms=60_000)
                incident = IncidentRecord(incident_id=alert_id, stream_id="S", session="1",
                                          key=StreamKey("main", "live", "k"), opened_at_ms=anchor.wall_ms,
                                          action=Step.CUT, is_live=True, signals="x", cut_state=CutState.PENDING)
                await delivery.submit(alert, incident)
                print(alert_id, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def _killed_after(path: Path, port: int, lines: int) -> list[str]:
    """Submit alerts in a process of their own, kill it with SIGKILL, and return the ids that it had submitted."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _KILLED, str(path), str(port)]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=environment, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        told += child.stdout.read().splitlines(keepends=True)
    return [line.strip() for line in told if len(line) == 37]  # a UUID and its end: neither logs nor half a line


async def test_kill_9_between_commit_and_publish_loses_nothing(tmp_path: Path) -> None:
    """Alerts that a killed process had on disk and not yet sent arrive after the restart, once each, in order."""
    async with EmbeddedBroker() as found:
        port = found.port
    told = await asyncio.to_thread(_killed_after, tmp_path / "s.db", port, 25)

    async with Database.open(tmp_path / "s.db") as database, EmbeddedBroker(port=port), _heard(port) as heard:
        async with _mqtt(port) as sink, Delivery(Outbox(database), [sink]) as delivery:
            await until(lambda: {alert["alert_id"] for alert in heard} >= set(told))
            assert await delivery.drain(5) == 0
        pending = await Incidents(database).pending_cuts()

    arrived = [alert["alert_id"] for alert in heard]
    assert arrived[: len(told)] == told
    assert len(set(arrived)) == len(arrived)
    assert [alert["seq"] for alert in heard] == list(range(1, len(heard) + 1))
    assert sorted(incident.incident_id for incident in pending) == sorted(arrived)
    assert all(alert["durable"] for alert in heard)


async def test_kill_9_amid_delivery_loses_nothing(tmp_path: Path) -> None:
    """Killed while alerts flow, what was submitted is heard before or after the restart; repeats keep their id."""
    async with EmbeddedBroker() as broker, _heard(broker.port) as heard:
        told = await asyncio.to_thread(_killed_after, tmp_path / "s.db", broker.port, 60)
        before = len(heard)
        async with (
            Database.open(tmp_path / "s.db") as database,
            _mqtt(broker.port) as sink,
            Delivery(Outbox(database), [sink]) as delivery,
        ):
            assert await delivery.drain(10) == 0
            await until(lambda: {alert["alert_id"] for alert in heard} >= set(told))

    repeats = len(heard) - len({alert["alert_id"] for alert in heard})
    assert before > 0
    assert repeats <= 1, "only the one alert whose acceptance was not yet on disk may come twice"


async def test_incident_is_there_before_its_alert_is_sent(database: Database) -> None:
    """When a sink first sees an alert, its incident can already be read from disk."""
    seen: list[list[IncidentRecord]] = []
    sink = FakeSink()

    async def deliver(notice: Notice) -> Receipt:
        seen.append(await Incidents(database).newest())
        return Receipt.ACCEPTED

    sink.deliver = deliver  # type: ignore[method-assign]
    incident = IncidentRecord(
        incident_id="i",
        stream_id="S",
        session="1",
        key=StreamKey("m", "live", "k"),
        opened_at_ms=1,
        action=Step.CUT,
        is_live=True,
        signals="x",
    )
    async with Delivery(Outbox(database), [sink]) as delivery:
        await delivery.submit(_alert(), incident)
        await until(lambda: seen)

    assert seen == [[incident]]
