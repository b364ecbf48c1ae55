"""What the sampler promises, on a virtual clock and a decoder that only keeps the books."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.frame import MAX_BURST_FRAMES, SampleReason
from streams.gop import PACKET_OVERHEAD_BYTES, GopRing, RingBudget
from streams.live_look import LiveLook
from streams.peek import PEEK_PACKETS
from streams.sampling import Sampler, SamplingMode, SamplingSettings
from streams.whole_gop import Output


@dataclass(frozen=True)
class FakePacket:
    """`is_keyframe` is the container's claim, `is_intra` whether it can be decoded on its own."""

    number: int
    is_keyframe: bool
    is_intra: bool
    size: int = 100

    @property
    def pts(self) -> int:
        return self.number


class FakeDecoder:
    """Gives the number of a packet as its frame, if everything it refers to went in before."""

    def __init__(self) -> None:
        self.alone: list[int] = []
        self.through: list[int] = []
        self.is_through = False
        self._next: int | None = None

    def note(self, packet: FakePacket) -> None:
        pass

    def decode_alone(self, packet: FakePacket) -> int | None:
        self.alone.append(packet.number)
        return packet.number if packet.is_intra else None

    def decode_through(self, packet: FakePacket) -> list[int]:
        self.is_through = True
        self.through.append(packet.number)
        if not packet.is_intra and packet.number != self._next:
            return []
        self._next = packet.number + 1
        return [packet.number]

    def finish_through(self) -> list[int]:
        self.is_through, self._next = False, None
        return []

    def is_shown_from(self, packet: FakePacket, frame: int) -> bool:
        return frame >= packet.number

    def plane(self, frame: int) -> np.ndarray:
        return np.full((64, 64), frame % 250, np.uint8)


Sample = tuple[int, float, float, SampleReason]


@dataclass
class Watched:
    """A stream that was looked at: `samples` holds (frame number, its arrival, when it was analysed, reason).

    `bursts` holds the same for what was handed over together. Neighbouring frames hardly differ, those five apart do.
    """

    sampling: SamplingSettings
    seed: int = 1
    ring_limit: int | RingBudget = 1 << 24
    now: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    bursts: list[list[Sample]] = field(default_factory=list)
    decoder: FakeDecoder = field(default_factory=FakeDecoder)

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.sampling, random.Random(self.seed).random)
        self.ring: GopRing[FakePacket] = GopRing(self.ring_limit)
        output: Output[int, Sample] = Output(self._emit, self._keep, self._hand_over)
        self.look: LiveLook[FakePacket, int, Sample] = LiveLook(self.sampler, self.ring, self.decoder, output)

    def _emit(self, frame: int, arrived_at: float, reason: SampleReason) -> None:
        self.samples.append((frame, arrived_at, self.now, reason))

    def _keep(self, frame: int, arrived_at: float, reason: SampleReason) -> Sample:
        return frame, arrived_at, self.now, reason

    def _hand_over(self, samples: list[Sample]) -> None:
        self.bursts.append([(frame, arrived_at, self.now, reason) for frame, arrived_at, _, reason in samples])

    def take(self, at: float, kind: str, size: int = 0) -> None:
        """Let a packet arrive: `K` a keyframe, `R` flagged as one without being one, `S` a spike, `P` any other."""
        packet = FakePacket(len(self.arrivals), kind in "KR", kind == "K", size or (1000 if kind in "KS" else 100))
        self.arrivals.append(at)
        self.now = at
        self.look.take(packet, at)

    def hear(self, at: float) -> None:
        """Let a packet of sound arrive."""
        self.now = at
        self.look.overhear(at)

    def pause(self, at: float) -> None:
        """Let it be noticed that nothing comes."""
        self.now = at
        self.look.pause()

    def play(self, kinds: Iterable[str], rate: float = 30.0, start: float = 0.0) -> "Watched":
        """Let packets arrive evenly."""
        for number, kind in enumerate(kinds):
            self.take(start + number / rate, kind)
        return self

    @property
    def sampled_at(self) -> list[float]:
        return [at for _, at, _, _ in self.samples]


def gops(length: int, count: int, first: str = "K") -> str:
    """`count` GOPs of `length` packets."""
    return (first + "P" * (length - 1)) * count


schedules = st.lists(
    st.tuples(
        st.one_of(st.floats(0.001, 0.1), st.floats(0.001, 0.1), st.floats(0.1, 6.0)),
        st.sampled_from("PPPPPPPPPPPPPPKRS"),
    ),
    max_size=250,
)


promises = st.builds(
    SamplingSettings,
    st.floats(0.3, 5.0),
    st.floats(0.1, 5.0),
    st.sampled_from([SamplingMode.AUTO, SamplingMode.FULL]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    schedule=schedules,
    promise=promises,
    ring_limit=st.sampled_from([4 * PACKET_OVERHEAD_BYTES, 1 << 24]),
    pauses=st.frozensets(st.integers(0, 250)),
    seed=st.integers(0, 99),
)
def test_sampler_whenever_packets_arrive_keeps_its_promise(
    schedule: list[tuple[float, str]],
    promise: SamplingSettings,
    ring_limit: int,
    pauses: frozenset[int],
    seed: int,
) -> None:
    """What is shown for detect_within is in an analysed frame, decoded when the next packet arrives at the latest.

    Looks at pauses change nothing about that.
    """
    watched = Watched(promise, seed, ring_limit)
    at = 1000.0
    watched.take(at, "K")
    for number, (gap, kind) in enumerate(schedule):
        if number in pauses:
            watched.pause(at + gap / 2)
        at += gap
        watched.take(at, kind)
    live_samples = list(watched.samples)
    watched.look.finish()

    within = promise.detect_within_seconds
    sampled = [number for number, _, _, _ in watched.samples]
    assert sampled[0] == 0
    for earlier, later in pairwise(sampled):
        assert later == earlier + 1 or watched.arrivals[later] <= watched.arrivals[earlier] + within
    for number, _, analysed_at, _ in live_samples:
        assert analysed_at <= watched.arrivals[min(number + 1, len(watched.arrivals) - 1)]
    # What was on screen last is looked at when the stream ends.
    assert sampled[-1] == len(schedule)
    assert sampled == sorted(set(sampled))
    for burst in watched.bursts:
        assert 1 <= len(burst) <= MAX_BURST_FRAMES
        assert [number for number, *_ in burst] == sorted({number for number, *_ in burst})
        assert len({reason for *_, reason in burst}) == 1


@pytest.mark.parametrize("ring_limit", [4 * PACKET_OVERHEAD_BYTES, 1 << 24])
def test_last_frame_before_a_pause_is_looked_at_without_another_packet(ring_limit: int) -> None:
    """Whether it lies in the ring or was decoded, it is sampled at once, once, and each frame that comes is decoded."""
    watched = Watched(SamplingSettings(), ring_limit=ring_limit).play("KPPPP", rate=10)
    for at in (2.4, 4.4):
        watched.pause(at)
    assert [(number, now) for number, _, now, _ in watched.samples][-1] == (4, 2.4)
    assert [number for number, *_ in watched.samples].count(4) == 1

    watched.play("P" * 60, rate=10, start=5.0)
    seen = [number for number, *_ in watched.samples]
    assert seen[-1] >= 55
    assert all(later <= earlier + 31 for earlier, later in pairwise(seen))


def test_pause_after_what_was_looked_at_costs_nothing() -> None:
    """Nothing is decoded after a keyframe alone, nor again where decoding gave no frame."""
    watched = Watched(SamplingSettings()).play("K")
    watched.pause(2.0)
    assert watched.decoder.through == []

    broken = Watched(SamplingSettings()).play("PPP")  # joined between keyframes
    for at in (2.0, 4.0, 6.0):
        broken.pause(at)
    assert broken.decoder.through == [0, 1, 2]
    assert broken.samples == []


def test_pause_does_not_decode_what_keyframes_alone_leave_out() -> None:
    """In the mode `keyframes` there is no promise to keep."""
    watched = Watched(SamplingSettings(mode=SamplingMode.KEYFRAMES)).play("KPPPP")
    watched.pause(3.0)

    assert watched.decoder.through == []
    assert [number for number, *_ in watched.samples] == [0]


@settings(max_examples=300, deadline=None)
@given(
    schedule=schedules,
    first=promises,
    changes=st.dictionaries(st.integers(0, 250), promises, max_size=4),
    closer_from=st.none() | st.integers(0, 250),
    seed=st.integers(0, 99),
)
def test_sampler_keeps_the_promise_in_force_across_adjusts(
    schedule: list[tuple[float, str]],
    first: SamplingSettings,
    changes: dict[int, SamplingSettings],
    closer_from: int | None,
    seed: int,
) -> None:
    """At every packet the latest sample is no older than the promise then in force allows, or the frame before is one.

    That holds whenever settings change, closer look or not.
    """
    watched = Watched(first, seed)
    in_force, promised = first, [first.detect_within_seconds]
    at = 1000.0
    watched.take(at, "K")
    for number, (gap, kind) in enumerate(schedule):
        if number == closer_from:
            watched.sampler.look_closer(0.2, at + 2.0)
        if number in changes:
            in_force = changes[number]
            watched.sampler.adjust(in_force)
        at += gap
        watched.take(at, kind)
        promised.append(in_force.detect_within_seconds)
    watched.look.finish()

    sampled = [number for number, _, _, _ in watched.samples]
    assert (sampled[0], sampled[-1]) == (0, len(schedule))
    assert sampled == sorted(set(sampled))
    for earlier, later in pairwise(sampled):
        for number in range(earlier + 2, later + 1):
            assert watched.arrivals[number] <= watched.arrivals[earlier] + promised[number]


def test_shorter_promise_looks_at_what_is_on_screen_at_once() -> None:
    """A stream of ten-second GOPs told to keep one second is looked at with the next packet, then every second."""
    watched = Watched(SamplingSettings(detect_within_seconds=20.0, interval_seconds=5.0)).play("K" + "P" * 150)
    watched.sampler.adjust(SamplingSettings(detect_within_seconds=1.0, interval_seconds=1.0))
    watched.play("P" * 100, start=151 / 30)

    assert watched.samples[1][0] == 150
    gaps = [later - earlier for earlier, later in pairwise(watched.sampled_at[1:])]
    assert len(gaps) >= 3
    assert max(gaps) <= 1.0 + 1e-9


def test_longer_promise_goes_back_to_keyframes() -> None:
    """A stream whose GOPs were too long costs its keyframes alone once the promise allows them."""
    watched = Watched(SamplingSettings(detect_within_seconds=1.0)).play(gops(120, 6))
    watched.sampler.adjust(SamplingSettings(detect_within_seconds=10.0))
    watched.play(gops(120, 4), start=24.0)

    assert set(range(600)) < set(watched.decoder.through)
    assert watched.decoder.through[-1] < 720 + 2
    assert [reason for *_, reason in watched.samples][-3:] == [SampleReason.KEYFRAME] * 3


def test_adjust_leaves_a_closer_look_going_on() -> None:
    """New settings during a closer look change neither its pace nor its end."""
    watched = Watched(SamplingSettings()).play(gops(60, 1))
    watched.sampler.look_closer(0.2, 2.0 + 4.0)
    watched.play("K" + "P" * 14, start=2.0)
    watched.sampler.adjust(SamplingSettings(detect_within_seconds=6.0, interval_seconds=2.0))
    watched.play("P" * 45 + gops(60, 5), start=2.5)

    closer = [at for _, at, _, reason in watched.samples if reason is SampleReason.CLOSER_LOOK]
    assert 18 <= len(closer) <= 23
    assert 5.5 <= closer[-1] <= 6.0


@given(
    start=st.floats(0.0, 4.0),
    gop=st.integers(1, 900),
    seed=st.integers(0, 50),
    interval=st.floats(0.2, 3.0),
)
@settings(max_examples=100, deadline=None)
def test_content_when_shown_between_keyframes_is_found_in_time(
    start: float, gop: int, seed: int, interval: float
) -> None:
    """Content that spares every keyframe of any GOP length is analysed within detect_within of appearing."""
    watched = Watched(SamplingSettings(detect_within_seconds=3.0, interval_seconds=interval), seed)
    watched.play("".join("K" if number % gop == 0 else "P" for number in range(330)))
    first = bisect_left(watched.arrivals, start)
    appeared_at = watched.arrivals[first]

    found_at = [analysed for _, at, analysed, _ in watched.samples if appeared_at <= at <= appeared_at + 3.0]

    assert found_at
    assert found_at[0] <= appeared_at + 3.0 + 1 / 30 + 1e-9


@pytest.mark.parametrize("packets", [40, 150])
def test_last_picture_before_sound_alone_is_found_in_time(packets: int) -> None:
    """Whoever stops the video and lets the sound go on leaves a picture on screen: it is analysed all the same."""
    watched = Watched(SamplingSettings(detect_within_seconds=3.0)).play("K" + "P" * (packets - 1))
    stopped_at = watched.arrivals[-1]
    for number in range(1, 300):
        watched.hear(stopped_at + number / 50)

    assert [frame for frame, _, at, _ in watched.samples if at <= stopped_at + 3.1][-1] == packets - 1
    assert len([frame for frame, *_ in watched.samples if frame == packets - 1]) == 1

    watched.play("PPP", start=stopped_at + 6.0)
    assert {packets, packets + 1, packets + 2} <= set(watched.decoder.through), "what follows refers to what was shown"


def test_sampler_when_gops_are_short_decodes_nothing_but_keyframes() -> None:
    """A stream with a keyframe every two seconds costs its keyframes."""
    watched = Watched(SamplingSettings()).play(gops(60, 20))

    assert watched.decoder.alone == list(range(0, 1200, 60))
    assert watched.decoder.through == []
    assert {reason for *_, reason in watched.samples} == {SampleReason.KEYFRAME}


@pytest.mark.parametrize("mode", [SamplingMode.AUTO, SamplingMode.KEYFRAMES])
@given(seed=st.integers(0, 1000), rate=st.floats(5.0, 120.0), interval=st.floats(0.5, 2.0))
@settings(max_examples=30, deadline=None)
def test_all_intra_stream_costs_at_most_two_keyframes_an_interval(
    mode: SamplingMode, seed: int, rate: float, interval: float
) -> None:
    """However dense keyframes come, an interval never holds more than two decoded ones, and nothing else is decoded."""
    watched = Watched(SamplingSettings(3.0, interval, mode), seed).play("K" * 600, rate)
    tried_at = [watched.arrivals[number] for number in watched.decoder.alone]

    assert watched.decoder.through == []
    assert all(later - earlier >= interval / 2 - 1e-9 for earlier, later in pairwise(tried_at))
    assert all(later - earlier <= interval + 2 / rate for earlier, later in pairwise(tried_at))


def spread(instants: list[float], period: float) -> list[int]:
    """How many of `instants` fall into each tenth of `period`."""
    counts = [0] * 10
    for instant in instants:
        counts[int(instant % period / period * 10)] += 1
    return counts


def test_all_intra_instants_are_spread_evenly() -> None:
    """Nobody can tell at which part of a second an all-intra stream is looked at."""
    watched = Watched(SamplingSettings()).play("K" * 60_000, rate=29.97)

    counts = spread(watched.sampled_at, 1.0)

    assert min(counts) > 0.75 * sum(counts) / 10
    assert max(counts) < 1.25 * sum(counts) / 10


def test_decode_through_instants_are_uniform_in_their_interval() -> None:
    """While decoding through each interval has one frame, at an instant that is uniform in it."""
    watched = Watched(SamplingSettings(mode=SamplingMode.FULL)).play("K" + "P" * 60_000, rate=29.97)
    sampled_at = [at for _, at, _, reason in watched.samples if reason is SampleReason.DECODE_THROUGH]

    counts = spread(sampled_at, 1.0)

    assert len(sampled_at) == pytest.approx(2002, abs=2)
    assert min(counts) > 150
    assert max(counts) < 250
    per_interval = [sum(second <= at < second + 1 for at in sampled_at) for second in range(0, 1999, 37)]
    assert sum(count == 1 for count in per_interval) > 0.9 * len(per_interval)


def test_sampler_when_gops_are_long_decodes_through_until_four_short_ones() -> None:
    """GOPs beyond 1.2 x detect_within end reliance on keyframes; four within 1.0 x bring it back."""
    watched = Watched(SamplingSettings(detect_within_seconds=3.0))
    watched.play(gops(240, 2))  # eight seconds each
    watched.play(gops(60, 8), start=16.0)

    # The first one is decoded when three seconds are over, then all until four short ones have passed.
    assert watched.decoder.through[0] == 0
    assert watched.sampled_at[1] == pytest.approx(3.0, abs=1 / 30)
    assert watched.decoder.through[-1] == 480 + 4 * 60 - 1


def test_sampler_when_gops_are_slightly_late_returns_to_keyframes_at_once() -> None:
    """GOPs between 1.0 x and 1.2 x are decoded only from the moment the time is up."""
    watched = Watched(SamplingSettings(detect_within_seconds=2.0)).play(gops(66, 10))  # 2.2 s

    looked_back = [at for _, at, _, reason in watched.samples if reason is SampleReason.DECODE_THROUGH]
    assert watched.sampler.gop_seconds == pytest.approx(2.2)
    assert len(looked_back) == pytest.approx(10, abs=2)
    assert all(1.9 <= at % 2.2 <= 2.2 for at in looked_back)


def test_refresh_stream_is_decoded_through_and_counted() -> None:
    """Flags without a picture are counted, looked through and never taken for a sample."""
    watched = Watched(SamplingSettings()).play("K" + "P" * 59 + gops(60, 10, first="R"))

    assert watched.look.keyframes == 11
    assert watched.look.keyframes_without_picture == 10
    assert watched.decoder.through == list(range(660))
    assert [reason for *_, reason in watched.samples].count(SampleReason.KEYFRAME) == 1
    gaps = [later - earlier for earlier, later in pairwise(watched.sampled_at)]
    assert max(gaps) <= 3.0


def test_false_keyframe_beside_a_true_one_does_not_blind() -> None:
    """A false flag right behind each keyframe, too dense to be tried, does not cost the packets behind it."""
    watched = Watched(SamplingSettings(detect_within_seconds=1.0, interval_seconds=1.0)).play(("KPPPR" + "P" * 85) * 5)

    gaps = [later - earlier for earlier, later in pairwise(watched.sampled_at)]
    assert max(gaps) <= 1.0 + 1e-9


def test_ring_when_it_overflows_is_decoded_and_not_forgotten() -> None:
    """A GOP beyond the memory limit is decoded through from its first packet on, and counted."""
    watched = Watched(SamplingSettings(), ring_limit=20 * (100 + PACKET_OVERHEAD_BYTES))
    watched.play(gops(60, 3))

    assert watched.ring.overflows >= 1
    assert watched.decoder.through[:60] == list(range(60))
    assert SampleReason.DECODE_THROUGH in {reason for *_, reason in watched.samples}


@pytest.mark.parametrize("detect_within", [3.0, 10.0])
def test_packets_of_4k_stay_within_the_memory_limit_and_none_is_forgotten(detect_within: float) -> None:
    """Twenty-second GOPs at 40 Mb/s, on four tracks that share 16 MiB, are decoded packet by packet, in time."""
    budget = RingBudget(16 << 20)
    tracks = [Watched(SamplingSettings(detect_within), seed, budget) for seed in range(4)]
    for number in range(1200):
        for track in tracks:
            track.take(number / 30, "P" if number % 600 else "K", size=40_000_000 // 8 // 30)
        assert budget.held_bytes <= 16 << 20

    for track in tracks:
        assert track.decoder.through == list(range(1200))
        assert all(later - earlier <= detect_within for earlier, later in pairwise(track.sampled_at))
    assert sum(track.ring.overflows for track in tracks) > 0


def test_keyframes_mode_never_decodes_through() -> None:
    """The degraded mode is what it says, whatever the GOP length."""
    watched = Watched(SamplingSettings(mode=SamplingMode.KEYFRAMES)).play(gops(600, 3))

    assert watched.decoder.through == []
    assert watched.sampled_at == [0.0, 20.0, 40.0]


@pytest.mark.parametrize("mode", list(SamplingMode))
def test_closer_look_starts_at_once_and_ends(mode: SamplingMode) -> None:
    """A closer look shows what is on screen now, then a frame of each interval, until its end."""
    watched = Watched(SamplingSettings(mode=mode)).play(gops(60, 1) + "P" * 10)
    asked_at = watched.arrivals[-1]

    watched.sampler.look_closer(0.2, asked_at + 4.0)
    watched.play("P" * 50 + gops(60, 10), start=asked_at + 1 / 30)

    closer = [at for _, at, _, reason in watched.samples if reason is SampleReason.CLOSER_LOOK]
    assert closer[0] == pytest.approx(asked_at + 1 / 30)
    assert 18 <= len(closer) <= 22
    assert max(later - earlier for earlier, later in pairwise(closer)) <= 0.4 + 1 / 15
    assert asked_at + 3.5 <= closer[-1] <= asked_at + 4.0
    if mode is not SamplingMode.FULL:
        assert watched.decoder.through[-1] < len(watched.arrivals) - 300


@pytest.mark.parametrize("mode", [SamplingMode.AUTO, SamplingMode.FULL])
def test_skimmed_stream_costs_its_keyframes_and_is_taken_up_at_the_next(mode: SamplingMode) -> None:
    """Skimming decodes keyframes alone and keeps nothing; after it nothing is decoded that refers to what was left."""
    watched = Watched(SamplingSettings(mode=mode)).play(gops(60, 1) + "P" * 10)
    decoded = len(watched.decoder.through)
    for number, kind in enumerate("P" * 20 + gops(60, 5) + "KPPP"):
        watched.now = 70 / 30 + number / 30
        watched.arrivals.append(watched.now)
        packet = FakePacket(len(watched.arrivals) - 1, kind == "K", kind == "K")
        watched.look.skim(packet, watched.now)
    assert len(watched.decoder.through) == decoded
    assert watched.ring.held_bytes == 0
    assert [number for number, *_ in watched.samples][-6:] == [90, 150, 210, 270, 330, 390]

    start = len(watched.arrivals)
    watched.play("P" * 56 + gops(60, 3), start=watched.now + 1 / 30)

    assert all(number >= start + 56 for number in watched.decoder.through[decoded:])
    assert watched.samples[-1][1] >= watched.now - 3.0


def test_skimmed_refresh_stream_is_taken_up_at_its_next_flag() -> None:
    """A stream without true keyframes is decoded on after skimming as soon as a packet is flagged as one."""
    watched = Watched(SamplingSettings()).play("K" + "P" * 59)
    watched.look.skim(FakePacket(60, is_keyframe=False, is_intra=False), 2.0)
    watched.play(gops(30, 2, first="R"), start=2.1)

    assert watched.decoder.through[-1] == len(watched.arrivals) - 1


def test_slow_stream_has_every_frame_analysed() -> None:
    """Of a stream with a frame every ten seconds nothing is left out."""
    watched = Watched(SamplingSettings()).play("K" + "P" * 20, rate=0.1)

    assert [number for number, *_ in watched.samples] == list(range(21))


def spiked(at: set[int], length: int = 60, count: int = 20) -> str:
    """`count` GOPs; those of them whose numbers are in `at` have a spike as their tenth packet."""
    return "".join("K" + "P" * 9 + ("S" if number in at else "P") + "P" * (length - 11) for number in range(count))


@given(share=st.sampled_from([0.05, 0.25, 1.0]), seed=st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_one_gop_in_each_block_is_decoded_once_it_is_complete(share: float, seed: int) -> None:
    """Its frames, as far as they differ, are handed over when its last one came; the rest costs keyframes alone."""
    watched = Watched(SamplingSettings(burst_share=share), seed).play(gops(60, 41))
    decoded_gops = sorted({number // 60 for number in watched.decoder.through})

    assert watched.look.bursts == len(decoded_gops) == len(watched.bursts) == round(40 * share)
    assert len(watched.decoder.through) == 60 * len(decoded_gops)
    for gop, burst in zip(decoded_gops, watched.bursts, strict=True):
        assert len(burst) == MAX_BURST_FRAMES
        assert all(60 * gop <= number < 60 * (gop + 1) for number, *_ in burst)
        assert {at for _, _, at, _ in burst} == {watched.arrivals[60 * (gop + 1)]}
        assert {reason for *_, reason in burst} == {SampleReason.BURST}
    assert {reason for *_, reason in watched.samples} == {SampleReason.KEYFRAME}


def beyond_peeks(watched: Watched) -> list[int]:
    """What was decoded through of GOPs of 60, but for their first packets, which are looked at now and then."""
    return [number for number in watched.decoder.through if number % 60 > PEEK_PACKETS]


def test_spike_is_decoded_at_once_and_on_to_the_next_keyframe() -> None:
    """What led up to it is handed over with its packet, what follows when the GOP ends; then keyframes suffice."""
    watched = Watched(SamplingSettings(spikes=True)).play(spiked({5}))
    first, second = watched.bursts

    assert watched.look.spikes == 1
    assert beyond_peeks(watched) == list(range(300 + PEEK_PACKETS + 1, 360))
    assert {at for _, _, at, _ in first} == {watched.arrivals[310]}
    assert all(300 <= number <= 310 for number, *_ in first)
    assert {at for _, _, at, _ in second} == {watched.arrivals[360]}
    assert all(310 < number < 360 for number, *_ in second)
    assert {reason for *_, reason in first + second} == {SampleReason.SPIKE}


@given(seed=st.integers(0, 50), detect_within=st.floats(2.0, 6.0))
@settings(max_examples=20, deadline=None)
def test_spikes_cost_at_most_one_gop_in_detect_within(seed: int, detect_within: float) -> None:
    """A publisher who cuts hard in each GOP has the first looked at, and no more of them than was promised."""
    settings_ = SamplingSettings(detect_within, spikes=True)
    watched = Watched(settings_, seed).play(spiked(set(range(1, 100)), count=100))

    assert watched.decoder.through[0] < 2 * 60
    assert watched.look.spikes <= 200 / detect_within + 3 * (200 / detect_within) ** 0.5


def test_nobody_can_foresee_which_spikes_are_looked_at() -> None:
    """After a spike that was looked at any of the next GOPs may be, the very next one among them."""
    pauses = set()
    for seed in range(40):
        watched = Watched(SamplingSettings(3.0, spikes=True), seed).play(spiked(set(range(1, 20))))
        looked_at = sorted({number // 60 for number in beyond_peeks(watched)})
        pauses |= {later - earlier for earlier, later in pairwise(looked_at)}

    assert pauses == {1, 2, 3}


@given(gop_seconds=st.sampled_from([0.5, 1.0, 2.0, 3.0]), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_first_frames_after_a_keyframe_are_looked_at_in_time(gop_seconds: float, seed: int) -> None:
    """Never twice within half of what is promised, and at the latest a GOP after all of it; nothing else is decoded."""
    length = round(30 * gop_seconds)
    watched = Watched(SamplingSettings(spikes=True), seed).play(gops(length, 40))
    peeks = [watched.arrivals[number] for number in watched.decoder.through if number % length == 0]

    assert {number % length for number in watched.decoder.through} == set(range(PEEK_PACKETS + 1))
    pauses = [later - earlier for earlier, later in pairwise(peeks)]
    assert min(pauses) >= 1.5 - 1e-6
    assert max(pauses) <= 3.0 + gop_seconds
    assert watched.look.spikes == watched.look.bursts == 0


@pytest.mark.parametrize(
    "settings_",
    [
        SamplingSettings(),
        SamplingSettings(mode=SamplingMode.KEYFRAMES, spikes=True),
        SamplingSettings(spikes=True, slowed_to_seconds=10.0),
    ],
)
def test_first_frames_are_left_alone_where_nobody_asked_or_time_is_short(settings_: SamplingSettings) -> None:
    """Without spikes, by keyframes alone, or slowed, nothing behind a keyframe is decoded."""
    assert Watched(settings_).play(gops(60, 20)).decoder.through == []


def test_pause_between_spikes_follows_a_shorter_promise() -> None:
    """A pause that was drawn for minutes ends with the promise that it was drawn for."""
    watched = Watched(SamplingSettings(600.0, spikes=True)).play(spiked({1}, count=2))
    watched.sampler.adjust(SamplingSettings(3.0, spikes=True))
    watched.play(spiked(set(range(8))), start=4.0)

    assert watched.look.spikes >= 2


@pytest.mark.parametrize("mode", SamplingMode)
def test_modes_say_what_is_decoded_beyond_the_promise(mode: SamplingMode) -> None:
    """`keyframes` decodes keyframes alone; `full` decodes everything as it is, and bursts tell more of some GOPs."""
    watched = Watched(SamplingSettings(mode=mode, burst_share=0.25, spikes=True)).play(spiked({3, 9}, count=21))

    assert watched.look.spikes == (2 if mode is SamplingMode.AUTO else 0)
    assert (watched.look.bursts > 0) is (mode is not SamplingMode.KEYFRAMES)
    assert (watched.decoder.through == []) is (mode is SamplingMode.KEYFRAMES)


def test_all_intra_stream_is_thinned_whatever_the_bursts() -> None:
    """Where every packet is a keyframe none is worth more than another: at most two an interval are decoded."""
    watched = Watched(SamplingSettings(burst_share=1.0)).play("K" * 600)

    assert watched.decoder.through == []
    assert watched.bursts == []


def test_long_gop_is_one_burst_of_ten_seconds() -> None:
    """A GOP of a minute that is decoded whole is told of after ten seconds, and looked at as promised from then on."""
    watched = Watched(SamplingSettings(100.0, burst_share=1.0)).play(gops(1800, 2))

    assert [at for _, _, at, _ in watched.bursts[0]] == [pytest.approx(10.0, abs=0.1)] * MAX_BURST_FRAMES
    assert len(watched.bursts) == 2
    assert [number for number, *_ in watched.samples] == [0, 1800]


def test_share_that_is_raised_while_running_acts_at_the_next_gop() -> None:
    """New settings hold from the next GOP on, for bursts as for spikes."""
    watched = Watched(SamplingSettings()).play(spiked({3}, count=5))
    assert watched.decoder.through == []
    watched.sampler.adjust(SamplingSettings(burst_share=1.0))
    watched.play(gops(60, 3), start=10.0)

    assert watched.decoder.through == list(range(300, 420))


SLOWED = SamplingSettings(3.0, 1.0, slowed_to_seconds=10.0)

slowed_or_not = st.builds(
    lambda promise, slowed_to, mode: replace(promise, slowed_to_seconds=slowed_to, mode=mode),
    promises,
    st.sampled_from([0.0, 2.0, 4.0, 10.0]),
    st.sampled_from(SamplingMode),
)


@dataclass(frozen=True)
class Course:
    """What happens between packets, by the number of the one that comes next."""

    changes: dict[int, SamplingSettings]
    closer_from: int | None
    pauses: frozenset[int]
    sounds: frozenset[int]


courses = st.builds(
    Course,
    st.dictionaries(st.integers(0, 250), slowed_or_not, max_size=5),
    st.none() | st.integers(0, 250),
    st.frozensets(st.integers(0, 250), max_size=20),
    st.frozensets(st.integers(0, 250), max_size=20),
)


def longest_gap(promise: SamplingSettings) -> float:
    """How far apart two analysed frames may lie."""
    return max(promise.detect_within_seconds, promise.slowed_to_seconds)


@settings(max_examples=400, deadline=None)
@given(
    schedule=schedules,
    first=slowed_or_not,
    course=courses,
    ring_limit=st.sampled_from([6 * PACKET_OVERHEAD_BYTES, 40 * PACKET_OVERHEAD_BYTES, 1 << 24]),
    seed=st.integers(0, 99),
)
def test_slowed_stream_is_never_left_alone_for_longer_than_it_may_be(
    schedule: list[tuple[float, str]],
    first: SamplingSettings,
    course: Course,
    ring_limit: int,
    seed: int,
) -> None:
    """At every packet the latest sample is no older than what then holds allows, or the frame before is one.

    False flags, jitter, pauses, a full ring, switches at any moment and closer looks change nothing about that. In the
    mode `keyframes` it holds as far as keyframes came; it is all that is looked at.
    """
    watched = Watched(first, seed, ring_limit)
    in_force, at = first, 1000.0
    watched.take(at, "K")
    for number, (gap, kind) in enumerate(schedule):
        if number == course.closer_from:
            watched.sampler.look_closer(0.2, at + 2.0)
        if number in course.changes:
            in_force = course.changes[number]
            watched.sampler.adjust(in_force)
        if number in course.pauses:
            watched.pause(at + gap / 2)
        if number in course.sounds:
            watched.hear(at + gap / 2)
        before, at = len(watched.arrivals) - 1, at + gap
        watched.take(at, kind)
        latest = max(sampled for sampled, *_ in watched.samples)
        if in_force.mode is not SamplingMode.KEYFRAMES:
            assert latest >= before or at <= watched.arrivals[latest] + longest_gap(in_force)
    watched.look.finish()

    sampled = [number for number, *_ in watched.samples]
    assert sampled == sorted(set(sampled))
    assert (sampled[0], sampled[-1]) == (0, len(schedule))
    assert watched.ring.held_bytes == 0


@settings(max_examples=100, deadline=None)
@given(
    keyframe_gaps=st.lists(st.floats(2.5, 5.0), min_size=2, max_size=60),
    mode=st.sampled_from(SamplingMode),
    seed=st.integers(0, 99),
)
def test_slowed_stream_costs_few_keyframes_and_nothing_else(
    keyframe_gaps: list[float], mode: SamplingMode, seed: int
) -> None:
    """However unevenly keyframes come: while they come in time, no other frame is decoded, and each gap is kept."""
    watched = Watched(replace(SLOWED, mode=mode), seed)
    at = 0.0
    for gap in keyframe_gaps:
        for place in range(8):
            watched.take(at + gap * place / 8, "P" if place else "K")
        at += gap

    gaps = [later - earlier for earlier, later in pairwise(watched.sampled_at)]
    assert watched.decoder.through == []
    assert all(gap <= 10.0 + 1e-9 for gap in gaps)
    assert len(watched.decoder.alone) == len(watched.samples)


@pytest.mark.parametrize("mode", SamplingMode)
@pytest.mark.parametrize(("gop", "one_in"), [(30, 6.8), (60, 3.4), (120, 1.8), (240, 1.0)])
def test_slowed_stream_passes_over_as_many_keyframes_as_it_may(mode: SamplingMode, gop: int, one_in: float) -> None:
    """With ten seconds and GOPs of two, one keyframe in four is decoded, and nothing between them, in every mode."""
    watched = Watched(replace(SLOWED, mode=mode)).play(gops(gop, 200))

    assert watched.decoder.through == []
    assert 200 / len(watched.decoder.alone) >= one_in


@pytest.mark.parametrize("gop", [30, 60, 95, 110, 120])
def test_nobody_can_foresee_which_keyframes_of_a_slowed_stream_are_looked_at(gop: int) -> None:
    """Where two keyframes or more fit into a gap, each one has its chance some time after the first."""
    looked_at: Counter[int] = Counter()
    for seed in range(200):
        watched = Watched(SLOWED, seed).play("KP" * 60, rate=60 / gop)
        looked_at.update(number // 2 for number in watched.decoder.alone)

    usual = sum(looked_at[place] for place in range(30, 60)) / 30
    assert all(0.5 * usual < looked_at[place] < 1.7 * usual for place in range(30, 60))


def test_long_gops_of_a_slowed_stream_are_decoded_no_further_than_needed() -> None:
    """Of GOPs of twenty seconds what comes after the last look before a keyframe is not decoded."""
    watched = Watched(SLOWED).play(gops(600, 60))
    gaps = [later - earlier for earlier, later in pairwise(watched.sampled_at)]

    assert max(gaps) <= 10.0
    assert len(watched.decoder.through) < 0.85 * len(watched.arrivals)
    assert len(watched.samples) < 200  # three a GOP, and not one a second
    assert watched.decoder.through == sorted(set(watched.decoder.through)), "none is decoded twice"


def test_refresh_stream_that_is_slowed_is_decoded_through_and_seldom_analysed() -> None:
    """Without keyframes each packet must be decoded some time; the frames that are not needed cost no more."""
    watched = Watched(SLOWED).play("K" + "P" * 59 + gops(60, 60, first="R"))
    gaps = [later - earlier for earlier, later in pairwise(watched.sampled_at)]

    assert max(gaps) <= 10.0
    assert len(watched.samples) < 30
    assert watched.decoder.through == list(range(len(watched.arrivals)))


@pytest.mark.parametrize("mode", [SamplingMode.AUTO, SamplingMode.FULL])
def test_bursts_and_spikes_hold_while_a_stream_is_slowed(mode: SamplingMode) -> None:
    """A GOP in each block is decoded whole, and only that GOP; a change of scene is looked at when it comes."""
    watched = Watched(replace(SLOWED, mode=mode, burst_share=0.25)).play(gops(60, 81))
    decoded = sorted({number // 60 for number in watched.decoder.through})
    assert [sum(at <= gop < at + 4 for gop in decoded) for at in range(0, 80, 4)] == [1] * 20
    assert len(watched.decoder.through) == 60 * len(decoded)
    assert watched.look.bursts == 20

    spiky = Watched(replace(SLOWED, mode=mode, spikes=True)).play(spiked({7, 17}))
    assert spiky.look.spikes == 2
    assert {number // 60 for number in spiky.decoder.through} == {7, 17}
    assert {at for _, _, at, _ in spiky.bursts[0]} == {spiky.arrivals[430]}


def test_slowed_stream_is_looked_at_closely_at_once_and_slowed_again() -> None:
    """A closer look overrides slowing from the next packet on; after it keyframes are passed over as before."""
    watched = Watched(SLOWED).play(gops(60, 6) + "KPPP")
    watched.sampler.look_closer(0.2, watched.now + 4.0)
    watched.play("P" * 56 + gops(60, 40), start=watched.now + 1 / 30)

    closer = [at for _, at, _, reason in watched.samples if reason is SampleReason.CLOSER_LOOK]
    assert closer[0] == pytest.approx(364 / 30)
    assert 18 <= len(closer) <= 24
    assert max(later - earlier for earlier, later in pairwise(closer)) <= 0.4 + 1 / 15
    assert watched.decoder.through[-1] < 364 + 6 * 30 + 60
    assert len(watched.decoder.alone) < 20


def test_false_keyframe_flags_do_not_make_a_slowed_stream_blind() -> None:
    """What came before a passed keyframe is kept until that one proved true: a flag alone drops nothing."""
    watched = Watched(SLOWED).play(gops(60, 8) + ("K" + "P" * 59 + gops(60, 7, first="R")) * 4)
    gaps = [later - earlier for earlier, later in pairwise(watched.sampled_at)]

    assert max(gaps) <= 10.0
    assert watched.look.keyframes_without_picture > 4
