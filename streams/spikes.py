"""Packet sizes that show a scene change between two keyframes, without decoding anything: pure.

A frame that shows what none before it did costs about as much as a keyframe, whatever its kind. So a packet is a spike
if it is many times the usual one and no small part of the GOP's own keyframe; both, for next to a still card everything
is many times the usual, and in noise everything is a large part of the keyframe.

Measured per GOP of 2 s on made clips of 8 to 16 s, 384x216, keyframes clean; x264 by ABR, CBR (VBV of 1 s), CRF,
zerolatency with NAL-HRD CBR at 700 kb/s, CBR at 233 kb/s, and x265 by ABR. Four kinds of clean content and three of
hidden content (each 12 pairs), from the second GOP on:

=========================================  =====  =====  =====  ======  ========  =====
shown between the keyframes                  ABR    CBR    CRF  zerol.  low rate   hevc
=========================================  =====  =====  =====  ======  ========  =====
something else, in all other frames        100 %  100 %  100 %   100 %      75 %  100 %
something else, from the middle on         100 %  100 %   96 %   100 %     100 %   96 %
something else, for 0.8 s                  100 %  100 %  100 %   100 %     100 %   92 %
something else, in B-frames only           100 %  100 %  100 %       -     100 %  100 %
nothing else (11 kinds: stills, noise,
pans, shakes, a game, scrolled text, ...)    1 %    9 %    1 %     8 %       3 %    4 %
=========================================  =====  =====  =====  ======  ========  =====

Where windows open, lights flash or pictures quickly fade into others, 39 to 71 % of the GOPs are found to change. The
rates move by a few points if the figures below do by a quarter. In a stream's first GOP there is little to compare
with: content hidden in all its other frames is found in 61 %.
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Rule:
    times_usual: float
    share_of_keyframe: float

    def holds(self, size: int, usual: float, keyframe: int) -> bool:
        return keyframe > 0 and size >= self.times_usual * usual and size >= self.share_of_keyframe * keyframe


_FORWARD_RULES = (_Rule(4.0, 0.3), _Rule(2.5, 0.6))
"""For P-frames. What refines a still picture after its keyframe reaches 13 times the usual at 0.27 of the keyframe."""

_BACKWARD_RULE = _Rule(2.5, 0.15)
"""For B-frames, against the usual P-frame: they have two neighbours to refer to, and are smaller unless they differ
from both. Their own usual size would be no measure where all of them show something else."""

_REMEMBERED = 48
_ENOUGH = 8
_REMEMBERED_KEYFRAMES = 8
_ENOUGH_KEYFRAMES = 4
_BLIND_BELOW = min(rule.times_usual for rule in _FORWARD_RULES)
"""Where a keyframe is not that many times the usual, nothing can be."""

_LONGEST_REORDERING = 16
"""Pictures that H.264 and HEVC decoders put back into order at most."""


class Spikes:
    """Watches one track's packets, in the order in which they arrive.

    What is usual is the median of the last sizes, which a few large ones do not move. Whether a packet holds a P-frame
    or a B-frame is told by its presentation time: a B-frame is shown before something that came earlier, and no more of
    them follow each other than a decoder can reorder. A publisher who evens out his sizes hides from this, and from
    this alone.
    """

    def __init__(self) -> None:
        self._keyframes = _Usual(_REMEMBERED_KEYFRAMES)
        self._forward = _Usual(_REMEMBERED)
        self._keyframe = 0
        self._latest_pts: int | None = None
        self._backward_run = 0
        self._largest = 0

    @property
    def is_blind(self) -> bool:
        """Whether sizes could show nothing now: P-frames are usually nearly as large as keyframes."""
        return (
            self._keyframes.count >= _ENOUGH_KEYFRAMES
            and self._forward.count >= _ENOUGH
            and self._keyframes.median < _BLIND_BELOW * self._forward.median
        )

    @property
    def smallest_suspect(self) -> float:
        """Of so many bytes a packet may show a change; a smaller one cannot. 0 while nothing is usual yet."""
        if self._forward.count < _ENOUGH:
            return 0.0
        return max(_BLIND_BELOW * self._forward.median, _BACKWARD_RULE.share_of_keyframe * self._keyframe)

    def begin_gop(self, size: int, pts: int | None) -> None:
        """Note a packet that is flagged as keyframe."""
        self._keyframes.add(size)
        self._keyframe, self._latest_pts, self._largest = size, pts, 0
        self._backward_run = 0

    def shows_change(self, size: int, pts: int | None) -> bool:
        """Note any other packet; whether it shows a scene change, or one of this GOP's before it did."""
        is_backward = pts is not None and self._latest_pts is not None and pts < self._latest_pts
        self._backward_run = self._backward_run + 1 if is_backward else 0
        if is_backward and self._backward_run <= _LONGEST_REORDERING:
            is_known = self._forward.count >= _ENOUGH
            return is_known and _BACKWARD_RULE.holds(size, self._forward.median, self._keyframe)
        self._latest_pts = pts
        if self._forward.count >= _ENOUGH:
            suspect, usual = size, self._forward.median
            self._forward.add(size)
        else:  # nothing is usual yet; once something is, it is told about the largest so far
            self._forward.add(size)
            suspect = self._largest = max(size, self._largest)
            if self._forward.count < _ENOUGH:
                return False
            usual = self._forward.median
        if suspect < _BLIND_BELOW * usual:  # as nearly always
            return False
        return any(rule.holds(suspect, usual, self._keyframe) for rule in _FORWARD_RULES)


class _Usual:
    """The `median` of the last sizes, and their `count`."""

    def __init__(self, remembered: int) -> None:
        self.count = 0
        self.median = 0
        self._remembered = remembered
        self._latest: deque[int] = deque(maxlen=remembered)
        self._ordered: list[int] = []

    def add(self, size: int) -> None:
        ordered = self._ordered
        if self.count == self._remembered:
            del ordered[bisect_left(ordered, self._latest[0])]
        else:
            self.count += 1
        self._latest.append(size)
        insort(ordered, size)
        self.median = ordered[self.count // 2]
