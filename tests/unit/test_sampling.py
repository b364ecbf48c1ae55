"""What the sampler promises, on a virtual clock and a decoder that only keeps the books."""

from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.frame import MAX_BURST_FRAMES, SampleReason
from streams.gop import PACKET_OVERHEAD_BYTES, RingBudget
from streams.sampling import SamplingMode, SamplingSettings
from tests.unit.look_scene import FakePacket, Watched, gops, promises, schedules


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
