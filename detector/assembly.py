"""The assembly: the parts of the service in the order in which they start, and end in the reverse order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import structlog

from detector.alerts.alarm import Alarms, HearsAlarms
from detector.alerts.delivery import Delivery
from detector.alerts.embedded_broker import BrokerUnavailable
from detector.alerts.setup import start_mqtt, start_other_sinks
from detector.alerts.sink import Notice, Receipt
from detector.analysis.gpu_setup import start_gpu
from detector.analysis.pool import AnalysisPool
from detector.analysis.provider_choice import chosen_providers
from detector.analysis.setup import BANKS_FOLDER, ModelRefused, find_models, pool_settings
from detector.api.app import create_app
from detector.api.control import SOCKET_NAME, create_control_app
from detector.api.hma import hma_routes
from detector.api.server import HttpServer, ListenFailed, UnixServer, exclusive
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
from detector.match_budget import BudgetExceeded, refuse_excess
from detector.metrics import Metrics
from detector.parts import Addresses, Parts
from detector.private_folder import make_private
from detector.remote.setup import Remote, RemoteParts
from detector.response import Responder
from detector.service import Service
from detector.settings import breaker_settings, enforcer_settings, response_settings
from detector.simulation.rehearsal import Rehearsal
from detector.store.database import StoreUnavailable
from detector.store.denials import Denials
from detector.store.incidents import Incidents
from detector.store.outbox import Outbox
from detector.trust.commands import CommandDesk, DeskParts
from detector.trust.distrust import Distrust
from detector.trust.keyring import load_keyring
from detector.trust.replay import CommandNumbers
from detector.trust.signing import NodeSigner, TrustedKeys
from detector.uploads import UploadParts, Uploads
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
    if (objection := rehearsal.objection(config)) is not None:
        raise ServiceRefused(": ".join(objection), may_pass=False)
    rehearsal.begin()
    models = find_models(config)
    for model, why in models.refused.items():
        log.warning("model.refused", model=model, why=why)
    _make_state_dir(config.state_dir)
    refuse_excess(config)
    stack.enter_context(exclusive(config.state_dir / "service.lock"))  # before anything in it is opened
    metrics = Metrics()
    # The two forkservers start before any secret is read: what they hold, every child holds.
    nursery = await stack.enter_async_context(Nursery("streams.reader:main"))
    settings = pool_settings(config, models.manifests)
    pool = rehearsal.pool(AnalysisPool(settings))
    pool.providers = await chosen_providers(settings.setup.models, config.sandbox, settings.workers)
    pool.gpu = await start_gpu(settings, pool.providers, config.state_dir, stack)
    pool.refused_models = models.refused
    await stack.enter_async_context(pool)
    credentials = load_or_create(config.state_dir)
    keyring = load_keyring(config.state_dir)
    signer = NodeSigner(config.node, keyring.signer)
    # Watching without a store is better than not watching: a full disk or a damaged file turns health red.
    database = await stack.enter_async_context(rehearsal.database(config.state_dir / "stopframe.db"))
    clock = rehearsal.clock()
    broker, sink = await start_mqtt(config, stack, database, connect=rehearsal.connect(), clock=clock)
    ear = _Ear()
    sinks = [sink, *await start_other_sinks(config, stack)]
    alarms = Alarms([one for one in sinks if isinstance(one, HearsAlarms)], config.node, clock)
    remote = Remote.of(config, sink, sinks[1:])
    sinks, takes = (sinks, {}) if remote is None else (remote.sinks, remote.takes)
    delivery = await stack.enter_async_context(
        Delivery(Outbox(database), sinks, report=ear.hear, takes=takes, clock=clock)
    )
    revocations = await stack.enter_async_context(_revocations(config, credentials, rehearsal))
    hold = Hold(hold_settings(config), lambda key: stream_id(credentials.deployment, key))
    identities = Identities(config, credentials.deployment, Denials(database), refused=metrics.identity_refused)
    await identities.load()
    ingest = await stack.enter_async_context(_ingest(config, revocations, hold, identities))
    incidents, distrust = Incidents(database), Distrust(metrics)
    enforcer: Cutting
    if remote is None:
        enforcer = await stack.enter_async_context(
            Enforcer(ingest, incidents, enforcer_settings(config), wall_clock=rehearsal.wall_seconds())
        )
    else:
        remote_parts = RemoteParts(
            delivery=delivery,
            ingest=ingest,
            incidents=incidents,
            database=database,
            signer=signer,
            secret=credentials.deployment,
            distrust=distrust,
            keys=lambda: _trusted_keys(service),
            last_packet_at=lambda stream: _last_packet_at(service, stream),
            unknown_ack=metrics.unknown_ack,
            count=metrics.remote_cut,
            line=rehearsal.answers(sink),
            wall_clock=rehearsal.wall_seconds(),
        )
        enforcer = await stack.enter_async_context(remote.cuts(remote_parts))
    parts = Parts(
        manifests=models.manifests,
        metrics=metrics,
        nursery=nursery,
        pool=pool,
        credentials=credentials,
        keyring=keyring,
        distrust=distrust,
        database=database,
        sink=sink,
        delivery=delivery,
        alarms=alarms,
        revocations=revocations,
        ingest=ingest,
        hold=hold,
        identities=identities,
        enforcer=enforcer,
        rehearsal=rehearsal,
    )
    service = Service(config, parts, file)
    service.responder = await stack.enter_async_context(
        Responder(
            delivery=delivery,
            incidents=incidents,
            enforcer=enforcer,
            breaker=Breaker(breaker_settings(config)),
            metrics=metrics,
            settings=response_settings(config),
            live_streams=lambda: len(service.supervisor.sessions),
            cut_made=service.cut_made,
            sign=rehearsal.sign(signer),
            closes=True,
            wall_ms=rehearsal.wall_ms(),
        )
    )
    ear.responder = service.responder
    service.commands = await stack.enter_async_context(
        CommandDesk(
            service,
            DeskParts(
                line=sink,
                prefix=config.alerts.mqtt.prefix,
                signer=signer,
                keys=partial(_trusted_keys, service),
                numbers=CommandNumbers(database),
                distrust=parts.distrust,
                told=metrics.command,
            ),
        )
    )
    hook = (credentials.hook, ingest) if isinstance(ingest, AnswersHooks) else None
    http = await _serve(service, hook, parts, stack)
    service.addresses = Addresses(
        http=f"http://{config.http.listen.host}:{http.port}",
        ingest=ingest.url if isinstance(ingest, EmbeddedIngest) else None,
        broker=f"mqtt://{broker.host}:{broker.port}" if broker else None,
    )
    await stack.enter_async_context(service.running())
    return service


async def _serve(
    service: Service, hook: tuple[str, AnswersHooks] | None, parts: Parts, stack: AsyncExitStack
) -> HttpServer:
    """Open the doors: what HTTP serves, and the control socket."""
    listen = service.config.http.listen
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


class _Ear:
    """Passes on what delivery reports: it starts before the responder that counts it."""

    def __init__(self) -> None:
        self.responder: Responder | None = None

    def hear(self, notice: Notice, receipt: Receipt | None) -> None:
        """As `detector.alerts.courier.Report`."""
        if self.responder is not None:
            self.responder.arrivals.attempted(notice, receipt)


def _trusted_keys(service: Service) -> TrustedKeys:
    return service.config.trust.keys()  # of the config in force, which is replaced


def _last_packet_at(service: Service, stream: str) -> float | None:
    session = service.supervisor.sessions.get(stream)
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
