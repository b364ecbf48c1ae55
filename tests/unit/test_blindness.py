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
    Record,
    Records,
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
        word = Cause.OVERLOAD if cause in (Cause.STALE, Cause.REFUSED) else cause
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
            blindness.regained(second)
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
    blindness.regained(60.0)
    assert not tellings(blindness, 600.0, 60.0)


def test_nobody_is_cut_for_the_time_that_was_not_his_doing() -> None:
    """A server that was away for a minute leaves a publisher the whole of his own time; he is cut when it is over."""
    blindness = seeing(default_rules() | {Cause.STALL: BlindRule(Reaction.CUT, 3.0)})
    blindness.lost(Cause.UNREACHABLE, 0.0)
    blindness.lost(Cause.STALL, 60.0)
    blindness.lost(Cause.CONNECTING, 62.0)
    assert [one for one in tellings(blindness, 70.0) if one[2] is Step.CUT] == []
    blindness.lost(Cause.STALL, 70.0)
    assert tellings(blindness, 80.0, 70.0)[0] == (71.0, "stall", Step.CUT)


def test_hiding_again_and_again_for_less_than_is_told_adds_up() -> None:
    """A picture in every eleven seconds buys nobody ten in which he is not seen, in one session or in many."""
    rules = default_rules() | {Cause.NO_KEYFRAME: BlindRule(Reaction.CUT, 12.0)}
    for sessions in (1, 9):
        record, told = Record(), []
        blindness = Blindness(rules, None, Cause.CONNECTING, 3.0, record)
        for second in range(100):
            if second % 11 == 0:
                blindness.regained(float(second))
                if sessions > 1:
                    blindness = Blindness(rules, second + 0.5, Cause.NO_KEYFRAME, 3.0, record)
                blindness.lost(Cause.NO_KEYFRAME, second + 0.5)
            alert = blindness.take(float(second))
            if alert is not None:
                told.append((second, alert.step))
        assert told[0][0] < 18
        assert told[0][1] is Step.CUT


def test_a_promise_kept_owes_nothing() -> None:
    """Three seconds now and then are what `detect_within` allows; ten in a minute are forgiven; nobody is paged."""
    for hidden, every in ((3.0, 4.0), (10.0, 60.0)):
        blindness, at = seeing(), 0.0
        while at < 3600.0:
            blindness.regained(at)
            blindness.lost(Cause.NO_KEYFRAME, at)
            assert blindness.take(at + hidden) is None
            blindness.regained(at + hidden)
            at += every


def test_who_comes_back_all_the_time_fills_no_inbox() -> None:
    """A new session each two seconds, each of them blind at once: the distances grow over all of them."""
    records, told = Records(), []
    for second in range(0, 3600, 2):
        blindness = Blindness(default_rules(), float(second), Cause.CONNECTING, 3.0, records.of("one"))
        blindness.lost(Cause.CODEC, second + 0.1)
        told += [second for tenth in range(20) if blindness.take(second + tenth / 10)]
        blindness.regained(second + 1.9)
    assert 5 < len(told) < 25
    assert max(later - earlier for earlier, later in itertools.pairwise(told)) <= 302


def test_a_quarantine_is_told_at_once_whatever_was_told_before() -> None:
    """Whoever has used up the patience with small faults does not crash his readers unnoticed; once, not each time."""
    blindness = seeing()
    for second in range(0, 90, 10):
        blindness.lost(Cause.STALL, float(second))
        tellings(blindness, second + 8.0, second)
        blindness.regained(second + 9.0)
    blindness.lost(Cause.CRASH_LOOP, 100.0)
    assert tellings(blindness, 102.0, 100.0) == [(100.0, "crash_loop", Step.REVIEW)]
    blindness.regained(103.0)
    blindness.lost(Cause.CRASH_LOOP, 104.0)
    assert tellings(blindness, 106.0, 104.0) == []


def test_old_faults_are_forgotten() -> None:
    """What was told in the morning delays nothing in the evening; and no more streams are remembered than fit."""
    blindness = seeing()
    for hour in range(12):
        blindness.lost(Cause.STALL, hour * 3600.0)
        assert blindness.take(hour * 3600.0 + 3.0) is not None
        blindness.regained(hour * 3600.0 + 4.0)
        blindness.lost(Cause.STALL, hour * 3600.0 + 10.0)
        assert blindness.take(hour * 3600.0 + 13.0) is not None
        blindness.regained(hour * 3600.0 + 14.0)

    records = Records()
    first = records.of("0")
    for number in range(1, 5000):
        records.of(str(number))
    assert records.of("0") is not first


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
        failing.pictured(-0.1)  # a look back at what had come before
        failing.beat(beat(half / 2, errors=half))
    assert failing.erring_since == 0.0
    assert failing.cause is Cause.DECODE_ERRORS

    failing.pictured(4.0)
    assert (failing.erring_since, failing.cause) == (None, None)
    failing.beat(beat(4.0, errors=7, flagged=1))
    assert failing.cause is Cause.KEYFRAME_WITHOUT_PICTURE
    failing.beat(beat(4.5, errors=7, flagged=1))
    assert failing.erring_since is None, "a beat without errors ends the row"
