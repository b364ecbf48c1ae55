"""Times as lists write them. All are UTC: one without a zone is UTC too, wherever this runs."""

from datetime import UTC, datetime

_LONGEST = 40


def utc_seconds(text: str) -> float:
    """Unix seconds of an ISO 8601 time; without a zone it is UTC.

    Raises:
        ValueError: It is none.
    """
    if len(text) > _LONGEST:
        raise ValueError("a time is shorter")
    try:
        parsed = datetime.fromisoformat(text.strip())
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()
    except OverflowError:
        raise ValueError(f"{text} is no time") from None


def utc_text(seconds: float) -> str:
    """Unix seconds as `2027-01-31T18:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
