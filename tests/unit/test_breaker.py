"""The brake on one source's cuts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.breaker import REFUSALS_KEPT, Breaker, BreakerSettings
from detector.events import Decision, Observation, Signal, Step
from models.evidence import Inspection

_SEEN = Observation("s", "1", 0, "keyframe", 0.0, 0.0, 0.0, None, False, Inspection(80, True, False, b""))


def _signal(source: str, step: Step = Step.CUT, generation: str | None = None) -> Signal:
    bank, _, entry = source.partition("/")
    return Signal("hash", "pdq", source, step, 31, bank=bank, entry=entry, generation=generation)


def _cut(stream: int | str, *signals: Signal | str) -> Decision:
    made = tuple(_signal(s) if isinstance(s, str) else s for s in signals or ("CARDS/a",))
    return Decision(f"stream-{stream}", "1", _SEEN, Step.CUT, True, made, (1, 1))


def _judge(breaker: Breaker, decision: Decision, now: float = 0.0, live: int = 10) -> Decision:
    return breaker.judge(decision, now=now, live_streams=live)


def _is_refused(decision: Decision) -> bool:
    return decision.action is Step.REVIEW and decision.refused_by is not None


def test_the_sixth_stream_in_a_minute_is_refused() -> None:
    """Five streams are cut; the sixth becomes a review that names the source, keeps its signals and is listed."""
    breaker = Breaker(BreakerSettings())
    assert [_judge(breaker, _cut(n)).action for n in range(5)] == [Step.CUT] * 5
    asked = _cut(5)
    refused = _judge(breaker, asked, now=7.0)
    assert refused == replace(asked, action=Step.REVIEW, refused_by="CARDS/a")
    (tripped,) = breaker.tripped()
    assert (tripped.source, tripped.tripped_at, tripped.refused_total) == ("CARDS/a", 7.0, 1)
    assert [(r.stream_id, r.session, r.refused_at) for r in tripped.refusals] == [("stream-5", "1", 7.0)]


def test_on_a_large_platform_the_share_counts() -> None:
    """Two per cent of a thousand streams are twenty; more live streams, more room."""
    breaker = Breaker(BreakerSettings())
    refused = [_is_refused(_judge(breaker, _cut(n), live=1000)) for n in range(22)]
    assert refused == [False] * 20 + [True] * 2


def test_a_stream_counts_once() -> None:
    """However often one stream hits the same entry, it takes one place, and stays cut after the brake is on."""
    breaker = Breaker(BreakerSettings(cuts=2))
    for _ in range(10):
        assert not _is_refused(_judge(breaker, _cut("same")))
    assert not _is_refused(_judge(breaker, _cut("other")))
    assert _is_refused(_judge(breaker, _cut("third")))
    assert not _is_refused(_judge(breaker, _cut("same")))
    assert breaker.tripped()[0].refused_total == 1


def test_slow_cuts_never_trip() -> None:
    """Cuts that leave the window make room again."""
    breaker = Breaker(BreakerSettings(cuts=5, window_seconds=60))
    assert not any(_is_refused(_judge(breaker, _cut(n), now=n * 12.0)) for n in range(100))
    assert len(breaker._sources["CARDS/a"].cut_at) == 5


def test_a_tripped_source_stays_so_until_released() -> None:
    """Time alone releases no source; a person does, gets the list, and those streams are cut without counting."""
    breaker = Breaker(BreakerSettings(cuts=1))
    assert not _is_refused(_judge(breaker, _cut(0)))
    assert _is_refused(_judge(breaker, _cut(1)))
    assert _is_refused(_judge(breaker, _cut(2), now=1e6))
    assert [r.stream_id for r in breaker.release("CARDS/a")] == ["stream-1", "stream-2"]
    assert breaker.tripped() == ()
    later = [_is_refused(_judge(breaker, _cut(n), now=1e6)) for n in (1, 2, 3, 4)]
    assert later == [False, False, False, True]
    assert breaker.release("CARDS/a") != ()
    assert (breaker.release("CARDS/a"), breaker.release("never seen")) == ((), ())


def test_another_source_is_not_held_back() -> None:
    """One bad entry does not shield a stream that another entry finds as well."""
    breaker = Breaker(BreakerSettings(cuts=1))
    for n in range(3):
        _judge(breaker, _cut(n, "CARDS/bad"))
    assert not _is_refused(_judge(breaker, _cut(9, "CARDS/bad", "CARDS/good")))
    assert _is_refused(_judge(breaker, _cut(10, "CARDS/bad", _signal("CARDS/good", Step.REVIEW))))


def test_a_young_generation_is_a_source_of_its_own() -> None:
    """A fresh list whose every entry hits once is stopped as a whole; a list older than a day is not."""
    for age, expected in [(3600.0, [False, False, True]), (25 * 3600.0, [False] * 3)]:
        breaker = Breaker(BreakerSettings(cuts=2))
        decisions = [_cut(n, _signal(f"CARDS/{n}", generation="g7")) for n in range(3)]
        ages = {"g7": age}
        judged = [breaker.judge(d, now=0.0, live_streams=1, generation_age_seconds=ages) for d in decisions]
        assert [_is_refused(d) for d in judged] == expected
        assert [t.source for t in breaker.tripped()] == ["CARDS@g7"] * (age < 86400)
    breaker = Breaker(BreakerSettings(cuts=2))
    judged = [breaker.judge(d, now=0, live_streams=1, generation_age_seconds=lambda _: None) for d in decisions]
    assert _is_refused(judged[-1])


@pytest.mark.parametrize("change", [{"action": Step.REVIEW}, {"action": Step.SHADOW}, {"is_live": False}])
def test_only_live_cuts_are_counted(change: dict[str, object]) -> None:
    """What cuts nothing is passed on untouched and takes no room."""
    breaker = Breaker(BreakerSettings(cuts=1))
    for n in range(5):
        decision = replace(_cut(n), **change)  # type: ignore[arg-type]
        assert _judge(breaker, decision) is decision
    assert breaker._sources == {}


def test_the_list_of_refusals_is_bounded() -> None:
    """A flood of refusals is counted in full and listed in part, the newest kept."""
    breaker = Breaker(BreakerSettings(cuts=1))
    for n in range(REFUSALS_KEPT + 11):
        _judge(breaker, _cut(n))
    (tripped,) = breaker.tripped()
    assert (tripped.refused_total, len(tripped.refusals)) == (REFUSALS_KEPT + 10, REFUSALS_KEPT)
    assert tripped.refusals[-1].stream_id == f"stream-{REFUSALS_KEPT + 10}"


@given(
    st.integers(1, 4),
    st.floats(0, 0.5),
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("ab"), st.floats(0, 40), st.integers(0, 30)), max_size=60),
)
def test_no_source_ever_cuts_more_than_its_limit(
    cuts: int, share: float, asked: list[tuple[int, str, float, int]]
) -> None:
    """In no window does one source cut more streams than allowed at the time, and once refused it cuts no new one."""
    settings = BreakerSettings(cuts=cuts, share=share, window_seconds=60)
    breaker = Breaker(settings)
    now = 0.0
    allowed: dict[str, dict[int, float]] = {"a": {}, "b": {}}
    stopped: set[str] = set()
    for stream, entry, step, live in asked:
        now += step
        recent = {s for s, at in allowed[entry].items() if at > now - 60}
        is_refused = _is_refused(_judge(breaker, _cut(stream, f"CARDS/{entry}"), now=now, live=live))
        if is_refused:
            assert stream not in recent
            stopped.add(entry)
        elif stream not in recent:
            assert entry not in stopped
            assert len(recent) + 1 <= settings.limit(live)
            allowed[entry][stream] = now
    assert {t.source for t in breaker.tripped()} == {f"CARDS/{entry}" for entry in stopped}


def test_one_incident_may_cut_many_who_stream_it_again_but_not_for_ever() -> None:
    """Entries of the incident bank have their own limit, which no window forgets and no share widens."""
    breaker = Breaker(BreakerSettings(incident_cuts=8))
    again = _signal("incidents/one")
    refused = [_is_refused(_judge(breaker, _cut(n, again), now=100.0 * n, live=10_000)) for n in range(10)]
    assert refused == [False] * 8 + [True] * 2
    assert not _is_refused(_judge(breaker, _cut("x", _signal("incidents/other")), now=1000.0))
    assert [refusal.stream_id for refusal in breaker.release("incidents/one")] == ["stream-8", "stream-9"]


def test_what_an_entry_that_is_gone_did_is_forgotten() -> None:
    """An incident that was taken back counts no more, and is not listed as stopped."""
    breaker = Breaker(BreakerSettings(incident_cuts=1))
    for number in range(3):
        _judge(breaker, _cut(number, "incidents/one"))
    breaker.forget("incidents/one")
    breaker.forget("incidents/never")
    assert breaker.tripped() == ()
    assert not _is_refused(_judge(breaker, _cut("later", "incidents/one")))


def test_one_picture_under_many_names_cuts_no_more_than_under_one() -> None:
    """What several entries ask for counts for each of them; an incident counts only what nothing else cut."""
    breaker = Breaker(BreakerSettings(incident_cuts=3))
    names = [f"CARDS/name-{number}" for number in range(16)]
    assert [_is_refused(_judge(breaker, _cut(n, *names))) for n in range(7)] == [False] * 5 + [True] * 2
    assert {one.source for one in breaker.tripped()} == set(names)
    breaker = Breaker(BreakerSettings(incident_cuts=3))
    refused = [_is_refused(_judge(breaker, _cut(n, "CARDS/a", "incidents/one"))) for n in range(9)]
    assert refused == [False] * 8 + [True]
