"""What looking at one frame brought to light: matches, scores, and whether there was anything to see."""

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final

WHOLE: Final = "whole"
"""The look of a model at the frame as it is."""


@unique
class Opinion(StrEnum):
    """What a list says of an entry (the vocabulary of python-threatexchange). Only `POSITIVE` may cut."""

    NEGATIVE = "negative"
    SEED = "seed"
    POSITIVE = "positive"
    DISPUTED = "disputed"


@unique
class Strength(StrEnum):
    """What one frame may at most ask for by a match's distance, gates and second test; the bank's step still bounds it.

    A vote counts only together with other frames of the same stream. Order them by `rank`: as words they sort wrongly.
    """

    VOTE = "vote"
    REVIEW = "review"
    CUT = "cut"

    @property
    def rank(self) -> int:
        """0 for the weakest."""
        return _STRENGTHS.index(self)


_STRENGTHS: Final = tuple(Strength)


@unique
class SecondTest(StrEnum):
    """What told a copy from a chance neighbour beyond the distance.

    `SHARE` is the part of the view's coefficient magnitude that lies in the bits that differ, `SECOND_HASH` the
    distance in bits of a longer hash that the row has beside it.
    """

    NONE = "none"
    SHARE = "share"
    SECOND_HASH = "second_hash"


@dataclass(frozen=True, slots=True)
class HashMatch:
    """One list entry within reach of one view of a frame.

    `distance` and `max_distance` are Hamming distances in bits (a match is distance <= max_distance, which is the limit
    of its `strength` for this view and list); `bits` is the length of the hash. `quality` is 0-100 for the frame's
    view, `is_stable` and `passes_shape` are the view's other gates, `tier` says how often the view is run. `generation`
    names the bank's state on disk, `row` the row in it, `position_ms` its place in a video, None where it has none.
    `second_value` <= `second_limit` passed the second test; both are None where none was held. `bank_rows` is how many
    rows the list counts as (`models.radii.counted_rows`), `expected_false` how many as near as this one the views of a
    frame meet there by chance. `view_hash` is the view's own hash; a repeated chance hit is one look at one thing.
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
    strength: Strength = Strength.CUT
    second_test: SecondTest = SecondTest.NONE
    second_value: float | None = None
    second_limit: float | None = None
    position_ms: int | None = None
    row: int = -1
    passes_shape: bool = True
    is_stable: bool = True
    tier: int = 0
    bank_rows: int = 0
    expected_false: float = 0.0
    view_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of one model: `score` is 0-1, the highest of all looks, and `view` says which look that was.

    `provider` and `precision` say what ran the model. `is_reused`: the picture was unchanged, and not looked at again.
    """

    model: str
    label: str
    score: float
    model_sha256: str
    provider: str = ""
    precision: str = ""
    view: str = WHOLE
    is_reused: bool = False


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What was asked of one model about one frame.

    It was shown `looks` pictures (the frame, parts of it); `left_out` further parts had no room. `is_spared`: nothing
    called for it, or a frame beside it showed the same. `is_reused`: its scores of an unchanged picture stand in.
    """

    model: str
    looks: int = 0
    left_out: int = 0
    is_spared: bool = False
    is_reused: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that was found in one frame.

    `quality` is PDQ's 0-100 on the unedited view. `is_stable` is False where so many coefficients lie at the median
    that a re-encode moves the hash. `is_low_information` frames (black, flat) were not shown to any model.
    `fingerprint` is the frame's own PDQ hash, 32 bytes. `stage_seconds` holds the time spent by stage name.
    `failed_models` are models that gave no valid answer. `left_out_matches` counts matches beyond those in `matches`,
    `suppressed_matches` those that a negative entry at least as near took back.
    `second` is the frame's 512-bit second hash, 64 bytes, or empty. `views_run` views were looked up, `views_left_out`
    more were due and had no room in the budget; `tier_seconds` is the CPU time by tier of the views that were run, by
    the numbers of `models.hashing.view_table.Tier`; `saved_seconds` is what its track has saved of the CPU time for
    views after it, below 0 where it owes some, None for frames at nobody's expense. Not `is_inspectable` is a frame of
    whose views none could have acted.
    `cpu_seconds` is the CPU time of the process that looked, messages included; 0 where nobody measured it.
    `model_uses` says what was asked of each model; empty where the frame was shown to none.
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
    second: bytes = b""
    views_run: int = 0
    views_left_out: int = 0
    is_inspectable: bool = True
    suppressed_matches: int = 0
    tier_seconds: dict[int, float] = field(default_factory=dict)
    saved_seconds: float | None = None
    model_uses: tuple[ModelUse, ...] = ()
