"""What one stream's session sees: its state, its account, and its blindness, from what readers and analysis tell.

Pure, on a passed-in clock: every moment is told with the event.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from detector.blindness import Blindness, BlindRule, FailingDecoder, cause_of
from detector.coverage import Cause, Coverage, Ledger
from streams.frame import Frame
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import Ended, Heartbeat, Opened

_PICTURELESS_PROMISES = 2.0
"""A reader that gets video takes a picture of it within `detect_within`; twice as long without one is blindness."""

_FLOWING_SECONDS = 1.0
"""Packets that came so recently are coming."""

_FIRST_PICTURE_SECONDS = 2.0
"""A source that was open for so long, whose keyframes came and gave errors, will hardly give pictures."""


@dataclass(frozen=True, slots=True)
class SightSettings:
    """What sight is measured by: the promise, the rules for blindness, and how long a stream may send nothing."""

    sampling: SamplingSettings
    rules: Mapping[Cause, BlindRule]
    stall_after_seconds: float


class Sight:
    """The view that a session has of its stream. `state` and `code` are words for operators.

    A stream with several video tracks is seen as far as all of them are: the account goes by the one that was looked
    at last.
    """

    def __init__(self, now: float, settings: SightSettings) -> None:
        self.state = "connecting"
        self.code = ""
        self.opened: Opened | None = None
        self.last_sample_at: float | None = None
        self.last_packet_at: float | None = None
        self.blindness = Blindness(settings.rules, now, Cause.CONNECTING)
        self._settings = settings
        self._ledger = Ledger(now, settings.sampling.detect_within_seconds, Cause.CONNECTING)
        self._tracks = 1
        self._opened_at = now
        self._quiet_since = now
        self._picture_at: dict[int, float] = {}
        self._looked_at: dict[int, float] = {}
        self._sampled_at: dict[int, float] = {}
        self._failing = FailingDecoder()

    def adjust(self, settings: SightSettings) -> None:
        """Go by other settings from now on."""
        self._settings = settings
        self.blindness.rules = settings.rules
        self._ledger.adjust(settings.sampling.detect_within_seconds)

    def account(self, now: float) -> Coverage:
        """The account up to `now`."""
        return self._ledger.account(now)

    def end(self, at: float) -> None:
        """The session ended; its account is final."""
        self.state = "ended"
        self._ledger.end(at)

    def note(self, cause: Cause, at: float) -> None:
        """From `at` on, what is not seen is not seen because of `cause`."""
        self._ledger.cause(cause, at)
        if cause in (Cause.UNSAMPLED, Cause.LOW_INFORMATION):
            self.blindness.regained()
        else:
            self.blindness.lost(cause, at)

    # What readers tell

    def source_opened(self, opened: Opened, now: float) -> None:
        """A reader has its source open, and has given no picture yet."""
        self.opened = opened
        self.state, self.code = "live", ""
        self._opened_at = self._quiet_since = now
        self._picture_at.clear()
        self._looked_at.clear()
        self._sampled_at.clear()
        self._failing = FailingDecoder()
        self.note(Cause.NO_KEYFRAME, now)

    def frame_came(self, frame: Frame) -> None:
        """A reader gave a picture."""
        self._picture_at[_track(frame)] = frame.decoded_at
        self._failing.pictured()

    def beat(self, beat: Heartbeat) -> None:
        """A reader's heartbeat: draw conclusions from what it does not say, too."""
        if not math.isnan(beat.last_packet_at):
            self.last_packet_at = max(beat.last_packet_at, self.last_packet_at or 0.0)
            self._quiet_since = beat.last_packet_at
        self._failing.beat(beat)
        if self.state not in ("live", "stalled"):
            return
        trouble = self._trouble(beat)
        if trouble is not None:
            if self.state == "live" or trouble[0] is not self.blindness.cause:
                self.note(*trouble)
            self.state = "stalled"
        elif self.state == "stalled" and self.quiet_seconds(beat) < _FLOWING_SECONDS:
            self.note(Cause.UNSAMPLED if self._last_picture_at() is not None else Cause.NO_KEYFRAME, beat.sent_at)
            self.state = "live"

    def quiet_seconds(self, beat: Heartbeat) -> float:
        """How long the source that is open had sent no packet when `beat` was sent; 0 while none is open."""
        return beat.sent_at - self._quiet_since if self.state in ("live", "stalled") else 0.0

    def reader_ended(self, ending: Ended | Exception, now: float) -> None:
        """A reader is gone, by its own word or by the keeper's."""
        self.state = "reconnecting"
        self.code = ending.code.value if isinstance(ending, Ended) else type(ending).__name__
        self.note(cause_of(ending), now)

    def quarantined(self, now: float) -> None:
        """No reader will be started for a while."""
        self.state, self.code = "quarantined", Cause.CRASH_LOOP.value
        self.note(Cause.CRASH_LOOP, now)

    # What analysis tells

    def looked(self, frame: Frame, *, is_low_information: bool) -> None:
        """A frame was analysed."""
        track, at = _track(frame), frame.arrived_at
        self._looked_at[track] = at
        if is_low_information:
            self._ledger.cause(Cause.LOW_INFORMATION, at)
        else:
            self._sampled_at[track] = max(at, self._sampled_at.get(track, at))
            self._note_sample()
        if len(self._looked_at) >= self._tracks:
            self.blindness.regained()

    def frame_lost(self, cause: Cause, now: float) -> None:
        """A frame that came was not analysed."""
        self.note(cause, now)

    def _note_sample(self) -> None:
        if len(self._sampled_at) < self._tracks:
            return
        moment = min(self._sampled_at.values())
        self.last_sample_at = moment
        self._ledger.sample(moment)
        self._ledger.cause(Cause.UNSAMPLED, moment)

    def _last_picture_at(self) -> float | None:
        """When the track that is longest without a picture had its last; None while any has none."""
        return min(self._picture_at.values()) if len(self._picture_at) >= self._tracks else None

    def _trouble(self, beat: Heartbeat) -> tuple[Cause, float] | None:
        """Why nothing can be seen, and since when, as far as heartbeats show it."""
        if self.quiet_seconds(beat) > self._settings.stall_after_seconds:
            return Cause.STALL, self._quiet_since
        cause, picture_at = self._failing.cause, self._last_picture_at()
        if beat.keyframes and cause is not None:  # who joins between two keyframes gets errors until the next one
            if self._failing.erring_since is not None:
                return cause, self._failing.erring_since
            if picture_at is None and beat.sent_at - self._opened_at > _FIRST_PICTURE_SECONDS:
                return cause, beat.sent_at
        if picture_at is not None and beat.sent_at - picture_at > self._patience_seconds(beat, has_errors=bool(cause)):
            return cause or Cause.NO_VIDEO, beat.sent_at
        return None

    def _patience_seconds(self, beat: Heartbeat, *, has_errors: bool) -> float:
        """How long pictures may be missing that came once: longer than any stream that is looked at explains."""
        sampling = self._settings.sampling
        expected_seconds = sampling.detect_within_seconds
        if sampling.mode is SamplingMode.KEYFRAMES:  # the publisher sets the pace
            expected_seconds = max(expected_seconds, beat.gop_seconds) if has_errors else math.inf
        return _PICTURELESS_PROMISES * expected_seconds


def _track(_frame: Frame) -> int:
    return 0
