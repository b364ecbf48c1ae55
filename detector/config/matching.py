"""The `matching` section: how many false matches are bearable, and what looking a frame up may cost."""

from enum import StrEnum, unique
from typing import Annotated

from pydantic import Field

from detector.config.sections import Section
from detector.config.units import Between, Duration

_MOST_STREAMS = 1_000_000


@unique
class ViewTier(StrEnum):
    """A family of views that can be switched off."""

    EDGES = "edges"
    IN_TURN = "in_turn"
    PER_SCENE = "per_scene"


class MatchingSection(Section):
    """Matching frames against banks."""

    false_matches_per_day: Annotated[float, Field(strict=True, ge=0.001, le=1_000_000)] = 100.0
    """False matches a day that each bank may be expected to act on, by a pessimistic curve; beyond it is refused."""
    streams: Annotated[int, Field(strict=True, ge=1, le=_MOST_STREAMS)] = 100
    """Streams that are live at once, for that reckoning."""
    budget: Annotated[Duration, Between("1ms", "1s")] = Duration.parse("3ms")
    """CPU time that the views of one sample may cost on average, in each analysis process.

    The frame itself and its mirror image are always looked up; the rest is left out, in turns, where it does not reach.
    """
    tiers: tuple[ViewTier, ...] = tuple(ViewTier)
    """Views that are looked up beside them: `edges` with each sample, `in_turn` within four, `per_scene` once."""
