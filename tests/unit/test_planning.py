"""Chances and delays that are worked out are those that the sampler gives."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.cpu import planning
from detector.cpu.planning import Look, StreamShape
from streams.bursts import Bursts
from streams.frame import SampleReason
from streams.gop import GopRing
from streams.live_look import LiveLook
from streams.peek import PEEK_PACKETS
from streams.sampling import Sampler, SamplingMode, SamplingSettings
from streams.whole_gop import Output

AS_SHIPPED = SamplingSettings(3.0, 1.0, burst_share=0.05, spikes=True)
ONE_IN_THREE = SamplingSettings(3.0, 1.0, burst_share=1 / 3)
FPS = 8
TRIALS = 200
HIDDEN, HARMLESS = (np.full((64, 64), shade, np.uint8) for shade in (200, 50))

shares = st.floats(0.01, 1.0)
gops = st.floats(0.3, 30.0)
times = st.floats(0.0, 100.0)


@dataclass(slots=True)
class Packet:
    """A packet whose frame shows something hidden, or does not."""

    number: int
    is_keyframe: bool
    is_hidden: bool
    size: int

    @property
    def pts(self) -> int:
        return self.number


class Decoder:
    """Gives packets as their own frames."""

    is_through = False

    def note(self, packet: Packet) -> None:
        pass

    def decode_alone(self, packet: Packet) -> Packet:
        return packet

    def decode_through(self, packet: Packet) -> list[Packet]:
        self.is_through = True
        return [packet]

    def finish_through(self) -> list[Packet]:
        self.is_through = False
        return []

    def is_shown_from(self, packet: Packet, frame: Packet) -> bool:
        return frame.number >= packet.number

    def plane(self, frame: Packet) -> np.ndarray:
        return HIDDEN if frame.is_hidden else HARMLESS


@dataclass
class Trial:
    """A stream in which something appears again and again between the keyframes, each time `within_seconds` long."""

    sampling: SamplingSettings
    gop_seconds: float
    within_seconds: float
    shows: Callable[[], bool]
    cuts_always: bool = False
    spared_packets: int = PEEK_PACKETS
    fps: int = FPS
    draw: random.Random = field(default_factory=lambda: random.Random(20))
    now: float = 0.0
    begins_at: float = 0.0
    delay: float = math.inf

    def rate(self, trials: int) -> float:
        """The share of the trials in which it was handed over in time."""
        return share_within(self.delays(trials), self.within_seconds)

    def delays(self, trials: int) -> list[float]:
        """How long it took in each trial until it was handed over; inf where it was not in time."""
        output: Output[Packet, Packet] = Output(self._emit, lambda frame, *_: frame, self._hand_over)
        look: LiveLook[Packet, Packet, Packet] = LiveLook(
            Sampler(self.sampling, self.draw.random), GopRing(1 << 20), Decoder(), output
        )
        per_gop = round(self.gop_seconds * self.fps)
        delays, number, begins_at = [], 0, 12 * self.gop_seconds
        pause = 2 * self.sampling.detect_within_seconds if self.sampling.spikes else self.gop_seconds
        for _ in range(trials):
            self.delay, self.begins_at = math.inf, begins_at
            while number / self.fps <= begins_at + self.within_seconds:
                now, is_keyframe = number / self.fps, number % per_gop == 0
                self.now = now
                is_decoy = self.cuts_always and number % per_gop == 1
                is_hidden = now >= begins_at and number % per_gop > self.spared_packets and not is_decoy
                is_new = is_hidden and (number % per_gop == self.spared_packets + 1 or now - 1 / self.fps < begins_at)
                is_cut = (is_decoy or (is_new and not self.cuts_always)) and self.shows()
                size = 1000 if is_keyframe else 900 if is_cut else 100
                look.take(Packet(number, is_keyframe, is_hidden, size), now)
                number += 1
            delays.append(self.delay)
            begins_at += self.within_seconds + pause + self.draw.uniform(0, 2 * self.gop_seconds)
        return delays

    def _emit(self, frame: Packet, _: float, __: SampleReason) -> None:
        self._hand_over([frame])

    def _hand_over(self, frames: list[Packet]) -> None:
        if any(frame.is_hidden and frame.number / self.fps >= self.begins_at for frame in frames):
            self.delay = min(self.delay, self.now - self.begins_at)


def share_within(delays: list[float], seconds: float) -> float:
    """The share of the trials that took no longer."""
    return sum(delay <= seconds for delay in delays) / len(delays)


def by_chance(expected: float, trials: int) -> float:
    """How far a share of so many trials may be from the chance: three standard deviations of a binomial.

    Besides, what a frame lasts, and the few behind a keyframe that are seen anyhow, shift it by a point at most.
    """
    return 3 * math.sqrt(expected * (1 - expected) / trials) + 0.01


@pytest.mark.parametrize("share", [0.05, 0.3, 1 / 3])
def test_chance_by_bursts_is_that_of_the_sampler(share: float) -> None:
    """What flattened sizes hide is found as often as is said, whether blocks are of one length or two."""
    sampling = SamplingSettings(3.0, 1.0, burst_share=share)
    delays = Trial(sampling, 2.0, 7.0, lambda: False).delays(TRIALS)

    for within in (3.0, 7.0):
        expected = planning.chance_between_keyframes(sampling, 2.0, within, sizes_show=0)
        assert share_within(delays, within) == pytest.approx(expected, abs=by_chance(expected, TRIALS))


@pytest.mark.parametrize("gop", [2.0, 3.5])
@pytest.mark.parametrize("shows", [0.3, 0.95])
def test_chance_by_spikes_is_that_of_the_sampler(gop: float, shows: float) -> None:
    """A change that shows in the sizes of some GOPs is found as often as is said."""
    draw = random.Random(3)
    measured = Trial(AS_SHIPPED, gop, 2.5, lambda: draw.random() < shows, fps=30).rate(TRIALS)

    expected = planning.chance_between_keyframes(AS_SHIPPED, gop, 2.5, sizes_show=shows)
    assert measured == pytest.approx(expected, abs=by_chance(expected, TRIALS))


@pytest.mark.parametrize(("gop", "withins"), [(1.0, [1.5]), (2.0, [2.0, 3.0, 5.0]), (2.5, [2.0]), (3.5, [1.0])])
def test_chance_by_peeks_is_that_of_the_sampler(gop: float, withins: list[float]) -> None:
    """What is in every frame but keyframes needs no sizes: it is found as often as is said, and soon always."""
    sampling = SamplingSettings(3.0, 1.0, spikes=True)
    delays = Trial(sampling, gop, max(withins), lambda: False, spared_packets=0, fps=20).delays(400)

    for within in withins:
        expected = planning.chance_between_keyframes(sampling, gop, within, sizes_show=0, in_first_frames=True)
        assert share_within(delays, within) == pytest.approx(expected, abs=0.07)


@pytest.mark.parametrize("gop", [0.5, 1.0, 2.0, 2.4, 3.0, 3.5])
def test_every_frame_but_keyframes_is_too_many(gop: float) -> None:
    """As shipped it is found within 5 s in 95 of 100 cases at least, however long the GOP and whatever the sizes."""
    chance = planning.chance_between_keyframes(AS_SHIPPED, gop, 5.0, sizes_show=0, in_first_frames=True)

    assert chance >= 0.95


@pytest.mark.parametrize(("gop", "within"), [(1.0, 2.0), (2.0, 4.0)])
def test_cuts_in_every_gop_use_up_the_budget_as_is_said(gop: float, within: float) -> None:
    """Whoever cuts hard in every GOP, always, gets as many GOPs decoded as the budget allows."""
    trial = Trial(AS_SHIPPED, gop, within, lambda: True, cuts_always=True, fps=30)
    expected = planning.chance_between_keyframes(AS_SHIPPED, gop, within, sizes_show=0, decoys=1)

    assert trial.rate(TRIALS) == pytest.approx(expected, abs=by_chance(expected, TRIALS))


@pytest.mark.parametrize("mode", [SamplingMode.AUTO, SamplingMode.FULL])
def test_chance_while_decoding_through_is_that_of_the_sampler(mode: SamplingMode) -> None:
    """A GOP of 10 s is decoded through; one frame at a random instant of each interval is seen."""
    delays = Trial(sampling := SamplingSettings(3.0, 1.0, mode), 10.0, 1.5, lambda: False).delays(500)

    # A frame lasts an eighth of a second here, and its instant has passed when it comes.
    for within in (0.5, 1.0, 1.5):
        least, most = (
            planning.chance_between_keyframes(sampling, 10.0, within + step, sizes_show=0)
            for step in (-1 / FPS, 1 / FPS)
        )
        assert least - 0.04 <= share_within(delays, within) <= most + 0.04


def test_chance_while_looking_back_is_that_of_the_sampler() -> None:
    """Keyframes 3.5 s apart are trusted, and what is on screen after 3 s is looked at."""
    delays = Trial(ONE_IN_THREE, 3.5, 2.5, lambda: False).delays(500)

    assert planning.look_at(ONE_IN_THREE, 3.5) is Look.LOOKED_BACK
    for within in (1.0, 2.5):
        least, most = (
            planning.chance_between_keyframes(ONE_IN_THREE, 3.5, within + step, sizes_show=0)
            for step in (-1 / FPS, 1 / FPS)
        )
        assert least - 0.04 <= share_within(delays, within) <= most + 0.04


def lengths_of_blocks(share: float, count: int) -> list[int]:
    """The lengths of the first blocks, from choices that always fall on a block's last GOP."""
    bursts = Bursts(share, lambda: 0.0)
    ends = [at + 1 for at in range(count) if bursts.chooses_next()]
    return [later - earlier for earlier, later in pairwise([0, *ends])]


@settings(max_examples=40)
@given(share=st.floats(0.05, 1.0), count=st.integers(0, 30))
def test_burst_miss_is_the_mean_over_every_place(share: float, count: int) -> None:
    """However blocks of two lengths follow each other: one by one it comes to the same."""
    lengths = lengths_of_blocks(share, 3000)
    starts = list(accumulate(lengths, initial=0))
    missed = 0.0
    block = 0
    places = starts[-1] - 60
    for place in range(places):
        block += place >= starts[block + 1]
        miss, at = 1.0, block
        while at < len(lengths) and starts[at] < place + count and miss:
            inside = min(place + count, starts[at + 1]) - max(place, starts[at])
            miss *= 1.0 - inside / lengths[at]
            at += 1
        missed += miss

    assert planning.burst_miss(share, count) == pytest.approx(missed / places, abs=0.012)


@given(share=shares, gop=gops, earlier=times, later=times, shows=st.floats(0, 1), decoys=st.sampled_from([0.0, 0.5, 1]))
def test_chance_grows_with_time(
    share: float, gop: float, earlier: float, later: float, shows: float, decoys: float
) -> None:
    """A chance is a number from 0 to 1, and waiting never lessens it."""
    sampling = SamplingSettings(3.0, 1.0, burst_share=share, spikes=True)
    first, second = (
        planning.chance_between_keyframes(sampling, gop, within, sizes_show=shows, decoys=decoys)
        for within in sorted([earlier, later])
    )

    assert -1e-9 <= first <= second + 1e-9 <= 1 + 2e-9


@given(gop=st.floats(0.02, 1.0), interval=st.floats(0.2, 2.0))
@settings(max_examples=40)
def test_time_between_keyframes_is_that_of_the_sampler(gop: float, interval: float) -> None:
    """Keyframes that come densely are thinned by as much as is said."""
    draw = random.Random(5)
    sampler = Sampler(SamplingSettings(3.0, interval), draw.random)
    taken = []
    for number in range(2000):
        if sampler.wants_keyframe(number * gop):
            sampler.keyframe_decoded(number * gop)
            taken.append(number * gop)
        else:
            sampler.keyframe_passed(number * gop)

    expected = planning.keyframe_seconds(sampler_settings(interval), gop)
    assert (taken[-1] - taken[0]) / (len(taken) - 1) == pytest.approx(expected, rel=0.06)


def sampler_settings(interval: float) -> SamplingSettings:
    """Settings with this interval, and nothing else of note."""
    return SamplingSettings(3.0, interval)


@given(interval=st.floats(0.1, 5.0), length=st.floats(0.0, 2.5))
@settings(max_examples=30)
def test_interval_miss_is_the_mean_over_every_moment(interval: float, length: float) -> None:
    """By formula as by going through the moments at which a stretch may begin."""
    missed = 0.0
    for part in range(1000):
        begin = (part + 0.5) / 1000
        miss = 1.0
        for number in range(4):
            miss *= 1.0 - max(0.0, min(begin + length, number + 1) - max(begin, number))
        missed += miss / 1000

    assert planning.interval_miss(interval, length * interval) == pytest.approx(missed, abs=0.002)


def test_known_figures() -> None:
    """What is promised of the defaults: 95 in 100 within a minute at one GOP in 20, within 10 s at one in three."""
    chance = planning.chance_between_keyframes

    assert chance(AS_SHIPPED, 2.0, 60.0, sizes_show=0) > 0.95
    assert chance(ONE_IN_THREE, 2.0, 10.0, sizes_show=0) > 0.95
    assert chance(SamplingSettings(mode=SamplingMode.KEYFRAMES, burst_share=1.0), 2.0, 60.0, sizes_show=1) == 0


@pytest.mark.parametrize(
    ("gop", "look", "longest"),
    [(1.0, Look.KEYFRAMES, 1.0), (3.5, Look.LOOKED_BACK, 3.1), (8.0, Look.THROUGH, 2.1), (0.1, Look.KEYFRAMES, 1.0)],
)
def test_longest_delay(gop: float, look: Look, longest: float) -> None:
    """Keyframes are waited for, long GOPs are not."""
    shape = StreamShape(gop, 2, 30.0)

    assert planning.look_at(AS_SHIPPED, gop) is look
    assert planning.seen_within_seconds(AS_SHIPPED, shape) == pytest.approx(longest)


def test_flash_is_seen_by_chance() -> None:
    """A keyframe, a burst or a spike may show it; many flashes are missed more rarely than one."""
    shape = StreamShape(2.0, 2, 30.0)
    chance = planning.chance_of_flash

    assert chance(SamplingSettings(), shape, 2 / 30, sizes_show=0) == pytest.approx(2 / 60)
    assert chance(AS_SHIPPED, shape, 2 / 30, sizes_show=0) == pytest.approx(1 - 58 / 60 * 0.95)
    assert chance(AS_SHIPPED, shape, 2 / 30, sizes_show=1) == 1
    assert chance(AS_SHIPPED, shape, 0.01, sizes_show=0, flashes=30) > 0.6
    assert chance(SamplingSettings(mode=SamplingMode.FULL), shape, 2 / 30, sizes_show=0) > 2 / 30
