"""What looking at one frame brought to light: matches, scores, and whether there was anything to see."""

from dataclasses import dataclass, field
from enum import StrEnum, unique


@unique
class Opinion(StrEnum):
    """What a list says of an entry (the vocabulary of python-threatexchange). Only `POSITIVE` may cut."""

    NEGATIVE = "negative"
    SEED = "seed"
    POSITIVE = "positive"
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class HashMatch:
    """One list entry within reach of one view of a frame.

    `distance` and `max_distance` are Hamming distances in bits (a match is distance <= max_distance); `bits` is the
    length of the hash. `quality` is 0-100 for the frame's view. `generation` names the bank's state on disk.
    """

    bank: str
    entry: str
    algorithm: str
    bits: int
    distance: int
    max_distance: int
    view: str
    quality: int
    opinion: Opinion
    generation: str


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of one model: `score` is 0-1."""

    model: str
    label: str
    score: float
    model_sha256: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that was found in one frame.

    `quality` is PDQ's 0-100 on the unedited view. `is_stable` is False where so many coefficients lie at the median
    that a re-encode moves the hash. `is_low_information` frames (black, flat) were not shown to any model.
    `fingerprint` is the frame's own PDQ hash, 32 bytes. `stage_seconds` holds the time spent by stage name.
    `failed_models` are models that gave no valid answer. `left_out_matches` counts matches beyond those in `matches`.
    `cpu_seconds` is the CPU time of the process that looked, messages included; 0 where nobody measured it.
    """

    quality: int
    is_stable: bool
    is_low_information: bool
    fingerprint: bytes
    matches: tuple[HashMatch, ...] = ()
    scores: tuple[ClassScore, ...] = ()
    failed_models: tuple[str, ...] = ()
    stage_seconds: dict[str, float] = field(default_factory=dict)
    left_out_matches: int = 0
    cpu_seconds: float = 0.0
