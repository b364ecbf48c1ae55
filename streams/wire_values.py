"""What a value on the wire may be: everything else is a ValueError, as its sender is not believed."""

import math

from streams.frame import (
    MAX_SIDE,
    MAX_TRACKS,
)


def finite(value: float) -> float:
    """A number that is one."""
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def finite_or_nan(value: float) -> float:
    """A number, or none: `nan` stands for that."""
    if math.isinf(value):
        raise ValueError("infinite")
    return value


def positive(value: float) -> float:
    """A length of time."""
    if not 0.0 < value < math.inf:
        raise ValueError("no length of time")
    return value


def side(value: int) -> int:
    """The width or height of a picture."""
    if not 0 < value <= MAX_SIDE:
        raise ValueError("side out of range")
    return value


def tracks(value: int) -> int:
    """How many video tracks there are."""
    if not 0 < value <= MAX_TRACKS:
        raise ValueError("no number of tracks")
    return value


def share(value: float) -> float:
    """A ratio, 0-1."""
    if not 0.0 <= value <= 1.0:
        raise ValueError("no share")
    return value


def flag(value: int) -> bool:
    """Yes or no."""
    if value not in (0, 1):
        raise ValueError("no flag")
    return bool(value)


def printable(text: str, limit: int) -> str:
    """Return `text` cut to `limit` characters with everything but printable ASCII replaced by '?'."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:limit])


def text(raw: bytes) -> str:
    """Text that was padded to its length."""
    return printable(raw.rstrip(b"\0").decode("ascii", "replace"), len(raw))
