"""Why a stream cannot be seen, and when that is told."""

import itertools
import math

import pytest

from detector.blindness import (
    DEFAULT_AFTER_SECONDS,
    NOT_TO_CUT,
    Blindness,
    BlindRule,
    FailingDecoder,
    Reaction,
    cause_of,
    default_rules,
)
from detector.coverage import Cause, Kind
from detector.events import Step
from streams.keeper import ReaderCrashed, ReaderStalled, SourceUnreachable
from streams.nursery import NurseryBroken
from streams.wire import EndCode, Ended, Heartbeat


def seeing(rules: dict[Cause, BlindRule] | None = None) -> Blindness:
    return Blindness(rules or default_rules(), None, Cause.CONNECTING)


def tellings(blindness: Blindness, until: float, since: float = 0.0) -> list[tuple[float, str, Step]]:
    moments = [tenth / 10 for tenth in range(int(since * 10), int(until * 10))]
    alerts = [(at, blindness.take(at)) for at in moments]
    return [(at, alert.cause.value, alert.step) for at, alert in alerts if alert is not None]


def beat(at: float, *, errors: int = 0, flagged: int = 0) -> Heartbeat:
    return Heartbeat(at, at, math.nan, 10, 1000, 2, flagged, errors, 0, 0, 0, 0.0, 1.0)


@pytest.mark.parametrize("code", list(EndCode))
def test_every_end_of_a_reader_has_a_cause_that_is_told(code: EndCode) -> None:
    """No way to end leaves a stream unseen and unsaid."""
    cause = cause_of(Ended(code, math.nan, ""))
    assert cause in DEFAULT_AFTER_SECONDS
    assert cause.kind is Kind.BLIND


def test_what_a_keeper_raises_has_a_cause() -> None:
    """A process that died and a server that does not answer are told apart."""
    assert cause_of(ReaderCrashed(11)) is cause_of(ReaderStalled("silent")) is Cause.READER_FAILED
    assert cause_of(SourceUnreachable("away")) is cause_of(NurseryBroken("gone")) is Cause.UNREACHABLE


def test_every_blind_cause_is_told_after_its_time() -> None:
    """What is certain soon, what may pass later; and what is skipped for long as well."""
    for cause in Cause:
        blindness = seeing()
        blindness.lost(cause, 0.0)
        told = tellings(blindness, 20.0)
        if cause in (Cause.UNSAMPLED, Cause.LOW_INFORMATION):
            assert not told
            continue
        word = Cause.OVERLOAD if cause is Cause.STALE else cause
        assert told[0][:2] == (DEFAULT_AFTER_SECONDS[word], word.value)
    definite = (Cause.CODEC, Cause.RESOLUTION, Cause.NOT_MEDIA, Cause.TOO_MANY_TRACKS, Cause.CRASH_LOOP)
    assert max(DEFAULT_AFTER_SECONDS[cause] for cause in definite) <= 1.0
    assert DEFAULT_AFTER_SECONDS[Cause.NO_KEYFRAME] > 10.0, "a keyframe interval of ten seconds is no fault"
    assert set(NOT_TO_CUT) < set(DEFAULT_AFTER_SECONDS)


def test_a_cause_that_turns_out_late_is_told_at_once() -> None:
    """Time counts from when nothing was seen, not from when it was understood."""
    blindness = seeing()
    blindness.lost(Cause.CONNECTING, 0.0)
    assert not tellings(blindness, 4.0)
    blindness.lost(Cause.CODEC, 4.0)
    assert tellings(blindness, 5.0, 4.0) == [(4.0, "codec", Step.REVIEW)]
    assert blindness.due_at() == math.inf, "once"


def test_blindness_that_comes_and_goes_is_told_ever_more_rarely() -> None:
    """A publisher who flaps fills nobody's inbox, and blindness that stays is told all the same."""
    blindness, told = seeing(), []
    for second in range(3600):
        if second < 3000 and second % 7 == 0:
            blindness.regained()
            blindness.lost(Cause.STALL, second)
        if blindness.take(float(second)):
            told.append(second)

    assert told[0] == 3
    assert 4 < len(told) < 25
    assert told[-1] >= 2700, "what stays is told"
    assert all(later - earlier < 320 for earlier, later in itertools.pairwise(told))


def test_changing_the_cause_all_the_time_fills_no_inbox_either() -> None:
    """Another cause of the same blindness keeps to the same distances."""
    blindness = seeing()
    told = 0
    for second in range(600):
        blindness.lost(list(DEFAULT_AFTER_SECONDS)[second % len(DEFAULT_AFTER_SECONDS)], float(second))
        told += blindness.take(float(second)) is not None
    assert told <= len(DEFAULT_AFTER_SECONDS)
    assert told < 12


def test_a_cut_is_asked_for_at_once_and_again_while_the_blindness_lasts() -> None:
    """An alert that was told before takes nothing from a rule that cuts; a cut that failed is tried again."""
    rules = default_rules() | {Cause.CODEC: BlindRule(Reaction.CUT, 1.0)}
    blindness = seeing(rules)
    blindness.lost(Cause.STALL, 0.0)
    assert tellings(blindness, 3.5) == [(3.0, "stall", Step.REVIEW)]
    blindness.lost(Cause.CODEC, 3.5)
    told = tellings(blindness, 60.0, 3.5)
    assert told[0] == (3.5, "codec", Step.CUT)
    assert len(told) > 2
    blindness.regained()
    assert not tellings(blindness, 600.0, 60.0)


def test_what_is_ignored_is_silent() -> None:
    """An operator with channels of sound alone is not told of each; it is in the account all the same."""
    blindness = seeing(default_rules() | {Cause.NO_VIDEO: BlindRule(Reaction.IGNORE, 3.0)})
    blindness.lost(Cause.NO_VIDEO, 0.0)
    assert not tellings(blindness, 100.0)
    assert not blindness.is_overdue(100.0)
    assert blindness.since_at == 0.0


def test_a_rule_that_changes_holds_for_the_blindness_of_now() -> None:
    """New rules act on streams that are blind already."""
    blindness = seeing()
    blindness.lost(Cause.STALL, 0.0)
    assert tellings(blindness, 10.0)
    blindness.rules = default_rules() | {Cause.STALL: BlindRule(Reaction.CUT, 3.0)}
    assert tellings(blindness, 11.0, 10.0) == [(10.0, "stall", Step.CUT)]


def test_a_decoder_that_gives_only_errors_is_told_from_a_disturbed_one() -> None:
    """Errors in every beat and no picture are believed after a while; one picture clears them."""
    failing = FailingDecoder()
    for half in range(5):
        failing.beat(beat(half / 2, errors=half))
        assert failing.erring_since is None
    for half in range(5, 8):
        failing.beat(beat(half / 2, errors=half))
    assert failing.erring_since == 0.0
    assert failing.cause is Cause.DECODE_ERRORS

    failing.pictured()
    assert (failing.erring_since, failing.cause) == (None, None)
    failing.beat(beat(4.0, errors=7, flagged=1))
    assert failing.cause is Cause.KEYFRAME_WITHOUT_PICTURE
    failing.beat(beat(4.5, errors=7, flagged=1))
    assert failing.erring_since is None, "a beat without errors ends the row"
