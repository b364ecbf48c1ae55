"""Hashes of files for banks: pictures and videos are decoded in the cage; only fixed-size planes are hashed here."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.media_files import Medium, MediumUnreadable, reading
from models.bank_store import add_entries
from models.banks import Bank, BankLimits, ViewHash
from models.evidence import HashMatch
from models.gate import has_colour_detail, low_information
from models.hashing.algorithm import HashAlgorithm
from models.hashing.views import EVERY_TIER, fingerprints, views
from streams.frame import PICTURE_SIDE, PLANE_SIDE, Frame, SampleReason
from streams.job import Job
from streams.keeper import Nursery, ReaderFailed, SourceUnreachable
from streams.nursery import NurseryBroken
from streams.wire import EndCode, Ended

MIN_QUALITY = 50
"""PDQ quality (0-100) below which facebook/ThreatExchange advises not to put a hash on a list."""


async def read_frames(medium: Medium, nursery: Nursery, job: Job, take: Callable[[Frame], None]) -> str | None:
    """Decode a file in the cage and give `take` the picture, or each frame that shows something else than the last.

    Returns None, or one sentence on why the file could not be read (to its end).
    """
    has_frames = False
    try:
        async with reading(nursery, job, medium) as keeper:
            async for message in keeper.messages():
                if isinstance(message, Frame) and message.reason in (SampleReason.PICTURE, SampleReason.SCENE_CHANGE):
                    take(message)
                    has_frames = True
                elif isinstance(message, Ended) and (message.code is not EndCode.END_OF_STREAM or not has_frames):
                    return f"could not be read: {message.detail or message.code}"
    except (MediumUnreadable, SourceUnreachable, NurseryBroken, ReaderFailed) as error:
        return str(error)
    return None


async def read_all(
    inputs: Sequence[tuple[Medium, Callable[[Frame], None]]], nursery: Nursery, job: Job, at_once: int
) -> list[str | None]:
    """`read_frames` of several files side by side; the answers come in the order of the inputs."""
    room = asyncio.Semaphore(at_once)

    async def one(medium: Medium, take: Callable[[Frame], None]) -> str | None:
        async with room:
            return await read_frames(medium, nursery, job, take)

    return list(await asyncio.gather(*(one(medium, take) for medium, take in inputs)))


@dataclass(slots=True)
class FileHashes:
    """The hashes of one file's frames as they are. Frames of low quality are left out, equal hashes stand once."""

    entry: str
    algorithm: HashAlgorithm
    rows: dict[bytes, None] = field(default_factory=dict)
    left_out: int = 0
    best_quality: int = 0

    def take(self, frame: Frame) -> None:
        """Hash one frame."""
        fingerprint = self.algorithm.hash_plane(_plane(frame))
        self.best_quality = max(self.best_quality, fingerprint.quality)
        if fingerprint.quality < MIN_QUALITY:
            self.left_out += 1
        else:
            self.rows[fingerprint.value] = None


async def add_files(  # noqa: PLR0913 - what, where, and how to read it, by name
    media: Sequence[Medium],
    *,
    entry: str | None,
    bank_dir: Path,
    algorithm: HashAlgorithm,
    nursery: Nursery,
    job: Job,
    at_once: int,
) -> "Added":
    """Hash files into a bank in one step; an entry is called `entry`, or after its file's stem.

    Files that cannot be read are left out and told in `faults`.

    Raises:
        BankNameError, IndexCorrupt, ValueError: as `models.bank_store.add_entries`.
        OSError: the bank cannot be written.
    """
    files = [FileHashes(entry or Path(medium.name).stem, algorithm) for medium in media]
    answers = await read_all(
        [(medium, file.take) for medium, file in zip(media, files, strict=True)], nursery, job, at_once
    )
    faults = [f"{medium.name}: {why}" for medium, why in zip(media, answers, strict=True) if why is not None]
    return Added(tuple(files), _add_hashes(bank_dir, files, algorithm), tuple(faults))


@dataclass(frozen=True, slots=True)
class Added:
    """What `add_files` came to: the hashes of each file, the number of rows added, a sentence for each bad file."""

    files: tuple[FileHashes, ...]
    rows: int
    faults: tuple[str, ...]


def _add_hashes(bank_dir: Path, files: Sequence[FileHashes], algorithm: HashAlgorithm) -> int:
    """Add the rows of all files to a bank in one step; returns how many rows there were. With none nothing changes."""
    names = [file.entry for file in files for _ in file.rows]
    rows = [row for file in files for row in file.rows]
    if rows:
        bank_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        array = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), algorithm.bits // 8)
        add_entries(bank_dir, array, names, algorithm=algorithm.name)
    return len(rows)


@dataclass(frozen=True, slots=True)
class Nearest:
    """What a bank holds that comes nearest to a file, seen at `time_seconds` of it.

    `match.max_distance` is the limit in force. Not `is_match` within that limit: it was left out as noise.
    """

    match: HashMatch
    time_seconds: float
    is_match: bool


class FileMatches:
    """What banks hold that is like one file's frames, or why there is no match."""

    def __init__(
        self, banks: Sequence[Bank], limits: Mapping[str, BankLimits], algorithms: Mapping[str, HashAlgorithm]
    ) -> None:
        self.frames = 0
        self.best_quality = 0
        self.gates: dict[str, int] = {}
        self._banks = banks
        self._limits = limits
        self._algorithms = algorithms
        self._found: dict[tuple[str, str, str], Nearest] = {}
        self._beyond: dict[str, Nearest] = {}

    def take(self, frame: Frame) -> None:
        """Look up one frame through every view."""
        self.frames += 1
        plane = _plane(frame)
        colours = np.frombuffer(frame.picture, np.uint8).reshape(PICTURE_SIDE, PICTURE_SIDE, 3)
        gate = low_information(plane)
        if gate is not None and not has_colour_detail(colours):
            self.gates[gate.value] = self.gates.get(gate.value, 0) + 1
        self.best_quality = max(self.best_quality, self._algorithms["pdq"].hash_plane(plane).quality)
        wanted = dict.fromkeys(name for bank in self._banks for name in bank.algorithms if name in self._algorithms)
        looks = views(plane, colours, EVERY_TIER)
        hashes = [
            ViewHash(look.name, name, fingerprint)
            for name in wanted
            for look, fingerprint in zip(looks, fingerprints(self._algorithms[name], looks), strict=True)
        ]
        for bank in self._banks:
            self._match(bank, hashes, frame.arrived_at)

    def nearest(self) -> list[Nearest]:
        """Return every match at its nearest; of a bank without any, the entry that came nearest."""
        matched = {bank for bank, _, _ in self._found}
        found = [*self._found.values(), *(near for bank, near in self._beyond.items() if bank not in matched)]
        return sorted(found, key=lambda near: (not near.is_match, near.match.distance, near.match.entry))

    def _match(self, bank: Bank, hashes: Sequence[ViewHash], at: float) -> None:
        limits = self._limits.get(bank.name, BankLimits())
        matches = bank.match(hashes, limits).matches
        for match in matches:
            key = (bank.name, match.entry, match.algorithm)
            known = self._found.get(key)
            if known is None or match.distance < known.match.distance:
                self._found[key] = Nearest(match, at, is_match=True)
        if not matches:
            self._look_further(bank, hashes, limits, at)

    def _look_further(self, bank: Bank, hashes: Sequence[ViewHash], limits: BankLimits, at: float) -> None:
        """Look in widening circles: half of all bits is as far as chance lies."""
        known = self._beyond.get(bank.name)
        for share in (1 / 8, 1 / 4, 1 / 2):
            reach = {
                name: int(self._algorithms[name].bits * share) for name in bank.algorithms if name in self._algorithms
            }
            matches = bank.match(hashes, BankLimits(max_distances=reach, min_quality=0), most=1).matches
            if not matches:
                continue
            match = matches[0]
            if known is None or match.distance < known.match.distance:
                limit = limits.max_distances.get(match.algorithm, self._algorithms[match.algorithm].max_distance)
                self._beyond[bank.name] = Nearest(replace(match, max_distance=limit), at, is_match=False)
            return


def _plane(frame: Frame) -> NDArray[np.uint8]:
    return np.frombuffer(frame.plane, np.uint8).reshape(PLANE_SIDE, PLANE_SIDE)
