"""Scene changes that packet sizes show: found by every usual rate control, and seldom where there are none."""

import io
import random
from itertools import product

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hidden_clips import USUAL_CONTROLS, Control, HiddenClip, Hiding, camera, speaker, still
from streams.spikes import Spikes


def gops_with_a_change(clip: bytes) -> list[bool]:
    """Which GOPs of a clip are found to show a change."""
    spikes, found = Spikes(), []
    with av.open(io.BytesIO(clip), format="mpegts") as container:
        for packet in container.demux(video=0):
            if packet.is_keyframe:
                spikes.begin_gop(packet.size, packet.pts)
                found.append(False)
            elif packet.size and spikes.shows_change(packet.size, packet.pts):
                found[-1] = True
    return found


@pytest.mark.parametrize(
    ("control", "hiding"),
    [
        *product(USUAL_CONTROLS, [Hiding.BETWEEN_KEYFRAMES, Hiding.HALFWAY]),
        *product([Control.ABR, Control.CBR, Control.CRF], [Hiding.B_FRAMES]),
    ],
)
def test_hidden_picture_shows_in_the_sizes(control: Control, hiding: Hiding) -> None:
    """Each GOP that hides something behind a panning camera is found, once there was one to compare with."""
    found = gops_with_a_change(HiddenClip(camera, hiding, control, gops=3, clean_gops=1).encoded())

    assert found[1:] == [True, True]


@pytest.mark.parametrize("control", USUAL_CONTROLS)
def test_honest_content_seldom_looks_like_a_change(control: Control) -> None:
    """A camera, a speaker and a card that stands still give at most one false alarm in twelve GOPs."""
    found = [
        gops_with_a_change(HiddenClip(clean, Hiding.NOWHERE, control, gops=4).encoded())
        for clean in (camera, speaker, still)
    ]

    assert sum(sum(each) for each in found) <= 1


def told(sizes: list[int], *, spikes: Spikes | None = None, keyframe: int = 20_000) -> list[bool]:
    """What is said about P-frames of these sizes behind a keyframe."""
    spikes = spikes or Spikes()
    spikes.begin_gop(keyframe, 0)
    return [spikes.shows_change(size, 1 + number) for number, size in enumerate(sizes)]


@given(
    usual=st.integers(200, 5_000),
    spread=st.floats(0.0, 0.5),
    factor=st.floats(8.0, 16.0),
    at=st.integers(8, 59),
    seed=st.integers(0, 99),
)
def test_one_packet_of_a_keyframes_size_is_a_spike_wherever_it_stands(
    usual: int, spread: float, factor: float, at: int, seed: int
) -> None:
    """A packet 8 to 16 times the usual and as large as half a keyframe is told at once, and nothing else is."""
    draw = random.Random(seed)
    sizes = [int(usual * (1 + spread * (draw.random() - 0.5))) for _ in range(60)]
    sizes[at] = int(usual * factor * 1.5)

    assert told(sizes, keyframe=2 * sizes[at]) == [number == at for number in range(60)]


@given(st.lists(st.integers(0, 100_000), max_size=200), st.integers(0, 100_000))
def test_nothing_is_told_before_a_keyframe_or_without_anything_usual(sizes: list[int], keyframe: int) -> None:
    """Whoever joins between keyframes, or has seen seven packets, has nothing to compare with."""
    spikes = Spikes()
    assert not any(spikes.shows_change(size, number) for number, size in enumerate(sizes))
    assert not any(told(sizes[:7], keyframe=keyframe))


def test_large_packet_among_the_first_is_told_once_others_are_usual() -> None:
    """The first GOP's first packet cannot be judged when it comes; it is when seven others came."""
    assert told([9_000, *[500] * 10]) == [False] * 7 + [True] + [False] * 3


def test_b_frames_are_measured_by_p_frames() -> None:
    """B-frames that are all large stand out, though none of them is larger than the others; small ones do not."""
    for b_size, is_told in ((4_000, True), (300, False)):
        spikes = Spikes()
        told([1_000] * 20, spikes=spikes)
        spikes.begin_gop(20_000, 100)
        for pts in range(103, 160, 3):
            spikes.shows_change(1_000, pts)
            assert [spikes.shows_change(b_size, pts - 2), spikes.shows_change(b_size, pts - 1)] == [is_told] * 2


def test_times_that_make_every_packet_a_b_frame_hide_nothing() -> None:
    """Behind keyframes that claim to be shown last, packets are P-frames once there are too many to be reordered."""
    spikes = Spikes()
    found = []
    for gop in range(4):
        spikes.begin_gop(20_000, 1_000_000)
        sizes = [1_000] * 30 + [14_000 if gop == 3 else 1_000] + [1_000] * 10
        found.append([spikes.shows_change(size, 100 * gop + number) for number, size in enumerate(sizes)])

    assert [any(each) for each in found] == [False, False, False, True]
    assert found[3][30]


def test_packets_without_times_are_judged_as_p_frames() -> None:
    """Who sends no presentation times has no B-frames to hide in."""
    spikes = Spikes()
    spikes.begin_gop(20_000, None)
    assert [spikes.shows_change(size, None) for size in [500] * 8 + [9_000]] == [False] * 8 + [True]


@pytest.mark.parametrize(("size", "is_blind"), [(500, False), (7_999, False), (8_001, True), (19_000, True)])
def test_even_sizes_are_blindness(size: int, is_blind: object) -> None:
    """Where a keyframe itself would not stand out among P-frames, sizes can show nothing, and that is said."""
    spikes = Spikes()
    assert not spikes.is_blind
    for _ in range(4):
        told([size] * 10, spikes=spikes)

    assert spikes.is_blind is is_blind
