"""The faults benchmark's own sums: it must see a loss, a double cut and a wrong order where there is one."""

import asyncio
import json

import httpx

from benchmarks.fake_ingest import FakeIngest
from benchmarks.faults import Book, Ledger, judge
from detector.alerts.mqtt_inbox import Received

ALERTS = [("a", 1, "S", False, "acked"), ("b", 2, "S", True, "acked"), ("c", 3, "T", True, "acked")]
ANSWERS = {"b": "cut", "c": "rejected"}
ARRIVALS: list[tuple[str, str, int | None]] = [("a", "S", 1), ("c", "T", 3), ("b", "S", 2)]


def test_a_clean_run_has_nothing_to_tell() -> None:
    """Streams may overtake each other; within one all is in order, and everything is answered."""
    verdict = judge(Ledger(ALERTS, ANSWERS), ARRIVALS)
    assert (verdict.alerts, verdict.cuts, verdict.most_copies) == (3, 2, 1)
    assert (verdict.lost_cuts, verdict.lost_others, verdict.gaps_in_numbers, verdict.out_of_order) == (0, 0, 0, 0)


def test_each_kind_of_loss_is_seen() -> None:
    """An unanswered cut, one that the service still waits for, a review nobody met, a number that is missing."""
    assert judge(Ledger(ALERTS, {"b": "cut", "c": "received"}), ARRIVALS).lost_cuts == 1
    assert judge(Ledger([*ALERTS[:2], ("c", 3, "T", True, "sent")], ANSWERS), ARRIVALS).lost_cuts == 1
    assert judge(Ledger(ALERTS, ANSWERS), ARRIVALS[1:]).lost_others == 1
    assert judge(Ledger([ALERTS[0], ALERTS[2]], ANSWERS), ARRIVALS).gaps_in_numbers == 1


def test_only_first_arrivals_tell_the_order() -> None:
    """An alert that comes again after a later one is a copy; one that comes late for the first time is out of order."""
    again = judge(Ledger(ALERTS, ANSWERS), [*ARRIVALS, ("a", "S", 1)])
    assert (again.out_of_order, again.copies, again.most_copies) == (0, 1, 2)
    assert judge(Ledger(ALERTS, ANSWERS), [("b", "S", 2), ("a", "S", 1)]).out_of_order == 1


def test_the_subscriber_writes_down_before_it_acknowledges() -> None:
    """What it met is in the book when the broker hears of it."""
    book, seen = Book(), []
    payload = json.dumps({"alert_id": "a", "stream": "S", "seq": None}).encode()
    book.take(Received("t", payload, 0.0, acknowledge=lambda: seen.append(len(book.arrivals))))
    assert (book.arrivals, seen) == ([("a", "S", None)], [1])


async def test_the_book_of_publishers_counts_each_drop_once() -> None:
    """A kick drops who is live and nobody twice; a server that only says so drops nobody."""
    async with FakeIngest() as ingest, httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingest.port}") as client:
        ingest.publish("live/a")
        ingest.publish("live/b")
        listed = (await client.get("/v3/paths/list")).json()["items"]
        assert [item["name"] for item in listed] == ["live/a", "live/b"]
        target = f"/v3/rtmpconns/kick/{listed[0]['source']['id']}"
        statuses = [(await client.post(target)).status_code for _ in range(2)]
        ingest.obeys = False
        await client.post(f"/v3/rtmpconns/kick/{listed[1]['source']['id']}")
    await asyncio.sleep(0)
    assert (statuses, dict(ingest.kicks), list(ingest.live)) == ([200, 404], {"live/a": 1, "live/b": 1}, ["live/b"])
