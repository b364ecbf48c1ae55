"""Streams that are slowed while CPU time is short, of fake packets."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.frame import SampleReason
from streams.gop import PACKET_OVERHEAD_BYTES
from streams.sampling import SamplingMode, SamplingSettings
from tests.unit.look_scene import Watched, gops, promises, schedules, spiked

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
