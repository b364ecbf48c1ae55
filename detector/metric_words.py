"""The words that label what is counted: small sets, so that the number of series does not grow with the streams."""

from enum import StrEnum, unique
from typing import Literal


@unique
class DropCause(StrEnum):
    """Why a sampled frame was never analysed."""

    REPLACED = "replaced"
    STALE = "stale"
    QUEUE_FULL = "queue_full"
    WORKER_LOST = "worker_lost"


@unique
class CrashKind(StrEnum):
    """Which process ended without being told to."""

    READER = "reader"
    READER_STALLED = "reader_stalled"
    READER_MISBEHAVED = "reader_misbehaved"
    FORKSERVER = "forkserver"
    ANALYSIS_WORKER = "analysis_worker"
    GPU = "gpu"


@unique
class AlertState(StrEnum):
    """How far an alert got."""

    QUEUED = "queued"
    NOT_DURABLE = "not_durable"
    RETRIED = "retried"
    DELIVERED = "delivered"
    REFUSED = "refused"
    EXPIRED = "expired"


@unique
class Refusal(StrEnum):
    """Why a request to the control API over TCP was refused."""

    NONE_GIVEN = "none_given"
    WRONG = "wrong"
    TOO_MANY = "too_many"


@unique
class RowsLost(StrEnum):
    """What waited for the disk until memory had no more room for it."""

    ACCOUNTS = "accounts"
    INCIDENTS = "incidents"


@unique
class KeptFrame(StrEnum):
    """What became of a frame that hit in a stream that was cut: whether the incident bank took it."""

    STORED = "stored"
    ANOTHERS = "anothers"
    DULL = "dull"
    NO_ROOM = "no_room"
    FAILED = "failed"


CoverageKind = Literal["seen", "skipped", "blind"]
