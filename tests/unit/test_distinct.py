"""Which frames stand for a GOP: those that differ, the most different of them if there are many."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.distinct import DistinctFrames
from streams.frame import MAX_BURST_FRAMES

SAME = 4.0


def grey(level: int) -> np.ndarray:
    return np.full((64, 64), level, np.uint8)


def shown(levels: list[int]) -> DistinctFrames[int]:
    """What keeps these grey cards, each as its place in the list."""
    distinct: DistinctFrames[int] = DistinctFrames(SAME)
    for place, level in enumerate(levels):
        distinct.show(grey(level), lambda place=place: place)
    return distinct


@given(st.lists(st.integers(0, 255), max_size=60))
def test_kept_frames_differ_and_stand_for_the_others(levels: list[int]) -> None:
    """Kept frames differ from one another; where there was room, each other frame is like one of them.

    Or like a frame that a stiller one stands for.
    """
    kept = shown(levels).take()

    assert kept == sorted(set(kept))
    assert len(kept) <= MAX_BURST_FRAMES
    assert all(abs(levels[one] - levels[other]) > SAME for one in kept for other in kept if one != other)
    if len(kept) < MAX_BURST_FRAMES:
        assert all(min(abs(level - levels[one]) for one in kept) <= 3 * SAME for level in levels)


@given(st.permutations([*range(0, 100, 5), 250]))
def test_what_differs_most_is_kept_whenever_it_comes(levels: list[int]) -> None:
    """Twenty cards that are somewhat alike do not crowd out the one that is like none of them."""
    assert levels.index(250) in shown(levels).take()


def test_what_was_taken_is_known() -> None:
    """A frame that was handed over once does not come again, others do."""
    distinct = shown([0, 50])
    assert distinct.take() == [0, 1]
    for level in (1, 52, 100):
        distinct.show(grey(level), lambda level=level: level)

    assert len(distinct) == 1
    assert distinct.take() == [100]
    assert distinct.take() == []


def test_frame_of_which_nothing_can_be_made_takes_no_place() -> None:
    """A frame that cannot be scaled is not kept, and the next like it may be."""
    distinct: DistinctFrames[int] = DistinctFrames(SAME)
    distinct.show(grey(7), lambda: None)
    distinct.show(grey(7), lambda: 7)

    assert distinct.take() == [7]


def test_of_a_slow_fade_the_picture_that_it_ends_in_is_kept() -> None:
    """Whatever else the GOP shows, and though the last steps of the fade are as good as the same as its end."""
    generator = np.random.default_rng(1)
    clean, target = (generator.integers(0, 256, (64, 64)).astype(np.uint8) for _ in range(2))
    steps = [clean * (1 - part / 25) + target * (part / 25) for part in range(25)]
    others = [np.roll(clean, 5 * number, axis=1) for number in range(1, 12)]
    frames = [*others, *steps, *[target] * 12, *steps[::-1], *others]
    distinct: DistinctFrames[int] = DistinctFrames(4.0)
    for number, frame in enumerate(frames):
        distinct.show(frame.astype(np.uint8), lambda number=number: number)  # type: ignore[misc]

    kept = distinct.take()
    assert any((frames[number] == target).all() for number in kept)
    assert len(kept) == MAX_BURST_FRAMES


def test_end_of_a_fade_is_kept_though_its_last_step_was_handed_over() -> None:
    """What was handed over in the middle of a fade does not stand for the picture that it ends in."""
    distinct: DistinctFrames[int] = DistinctFrames(4.0)
    for level in (0, 50, 97):
        distinct.show(grey(level), lambda level=level: level)  # type: ignore[misc]
    distinct.take()
    for level in (100, 100):
        distinct.show(grey(level), lambda level=level: level)  # type: ignore[misc]

    assert distinct.take() == [100]


def test_stiller_frames_do_not_lead_away_from_what_they_stand_for() -> None:
    """Frames that come ever more quietly, each like the one before, leave one that is still like the first of them."""
    generator = np.random.default_rng(1)
    target = generator.integers(60, 190, (64, 64))
    aside = generator.choice([-1, 1], (64, 64))
    distinct: DistinctFrames[np.ndarray] = DistinctFrames(SAME)
    shown_frames = [np.zeros((64, 64)), target]
    for number, motion in enumerate((60, 28, 13, 6.1, 2.9), start=1):
        step = target + round(3.9 * number) * aside
        shown_frames += [step + motion, step]
    for frame in shown_frames:
        plane = frame.clip(0, 255).astype(np.uint8)
        distinct.show(plane, lambda plane=plane: plane)  # type: ignore[misc]

    assert min(np.abs(plane.astype(float) - target).mean() for plane in distinct.take()) <= 2 * SAME


def moved(kept: int) -> int:
    """Marks what another frame shows, but for movement."""
    return -kept


def scene(seed: int) -> np.ndarray:
    """A picture with things in it, larger than a plane."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
    return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC)


def told_apart(frames: list[np.ndarray], analysed: np.ndarray | None = None) -> list[int]:
    """What is kept of the frames, numbered from 1."""
    distinct: DistinctFrames[int] = DistinctFrames(SAME)
    if analysed is not None:
        distinct.analysed(analysed)
    for number, frame in enumerate(frames, start=1):
        distinct.show(frame, lambda number=number: number)  # type: ignore[misc]
    return distinct.take(moved)


def test_what_a_camera_moves_is_told_apart_from_what_is_new() -> None:
    """Of a pan one frame stands for itself; a card that is cut in stands beside it, wherever it comes."""
    pan = [scene(1)[16:80, 16 + right : 80 + right] for right in range(0, 8, 2)]
    card = scene(2)[:64, :64]

    assert told_apart(pan) == [1, -2, -3, -4]
    assert told_apart([*pan[:2], card, *pan[2:]]) == [1, -2, 3, -4, -5]
    assert told_apart([*pan[:2], card, *pan[2:]], analysed=pan[0]) == [-1, -2, 3, -4, -5]
    assert told_apart([card, *pan], analysed=pan[3]) == [1, -2, -3, -4, -5]


def test_a_pan_over_much_stands_for_more_than_one_frame() -> None:
    """Each frame is held against what stands apart, never against one that itself only moved: that would drift."""
    wide = np.concatenate([scene(seed) for seed in range(3)], axis=1)
    kept = told_apart([wide[:64, right : right + 64] for right in range(0, 60, 5)])

    assert sum(number > 0 for number in kept) >= 3
    assert any(number < 0 for number in kept)


def test_the_end_of_a_fade_never_counts_as_a_step_of_it_that_moved() -> None:
    """Of two that are explained by each other the stiller one stands apart, also if the other was taken before."""
    clean, target = scene(3)[:64, :64].astype(float), scene(4)[:64, :64].astype(float)
    steps = [clean + (target - clean) * part / 10 for part in (5, 9, 10, 10, 10)]
    frames = [frame.clip(0, 255).astype(np.uint8) for frame in (clean, *steps)]

    kept = told_apart(frames)
    assert any(number > 0 and np.abs(frames[number - 1] - target).mean() < 1 for number in kept)
