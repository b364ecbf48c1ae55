"""When a playlist's packets arrive: its segments come seconds at a time, and who wrote their times may lie. Pure.

Packets are spread by the times that they claim, at the speed at which those have been going by: where the source had
nothing more to give, everything that was published has been read, and how much claimed time that was says how fast it
runs. So times that run slow or fast neither bring a segment's packets at once nor keep the reader behind for long.
"""

from collections import deque

LONGEST_LAG_SECONDS = 30.0
"""So long after there was nothing more to read, all that is there is read at once: something holds the reader back."""

_EDGE_SECONDS = 0.1
"""What waits longer for a packet waits for a segment that is not there yet; most requests take less."""

_FIRST_SPEED = 1.25
"""The newest segment is a part old when it is first seen: a reader that is no faster would never see its end."""

_MARGIN = 1.15
_REMEMBERED_SPEEDS = 4
"""Of the last few speeds the highest counts: a stall makes one look slow, and too slow falls behind."""

_SPEEDS = (1e-6, 1e6)
_SHORTEST_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 1.0
"""For one packet: whoever writes the times must not hold up his own reader."""


class Pace:
    """Spreads the packets of one playlist. `begun_at` is monotonic, as all moments are; claimed times begin at 0."""

    def __init__(self, begun_at: float) -> None:
        self.speed = _FIRST_SPEED
        """Claimed seconds in one of arrival."""
        self._edge = begun_at, 0.0
        self._base = begun_at, 0.0
        self._speeds: deque[float] = deque(maxlen=_REMEMBERED_SPEEDS)

    def due_at(self, now: float, claimed_at: float, waited_seconds: float) -> float:
        """Return when a packet arrives that was read at `now`, after the source made its reader wait for so long.

        `claimed_at` never goes back. What is late is not caught up with.
        """
        if waited_seconds >= _EDGE_SECONDS:
            self._note_edge(now, claimed_at)
        begun_at, begun_claim = self._base
        due_at = begun_at + (claimed_at - begun_claim) / self.speed
        if now - self._edge[0] > LONGEST_LAG_SECONDS:
            due_at = now
        kept = min(max(due_at, now), now + _LONGEST_WAIT_SECONDS)
        if kept != due_at:
            self._base = kept, claimed_at
        return kept

    def _note_edge(self, now: float, claimed_at: float) -> None:
        """Note that the reader has had all that there was, until this packet came."""
        was_at, claim_was = self._edge
        if now - was_at >= _SHORTEST_SECONDS:
            # What was there at the start is in the first figure: it is high enough as it is.
            margin = _MARGIN if self._speeds else 1.0
            speed = margin * (claimed_at - claim_was) / (now - was_at)
            self._speeds.append(min(max(speed, _SPEEDS[0]), _SPEEDS[1]))
            self.speed = max(self._speeds)
        self._edge = self._base = now, claimed_at
