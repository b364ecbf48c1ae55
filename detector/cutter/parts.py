"""What a cutter is made of, and what it counts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from detector.cutter.asked import AskedAlerts
from detector.enforcement import Enforcer
from detector.ingest.adapter import IngestServer
from detector.store.incidents import Incidents
from detector.trust.distrust import Distrust
from detector.trust.replay import SeenAlerts
from detector.trust.signing import Signer, TrustedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class CutterParts:
    """What the cutter is made of. `send_ack` publishes a signed answer of one stream, and never raises."""

    ingest: IngestServer
    enforcer: Enforcer
    incidents: Incidents
    asked: AskedAlerts
    seen: SeenAlerts
    signer: Signer
    node: str
    secret: bytes = field(repr=False)
    keys: Callable[[], TrustedKeys]
    distrust: Distrust
    send_ack: Callable[[str, bytes], Awaitable[None]]


@dataclass(slots=True)
class CutterCounters:
    """What happened since the start."""

    alerts_total: int = 0
    ignored_total: int = 0
    repeated_total: int = 0
    not_durable_total: int = 0
    overflowed_total: int = 0
    answers_total: dict[str, int] = field(default_factory=dict)
