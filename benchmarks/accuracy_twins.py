"""Which pictures show what others show: crops of each other, a picture on a page, the same one mirrored.

A match of such a pair is right, so no pair may stand on two sides of a measurement. Hashes are what is measured and may
not be what decides here: a pair of strangers that they confuse has to stay in, and count. So local features decide,
which know nothing of the hashes: SIFT (D. Lowe 2004, as OpenCV has it) compared by the square roots of their parts
(R. Arandjelovic, A. Zisserman 2012). Two pictures are the same where one affine map (a crop, a scale, a mirror) takes
many corners of one to their likes in the other, over a good part of one of them.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_AGREEING: Final = 9
"""Features that one map takes to their likes; of strangers RANSAC finds six to eight that agree by chance."""

LEAST_SPREAD: Final = 0.1
"""The part of one of the two pictures that they are spread over: pages share a logo, and letters are all alike."""

_LONGEST_SIDE: Final = 640
_FEATURES: Final = 300
_LEAST_CONTRAST: Final = 0.03
_NEIGHBOURS: Final = 6
_CHECKS: Final = 32
_NEAR: Final = 0.40
"""How far two likes may be at most, of 1.41."""

_LEAST_VOTES: Final = 6
_CLEARLY: Final = 0.8
_MOST_FAR: Final = 0.5
_PIXELS_OFF: Final = 4.0
_LEAST_EVEN: Final = 0.4
"""The narrower scale of the map beside its wider one: it may not press a picture to a line."""


@dataclass(frozen=True, slots=True, eq=False)
class _Features:
    """N corners of a picture of `area` pixels: `places` (N, 2) float32, x and y, and `descriptors` (N, 128) float32."""

    places: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    area: float

    def mirrored(self) -> NDArray[np.float32]:
        """The descriptors (N, 128) that the mirrored picture has at the same corners."""
        # Four rows of four cells with eight directions each, in the frame of the corner's own direction.
        cells = self.descriptors.reshape(-1, 4, 4, 8)[:, ::-1]
        return np.ascontiguousarray(np.roll(cells[..., ::-1], 1, axis=-1).reshape(-1, 128))


def same_pictures(pictures: Sequence[Path]) -> list[tuple[int, int]]:
    """The pairs (earlier, later) of pictures, by their places, that show the same thing or part of it."""
    with _processes() as pool:
        _STATE["features"] = features = list(pool.map(_features_of, pictures, chunksize=16))
    _STATE["owners"] = np.repeat(np.arange(len(features)), [len(one.places) for one in features])
    if len(_STATE["owners"]) <= _NEIGHBOURS:
        return []
    matcher = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 4}, {"checks": _CHECKS})
    matcher.add([np.concatenate([one.descriptors for one in features])])
    matcher.train()
    _STATE["matcher"] = matcher
    with _processes() as pool:  # forked only now, so that they have the tree
        found = {pair for pairs in pool.map(_pairs_of, range(len(features)), chunksize=8) for pair in pairs}
    _STATE.clear()
    return sorted(found)


_STATE: dict[str, Any] = {}


def _processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(cpu_count(), get_context("fork"))


def _features_of(path: Path) -> _Features:
    gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if gray is None:
        raise FileNotFoundError(path)
    scale = min(1.0, _LONGEST_SIDE / max(gray.shape))
    small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    finder = cv2.SIFT_create(_FEATURES, contrastThreshold=_LEAST_CONTRAST)  # type: ignore[attr-defined]
    corners, found = finder.detectAndCompute(small, None)
    descriptors = np.zeros((0, 128), dtype=np.float32) if found is None else np.asarray(found, dtype=np.float32)
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))
    places = np.array([corner.pt for corner in corners], dtype=np.float32).reshape(-1, 2)
    return _Features(places, roots, float(small.shape[0] * small.shape[1]))


def _pairs_of(number: int) -> list[tuple[int, int]]:
    """The pictures that show what this one shows."""
    features = _STATE["features"]
    own = features[number]
    found = set()
    for descriptors in (own.descriptors, own.mirrored()):
        if len(descriptors) < LEAST_AGREEING:
            continue
        votes: Counter[int] = Counter()
        for likes in _STATE["matcher"].knnMatch(descriptors, k=_NEIGHBOURS):
            votes.update({int(_STATE["owners"][like.trainIdx]) for like in likes if like.distance < _NEAR})
        for other, count in votes.items():
            if other != number and count >= _LEAST_VOTES and _agree(own, descriptors, features[other]):
                found.add((min(number, other), max(number, other)))
    return sorted(found)


def _agree(one: _Features, descriptors: NDArray[np.float32], other: _Features) -> bool:
    """Whether one map takes corners of one picture to those of the other."""
    likes = cv2.BFMatcher().knnMatch(descriptors, other.descriptors, k=2)
    good = [pair[0] for pair in likes if len(pair) == 2 and pair[0].distance < _CLEARLY * pair[1].distance]
    good = [like for like in good if like.distance < _MOST_FAR]
    if len(good) < LEAST_AGREEING:
        return False
    here = one.places[[like.queryIdx for like in good]]
    there = other.places[[like.trainIdx for like in good]]
    turn, told = cv2.estimateAffine2D(here, there, ransacReprojThreshold=_PIXELS_OFF)
    matrix = np.asarray(turn)
    if matrix.shape != (2, 3):  # there is no such map
        return False
    wider, narrower = np.linalg.svd(matrix[:, :2], compute_uv=False)
    inside = told.ravel() > 0
    counts = [len(np.unique(np.round(places[inside] / _PIXELS_OFF), axis=0)) for places in (here, there)]
    if min(counts) < LEAST_AGREEING or narrower < _LEAST_EVEN * wider:
        return False
    spread = (cv2.contourArea(cv2.convexHull(places[inside])) for places in (here, there))
    return max(part / whole.area for part, whole in zip(spread, (one, other), strict=True)) >= LEAST_SPREAD
