"""What the session of one stream goes by."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from detector.backoff import ReconnectSettings
from detector.blindness import BlindRule, default_rules
from detector.config.config import CloserLook
from detector.coverage import Cause
from detector.cpu.rationing import Rank
from detector.policy import PolicySettings
from detector.sight import SightSettings
from streams.job import Job


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a stream's session goes by; replaced as a whole when the config changes.

    A stream that sends nothing for `stall_after_seconds` is blind; its reader is replaced after the job's read timeout.
    """

    job: Job
    closer_look: CloserLook
    deadline_seconds: float
    policy: PolicySettings
    blind: Mapping[Cause, BlindRule] = field(default_factory=default_rules)
    reconnect: ReconnectSettings = field(default_factory=ReconnectSettings)
    stall_after_seconds: float = 2.0
    rank: Rank = field(default_factory=Rank)

    @property
    def sight(self) -> SightSettings:
        """What sight is measured by."""
        return SightSettings(self.job.sampling, self.blind, self.stall_after_seconds)
