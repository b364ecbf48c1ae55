"""What the assembly hands to the service, and where the running service is found."""

from dataclasses import dataclass

from detector.alerts.alarm import Alarms
from detector.alerts.delivery import Delivery
from detector.alerts.mqtt import MqttSink
from detector.analysis.pool import AnalysisPool
from detector.credentials import Credentials
from detector.enforcement import Cutting
from detector.hold import Hold
from detector.identities import Identities
from detector.ingest.adapter import IngestServer
from detector.ingest.revocations import Revocations
from detector.metrics import Metrics
from detector.simulation.rehearsal import Rehearsal
from detector.store.database import Database
from detector.trust.distrust import Distrust
from detector.trust.keyring import Keyring
from models.manifest import Manifest
from streams.nursery import Nursery


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the running service is found. `ingest` and `broker` are None where they are not its own."""

    http: str
    ingest: str | None
    broker: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the service is made of, started; whoever made them ends them."""

    manifests: tuple[Manifest, ...]
    metrics: Metrics
    nursery: Nursery
    pool: AnalysisPool
    credentials: Credentials
    keyring: Keyring
    distrust: Distrust
    database: Database
    sink: MqttSink
    delivery: Delivery
    alarms: Alarms
    revocations: Revocations
    ingest: IngestServer
    hold: Hold
    identities: Identities
    enforcer: Cutting
    rehearsal: Rehearsal
