"""Which packets to decode, and when: pure. Time and randomness are passed in."""

from dataclasses import dataclass
from enum import StrEnum, unique


@unique
class SamplingMode(StrEnum):
    """How a stream is looked at."""

    AUTO = "auto"
    KEYFRAMES = "keyframes"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """An operator's promise for one stream.

    What stays on screen for `detect_within_seconds` is in at least one analysed frame and found at most this late;
    while decoding through, one frame is analysed at a random instant of each `interval_seconds`.
    """

    detect_within_seconds: float = 3.0
    interval_seconds: float = 1.0
    mode: SamplingMode = SamplingMode.AUTO
