"""An alert storm must not hide the one that counts, and no dead receiver may hold up another."""

import asyncio
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from detector.alerts.courier import DeliverySettings
from detector.alerts.delivery import Delivery
from detector.alerts.jsonl import JsonlSettings, JsonlSink
from detector.alerts.sink import Notice, Receipt
from detector.alerts.urgency import Urgency
from detector.alerts.webhook import WebhookSettings, WebhookSink
from detector.store.database import Database
from detector.store.outbox import Outbox, OutboxRow
from tests.fixtures_delivery import FakeSink
from tests.fixtures_endpoint import SECRET, Endpoint
from tests.hostile.test_clock import SomeAlert
from tests.waiting import until

_STREAMS = 50


def _alert(number: int, stream: str, urgency: int) -> SomeAlert:
    return SomeAlert(f"a{number}", stream, round(time.time() * 1000) + 600_000, urgency=urgency)


async def test_a_cut_overtakes_a_thousand_reviews_that_wait(tmp_path: Path) -> None:
    """Fifty streams flap while the receiver is away: when it returns, cuts come first, and each stream in its order."""
    sink = FakeSink()
    sink.ready.clear()
    settings = DeliverySettings(window_alerts=64, streams_at_once=4)
    async with (
        Database.open(tmp_path / "s.db") as database,
        Delivery(Outbox(database), [sink], settings=settings) as all_,
    ):
        for number in range(1000):
            await all_.submit(_alert(number, f"flap{number % _STREAMS}", Urgency.REVIEW))
        for number in range(1000, 1010):
            await all_.submit(_alert(number, f"bad{number}", Urgency.CUT))
        await all_.submit(_alert(2000, "refused", Urgency.REFUSED_CUT))
        await all_.submit(_alert(2001, "shadow", Urgency.SHADOW))
        sink.ready.set()
        async with asyncio.timeout(30):
            while await all_.open_count():
                await asyncio.sleep(0.02)

    ids = sink.ids()
    places = {alert_id: place for place, alert_id in enumerate(ids)}
    # Four streams' passes may be under way when it returns: what they hold goes first.
    assert max(places[f"a{number}"] for number in range(1000, 1010)) < 10 + 4 * 1000 // _STREAMS
    assert places["a2000"] < 11 + 4 * 1000 // _STREAMS
    assert places["a2001"] > 900
    by_stream = defaultdict(list)
    for notice in sink.accepted:
        by_stream[notice.stream_id].append(notice.order)
    assert all(orders == sorted(orders) for orders in by_stream.values())
    assert len(ids) == len(set(ids)) == 1012


async def test_a_receiver_that_hangs_delays_no_other(tmp_path: Path) -> None:
    """With an endpoint that never answers, every alert is in the file at once; for the endpoint all stay open."""
    async with Endpoint(pause=60.0) as endpoint, Database.open(tmp_path / "s.db") as database:
        file = JsonlSink(JsonlSettings(path=tmp_path / "alerts.jsonl"))
        hook = WebhookSink(WebhookSettings(url=endpoint.url, secret=lambda: SECRET, timeout_seconds=1.0))
        async with file, hook, Delivery(Outbox(database), [file, hook]) as all_:
            begun_at = time.monotonic()
            for number in range(40):
                await all_.submit(_alert(number, f"s{number % 5}", Urgency.CUT))
            async with asyncio.timeout(60):
                while all_.counters()["jsonl"].accepted_total < 40:
                    await asyncio.sleep(0.01)
            assert time.monotonic() - begun_at < 20, "each of forty would have waited a second"
            assert all_.counters()["webhook"].accepted_total == 0
            async with asyncio.timeout(30):
                while not all_.problems():
                    await asyncio.sleep(0.01)
            assert await all_.open_count() == 40
    lines = (tmp_path / "alerts.jsonl").read_bytes().splitlines()
    assert len(set(lines)) == len(lines) == 40


async def test_nothing_overtakes_an_alert_that_nobody_heard(tmp_path: Path) -> None:
    """A subscriber that comes in between two alerts of a stream gets the first one first."""
    asked = 0

    def answer(notice: Notice) -> Receipt:
        nonlocal asked
        asked += 1
        return Receipt.NOBODY_LISTENS if asked == 1 else Receipt.ACCEPTED

    sink = FakeSink(answer=answer)
    sink.ready.clear()
    quick = DeliverySettings(backoff_first_seconds=0.05)
    async with Database.open(tmp_path / "s.db") as database, Delivery(Outbox(database), [sink], settings=quick) as all_:
        for number in (1, 2):
            await all_.submit(_alert(number, "S", Urgency.REVIEW))
        sink.ready.set()
        async with asyncio.timeout(30):
            while await all_.open_count():
                await asyncio.sleep(0.01)
    assert sink.ids() == ["a1", "a2"]


@pytest.mark.parametrize("is_full", [False, True])
async def test_whoever_acts_ends_a_delivery_also_on_a_full_disk(tmp_path: Path, *, is_full: bool) -> None:
    """What is settled is never sent again; where the disk refuses to note it, it is noted later."""
    sink = FakeSink(answer=lambda _: Receipt.AWAITED)
    quick = DeliverySettings(backoff_first_seconds=0.05)
    async with Database.open(tmp_path / "s.db") as database, Delivery(Outbox(database), [sink], settings=quick) as all_:
        await all_.submit(_alert(1, "S", Urgency.CUT))
        async with asyncio.timeout(30):
            while not sink.tried:
                await asyncio.sleep(0.01)
        pages = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        if is_full:
            await database.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        await all_.settle("a1", ["fake"])
        tried = len(sink.tried)
        await asyncio.sleep(0.3)
        assert len(sink.tried) == tried
        assert (await Outbox(database).counts("fake"))["acked"] == 1
        assert all_.counters()["fake"].accepted_total == 1


@pytest.mark.parametrize("was_refused_before", [False, True])
async def test_what_ends_while_the_disk_says_what_is_open_is_not_sent_again(
    tmp_path: Path, *, was_refused_before: bool
) -> None:
    """What the disk says was true when it was asked; by then somebody has acted, or that was made up for."""
    sink = FakeSink(answer=lambda _: Receipt.AWAITED)
    async with Database.open(tmp_path / "s.db") as database:
        outbox = Outbox(database)
        due, has_answered, may_go_on = outbox.due, asyncio.Event(), asyncio.Event()

        async def slowly(*asked: Any, **more: Any) -> list[OutboxRow]:
            rows = await due(*asked, **more)
            if rows:
                has_answered.set()
                await may_go_on.wait()
            return rows

        outbox.due = slowly  # type: ignore[method-assign]
        async with Delivery(outbox, [sink], settings=DeliverySettings(backoff_first_seconds=0.05)) as all_:
            for number in (1, 2):
                await all_.submit(_alert(number, f"S{number}", Urgency.CUT))
            await asyncio.wait_for(has_answered.wait(), 30)
            if was_refused_before:
                all_._couriers["fake"]._unmarked["a1"] = None
                await all_._couriers["fake"].tidy()
            else:
                await all_.settle("a1", ["fake"])
            may_go_on.set()
            await until(lambda: len(sink.tried) > 3)
    assert "a1" not in {notice.alert_id for notice in sink.tried}
