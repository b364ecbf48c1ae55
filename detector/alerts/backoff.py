"""How long to wait before the next try."""


def backoff_seconds(attempts: int, *, first_seconds: float, limit_seconds: float, jitter: float) -> float:
    """Return the wait after `attempts` failed tries (1 and up): doubled each time, at most the limit.

    `jitter` in [0, 1) takes up to a quarter off, so that many clients of one broker do not return in step.
    """
    doubled = first_seconds * 2.0 ** min(max(attempts, 1) - 1, 32)
    return min(doubled, limit_seconds) * (1 - jitter / 4)
