"""Following a server by asking it: nothing is missed, nothing stale is told, and it is not asked too often."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from detector.events import Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange, PublisherEnded, PublisherStarted
from detector.ingest.polling import PublisherPoll
from tests.slack import SLACK_SECONDS
from tests.waiting import until


@dataclass
class Server:
    """Answers with `live`; an Exception in its place is raised; `gates` hold single answers back, by their number."""

    live: list[str] | Exception = field(default_factory=list)
    gates: dict[int, asyncio.Event] = field(default_factory=dict)
    asked: int = 0

    async def ask(self) -> list[Publisher]:
        self.asked += 1
        answer = self.live
        if self.asked in self.gates:
            await self.gates[self.asked].wait()
        if isinstance(answer, Exception):
            raise answer
        now = asyncio.get_running_loop().time()
        return [Publisher(StreamKey("edge", "live", name), name, since_at=now) for name in answer]


async def test_changes_follow_the_list_through_an_outage() -> None:
    """While the server is away its last list stands; what changed meanwhile is told afterwards, each end once."""
    server = Server(["a", "b"])
    async with PublisherPoll("edge", server.ask, interval_seconds=0.02) as poll:
        changes = poll.changes()
        assert {(await anext(changes)).publisher.connection for _ in range(2)} == {"a", "b"}  # type: ignore[union-attr]
        server.live = IngestUnavailable("it is away")
        await until(lambda: poll.fault == "it is away")
        server.live = ["b", "c"]
        told = [await anext(changes), await anext(changes)]
        assert [type(change) for change in told] == [PublisherEnded, PublisherStarted]
        assert (poll.fault, poll.failures_total > 0) == (None, True)


async def test_an_overtaken_answer_changes_nothing() -> None:
    """An answer that arrives after a later one is returned to who asked, but nobody else is told of the past."""
    server = Server(["old"])
    async with PublisherPoll("edge", server.ask, interval_seconds=60) as poll:
        await until(lambda: server.asked == 1)
        server.gates[2] = asyncio.Event()
        slow = asyncio.create_task(poll.now(), name="slow")
        await until(lambda: server.asked == 2)
        server.live = ["new"]
        assert [p.connection for p in await poll.now()] == ["new"]
        server.gates[2].set()
        assert [p.connection for p in await slow] == ["old"]
        started = await anext(poll.changes())
        assert isinstance(started, PublisherStarted)
        assert started.publisher.connection == "new"


async def test_since_when_somebody_is_live_does_not_move() -> None:
    """However often the list is read, a publisher is live since it was first seen."""
    server = Server(["a"])
    async with PublisherPoll("edge", server.ask, interval_seconds=60) as poll:
        first = await poll.now()
        await asyncio.sleep(0.01)
        assert await poll.now() == first


async def test_a_flood_of_hurry_is_no_flood_of_questions() -> None:
    """A thousand hooks within a second are some dozen questions, and a lull is followed by silence."""
    server = Server()
    async with PublisherPoll("edge", server.ask, interval_seconds=60) as poll:
        begun = time.monotonic()
        for _ in range(500):
            poll.hurry(0.2)
            await asyncio.sleep(0.001)
        assert 3 <= server.asked <= 2 + (time.monotonic() - begun) / 0.02
        settled = -1
        async with asyncio.timeout(1 + SLACK_SECONDS):
            while settled != server.asked:
                settled = server.asked
                for _ in range(30):  # turns of the loop, and with them time
                    await asyncio.sleep(0.01)


async def test_a_question_that_fails_for_the_asker_is_the_askers() -> None:
    """Who asks directly gets the error; those who follow hear nothing of it."""
    server = Server(IngestUnavailable("away"))
    async with PublisherPoll("edge", server.ask, interval_seconds=60) as poll:
        with pytest.raises(IngestUnavailable, match="away"):
            await poll.now()
        waiting = asyncio.create_task(anext(poll.changes(), None), name="changes")
        await asyncio.sleep(0.05)
        assert not waiting.done()
    assert await waiting is None


async def test_a_connection_that_publishes_something_else_is_somebody_new() -> None:
    """Who ends one stream and begins another on one connection, between two questions, is told; so are two at once."""
    server = Server(["clean"])
    async with PublisherPoll("edge", lambda: _on_one_connection(server), interval_seconds=60) as poll:
        changes = poll.changes()
        assert _name(await anext(changes)) == ("started", "clean")
        server.live = ["other"]
        assert [publisher.key.name for publisher in await poll.now()] == ["other"]
        assert [_name(await anext(changes)) for _ in range(2)] == [("ended", "clean"), ("started", "other")]
        server.live = ["other", "second"]
        await poll.now()
        assert _name(await anext(changes)) == ("started", "second")


async def test_a_list_that_nobody_can_read_is_not_the_last_one() -> None:
    """Whatever an answer makes an adapter raise: it is said without its text, and the server is asked again."""
    server = Server(OverflowError("rtmp://secret"))
    async with PublisherPoll("edge", server.ask, interval_seconds=0.02) as poll:
        await until(lambda: poll.fault is not None)
        assert "OverflowError" in str(poll.fault)
        assert "secret" not in str(poll.fault)
        server.live = ["a"]
        await until(lambda: poll.fault is None)


async def _on_one_connection(server: Server) -> list[Publisher]:
    return [Publisher(publisher.key, "one", since_at=publisher.since_at) for publisher in await server.ask()]


def _name(change: PublisherChange) -> tuple[str, str]:
    if isinstance(change, PublisherStarted):
        return "started", change.publisher.key.name
    return "ended", change.key.name
