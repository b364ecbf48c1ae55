"""Bursts, spikes and peeks: what is decoded beyond the promise, of fake packets."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.frame import MAX_BURST_FRAMES, SampleReason
from streams.peek import PEEK_PACKETS
from streams.sampling import SamplingMode, SamplingSettings
from tests.unit.look_scene import StillDecoder, Watched, beyond_peeks, gops, spiked


@given(share_and_gops=st.sampled_from([(0.05, 40), (0.25, 24), (1.0, 10)]), seed=st.integers(0, 200))
@settings(max_examples=15, deadline=None)
def test_one_gop_in_each_block_is_decoded_once_it_is_complete(share_and_gops: tuple[float, int], seed: int) -> None:
    """Its frames, as far as they differ, are handed over when its last one came; the rest costs keyframes alone."""
    share, complete = share_and_gops  # two blocks of them at least
    watched = Watched(SamplingSettings(burst_share=share), seed).play(gops(60, complete + 1))
    decoded_gops = sorted({number // 60 for number in watched.decoder.through})

    assert watched.look.bursts == len(decoded_gops) == len(watched.bursts) == round(complete * share)
    assert len(watched.decoder.through) == 60 * len(decoded_gops)
    for gop, burst in zip(decoded_gops, watched.bursts, strict=True):
        assert len(burst) == MAX_BURST_FRAMES
        assert all(60 * gop <= number < 60 * (gop + 1) for number, *_ in burst)
        assert {at for _, _, at, _ in burst} == {watched.arrivals[60 * (gop + 1)]}
        assert {reason for *_, reason in burst} == {SampleReason.BURST}
    assert {reason for *_, reason in watched.samples} == {SampleReason.KEYFRAME}


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
    # GOPs of half a second for 200 s. Pauses are even between 0 and twice `detect_within`, which puts what is allowed
    # beyond the promise 4.6 standard deviations away for the longest and 7 for the shortest, and a third of all GOPs.
    watched = Watched(SamplingSettings(detect_within, spikes=True), seed, decoder=StillDecoder())
    watched.play(spiked(set(range(1, 400)), length=15, count=400))
    promised = 200 / detect_within

    assert beyond_peeks(watched, 15)[0] < 2 * 15
    assert 198 / (2 * detect_within + 1) - 1 <= watched.look.spikes <= promised + 3 * promised**0.5


def test_nobody_can_foresee_which_spikes_are_looked_at() -> None:
    """After a spike that was looked at any of the next GOPs may be, the very next one among them."""
    pauses = set()
    for seed in range(10):  # some 90 pauses, of which each length is every third
        watched = Watched(SamplingSettings(3.0, spikes=True), seed, decoder=StillDecoder())
        watched.play(spiked(set(range(1, 20))))
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
