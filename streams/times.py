"""What a publisher's presentation times claim, held against when his packets arrived: evidence, never a schedule. Pure.

Times are the publisher's to choose: slow, fast, jumping, going back, repeated or left out. Nothing is sampled by them;
here it is only told how far they are off.
"""

import math
from collections import deque

_ANCHOR_SECONDS = 3.0
"""A server sends what it has kept as soon as one connects: how far times are ahead of arrival then counts as none."""

_LATEST_SECONDS = 1.0
"""The packet that was held up least in so long a time tells the skew: a network delays packets, and hastens none."""

_LEAK = 0.001
"""Seconds by which a skew is forgotten in a second: the clocks of honest machines drift apart, if a tenth as fast."""

_FORWARD_SECONDS = 5.0
"""A step this much longer than the time since the last packet is a jump; slow streams and lost packets make less."""

_BACKWARD_SECONDS = 1.0
"""Frames are reordered by less: 16 of them at 25 a second take 0.64 s."""

_WRAPS = (2**33 / 90_000, 2**32 / 1_000)
"""After so many seconds the times of MPEG-TS (ISO/IEC 13818-1, 2.4.3.7) and of FLV begin anew."""

_SHORTEST_WRAP_SECONDS = min(_WRAPS) / 2


class TrackTimes:
    """Follows one track's times, in the order in which its packets arrive.

    `skew_seconds` is how far they have run ahead of arrival since the start (negative: fallen behind), without their
    jumps; packets without times count as standing still. `jumps` counts steps that no stream takes by itself, either
    way; the wrap of a counter is none.
    """

    def __init__(self) -> None:
        self.skew_seconds = 0.0
        self.jumps = 0
        self._started_at = math.nan
        self._arrived_at = 0.0
        self._raw = math.nan
        self._unrolled = 0.0
        self._anchor = -math.inf
        self._leads: deque[tuple[float, float]] = deque()

    def hear(self, arrived_at: float, time_seconds: float | None) -> None:
        """Note a packet: when it arrived (monotonic), and when it is to be shown by the publisher's clock."""
        if math.isnan(self._started_at):
            self._started_at = self._arrived_at = arrived_at
        elapsed = arrived_at - self._arrived_at
        if time_seconds is not None and math.isfinite(time_seconds):
            step = time_seconds - self._raw
            # As nearly every packet; no call is made for it, as this is asked of each packet of each stream.
            is_usual = -_BACKWARD_SECONDS <= step <= elapsed + _FORWARD_SECONDS < _SHORTEST_WRAP_SECONDS
            self._unrolled += step if is_usual else self._step(step, elapsed)
            self._raw = time_seconds
        lived = arrived_at - self._started_at
        lead = self._unrolled - lived
        if lived <= _ANCHOR_SECONDS:
            self._anchor = max(self._anchor, lead)
        self._forget(elapsed)
        self._arrived_at = arrived_at
        self.skew_seconds = self._latest_lead(arrived_at, lead) - self._anchor

    def _step(self, step: float, elapsed_seconds: float) -> float:
        """How far the times went on since the packet before; a jump counts as what went by until it came."""
        if math.isnan(step):  # nothing came before
            return 0.0
        for wrap in _WRAPS:
            if abs(abs(step) - wrap) < _FORWARD_SECONDS + elapsed_seconds:
                step -= math.copysign(wrap, step)
        if -_BACKWARD_SECONDS <= step <= elapsed_seconds + _FORWARD_SECONDS:
            return step
        self.jumps += 1
        return elapsed_seconds

    def _latest_lead(self, arrived_at: float, lead: float) -> float:
        """The largest lead of the last while: leads that a later and larger one makes useless are not kept."""
        while self._leads and self._leads[-1][1] <= lead:
            self._leads.pop()
        self._leads.append((arrived_at, lead))
        while self._leads[0][0] < arrived_at - _LATEST_SECONDS:
            self._leads.popleft()
        return self._leads[0][1]

    def _forget(self, elapsed_seconds: float) -> None:
        off, most = self.skew_seconds, _LEAK * elapsed_seconds
        self._anchor += off if -most <= off <= most else math.copysign(most, off)
