"""The service from the decision on, without media: for each publisher one review and, of some, one cut.

Everything from the responder to the proof of the cut is the service's own: responder, outbox, couriers, connection,
remote cuts. Only what comes before a decision is left out, so that thousands of alerts fit into minutes.

`python -m benchmarks.numbered_service CONFIG` runs until it is killed. Publishers whose name begins with `cut` are cut,
all others are only told of.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from detector.alerts.delivery import Delivery
from detector.alerts.mqtt import MqttSink
from detector.alerts.setup import start_mqtt, start_other_sinks
from detector.alerts.sink import Notice, Receipt
from detector.breaker import Breaker, BreakerSettings
from detector.config.config import Config
from detector.config.loading import load_config
from detector.credentials import load_or_create, stream_id
from detector.enforcement import Cutting, Enforcer
from detector.events import Decision, Observation, Publisher, Signal, Step
from detector.ingest.adapter import IngestServer, PublisherStarted
from detector.ingest.registry import ingest_kind
from detector.ingest.revocations import FileRevocations, Revocations
from detector.logs import configure_logs
from detector.metrics import Metrics
from detector.open_incidents import StreamFacts
from detector.remote.setup import Remote, RemoteParts
from detector.response import Responder
from detector.settings import enforcer_settings, response_settings
from detector.store.database import Database
from detector.store.incidents import Incidents
from detector.store.outbox import Outbox
from detector.trust.distrust import Distrust
from detector.trust.keyring import load_keyring
from detector.trust.signing import NodeSigner
from models.evidence import Inspection

CUT_PREFIX = "cut"


@dataclass(frozen=True, slots=True)
class Numbered:
    """The running parts."""

    delivery: Delivery
    responder: Responder
    cutting: Cutting
    ingest: IngestServer
    mqtt: MqttSink
    incidents: Incidents
    metrics: Metrics
    secret: bytes

    async def decide(self, publisher: Publisher, action: Step, session: str) -> None:
        """Respond to a frame that hit, as a session would."""
        name = stream_id(self.secret, publisher.key)
        now = time.monotonic()
        entry = f"{action.word}-{session}"
        signal = Signal("hash", "pdq", f"CARDS/{entry}", action, 31, bank="CARDS", entry=entry, distance=4)
        seen = Observation(
            name,
            session,
            1,
            "keyframe",
            now,
            now,
            now,
            None,
            is_corrupt=False,
            inspection=Inspection(90, is_stable=True, is_low_information=False, fingerprint=bytes(32)),
        )
        decision = Decision(name, session, seen, action, is_live=True, signals=(signal,), votes=(1, 1))
        facts = StreamFacts(name, session, publisher.key, publisher.connection, {}, lambda: None)
        await self.responder.respond(decision, facts)

    async def answer_publishers(self) -> None:
        """Decide about everyone who goes live, until cancelled."""
        async for change in self.ingest.changes():
            if isinstance(change, PublisherStarted):
                publisher = change.publisher
                session = f"{publisher.connection}-{time.monotonic_ns():x}"
                await self.decide(publisher, Step.REVIEW, session)
                if publisher.key.name.startswith(CUT_PREFIX):
                    await self.decide(publisher, Step.CUT, session)


@asynccontextmanager
async def numbered(config: Config) -> AsyncIterator[Numbered]:
    """Start the parts as the service's assembly does, and end them in the reverse order."""
    async with AsyncExitStack() as stack:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        credentials, keyring = load_or_create(config.state_dir), load_keyring(config.state_dir)
        signer, metrics = NodeSigner(config.node, keyring.signer), Metrics()
        database = await stack.enter_async_context(Database.open(config.state_dir / "stopframe.db", must_open=False))
        _, mqtt = await start_mqtt(config, stack, database)
        others = await start_other_sinks(config, stack)
        remote = Remote.of(config, mqtt, others)
        sinks, takes = ([mqtt, *others], {}) if remote is None else (remote.sinks, remote.takes)
        heard: list[Responder] = []

        def report(notice: Notice, receipt: Receipt | None) -> None:
            for one in heard:
                one.arrivals.attempted(notice, receipt)

        delivery = await stack.enter_async_context(Delivery(Outbox(database), sinks, takes=takes, report=report))
        revocations = await stack.enter_async_context(
            Revocations(
                FileRevocations(config.state_dir / "revoked"), lambda key: stream_id(credentials.deployment, key)
            )
        )
        kind = config.ingest.kind
        ingest = await stack.enter_async_context(ingest_kind(kind).make(config.ingest, revocations, kind))
        incidents = Incidents(database)
        cutting: Cutting
        if remote is None:
            cutting = await stack.enter_async_context(Enforcer(ingest, incidents, enforcer_settings(config)))
        else:
            parts = RemoteParts(
                delivery=delivery,
                ingest=ingest,
                incidents=incidents,
                database=database,
                signer=signer,
                secret=credentials.deployment,
                distrust=Distrust(metrics),
                keys=config.trust.keys,
                last_packet_at=lambda _stream: None,
            )
            cutting = await stack.enter_async_context(remote.cuts(parts))
        responder = await stack.enter_async_context(
            Responder(
                delivery=delivery,
                incidents=incidents,
                enforcer=cutting,
                breaker=Breaker(BreakerSettings(cuts=1_000_000)),
                metrics=metrics,
                settings=response_settings(config),
                live_streams=lambda: 1000,
                sign=signer,
            )
        )
        heard.append(responder)
        yield Numbered(delivery, responder, cutting, ingest, mqtt, incidents, metrics, credentials.deployment)


async def _run(path: Path) -> None:
    configure_logs("warning", "json")
    async with numbered(load_config(path)) as service:
        print("ready", flush=True)
        await service.answer_publishers()


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1])))
