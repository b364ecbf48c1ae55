"""The section `ingest.hold`: viewers wait for so many clean samples, on servers that ask us about viewers, too."""

from typing import Annotated, Literal

from pydantic import Field

from detector.config.sections import IngestSection, Section
from detector.config.units import Between, Duration
from detector.config.values import EmptyMeansDefault


class HoldSection(Section):
    """Hold before air."""

    samples: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    """Clean samples in a row after which viewers get in; 0 keeps nobody waiting."""
    within: Annotated[Duration, Between("500ms", "10m")] = Duration.parse("10s")
    """How long they may take to come until `on_doubt` decides."""
    on_doubt: Literal["admit", "refuse"] = "refuse"
    """When they have not come in time: `admit` lets viewers in unseen, `refuse` keeps them out until they have."""


class HoldingSection(IngestSection):
    """An ingest server that asks us before anyone watches."""

    hold: Annotated[HoldSection, EmptyMeansDefault()] = HoldSection()
    """Hold before air: viewers wait for so many clean samples."""
