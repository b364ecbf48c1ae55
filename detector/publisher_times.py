"""Whether a publisher's presentation times keep to arrival, from what readers' heartbeats tell of them: pure.

Nothing is sampled by those times, so that a lie hides nothing. It is told because who lies about them may try to, and
because a record's times can then be trusted no more.
"""

from collections import deque
from enum import StrEnum, unique

from streams.wire import Heartbeat

TOLD_BEYOND_SECONDS = 5.0
"""A skew above this is told; networks hold packets back for less, and what a server keeps counts as none."""

_STILL_SECONDS = 2.0
_STILL_SHARE = 0.8
"""Times that go on by less than the rest of the time over `_STILL_SECONDS` stand still, or run several times slow."""

_TOLD_AGAIN_SECONDS = 60.0


@unique
class TimeFault(StrEnum):
    """What is wrong with a publisher's times."""

    SKEW = "skew"
    STANDSTILL = "standstill"
    JUMP = "jump"


class PublisherTimes:
    """The times of one stream's publisher, over all its readers.

    `skew_seconds` is how far they are ahead of arrival on the track where that is most (negative: behind), as the
    latest reader has it; `jumps` counts since the session's start.
    """

    def __init__(self) -> None:
        self.skew_seconds = 0.0
        self.jumps = 0
        self._jumps_of_reader = 0
        self._beats: deque[tuple[float, float, int]] = deque()
        self._told_at: dict[TimeFault, float] = {}

    def beat(self, beat: Heartbeat) -> TimeFault | None:
        """Note a heartbeat; return what is to be told now: each fault when it begins, and once a minute."""
        new_jumps = max(0, beat.time_jumps - self._jumps_of_reader)
        self._jumps_of_reader = beat.time_jumps
        self.jumps += new_jumps
        self.skew_seconds = beat.time_skew_seconds
        faults = (
            (TimeFault.JUMP, new_jumps > 0),
            (TimeFault.STANDSTILL, self._stands_still(beat)),
            (TimeFault.SKEW, abs(beat.time_skew_seconds) > TOLD_BEYOND_SECONDS),
        )
        for fault, is_there in faults:
            told_at = self._told_at.get(fault)
            if is_there and (told_at is None or beat.sent_at - told_at >= _TOLD_AGAIN_SECONDS):
                self._told_at[fault] = beat.sent_at
                return fault
        return None

    def ended(self) -> None:
        """The reader is gone; the next one counts anew."""
        self._jumps_of_reader = 0
        self.skew_seconds = 0.0
        self._beats.clear()

    def _stands_still(self, beat: Heartbeat) -> bool:
        self._beats.append((beat.sent_at, beat.time_skew_seconds, beat.packets))
        while len(self._beats) > 1 and self._beats[1][0] <= beat.sent_at - _STILL_SECONDS:
            self._beats.popleft()
        since, skew_seconds, packets = self._beats[0]
        elapsed = beat.sent_at - since
        fell_behind = skew_seconds - beat.time_skew_seconds
        return elapsed >= _STILL_SECONDS and beat.packets > packets and fell_behind >= _STILL_SHARE * elapsed
