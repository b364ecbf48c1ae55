"""When a list is fetched again: after its time, give or take a tenth; after a failure ever later. Pure."""

from typing import Final

from detector.exchanges.records import Outcome, SyncState

_JITTER: Final = 0.1
"""Nodes that were started together do not ask together."""

_FIRST_PAUSE_SECONDS: Final = 10.0
_FIRST_LOOK_SECONDS: Final = 10.0

_CLOCK_STEP_SECONDS: Final = 60.0
"""Whatever was done later than in so long was done by a clock that has been set back since."""

_AGE_UNKNOWN_SECONDS: Final = 3600.0


def pause_seconds(state: SyncState | None, every_seconds: float, since: float, now: float, drawn: float) -> float:
    """How long from now (Unix time) until the next sync of a list whose last one is `state`; `drawn` is from [0, 1).

    A list that was never had is fetched within seconds of `since`, when somebody began to ask for it. What an exchange
    asked for (`retry_at`) is waited for. Where the clock was set back meanwhile, nobody knows how long ago that was,
    and the list is fetched at once.
    """
    done_at = state.tried_at if state is not None and state.tried_at else since
    if done_at > now + _CLOCK_STEP_SECONDS:
        return 0.0
    spread = 1 - _JITTER + 2 * _JITTER * drawn
    if state is None or not state.tried_at:
        spread = drawn * min(_FIRST_LOOK_SECONDS, every_seconds * _JITTER)
        return min(spread, max(0.0, since + spread - now))
    whole = every_seconds * spread
    if state.outcome == Outcome.FAILED:
        # Full jitter, as everywhere here: those that failed together do not come back together.
        limit = min(every_seconds, _FIRST_PAUSE_SECONDS * 2.0 ** min(max(state.failures, 1) - 1, 32))
        whole = limit / 2 + drawn * limit / 2
    due = max(state.tried_at + whole, state.retry_at)
    longest = max(whole, state.retry_at - state.tried_at)
    return min(max(0.0, due - now), longest)


def is_stale(state: SyncState | None, stale_after_seconds: float, since: float, now: float) -> bool:
    """Whether a list was not had for too long; `since` is when somebody began to ask for it (Unix time).

    One that was had in a time that is still to come, by a clock that was set back since, may be of any age.
    """
    fresh_at = state.fresh_at if state is not None and state.fresh_at else since
    return not -_AGE_UNKNOWN_SECONDS <= now - fresh_at <= stale_after_seconds
