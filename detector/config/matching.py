"""The `matching` section: how many false matches are bearable."""

from typing import Annotated

from pydantic import Field

from detector.config.sections import Section

_MOST_STREAMS = 1_000_000


class MatchingSection(Section):
    """Matching frames against banks."""

    false_matches_per_day: Annotated[float, Field(strict=True, ge=0.001, le=1_000_000)] = 100.0
    """False matches a day that each bank may be expected to act on, by a pessimistic curve; beyond it is refused."""
    streams: Annotated[int, Field(strict=True, ge=1, le=_MOST_STREAMS)] = 100
    """Streams that are live at once, for that reckoning."""
