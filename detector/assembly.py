"""The assembly: the parts of the service in the order in which they start, and end in the reverse order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from detector.alerts.alarm import Alarms, HearsAlarms
from detector.alerts.delivery import Delivery
from detector.alerts.embedded_broker import BrokerUnavailable, EmbeddedBroker
from detector.alerts.mqtt import MqttSink
from detector.alerts.setup import start_mqtt, start_other_sinks
from detector.alerts.sink import Notice, Receipt
from detector.analysis.gpu_setup import start_gpu
from detector.analysis.pool import AnalysisPool
from detector.analysis.provider_choice import chosen_providers
from detector.analysis.setup import BANKS_FOLDER, FoundModels, ModelRefused, find_models, pool_settings
from detector.api.app import create_app
from detector.api.control import SOCKET_NAME, create_control_app
from detector.api.hma import hma_routes
from detector.api.server import HttpServer, ListenFailed, UnixServer, exclusive
from detector.banks.budget import BudgetExceeded, refuse_excess
from detector.breaker import Breaker
from detector.config.config import Config
from detector.config_file import ConfigFile
from detector.credentials import Credentials, CredentialsError, load_or_create, stream_id
from detector.enforcement import Cutting, Enforcer
from detector.hold import Hold, hold_settings
from detector.identities import Identities, names_accounts
from detector.ingest.adapter import IngestServer, IngestUnavailable
from detector.ingest.admittance import AsksOfPublishers
from detector.ingest.embedded import EmbeddedIngest
from detector.ingest.hooks import AnswersHooks
from detector.ingest.registry import ingest_kind
from detector.ingest.revocations import FileRevocations, Revocations, RevocationStoreError
from detector.ingest.viewers import HoldsViewers
from detector.metrics import Metrics
from detector.parts import Addresses, Parts
from detector.private_folder import make_private
from detector.remote.setup import Remote, RemoteParts
from detector.response import Responder
from detector.service import Service
from detector.settings import breaker_settings, enforcer_settings, response_settings
from detector.simulation.rehearsal import Rehearsal
from detector.store.database import Database
from detector.store.denials import Denials
from detector.store.faults import StoreUnavailable
from detector.store.incidents import Incidents
from detector.store.outbox import Outbox
from detector.trust.commands import CommandDesk, DeskParts
from detector.trust.distrust import Distrust
from detector.trust.keyring import load_keyring
from detector.trust.replay import CommandNumbers
from detector.trust.signing import NodeSigner, TrustedKeys
from detector.uploads.desk import UploadParts, Uploads
from models.providers import ProviderUnavailable
from streams.nursery import Nursery, NurseryBroken

log = structlog.get_logger()


class ServiceRefused(Exception):
    """Raised by `open_service`: it cannot start, nothing is left running; one sentence with the remedy.

    `may_pass` says whether another try may do without anybody's help: a port that is taken, a disk that is full.
    """

    def __init__(self, sentence: str, *, may_pass: bool = True) -> None:
        super().__init__(sentence)
        self.may_pass = may_pass


@contextlib.asynccontextmanager
async def open_service(
    config: Config, file: ConfigFile | None = None, rehearsal: Rehearsal | None = None
) -> AsyncIterator[Service]:
    """Start everything, yield the running service, and end everything in the reverse order.

    With `file`, from which `config` was read, the service follows it: what changes there takes effect. `rehearsal` says
    which faults are simulated.

    Raises:
        ServiceRefused: something that the config names is missing or taken.
    """
    async with AsyncExitStack() as stack:
        try:
            service = await _start(config, file, stack, rehearsal or Rehearsal())
        except (
            BrokerUnavailable,
            BudgetExceeded,
            CredentialsError,
            IngestUnavailable,
            ListenFailed,
            ModelRefused,
            NurseryBroken,
            ProviderUnavailable,
            RevocationStoreError,
            StoreUnavailable,
        ) as error:
            raise ServiceRefused(
                str(error), may_pass=not isinstance(error, ModelRefused | BudgetExceeded | ProviderUnavailable)
            ) from error
        yield service
        await asyncio.gather(service.drain(), service.uploads.drain())


async def _start(config: Config, file: ConfigFile | None, stack: AsyncExitStack, rehearsal: Rehearsal) -> Service:
    models = _begin(config, stack, rehearsal)
    ahead = _Ahead(config)
    parts, broker = await _start_parts(config, models, ahead, stack, rehearsal)
    service = Service(config, parts, file)
    service.responder = await stack.enter_async_context(
        Responder(
            delivery=parts.delivery,
            incidents=Incidents(parts.database),
            enforcer=parts.enforcer,
            breaker=Breaker(breaker_settings(config)),
            metrics=parts.metrics,
            settings=response_settings(config),
            live_streams=lambda: len(service.supervisor.sessions),
            cut_made=service.cut_made,
            sign=rehearsal.sign(NodeSigner(config.node, parts.keyring.signer)),
            closes=True,
            wall_ms=rehearsal.wall_ms(),
        )
    )
    ahead.service = service
    service.commands = await stack.enter_async_context(
        CommandDesk(
            service,
            DeskParts(
                line=parts.sink,
                prefix=config.alerts.mqtt.prefix,
                signer=NodeSigner(config.node, parts.keyring.signer),
                keys=ahead.trusted_keys,
                numbers=CommandNumbers(parts.database),
                distrust=parts.distrust,
                told=parts.metrics.command,
            ),
        )
    )
    http = await _serve(service, parts, stack)
    service.addresses = Addresses(
        http=f"http://{config.http.listen.host}:{http.port}",
        ingest=parts.ingest.url if isinstance(parts.ingest, EmbeddedIngest) else None,
        broker=f"mqtt://{broker.host}:{broker.port}" if broker else None,
    )
    await stack.enter_async_context(service.running())
    return service


def _begin(config: Config, stack: AsyncExitStack, rehearsal: Rehearsal) -> FoundModels:
    """Refuse what can be seen to fail, and take the state folder for ourselves."""
    if (objection := rehearsal.objection(config)) is not None:
        raise ServiceRefused(": ".join(objection), may_pass=False)
    rehearsal.begin()
    models = find_models(config)
    for model, why in models.refused.items():
        log.warning("model.refused", model=model, why=why)
    _make_state_dir(config.state_dir)
    refuse_excess(config)
    stack.enter_context(exclusive(config.state_dir / "service.lock"))  # before anything in it is opened
    return models


async def _start_parts(
    config: Config, models: FoundModels, ahead: "_Ahead", stack: AsyncExitStack, rehearsal: Rehearsal
) -> tuple[Parts, EmbeddedBroker | None]:
    """Start what the service is made of, each part after those that it needs."""
    metrics = Metrics()
    # The two forkservers start before any secret is read: what they hold, every child holds.
    nursery = await stack.enter_async_context(Nursery("streams.reader:main"))
    pool = await _start_pool(config, models, stack, rehearsal)
    credentials = load_or_create(config.state_dir)
    keyring = load_keyring(config.state_dir)
    # Watching without a store is better than not watching: a full disk or a damaged file turns health red.
    database = await stack.enter_async_context(rehearsal.database(config.state_dir / "stopframe.db"))
    alerting = await _start_alerting(config, database, ahead, stack, rehearsal)
    revocations = await stack.enter_async_context(_revocations(config, credentials, rehearsal))
    hold = Hold(hold_settings(config), lambda key: stream_id(credentials.deployment, key))
    identities = Identities(config, credentials.deployment, Denials(database), refused=metrics.identity_refused)
    await identities.load()
    ingest = await stack.enter_async_context(_ingest(config, revocations, hold, identities))
    incidents, distrust = Incidents(database), Distrust(metrics)
    enforcer: Cutting
    if alerting.remote is None:
        enforcer = await stack.enter_async_context(
            Enforcer(ingest, incidents, enforcer_settings(config), wall_clock=rehearsal.wall_seconds())
        )
    else:
        remote_parts = RemoteParts(
            delivery=alerting.delivery,
            ingest=ingest,
            incidents=incidents,
            database=database,
            signer=NodeSigner(config.node, keyring.signer),
            secret=credentials.deployment,
            distrust=distrust,
            keys=ahead.trusted_keys,
            last_packet_at=ahead.last_packet_at,
            unknown_ack=metrics.unknown_ack,
            count=metrics.remote_cut,
            line=rehearsal.answers(alerting.sink),
            wall_clock=rehearsal.wall_seconds(),
        )
        enforcer = await stack.enter_async_context(alerting.remote.cuts(remote_parts))
    parts = Parts(
        manifests=models.manifests,
        metrics=metrics,
        nursery=nursery,
        pool=pool,
        credentials=credentials,
        keyring=keyring,
        distrust=distrust,
        database=database,
        sink=alerting.sink,
        delivery=alerting.delivery,
        alarms=alerting.alarms,
        revocations=revocations,
        ingest=ingest,
        hold=hold,
        identities=identities,
        enforcer=enforcer,
        rehearsal=rehearsal,
    )
    return parts, alerting.broker


@dataclass(frozen=True, slots=True)
class _Alerting:
    """What alerts leave by; `remote` is how cuts are asked for, None where this node cuts itself."""

    broker: EmbeddedBroker | None
    sink: MqttSink
    delivery: Delivery
    alarms: Alarms
    remote: Remote | None


async def _start_alerting(
    config: Config, database: Database, ahead: "_Ahead", stack: AsyncExitStack, rehearsal: Rehearsal
) -> _Alerting:
    clock = rehearsal.clock()
    broker, sink = await start_mqtt(config, stack, database, connect=rehearsal.connect(), clock=clock)
    sinks = [sink, *await start_other_sinks(config, stack)]
    alarms = Alarms([one for one in sinks if isinstance(one, HearsAlarms)], config.node, clock)
    remote = Remote.of(config, sink, sinks[1:])
    sinks, takes = (sinks, {}) if remote is None else (remote.sinks, remote.takes)
    delivery = await stack.enter_async_context(
        Delivery(Outbox(database), sinks, report=ahead.hear, takes=takes, clock=clock)
    )
    return _Alerting(broker, sink, delivery, alarms, remote)


async def _start_pool(config: Config, models: FoundModels, stack: AsyncExitStack, rehearsal: Rehearsal) -> AnalysisPool:
    settings = pool_settings(config, models.manifests)
    pool = rehearsal.pool(AnalysisPool(settings))
    pool.providers = await chosen_providers(settings.setup.models, config.sandbox, settings.workers)
    pool.gpu = await start_gpu(settings, pool.providers, config.state_dir, stack)
    pool.refused_models = models.refused
    return await stack.enter_async_context(pool)


async def _serve(service: Service, parts: Parts, stack: AsyncExitStack) -> HttpServer:
    """Open the doors: what HTTP serves, and the control socket."""
    listen = service.config.http.listen
    hook = (parts.credentials.hook, parts.ingest) if isinstance(parts.ingest, AnswersHooks) else None
    app = create_app(service, service.metrics, hook, token=service.http_token, uploads=_uploads(service, parts, stack))
    await stack.enter_async_context(hma_routes(app, service, parts.nursery))
    http = await stack.enter_async_context(HttpServer(app, listen.host, listen.port))
    await stack.enter_async_context(UnixServer(create_control_app(service), service.config.state_dir / SOCKET_NAME))
    return http


def _uploads(service: Service, parts: Parts, stack: AsyncExitStack) -> Uploads:
    """Have files that are sent looked at, beside the live streams."""
    upload_parts = UploadParts(
        nursery=parts.nursery,
        pool=parts.pool,
        metrics=parts.metrics,
        manifests=parts.manifests,
        config=lambda: service.config,
        is_held=service.is_held,
    )
    service.uploads = stack.enter_context(Uploads(upload_parts, service.config.state_dir))
    return service.uploads


class _Ahead:
    """What parts ask of the service: they start before it is there."""

    def __init__(self, config: Config) -> None:
        self.service: Service | None = None
        self._config = config

    def hear(self, notice: Notice, receipt: Receipt | None) -> None:
        """As `detector.alerts.courier.Report`."""
        if self.service is not None:
            self.service.responder.arrivals.attempted(notice, receipt)

    def trusted_keys(self) -> TrustedKeys:
        """Those of the config in force, which is replaced."""
        return (self._config if self.service is None else self.service.config).trust.keys()

    def last_packet_at(self, stream: str) -> float | None:
        """When a live stream last sent something."""
        session = None if self.service is None else self.service.supervisor.sessions.get(stream)
        return None if session is None else session.last_packet_at


def _make_state_dir(state_dir: Path) -> None:
    try:
        make_private(state_dir / BANKS_FOLDER)
    except OSError as error:
        raise ServiceRefused(
            f"state_dir {state_dir} cannot be made ({error.strerror}); name a folder that this user may write"
        ) from error


def _revocations(config: Config, credentials: Credentials, rehearsal: Rehearsal) -> Revocations:
    return Revocations(
        rehearsal.denials(FileRevocations(config.state_dir / "revoked")),
        lambda key: stream_id(credentials.deployment, key),
    )


def _ingest(config: Config, revocations: Revocations, hold: Hold, identities: Identities) -> IngestServer:
    kind = config.ingest.kind
    server = ingest_kind(kind).make(config.ingest, revocations, kind)
    if isinstance(server, HoldsViewers):
        server.viewers = hold  # before it listens: nobody gets in meanwhile
    elif hold.settings.samples:
        why = f"the ingest server {kind} asks nobody about viewers: take ingest.hold out"
        raise ServiceRefused(why, may_pass=False)
    if isinstance(server, AsksOfPublishers):
        server.publishers_gate = identities
    if names_accounts(config) and not getattr(server, "tells_of_publishers", False):
        why = f"the ingest server {kind} tells nothing but keys of publishers: set identity.by to key"
        raise ServiceRefused(why, may_pass=False)
    return server
