"""The cutter's parts in the order in which they start, and end in the reverse order."""

import asyncio
import contextlib
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

import structlog

from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.sink import SinkUnavailable
from detector.api.app import create_open_app
from detector.api.server import HttpServer, ListenFailed, exclusive
from detector.api.view import Health
from detector.credentials import CredentialsError, load_or_create_hook, stream_id
from detector.cutter.asked import AskedAlerts
from detector.cutter.config import CutterConfig
from detector.cutter.cutter import Cutter
from detector.cutter.door import PATH, AlertDoor
from detector.cutter.following import FollowedConfig
from detector.cutter.parts import CutterParts
from detector.enforcement import Enforcer, EnforcerSettings
from detector.ingest.adapter import IngestServer, IngestUnavailable, answer_within
from detector.ingest.hooks import AnswersHooks
from detector.ingest.registry import ingest_kind
from detector.ingest.revocations import FileRevocations, Revocations, RevocationStoreError
from detector.metrics import Metrics
from detector.private_folder import make_private
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.incidents import Incidents
from detector.store.retained import RetainedTopics
from detector.store.retention import InUse
from detector.trust.commands import CommandDesk, DeskParts
from detector.trust.distrust import Distrust
from detector.trust.keyring import load_keyring
from detector.trust.messages import ack_topic
from detector.trust.replay import CommandNumbers, SeenAlerts
from detector.trust.signing import NodeSigner, public_key_text
from detector.upkeep import Upkeep
from detector.versions import product_version

log = structlog.get_logger()

_QUIET_SECONDS: Final = 0.25
"""No packet passes through a cutter: after a cut it waits so long, and looks at the server's list once more."""

_ACK_EXPIRES_SECONDS: Final = 600
_HEALTH_SECONDS: Final = 1.0
_INGEST_EVERY: Final = 5
_INGEST_SECONDS: Final = 2.0
_DRAIN_SECONDS: Final = 3.0
_LAST_SECONDS: Final = 0.5
"""After that, for what commands began."""


class CutterRefused(Exception):
    """Raised by `open_cutter`: it cannot start, nothing is left running; one sentence with the remedy."""


class CutterService:
    """A running cutter: its health, and where it is found."""

    def __init__(
        self, followed: FollowedConfig, cutter: Cutter, mqtt: MqttSink, ingest: IngestServer, distrust: Distrust
    ) -> None:
        self.http_port = 0
        self.webhook: str | None = None
        """Where services post, None where nothing listens."""
        self.public_key = ""
        self.cutter = cutter
        self.count_problems: Callable[[int], None] = lambda _: None
        """Told every second how many problems there are."""
        self._followed = followed
        self._mqtt = mqtt
        self._ingest = ingest
        self._distrust = distrust
        self._ingest_fault: str | None = None

    async def reload(self) -> None:
        """Read the config file again."""
        await self._followed.reload()

    def health(self) -> Health:
        """Whether it does its job."""
        problems = (*self._mqtt.problems(), *self.cutter.problems())
        if self._ingest_fault is not None:
            problems = (*problems, self._ingest_fault)
        if not self._ingest.can_cut:
            problems = (*problems, f"the ingest server {self._ingest.name} can cut nobody: configure another kind")
        # What the server asks its hook may go to a service: that nobody asks here is no fault of this node.
        asked = (one for one in self._ingest.problems() if one not in problems)
        notes = (*self._mqtt.notes(), *asked, *self._distrust.notes(), *self._followed.notes())
        if not any("command" in key.may for key in self._followed.in_force.trust.trusted_keys):
            notes = (*notes, "no key may command: the undo of a service reaches nobody here; add command to its may")
        return Health(
            ok=not problems,
            problems=problems,
            notes=notes,
            versions={"stopframe": product_version() or "unknown", "python": platform.python_version()},
        )

    def status_line(self) -> str:
        """What `systemctl status` shows."""
        problems = self.health().problems
        return f"{len(problems)} problems, first: {problems[0]}" if problems else "no problem"

    async def keep_health(self) -> None:
        """See whether the ingest server answers, and retain the health at the broker, until cancelled."""
        looks = 0
        while True:
            if looks % _INGEST_EVERY == 0:
                await self._look_at_ingest()
            looks += 1
            health = self.health()
            self.count_problems(len(health.problems))
            told = asdict(health)
            del told["load"]
            self._mqtt.set_health(told)
            await asyncio.sleep(_HEALTH_SECONDS)

    async def _look_at_ingest(self) -> None:
        try:
            await answer_within(_INGEST_SECONDS, self._ingest.publishers())
        except IngestUnavailable as error:
            self._ingest_fault = str(error)
        else:
            self._ingest_fault = None


@contextlib.asynccontextmanager
async def open_cutter(config: CutterConfig, file: Path | None = None) -> AsyncIterator[CutterService]:
    """Start everything, yield the running cutter, and end everything in the reverse order.

    `file` is read again when the cutter is told to.

    Raises:
        CutterRefused: something that the config names is missing or taken.
    """
    async with AsyncExitStack() as stack:
        try:
            service = await _start(config, file, stack)
        except (CredentialsError, IngestUnavailable, ListenFailed, RevocationStoreError, StoreUnavailable) as error:
            raise CutterRefused(str(error)) from error
        except OSError as error:
            what = f"state_dir {config.state_dir} cannot be made ({error.strerror}); name a folder that is writable"
            raise CutterRefused(what) from error
        yield service
        await service.cutter.drain(_DRAIN_SECONDS)


async def _start(config: CutterConfig, file: Path | None, stack: AsyncExitStack) -> CutterService:
    make_private(config.state_dir)
    if (config.state_dir / "stopframe.db").exists():
        raise CutterRefused(
            f"state_dir {config.state_dir} is a service's, with whose key it would sign; name a folder of its own"
        )
    stack.enter_context(exclusive(config.state_dir / "cutter.lock"))
    metrics = Metrics()
    followed = FollowedConfig(file, config, metrics)
    hook_secret, keyring = load_or_create_hook(config.state_dir), load_keyring(config.state_dir)
    signer, keys, distrust = NodeSigner(config.node, keyring.signer), lambda: followed.keys, Distrust(metrics)
    database = await stack.enter_async_context(Database.open(config.state_dir / "cutter.db", must_open=False))
    revocations = await stack.enter_async_context(
        Revocations(FileRevocations(config.state_dir / "revoked"), lambda key: stream_id(config.deployment, key))
    )
    kind = config.ingest.kind
    ingest = await stack.enter_async_context(ingest_kind(kind).make(config.ingest, revocations, kind))
    incidents = Incidents(database)
    enforcer = await stack.enter_async_context(Enforcer(ingest, incidents, _enforcer_settings(config)))
    mqtt = MqttSink(mqtt_settings(config), retained=RetainedTopics(database))

    async def send_ack(stream: str, ack: bytes) -> None:
        with contextlib.suppress(SinkUnavailable):  # the alert comes again, and so does its answer
            await mqtt.send(ack_topic(config.mqtt.prefix, stream), ack, expires_in_seconds=_ACK_EXPIRES_SECONDS)

    cutter = Cutter(
        CutterParts(
            ingest=ingest,
            enforcer=enforcer,
            incidents=incidents,
            asked=AskedAlerts(database),
            seen=SeenAlerts(database),
            signer=keyring.signer,
            node=config.node,
            secret=config.deployment,
            keys=keys,
            distrust=distrust,
            send_ack=send_ack,
            told=metrics.cutter_alert,
        )
    )
    mqtt.listen(f"{config.mqtt.prefix}/stream/+/alert", cutter.hear)
    service = CutterService(followed, cutter, mqtt, ingest, distrust)
    service.count_problems = metrics.set_health_problems
    desk = DeskParts(
        line=mqtt,
        prefix=config.mqtt.prefix,
        signer=signer,
        keys=keys,
        numbers=CommandNumbers(database),
        distrust=distrust,
        told=metrics.command,
    )
    hook = (hook_secret, ingest) if isinstance(ingest, AnswersHooks) else None
    http = HttpServer(
        create_open_app("stopframe cutter", service.health, metrics, hook),
        config.http.listen.host,
        config.http.listen.port,
    )
    await stack.enter_async_context(http)
    await stack.enter_async_context(cutter)
    door = AlertDoor(cutter, distrust, lambda: followed.in_force.webhook, metrics.cutter_post)
    service.webhook = await _open_door(followed, door, stack)
    followed.take = lambda new: enforcer.reconfigure(_enforcer_settings(new))
    await stack.enter_async_context(CommandDesk(cutter, desk))
    await stack.enter_async_context(mqtt)  # last: what waited at the broker comes at once
    # What is under way is pending, and stays; so does what an undo must find.
    upkeep = Upkeep(database, lambda: followed.in_force.keep.seconds, InUse(tuple, revocations.__contains__))
    for name, work in (("cutter.health", service.keep_health()), ("cutter.upkeep", upkeep.run())):
        stack.callback(asyncio.create_task(work, name=name).cancel)
    service.http_port, service.public_key = http.port, public_key_text(keyring.signer.public_key)
    return service


async def _open_door(followed: FollowedConfig, door: AlertDoor, stack: AsyncExitStack) -> str | None:
    """Listen for what services post, where there is a secret for it; returns the address."""
    webhook = followed.in_force.webhook
    if webhook.secret is None:
        return None
    listen = webhook.listen
    server = await stack.enter_async_context(HttpServer(door.app(), listen.host, listen.port, option="webhook.listen"))
    return f"http://{listen.host}:{server.port}{PATH}"


def _enforcer_settings(config: CutterConfig) -> EnforcerSettings:
    return EnforcerSettings(
        deadline_seconds=config.deadline.seconds, quiet_seconds=_QUIET_SECONDS, drain_seconds=_LAST_SECONDS
    )


def mqtt_settings(config: CutterConfig) -> MqttSettings:
    """How a cutter speaks to its broker: in a session that is kept."""
    mqtt = config.mqtt
    return MqttSettings(
        host=mqtt.url.host,
        port=mqtt.url.port,
        node=config.node,
        prefix=mqtt.prefix,
        username=mqtt.username,
        password=mqtt.password.current if mqtt.password else None,
        tls=mqtt.url.has_tls,
        ca_file=str(mqtt.ca_file) if mqtt.ca_file else None,
        certificate_file=str(mqtt.certificate_file) if mqtt.certificate_file else None,
        key_file=str(mqtt.key_file) if mqtt.key_file else None,
        session_seconds=round(mqtt.keep_session.seconds),
        section="mqtt",
    )
