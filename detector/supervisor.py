"""All streams: one session for every live publisher and every configured source, each in a task of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from detector.events import Publisher, StreamKey
from detector.ingest.adapter import (
    IngestServer,
    IngestUnavailable,
    PublisherChange,
    PublisherEnded,
    PublisherStarted,
)
from detector.session import StreamSession
from streams.job import SourceKind

log = structlog.get_logger()

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A stream to watch: what it is, where its bytes come from, and which connection publishes it."""

    key: StreamKey
    kind: SourceKind
    url: str = field(repr=False)
    connection: str = ""


class Supervisor:
    """Starts and ends sessions. `sessions` maps stream id to the live session.

    A session whose publisher has left judges what had come and ends by itself, within seconds; until then `leaving`
    holds it by its session's name.
    """

    def __init__(
        self,
        *,
        ingest: IngestServer,
        sources: Iterable[Watched],
        open_session: Callable[[Watched], StreamSession],
        ended: Callable[[StreamSession], Awaitable[None]],
    ) -> None:
        self._ingest = ingest
        self._sources = {source.key: source for source in sources}
        self._open_session = open_session
        self._ended = ended
        self._takes_more = True
        self._is_running = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watched: dict[str, Watched] = {}
        self.sessions: dict[str, StreamSession] = {}
        self.leaving: dict[str, StreamSession] = {}
        self.ingest_fault: str | None = None
        self.failed_total = 0

    async def run(self) -> None:
        """Watch until cancelled; every session ends with it."""
        self._is_running = True
        try:
            for source in self._sources.values():
                self._begin(source)
            while True:
                await self._follow_publishers()
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            for session in [*self.sessions.values(), *self.leaving.values()]:
                await self._forget(session)

    def problems(self) -> list[str]:
        """Why publishers are not followed."""
        return [] if self.ingest_fault is None else [self.ingest_fault]

    def notes(self) -> list[str]:
        """How many sessions broke."""
        if not self.failed_total:
            return []
        return [f"{self.failed_total} sessions broke by a fault of stopframe's; report what its log says"]

    async def _follow_publishers(self) -> None:
        try:
            async for change in self._ingest.changes():
                self.ingest_fault = None
                self._follow(change)
        except IngestUnavailable as error:
            if self.ingest_fault is None:
                log.warning("ingest.unavailable", why=str(error))
            self.ingest_fault = str(error)

    def _follow(self, change: PublisherChange) -> None:
        try:
            match change:
                case PublisherStarted(publisher):
                    self._publisher_started(publisher)
                case PublisherEnded(key, connection):
                    self._publisher_ended(key, connection)
        except Exception as error:  # noqa: BLE001 - one publisher whose name an adapter cannot bear must not end the
            # watch over all others; the error's text could hold that name, which is a key.
            self.failed_total += 1
            log.error("session.not_begun", why=type(error).__name__)  # noqa: TRY400 - a traceback ends with that text

    def _publisher_started(self, publisher: Publisher) -> None:
        if not self._takes_more:
            return
        kind, url = self._ingest.reader_source(publisher.key)
        old = self._find(publisher.key)
        if old is not None:
            if old.connection == publisher.connection:
                return
            self._leave(old)
        self._begin(Watched(publisher.key, kind, url, publisher.connection))

    def _publisher_ended(self, key: StreamKey, connection: str) -> None:
        session = self._find(key)
        if session is not None and session.connection == connection:
            self._leave(session)

    def take_no_more(self) -> None:
        """Begin no session any more; those that there are go on."""
        self._takes_more = False

    def watch_sources(self, sources: Iterable[Watched]) -> None:
        """Watch these sources from now on: those that are gone end, new ones begin, both at once; the others go on.

        One that is read from another place now goes on where it was until `move`, so that not all are blind together.
        """
        before, self._sources = self._sources, {source.key: source for source in sources}
        if not self._is_running:  # `run` begins them all
            return
        for key in before.keys() - self._sources.keys():
            if (session := self._find(key)) is not None:
                self._leave(session)
        for key, source in self._sources.items():
            if key not in before and self._takes_more:
                self._begin(source)

    def is_moved(self, session: StreamSession) -> bool:
        """Whether it watches a source where that is no longer read."""
        watched = self._watched.get(session.session)
        return watched is not None and self._takes_more and self._as_wanted(watched) != watched

    def move(self, session: StreamSession) -> StreamSession:
        """End one that `is_moved` and begin another where its source is read now; returns that one."""
        wanted = self._as_wanted(self._watched[session.session])
        self._leave(session)
        return self._begin(wanted)

    def _as_wanted(self, watched: Watched) -> Watched:
        """The same stream, as the sources in force say; a publisher's is no source."""
        return self._sources.get(watched.key, watched)

    def _find(self, key: StreamKey) -> StreamSession | None:
        return next((session for session in self.sessions.values() if session.key == key), None)

    def _begin(self, watched: Watched) -> StreamSession:
        session = self._open_session(watched)
        if watched.connection:
            session.locate = lambda: self._ingest.reader_source(watched.key)
        self.sessions[session.stream_id] = session
        task = asyncio.create_task(self._keep(session, watched), name=f"session[{session.stream_id}]")
        self._tasks[session.session] = task
        self._watched[session.session] = watched
        return session

    async def _keep(self, session: StreamSession, watched: Watched) -> None:
        try:
            await session.run()
        except Exception:
            # A fault of ours in one stream must neither end the others nor leave this one unwatched.
            self.failed_total += 1
            log.exception("session.failed", stream=session.stream_id)
            await asyncio.sleep(_RETRY_SECONDS)
        has_left = session.session in self.leaving
        await self._forget(session)
        if not has_left:
            self._begin(self._as_wanted(watched))

    def _leave(self, session: StreamSession) -> None:
        """Let a session end by itself: whoever publishes next is not kept waiting."""
        del self.sessions[session.stream_id]
        self._watched.pop(session.session, None)
        self.leaving[session.session] = session
        session.leave()

    async def _forget(self, session: StreamSession) -> None:
        """Drop what is known of a session; done here and not by its task, which may never have begun to run."""
        self.leaving.pop(session.session, None)
        self._watched.pop(session.session, None)
        if self.sessions.get(session.stream_id) is session:
            del self.sessions[session.stream_id]
        if self._tasks.pop(session.session, None) is not None:
            await self._ended(session)
