"""Which alert goes first when many wait."""

from enum import IntEnum, unique


@unique
class Urgency(IntEnum):
    """Higher goes first. What nobody acts on waits for what somebody must look at, and that for what must be cut."""

    SHADOW = 0
    REVIEW = 1
    REFUSED_CUT = 2
    """A cut that the breaker made a review of: people must look now."""
    CUT = 3
    """Somebody is to be cut, and enforcement is live."""
