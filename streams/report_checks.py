"""Whether what a reader says can be: the service believes nothing of it unchecked."""

from streams.conversation import Report
from streams.frame import Frame, shaped_size
from streams.heartbeat_faults import heartbeat_fault
from streams.job import Job
from streams.messages import Burst, Heartbeat, Opened

CLOCK_SLACK_SECONDS = 1.0
OLDEST_SECONDS = 60.0
"""What a live reader says may lie this far in the future, and this far in the past."""

HEARTBEATS_PER_SECOND = 10
FRAMES_PER_SECOND = 120
FRAMES_PER_SECOND_AND_MORE_TRACK = 40
FLOOD_CREDIT_SECONDS = 10
"""More than this many messages a second, beyond the credit, are a flood. Frames of files are taken as they come."""


class ReaderFailed(Exception):
    """A reader ended without its last word; it is dead, and what it said before was delivered."""


class ReaderMisbehaved(ReaderFailed):
    """Raised by `Keeper.messages`: the reader said what no reader says, and was killed. Nothing of it was used."""


class Checker:
    """The order of one reader's messages, and its times on the shared monotonic clock."""

    def __init__(self, job: Job, *, started_at: float) -> None:
        self._is_live = job.live
        self._speed = job.speed
        self._shaped = job.shaped_short, job.shaped_long
        self._started_at = started_at
        self._is_open = False
        self._tracks = 1
        self._last_sequence = -1
        self._beat: Heartbeat | None = None
        self._heartbeats = 0
        self._frames = 0

    def check(self, message: Report, now: float) -> None:
        """Raise `ReaderMisbehaved` if it cannot."""
        self._count(message, now)
        match message:
            case Opened():
                if self._is_open:
                    raise ReaderMisbehaved("the reader opened its source twice")
                self._is_open = True
                self._tracks = message.video_tracks
            case Frame():
                self._check_frame(message, now)
            case Burst():
                if not self._is_live:
                    raise ReaderMisbehaved("the reader of a file that is scanned sent a burst")
                for frame in message.frames:
                    self._check_frame(frame, now)
            case Heartbeat():
                self._check_moment(message.sent_at, now)
                if message.last_packet_at > now + CLOCK_SLACK_SECONDS:
                    raise ReaderMisbehaved("the reader has seen a packet from the future")
                if fault := heartbeat_fault(self._beat, message, (now - self._started_at) * self._speed):
                    raise ReaderMisbehaved(f"the reader's heartbeat tells of {fault}")
                self._beat = message

    def _count(self, message: Report, now: float) -> None:
        """A reader may catch up after a pause, but not take the service's time from the others."""
        seconds = (FLOOD_CREDIT_SECONDS + now - self._started_at) * self._speed
        self._heartbeats += isinstance(message, Heartbeat)
        if self._is_live:
            self._frames += len(message.frames) if isinstance(message, Burst) else isinstance(message, Frame)
        frames_per_second = FRAMES_PER_SECOND + (self._tracks - 1) * FRAMES_PER_SECOND_AND_MORE_TRACK
        if self._heartbeats > HEARTBEATS_PER_SECOND * seconds or self._frames > frames_per_second * seconds:
            raise ReaderMisbehaved("the reader floods the service with messages")

    def _check_frame(self, frame: Frame, now: float) -> None:
        if not self._is_open:
            raise ReaderMisbehaved("the reader sent a frame before it opened its source")
        if frame.sequence <= self._last_sequence:
            raise ReaderMisbehaved("the reader sent frames out of order")
        if frame.track >= self._tracks:
            raise ReaderMisbehaved("the reader sent a frame of a track that its source does not have")
        has = (0, 0) if frame.shaped is None else (frame.shaped.width, frame.shaped.height)
        if has != shaped_size(*self._shaped, frame.width, frame.height):
            raise ReaderMisbehaved("the reader sent a picture of another size than was asked for")
        self._last_sequence = frame.sequence
        self._check_moment(frame.decoded_at, now)
        if self._is_live:
            self._check_moment(frame.arrived_at, now)
            if frame.arrived_at > frame.decoded_at:
                raise ReaderMisbehaved("the reader decoded a frame before it arrived")

    def _check_moment(self, moment: float, now: float) -> None:
        if moment > now + CLOCK_SLACK_SECONDS or (self._is_live and moment < now - OLDEST_SECONDS):
            raise ReaderMisbehaved(f"the reader's clock is {moment - now:+.1f} s off")
