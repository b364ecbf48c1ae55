"""The evasion and delay benchmarks: what they remember is what a decoder gives, and their figures are what they say."""

import random
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.delay import Heard, Plain, added_delays
from benchmarks.evasion import control_checks, knowing_checks, points_off, usual_checks
from benchmarks.evasion_cells import Knowing, as_shipped, found_after, keyframes_only
from benchmarks.evasion_live import replayed
from benchmarks.evasion_picture import draw_picture, planned_curve
from benchmarks.hidden_clips import RATE, Control, HiddenClip, Hiding, camera, card
from benchmarks.virtual_clock import LoopedClip, RememberedDecoder, Watching, cpu_seconds, share_that_shows
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason

HIDDEN = HiddenClip(camera, Hiding.BETWEEN_KEYFRAMES, Control.ONE_FRAME, gops=3, clean_gops=0, gop=15, target=card)


@pytest.fixture(scope="module")
def looped() -> LoopedClip:
    return LoopedClip(HIDDEN)


def test_remembered_frames_are_those_that_the_decoder_gives(looped: LoopedClip) -> None:
    """From any keyframe on, across rounds, first asked or asked again: the same planes and times, drained ones too."""
    for start, count in ((15, 40), (0, 20), (15, 22), (30, 60), (15, 40)):
        decoder, remembered = looped.new_decoder(), RememberedDecoder(looped)
        for number in range(start, start + count):
            given = decoder.decode_through(looped.real_packet(number))
            again = remembered.decode_through(looped.packet(number))
            assert [(frame.pts, decoder.plane(frame).tobytes()) for frame in given] == [  # type: ignore[union-attr]
                (frame.pts, frame.plane.tobytes()) for frame in again
            ]
        assert [frame.pts for frame in decoder.finish_through()] == [frame.pts for frame in remembered.finish_through()]


def test_clip_hides_its_target_from_keyframes_alone(looped: LoopedClip) -> None:
    """Every frame but the keyframes matches what is hidden, as the product would say."""
    shown = looped.shown()

    assert [number for number, is_target in enumerate(shown) if not is_target] == [0, 15, 30]
    assert Watching(looped, keyframes_only(as_shipped()), seed=1).run_to(10.0) is None
    assert share_that_shows(looped) == 0.0


def test_target_is_found_only_from_the_moment_it_appears(looped: LoopedClip) -> None:
    """With every GOP decoded whole, the GOP in which it appears is handed over at its end."""
    settings = replace(as_shipped(), burst_share=1.0)
    draw = random.Random(1)
    for _ in range(20):
        appears_at = draw.uniform(4.0, 8.0)
        found = Watching(looped, settings, seed=1, target_from_seconds=appears_at).run_to(20.0)
        assert found is not None
        assert 0.0 <= found.at - appears_at <= 15 / RATE + 0.1


def test_nothing_is_found_where_nobody_looks(looped: LoopedClip) -> None:
    """Without bursts and with flattened sizes the target stays hidden, and every run counts as one that missed it."""
    later = LoopedClip(replace(looped.clip, hiding=Hiding.LATER))
    delays, blind = found_after(later, replace(as_shipped(), burst_share=0.0), 3, seed=1)

    assert delays == [float("inf")] * 3
    assert blind > 0.5


def test_decoding_whole_gops_costs_more_than_keyframes(looped: LoopedClip) -> None:
    """The CPU time beside each row is that of the real decoder."""
    everything = cpu_seconds(looped, replace(as_shipped(), burst_share=1.0), 10.0, seed=1)

    assert everything > 2 * cpu_seconds(looped, keyframes_only(as_shipped()), 10.0, seed=1)


def test_attack_names_say_what_is_done() -> None:
    """Flattened sizes are named by the rate control, all others by where the target is."""
    assert Knowing(Hiding.LATER, Control.FILLER, 60).name == Control.FILLER.value
    assert Knowing(Hiding.FADED, Control.LIVE, 60).name == Hiding.FADED.value


def row(**changes: Any) -> dict[str, Any]:
    found = {"found_in_10_s": 0.25, "found_in_30_s": 0.69, "found_in_60_s": 0.98}
    planned = {"planned_in_10_s": 0.25, "planned_in_30_s": 0.68, "planned_in_60_s": 0.98}
    return {"kind": "knowing", "bursts": 0.05, "gop_s": 2.0, **found, **planned} | changes


def test_found_share_is_held_against_the_plan() -> None:
    """The worst horizon of the worst cell counts; a share that no cell has is said not to be measured."""
    assert points_off(row()) == pytest.approx(1.0)
    checks = knowing_checks([row(), row(found_in_30_s=0.75)])
    assert [check.ok for check in checks] == [False, True, False]
    assert checks[0].value == pytest.approx(7.0)
    assert checks[2].value is None


def test_rows_without_a_promise_are_not_checked() -> None:
    """Usual rate control is checked where it is promised, controls wherever they were run."""
    usual = {
        "kind": "usual",
        "hidden": "x",
        "target": "card",
        "control": "ABR",
        "found_in_time": 0.9,
        "found_by_keyframes_alone": 0,
    }
    checks = usual_checks([usual | {"is_promised": True}, usual | {"is_promised": False}], 5.0)
    assert [check.ok for check in checks] == [False]
    foreseen = control_checks([usual, {"kind": "control", "found_by_keyframes_alone": 1, "found_by_whole_seconds": 0}])
    assert [check.ok for check in foreseen] == [False, True]


def test_planned_curve_only_rises() -> None:
    """Whatever the GOP, more time is never less chance, and sizes of GOPs longer than promised do not matter."""
    for gop_seconds in (1.0, 2.0, 4.0):
        curve = planned_curve(gop_seconds, 0.05, [1.0, 10.0, 30.0, 60.0])
        assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(1.0)


def test_picture_is_drawn_or_said_to_be_missing(tmp_path: Any) -> None:
    """One file, or the reason."""
    said = draw_picture([row(attack="x", curve=[0.0, 0.5])], tmp_path / "evasion.png")

    assert (tmp_path / "evasion.png").exists() or said.startswith("none:")


def test_live_clip_marks_the_first_packet_that_shows_the_target() -> None:
    """What was hidden in B-frames is marked at the first of them that is sent."""
    clip = replayed(replace(HIDDEN, hiding=Hiding.B_FRAMES, control=Control.ABR, clean_gops=1))

    assert [chunk.card for chunk in clip.chunks].count("hidden") == 1
    assert 15 <= next(number for number, chunk in enumerate(clip.chunks) if chunk.card) <= 18
    assert len(clip.chunks) == 45


def sample(seconds: float, reason: SampleReason) -> Frame:
    return Frame(1, 0.0, 0.0, seconds, reason, False, 1, 1, bytes(PLANE_BYTES), bytes(PICTURE_BYTES))


def test_samples_are_held_against_the_same_frame() -> None:
    """A single one and a spike against themselves, the rest of a GOP against the keyframe that ends it."""
    plain = Plain()
    for number in range(300):
        plain.note(f"[{number / RATE}, {str(number % 60 == 0).lower()}, {100 + number / RATE}]".encode())
    single, spike, rest = (
        Heard("way", 100 + at, [sample(seconds, reason)])
        for at, seconds, reason in (
            (6.02, 6.0, SampleReason.KEYFRAME),
            (6.55, 6.5, SampleReason.SPIKE),
            (8.10, 7.9, SampleReason.SPIKE),
        )
    )
    early = Heard("way", 102.0, [sample(1.0, SampleReason.KEYFRAME)])
    late = Heard("way", 111.0, [sample(9.0, SampleReason.KEYFRAME)])

    assert added_delays(plain, [early, single, spike, rest, late]) == {
        ("way", "keyframe"): [pytest.approx(0.02)],
        ("way", "spike"): [pytest.approx(0.05)],
        ("way", "spike, after its GOP"): [pytest.approx(0.10)],
    }
