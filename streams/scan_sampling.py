"""Which frames of a file are analysed, and a clock made of its presentation times: pure. Times are passed in."""

from streams.frame import SampleReason
from streams.sampling import SCENE_CHANGE_GREY_LEVELS


class ScanSampler:
    """Decides which frames of a file are analysed; every frame of it is decoded.

    `change` is how far a frame's hash plane lies from that of the latest analysed one (mean absolute difference, in
    grey levels of 256). Times are seconds on the media's own clock.
    """

    def __init__(self, interval_seconds: float) -> None:
        self._interval = interval_seconds
        self._analysed_at: float | None = None

    def reason(self, at: float, change: float) -> SampleReason | None:
        """Why the frame is analysed, or None if it is not; the answer is taken as done."""
        if self._analysed_at is None or change > SCENE_CHANGE_GREY_LEVELS:
            reason = SampleReason.SCENE_CHANGE
        elif at - self._analysed_at >= self._interval:
            reason = SampleReason.INTERVAL
        else:
            return None
        self._analysed_at = at
        return reason


class MediaClock:
    """A file's presentation times made one monotone clock, which starts at 0.

    No step is longer than `longest_step_seconds`, none goes back: where a time is missing, repeats itself or jumps
    back, the clock goes on by one usual frame.
    """

    def __init__(self, frame_seconds: float, longest_step_seconds: float) -> None:
        self._frame_seconds = min(max(frame_seconds, 1 / 240), 1.0)
        self._longest_step = longest_step_seconds
        self._previous: float | None = None
        self._now = 0.0
        self._has_started = False

    def advance(self, time_seconds: float | None, *, heard_seconds: float = 0.0) -> float:
        """Return the clock's time of a frame that claims `time_seconds`.

        `heard_seconds` is how much came in since the last frame and gave none: so much of a longer step is no claim.
        """
        if self._has_started:
            step = 0.0 if time_seconds is None or self._previous is None else time_seconds - self._previous
            self._now += min(step, max(self._longest_step, heard_seconds)) if step > 0.0 else self._frame_seconds
        self._has_started = True
        if time_seconds is not None:
            self._previous = time_seconds
        return self._now

    def end(self, last_frame_seconds: float | None = None) -> float:
        """Return the clock's time after the last frame, which was shown for `last_frame_seconds` if that is known."""
        if not self._has_started:
            return 0.0
        if last_frame_seconds is None or not 0.0 < last_frame_seconds <= self._longest_step:
            return self._now + self._frame_seconds
        return self._now + last_frame_seconds
