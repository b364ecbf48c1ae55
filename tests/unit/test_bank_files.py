"""What a file brings to a bank: which frames of a video, which rows of each, and what is left out."""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.banks.files import FRAME_SECONDS, FileHashes
from models.hashing.algorithm import Fingerprint
from models.hashing.imagehashes import PHASH
from models.hashing.pdq import Pdq
from models.hashing.plugins import Plugin
from streams.frame import Frame, SampleReason

PDQ = Pdq()


def _picture(seed: int, shift: int = 0) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 60, 3), dtype=np.uint8)
    wide = np.asarray(cv2.resize(coarse, (1280, 256), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    return np.ascontiguousarray(wide[:, shift : shift + 256])


def _frame(
    picture: NDArray[np.uint8], at: float = 0.0, reason: SampleReason = SampleReason.PICTURE, track: int = 0
) -> Frame:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    plane = np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return Frame(
        sequence=0,
        arrived_at=at,
        decoded_at=at,
        pts_seconds=at,
        reason=reason,
        is_corrupt=False,
        width=640,
        height=360,
        plane=plane.tobytes(),
        picture=picture.tobytes(),
        track=track,
    )


def _film(pictures: Callable[[float], NDArray[np.uint8]], seconds: float, rate: float = 25.0) -> FileHashes:
    file = FileHashes("film", PDQ, is_bare=True)
    for number in range(round(seconds * rate)):
        at = number / rate
        file.take(_frame(pictures(at), at, SampleReason.SCENE_CHANGE))
    return file


def test_a_picture_brings_itself_windows_and_second_hashes() -> None:
    """Its own hash stands first; every row has a second hash and no place in a video."""
    file = FileHashes("card", PDQ)
    frame = _frame(_picture(1))
    file.take(frame)
    own, *windows = file.rows.items()
    assert own[0] == PDQ.hash_plane(np.frombuffer(frame.plane, np.uint8).reshape(64, 64)).value
    assert not own[1].is_window
    assert len(windows) > 20
    assert all(row.is_window for _, row in windows)
    assert {(len(row.second), row.position_ms) for row in file.rows.values()} == {(64, -1)}


@pytest.mark.parametrize(("algorithm", "is_bare"), [(PDQ, True), (PHASH, False)])
def test_bare_and_other_hashes_bring_one_row(algorithm: object, is_bare: bool) -> None:  # noqa: FBT001
    """Without windows a picture is one row, without a second hash."""
    file = FileHashes("card", algorithm, is_bare)  # type: ignore[arg-type]
    file.take(_frame(_picture(1)))
    ((_, row),) = file.rows.items()
    assert (row.second, row.is_window) == (b"", False)


def test_a_still_scene_is_kept_once() -> None:
    """However long it is shown."""
    still = _picture(1)
    assert len(_film(lambda _at: still, 10.0).rows) == 1


def test_a_moving_camera_is_kept_each_half_second() -> None:
    """Frames of a slow pan lie a good half second apart, at their places."""
    file = _film(lambda at: _picture(1, int(12 * at)), 10.0)
    places = sorted(row.position_ms for row in file.rows.values())
    assert 18 <= len(places) <= 24
    assert min(np.diff(places)) >= 450


def test_cuts_are_kept_when_they_come_and_at_most_four_a_second() -> None:
    """A new scene is known from its start; a flicker of scenes is no hundred rows."""
    scenes = [_picture(seed) for seed in range(50)]
    cuts = _film(lambda at: scenes[int(at / 0.8)], 8.0)
    assert sorted(row.position_ms for row in cuts.rows.values())[:3] == [0, 800, 1600]
    assert len(_film(lambda at: scenes[int(at * 25) % 50], 4.0).rows) <= 4.0 / (FRAME_SECONDS / 2) + 2


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 5)), max_size=20))
def test_kept_frames_are_in_order_and_apart(steps: list[tuple[float, int]]) -> None:
    """Whatever a video shows and when, no two frames of a track are kept within a fifth of a second."""
    file, at = FileHashes("film", PDQ, is_bare=True), 0.0
    for step, seed in steps:
        at += step
        file.take(_frame(_picture(seed), at, SampleReason.INTERVAL))
    places = [row.position_ms for row in file.rows.values()]
    assert places == sorted(places)
    assert all(later - sooner >= 200 for sooner, later in pairwise(places))


def test_frames_of_low_quality_are_counted_and_left_out() -> None:
    """A black frame brings nothing but a count."""
    file = FileHashes("film", PDQ)
    file.take(_frame(np.zeros((256, 256, 3), np.uint8), 0.0, SampleReason.SCENE_CHANGE))
    assert (len(file.rows), file.left_out, file.best_quality) == (0, 1, 0)


def test_tracks_of_a_video_do_not_hide_each_other() -> None:
    """Each has frames of its own, at the same times."""
    file = FileHashes("film", PDQ, is_bare=True)
    for track in (0, 1):
        file.take(_frame(_picture(track), 1.0, SampleReason.SCENE_CHANGE, track))
    assert [row.position_ms for row in file.rows.values()] == [1000, 1000]


def test_a_hash_that_breaks_ends_its_file_with_a_sentence() -> None:
    """An installed hash that raises is told once for the file, not for each frame."""

    class Fragile:
        name, bits, max_distance, is_broken = "fragile", 64, 4, False

        def hash_plane(self, plane: NDArray[np.uint8]) -> Fingerprint:
            assert not self.is_broken
            return Fingerprint(plane[0, :8].tobytes(), 60, is_stable=True)

    fragile = Fragile()
    file = FileHashes("card", Plugin("fragile", fragile))
    fragile.is_broken = True
    file.take(_frame(_picture(1)))
    file.take(_frame(_picture(2)))
    assert file.rows == {}
    assert file.fault is not None
    assert "the hash fragile raised AssertionError in hash_plane" in file.fault
