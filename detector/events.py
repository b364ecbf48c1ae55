"""The small frozen facts that flow between the service's parts."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum, unique

from models.evidence import Inspection


@unique
class Step(IntEnum):
    """The ladder of a bank or a class; ordered, so that the weaker of two is `min`."""

    OFF = 0
    SHADOW = 1
    REVIEW = 2
    CUT = 3

    @property
    def word(self) -> str:
        """The word in configs, alerts and outputs."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class StreamKey:
    """Where a stream lives on its ingest server. `app/name` holds the publisher's key: never logged, never sent.

    `app` is empty on servers whose paths may have a single part.
    """

    server: str
    app: str
    name: str = field(repr=False)

    @property
    def path(self) -> str:
        """What `match:` patterns in the config are held against."""
        return f"{self.app}/{self.name}" if self.app else self.name


@dataclass(frozen=True, slots=True)
class Publisher:
    """A live publisher as its ingest server reports it. `connection` is the server's own id of the connection."""

    key: StreamKey
    connection: str
    since_at: float
    address: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """One analysed frame of one stream. Times are monotonic seconds, or media seconds where a file is scanned."""

    stream_id: str
    session: str
    sequence: int
    reason: str
    arrived_at: float
    decoded_at: float
    scored_at: float
    pts_seconds: float | None
    is_corrupt: bool
    inspection: Inspection


@dataclass(frozen=True, slots=True)
class SecondTestResult:
    """A second question asked about a match: `kind` is `share` or `second_hash`, passed where `measured` <= `limit`."""

    kind: str
    measured: float
    limit: float


@dataclass(frozen=True, slots=True)
class Signal:
    """One reason to act. `kind`: hash (a match), sequence (several frames of one item), class (a score) or blind.

    `name` is the algorithm, the class (`model/label`) or the cause of blindness. `distance` is set for hashes and
    sequences (the farthest frame's), `frames` for sequences, `score` for classes. `threshold` is the limit in force.
    `expected_false` is how many strangers as near as this one frame meets by chance in a list of that length, None
    where the chance is not known. `provider` and `precision` are what ran a model, `view` the look that gave its score,
    which `is_reused` where the picture had not changed. `source` is what the breaker counts by: `BANK/entry`,
    `model/label` or `blind/cause`. `opinion` is what is thought of the entry, `exchange` and `version` are the list
    that its bank was filled from and which of its versions, None where that is no list from elsewhere.
    """

    kind: str
    name: str
    source: str
    step: Step
    threshold: float
    bank: str | None = None
    entry: str | None = None
    score: float | None = None
    distance: int | None = None
    frames: int | None = None
    view: str | None = None
    quality: int | None = None
    second_test: SecondTestResult | None = None
    expected_false: float | None = None
    generation: str | None = None
    opinion: str | None = None
    exchange: str | None = None
    version: str | None = None
    model_sha256: str | None = None
    provider: str | None = None
    precision: str | None = None
    is_reused: bool = False
    reaches: Step = Step.OFF
    """What it would be at step cut; told of shadows alone."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy wants done about one observation, or about a stream that cannot be seen: then it has none.

    `action` is the strongest step that any signal reached; `is_live` is False where enforcement is off. `refused_by`
    names the breaker's reason when a cut became a review. `votes` are (n, of) of the deciding signal; (1, 1) for a
    single-frame hash match, the distinct frames of a sequence.
    """

    stream_id: str
    session: str
    observation: Observation | None
    action: Step
    is_live: bool
    signals: tuple[Signal, ...]
    votes: tuple[int, int]
    refused_by: str | None = None


@unique
class CutState(StrEnum):
    """How far the cut of an incident got."""

    NONE = "none"
    PENDING = "pending"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    UNCUTTABLE = "uncuttable"


@dataclass(frozen=True, slots=True)
class CutResult:
    """What the ingest server did.

    `count` is how many publishers it dropped; `gone_at` the monotonic time of the last media byte it accepted, or None
    where the server does not say; `note` what an operator should know of this cut, one sentence.
    """

    count: int
    gone_at: float | None = None
    note: str = ""
