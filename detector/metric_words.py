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


@unique
class PostOutcome(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    """The final answer was in the reply."""
    TAKEN = "taken"
    """It is acted on, or asks for no cut; the reply says nothing yet."""
    UNREADABLE = "unreadable"
    """Too long, too slow, or gone before its end."""
    NOT_SIGNED = "not_signed"
    """No signature under the secret."""
    STALE = "stale"
    """Signed minutes ago, or ahead: recorded, or clocks that differ."""
    UNTRUSTED = "untrusted"
    """The alert in it is not believed."""
    ALARM = "alarm"
    """It is a word on a service's health, which is for people."""
    TOO_MANY = "too_many"
    """More at once than are looked at."""


@unique
class RemoteWord(StrEnum):
    """What a remote cutter said of a cut, or what became of its word."""

    RECEIVED = "received"
    CUT = "cut"
    REJECTED = "rejected"
    UNPROVED = "unproved"
    """It said `cut`, and packets kept arriving or its server still listed the publisher."""
    UNANSWERED = "unanswered"
    """No answer within `enforcement.deadline`."""


@unique
class CutterWord(StrEnum):
    """What a cutter did with an alert that it believed, or with one that it could not take."""

    CUT = "cut"
    REJECTED = "rejected"
    EXPIRED = "expired"
    IGNORED = "ignored"
    """It asks for no cut."""
    REPEATED = "repeated"
    NOT_DURABLE = "not_durable"
    """Kept in memory alone: the disk refused."""
    OVERFLOWED = "overflowed"
    """More waited than has room; its service sends it again."""


@unique
class IdentityRefusal(StrEnum):
    """Why a publisher was turned away at the hook for its account."""

    DENIED = "denied"
    """It was cut under another key a while ago."""
    UNNAMED = "unnamed"
    """It told none, and `identity.required` is set."""


@unique
class UploadEnd(StrEnum):
    """What became of an upload: what was decided of it, or why it was refused."""

    ALLOW = "allow"
    SHADOW = "shadow"
    REVIEW = "review"
    CUT = "cut"
    UNKNOWN = "unknown"
    OFF = "off"
    BAD_REQUEST = "bad_request"
    TOO_LONG = "too_long"
    NOT_MEDIA = "not_media"
    CROWDED = "crowded"
    SLOW = "slow"
    LATE = "late"
    NO_ROOM = "no_room"
    STOPPING = "stopping"
    LEFT = "left"
    FAILED = "failed"


@unique
class SecondOpinionEnd(StrEnum):
    """What became of a sample that another server was to be asked about."""

    MATCHED = "matched"
    CLEAN = "clean"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The server is left alone for a while."""
    REPLACED = "replaced"
    """It made room for a newer one."""
    LATE = "late"
    """Its stream was gone."""


@unique
class FeedbackEnd(StrEnum):
    """What became of one try to tell an exchange what somebody said of an entry."""

    SENT = "sent"
    REFUSED = "refused"
    FAILED = "failed"


CoverageKind = Literal["seen", "skipped", "blind"]
