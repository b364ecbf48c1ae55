"""What health says of streams that nobody sees."""

from types import SimpleNamespace
from typing import Any

from detector.blindness import Blindness, default_rules
from detector.coverage import Cause
from detector.cpu.rationing import Ration
from detector.overview import unseen_streams


def stream(
    *,
    blind_since: float | None = None,
    cause: Cause = Cause.STALL,
    last_sample_at: float | None = None,
    state: str = "live",
) -> Any:
    sampling = SimpleNamespace(detect_within_seconds=3.0)
    settings = SimpleNamespace(job=SimpleNamespace(sampling=sampling))
    sight = SimpleNamespace(blindness=Blindness(default_rules(), blind_since, cause))
    return SimpleNamespace(
        blind_since=blind_since,
        blind_cause=cause,
        sight=sight,
        last_sample_at=last_sample_at,
        started_at=100.0,
        settings=settings,
        orders=SimpleNamespace(ration=Ration(0.0, spikes=False)),
        state=state,
    )


def test_streams_that_are_seen_are_not_spoken_of() -> None:
    """Fresh samples, and blindness that has only begun, are no problem."""
    sessions = [stream(last_sample_at=199.0), stream(blind_since=198.0, last_sample_at=196.0)]

    assert list(unseen_streams(sessions, 200.0)) == []


def test_blind_and_late_streams_are_counted_apart() -> None:
    """A blind stream is not ours to speed up; one whose frames are all dropped is."""
    sessions = [
        stream(blind_since=150.0),
        stream(last_sample_at=190.0),
        stream(blind_since=150.0, cause=Cause.OVERLOAD),
        stream(last_sample_at=199.0),
    ]

    (blind, blind_sentence), (late, late_sentence) = unseen_streams(sessions, 200.0)

    assert (blind, late) == (1, 2)
    assert blind_sentence.startswith("1 of 4 streams are blind (stall)")
    assert late_sentence.startswith("2 of 4 streams had no frame analysed in time")


def test_streams_in_quarantine_are_told_of() -> None:
    """A stream that is left alone on purpose is not left unsaid."""
    alone = stream(blind_since=199.0, cause=Cause.CRASH_LOOP, state="quarantined", last_sample_at=198.0)

    told = list(unseen_streams([alone, stream(last_sample_at=199.0)], 200.0))

    assert [count for count, _ in told] == [1, 1]
    assert "left alone" in told[1][1]
