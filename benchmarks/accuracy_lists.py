"""The lists that the accuracy benchmark matches against: banks of pictures, and of bare hashes, of several lengths.

A list holds the known pictures and is filled up with rows of real structure: pictures cut out of the unrelated ones,
with all their windows. None of them holds a query.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from benchmarks.accuracy_material import Frame, read_picture
from benchmarks.accuracy_packages import cache_folder
from models.bank_store import add_entries, open_bank
from models.banks import Bank
from models.hashing.sample import Sample
from models.picture_rows import PictureRows, picture_rows
from streams.decoder import PixelReader

# Before OpenCV starts threads: a process that is forked from one with its threads waits for them for ever.
cv2.setNumThreads(1)

_READER: Final = PixelReader()

_MODELS: Final = Path(__file__).resolve().parents[1] / "models"
_KEPT_SECONDS: Final = 7 * 86_400


@dataclass(frozen=True, slots=True, eq=False)
class ListRows:
    """N rows of some pictures: as `PictureRows`, and `owners` (N,) int64, which picture each row is of."""

    hashes: NDArray[np.uint8]
    seconds: NDArray[np.uint8]
    is_window: NDArray[np.bool_]
    owners: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.hashes)

    def taken(self, rows: NDArray[np.intp] | slice) -> "ListRows":
        """Some of the rows."""
        return ListRows(self.hashes[rows], self.seconds[rows], self.is_window[rows], self.owners[rows])

    def first_pictures(self, count: int) -> "ListRows":
        """The rows of the first so many pictures."""
        return self.taken(np.flatnonzero(self.owners < count))

    def joined(self, other: "ListRows") -> "ListRows":
        """These rows, then the other ones, whose owners count on."""
        start = int(self.owners.max(initial=-1)) + 1
        return ListRows(
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.seconds, other.seconds]),
            np.concatenate([self.is_window, other.is_window]),
            np.concatenate([self.owners, other.owners + start]),
        )


def sample_of(frame: Frame | VideoFrame, overlay: NDArray[np.bool_] | None = None) -> Sample:
    """What an analysis process makes of a frame that a reader hands over: scaled as the reader does it."""
    shown = frame if isinstance(frame, VideoFrame) else VideoFrame.from_ndarray(frame, format="bgr24")
    pixels = _READER.pixels(shown)
    return Sample(pixels.plane, pixels.picture, pixels.width, pixels.height, overlay)


def rows_of_frame(frame: Frame, *, is_video: bool = False) -> PictureRows:
    """The rows that `hashes add` makes of a picture, or of a frame of a video."""
    sample = sample_of(frame)
    return picture_rows(sample.plane, sample.picture, sample.width, sample.height, is_video=is_video)


def rows_of_pictures(pictures: Sequence[Path]) -> ListRows:
    """The rows of whole pictures."""
    return _collected([(path, None) for path in pictures])


def filling_rows(pictures: Sequence[Path], count: int, seed: int) -> ListRows:
    """`count` rows: of the pictures themselves, then of parts of them, mirrored or not, over and over.

    They are kept until the code that makes them changes: a million take a minute and a half of CPU time.
    """
    kept = cache_folder() / f"rows-{_digest(pictures, count, seed)}.npz"
    if kept.is_file():
        with np.load(kept) as found:
            return ListRows(found["hashes"], found["seconds"], found["is_window"], found["owners"])
    rows, rounds = _collected([(path, None) for path in pictures]), 0
    while len(rows) < count:
        rounds += 1
        most = round((count - len(rows)) / max(len(rows), 1) * rounds * len(pictures)) + 64
        rows = rows.joined(_collected([(path, seed + rounds) for path in pictures[:most]]))
    rows = rows.taken(slice(0, count))
    for stale in cache_folder().glob("rows-*.npz"):
        if stale.stat().st_mtime < time.time() - _KEPT_SECONDS:
            stale.unlink()
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f"draft-{os.getpid()}.npz")
    np.savez(draft, hashes=rows.hashes, seconds=rows.seconds, is_window=rows.is_window, owners=rows.owners)
    draft.replace(kept)
    return rows


def _digest(pictures: Sequence[Path], count: int, seed: int) -> str:
    code = [_MODELS / "hashing" / f"{name}.py" for name in ("pdq", "spectrum", "linear_views", "second_tests")]
    said = hashlib.sha256(f"{count} {seed} {[path.name for path in pictures]}".encode())
    for path in (*code, _MODELS / "picture_rows.py", _MODELS.parent / "streams" / "decoder.py"):
        said.update(path.read_bytes())
    return said.hexdigest()[:16]


def store(folder: Path, rows: ListRows, *, is_bare: bool) -> Bank:
    """Write a bank; entries are named after the pictures' numbers. A bare one holds hashes alone."""
    names = [f"picture-{owner}" for owner in rows.owners.tolist()]
    if is_bare:
        add_entries(folder, rows.hashes, names)
    else:
        has_second = np.ones(len(rows), dtype=np.bool_)
        add_entries(folder, rows.hashes, names, seconds=rows.seconds, has_second=has_second, is_window=rows.is_window)
    return open_bank(folder)


def processes() -> ProcessPoolExecutor:
    """One process for each core, with what this one has in memory."""
    return ProcessPoolExecutor(os.cpu_count(), get_context("fork"))


def _collected(wanted: Sequence[tuple[Path, int | None]]) -> ListRows:
    with processes() as pool:
        found = list(pool.map(_rows_of, wanted, chunksize=32))
    owners = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    return ListRows(
        np.concatenate([rows.hashes for rows in found]),
        np.concatenate([rows.seconds for rows in found]),
        np.concatenate([rows.is_window for rows in found]),
        owners.astype(np.int64),
    )


def _rows_of(wanted: tuple[Path, int | None]) -> PictureRows:
    path, seed = wanted
    frame = read_picture(path)
    if seed is None:
        return rows_of_frame(frame)
    rng = np.random.default_rng([seed, *path.name.encode()])
    height, width = frame.shape[:2]
    h, w = (round(side * rng.uniform(0.3, 0.7)) for side in (height, width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part = frame[top : top + h, left : left + w]
    return rows_of_frame(np.ascontiguousarray(part[:, ::-1] if rng.uniform() < 0.5 else part))
