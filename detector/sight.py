"""What one stream's session sees: its state, its account, and its blindness, from what readers and analysis tell.

Pure, on a passed-in clock: every moment is told with the event.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from detector.blindness import Blindness, BlindRule, FailingDecoder, Record, cause_of
from detector.coverage import Cause, Coverage, Ledger
from streams.frame import MAX_TRACKS, Frame
from streams.sampling import SamplingMode, SamplingSettings
from streams.wire import Ended, Heartbeat, Opened

_PICTURELESS_PROMISES = 2.0
"""A reader that gets video takes a picture of it within `detect_within`; twice as long without one is blindness."""

_FLOWING_SECONDS = 1.0
"""Packets that came so recently are coming."""

_DECODING_SECONDS = 0.25
"""A packet that came so much after a picture was due had it decoded."""

_LONGEST_PACE_SECONDS = 60.0
"""In mode `keyframes` the publisher sets the pace; after so long without a keyframe he has set none."""

_HEARD_LATER_SECONDS = 1.0
"""That a source is open, or a track is heard, may be told so long after its first picture arrived."""

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

    def __init__(self, now: float, settings: SightSettings, record: Record | None = None) -> None:
        self.state = "connecting"
        self.code = ""
        self.opened: Opened | None = None
        self.last_sample_at: float | None = None
        self.last_packet_at: float | None = None
        within_seconds = settings.sampling.detect_within_seconds
        self.blindness = Blindness(settings.rules, now, Cause.CONNECTING, within_seconds, record or Record())
        self._settings = settings
        self._ledger = Ledger(now, settings.sampling.detect_within_seconds, Cause.CONNECTING)
        self._tracks: set[int] = set()
        self._opened_at = now
        self._quiet_since = now
        self._picture_at: dict[int, float] = {}
        self._looked_at: dict[int, float] = {}
        self._sampled_at: dict[int, float] = {}
        self._failing = FailingDecoder()
        self._is_throttled = False
        self._throttled_seconds = 0.0
        self._throttled_at_picture: dict[int, float] = {}
        self._slowed_to_seconds = 0.0
        self._patience_seconds = within_seconds

    def adjust(self, settings: SightSettings) -> None:
        """Go by other settings from now on."""
        self._settings = settings
        self.blindness.rules = settings.rules
        self.blindness.within_seconds = settings.sampling.detect_within_seconds
        self._ledger.adjust(settings.sampling.detect_within_seconds)
        self._patience_seconds = max(self._patience_seconds, self._pace_seconds)

    def slowed(self, to_seconds: float, now: float) -> None:
        """Two samples may lie `to_seconds` apart from now on, as CPU time is short; 0: as promised again.

        What is not seen beyond the promise is not seen for want of CPU time.
        """
        if to_seconds == self._slowed_to_seconds:
            return
        self._slowed_to_seconds = to_seconds
        self._patience_seconds = max(self._patience_seconds, self._pace_seconds)
        if self._ledger.latest_cause in (Cause.UNSAMPLED, Cause.OVERLOAD):
            self._ledger.cause(self._skipped_for, now)

    @property
    def _pace_seconds(self) -> float:
        """How far apart two pictures may lie."""
        return max(self._settings.sampling.detect_within_seconds, self._slowed_to_seconds)

    @property
    def _skipped_for(self) -> Cause:
        """Why video that came is not looked at."""
        is_slow = self._slowed_to_seconds > self._settings.sampling.detect_within_seconds
        return Cause.OVERLOAD if self._is_throttled or is_slow else Cause.UNSAMPLED

    def account(self, now: float) -> Coverage:
        """The account up to `now`."""
        return self._ledger.account(now)

    def end(self, at: float) -> None:
        """The session ended; its account is final."""
        self.state = "ended"
        self.blindness.regained(at)
        self._ledger.end(at)

    def note(self, cause: Cause, at: float) -> None:
        """From `at` on, what is not seen is not seen because of `cause`."""
        self._ledger.cause(cause, at)
        if cause in (Cause.UNSAMPLED, Cause.LOW_INFORMATION):
            self.blindness.regained(at)
        else:
            self.blindness.lost(cause, at)

    # What readers tell

    def source_opened(self, opened: Opened, now: float) -> None:
        """A reader has its source open, and has given no picture yet."""
        self.opened = opened
        self.state, self.code = "live", ""
        self._opened_at = self._quiet_since = now
        self._tracks.clear()
        self._picture_at.clear()
        self._looked_at.clear()
        self._sampled_at.clear()
        self._failing = FailingDecoder()
        self._is_throttled, self._throttled_seconds = False, 0.0
        self._throttled_at_picture.clear()
        self.note(Cause.NO_KEYFRAME, now)

    def frame_came(self, frame: Frame) -> None:
        """A reader gave a picture; it shows what arrived, however much later it was decoded."""
        track, at = frame.track, frame.arrived_at
        self._tracks.add(track)
        self._picture_at[track] = max(at, self._picture_at.get(track, at))
        self._throttled_at_picture[track] = self._throttled_seconds
        self._failing.pictured(at)
        self._patience_seconds = self._pace_seconds

    def beat(self, beat: Heartbeat) -> None:
        """A reader's heartbeat: draw conclusions from what it does not say, too."""
        if not math.isnan(beat.last_packet_at):
            self.last_packet_at = max(beat.last_packet_at, self.last_packet_at or 0.0)
            self._quiet_since = beat.last_packet_at
        self._failing.beat(beat)
        self._note_throttling(beat)
        self._note_tracks(beat)
        if self.state not in ("live", "stalled"):
            return
        trouble = self._trouble(beat)
        if trouble is not None:
            if self.state == "live" or self.blindness.since_at is None or trouble[0] is not self.blindness.cause:
                self.note(*trouble)
            self.state = "stalled"
        elif self.state == "stalled" and self.quiet_seconds(beat) < _FLOWING_SECONDS:
            self._trouble_passed(beat)

    def _trouble_passed(self, beat: Heartbeat) -> None:
        """Packets come, and nothing is wrong with them; whether anything is seen is for pictures to say."""
        picture_at, since_at = self._last_picture_at(), self.blindness.since_at
        if picture_at is None:
            self.note(Cause.NO_KEYFRAME, beat.sent_at)
        elif since_at is None or self.blindness.cause is Cause.STALL or picture_at > since_at:
            self.note(Cause.UNSAMPLED, beat.sent_at)
        else:
            return
        self.state = "live"

    def quiet_seconds(self, beat: Heartbeat) -> float:
        """How long the source that is open had sent no packet when `beat` was sent; 0 while none is open."""
        return beat.sent_at - self._quiet_since if self.state in ("live", "stalled") else 0.0

    def reader_ended(self, ending: Ended | Exception, now: float) -> None:
        """A reader is gone, by its own word or by the keeper's."""
        self.state = "reconnecting"
        self.code = ending.code.value if isinstance(ending, Ended) else type(ending).__name__
        self.note(cause_of(ending), now)

    def refused(self, now: float) -> None:
        """There is no CPU time to watch it."""
        self.state = self.code = "refused"
        self.note(Cause.REFUSED, now)

    def admitted(self, now: float) -> None:
        """A reader will be started, for one that was refused, too."""
        if self.state == "refused":
            self.state, self.code = "connecting", ""
            self.note(Cause.CONNECTING, now)

    def quarantined(self, now: float) -> None:
        """No reader will be started for a while."""
        self.state, self.code = "quarantined", Cause.CRASH_LOOP.value
        self.note(Cause.CRASH_LOOP, now)

    # What analysis tells

    def looked(self, frame: Frame, *, is_low_information: bool) -> None:
        """A frame was analysed."""
        track, at = frame.track, frame.arrived_at
        self._looked_at[track] = max(at, self._looked_at.get(track, at))
        if is_low_information:
            self._ledger.cause(Cause.LOW_INFORMATION, at)
        else:
            self._sampled_at[track] = max(at, self._sampled_at.get(track, at))
            self._note_sample()
        if self._is_all_seen_again():
            self.blindness.regained(at)

    def _is_all_seen_again(self) -> bool:
        """Whether every track was looked at since the blindness began; what was in line before it began is no sight."""
        since_at = self.blindness.since_at
        if not self._tracks <= self._looked_at.keys():
            return False
        if since_at is None:
            return True
        slack = _HEARD_LATER_SECONDS if self.blindness.cause is Cause.NO_KEYFRAME else 0.0
        return min(self._looked_at.values()) > since_at - slack

    def _note_sample(self) -> None:
        if not self._tracks <= self._sampled_at.keys():
            return
        moment = min(self._sampled_at.values())
        self.last_sample_at = moment
        self._ledger.sample(moment)
        self._ledger.cause(self._skipped_for, moment)

    def _note_tracks(self, beat: Heartbeat) -> None:
        """A track that sends packets is one that viewers may watch: without a picture of it the stream is not seen."""
        heard = {track for track in range(MAX_TRACKS) if beat.tracks_heard >> track & 1}
        has_dark = not heard <= self._tracks | self._picture_at.keys()
        self._tracks |= heard
        if has_dark and self.blindness.since_at is None:
            self.note(Cause.NO_KEYFRAME, beat.sent_at)

    def _note_throttling(self, beat: Heartbeat) -> None:
        self._is_throttled = beat.throttled_seconds > self._throttled_seconds
        self._throttled_seconds = beat.throttled_seconds

    @property
    def has_pictures(self) -> bool:
        """Whether the source that was opened last gave any."""
        return bool(self._picture_at)

    def _last_picture_at(self) -> float | None:
        """When the track that is longest without a picture had its last; None while any has none."""
        is_complete = bool(self._picture_at) and self._tracks <= self._picture_at.keys()
        return min(self._picture_at.values()) if is_complete else None

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
        if picture_at is None:
            return None
        return self._missed(beat, cause, picture_at)

    def _missed(self, beat: Heartbeat, cause: Cause | None, picture_at: float) -> tuple[Cause, float] | None:
        """Why no picture came since the one at `picture_at`, if one should have."""
        sampling = self._settings.sampling
        unseen_seconds = beat.sent_at - picture_at
        # What was passed over for want of CPU time stays unseen until the next keyframe, however far off that is.
        was_throttled = self._throttled_seconds > min(self._throttled_at_picture.values())
        if was_throttled and unseen_seconds > sampling.detect_within_seconds:
            return Cause.OVERLOAD, picture_at
        if sampling.mode is not SamplingMode.KEYFRAMES:
            due_seconds = self._patience_seconds + _DECODING_SECONDS
            if cause is not None and self._quiet_since - picture_at > due_seconds:
                return cause, picture_at
            is_missing = unseen_seconds > self._patience_seconds + sampling.detect_within_seconds
            return (cause or Cause.NO_VIDEO, picture_at) if is_missing else None
        pace_seconds = max(self._patience_seconds, beat.gop_seconds)  # the publisher sets it
        if cause is None:
            pace_seconds = max(pace_seconds, _LONGEST_PACE_SECONDS / _PICTURELESS_PROMISES)
        is_missing = unseen_seconds > _PICTURELESS_PROMISES * pace_seconds
        return (cause or Cause.NO_KEYFRAME, picture_at) if is_missing else None
