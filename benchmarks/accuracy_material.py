"""The pictures and clips of the accuracy benchmark: those fetched, a folder's own, or drawn ones where there are none.

Pictures are taken by rule, never by hand: no transparency, 240 pixels or more on the shorter side, something to see
(PDQ quality 50 or more), more than 80 bits from every other, mirrored or turned too, and showing nothing that another
shows (`accuracy_twins`: crops, pages with a picture in them), so that a match on a wrong entry is false. Who draws a
series uses pictures twice (a figure on its page, and cut out and mirrored; a ground with another bar on it), which
neither tells always, so a folder with all that is in it stands on one side. They are kept smaller from run to run.
Frames of clips count where they differ from all others by more than 24 bits.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy_packages import (
    CLIPS,
    KNOWN,
    ONE_PICTURE_FOLDER,
    PACKAGES,
    SAME_PICTURES,
    UNRELATED,
    cache_folder,
    unpacked_folder,
)
from benchmarks.accuracy_twins import same_pictures
from models.hashing.pdq import Pdq

Frame = NDArray[np.uint8]
"""(height, width, 3) uint8 BGR, as OpenCV has it."""

DISTINCT_BITS: Final = 24
_APART_BITS: Final = 80
_SHORTEST_SIDE: Final = 240
_LONGEST: Final = {KNOWN: 1280, UNRELATED: 640}
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_VIDEOS: Final = frozenset({".mp4", ".avi", ".webm", ".ogv", ".mkv", ".mov"})
_FORMAT: Final = 6
_SCENES_SHARE: Final = 7


@dataclass(frozen=True, slots=True)
class Material:
    """What is measured on. `said` tells what it is and how many, for the report; `series` which one a picture is of."""

    known: Sequence[Path]
    unrelated: Sequence[Path]
    clips: Sequence[Path]
    said: dict[str, object] = field(default_factory=dict)
    series: Mapping[str, str] = field(default_factory=dict)

    def parted(self, seed: int) -> tuple[list[Path], list[Path]]:
        """The unrelated pictures on two sides: a seventh that may be shown to lists, and what lists are filled with.

        Whole series, drawn by `seed`; one that is larger than what is still wanted stays among the filling.
        """
        members: dict[str, list[Path]] = {}
        for path in self.unrelated:
            members.setdefault(self.series.get(path.name, path.name), []).append(path)
        shown: set[Path] = set()
        for series in sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()):
            if len(shown) + len(members[series]) <= max(1, len(self.unrelated) // _SCENES_SHARE):
                shown.update(members[series])
        shown = shown or set(self.unrelated[::_SCENES_SHARE])  # all are of one series: nothing better can be done
        return [path for path in self.unrelated if path in shown], [p for p in self.unrelated if p not in shown]


def load(pictures: Path | None = None, clips: Path | None = None) -> Material:
    """Take the folders named; else what `benchmarks.accuracy_packages` fetched; else drawn pictures."""
    if pictures is None and clips is None and not any(unpacked_folder(package).is_dir() for package in PACKAGES):
        return _drawn()
    if pictures is not None:
        kept = _prepared(cache_folder() / "own", {KNOWN: _files(pictures, _PICTURES)}, split=True)
        said: dict[str, object] = {"material": "a folder of pictures named on the command line"}
    else:
        kept = _prepared(cache_folder() / f"prepared-{_FORMAT}", _package_files(), split=False)
        said = {"material": f"pictures of {sum(p.use != CLIPS for p in PACKAGES)} packages, none of them tuned on"}
    videos = _files(clips, _VIDEOS) if clips is not None else _package_clips()
    said |= {"known": len(kept.known), "unrelated": len(kept.unrelated), "left_out_as_same": kept.same_pictures}
    said["clips"] = [path.name for path in videos]
    return Material(kept.known, kept.unrelated, videos, said, kept.series)


def strangers(pictures: Path) -> list[Path]:
    """The pictures of a folder that count, by the same rules: of a kind that nobody has tried before."""
    name = hashlib.sha256(str(pictures.resolve()).encode()).hexdigest()[:12]
    return _prepared(cache_folder() / f"strangers-{name}", {KNOWN: _files(pictures, _PICTURES)}, split=False).known


def read_picture(path: Path) -> Frame:
    """A picture as it was kept."""
    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if found is None:
        raise FileNotFoundError(path)
    return np.asarray(found, dtype=np.uint8)


def clip_frames(path: Path, height: int = 360, *, every_seconds: float = 0.0) -> Iterator[tuple[float, Frame]]:
    """The frames of a clip, `height` lines high, with their times in seconds from 0 on."""
    due = 0.0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 25)
        for number, frame in enumerate(container.decode(stream)):
            at = number / min(rate, 60.0)  # some of these files say nonsense about their times
            if at + 1e-6 < due:
                continue
            while every_seconds and due <= at + 1e-6:
                due += every_seconds
            width = round(height * frame.width / frame.height / 2) * 2
            shown = frame.reformat(width, height, "bgr24", interpolation="AREA")
            yield at, np.asarray(shown.to_ndarray(), dtype=np.uint8)


def pan(picture: Frame, rng: np.random.Generator, seconds: float, step: float, height: int = 360) -> list[Frame]:
    """A camera that wanders over a picture: a made clip, of frames `step` seconds apart."""
    width = round(height * 16 / 9 / 2) * 2
    count = round(seconds / step)
    side = np.linspace(rng.uniform(0.45, 0.6), rng.uniform(0.45, 0.75), count)
    start, end = rng.uniform(0, 1, (2, 2))
    lines, columns = picture.shape[:2]
    whole = min(columns, lines * 16 / 9)
    frames: list[Frame] = []
    for place in range(count):
        x, y = start + (end - start) * place / max(count - 1, 1)
        w = whole * side[place]
        h = min(w * 9 / 16, lines)
        left, top = round((columns - w) * x), round((lines - h) * y)
        inner = picture[top : top + round(h), left : left + round(w)]
        frames.append(np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8))
    return frames


def gray_plane(frame: Frame) -> Frame:
    """The (64, 64) luma that is hashed."""
    gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def distinct(hashes: Sequence[bytes], bits: int = DISTINCT_BITS) -> list[int]:
    """Which of some hashes differ from every one taken before them by more than so many bits."""
    taken = np.zeros((len(hashes), 4), dtype=np.uint64)
    places: list[int] = []
    for place, value in enumerate(hashes):
        words = np.frombuffer(value, dtype=np.uint64)
        apart = np.bitwise_count(taken[: len(places)] ^ words).sum(axis=1)
        if len(places) == 0 or int(apart.min()) > bits:
            taken[len(places)] = words
            places.append(place)
    return places


def _apart(pictures: Sequence[bytes]) -> list[int]:
    """Which pictures resemble none before them, mirrored or turned either; `pictures` are (64, 64) planes."""
    planes = [np.frombuffer(picture, dtype=np.uint8).reshape(64, 64) for picture in pictures]
    taken = np.zeros((len(planes), 4), dtype=np.uint64)
    places: list[int] = []
    for place, plane in enumerate(planes):
        ways = [np.rot90(side, turns) for side in (plane, plane[:, ::-1]) for turns in range(4)]
        own, *others = (
            np.frombuffer(Pdq().hash_plane(np.ascontiguousarray(way)).value, dtype=np.uint64) for way in ways
        )
        near = taken[: len(places)]
        if all(np.bitwise_count(near ^ way).sum(axis=1).min(initial=256) > _APART_BITS for way in (own, *others)):
            taken[len(places)] = own
            places.append(place)
    return places


def _shown_before(pictures: Sequence[Path], sources: Sequence[Path]) -> set[int]:
    """Which pictures show what one that is kept before them shows, by their places; `sources` are the files' own."""
    pairs = same_pictures(pictures)
    versions: dict[Path, int] = {}
    for place, source in enumerate(sources):
        if source.parent.as_posix().endswith(ONE_PICTURE_FOLDER):
            pairs.append((versions.setdefault(source.parent, place), place))
    again: set[int] = set()
    for earlier, later in sorted(pairs, key=lambda pair: pair[1]):
        if earlier != later and earlier not in again:
            again.add(later)
    return again


def _package_files() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {KNOWN: [], UNRELATED: []}
    for package in PACKAGES:
        if package.use != CLIPS:
            files = _files(unpacked_folder(package), _PICTURES)
            wanted = (path for path in files if not package.paths or any(part in str(path) for part in package.paths))
            found[package.use] += [path for path in wanted if not str(path).endswith(SAME_PICTURES)]
    return found


def _package_clips() -> list[Path]:
    # Of clips that come twice, or damaged on purpose, one is taken; the globe of b.mp4 turns in world.mp4 as well.
    twins = ("_bugy", "muted_", "python3-mecavideo/video", "media_assets/videos/b.mp4")
    found: list[Path] = []
    for package in PACKAGES:
        if package.use == CLIPS:
            files = _files(unpacked_folder(package), _VIDEOS)
            wanted = (path for path in files if not package.paths or any(part in str(path) for part in package.paths))
            found += [path for path in wanted if not any(twin in str(path) for twin in twins)]
    return found


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file() and not path.is_symlink()
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Pictures as they are kept, and by their names the series that they are of.

    `same_pictures` were left out as they show what others show.
    """

    known: list[Path]
    unrelated: list[Path]
    series: dict[str, str]
    same_pictures: int

    @classmethod
    def under(cls, folder: Path, listing: Mapping[str, Any]) -> "_Prepared":
        """What a listing names."""
        known, unrelated = ([folder / name for name in listing[use]] for use in (KNOWN, UNRELATED))
        return cls(known, unrelated, listing["series"], listing["same_pictures"])


def _prepared(folder: Path, files: dict[str, list[Path]], *, split: bool) -> _Prepared:
    """Select and shrink once; `split` takes every second picture of the known ones as unrelated."""
    listing = folder / "listing.json"
    count = sum(len(paths) for paths in files.values())
    if listing.is_file() and (found := json.loads(listing.read_text())).get("of") == [_FORMAT, count]:
        return _Prepared.under(folder, found)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = [(path, folder / f"{use}-{n:05}.jpg", _LONGEST[use]) for use in files for n, path in enumerate(files[use])]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        planes = list(pool.map(_shrunk, wanted, chunksize=16))
    made = [(target, plane) for (_, target, _), plane in zip(wanted, planes, strict=True) if plane is not None]
    sources = {target.name: source for source, target, _ in wanted}
    apart = [made[place][0] for place in _apart([plane for _, plane in made])]
    again = _shown_before(apart, [sources[target.name] for target in apart])
    kept = {target.name for place, target in enumerate(apart) if place not in again}
    for target, _ in made:
        if target.name not in kept:
            target.unlink(missing_ok=True)
    names = sorted(kept)
    sides = {use: [name for name in names if name.startswith(use)] for use in (KNOWN, UNRELATED)}
    if split:
        sides = {KNOWN: names[::2], UNRELATED: names[1::2]}
    series = _series({name: sources[name] for name in names})
    said = {"of": [_FORMAT, count], **sides, "series": series, "same_pictures": len(again)}
    listing.write_text(json.dumps(said))
    return _Prepared.under(folder, said)


def _series(sources: Mapping[str, Path]) -> dict[str, str]:
    """By name the uppermost folder above each picture that has pictures of its own."""
    folders = {path.parent for path in sources.values()}
    above = os.path.commonpath(folders) if folders else ""
    return {
        name: os.path.relpath(next(folder for folder in reversed(path.parents) if folder in folders), above)
        for name, path in sources.items()
    }


def _shrunk(wanted: tuple[Path, Path, int]) -> bytes | None:
    """Write a picture that counts smaller, and give its plane."""
    source, target, longest = wanted
    picture = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or min(picture.shape[:2]) < _SHORTEST_SIDE:
        return None
    if picture.dtype == np.uint16:
        picture = (picture // 256).astype(np.uint8)
    if picture.dtype != np.uint8 or (picture.shape[2] == 4 and int(picture[:, :, 3].min()) < 255):
        return None  # cut-outs have something unintended under their transparent parts
    scale = min(1.0, longest / max(picture.shape[:2]))
    smaller = cv2.resize(picture[:, :, :3], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    plane = gray_plane(np.asarray(smaller, dtype=np.uint8))
    if Pdq().hash_plane(plane).quality < 50:
        return None
    cv2.imwrite(str(target), smaller, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return plane.tobytes()


def _drawn(count: int = 240) -> Material:
    """Drawn pictures: soft noise of every scale with shapes and words on it."""
    folder = cache_folder() / "drawn"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            cv2.imwrite(str(path), drawn_picture(np.random.default_rng(number)))
    said = {
        "material": "drawn pictures alone: nothing was fetched (python -m benchmarks.accuracy_packages)",
        "known": count // 2,
        "unrelated": count // 2,
        "clips": [],
    }
    return Material(paths[::2], paths[1::2], [], said)


def drawn_picture(rng: np.random.Generator, width: int = 640, height: int = 360) -> Frame:
    """One drawn picture, the same for the same generator."""
    levels = np.zeros((height, width, 3), dtype=np.float32)
    for octave in range(1, 7):
        grid = rng.normal(0, 1, (2**octave, round(2**octave * width / height), 3)).astype(np.float32)
        levels += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.62**octave
    spread = max(float(levels.std()), 1e-3)
    picture = np.clip(128 + 52 * levels / spread, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(3, 9))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(15, width // 5)), int(rng.integers(15, height // 4)))
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return np.asarray(picture, dtype=np.uint8)
