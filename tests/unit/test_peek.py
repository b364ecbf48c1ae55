"""The first frames after a keyframe: handed over where they differ, and what only moved is told apart."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from streams.frame import SampleReason
from streams.peek import LONG_PEEK_PACKETS, PEEK_PACKETS, Peek
from streams.whole_gop import Output
from tests.unit.look_scene import FakePacket

Plane = NDArray[np.uint8]


class Planes:
    """Frames are their own planes."""

    def plane(self, frame: Plane) -> Plane:
        return frame


def scene(seed: int) -> Plane:
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 32), dtype=np.uint8)
    return cv2.resize(coarse, (192, 96), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def looked_at(frames: list[Plane]) -> list[tuple[int, bool]]:
    """What is handed over of a keyframe and the frames behind it: place, and whether it only moved."""
    handed: list[list[tuple[int, bool]]] = []
    output: Output[Plane, tuple[int, bool]] = Output(
        emit=lambda *_: None,
        keep=lambda frame, _, reason: (
            (next(i for i, one in enumerate(frames) if one is frame), False) if reason is SampleReason.BURST else None
        ),
        hand_over=handed.append,
        moved=lambda sample: (sample[0], True),
    )
    key = FakePacket(0, is_keyframe=True, is_intra=True)
    has_any = Peek(Planes(), output, 0.0, key, waits=False).show(frames, 0.1)
    assert has_any == bool(handed)
    return handed[0] if handed else []


def panned(right: int) -> Plane:
    return scene(1)[16:80, right : right + 64].copy()


def test_a_pan_shows_nothing_new() -> None:
    """What the keyframe turns into by a small movement is not handed over at all."""
    assert looked_at([panned(0), panned(3), panned(6)]) == []


def test_what_moves_fast_is_followed_from_frame_to_frame() -> None:
    """Too far from the keyframe to be told from something new, it is handed over as moved; with a gap, as new."""
    followed = looked_at([panned(0), panned(7), panned(14), panned(21)])
    assert followed
    assert all(is_moved for _, is_moved in followed)
    assert looked_at([panned(0), panned(7), panned(21)]) == [(2, False)]


@pytest.mark.parametrize("place", [1, 2, 3])
def test_what_is_cut_in_is_new_wherever_it_comes(place: int) -> None:
    """In a fast pan a card is told from what moved beside it, and what moved before it is none the newer for it."""
    frames = [panned(7 * number) for number in range(4)]
    frames[place] = scene(2)[:64, :64].copy()

    found = dict(looked_at(frames))
    assert found[place] is False
    assert not any(is_moved for number, is_moved in found.items() if number > place)


@pytest.mark.parametrize("wanted", [PEEK_PACKETS, LONG_PEEK_PACKETS])
def test_so_many_packets_are_waited_for(wanted: int) -> None:
    """As many as are asked for, as long as they come in time."""
    output: Output[Plane, Plane] = Output(lambda *_: None, lambda frame, *_: frame, lambda _: None)
    key = FakePacket(0, is_keyframe=True, is_intra=True)
    peek = Peek(Planes(), output, 0.0, key, waits=True, packets=wanted)
    behind = [replace(key, number=number, is_keyframe=False) for number in range(1, 5)]

    assert not peek.is_complete_with(key, 0.0)
    assert [peek.is_complete_with(packet, 0.01) for packet in behind].index(True) == wanted - 1
