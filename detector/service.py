"""The whole service: its parts in the order in which they start, and the view of it that HTTP and the socket show."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from detector.accounts import Accounts, coverage_words
from detector.alerts.delivery import Delivery
from detector.alerts.embedded_broker import BrokerUnavailable
from detector.alerts.mqtt import MqttSink
from detector.alerts.setup import start_mqtt
from detector.alerts.sink import Notice, Receipt
from detector.analysis.pool import AnalysisPool
from detector.analysis.setup import BANKS_FOLDER, ModelRefused, load_manifests, pool_settings
from detector.api.app import create_app
from detector.api.control import SOCKET_NAME, create_control_app
from detector.api.server import HttpServer, ListenFailed, UnixServer, exclusive
from detector.api.view import (
    CutReport,
    Health,
    IncidentRow,
    NoSuchIncident,
    NoSuchStream,
    StreamRow,
    UndoReport,
    ViewError,
    pick,
)
from detector.bank_watch import BankWatch
from detector.breaker import Breaker, BreakerSettings
from detector.config.config import Config
from detector.config.loading import config_digest
from detector.credentials import Credentials, CredentialsError, load_or_create, stream_id
from detector.enforcement import Enforcer, EnforcerSettings
from detector.events import StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable
from detector.ingest.embedded import EmbeddedIngest
from detector.ingest.hooks import AnswersHooks
from detector.ingest.registry import ingest_kind
from detector.ingest.revocations import FileRevocations, Revocations, RevocationStoreError
from detector.metrics import AlertState, CrashKind, Metrics
from detector.overview import incident_row, sandbox_state, stream_row, unseen_streams, versions
from detector.response import Responder, ResponseSettings, StreamFacts
from detector.session import SessionParts, SessionSettings, StreamSession
from detector.settings import policy_settings, reader_job
from detector.store.coverage import CoverageStore
from detector.store.database import Database, StoreUnavailable
from detector.store.incidents import IncidentNotFound, Incidents
from detector.store.outbox import Outbox
from detector.supervisor import Supervisor, Watched
from models.manifest import Manifest, describe_moderation
from streams.nursery import Nursery, NurseryBroken

log = structlog.get_logger()

_HEALTH_SECONDS = 1.0
_DRAIN_SECONDS = 3.0


class ServiceRefused(Exception):
    """Raised by `open_service`: it cannot start, nothing is left running; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the running service is found. `ingest` and `broker` are None where they are not its own."""

    http: str
    ingest: str | None
    broker: str | None


@contextlib.asynccontextmanager
async def open_service(config: Config) -> AsyncIterator["Service"]:
    """Start everything, yield the running service, and end everything in the reverse order.

    Raises:
        ServiceRefused: something that the config names is missing or taken.
    """
    async with AsyncExitStack() as stack:
        try:
            service = await _start(config, stack)
        except (
            BrokerUnavailable,
            CredentialsError,
            IngestUnavailable,
            ListenFailed,
            ModelRefused,
            NurseryBroken,
            RevocationStoreError,
            StoreUnavailable,
        ) as error:
            raise ServiceRefused(str(error)) from error
        yield service
        await service.stop()


async def _start(config: Config, stack: AsyncExitStack) -> "Service":
    manifests = load_manifests(config)
    _make_state_dir(config.state_dir)
    stack.enter_context(exclusive(config.state_dir / "service.lock"))  # before anything in it is opened
    metrics = Metrics()
    # The two forkservers start before any secret is read: what they hold, every child holds.
    nursery = await stack.enter_async_context(Nursery("streams.reader:main"))
    pool = await stack.enter_async_context(AnalysisPool(pool_settings(config, manifests)))
    credentials = load_or_create(config.state_dir)
    database = await stack.enter_async_context(Database.open(config.state_dir / "stopframe.db"))
    broker, sink = await start_mqtt(config, stack, database)
    ear = _Ear()
    delivery = await stack.enter_async_context(Delivery(Outbox(database), [sink], report=ear.hear))
    ingest = await stack.enter_async_context(_ingest(config, credentials))
    incidents = Incidents(database)
    enforcer = await stack.enter_async_context(
        Enforcer(ingest, incidents, EnforcerSettings(deadline_seconds=config.enforcement.deadline.seconds))
    )
    parts = Parts(manifests, metrics, nursery, pool, credentials, database, sink, delivery, ingest, enforcer)
    service = Service(config, parts)
    breaker = config.enforcement.breaker
    service.responder = await stack.enter_async_context(
        Responder(
            delivery=delivery,
            incidents=incidents,
            enforcer=enforcer,
            breaker=Breaker(BreakerSettings(breaker.cuts, breaker.share.ratio, breaker.window.seconds)),
            metrics=metrics,
            settings=ResponseSettings(
                round(config.alerts.expire_after.seconds * 1000), config_digest(config), config.enforcement.live
            ),
            live_streams=lambda: len(service.supervisor.sessions),
        )
    )
    ear.responder = service.responder
    hook = (credentials.hook, ingest) if isinstance(ingest, AnswersHooks) else None
    http = await stack.enter_async_context(
        HttpServer(create_app(service, metrics, hook), config.http.listen.host, config.http.listen.port)
    )
    await stack.enter_async_context(UnixServer(create_control_app(service), config.state_dir / SOCKET_NAME))
    service.addresses = Addresses(
        http=f"http://{config.http.listen.host}:{http.port}",
        ingest=ingest.url if isinstance(ingest, EmbeddedIngest) else None,
        broker=f"mqtt://{broker.host}:{broker.port}" if broker else None,
    )
    await stack.enter_async_context(service.running())
    return service


class _Ear:
    """Passes on what delivery reports: it starts before the responder that counts it."""

    def __init__(self) -> None:
        self.responder: Responder | None = None

    def hear(self, notice: Notice, receipt: Receipt | None) -> None:
        """As `detector.alerts.courier.Report`."""
        if self.responder is not None:
            self.responder.attempted(notice, receipt)


def _make_state_dir(state_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state_dir / BANKS_FOLDER).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ServiceRefused(
            f"state_dir {state_dir} cannot be made ({error.strerror}); name a folder that this user may write"
        ) from error


def _ingest(config: Config, credentials: Credentials) -> IngestServer:
    revocations = Revocations(
        FileRevocations(config.state_dir / "revoked"), lambda key: stream_id(credentials.deployment, key)
    )
    kind = config.ingest.kind
    return ingest_kind(kind).make(config.ingest, revocations, kind)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the assembly hands to the service."""

    manifests: tuple[Manifest, ...]
    metrics: Metrics
    nursery: Nursery
    pool: AnalysisPool
    credentials: Credentials
    database: Database
    sink: MqttSink
    delivery: Delivery
    ingest: IngestServer
    enforcer: Enforcer


class Service:
    """A running service. Made by `open_service`; implements `detector.api.view.ServiceView`."""

    responder: Responder
    addresses: Addresses

    def __init__(self, config: Config, parts: Parts) -> None:
        self.config = config
        self.metrics = parts.metrics
        self.pool = parts.pool
        self.delivery = parts.delivery
        self.ingest = parts.ingest
        self.nursery = parts.nursery
        self.incident_store = Incidents(parts.database)
        self.bank_watch = BankWatch(config.state_dir / BANKS_FOLDER)
        self._moderation = describe_moderation(parts.manifests)
        self._secret = parts.credentials.deployment
        self._sink = parts.sink
        self._enforcer = parts.enforcer
        self._policy = policy_settings(config)
        self._accounts = Accounts(parts.sink, parts.metrics, CoverageStore(parts.database))
        self._counted_losses: dict[CrashKind | AlertState, int] = {}
        self._works: list[asyncio.Task[None]] = []
        self.supervisor = Supervisor(
            ingest=parts.ingest,
            sources=self._sources(),
            open_session=self._open_session,
            ended=self._session_ended,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch streams, banks and health while the block lasts."""
        if self._moderation is not None:
            log.warning("models.no_moderation", note=self._moderation)
        names = ("supervisor", "banks", "health", "coverage")
        works = (self.supervisor.run(), self._watch_banks(), self._keep_health(), self._keep_accounts())
        tasks = [asyncio.create_task(work, name=f"service.{name}") for name, work in zip(names, works, strict=True)]
        self._works = tasks
        for task in tasks:
            task.add_done_callback(_note_failure)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._accounts.store_ended()

    async def stop(self) -> None:
        """Give open alerts a last chance to leave."""
        left = await self.delivery.drain(_DRAIN_SECONDS)
        if left:
            log.warning("service.alerts_left", count=left, note="they are on disk and go out at the next start")

    # What HTTP and the control socket show

    def health(self) -> Health:
        """As `ServiceView.health`."""
        problems = [*self.pool.problems(), *self.delivery.problems(), *self.responder.refused()]
        problems += self.bank_watch.problems(self.config.banks)
        problems += [
            f"{task.get_name()} has failed and does nothing more; restart stopframe, and report what its log says"
            for task in self._works
            if task.done() and not task.cancelled()
        ]
        problems += self.ingest.problems()
        if self.supervisor.ingest_fault is not None:
            problems.append(self.supervisor.ingest_fault)
        notes = list(self.delivery.notes())
        for count, sentence in unseen_streams(
            self.supervisor.sessions.values(), time.monotonic(), self.config.alerts.blind_after.seconds
        ):
            # One hostile publisher must not be able to turn the whole node red: it takes more than half of them.
            (problems if 2 * count > len(self.supervisor.sessions) else notes).append(sentence)
        if self.supervisor.failed_total:
            notes.append(
                f"{self.supervisor.failed_total} sessions broke by a fault of stopframe's; report what its log says"
            )
        if self._moderation is not None:
            notes.append(self._moderation)
        if not self.config.enforcement.live:
            notes.append("enforcement.live is false: nothing is cut")
        return Health(
            ok=not problems,
            problems=tuple(problems),
            notes=tuple(notes),
            versions=versions(),
            sandbox=sandbox_state(self.config.sandbox, self.supervisor.sessions.values(), self.pool.state()),
        )

    def streams(self) -> list[StreamRow]:
        """As `ServiceView.streams`."""
        return [stream_row(session) for session in self.supervisor.sessions.values()]

    async def incidents(self, limit: int) -> list[IncidentRow]:
        """As `ServiceView.incidents`."""
        return [incident_row(record) for record in await self._read(self.incident_store.newest(limit))]

    async def cut(self, stream: str) -> CutReport:
        """As `ServiceView.cut`."""
        found = pick(stream, self.supervisor.sessions, NoSuchStream)
        session = self.supervisor.sessions[found]
        incident_id, outcome = await self.responder.cut_by_hand(self._facts(session))
        time_to_cut = None
        with contextlib.suppress(IncidentNotFound, StoreUnavailable):
            time_to_cut = (await self.incident_store.get(incident_id)).time_to_cut_ms
        return CutReport(found, incident_id, outcome.state, outcome.count, time_to_cut, outcome.detail)

    async def undo(self, incident: str) -> UndoReport:
        """As `ServiceView.undo`."""
        try:
            record = await self._read(self.incident_store.get(incident))
        except IncidentNotFound as error:
            raise NoSuchIncident(str(error)) from error
        try:
            await self._enforcer.undo(record.key)
        except IngestUnavailable as error:
            raise ViewError(str(error)) from error
        is_first = await self._read(self.incident_store.mark_undone(record.incident_id, time.time_ns() // 1_000_000))
        detail = "the key may publish again" if is_first else "it was taken back before; the key may publish"
        return UndoReport(record.incident_id, record.stream_id, is_restored=True, detail=detail)

    async def release(self, source: str) -> bool:
        """As `ServiceView.release`."""
        return await self.responder.release(source, self._facts_of)

    # Sessions

    def _sources(self) -> list[Watched]:
        found = []
        for source in self.config.sources:
            key = StreamKey("source", "source", source.name)
            found.append(Watched(key, source.kind, source.url.reveal()))
        return found

    def _open_session(self, watched: Watched) -> StreamSession:
        path = watched.key.path
        settings = SessionSettings(
            job=reader_job(self.config, path, watched.kind, watched.url),
            closer_look=self.config.closer_look_for(path),
            deadline_seconds=self.config.analysis.deadline.seconds,
            policy=self._policy,
        )
        parts = SessionParts(self.nursery, self.pool, self.metrics, self._respond)
        name = stream_id(self._secret, watched.key)
        return StreamSession(name, watched.key, settings, parts, connection=watched.connection)

    async def _respond(self, session: StreamSession, decision: Any) -> None:
        await self.responder.respond(decision, self._facts(session))

    def _facts_of(self, stream: str) -> StreamFacts | None:
        session = self.supervisor.sessions.get(stream)
        return None if session is None else self._facts(session)

    def _facts(self, session: StreamSession) -> StreamFacts:
        return StreamFacts(
            stream_id=session.stream_id,
            session=session.session,
            key=session.key,
            connection=session.connection,
            coverage=coverage_words(session),
            last_packet_at=lambda: session.last_packet_at,
        )

    async def _session_ended(self, session: StreamSession) -> None:
        self.responder.session_ended(session.session)
        self._accounts.close(session)  # waits for nothing: the next stream waits for this one's end

    # What is told without being asked

    async def _watch_banks(self) -> None:
        async for _ in self.bank_watch.changes():
            self.pool.reload_banks()
            log.info("banks.changed", banks=sorted(self.bank_watch.names()))

    async def _keep_health(self) -> None:
        while True:
            self._sink.set_health(asdict(self.health()))
            for session in self.supervisor.sessions.values():
                self._accounts.show(session)
            await self._report_blindness()
            self.metrics.set_live_streams(len(self.supervisor.sessions))
            self.metrics.set_analysis_workers(self.pool.ready_workers)
            self.metrics.set_queue_depth(self.pool.waiting)
            self.metrics.set_outbox_pending(await self.delivery.open_count())
            self._count_losses()
            await asyncio.sleep(_HEALTH_SECONDS)

    def _count_losses(self) -> None:
        """Pass on what the parts count themselves, as increments."""
        totals: dict[CrashKind | AlertState, int] = {
            CrashKind.ANALYSIS_WORKER: self.pool.restarts,
            CrashKind.FORKSERVER: self.nursery.restarts + self.pool.forkserver_restarts,
            AlertState.EXPIRED: self.delivery.expired_total,
        }
        for what, total in totals.items():
            for _ in range(total - self._counted_losses.get(what, 0)):
                self.metrics.alert(what) if isinstance(what, AlertState) else self.metrics.crashed(what)
            self._counted_losses[what] = total

    async def _keep_accounts(self) -> None:
        await self._accounts.keep_telling(self.supervisor.sessions.values, self.config.alerts.coverage_every.seconds)

    async def _report_blindness(self) -> None:
        limit = self.config.alerts.blind_after.seconds
        for session in list(self.supervisor.sessions.values()):
            if session.is_blindness_due(limit):
                await self.responder.report_blind(self._facts(session), session.blind_cause.value)

    async def _read(self, reading: Any) -> Any:
        try:
            return await reading
        except StoreUnavailable as error:
            raise ViewError(str(error)) from error


def _note_failure(task: "asyncio.Task[None]") -> None:
    """Tell at once of a work that was to last as long as the service."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("service.work_failed", work=task.get_name(), exc_info=error)
