"""Why a stream cannot be seen, what is done about it, and when: pure, on a passed-in clock."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final

from detector.coverage import Cause
from detector.events import Signal, Step
from streams.keeper import ReaderFailed
from streams.wire import EndCode, Ended, Heartbeat

_LONGEST_SILENCE_SECONDS = 300.0
"""A stream that is blind again and again is told of at least this often."""

_ERRING_SECONDS = 2.5
"""Decoding that fails in every heartbeat for so long, without one picture, is no accident of the network."""


@unique
class Reaction(StrEnum):
    """What is done about a stream that cannot be seen."""

    IGNORE = "ignore"
    ALERT = "alert"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class BlindRule:
    """What is done when a stream is blind for a cause, once nothing of it was seen for `after_seconds`."""

    action: Reaction = Reaction.ALERT
    after_seconds: float = 3.0


DEFAULT_AFTER_SECONDS: Final[Mapping[Cause, float]] = MappingProxyType(
    {
        # What a publisher sends, known for certain as soon as it is known.
        Cause.CODEC: 1.0,
        Cause.RESOLUTION: 1.0,
        Cause.NOT_MEDIA: 1.0,
        Cause.TOO_MANY_TRACKS: 1.0,
        Cause.CRASH_LOOP: 0.0,
        # What may be over in a moment.
        Cause.NO_VIDEO: 2.5,
        Cause.DECODE_ERRORS: 3.0,
        Cause.KEYFRAME_WITHOUT_PICTURE: 3.0,
        Cause.STALL: 3.0,
        Cause.MEMORY: 3.0,
        Cause.READER_FAILED: 5.0,
        # What is usual at a start: encoders choose keyframe intervals of up to ten seconds, and servers wait for one.
        Cause.CONNECTING: 12.0,
        Cause.NO_KEYFRAME: 12.0,
        Cause.UNREACHABLE: 5.0,
        Cause.ENDED: 5.0,
        Cause.ANALYSIS_FAILED: 10.0,
        Cause.OVERLOAD: 10.0,
    }
)
"""Every cause that may become an alert, in seconds without sight until it does."""

NOT_TO_CUT: Final[Mapping[Cause, str]] = MappingProxyType(
    {
        Cause.OVERLOAD: "this machine is too slow, whatever the publisher sends",
        Cause.ANALYSIS_FAILED: "our own processes failed",
        Cause.READER_FAILED: "our own process failed",
        Cause.CONNECTING: "the ingest server may be slow",
        Cause.UNREACHABLE: "the ingest server did not let us in",
        Cause.ENDED: "the ingest server ended what it sent to us",
    }
)
"""Causes that are not the publisher's doing, and why: nobody is cut for them."""

_TOLD_AS: Final = {Cause.STALE: Cause.OVERLOAD}

_END_CAUSES: Final = {
    EndCode.END_OF_STREAM: Cause.ENDED,
    EndCode.REFUSED: Cause.UNREACHABLE,
    EndCode.NOT_FOUND: Cause.UNREACHABLE,
    EndCode.TIMEOUT: Cause.STALL,
    EndCode.NO_VIDEO: Cause.NO_VIDEO,
    EndCode.CODEC: Cause.CODEC,
    EndCode.RESOLUTION: Cause.RESOLUTION,
    EndCode.NOT_MEDIA: Cause.NOT_MEDIA,
    EndCode.DECODE_ERRORS: Cause.DECODE_ERRORS,
    EndCode.OUT_OF_MEMORY: Cause.MEMORY,
    EndCode.SANDBOX: Cause.READER_FAILED,
    EndCode.INTERNAL: Cause.READER_FAILED,
    EndCode.TOO_MANY_TRACKS: Cause.TOO_MANY_TRACKS,
    EndCode.TRACKS_CHANGED: Cause.CONNECTING,
}


def default_rules() -> dict[Cause, BlindRule]:
    """An alert for every cause, each after its own time."""
    return {cause: BlindRule(after_seconds=after) for cause, after in DEFAULT_AFTER_SECONDS.items()}


def cause_of(ending: Ended | Exception) -> Cause:
    """Why nothing is seen after a reader ended like this; an exception is the keeper's or the nursery's."""
    if isinstance(ending, Ended):
        return _END_CAUSES.get(ending.code, Cause.READER_FAILED)
    return Cause.READER_FAILED if isinstance(ending, ReaderFailed) else Cause.UNREACHABLE


@dataclass(frozen=True, slots=True)
class BlindAlert:
    """What is due to be told of a blind stream, and asked for: `step` is review or cut. `since_at` is monotonic."""

    cause: Cause
    step: Step
    since_at: float

    @property
    def signal(self) -> Signal:
        """As an alert tells it; its source is what the breaker counts by."""
        return Signal("blind", self.cause.value, f"blind/{self.cause.value}", self.step, 0.0)


@dataclass(slots=True)
class Blindness:
    """Whether one stream can be seen, since when it cannot and why; and when that is to be told.

    Each blindness is told once for each of its causes, and one telling after the other at growing distances, up to
    `_LONGEST_SILENCE_SECONDS`. A cause whose rule asks for more than was asked for is told at once; a cut is asked for
    again as long as the blindness lasts.
    """

    rules: Mapping[Cause, BlindRule]
    since_at: float | None
    cause: Cause
    _told: dict[Cause, Step] = field(default_factory=dict)
    _tellings: int = 0
    _again_at: float = -math.inf

    def lost(self, cause: Cause, at: float) -> None:
        """Nothing can be seen because of `cause`; since `at`, unless it was so before."""
        self.cause = _TOLD_AS.get(cause, cause)
        if self.since_at is None:
            self.since_at = at

    def regained(self) -> None:
        """The stream can be seen."""
        self.since_at = None
        self._told.clear()

    def is_overdue(self, now: float) -> bool:
        """Whether it lasts longer than its rule allows, told or not, and is not to be ignored."""
        rule = self.rules.get(self.cause)
        if self.since_at is None or rule is None or rule.action is Reaction.IGNORE:
            return False
        return now - self.since_at >= rule.after_seconds

    def due_at(self) -> float:
        """When there will be something to tell if nothing changes; infinite if there will not."""
        rule = self.rules.get(self.cause)
        if self.since_at is None or rule is None or rule.action is Reaction.IGNORE:
            return math.inf
        step = _step(rule)
        told = self._told.get(self.cause)
        if told is not None and told >= step and step is not Step.CUT:
            return math.inf
        is_more = step > max(self._told.values(), default=Step.OFF) and step is Step.CUT
        return max(self.since_at + rule.after_seconds, -math.inf if is_more else self._again_at)

    def take(self, now: float) -> BlindAlert | None:
        """What is to be told now, if anything; the answer is taken as done."""
        if now < self.due_at() or self.since_at is None:
            return None
        rule = self.rules[self.cause]
        self._told[self.cause] = _step(rule)
        distance = max(1.0, rule.after_seconds) * 2 ** min(self._tellings, 16)
        self._again_at = now + min(distance, _LONGEST_SILENCE_SECONDS)
        self._tellings += 1
        return BlindAlert(self.cause, _step(rule), self.since_at)


class FailingDecoder:
    """Tells a decoder that gives nothing but errors from one that is disturbed now and then, beat by beat."""

    def __init__(self) -> None:
        self._before: Heartbeat | None = None
        self._at_picture: Heartbeat | None = None
        self._erring_since: float | None = None

    def pictured(self) -> None:
        """A picture came out."""
        self._at_picture = self._before
        self._erring_since = None

    def beat(self, beat: Heartbeat) -> None:
        """Half a second has passed."""
        began_at = beat.sent_at if self._before is None else self._before.sent_at
        if _errors(beat) <= _errors(self._before):
            self._erring_since = None
        elif self._erring_since is None:
            self._erring_since = began_at
        self._before = beat

    @property
    def erring_since(self) -> float | None:
        """Since when every beat brought errors and no picture came, if that is long enough to be believed."""
        if self._before is None or self._erring_since is None:
            return None
        return self._erring_since if self._before.sent_at - self._erring_since >= _ERRING_SECONDS else None

    @property
    def cause(self) -> Cause | None:
        """What went wrong since the last picture, by what the reader counted; None where nothing did."""
        if self._before is None:
            return None
        if self._before.decode_errors > (self._at_picture.decode_errors if self._at_picture else 0):
            return Cause.DECODE_ERRORS
        flagged = self._at_picture.keyframes_without_picture if self._at_picture else 0
        return Cause.KEYFRAME_WITHOUT_PICTURE if self._before.keyframes_without_picture > flagged else None


def _errors(beat: Heartbeat | None) -> int:
    return 0 if beat is None else beat.decode_errors + beat.keyframes_without_picture


def _step(rule: BlindRule) -> Step:
    return Step.CUT if rule.action is Reaction.CUT else Step.REVIEW
