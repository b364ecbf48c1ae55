"""Hashes of files for banks: pictures and videos are decoded in the cage; only fixed-size pixels are hashed here."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.media_files import Medium, MediumUnreadable, reading
from detector.private_folder import make_private
from models.bank_store import add_entries
from models.hashing.algorithm import Fingerprint, HashAlgorithm
from models.hashing.plugins import PluginFailed
from models.hashing.views import View, named_fingerprints
from models.picture_rows import picture_rows
from streams.frame import PICTURE_SIDE, PLANE_SIDE, Frame, SampleReason
from streams.job import Job
from streams.keeper import Nursery, ReaderFailed, SourceUnreachable
from streams.nursery import NurseryBroken
from streams.wire import EndCode, Ended

MIN_QUALITY = 50
"""PDQ quality (0-100) below which facebook/ThreatExchange advises not to put a hash on a list."""

FRAME_SECONDS = 0.5
"""How close the frames of a video lie that are kept: a copy sampled each second is never a quarter second from one."""

_SAME_BITS = 8
"""Bits of 256 up to which a frame shows what the last one that was kept shows: encoders move so many."""

_CUT_BITS = 100
"""Bits of 256 beyond which a frame shows another scene, kept once half of `FRAME_SECONDS` has passed: strangers lie 128
bits apart, give or take 8."""

_WINDOWED = "pdq"
"""The hash that has windows and a second, longer hash beside it."""


async def read_frames(
    medium: Medium, nursery: Nursery, job: Job, take: Callable[[Frame], None], *, with_intervals: bool = False
) -> str | None:
    """Decode a file in the cage and give `take` the picture, or each frame that shows something else than the last.

    `with_intervals` gives it a frame each `FRAME_SECONDS` too, whatever that shows. Returns None, or one sentence on
    why the file could not be read (to its end).
    """
    wanted = {SampleReason.PICTURE, SampleReason.SCENE_CHANGE}
    if with_intervals:
        wanted.add(SampleReason.INTERVAL)
        job = replace(job, sampling=replace(job.sampling, interval_seconds=FRAME_SECONDS))
    has_frames = False
    try:
        async with reading(nursery, job, medium) as keeper:
            async for message in keeper.messages():
                if isinstance(message, Frame) and message.reason in wanted:
                    take(message)
                    has_frames = True
                elif isinstance(message, Ended) and (message.code is not EndCode.END_OF_STREAM or not has_frames):
                    return f"could not be read: {message.detail or message.code}"
    except (MediumUnreadable, SourceUnreachable, NurseryBroken, ReaderFailed) as error:
        return str(error)
    return None


async def read_all(
    inputs: Sequence[tuple[Medium, Callable[[Frame], None]]],
    nursery: Nursery,
    job: Job,
    at_once: int,
    *,
    with_intervals: bool = False,
    tell: Callable[[], None] = lambda: None,
) -> list[str | None]:
    """`read_frames` of several files side by side; the answers come in the order of the inputs.

    `tell` is called for each file that is done.
    """
    room = asyncio.Semaphore(at_once)

    async def one(medium: Medium, take: Callable[[Frame], None]) -> str | None:
        async with room:
            answer = await read_frames(medium, nursery, job, take, with_intervals=with_intervals)
            tell()
            return answer

    return list(await asyncio.gather(*(one(medium, take) for medium, take in inputs)))


class Spacing:
    """Thins the frames of one video: a good half second apart, or another scene; what is still counts once."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[float, bytes]] = {}

    def takes(self, frame: Frame, value: bytes) -> bool:
        """Whether a frame with the hash `value` counts; the answer is taken as done. Each track is thinned alone."""
        kept = self._kept.get(frame.track)
        if kept is not None:
            at, before = kept
            moved = (int.from_bytes(value) ^ int.from_bytes(before)).bit_count() * 256 / (len(value) * 8)
            # A frame of a file may lie a little before its time.
            since = (frame.arrived_at - at) / (0.9 * FRAME_SECONDS)
            if since < 0.5 or moved <= (_SAME_BITS if since >= 1.0 else _CUT_BITS):
                return False
        self._kept[frame.track] = (frame.arrived_at, value)
        return True


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its second hash (64 bytes or none), its place in a video or -1, whether it is a part."""

    second: bytes
    position_ms: int
    is_window: bool


@dataclass(slots=True)
class FileHashes:
    """The hashes of one file's frames, each once. Of a video they are a good half second apart, or show new scenes.

    With PDQ a frame brings windows of itself and a second hash, so that crops of it are found; `is_bare` leaves both
    out. Frames of low quality are left out.
    """

    entry: str
    algorithm: HashAlgorithm
    is_bare: bool = False
    rows: dict[bytes, Row] = field(default_factory=dict)
    frames: int = 0
    left_out: int = 0
    best_quality: int = 0
    fault: str | None = None
    _spacing: Spacing = field(default_factory=Spacing)

    def take(self, frame: Frame) -> None:
        """Hash one frame."""
        if self.fault is not None:
            return
        try:
            own = self._own(frame)
        except PluginFailed as error:
            self.fault = str(error)
            return
        is_video = frame.reason is not SampleReason.PICTURE
        if is_video and not self._spacing.takes(frame, own.value):
            return
        self.best_quality = max(self.best_quality, own.quality)
        before = len(self.rows)
        position_ms = round(frame.arrived_at * 1000) if is_video else -1
        found = self._rows_of(frame, own, position_ms, is_video=is_video)
        for value, row in found:
            self.rows.setdefault(value, row)
        if found:
            self.frames += 1
        self.left_out += not found and len(self.rows) == before

    def _own(self, frame: Frame) -> Fingerprint:
        looks = [View("identity", plane_of(frame))]
        return named_fingerprints(self.algorithm, looks, picture_of(frame))[0][1]

    def _rows_of(self, frame: Frame, own: Fingerprint, position_ms: int, *, is_video: bool) -> list[tuple[bytes, Row]]:
        if self.algorithm.name != _WINDOWED or self.is_bare:
            return [(own.value, Row(b"", position_ms, is_window=False))] if own.quality >= MIN_QUALITY else []
        rows = picture_rows(plane_of(frame), picture_of(frame), frame.width, frame.height, is_video=is_video)
        return [
            (
                rows.hashes[number].tobytes(),
                Row(rows.seconds[number].tobytes(), position_ms, is_window=bool(rows.is_window[number])),
            )
            for number in range(len(rows))
        ]


@dataclass(frozen=True, slots=True)
class Added:
    """What `add_files` came to: the hashes of each file, the number of rows added, a sentence for each bad file."""

    files: tuple[FileHashes, ...]
    rows: int
    faults: tuple[str, ...]


async def add_files(  # noqa: PLR0913 - what, where, and how to read it, by name
    media: Sequence[Medium],
    *,
    entry: str | None,
    bank_dir: Path,
    algorithm: HashAlgorithm,
    nursery: Nursery,
    job: Job,
    at_once: int,
    is_bare: bool = False,
    tell: Callable[[], None] = lambda: None,
) -> Added:
    """Hash files into a bank in one step; an entry is called `entry`, or after its file's stem.

    `is_bare` stores the hash of each frame alone. `tell` is called for each file that is read. Those that cannot be are
    left out and told in `faults`.

    Raises:
        BankNameError, IndexCorrupt, ValueError: as `models.bank_store.add_entries`.
        OSError: the bank cannot be written.
    """
    files = [FileHashes(entry or Path(medium.name).stem, algorithm, is_bare) for medium in media]
    answers = await read_all(
        [(medium, file.take) for medium, file in zip(media, files, strict=True)],
        nursery,
        job,
        at_once,
        with_intervals=True,
        tell=tell,
    )
    whys = [answer or file.fault for answer, file in zip(answers, files, strict=True)]
    faults = [f"{medium.name}: {why}" for medium, why in zip(media, whys, strict=True) if why is not None]
    return Added(tuple(files), _add_hashes(bank_dir, files, algorithm), tuple(faults))


def _add_hashes(bank_dir: Path, files: Sequence[FileHashes], algorithm: HashAlgorithm) -> int:
    """Add the rows of all files to a bank in one step; returns how many rows there were. With none nothing changes."""
    names = [file.entry for file in files for _ in file.rows]
    rows = [item for file in files for item in file.rows.items()]
    if not rows:
        return 0
    make_private(bank_dir.parent)
    has_second = np.array([bool(row.second) for _, row in rows])
    add_entries(
        bank_dir,
        np.frombuffer(b"".join(value for value, _ in rows), np.uint8).reshape(len(rows), algorithm.bits // 8),
        names,
        algorithm=algorithm.name,
        seconds=_seconds([row.second for _, row in rows]) if has_second.any() else None,
        has_second=has_second if has_second.any() else None,
        positions_ms=np.array([row.position_ms for _, row in rows], dtype=np.int32),
        is_window=np.array([row.is_window for _, row in rows]),
    )
    return len(rows)


_SECOND_BYTES = 64


def _seconds(values: Sequence[bytes]) -> NDArray[np.uint8]:
    content = b"".join(value or bytes(_SECOND_BYTES) for value in values)
    return np.frombuffer(content, np.uint8).reshape(len(values), _SECOND_BYTES)


def plane_of(frame: Frame) -> NDArray[np.uint8]:
    """The hash plane of a frame, (64, 64) uint8."""
    return np.frombuffer(frame.plane, np.uint8).reshape(PLANE_SIDE, PLANE_SIDE)


def picture_of(frame: Frame) -> NDArray[np.uint8]:
    """The picture of a frame, (256, 256, 3) uint8 RGB."""
    return np.frombuffer(frame.picture, np.uint8).reshape(PICTURE_SIDE, PICTURE_SIDE, 3)
