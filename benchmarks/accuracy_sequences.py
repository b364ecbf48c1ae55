"""Known videos shown again, edited, ten seconds at a time: how many are recognised, by one frame or by several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.accuracy_edits import ASIDE, PROMISED, Edit, encoded
from benchmarks.accuracy_lists import ListRows, processes, rows_of_frame, sample_of
from benchmarks.accuracy_material import Frame, clip_frames, gray_plane, pan, read_picture
from benchmarks.accuracy_recall import asks
from models.bank_store import add_entries, open_bank
from models.banks import Bank
from models.evidence import Strength
from models.hashing.pdq import Pdq
from models.hashing.view_plan import view_batch
from models.matching import TRUSTED_QUALITY, acting_views
from models.sequence import SequenceHistory, SequenceRules, observe
from models.shapes.overlay import OverlayMask

WINDOW_SECONDS: Final = 10.0
ROW_SECONDS: Final = 0.5
_STEP_SECONDS: Final = 0.1
_LINES: Final = 360
_EDITS: Final = (*PROMISED, ASIDE[1])


@dataclass(frozen=True, slots=True)
class Video:
    """A clip as JPEGs, 0.1 s apart. `is_made` where a camera was moved over a still; `is_listed` where it is known."""

    name: str
    frames: Sequence[bytes]
    is_made: bool
    is_listed: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One edit: windows of listed videos that were recognised, and shown; real ones and made ones. False ones too.

    `dark` are windows of listed videos that do not count in `real` and `made`, recognised or not: of most frames that
    were shown either the video's own is below the quality at which `hashes add` keeps it, or as shown no view may act,
    so that the service counts the frame as not inspectable. `false_cuts` are windows in which another entry may cut or
    makes a sequence; those of unlisted videos are shown to their end, others until they are recognised.
    """

    edit: Edit
    real: tuple[int, int]
    made: tuple[int, int]
    dark: int
    false_cuts: int
    windows: int


@dataclass(frozen=True, slots=True)
class _Answer:
    is_found: bool
    is_dark: bool
    is_false: bool


def videos_of(clips: Sequence[Path], stills: Sequence[Path], made: int, seed: int) -> list[Video]:
    """Clips of ten seconds and more are listed, shorter ones are not; of the made ones every fourth is not."""
    found: list[Video] = []
    paths = stills[:made]
    with processes() as pool:
        for clip, frames in zip(clips, pool.map(_frames_of_clip, clips), strict=True):
            is_long = len(frames) * _STEP_SECONDS >= WINDOW_SECONDS
            found.append(Video(clip.stem, frames, is_made=False, is_listed=is_long))
        seeds = np.random.default_rng(seed).integers(0, 2**31, len(paths)).tolist()
        for number, frames in enumerate(pool.map(_frames_of_pan, paths, seeds, chunksize=2)):
            found.append(Video(f"pan-{number}", frames, is_made=True, is_listed=number % 4 != 3))
    return found


def _frames_of_clip(clip: Path) -> list[bytes]:
    return [_packed(frame) for _, frame in clip_frames(clip, _LINES, every_seconds=_STEP_SECONDS)]


def _frames_of_pan(path: Path, seed: int) -> list[bytes]:
    frames = pan(read_picture(path), np.random.default_rng(seed), 12.0, _STEP_SECONDS, _LINES)
    return [_packed(frame) for frame in frames]


def video_bank(folder: Path, videos: Sequence[Video], filling: ListRows) -> Bank:
    """The listed videos, a frame each half second as `hashes add` indexes them, among rows of other pictures."""
    _STATE.update(videos=videos)
    listed = [number for number, video in enumerate(videos) if video.is_listed]
    add_entries(
        folder,
        filling.hashes,
        [f"picture-{owner}" for owner in filling.owners.tolist()],
        seconds=filling.seconds,
        has_second=np.ones(len(filling), dtype=np.bool_),
        is_window=filling.is_window,
    )
    with processes() as pool:
        for number, rows in zip(listed, pool.map(_rows_of_video, listed), strict=True):
            hashes, seconds, is_window, positions = rows
            add_entries(
                folder,
                hashes,
                [videos[number].name] * len(hashes),
                seconds=seconds,
                has_second=np.ones(len(hashes), dtype=np.bool_),
                is_window=is_window,
                positions_ms=positions,
            )
    return open_bank(folder)


def sequences(videos: Sequence[Video], bank: Bank, seed: int) -> list[Shown]:
    """Show every window of every video in every promised edit, a sample a second or so."""
    _STATE.update(videos=videos, bank=bank, seed=seed)
    windows = [
        (number, start) for number, video in enumerate(videos) for start in _starts(len(video.frames) * _STEP_SECONDS)
    ]
    wanted = [(place, *window) for place in range(len(_EDITS)) for window in windows]
    with processes() as pool:
        answers = list(pool.map(_shown, wanted, chunksize=4))
    found: list[Shown] = []
    for place, edit in enumerate(_EDITS):
        mine = [
            (videos[number], answer) for (at, number, _), answer in zip(wanted, answers, strict=True) if at == place
        ]
        listed = [(video, answer) for video, answer in mine if video.is_listed]
        sums = {
            is_made: (
                sum(answer.is_found for video, answer in listed if video.is_made == is_made),
                sum(not answer.is_dark for video, answer in listed if video.is_made == is_made),
            )
            for is_made in (False, True)
        }
        dark, wrong = sum(answer.is_dark for _, answer in listed), sum(answer.is_false for _, answer in mine)
        found.append(Shown(edit, sums[False], sums[True], dark, wrong, len(mine)))
    return found


_STATE: dict[str, Any] = {}


def _starts(seconds: float) -> list[float]:
    # A clip that is shorter than a window is one window.
    count = max(1, int(seconds // WINDOW_SECONDS))
    return [number * WINDOW_SECONDS for number in range(min(count, 5))]


def _rows_of_video(number: int) -> tuple[Any, Any, Any, Any]:
    frames = _STATE["videos"][number].frames
    step = round(ROW_SECONDS / _STEP_SECONDS)
    parts = [rows_of_frame(_opened(packed), is_video=True) for packed in frames[::step]]
    positions = [np.full(len(rows), place * round(ROW_SECONDS * 1000), np.int32) for place, rows in enumerate(parts)]
    return (
        np.concatenate([rows.hashes for rows in parts]),
        np.concatenate([rows.seconds for rows in parts]),
        np.concatenate([rows.is_window for rows in parts]),
        np.concatenate(positions),
    )


def _shown(wanted: tuple[int, int, float]) -> _Answer:
    """Show a window until its video is recognised; of a video that is not listed all of it."""
    place, number, start = wanted
    video, bank = _STATE["videos"][number], _STATE["bank"]
    rng = np.random.default_rng([_STATE["seed"], place, number, round(start * 10)])
    strangers = [other for other in _STATE["videos"] if not other.is_listed]  # what is listed would be found, rightly
    scene = _opened(strangers[int(rng.integers(0, len(strangers)))].frames[0])
    rules, history, overlay = SequenceRules(), SequenceHistory(), OverlayMask()
    found: set[str] = set()
    dark: list[bool] = []
    edit_seed = int(rng.integers(0, 2**31))
    for second in range(round(WINDOW_SECONDS)):
        at = start + second + rng.uniform(0.0, 0.5)
        at_frame = round(at / _STEP_SECONDS)
        if at_frame >= len(video.frames) or (video.is_listed and video.name in found):
            break
        # The edit stays as it is through the window; what the encoder does differs.
        own = _opened(video.frames[at_frame])
        edited = _EDITS[place].make(own, np.random.default_rng(edit_seed), scene)
        sample = sample_of(encoded(edited, rng), overlay.mask())
        overlay.seen(sample.plane)
        batch = view_batch(sample)
        may_act = acting_views(batch.qualities, batch.is_stable, TRUSTED_QUALITY)
        dark.append(Pdq().hash_plane(gray_plane(own)).quality < TRUSTED_QUALITY or not may_act.any())
        matches = bank.match(batch, most=32).matches
        found.update(match.entry for match in matches if asks(match) is Strength.CUT)
        history, known = observe(rules, history, at, batch.values[0].tobytes(), matches)
        found.update(sequence.match.entry for sequence in known)
    is_dark = 2 * sum(dark) > len(dark)
    return _Answer(video.name in found and not is_dark, is_dark, bool(found - {video.name}))


def _packed(frame: Frame) -> bytes:
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def _opened(packed: bytes) -> Frame:
    return np.asarray(cv2.imdecode(np.frombuffer(packed, dtype=np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)
