"""Every second of a stream accounted for: seen, skipped or blind, with the cause. Pure; works on any clock.

A stream's time alive is cut at its analysed samples. Of each gap between two of them, the first `detect_within` is
seen; the rest was skipped or blind, by the causes in force at the time.
"""

from bisect import insort
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum, unique

_NS = 1_000_000_000
_SAMPLES_OPEN = 32  # samples that may still be overtaken by an earlier one: analysis answers out of order
_CAUSES_OPEN = 64


@unique
class Kind(StrEnum):
    """What a stretch of time was."""

    SEEN = "seen"
    SKIPPED = "skipped"
    BLIND = "blind"


@unique
class Cause(StrEnum):
    """Why time was not seen. Skipped: video arrived. Blind: none did, or none could be decoded."""

    UNSAMPLED = "unsampled"
    OVERLOAD = "overload"
    STALE = "stale"
    LOW_INFORMATION = "low_information"
    ANALYSIS_FAILED = "analysis_failed"
    REFUSED = "refused"
    CONNECTING = "connecting"
    UNREACHABLE = "unreachable"
    ENDED = "ended"
    STALL = "stall"
    NOT_MEDIA = "not_media"
    CODEC = "codec"
    RESOLUTION = "resolution"
    TOO_MANY_TRACKS = "too_many_tracks"
    NO_VIDEO = "no_video"
    NO_KEYFRAME = "no_keyframe"
    KEYFRAME_WITHOUT_PICTURE = "keyframe_without_picture"
    DECODE_ERRORS = "decode_errors"
    MEMORY = "memory"
    READER_FAILED = "reader_failed"
    CRASH_LOOP = "crash_loop"

    @property
    def kind(self) -> Kind:
        """Skipped or blind."""
        return Kind.SKIPPED if self in _SKIPPED else Kind.BLIND


_SKIPPED = frozenset({Cause.UNSAMPLED, Cause.OVERLOAD, Cause.STALE, Cause.LOW_INFORMATION, Cause.ANALYSIS_FAILED})


@dataclass(frozen=True, slots=True)
class Coverage:
    """One stream's account, in integer nanoseconds so that the parts add up to `alive_ns` exactly."""

    alive_ns: int
    seen_ns: int
    by_cause_ns: dict[Cause, int] = field(default_factory=dict)
    max_gap_ns: int = 0

    @property
    def skipped_ns(self) -> int:
        """Time in which video arrived and was not looked at in time."""
        return sum(ns for cause, ns in self.by_cause_ns.items() if cause.kind is Kind.SKIPPED)

    @property
    def blind_ns(self) -> int:
        """Time in which there was nothing to look at."""
        return sum(ns for cause, ns in self.by_cause_ns.items() if cause.kind is Kind.BLIND)

    @property
    def seen_seconds(self) -> float:
        """`seen_ns` in seconds."""
        return self.seen_ns / _NS

    @property
    def skipped_seconds(self) -> float:
        """`skipped_ns` in seconds."""
        return self.skipped_ns / _NS

    @property
    def blind_seconds(self) -> float:
        """`blind_ns` in seconds."""
        return self.blind_ns / _NS

    @property
    def alive_seconds(self) -> float:
        """`alive_ns` in seconds."""
        return self.alive_ns / _NS

    @property
    def max_gap_seconds(self) -> float:
        """The longest time without an analysed sample, in seconds; the one that is still open counts."""
        return self.max_gap_ns / _NS

    def blind_seconds_by_cause(self) -> dict[str, float]:
        """Seconds of each blind cause that occurred, by its word."""
        return {cause.value: ns / _NS for cause, ns in self.by_cause_ns.items() if cause.kind is Kind.BLIND}


class Ledger:
    """The account of one stream from `started_at` on.

    All times are seconds of one clock: monotonic for a live stream (a sample's time is its `arrived_at`), the media's
    own for a file. Samples may be told late, and out of order among the last 32; one that comes too late even for that
    is left out, so that the account never flatters. A stream without any sample has no seen time.
    """

    def __init__(self, started_at: float, detect_within_seconds: float, cause: Cause = Cause.CONNECTING) -> None:
        self._start = _ns(started_at)
        self._within = _ns(detect_within_seconds)
        self._end: int | None = None
        self._edge = self._start  # where the oldest open gap begins
        self._settled = self._start  # what lies before this is in the totals for good
        self._seen = 0
        self._unseen: Counter[Cause] = Counter()
        self._opening: Counter[Cause] | None = Counter()  # becomes seen if a first sample comes, and only then
        self._max_gap = 0
        self._samples: list[int] = []
        self._causes: list[tuple[int, Cause]] = [(self._start, cause)]

    def sample(self, at: float) -> None:
        """A frame that arrived at `at` was analysed."""
        moment = max(_ns(at), self._start)
        if self._end is not None or moment < self._settled:
            return
        insort(self._samples, moment)
        if len(self._samples) > _SAMPLES_OPEN:
            self._close_gap(self._samples.pop(0))

    def cause(self, cause: Cause, at: float) -> None:
        """From `at` on, what is not seen is not seen because of `cause`."""
        if self._end is not None or cause is self._causes[-1][1]:
            return
        moment = max(_ns(at), self._causes[-1][0])
        self._causes.append((moment, cause))
        if len(self._causes) > _CAUSES_OPEN:
            self._settle_all(moment)

    @property
    def latest_cause(self) -> Cause:
        """The cause in force now."""
        return self._causes[-1][1]

    def adjust(self, detect_within_seconds: float) -> None:
        """From the gap that is open now on, `detect_within_seconds` is seen of each."""
        self._within = _ns(detect_within_seconds)

    def account(self, now: float) -> Coverage:
        """The account as it would be if the stream ended at `now`; later samples can only turn more of it into seen."""
        end = self._end if self._end is not None else max(_ns(now), self._settled, *self._samples[-1:])
        return deepcopy(self)._close(end)  # noqa: SLF001 - a Ledger itself; this one stays open

    def end(self, at: float) -> Coverage:
        """The stream ended at `at`: the final account. What is told afterwards changes nothing."""
        if self._end is None:
            self._end = max(_ns(at), self._settled, *self._samples[-1:])
        return self.account(at)

    def _close(self, end: int) -> Coverage:
        self._settle_all(end)
        unseen = self._unseen + (self._opening or Counter())
        return Coverage(end - self._start, self._seen, dict(unseen), max(self._max_gap, end - self._edge))

    def _settle_all(self, moment: int) -> None:
        for sample in self._samples:
            self._close_gap(sample)
        self._samples.clear()
        self._settle(moment)

    def _close_gap(self, sample: int) -> None:
        self._settle(sample)
        if self._opening is not None:
            self._seen += self._opening.total()
            self._opening = None
        self._max_gap = max(self._max_gap, sample - self._edge)
        self._edge = sample

    def _settle(self, moment: int) -> None:
        """Put everything up to `moment`, which lies in the oldest gap, into the totals."""
        in_time = min(moment, self._edge + self._within)
        if in_time > self._settled:
            if self._opening is None:
                self._seen += in_time - self._settled
            else:
                self._opening += self._by_cause(self._settled, in_time)
            self._settled = in_time
        if moment > self._settled:
            self._unseen += self._by_cause(self._settled, moment)
            self._settled = moment
        while len(self._causes) > 1 and self._causes[1][0] <= self._settled:
            del self._causes[0]

    def _by_cause(self, begin: int, end: int) -> Counter[Cause]:
        """The time from `begin` to `end` by the causes in force."""
        shares: Counter[Cause] = Counter()
        until = [at for at, _ in self._causes[1:]] + [end]
        for (since, cause), last in zip(self._causes, until, strict=True):
            shares[cause] += max(0, min(last, end) - max(since, begin))
        return shares


def _ns(seconds: float) -> int:
    return round(seconds * _NS)
