"""Every second of a stream accounted for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.coverage import Cause, Coverage, Kind, Ledger

_TIMES = st.floats(0, 1e5, allow_nan=False)


def _parts(coverage: Coverage) -> tuple[float, float, float]:
    return coverage.seen_seconds, coverage.skipped_seconds, coverage.blind_seconds


def test_gaps_up_to_the_promise_are_seen() -> None:
    """A stream that is sampled at least every `detect_within` is seen from its start to its end."""
    ledger = Ledger(100.0, 3.0)
    for at in (101.0, 104.0, 107.0, 107.5):
        ledger.sample(at)
    assert _parts(ledger.end(110.5)) == (10.5, 0.0, 0.0)
    assert ledger.account(999.0).max_gap_seconds == 3.0


def test_the_rest_of_a_longer_gap_has_a_cause() -> None:
    """Of a gap of ten seconds three are seen; the rest is told by the causes in force, skipped and blind apart."""
    ledger = Ledger(0.0, 3.0)
    ledger.sample(0.0)
    ledger.cause(Cause.OVERLOAD, 1.0)
    ledger.cause(Cause.STALL, 5.0)
    ledger.cause(Cause.DECODE_ERRORS, 9.0)
    ledger.sample(10.0)
    account = ledger.end(10.0)
    assert _parts(account) == (3.0, 2.0, 5.0)
    assert account.blind_seconds_by_cause() == {"stall": 4.0, "decode_errors": 1.0}
    assert account.max_gap_seconds == 10.0


def test_without_any_sample_nothing_was_seen() -> None:
    """A stream that never gave a picture was blind throughout; a first sample makes its first seconds seen."""
    ledger = Ledger(0.0, 3.0)
    assert _parts(ledger.account(2.0)) == (0.0, 0.0, 2.0)
    assert _parts(ledger.account(20.0)) == (0.0, 0.0, 20.0)
    ledger.sample(20.0)
    assert _parts(ledger.account(20.0)) == (3.0, 0.0, 17.0)
    assert Ledger(5.0, 3.0).end(5.0) == Coverage(0, 0)


def test_a_look_at_the_account_changes_nothing() -> None:
    """What is open may still become seen: asking in between does not settle it."""
    ledger = Ledger(0.0, 3.0, Cause.UNSAMPLED)
    ledger.sample(0.0)
    assert _parts(ledger.account(8.0)) == (3.0, 5.0, 0.0)
    ledger.sample(4.0)
    ledger.sample(2.0)  # answers from several workers come out of order
    assert _parts(ledger.account(8.0)) == (7.0, 1.0, 0.0)


def test_the_end_is_final() -> None:
    """After its end an account takes nothing more."""
    ledger = Ledger(0.0, 1.0, Cause.STALE)
    ledger.sample(0.5)
    final = ledger.end(4.0)
    ledger.sample(3.0)
    ledger.cause(Cause.NO_VIDEO, 3.5)
    assert (ledger.end(9.0), ledger.account(9.0)) == (final, final)
    assert _parts(final) == (1.5, 2.5, 0.0)


def test_a_day_of_flapping_costs_no_memory() -> None:
    """A stream that changes its cause each second and never gives a picture is accounted in bounded memory."""
    ledger = Ledger(0.0, 3.0)
    for second in range(86400):
        ledger.cause(Cause.UNREACHABLE if second % 2 else Cause.NO_VIDEO, float(second))
    account = ledger.end(86400.0)
    assert account.blind_seconds_by_cause() == {"no_video": 43200.0, "unreachable": 43200.0}
    assert len(ledger._causes) <= 64


def test_a_sample_that_comes_too_late_does_not_flatter() -> None:
    """A sample from before what is settled is left out rather than moved to where it was not."""
    ledger = Ledger(0.0, 1.0, Cause.UNSAMPLED)
    for at in range(10, 60):
        ledger.sample(float(at))
    ledger.sample(5.0)
    assert ledger.end(60.0).seen_seconds == 51.0


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_is_skipped_or_blind(cause: Cause) -> None:
    """No cause is both or neither, and its time lands in its own kind."""
    ledger = Ledger(0.0, 1.0, cause)
    account = ledger.end(5.0)
    assert cause.kind in (Kind.SKIPPED, Kind.BLIND)
    assert (account.skipped_seconds, account.blind_seconds) == (
        (5.0, 0.0) if cause.kind is Kind.SKIPPED else (0.0, 5.0)
    )


@given(
    start=_TIMES,
    within=st.floats(0, 100),
    facts=st.lists(st.tuples(_TIMES, st.none() | st.sampled_from(list(Cause))), max_size=300),
    end=_TIMES,
)
def test_the_parts_add_up_exactly(
    start: float, within: float, facts: list[tuple[float, Cause | None]], end: float
) -> None:
    """Whatever is told in whatever order, seen, skipped and blind add up to the time alive to the nanosecond."""
    ledger = Ledger(start, within)
    for at, cause in facts:
        if cause is None:
            ledger.sample(at)
        else:
            ledger.cause(cause, at)
        running = ledger.account(at)
        assert running.seen_ns + running.skipped_ns + running.blind_ns == running.alive_ns
    final = ledger.end(end)
    assert final.seen_ns + final.skipped_ns + final.blind_ns == final.alive_ns
    assert min([final.seen_ns, final.max_gap_ns, *final.by_cause_ns.values()]) >= 0
    assert final.alive_ns >= round(end * 1e9) - round(start * 1e9)


@given(within=st.integers(0, 50), samples=st.lists(st.integers(0, 1000), max_size=100), end=st.integers(1000, 1100))
def test_seen_is_the_sum_over_gaps(within: int, samples: list[int], end: int) -> None:
    """For samples in order, seen time is the sum over all gaps of the gap or `detect_within`, whichever is less."""
    ledger = Ledger(0.0, float(within))
    ordered = sorted(samples)
    for at in ordered:
        ledger.sample(float(at))
    edges = [0, *ordered, end]
    expected = sum(min(b - a, within) for a, b in itertools.pairwise(edges)) if samples else 0
    account = ledger.end(float(end))
    assert account.seen_seconds == expected
    assert account.max_gap_seconds == max(b - a for a, b in itertools.pairwise(edges))
