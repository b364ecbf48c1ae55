"""Soft look-ups: what one view costs in a batch, and how many true copies are met at which distance.

Copies are drawn pictures, edited: cropped, turned, covered by boxes and bars, blurred. Their hashes are PDQ's own, so
bits flip where edits make them flip. The originals stand in a list of random rows, which are no pictures.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from models.hashing.spectrum import batch_of, spectra_of
from models.index import HammingIndex

Rows = NDArray[np.uint8]

BANDS: Final = ((32, 40), (41, 48), (49, 56), (57, 64), (65, 72))
"""Distances in bits, from and to."""

BATCHES: Final = (1, 8, 24, 48)
RADIUS: Final = 72

COPIES_MET: Final = "stopframe soft, copies met"
"""The method of the row that holds the share of copies met by distance."""

_SIDE: Final = 256
_CALLS: Final = 24


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Originals and their edited copies: `originals` (P, 32), `values` (P, 32), `deviations` (P, 256), `far` (P,)."""

    originals: Rows
    values: Rows
    deviations: NDArray[np.float32]
    far: NDArray[np.int64]


def copies(count: int, seed: int) -> Copies:
    """Draw pictures until each of `BANDS` has `count` copies."""
    generator = np.random.default_rng(seed)
    parts: list[tuple[Rows, Rows, NDArray[np.float32], NDArray[np.int64]]] = []
    missing = dict.fromkeys(BANDS, count)
    while any(missing.values()):
        pictures = [_drawn(generator) for _ in range(64)]
        originals, _ = _hashed([_plane(picture) for picture in pictures])
        values, deviations = _hashed([_plane(_edited(picture, generator)) for picture in pictures])
        far = np.bitwise_count(originals ^ values).sum(axis=1, dtype=np.int64)
        kept = []
        for number, distance in enumerate(far.tolist()):
            band = next((band for band in BANDS if band[0] <= distance <= band[1]), None)
            if band is not None and missing[band]:
                missing[band] -= 1
                kept.append(number)
        parts.append((originals[kept], values[kept], deviations[kept], far[kept]))
    return Copies(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def planted(rows: Rows, known: Copies, seed: int) -> NDArray[np.int64]:
    """Put the originals into a list in the place of some of its rows, and give their numbers."""
    numbers = np.random.default_rng(seed).choice(len(rows), len(known.originals), replace=False)
    rows[numbers] = known.originals
    return numbers


def soft_results(index: HammingIndex, known: Copies, numbers: NDArray[np.int64], seed: int) -> Iterator[dict[str, Any]]:
    """Measure one list: the CPU time of a view by the size of the batch, and the share of copies met by distance."""
    generator = np.random.default_rng(seed)
    for batch in BATCHES:
        yield {
            "method": f"stopframe soft, {batch} at once",
            "rows": len(index),
            "cpu_us_per_view": _view_micros(index, known.deviations, batch, generator),
        }
    yield {
        "method": COPIES_MET,
        "rows": len(index),
        "slots": len(index.slot_widths),
        "copies": len(known.far),
        "met_ratio": _met(index, known, numbers),
    }


def _view_micros(index: HammingIndex, deviations: NDArray[np.float32], batch: int, generator: Generator) -> float:
    """Values are random: of most frames a list holds nothing. Each call asks anew, as each frame does."""
    exact = np.zeros(batch, dtype=bool)
    micros = []
    for _ in range(_CALLS):
        values = generator.integers(0, 256, (batch, 32), dtype=np.uint8)
        weights = deviations[generator.integers(0, len(deviations), batch)]
        began = time.thread_time_ns()
        index.search_soft(values, weights, RADIUS, exact=exact)
        micros.append((time.thread_time_ns() - began) / 1000 / batch)
    return statistics.median(micros)


def _met(index: HammingIndex, known: Copies, numbers: NDArray[np.int64]) -> dict[str, float]:
    hits = index.search_soft(known.values, known.deviations, RADIUS, exact=np.zeros(len(numbers), dtype=bool))
    is_met = np.zeros(len(numbers), dtype=bool)
    is_met[hits.query[numbers[hits.query] == hits.row]] = True
    return {f"{low}-{high}": float(np.mean(is_met[(known.far >= low) & (known.far <= high)])) for low, high in BANDS}


def _hashed(planes: Sequence[Rows]) -> tuple[Rows, NDArray[np.float32]]:
    spectra = spectra_of(np.stack(planes).astype(np.float32))
    names, nothing = [f"picture_{number}" for number in range(len(planes))], [0] * len(planes)
    batch = batch_of(names, spectra, nothing, nothing)
    return batch.values, batch.deviations


def _plane(picture: Rows) -> Rows:
    return np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), np.uint8)


def _drawn(generator: Generator) -> Rows:
    """A picture with large and small things in it, over a ground that changes slowly."""
    ground = cv2.resize(generator.random((4, 4), dtype=np.float32) * 200, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(ground, 0, 255).astype(np.uint8)
    for size in (120, 70, 70, 40, 40, 40, *[20] * 12):
        place, axes = generator.integers(0, _SIDE, 2), generator.integers(size // 4, size, 2)
        shade, angle = int(generator.integers(0, 256)), float(generator.uniform(0, 180))
        if generator.random() < 0.5:
            cv2.ellipse(picture, place.tolist(), axes.tolist(), angle, 0, 360, shade, -1)
        else:
            cv2.rectangle(picture, place.tolist(), (place + axes).tolist(), shade, -1)
    noise = cv2.GaussianBlur(generator.standard_normal((_SIDE, _SIDE)).astype(np.float32), (0, 0), 3) * 60
    return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


def _edited(picture: Rows, generator: Generator) -> Rows:
    """The picture as a copy shows it: one or two edits, of any strength."""
    edited = picture.copy()
    for edit in generator.choice(4, generator.integers(1, 3), replace=False).tolist():
        if edit == 0:
            low, high = generator.integers(0, 12, 2), _SIDE - generator.integers(0, 12, 2)
            edited = np.asarray(cv2.resize(edited[low[0] : high[0], low[1] : high[1]], (_SIDE, _SIDE)), np.uint8)
        elif edit == 1:
            turn = cv2.getRotationMatrix2D((_SIDE / 2, _SIDE / 2), float(generator.uniform(-4, 4)), 1)
            warped = cv2.warpAffine(edited, turn, (_SIDE, _SIDE), borderMode=cv2.BORDER_REPLICATE)
            edited = np.asarray(warped, np.uint8)
        elif edit == 2:
            place, size = generator.integers(0, 160, 2), generator.integers(30, 110, 2)
            cv2.rectangle(edited, place.tolist(), (place + size).tolist(), int(generator.integers(0, 256)), -1)
        else:
            edited = edited.copy()
            edited[-int(generator.integers(8, 50)) :] = generator.integers(0, 256)
    ok, encoded = cv2.imencode(".jpg", edited, [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(40, 90))])
    assert ok
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
