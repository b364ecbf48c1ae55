"""Every watched stream's session: made with what the config in force says of it, kept to that, and taken leave of."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from detector.accounts import Accounts, coverage_words
from detector.banks.incident import IncidentBank
from detector.blindness import Records
from detector.config.config import Config
from detector.cpu.control import CpuControl
from detector.credentials import stream_id
from detector.events import Decision
from detector.open_incidents import StreamFacts
from detector.overrides import SamplingOverrides
from detector.overview import unseen_streams
from detector.parts import Parts
from detector.renewal import Renewal
from detector.second_opinion import SecondOpinion
from detector.session import SessionParts, StreamSession
from detector.session_settings import SessionSettings
from detector.settings import cpu_limits, session_settings, watched_sources
from detector.store.coverage import CoverageStore
from detector.supervisor import Supervisor, Watched
from detector.works import Work


@dataclass(frozen=True, slots=True)
class Hearers:
    """Who hears what of streams: `respond` each decision on one, `ended` first of all that a session is over."""

    respond: Callable[[StreamSession, Decision], Awaitable[None]]
    ended: Callable[[str], None]
    incident_bank: IncidentBank
    second: SecondOpinion


class LiveStreams:
    """The sessions of all streams; `config` is the one in force.

    Whoever was told that a stream begins hears that it is over, once and after its last judgement; then its account is
    told for the last time.
    """

    def __init__(self, parts: Parts, config: Callable[[], Config], hearers: Hearers) -> None:
        self._parts = parts
        self._config = config
        self._hearers = hearers
        self._identities = parts.identities
        self._blind_records = Records()
        self.accounts = Accounts(parts.sink, parts.metrics, CoverageStore(parts.database))
        self.supervisor = Supervisor(
            ingest=parts.ingest, sources=watched_sources(config()), open_session=self._open, ended=self._ended
        )
        self.cpu = CpuControl(self.supervisor.sessions.values, lambda: cpu_limits(config()), parts.metrics)
        self._renewal = Renewal(self.all, self._wanted, self.supervisor)
        self.overrides = SamplingOverrides(self._renewal.begin)

    def works(self) -> tuple[Work, ...]:
        """What runs for as long as the service does."""
        return (
            Work("supervisor", self.supervisor.run),
            Work("coverage", self._keep_accounts),
            Work("readers", self._renewal.run),
            Work("overrides", self.overrides.run),
            Work("cpu", self.cpu.run),
        )

    def all(self) -> Iterator[StreamSession]:
        """Those that are live and those that still judge what had come."""
        return iter([*self.supervisor.sessions.values(), *self.supervisor.leaving.values()])

    def find(self, session: str) -> StreamSession | None:
        """The session of that name, live or leaving."""
        return next((one for one in self.all() if one.session == session), None)

    def facts(self, session: StreamSession) -> StreamFacts:
        """What an alert says of the stream."""
        return StreamFacts(
            stream_id=session.stream_id,
            session=session.session,
            key=session.key,
            connection=session.connection,
            coverage=coverage_words(session),
            last_packet_at=lambda: session.last_packet_at,
            account=self._identities.account_of(session.session),
        )

    def facts_of(self, stream: str) -> StreamFacts | None:
        """The same of a live stream by its id; None where it is gone."""
        session = self.supervisor.sessions.get(stream)
        return None if session is None else self.facts(session)

    def shortfalls(self) -> Iterator[tuple[int, str]]:
        """What live streams go short of, and how many of them: nobody sees them, or CPU time is not enough."""
        yield from unseen_streams(self.supervisor.sessions.values(), time.monotonic())
        yield from self.cpu.shortages()

    def in_use(self) -> list[str]:
        """Sessions whose account is still written to."""
        return [*(session.session for session in self.supervisor.sessions.values()), *self.accounts.unstored()]

    async def reconfigure(self) -> None:
        """Go by the config in force: at once, but for readers whose job or place is another, which follow in turn."""
        running = list(self.all())
        self.supervisor.watch_sources(watched_sources(self._config()))
        await asyncio.gather(*(session.reconfigure(self._wanted_at_once(session)) for session in running))
        self._renewal.begin()

    def _open(self, watched: Watched) -> StreamSession:
        parts, hearers = self._parts, self._hearers
        name = stream_id(parts.credentials.deployment, watched.key)
        session = StreamSession(
            name,
            watched.key,
            self._settings(name, watched),
            SessionParts(
                parts.nursery,
                parts.pool,
                parts.metrics,
                hearers.respond,
                gate=self.cpu.admission,
                incidents=hearers.incident_bank,
                judged=hearers.second.beside(parts.hold.begin(watched.key, watched.connection)),
            ),
            connection=watched.connection,
            record=self._blind_records.of(name),
        )
        session.judge.lender = self._identities.opened(session.session, watched.key)
        return session

    def _settings(self, name: str, watched: Watched) -> SessionSettings:
        """What the config says of a stream, what is rehearsed on it, and what was asked for it meanwhile."""
        settings = session_settings(self._config(), watched.key.path, watched.kind, watched.url, self._parts.manifests)
        return self.overrides.apply(name, self._parts.rehearsal.session(settings))

    def _wanted(self, session: StreamSession) -> SessionSettings:
        job = session.settings.job
        return self._settings(session.stream_id, Watched(session.key, job.kind, job.url))

    def _wanted_at_once(self, session: StreamSession) -> SessionSettings:
        """What is wanted, but for the part of the reader's job that takes another reader."""
        wanted = self._wanted(session)
        return replace(wanted, job=replace(session.settings.job, sampling=wanted.job.sampling))

    async def _ended(self, session: StreamSession) -> None:
        hearers = self._hearers
        hearers.ended(session.session)
        self._identities.ended(session.session, *session.judge.votes)
        self._parts.hold.end(session.key, session.connection)
        hearers.second.ended(session.session)
        if session.trail is not None:
            hearers.incident_bank.left(session.trail, session.session)
        is_back = session.stream_id in self.supervisor.sessions
        self.accounts.close(session, is_back=is_back)  # waits for nothing: the next stream waits for this one's end

    async def _keep_accounts(self) -> None:
        await self.accounts.keep_telling(
            self.supervisor.sessions.values, lambda: self._config().alerts.coverage_every.seconds
        )
