"""How often benign frames are taken for known pictures: the same million rows, and frames that none of them shows.

Every frame is edited in fourteen of the promised ways, which makes strangers more alike: bars, captions, rooms. What
the product's own look-ups let act is counted over all of them; how the distances fall off is measured by brute force,
over every row, for views drawn from the same frames.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy_edits import PROMISED, encoded
from benchmarks.accuracy_lists import processes, sample_of
from benchmarks.accuracy_material import Frame, clip_frames, distinct, gray_plane, pan, read_picture
from benchmarks.accuracy_recall import asks, described
from models.banks import Bank
from models.evidence import Strength
from models.hashing.pdq import Pdq
from models.hashing.view_plan import view_batch
from models.matching import trusted_views

LINES: Final = 360
EDITS_A_FRAME: Final = 14
"""Of the promised edits, others for each frame; held against the lists in turn."""

_BLOCK: Final = 16_384
"""Rows at a time: they and the distances to a few queries stay within a core's second-level cache."""

_LONGEST: Final = 129
"""Distances are counted up to here; half of all rows lie further."""

_PAN_SECONDS: Final = 8.0
_OF_CLIPS: Final = "frames of clips"


@dataclass(slots=True)
class FalseMatches:
    """What was found where nothing is.

    `pairs` (view, row) were looked up through the index, `frames` edited frames. `acted`: frames that some row let ask
    for a cut, for a review, or vote; `worst` describes the strongest. `by_distance` (129,) are pairs of the brute-force
    sample at each distance, of views that pass the gates, over `brute_pairs` pairs; `nearest` the smallest distance of
    each of its views.
    """

    frames: int = 0
    views: int = 0
    pairs: int = 0
    acted: Counter[str] = field(default_factory=Counter)
    worst: list[dict[str, Any]] = field(default_factory=list)
    by_distance: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LONGEST, dtype=np.int64))
    brute_pairs: int = 0
    nearest: list[int] = field(default_factory=list)

    def rate_below(self, distance: int) -> float:
        """Pairs within a distance, by the brute-force sample and beyond its reach by the slope of its tail."""
        counted = np.cumsum(self.by_distance)
        if self.brute_pairs == 0 or counted[-1] == 0:
            return 0.0
        # The tail is a straight line of its logarithm where at least ten pairs were counted.
        sure = np.flatnonzero(counted >= 10)
        first = int(sure[0])
        if distance >= first:
            return float(counted[distance]) / self.brute_pairs
        last = min(first + 12, _LONGEST - 1)
        slope = (math.log10(counted[last]) - math.log10(counted[first])) / (last - first)
        return float(10 ** (math.log10(counted[first]) - slope * (first - distance))) / self.brute_pairs


def benign_frames(
    clips: Sequence[Path], stills: Sequence[Path], most: int, seed: int
) -> tuple[list[bytes], dict[str, int]]:
    """Distinct frames as JPEGs and how many of each kind: of clips; where they are too few, pictures and pans too."""
    rng = np.random.default_rng(seed)
    with processes() as pool:
        found = [one for part in pool.map(_frames_of_clip, clips) for one in part]
        if len(distinct([value for value, _, _ in found])) < most:
            found += pool.map(_still, stills, chunksize=16)
            seeds = rng.integers(0, 2**31, len(stills)).tolist()
            found += [one for part in pool.map(_frames_of_pan, stills, seeds, chunksize=8) for one in part]
    clips_first = [(found[n][2] != _OF_CLIPS, rng.random(), n) for n in distinct([value for value, _, _ in found])]
    places = sorted(place for _, _, place in sorted(clips_first)[:most])
    return [found[place][1] for place in places], dict(Counter(found[place][2] for place in places))


_Kept = tuple[bytes, bytes, str]
"""A frame's hash, the frame as a JPEG, and its kind."""


def _kept(frame: Frame, kind: str) -> _Kept:
    packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    return Pdq().hash_plane(gray_plane(frame)).value, packed, kind


def _frames_of_clip(clip: Path) -> list[_Kept]:
    return [_kept(frame, _OF_CLIPS) for _, frame in clip_frames(clip, LINES, every_seconds=0.1)]


def _still(path: Path) -> _Kept:
    picture = read_picture(path)
    scale = LINES / picture.shape[0]
    smaller = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _kept(np.asarray(smaller, dtype=np.uint8), "pictures")


def _frames_of_pan(path: Path, seed: int) -> list[_Kept]:
    frames = pan(read_picture(path), np.random.default_rng(seed), _PAN_SECONDS, 1.0, LINES)
    return [_kept(frame, "frames of pans over pictures") for frame in frames]


def false_matches(
    frames: Sequence[bytes], banks: Mapping[str, Bank], rows: NDArray[np.uint8], *, brute_views: int, seed: int
) -> FalseMatches:
    """Hold every frame, in promised edits, against the banks in turn, and some of their views against `rows`.

    `rows` (N, 32) uint8 are those of the banks.
    """
    names = list(banks)
    _STATE.update(frames=frames, banks=[banks[name] for name in names], names=names, seed=seed)
    total = FalseMatches()
    looked: list[bytes] = []
    with processes() as pool:
        for views, found, sampled in pool.map(_of_one, range(len(frames)), chunksize=4):
            total.frames += len(views)
            total.views += sum(views.values())
            total.pairs += sum(count * len(banks[names[place % len(names)]]) for place, count in views.items())
            total.acted.update(match["asks"] for match in found)
            total.worst += found
            looked += sampled
        total.worst.sort(key=lambda match: (-match["rank"], match["distance"]))
        del total.worst[20:]
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(looked))[:brute_views].tolist()
        queries = np.frombuffer(b"".join(looked[place] for place in chosen), dtype=np.uint64).reshape(-1, 4)
        _STATE["words"] = rows
    with processes() as pool:
        columns = np.array_split(queries, max(1, len(queries) // 32))
        for counts, nearest in pool.map(_distances, columns):
            total.by_distance += counts
            total.nearest += nearest
    total.brute_pairs = len(queries) * len(rows)
    return total


_STATE: dict[str, Any] = {}


def _of_one(number: int) -> tuple[dict[int, int], list[dict[str, Any]], list[bytes]]:
    """How many views each edit of a frame had, what it matched, and one view of each that passes the gates."""
    frame = _opened(_STATE["frames"][number])
    views: dict[int, int] = {}
    found: list[dict[str, Any]] = []
    sampled: list[bytes] = []
    for place in sorted((number + step) % len(PROMISED) for step in range(EDITS_A_FRAME)):
        edit = PROMISED[place]
        rng = np.random.default_rng([_STATE["seed"], number, place, 7])
        other = int(rng.integers(0, len(_STATE["frames"])))
        scene = _opened(_STATE["frames"][other]) if edit.has_scene else frame
        batch = view_batch(sample_of(encoded(edit.make(frame, rng, scene), rng)))
        views[place] = len(batch)
        gated = np.flatnonzero(trusted_views(batch))
        if len(gated):
            sampled.append(batch.values[int(rng.choice(gated))].tobytes())
        bank = _STATE["banks"][place % len(_STATE["banks"])]
        matches = bank.match(batch, most=4).matches
        if matches:
            strongest = max(matches, key=lambda match: (asks(match).rank, -match.distance))
            found.append({**described(strongest), "rank": asks(strongest).rank, "edit": edit.name, "frame": number})
    return views, found, sampled


def _opened(packed: bytes) -> Frame:
    return np.asarray(cv2.imdecode(np.frombuffer(packed, dtype=np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)


def _distances(queries: NDArray[np.uint64]) -> tuple[NDArray[np.int64], list[int]]:
    """Distances of some queries to every row, counted, and the smallest of each."""
    words = _STATE["words"].view(np.uint64)
    counts = np.zeros(_LONGEST, dtype=np.int64)
    nearest = np.full(len(queries), _LONGEST, dtype=np.int64)
    for start in range(0, len(words), _BLOCK):
        block = np.ascontiguousarray(words[start : start + _BLOCK].T)
        for place, query in enumerate(queries):
            apart = np.bitwise_count(block[0] ^ query[0]).astype(np.uint8)
            for word in range(1, 4):
                apart += np.bitwise_count(block[word] ^ query[word])
            near = np.bincount(apart, minlength=_LONGEST)[:_LONGEST]
            counts += near
            first = int(np.argmax(near > 0)) if near.any() else _LONGEST
            nearest[place] = min(nearest[place], first)
    return counts, nearest.tolist()


def asks_at_least(found: FalseMatches, strength: Strength) -> int:
    """How many edited frames some row let ask for that much or more."""
    return sum(count for asked, count in found.acted.items() if Strength(asked).rank >= strength.rank)
