"""What a cutter is made of, and what it counts."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from detector.cutter.asked import AskedAlerts
from detector.enforcement import Enforcer
from detector.ingest.adapter import IngestServer
from detector.metric_words import CutterWord
from detector.store.incidents import Incidents
from detector.trust.distrust import Distrust
from detector.trust.replay import SeenAlerts
from detector.trust.signing import Signer, TrustedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class CutterParts:
    """What the cutter is made of.

    `send_ack` publishes a signed answer of one stream, and never raises; `told` counts what becomes of alerts.
    """

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
    told: Callable[[CutterWord], None] = lambda _: None


class CutterCounters:
    """What happened since the start; `told` hears of each."""

    def __init__(self, told: Callable[[CutterWord], None] = lambda _: None) -> None:
        self.by_word_total: Counter[CutterWord] = Counter()
        self._told = told

    def count(self, word: CutterWord) -> None:
        """One alert met this."""
        self.by_word_total[word] += 1
        self._told(word)
