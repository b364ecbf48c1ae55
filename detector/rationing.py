"""Who is looked at how closely while CPU time is short: pure."""

from dataclasses import dataclass
from enum import StrEnum, unique


@unique
class Risk(StrEnum):
    """Where a stream stands when CPU time is short: those of `low` risk are slowed first, those of `high` last."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def tier(self) -> int:
        """0 is slowed first."""
        return _TIERS.index(self)

    def raised(self) -> "Risk":
        """One step up; the highest stays."""
        return _TIERS[min(self.tier + 1, len(_TIERS) - 1)]


_TIERS = (Risk.LOW, Risk.NORMAL, Risk.HIGH)


@dataclass(frozen=True, slots=True)
class Rank:
    """What an operator says of one stream beside its sampling.

    `blind_burst_share` (0 to 1) is its share of bursts while packet sizes could show no scene change, and
    `hint_interval_seconds` how densely it is sampled while a strong risk hint holds.
    """

    risk: Risk = Risk.NORMAL
    blind_burst_share: float = 0.0
    hint_interval_seconds: float = 0.2
