"""One session for every live publisher: begun, replaced and ended with it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from detector.events import Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable, PublisherChange, PublisherEnded, PublisherStarted
from detector.supervisor import Supervisor, Watched
from streams.job import SourceKind


class FakeIngest:
    name = "fake"

    def __init__(self) -> None:
        self.pending: asyncio.Queue[PublisherChange | Exception] = asyncio.Queue()

    async def changes(self) -> AsyncIterator[PublisherChange]:
        while True:
            change = await self.pending.get()
            if isinstance(change, Exception):
                raise change
            yield change

    def reader_source(self, key: StreamKey) -> tuple[SourceKind, str]:
        return SourceKind.HTTP_TS, f"http://127.0.0.1:1/{key.path}"


class FakeSession:
    numbers = itertools.count()

    def __init__(self, watched: Watched) -> None:
        self.stream_id = watched.key.name.upper()
        self.key = watched.key
        self.connection = watched.connection
        self.session = f"session-{next(self.numbers)}"
        self.is_running = False
        self.locate: Any = None
        self.fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        self.fault.set_result(None)

    async def run(self) -> None:
        self.is_running = True
        try:
            await self.fault
        finally:
            self.is_running = False


class Scene:
    def __init__(self, sources: tuple[Watched, ...] = ()) -> None:
        self.ingest = FakeIngest()
        self.opened: list[FakeSession] = []
        self.watched: dict[str, Watched] = {}
        self.ended: list[Any] = []
        self.supervisor = Supervisor(
            ingest=self.ingest,  # type: ignore[arg-type]
            sources=sources,
            open_session=self._open,  # type: ignore[arg-type]
            ended=self._ended,
        )

    def _open(self, watched: Watched) -> FakeSession:
        self.opened.append(FakeSession(watched))
        self.watched[self.opened[-1].stream_id] = watched
        return self.opened[-1]

    async def _ended(self, session: Any) -> None:
        self.ended.append(session)

    def start(self, name: str, connection: str = "1") -> None:
        self.ingest.pending.put_nowait(PublisherStarted(Publisher(key(name), connection, 0.0)))

    def end(self, name: str, connection: str = "1") -> None:
        self.ingest.pending.put_nowait(PublisherEnded(key(name), connection))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        await self.settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def key(name: str) -> StreamKey:
    return StreamKey("fake", "live", name)


async def test_a_publisher_has_a_session_for_as_long_as_it_is_live() -> None:
    """Started with it, gone with it, and the end is told once."""
    scene = Scene()
    async with scene.running():
        scene.start("a")
        scene.start("b")
        await scene.settle()
        assert set(scene.supervisor.sessions) == {"A", "B"}

        scene.end("a")
        await scene.settle()

        assert set(scene.supervisor.sessions) == {"B"}
        assert [session.stream_id for session in scene.ended] == ["A"]
        assert not scene.ended[0].is_running


async def test_the_end_of_an_old_connection_leaves_the_new_one_alone() -> None:
    """A publisher that came back before its first connection was buried keeps its session."""
    scene = Scene()
    async with scene.running():
        scene.start("a", "1")
        scene.start("a", "2")
        scene.end("a", "1")
        await scene.settle()

        assert scene.supervisor.sessions["A"].connection == "2"
        assert scene.opened[0] is scene.ended[0]
        assert len(scene.ended) == 1


async def test_the_same_publisher_told_twice_is_one_session() -> None:
    """A server that lists a publisher again starts nothing anew."""
    scene = Scene()
    async with scene.running():
        scene.start("a")
        scene.start("a")
        await scene.settle()

        assert len(scene.opened) == 1


async def test_an_ingest_server_that_fails_is_a_fault_until_it_answers_again() -> None:
    """Sessions live on while the server is away, and health can say why nothing new is attached."""
    scene = Scene()
    async with scene.running():
        scene.start("a")
        await scene.settle()
        scene.ingest.pending.put_nowait(IngestUnavailable("the ingest server does not answer: start it"))
        await scene.settle()

        assert scene.supervisor.ingest_fault == "the ingest server does not answer: start it"
        assert "A" in scene.supervisor.sessions

        scene.start("b")
        async with asyncio.timeout(30):
            while "B" not in scene.supervisor.sessions:
                await asyncio.sleep(0.02)
        assert scene.supervisor.ingest_fault is None


async def test_configured_sources_are_watched_from_the_start_to_the_end() -> None:
    """A stream watched by its URL needs no publisher to be told."""
    scene = Scene((Watched(StreamKey("source", "source", "lobby"), SourceKind.RTMP, "rtmp://127.0.0.1/x"),))

    async with scene.running():
        assert set(scene.supervisor.sessions) == {"LOBBY"}

    assert [session.stream_id for session in scene.ended] == ["LOBBY"]


async def test_sources_that_change_before_the_watch_begins_have_one_session_each() -> None:
    """A reload may come while the service starts: nothing is begun twice, and what is gone never begins."""
    lobby, yard = (
        Watched(StreamKey("source", "source", name), SourceKind.RTMP, "rtmp://127.0.0.1/x")
        for name in ("lobby", "yard")
    )
    scene = Scene((lobby,))
    scene.supervisor.watch_sources((yard,))

    async with scene.running():
        assert [session.stream_id for session in scene.opened] == ["YARD"]


def _source(name: str, place: str = "x") -> Watched:
    return Watched(StreamKey("source", "source", name), SourceKind.RTMP, f"rtmp://127.0.0.1/{place}")


async def test_changed_sources_wait_for_their_turn_and_the_others_for_nothing() -> None:
    """What is gone ends and what is new begins at once; who is read elsewhere is watched where it was until moved."""
    scene = Scene((_source("gone"), _source("moved"), _source("kept")))
    async with scene.running():
        gone, moved, kept = scene.opened
        scene.supervisor.watch_sources((_source("moved", "y"), _source("kept"), _source("new")))
        await scene.settle()
        assert set(scene.supervisor.sessions) == {"MOVED", "KEPT", "NEW"}
        assert (scene.ended, moved.is_running) == ([gone], True)
        assert [scene.supervisor.is_moved(one) for one in (gone, moved, kept)] == [False, True, False]  # type: ignore[arg-type]

        scene.supervisor.move(moved)  # type: ignore[arg-type]
        await scene.settle()
        assert scene.watched["MOVED"] == _source("moved", "y")
        assert (moved.is_running, scene.supervisor.sessions["MOVED"] is moved) == (False, False)
        assert not any(map(scene.supervisor.is_moved, scene.supervisor.sessions.values()))


async def test_sources_that_change_back_or_go_before_their_turn_are_not_moved() -> None:
    """A second reload is what counts: who is wanted where it is stays, who is not wanted any more ends at once."""
    scene = Scene((_source("a"), _source("b")))
    async with scene.running():
        a, b = scene.opened
        scene.supervisor.watch_sources((_source("a", "y"), _source("b", "y")))
        scene.supervisor.watch_sources((_source("a"),))
        await scene.settle()
        assert not scene.supervisor.is_moved(a)  # type: ignore[arg-type]
        assert (a.is_running, b.is_running, scene.opened) == (True, False, [a, b])


async def test_a_session_that_breaks_before_its_turn_begins_anew_where_the_source_is_now(
    expects_errors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours does not bring back a place that is no longer wanted."""
    monkeypatch.setattr("detector.supervisor._RETRY_SECONDS", 0.01)
    scene = Scene((_source("a"),))
    async with scene.running():
        scene.supervisor.watch_sources((_source("a", "y"),))
        scene.opened[0].fault.set_exception(ZeroDivisionError())
        async with asyncio.timeout(30):
            while len(scene.opened) < 2:
                await asyncio.sleep(0.01)
        assert scene.watched["A"] == _source("a", "y")


async def test_a_fault_in_one_session_leaves_the_stream_watched(expects_errors: None) -> None:
    """A session that breaks is counted, logged and begun anew; the others never notice."""
    scene = Scene()
    async with scene.running():
        scene.start("a")
        scene.start("b")
        await scene.settle()
        broken = scene.supervisor.sessions["A"]
        broken.fault.set_exception(ZeroDivisionError())  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while scene.supervisor.sessions.get("A") in (broken, None):
                await asyncio.sleep(0.02)

        assert scene.supervisor.failed_total == 1
        assert scene.supervisor.sessions["B"] is scene.opened[1]
        assert scene.ended == [broken]


async def test_a_publisher_that_cannot_be_watched_stops_nobody_elses_watch(expects_errors: None) -> None:
    """A name that an adapter cannot turn into a URL is a fault of its own; the next publisher is watched."""
    scene = Scene()
    usual = scene.ingest.reader_source

    def refuse(wanted: StreamKey) -> tuple[SourceKind, str]:
        if wanted.name == "odd":
            raise UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed")
        return usual(wanted)

    scene.ingest.reader_source = refuse  # type: ignore[method-assign]
    async with scene.running():
        scene.start("odd")
        scene.start("fine")
        await scene.settle()

        assert set(scene.supervisor.sessions) == {"FINE"}
        assert scene.supervisor.failed_total == 1
