"""Why a stream cannot be seen, what is done about it, and when: pure, on a passed-in clock."""

import math
from collections import OrderedDict
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

_FORGOTTEN_AFTER_SECONDS = 2 * _LONGEST_SILENCE_SECONDS
"""Nothing was told for so long: the next blindness is told as a first one."""

_LEAST_SECONDS = 1.0
"""However much a stream hid before, so long it is blind anew before that is told."""

_PAID_BACK = 0.25
"""What was hidden and not told is forgiven at this rate while the stream is seen: who is blind for a fifth of the time,
or for `detect_within` at a time, shows as much as was promised."""

_RECORDS_KEPT = 4096

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

_TOLD_AS: Final = {Cause.STALE: Cause.OVERLOAD, Cause.REFUSED: Cause.OVERLOAD}

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
class Record:
    """What is known of one publisher's blindness over all his sessions: who comes back does not begin anew.

    `owed_seconds` is earlier blindness that nobody was told of, `blamed_seconds` what of it was his doing and is not
    cut for yet, both as far as they are not forgiven.
    """

    owed_seconds: float = 0.0
    blamed_seconds: float = 0.0
    seen_since: float = -math.inf
    again_at: float = -math.inf
    _tellings: int = 0
    _told_at: float = -math.inf
    _told_at_once: set[Cause] = field(default_factory=set)

    def forgive(self, now: float) -> None:
        """He was seen, or away, until `now`."""
        forgiven = _PAID_BACK * max(0.0, now - self.seen_since)
        self.owed_seconds = max(0.0, self.owed_seconds - forgiven)
        self.blamed_seconds = max(0.0, self.blamed_seconds - forgiven)
        self.seen_since = max(now, self.seen_since)

    def told(self, cause: Cause, after_seconds: float, now: float) -> None:
        """A blindness was told; the next one is at a distance that grows with each."""
        if now - self._told_at > _FORGOTTEN_AFTER_SECONDS:
            self._tellings = 0
            self._told_at_once.clear()
        distance = max(1.0, after_seconds) * 2 ** min(self._tellings, 16)
        self._told_at, self.again_at = now, now + min(distance, _LONGEST_SILENCE_SECONDS)
        self._tellings += 1
        if after_seconds <= 0:
            self._told_at_once.add(cause)

    def waits(self, cause: Cause, after_seconds: float) -> bool:
        """Whether a telling keeps its distance; what is to be told at once does not, the first time."""
        return after_seconds > 0 or cause in self._told_at_once


class Records:
    """The records of the streams that were watched last; streams are told apart by `stream_id`."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()

    def of(self, stream_id: str) -> Record:
        """The record of one stream, new if there is none."""
        record = self._records.setdefault(stream_id, Record())
        self._records.move_to_end(stream_id)
        if len(self._records) > _RECORDS_KEPT:
            self._records.popitem(last=False)
        return record


@dataclass(slots=True)
class Blindness:
    """Whether one stream can be seen, since when it cannot and why; and when that is to be told.

    Each blindness is told once for each of its causes, and one telling after the other at growing distances, up to
    `_LONGEST_SILENCE_SECONDS`. A cause whose rule asks for more than was asked for is told at once; a cut is asked for
    again as long as the blindness lasts.

    A blindness that ends, with the session or by a picture, before it was told is counted towards the next, as far as
    nothing was seen for more than `within_seconds`: else a publisher who has a picture seen whenever it would be told
    could hide all the rest. Towards a cut only the time counts whose cause lets him be cut.
    """

    rules: Mapping[Cause, BlindRule]
    since_at: float | None
    cause: Cause
    within_seconds: float = 3.0
    record: Record = field(default_factory=Record)
    _told: dict[Cause, Step] = field(default_factory=dict)
    _cause_at: float = -math.inf
    _seen_at: float = -math.inf
    _blamed: float = 0.0  # seconds of this blindness, up to `_cause_at`, that are the publisher's doing

    def __post_init__(self) -> None:
        """Count from the beginning if it begins blind."""
        if self.since_at is not None:
            self._seen_at = self.since_at  # nobody expects to see the beginning at once
            self._begin(self.since_at)

    def lost(self, cause: Cause, at: float) -> None:
        """Nothing can be seen because of `cause`; since `at`, unless it was so before."""
        cause = _TOLD_AS.get(cause, cause)
        if self.since_at is None:
            self._begin(at)
        elif cause is not self.cause:
            self._settle_blame(at)
        self.cause = cause

    def regained(self, at: float) -> None:
        """The stream can be seen, as what it showed at `at` was."""
        if self.since_at is None:
            self._seen_at = max(at, self._seen_at)
            return
        self._settle_blame(at)
        record = self.record
        beyond = max(0.0, at - max(self.since_at, self._seen_at + self.within_seconds))
        if self._told:
            record.owed_seconds = 0.0
        else:
            record.owed_seconds += beyond
        if Step.CUT in self._told.values():
            record.blamed_seconds = 0.0
        else:
            record.blamed_seconds += min(self._blamed, beyond)
        record.seen_since = max(at, record.seen_since)
        self._seen_at = max(at, self._seen_at)
        self.since_at = None
        self._told.clear()

    def _begin(self, at: float) -> None:
        self.record.forgive(at)
        self.since_at = self._cause_at = at
        self._blamed = 0.0

    def is_overdue(self, now: float) -> bool:
        """Whether it lasts longer than its rule allows, told or not, and is not to be ignored."""
        rule = self.rules.get(self.cause)
        if self.since_at is None or rule is None or rule.action is Reaction.IGNORE:
            return False
        return now >= self._reached_at(self.since_at, rule)

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
        is_at_once = is_more or not self.record.waits(self.cause, rule.after_seconds)
        return max(self._reached_at(self.since_at, rule), -math.inf if is_at_once else self.record.again_at)

    def take(self, now: float) -> BlindAlert | None:
        """What is to be told now, if anything; the answer is taken as done."""
        if now < self.due_at() or self.since_at is None:
            return None
        rule = self.rules[self.cause]
        self._told[self.cause] = _step(rule)
        self.record.told(self.cause, rule.after_seconds, now)
        return BlindAlert(self.cause, _step(rule), self.since_at)

    def _settle_blame(self, at: float) -> None:
        at = max(at, self._cause_at)
        if self.cause not in NOT_TO_CUT:
            self._blamed += at - self._cause_at
        self._cause_at = at

    def _reached_at(self, since_at: float, rule: BlindRule) -> float:
        """When nothing was seen for as long as the rule allows; for a cut: by the publisher's doing."""
        soonest = since_at + min(rule.after_seconds, _LEAST_SECONDS)
        if rule.action is Reaction.CUT:
            return max(soonest, self._cause_at + rule.after_seconds - self._blamed - self.record.blamed_seconds)
        return max(soonest, since_at + rule.after_seconds - self.record.owed_seconds)


class FailingDecoder:
    """Tells a decoder that gives nothing but errors from one that is disturbed now and then, beat by beat."""

    def __init__(self) -> None:
        self._before: Heartbeat | None = None
        self._at_picture: Heartbeat | None = None
        self._erring_since: float | None = None

    def pictured(self, at: float) -> None:
        """A picture came out of what arrived at `at`; one from before the row of errors says nothing about it."""
        if self._erring_since is not None and at < self._erring_since:
            return
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
