"""Instants as they leave the service."""

from datetime import UTC, datetime


def rfc3339(wall_ms: int) -> str:
    """Return an instant as RFC 3339 in UTC with milliseconds, the form of every time that leaves the service."""
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{wall_ms % 1000:03d}Z"
