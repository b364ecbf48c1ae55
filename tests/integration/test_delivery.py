"""Delivery: what was submitted reaches every sink, whatever breaks in between."""

import asyncio
import functools
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from detector.alerts.clock import Clock
from detector.alerts.courier import DeliverySettings
from detector.alerts.delivery import Delivery
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.events import Step, StreamKey
from detector.store.database import Database
from detector.store.incidents import IncidentRecord, Incidents
from detector.store.outbox import Outbox
from tests.fixtures_delivery import QUICK, FakeSink, some_alert
from tests.waiting import until

pytestmark = pytest.mark.integration


def _has(items: Sequence[object], count: int) -> bool:
    return len(items) >= count


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
    async with Delivery(Outbox(database), [sink], settings=QUICK) as delivery:
        await database.write(lambda c: c.execute("DROP TABLE deliveries").rowcount)
        submitted = await delivery.submit(some_alert())
        await until(lambda: sink.accepted)
        assert (submitted.is_durable, json.loads(sink.accepted[0].payload)["durable"]) == (False, False)
        assert delivery.problems()[0].startswith("alerts are sent from memory only: a fault of Stopframe")


async def test_hanging_sink_delays_no_other(database: Database) -> None:
    """Beside a sink that never answers, another gets every alert within milliseconds."""
    stuck, quick = FakeSink("stuck", hangs=True), FakeSink("quick")
    async with Delivery(Outbox(database), [stuck, quick], settings=QUICK) as delivery:
        delays = []
        for number in range(40):
            await delivery.submit(some_alert(f"S{number}"))
            submitted_at = time.monotonic()
            await until(functools.partial(_has, quick.accepted, number + 1))
            delays.append(time.monotonic() - submitted_at)

    assert (len(quick.accepted), stuck.accepted) == (40, [])
    assert sorted(delays)[10] < 0.05  # the others may have waited for a turn
    assert len(stuck.tried) <= QUICK.streams_at_once


async def test_cut_goes_first_and_every_stream_keeps_its_order(database: Database) -> None:
    """What waited for a sink goes out with the streams to be cut first, each stream in the order of submission."""
    sink = FakeSink()
    sink.ready.clear()
    settings = DeliverySettings(streams_at_once=1)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        await asyncio.sleep(0.05)
        for stream, action in [("a", Step.REVIEW), ("b", Step.REVIEW), ("a", Step.REVIEW), ("b", Step.CUT)]:
            await delivery.submit(some_alert(stream, action=action))
        sink.ready.set()
        await until(lambda: len(sink.accepted) == 4)

    assert [(n.stream_id, int(n.order)) for n in sink.accepted] == [("b", 2), ("b", 4), ("a", 1), ("a", 3)]


async def test_far_more_than_memory_holds_arrives_once_and_in_order(database: Database) -> None:
    """Alerts beyond the memory window wait on disk; all arrive, none twice, each stream in order."""
    sink = FakeSink()
    sink.ready.clear()
    settings = DeliverySettings(window_alerts=8, streams_at_once=4)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        await asyncio.gather(*(delivery.submit(some_alert(f"S{n % 7}")) for n in range(100)))
        sink.ready.set()
        more = [await delivery.submit(some_alert(f"S{n % 7}")) for n in range(20)]
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
    async with Delivery(Outbox(database), [sink], settings=QUICK, jitter=lambda: 0.0) as delivery:
        await delivery.submit(some_alert())
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
        await delivery.submit(some_alert())
        await until(lambda: sink.tried)
        await asyncio.sleep(0.05)
        sink.answer = lambda _: Receipt.ACCEPTED
        await delivery.submit(some_alert(action=Step.CUT))
        await until(lambda: len(sink.accepted) == 2)

    assert [n.order for n in sink.accepted] == [1, 2]


async def test_faulty_sink_keeps_its_alerts(database: Database) -> None:
    """A sink that raises anything at all gets its alerts again, and other sinks never notice."""

    def fail(_: Notice) -> Receipt:
        raise ZeroDivisionError

    faulty, sound = FakeSink("faulty", answer=fail), FakeSink("sound")
    async with Delivery(Outbox(database), [faulty, sound], settings=QUICK) as delivery:
        await delivery.submit(some_alert())
        await until(lambda: len(faulty.tried) >= 2 and sound.accepted)
        faulty.answer = lambda _: Receipt.ACCEPTED
        await until(lambda: faulty.accepted)


async def test_restart_sends_what_is_open_and_never_what_was_accepted(tmp_path: Path) -> None:
    """A new run delivers the alerts that the last one left, under the same ids, and none that was accepted."""
    path = tmp_path / "s.db"
    first, second = FakeSink(), FakeSink()
    async with Database.open(path) as database, Delivery(Outbox(database), [first]) as delivery:
        done = [await delivery.submit(some_alert(f"S{n}")) for n in range(3)]
        await until(lambda: len(first.accepted) == 3)
        await delivery.drain(2)
        first.hangs = True
        left = [await delivery.submit(some_alert(f"S{n}")) for n in range(3)]
    async with Database.open(path) as database, Delivery(Outbox(database), [second]) as delivery:
        await until(lambda: len(second.accepted) == 3)
        assert await delivery.drain(2) == 0
        fresh = await delivery.submit(some_alert())

    assert sorted(second.ids()[:3]) == sorted(s.alert_id for s in left)
    assert not {s.alert_id for s in done} & set(second.ids())
    assert [s.seq for s in (*done, *left, fresh)] == list(range(1, 8))


async def test_full_disk_sends_from_memory_and_says_so(database: Database) -> None:
    """Where the disk refuses the row the alert goes out at once, `durable: false`; health is red until it recovers."""
    sink = FakeSink()
    async with Delivery(Outbox(database), [sink], settings=QUICK) as delivery:
        await _fill_disk(database)
        sent = [await delivery.submit(some_alert(f"S{n}", action=Step.CUT)) for n in range(40)]
        await until(lambda: len(sink.accepted) == 40)
        refused = [s for s in sent if not s.is_durable]
        assert refused
        assert ["the disk is full" in problem for problem in delivery.problems()] == [True]

        await database.read(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
        await until(lambda: not delivery.problems())
        assert (await delivery.submit(some_alert())).is_durable

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
        submitted = await delivery.submit(some_alert())
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
        submitted = await delivery.submit(some_alert())
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
        await delivery.submit(some_alert())
        await until(lambda: sink.accepted)
        thaw.set()
        await frozen


async def test_expired_alerts_are_kept_counted_and_red(database: Database) -> None:
    """An alert that nobody accepted in its time stays on disk, is not sent any more, and turns health red."""
    gone_by = [0.0]
    clock = Clock(lambda: time.monotonic() + gone_by[0], lambda: round((time.time() + gone_by[0]) * 1000))
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    async with Delivery(Outbox(database), [sink], settings=QUICK, clock=clock) as delivery:
        await delivery.submit(some_alert(expires_after_ms=30_000))
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
    async with Delivery(Outbox(database), [sink], settings=QUICK, clock=ahead) as delivery:
        await delivery.submit(some_alert())  # it was over a year ago, by that clock
        await until(delivery.problems)
    async with Delivery(Outbox(database), [FakeSink()], settings=QUICK) as delivery:
        await asyncio.sleep(0.4)
        assert delivery.problems() == []
    assert await Outbox(database).counts("fake") == {"expired": 1}


async def test_drain_tells_how_many_stay_open(database: Database) -> None:
    """Draining tries once more at once, waits no longer than told, and returns what is left on disk."""
    sink = FakeSink(answer=lambda _: Receipt.NOBODY_LISTENS)
    settings = DeliverySettings(backoff_first_seconds=60, backoff_limit_seconds=60)
    async with Delivery(Outbox(database), [sink], settings=settings) as delivery:
        for stream in "ab":
            await delivery.submit(some_alert(stream))
        await until(lambda: len(sink.tried) == 2)
        await asyncio.sleep(0.05)
        started_at = time.monotonic()
        assert await delivery.drain(0.3) == 2
        assert 0.25 < time.monotonic() - started_at < 20
        await until(lambda: len(sink.tried) == 4)

        sink.answer = lambda _: Receipt.ACCEPTED
        assert await delivery.drain(5) == 0


async def test_unavailable_sink_gets_everything_in_order_when_it_returns(database: Database) -> None:
    """While a sink gives no answer its streams wait; afterwards they come complete and in order."""

    def unavailable(_: Notice) -> Receipt:
        raise SinkUnavailable("gone")

    sink = FakeSink(answer=unavailable)
    async with Delivery(Outbox(database), [sink], settings=QUICK) as delivery:
        for _ in range(5):
            await delivery.submit(some_alert())
        await until(lambda: len(sink.tried) >= 2)
        sink.answer = lambda _: Receipt.ACCEPTED
        await until(lambda: len(sink.accepted) == 5)

    assert [n.order for n in sink.accepted] == [1, 2, 3, 4, 5]


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
        await delivery.submit(some_alert(), incident)
        await until(lambda: seen)

    assert seen == [[incident]]
