"""Which packets to decode, and when: pure. Time and randomness are passed in.

Three clocks could drive this and two of them lie: presentation times are the publisher's to choose, and a frame count
is a matter of his frame rate. Everything here counts on the arrival clock, in seconds.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique

from streams.bursts import Bursts
from streams.frame import SampleReason
from streams.slowing import Slowing
from streams.spikes import Spikes

REMEMBERED_GOPS = 4
"""How many GOPs decide whether keyframes alone keep the promise."""

SCENE_CHANGE_GREY_LEVELS = 4.0
"""Mean absolute difference of two hash planes above which a scanned frame shows something else.

Measured: x264 makes a still picture waver by up to 2.2 at CRF 35, camera noise included; a picture laid over a third of
the width and height makes 9; and frames 8 apart are 18 of 256 PDQ bits apart, well within the 31 that count as equal.
"""

LEAVES_ABOVE = 1.2
"""From GOPs of so many times `detect_within_seconds` on, a stream is decoded through."""

_RETURNS_AT = 1.0
SHORTEST_INTERVAL_SECONDS = 0.05
"""No interval is shorter, whatever is asked for."""


@unique
class SamplingMode(StrEnum):
    """How a stream is looked at."""

    AUTO = "auto"
    KEYFRAMES = "keyframes"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """An operator's promise for one stream.

    What stays on screen for `detect_within_seconds` is in at least one analysed frame and found at most this late;
    while decoding through, one frame is analysed at a random instant of each `interval_seconds`.

    Beyond the promise, `burst_share` (0 to 1) of the GOPs are decoded whole, at random; with `spikes` also those whose
    packet sizes show a scene change that no keyframe shows, and, at random moments, the first frames after a keyframe.

    `slowed_to_seconds` is set while CPU time is short: then two analysed frames may lie so far apart, if that is longer
    than `detect_within_seconds`, and the stream is looked at as cheaply as that allows. 0 is not slowed.
    """

    detect_within_seconds: float = 3.0
    interval_seconds: float = 1.0
    mode: SamplingMode = SamplingMode.AUTO
    burst_share: float = 0.0
    spikes: bool = False
    slowed_to_seconds: float = 0.0


class Sampler:
    """Decides for one live stream what is decoded and which decoded frames are analysed.

    For every video packet the reader asks in this order: `begin`, `must_look_back`, `wants_keyframe` (answered by
    `keyframe_decoded`, `keyframe_failed` or `keyframe_passed`), `decodes_through`, and `wants` for the frame that
    decoding through gave. Whatever goes to analysis is told by `analysed`. Times are seconds on the arrival clock.

    The promise, in the modes `auto` and `full`: two consecutive analysed frames either follow each other directly
    in the stream or arrived at most `detect_within_seconds` apart. So whatever is shown that long is in an analysed
    frame, and that frame is decoded when the next packet arrives at the latest.

    Beyond it some GOPs are decoded whole: `hear` is told every packet and, after `wants_keyframe` was answered, either
    `chooses_gop` is asked about a keyframe that gave a picture or `takes_spike` about a packet that showed a change.

    While the stream is slowed, `slowed_to_seconds` takes the place of `detect_within_seconds`: keyframes are passed
    over, in every mode, and where they are rare the ring is decoded when it must be and no further. The gap ends with
    the latest keyframe that was passed over, once it gave a picture after all, or else with the frame on screen.

    `draw` gives uniform numbers in [0, 1) that a publisher cannot foresee.
    """

    def __init__(self, settings: SamplingSettings, draw: Callable[[], float]) -> None:
        self._settings = settings
        self._draw = draw
        self._usual_interval = _usual_interval(settings)
        self._interval = self._usual_interval
        self._closer_interval = math.inf
        self._closer_until = -math.inf
        self._analysed_at = -math.inf
        self._is_overdue = False
        self._keyframe_at: float | None = None
        self._tried_keyframe_at = -math.inf
        self._next_keyframe_at = -math.inf
        self._gops: deque[float] = deque(maxlen=REMEMBERED_GOPS)
        self._keyframes_suffice = True
        self._trusts_keyframes = True
        self._is_through = False
        self._stays_through = False
        self._interval_from = -math.inf
        self._instant_at = -math.inf
        self._bursts = Bursts(settings.burst_share, draw)
        self._spikes = Spikes()
        self._spiked_at = self._next_spike_at = -math.inf
        self._peeked_at = self._next_peek_at = -math.inf
        self._slowing = Slowing(draw)
        self._slowing.adjust(_slowed_to(settings), -math.inf)
        self._passed_keyframe_at = -math.inf
        self._is_gop_chosen: bool | None = None

    @property
    def analysed_at(self) -> float:
        """Arrival of the latest analysed frame; the first packet's before there is one."""
        return self._analysed_at

    @property
    def gop_seconds(self) -> float:
        """The longest of the last GOPs, in arrival seconds; 0 before the second keyframe."""
        return max(self._gops, default=0.0)

    @property
    def detect_within_seconds(self) -> float:
        """What the settings in force promise."""
        return self._settings.detect_within_seconds

    @property
    def is_slowed(self) -> bool:
        """Whether keyframes may be passed over because CPU time is short."""
        return self._slowing.is_on

    @property
    def keeps_promise(self) -> bool:
        """Whether the promise holds now: with keyframes alone it does not."""
        return self._is_through or self._settings.mode is not SamplingMode.KEYFRAMES

    @property
    def is_spikes_blind(self) -> bool:
        """Whether spikes are asked for and packet sizes could not show one now."""
        return self._settings.spikes and self._spikes.is_blind

    @property
    def smallest_suspect(self) -> float:
        """Of so many bytes a packet may be the reason to decode a GOP; see `Spikes`."""
        heeds = self._settings.spikes and self._settings.mode is not SamplingMode.KEYFRAMES
        return self._spikes.smallest_suspect if heeds else math.inf

    @property
    def looks_again_at(self) -> float:
        """When something must be looked at, whatever comes until then; never while keyframes alone are wanted."""
        if self._slowing.is_on or self._is_through or self._is_looking_closer:
            return -math.inf
        return self._deadline if self.keeps_promise else math.inf

    @property
    def through_reason(self) -> SampleReason:
        """What a frame that decoding through gave is analysed for."""
        return SampleReason.CLOSER_LOOK if self._is_looking_closer else SampleReason.DECODE_THROUGH

    def look_closer(self, interval_seconds: float, until: float) -> None:
        """Decode through until `until`, from the next packet on, and analyse a frame of each `interval_seconds`.

        An interval longer than the settings' changes nothing but that the stream is decoded through.
        """
        self._closer_until = until
        self._closer_interval = max(SHORTEST_INTERVAL_SECONDS, interval_seconds)
        self._interval = min(self._usual_interval, self._closer_interval)
        self._interval_from = self._instant_at = -math.inf

    def adjust(self, settings: SamplingSettings) -> None:
        """Promise what `settings` say from the next packet on; a closer look that goes on is not ended.

        A shorter `detect_within_seconds` counts from the latest analysed frame: if that is longer ago, the frame that
        is on screen now is looked at when the next packet arrives.
        """
        self._settings = settings
        self._bursts.adjust(settings.burst_share)
        self._usual_interval = _usual_interval(settings)
        self._interval = min(self._usual_interval, self._closer_interval)
        self._interval_from = self._instant_at = -math.inf
        # What was drawn for a longer wait would outlast the new one.
        self._next_spike_at = min(self._next_spike_at, self._spiked_at + 2.0 * settings.detect_within_seconds)
        self._next_peek_at = min(self._next_peek_at, self._peeked_at + settings.detect_within_seconds)
        self._next_keyframe_at = min(self._next_keyframe_at, self._tried_keyframe_at + self._interval)
        if self.gop_seconds > LEAVES_ABOVE * settings.detect_within_seconds:
            self._keyframes_suffice = False
        self._slowing.adjust(_slowed_to(settings), self._analysed_at)

    def begin(self, arrived_at: float) -> None:
        """Note that a packet arrived. The promise counts from the first one."""
        if self._analysed_at == -math.inf:
            self.analysed(arrived_at)
        if arrived_at >= self._closer_until > -math.inf:
            self._closer_until, self._closer_interval = -math.inf, math.inf
            self._interval = self._usual_interval
        self._is_overdue = arrived_at >= self._analysed_at + self._settings.detect_within_seconds

    def hear(self, size: int, pts: int | None, *, is_keyframe: bool) -> bool:
        """Note a packet's size in bytes and its presentation time; whether it shows a change of scene."""
        if is_keyframe:
            self._spikes.begin_gop(size, pts)
            return False
        return self._spikes.shows_change(size, pts)

    def must_look_back(self, arrived_at: float) -> bool:
        """Whether the frame on screen before this packet is to be analysed now, unless it was.

        It was on screen when `detect_within_seconds` ran out; the one that has just arrived may show something else.
        A keyframe that was passed over and has not yet been tried is looked at instead, if that is late enough.
        """
        if not self._slowing.is_on:
            return arrived_at > self._analysed_at + self._settings.detect_within_seconds and self.keeps_promise
        if not self.keeps_promise and self._passed_keyframe_at <= self._analysed_at:
            return False
        keyframe_at = -math.inf if self._keyframe_at is None else self._keyframe_at
        return self._slowing.must_look_back(arrived_at, keyframe_at, self.gop_seconds)

    def wants_keyframe(self, arrived_at: float, *, is_needed: bool = False) -> bool:
        """Whether a keyframe is to be decoded on its own: each one, but never two within half an interval.

        Where they come denser than that the next one is taken at a random instant, so that at most two are decoded in
        an interval and nobody knows which. While the stream is slowed it is taken if it `is_needed`, which is when the
        caller cannot go on without one, or if it is the next look's.
        """
        if arrived_at < self._tried_keyframe_at + self._interval / 2:
            return False
        is_sparse = self._keyframe_at is None or arrived_at - self._keyframe_at >= self._interval / 2
        is_wanted = is_sparse or arrived_at >= self._next_keyframe_at
        if is_wanted and self._slowing.is_on and not is_needed and self._may_pass_over(arrived_at):
            self._is_gop_chosen = self._chooses_next()
            return self._is_gop_chosen
        return is_wanted

    def keyframe_decoded(self, arrived_at: float) -> None:
        """Note a keyframe that was decoded on its own and gave a picture."""
        self._tried(arrived_at)
        if self._keyframe_at is None or arrived_at > self._keyframe_at:
            self._note_gop(arrived_at)
        self._stays_through = self._is_overdue = False

    def keyframe_failed(self, arrived_at: float) -> None:
        """Note a packet that was flagged as keyframe and gave no picture: no sample, and such flags prove nothing.

        The stream is decoded through until keyframes have proved themselves again.
        """
        self._tried(arrived_at)
        self._gops.clear()
        self._is_gop_chosen = None
        self._passed_keyframe_at = -math.inf
        self._keyframe_at = None
        self._keyframes_suffice = False
        self._trusts_keyframes = False
        self._stays_through = True

    def keyframe_passed(self, arrived_at: float) -> None:
        """Note a keyframe that `wants_keyframe` left out."""
        self._is_gop_chosen = None
        if self._slowing.is_on:
            self._passed_keyframe_at = arrived_at
        if self._trusts_keyframes:
            self._note_gop(arrived_at)

    def chooses_gop(self) -> bool:
        """Whether the GOP of the keyframe that was just decoded is decoded whole, once it is complete, by chance."""
        is_chosen, self._is_gop_chosen = self._is_gop_chosen, None
        return self._chooses_next() if is_chosen is None else is_chosen

    def takes_spike(self, arrived_at: float) -> bool:
        """Whether a GOP is decoded whole because of the packet that has just come: up to it now, then on to its end.

        On average that is at most one GOP in `detect_within_seconds`, each at a moment that nobody can foresee: after a
        fixed pause a publisher who cuts hard in one GOP would know that nobody looks at the next.
        """
        settings = self._settings
        is_open = settings.mode is SamplingMode.AUTO or (settings.mode is SamplingMode.FULL and self._slowing.is_on)
        if not settings.spikes or not is_open or self._is_through or arrived_at < self._next_spike_at:
            return False
        self._spiked_at = arrived_at
        self._next_spike_at = arrived_at + 2.0 * self._draw() * settings.detect_within_seconds
        self._stays_through = True
        return True

    def takes_peek(self, arrived_at: float, *, waits: bool = False) -> bool:
        """Whether the first frames after the keyframe that was just decoded are looked at, too.

        With `waits` it is one that would be decoded only with them: not if it is looked at late already.

        The next such keyframe is the first from a uniform time in the second half of `detect_within_seconds` on: what
        is shown behind every keyframe is found `detect_within_seconds` and a GOP later at most.
        """
        settings = self._settings
        if not settings.spikes or settings.mode is not SamplingMode.AUTO or self._slowing.is_on or self._is_through:
            return False
        if arrived_at < self._next_peek_at or (waits and self._is_overdue):
            return False
        self._peeked_at = arrived_at
        self._next_peek_at = arrived_at + (1.0 + self._draw()) * settings.detect_within_seconds / 2
        return True

    def ring_overflowed(self) -> None:
        """Note that the packets since the last keyframe no longer fit: decode them now instead of forgetting them."""
        self._stays_through = True

    def ring_emptied(self) -> None:
        """Note that the packets since the last keyframe were decoded: what comes refers to them.

        While the stream is slowed that may be decoded when it is needed, or never.
        """
        self._stays_through |= not self._slowing.is_on

    def decodes_through(self, arrived_at: float, *, starts_here: bool) -> bool:
        """Whether this packet is decoded through; `starts_here` is True for a keyframe that gave a picture.

        Only such a keyframe can end it: after any other packet the next ones would refer to frames nobody decoded.
        """
        wanted = self._wants_through(starts_here=starts_here)
        if wanted and not self._is_through and not self._is_looking_closer:
            self._interval_from = arrived_at
            self._instant_at = arrived_at + self._draw() * self._interval
        self._is_through = wanted or (self._is_through and not starts_here)
        return self._is_through

    def wants(self, arrived_at: float) -> bool:
        """Whether the frame that decoding through gave is analysed: one at a random instant of each interval."""
        if self._slowing.is_on and not self._is_looking_closer:
            return self._slowing.is_due(arrived_at)
        is_due = arrived_at >= self._instant_at
        if is_due:
            self._schedule(arrived_at)
        return is_due or arrived_at >= self._deadline

    def analysed(self, arrived_at: float) -> None:
        """Note that the frame that arrived at `arrived_at` goes to analysis."""
        if arrived_at > self._analysed_at:
            self._analysed_at = arrived_at
            self._slowing.looked(arrived_at)

    @property
    def _is_looking_closer(self) -> bool:
        return self._closer_until > -math.inf

    @property
    def _deadline(self) -> float:
        return self._analysed_at + self._settings.detect_within_seconds

    def _wants_through(self, *, starts_here: bool) -> bool:
        if self._is_looking_closer or self._stays_through:
            return True
        if self._slowing.is_on or self._settings.mode is SamplingMode.KEYFRAMES:
            return False
        if self._settings.mode is SamplingMode.FULL:
            return True
        return not self._keyframes_suffice or (self._is_overdue and not starts_here)

    def _may_pass_over(self, arrived_at: float) -> bool:
        """Whether there is time for a later keyframe, and nothing else that only this one can do."""
        if self._is_looking_closer or self._is_through or not self._trusts_keyframes or not self._gops:
            return False
        return not self._slowing.takes_keyframe(arrived_at, self.gop_seconds)

    def _chooses_next(self) -> bool:
        return self._settings.mode is not SamplingMode.KEYFRAMES and self._bursts.chooses_next()

    def _tried(self, arrived_at: float) -> None:
        self._tried_keyframe_at = arrived_at
        self._next_keyframe_at = arrived_at + (1.0 + self._draw()) * self._interval / 2

    def _note_gop(self, arrived_at: float) -> None:
        if self._keyframe_at is not None:
            self._gops.append(arrived_at - self._keyframe_at)
        self._keyframe_at = arrived_at
        within_seconds = self._settings.detect_within_seconds
        if self.gop_seconds > LEAVES_ABOVE * within_seconds:
            self._keyframes_suffice = False
        elif len(self._gops) == REMEMBERED_GOPS and self.gop_seconds <= _RETURNS_AT * within_seconds:
            self._keyframes_suffice = self._trusts_keyframes = True

    def _schedule(self, now: float) -> None:
        """Draw the instant of the next interval; the one that holds `now` has had its frame."""
        if self._interval_from == -math.inf:
            self._interval_from = now - self._interval
        missed = max(0, math.floor((now - self._interval_from) / self._interval) - 1)
        self._interval_from += (missed + 1) * self._interval
        self._instant_at = self._interval_from + self._draw() * self._interval


def _usual_interval(settings: SamplingSettings) -> float:
    # An interval beyond detect_within would only make every sample a late one.
    return max(SHORTEST_INTERVAL_SECONDS, min(settings.interval_seconds, settings.detect_within_seconds))


def _slowed_to(settings: SamplingSettings) -> float:
    slowed_to = settings.slowed_to_seconds
    return max(slowed_to, settings.detect_within_seconds) if slowed_to > 0.0 else 0.0
