"""What became of a model whose weights and activations were cut to eight bits: how far its scores moved, and the gate.

Facts stand in its manifest, section `quantised`, with a few frames that moved most: they are scored again whenever the
model is loaded, since processors round products of eight bits differently (without VNNI, sums of two saturate at 16
bits: onnxruntime.ai, "Quantize ONNX models").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.manifest_yaml import Section

DEFAULT_LIMIT: Final = 0.05
"""How far a score may move: as far as resizing and decoding move it. What fails this fails by several times as much."""

WIDEST_LIMIT: Final = 0.1

LEAST_AGREEMENT: Final = 0.98
"""Share of frames whose best label must stay the best."""

KEPT_FRAMES: Final = 8
"""How many frames lie beside the model: those whose scores moved most."""

FEWEST_FRAMES: Final = 32
"""With fewer neither ranges nor drift are known: half of them set the ranges, the others are compared."""

_MOST_VALUES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Drift:
    """How scores moved over frames that set no range: at most, at p99, and how often the best label stayed the best."""

    frames: int
    largest: float
    p99: float
    same_top: float

    def refusal(self, limit: float) -> str | None:
        """Why the model must not be used, as a clause; None where it may."""
        if not self.largest <= limit:
            return f"a score moved by {self.largest:.3f}, the limit is {limit:g}"
        if not self.same_top >= LEAST_AGREEMENT:
            return f"the best label stayed the same in {self.same_top:.0%} of frames only"
        return None


@dataclass(frozen=True, slots=True)
class Quantised:
    """The section `quantised` of a manifest. `expect` has the scores of the model before, per kept frame and label."""

    of_sha256: str
    calibrated_on: int
    drift: Drift
    limit: float
    picture: Path
    expect: tuple[tuple[float, ...], ...]


def drift_between(before: NDArray[np.float64], after: NDArray[np.float64]) -> Drift:
    """The drift between two tables of scores, (frames, labels) each."""
    if before.shape != after.shape or before.ndim != 2 or not len(before):
        raise ValueError("both models score the same frames and labels, and at least one")
    moved = np.abs(before - after)
    same = before.argmax(axis=1) == after.argmax(axis=1)
    return Drift(len(before), float(moved.max()), float(np.quantile(moved, 0.99)), float(same.mean()))


def most_moved(before: NDArray[np.float64], after: NDArray[np.float64], count: int = KEPT_FRAMES) -> list[int]:
    """The frames whose scores moved most, the first most of all; fewer where labels are many."""
    count = max(1, min(count, _MOST_VALUES // before.shape[1]))
    return [int(one) for one in np.argsort(-np.abs(before - after).max(axis=1), kind="stable")[:count]]


def frames_of(picture: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]] | None:
    """The kept frames, one below the other in a picture, top first; None where it is of another size."""
    side = picture.shape[1]
    if picture.shape != (side * count, side, 3):
        return None
    return [np.ascontiguousarray(picture[row * side : (row + 1) * side]) for row in range(count)]


def read_quantised(section: Section, labels: Sequence[str]) -> Quantised:
    """Read the section, and refuse a model that is beyond its own limit.

    Raises:
        ManifestError: A value is missing or wrong, or the model lost too much.
    """
    picture = section.take("picture", str)
    if PurePosixPath(picture).name != picture:
        raise section.fault("picture", f"{picture!r} must be the name of a PNG beside the manifest")
    limit = section.number("limit", 0.0, WIDEST_LIMIT)
    drift = Drift(
        frames=section.whole("compared_on", 1, 1_000_000),
        largest=section.number("largest_difference", 0.0, 1.0),
        p99=section.number("p99_difference", 0.0, 1.0),
        same_top=section.number("same_top_label", 0.0, 1.0),
    )
    refusal = drift.refusal(limit)
    if refusal is not None:
        raise section.fault("limit", f"too much was lost: {refusal}; use the model that it was made of")
    expect = section.take("expect", list)
    if not 1 <= len(expect) <= KEPT_FRAMES or any(not _is_row(row, len(labels)) for row in expect):
        raise section.fault("expect", f"needs 1 to {KEPT_FRAMES} lists with a score of 0-1 for each label")
    found = Quantised(
        of_sha256=section.take("of_sha256", str),
        calibrated_on=section.whole("calibrated_on", 1, 1_000_000),
        drift=drift,
        limit=limit,
        picture=section.path.parent / picture,
        expect=tuple(tuple(float(score) for score in row) for row in expect),
    )
    section.finish()
    return found


def _is_row(row: Any, labels: int) -> bool:
    return (
        isinstance(row, list)
        and len(row) == labels
        and all(type(score) in {int, float} and 0 <= score <= 1 for score in row)
    )
