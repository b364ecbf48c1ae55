"""What follows a decision: one incident per session, on disk before anything is sent or cut."""

import asyncio
from dataclasses import replace

import pytest

from detector.alerts.sink import Notice, Receipt
from detector.alerts.urgency import Urgency
from detector.breaker import BreakerSettings
from detector.cut_journal import CutOutcome
from detector.events import CutState, Decision, Signal, Step, StreamKey
from detector.response import MAX_UPDATES
from tests.fixtures_response import Scene, decision, facts
from tests.waiting import until


async def test_the_alert_is_stored_before_the_publisher_is_cut() -> None:
    """A crash after the cut can then never leave a cut that nobody was told of."""
    scene = Scene()

    await scene.responder.respond(decision(), facts())
    await scene.settle()

    assert scene.journal == ["stored", "cut"]
    _, incident = scene.delivery.sent[0]
    assert incident.cut_state is CutState.PENDING, "a restart must find the cut that was begun"
    assert scene.enforcer.targets[0].connection == "c1"


async def test_an_incident_names_a_few_signals_and_counts_the_others() -> None:
    """A picture that is on many lists fills no log line and no table, and no name is cut in half."""
    scene = Scene()
    one = decision()
    signals = tuple(replace(one.signals[0], source=f"CARDS/{number}") for number in range(60))

    await scene.responder.respond(replace(one, signals=signals), facts())
    await scene.settle()

    _, incident = scene.delivery.sent[0]
    assert incident.signals.startswith("CARDS/0 at distance 4 through identity; CARDS/1 at")
    assert incident.signals.endswith("CARDS/3 at distance 4 through identity; and 56 more")


async def test_a_hit_that_goes_on_is_one_alert_and_one_cut() -> None:
    """A card that stays on screen for a hundred frames is told once."""
    scene = Scene()

    for _ in range(100):
        await scene.responder.respond(decision(), facts())
    await scene.settle()

    assert scene.journal == ["stored", "cut"]


async def test_a_review_that_becomes_a_cut_is_an_update_of_the_same_incident() -> None:
    """An operator sees one story, raised."""
    scene = Scene()

    await scene.responder.respond(decision(Step.REVIEW), facts())
    await scene.responder.respond(decision(Step.CUT), facts())
    await scene.settle()

    first, second = (incident for _, incident in scene.delivery.sent)
    assert scene.actions == ["review", "cut"]
    assert first.incident_id == second.incident_id
    assert [alert.body["type"] for alert, _ in scene.delivery.sent] == ["open", "update"]
    assert scene.journal.count("cut") == 1


async def test_nothing_is_cut_while_enforcement_is_off() -> None:
    """`enforcement.live: false` tells what would have happened, and does nothing."""
    scene = Scene()

    await scene.responder.respond(decision(live=False), facts())
    await scene.settle()

    assert scene.journal == ["stored"]
    alert, incident = scene.delivery.sent[0]
    assert (alert.body["action"], alert.body["mode"]) == ("cut", "shadow")
    assert incident.cut_state is CutState.NONE


async def test_the_sixth_cut_of_one_entry_becomes_a_review() -> None:
    """One bad list entry cuts at most as many publishers as the breaker allows; the others go to people."""
    scene = Scene()

    for number in range(20):
        name = f"s{number}"
        await scene.responder.respond(decision(session=name, stream=f"ID{number}"), facts(name, f"ID{number}"))
    await scene.settle()

    assert scene.actions.count("cut") == scene.journal.count("cut") == 5
    assert scene.actions.count("review") == 15
    assert all(incident.refused_by == "CARDS/one" for _, incident in scene.delivery.sent[5:])
    assert "CARDS/one" in scene.responder.refused()[0]


async def test_a_refused_cut_is_told_once_however_long_it_shows() -> None:
    """What the breaker refused does not fill the outbox."""
    scene = Scene(breaker=BreakerSettings(cuts=1, share=0.0))
    await scene.responder.respond(decision(session="a", stream="A"), facts("a", "A"))

    for _ in range(50):
        await scene.responder.respond(decision(session="b", stream="B"), facts("b", "B"))

    assert scene.actions == ["cut", "review"]


async def test_a_refused_cut_of_a_stream_under_review_is_told_once_and_first() -> None:
    """Whoever looks at the review learns that a cut was asked for and who refused it, also where enough was said."""
    scene = Scene(breaker=BreakerSettings(cuts=1, share=0.0))
    await scene.responder.respond(decision(session="a", stream="A"), facts("a", "A"))
    for number in range(MAX_UPDATES + 1):
        review = decision(Step.REVIEW, session="b", stream="B", entry="one" if not number else f"other-{number}")
        await scene.responder.respond(review, facts("b", "B"))
    before = len(scene.delivery.sent)

    for _ in range(20):
        await scene.responder.respond(decision(session="b", stream="B"), facts("b", "B"))

    ((alert, incident),) = scene.delivery.sent[before:]
    assert (alert.body["type"], alert.body["action"], alert.body["refused_by"]) == ("update", "review", "CARDS/one")
    assert alert.urgency is Urgency.REFUSED_CUT
    assert (incident.incident_id, incident.refused_by) == (scene.delivery.sent[before - 1][1].incident_id, "CARDS/one")
    assert scene.journal.count("cut") == 1


async def test_what_is_told_after_a_refusal_leaves_it_in_the_list_of_incidents() -> None:
    """A later review of the same stream does not hide that its cut was refused; a cut that stands does."""
    scene = Scene(breaker=BreakerSettings(cuts=1, share=0.0))
    await scene.responder.respond(decision(session="a", stream="A"), facts("a", "A"))
    for step, entry in ((Step.CUT, "one"), (Step.REVIEW, "two"), (Step.CUT, "three")):
        await scene.responder.respond(decision(step, session="b", stream="B", entry=entry), facts("b", "B"))

    assert [incident.refused_by for _, incident in scene.delivery.sent[1:]] == ["CARDS/one", "CARDS/one", None]
    assert scene.actions == ["cut", "review", "review", "cut"]


async def test_a_release_cuts_what_was_refused_and_is_still_live() -> None:
    """An operator's yes acts at once, on the streams that still show it."""
    scene = Scene(breaker=BreakerSettings(cuts=1, share=0.0))
    for name in ("a", "b", "c"):
        await scene.responder.respond(decision(session=name, stream=name.upper()), facts(name, name.upper()))
    still_live = {"B": facts("b", "B")}

    assert await scene.responder.release("CARDS/one", still_live.get)
    assert not await scene.responder.release("CARDS/two", still_live.get)
    await scene.settle()

    assert [target.stream_id for target in scene.enforcer.targets] == ["A", "B"]
    assert scene.responder.refused() == []


async def test_updates_of_a_flapping_stream_are_bounded_and_counted() -> None:
    """A stream that shows a hundred known cards fills neither outbox nor inbox."""
    scene = Scene()

    for number in range(100):
        await scene.responder.respond(decision(Step.REVIEW, entry=f"card-{number}"), facts())

    assert len(scene.delivery.sent) == 1 + MAX_UPDATES
    assert scene.responder.updates_left_out_total == 100 - 1 - MAX_UPDATES


async def test_a_cut_that_failed_is_tried_again_at_the_next_hit() -> None:
    """A publisher that outlived one attempt is not forgotten."""
    scene = Scene()
    scene.enforcer.outcome = CutOutcome(CutState.FAILED, 3, 0, detail="no proof came in time")

    await scene.responder.respond(decision(), facts())
    await scene.settle()
    await scene.responder.respond(decision(), facts())
    await scene.settle()

    assert scene.journal.count("cut") == 2


async def test_cuts_that_keep_failing_are_tried_however_often_it_was_told() -> None:
    """The limit on updates is one on words: an ingest server that is away for minutes must not save a publisher."""
    scene = Scene()
    scene.enforcer.outcome = CutOutcome(CutState.FAILED, 3, 0, detail="the ingest server did not answer")

    for _ in range(3 * MAX_UPDATES):
        await scene.responder.respond(decision(), facts())
        await scene.settle()

    assert scene.journal.count("cut") == 3 * MAX_UPDATES
    assert len(scene.delivery.sent) == 1 + MAX_UPDATES


async def test_a_cut_that_broke_is_tried_again_at_the_next_hit(expects_errors: None) -> None:
    """A fault of ours in one attempt must not count as an attempt that is still under way."""
    scene = Scene()
    scene.enforcer.fault = ZeroDivisionError()
    await scene.responder.respond(decision(), facts())
    await scene.settle()

    scene.enforcer.fault = None
    await scene.responder.respond(decision(), facts())
    await scene.settle()

    assert scene.journal.count("cut") == 2


async def test_a_stream_that_ends_while_its_alert_is_stored_is_cut_all_the_same() -> None:
    """Whoever drops the connection in the moment of the hit keeps neither the key nor the silence."""
    scene = Scene()
    scene.delivery.gate.clear()
    async with scene.responder:
        judging = asyncio.create_task(scene.responder.respond(decision(), facts()))
        await scene.settle()
        judging.cancel()
        await asyncio.gather(judging, return_exceptions=True)
        scene.responder.session_ended("s1")
        scene.delivery.gate.set()
        await scene.settle()

        assert scene.journal == ["stored", "cut"]


async def test_what_is_being_stored_at_the_end_is_stored() -> None:
    """A service that is told to stop finishes the alert in its hands."""
    scene = Scene()
    scene.delivery.gate.clear()
    async with scene.responder:
        judging = asyncio.create_task(scene.responder.respond(decision(), facts()))
        await scene.settle()
        judging.cancel()
        asyncio.get_running_loop().call_later(0.02, scene.delivery.gate.set)

    assert "stored" in scene.journal


async def test_the_next_session_of_a_key_is_another_incident() -> None:
    """What a publisher shows after it came back is told again."""
    scene = Scene()

    await scene.responder.respond(decision(session="a"), facts("a"))
    scene.responder.session_ended("a")
    await scene.responder.respond(decision(session="b"), facts("b"))

    assert len({incident.incident_id for _, incident in scene.delivery.sent}) == 2


async def test_a_disk_that_refuses_stops_no_cut() -> None:
    """A full disk must not keep a publisher on air."""
    scene = Scene()
    scene.delivery.is_durable = False

    await scene.responder.respond(decision(), facts())
    await scene.settle()

    assert scene.journal == ["stored", "cut"]
    assert scene.metrics.value("stopframe_alerts_total", state="not_durable") == 1


async def test_an_operator_cuts_whatever_the_switch_says() -> None:
    """`stopframe cut` acts although enforcement is off, and writes an incident even of a stream without a hit."""
    scene = Scene()

    incident_id, outcome = await scene.responder.cut_by_hand(facts())

    assert outcome.state is CutState.CONFIRMED
    assert [record.incident_id for record in scene.incidents.opened] == [incident_id]
    scene.incidents.is_broken = True
    assert (await scene.responder.cut_by_hand(facts()))[1].state is CutState.CONFIRMED


async def test_a_restart_goes_on_with_the_cuts_it_finds() -> None:
    """What was decided and not done before a crash is done after it."""
    scene = Scene()
    await scene.responder.respond(decision(), facts())
    _, found = scene.delivery.sent[0]
    after = Scene()
    after.incidents.pending = [replace(found, key=StreamKey("embedded", "live", "s1"))]

    async with after.responder:
        await after.settle()

    assert [target.incident_id for target in after.enforcer.targets] == [found.incident_id]


async def test_cuts_of_an_earlier_run_are_found_when_the_store_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start without a store goes on with them later, once, and not with what it began itself meanwhile."""
    monkeypatch.setattr("detector.resumption._AGAIN_SECONDS", 0.01)
    before = Scene()
    await before.responder.respond(decision(), facts())
    _, found = before.delivery.sent[0]
    await asyncio.sleep(0.002)  # ids count milliseconds
    after = Scene()
    after.incidents.is_broken = True
    async with after.responder:
        await after.responder.respond(decision(session="s2"), facts("s2"))
        after.incidents.pending = [after.delivery.sent[0][1], found]
        await until(lambda: after.incidents.asked > 3)
        after.incidents.is_broken = False
        await until(lambda: len(after.enforcer.targets) > 1)
        await asyncio.sleep(0.05)

    assert [target.session for target in after.enforcer.targets] == ["s2", "s1"]


async def test_a_restart_with_enforcement_off_goes_on_with_cuts_by_hand_only() -> None:
    """Whoever switches cutting off and restarts, to stop a bad list, is not answered with its last cuts."""
    before = Scene()
    await before.responder.respond(decision(), facts())
    await before.responder.cut_by_hand(facts("s2", "STREAM2"))
    after = Scene(live=False)
    after.incidents.pending = [before.delivery.sent[0][1], before.incidents.opened[0]]

    async with after.responder:
        await after.settle()

    assert [target.stream_id for target in after.enforcer.targets] == ["STREAM2"]
    assert [state for _, state in after.incidents.cuts] == [CutState.FAILED]


@pytest.mark.parametrize("step", [Step.SHADOW, Step.REVIEW])
async def test_weaker_steps_cut_nobody(step: Step) -> None:
    """A bank at shadow or review alone never touches a publisher."""
    scene = Scene()

    await scene.responder.respond(decision(step), facts())
    await scene.settle()

    assert "cut" not in scene.journal
    assert scene.delivery.sent[0][1].is_live is (step is Step.REVIEW)


async def test_the_way_from_frame_to_acknowledgement_is_measured_once() -> None:
    """The figure that operators watch ends at the first acceptance, not at a repetition of it."""
    scene = Scene()
    await scene.responder.respond(decision(), facts())
    alert, _ = scene.delivery.sent[0]
    notice = Notice(alert.alert_id, "STREAM1", urgency=3, payload=b"{}", expires_at_ms=0, order=1.0)

    for receipt in (None, Receipt.NOBODY_LISTENS, Receipt.ACCEPTED, Receipt.ACCEPTED):
        scene.responder.arrivals.attempted(notice, receipt)

    assert scene.metrics.value("stopframe_frame_to_ack_seconds_count") == 1
    assert scene.metrics.value("stopframe_frame_to_ack_seconds_sum") == pytest.approx(1.0)
    assert scene.metrics.value("stopframe_alerts_total", state="refused") == 1


def blind(step: Step, *, cause: str = "codec", live: bool = True, stream: str = "STREAM1") -> Decision:
    signal = Signal("blind", cause, f"blind/{cause}", step, 0.0)
    return replace(decision(step, live=live, stream=stream, session=stream), observation=None, signals=(signal,))


async def test_a_blind_stream_is_an_alert_of_its_own_each_time_it_is_told() -> None:
    """Nobody knows what a stream shows that cannot be seen: people are asked, nothing is cut."""
    scene = Scene()

    await scene.responder.respond(blind(Step.REVIEW), facts("STREAM1"))
    await scene.responder.respond(decision(session="STREAM1"), facts("STREAM1"))
    await scene.responder.respond(blind(Step.REVIEW), facts("STREAM1"))
    await scene.settle()

    first, hit, second = scene.delivery.sent
    assert first[0].body["signals"][0] == {"kind": "blind", "name": "codec", "step": "review", "threshold": 0.0}
    assert (first[0].body["action"], first[0].body["type"]) == ("review", "open")
    assert "arrived" not in first[0].body["times"]
    assert first[1].signals == "blind/codec"
    assert len({first[1].incident_id, hit[1].incident_id, second[1].incident_id}) == 3
    assert scene.journal.count("cut") == 1


async def test_a_blind_stream_may_be_cut_as_any_other() -> None:
    """Where the rules say so, blindness is cut: once, only if enforcement is live, and through the breaker."""
    scene = Scene(breaker=BreakerSettings(cuts=2, share=0.0))

    await scene.responder.respond(blind(Step.CUT, live=False, stream="SHADOW"), facts("SHADOW", "SHADOW"))
    for stream in ("S1", "S1", "S2", "S3"):
        await scene.responder.respond(blind(Step.CUT, stream=stream), facts(stream, stream))
    await scene.settle()

    assert [target.stream_id for target in scene.enforcer.targets] == ["S1", "S2"]
    assert [alert.body["mode"] for alert, _ in scene.delivery.sent] == ["shadow", "live", "live", "live"]
    assert scene.delivery.sent[-1][0].body["refused_by"] == "blind/codec"
    assert scene.delivery.sent[1][1].cut_state is CutState.PENDING

    assert await scene.responder.release("blind/codec", lambda stream: facts(stream, stream))
    await scene.settle()
    assert [target.stream_id for target in scene.enforcer.targets] == ["S1", "S2", "S3"]


async def test_a_cut_for_blindness_denies_no_account_and_fills_no_bank() -> None:
    """Nobody knows what was shown: the key is denied, the person behind it is not."""
    scene = Scene()
    await scene.responder.respond(blind(Step.CUT), facts("STREAM1"))
    await scene.settle()
    assert (scene.journal, scene.cuts_made) == (["stored", "cut"], [])


async def test_whoever_keeps_what_was_cut_hears_of_the_cut_and_of_every_hit_until_it_is_done() -> None:
    """A cut tells its incident and session, and so do the frames that go on hitting; a shadow tells none."""
    scene = Scene()
    async with scene.responder as responder:
        await responder.respond(decision(Step.REVIEW), facts())
        assert scene.cuts_made == []
        await responder.respond(decision(Step.CUT), facts())
        await responder.respond(decision(Step.CUT), facts())
        await scene.settle()
    incident = scene.delivery.sent[0][1].incident_id
    assert scene.cuts_made == [(incident, "s1")] * 2
    dry = Scene()
    async with dry.responder as responder:
        await responder.respond(decision(Step.CUT, live=False), facts())
    assert dry.cuts_made == []


async def test_a_poisoned_row_cuts_no_more_than_the_breaker_lets_it() -> None:
    """One row matches 30 % of 80 live streams, again and again for minutes: five are cut, the others are reviews."""
    scene = Scene(live_streams=80)
    now = 0.0
    scene.responder._clock = lambda: now
    for number in range(24 * 60):
        now = 0.25 * number
        name = f"S{number % 24}"
        if name not in {target.stream_id for target in scene.enforcer.targets}:
            await scene.responder.respond(decision(session=name, stream=name), facts(name, name))
    await scene.responder.settle()
    assert len({target.stream_id for target in scene.enforcer.targets}) == 5
    assert {record.refused_by for _, record in scene.delivery.sent if record.action is Step.REVIEW} == {"CARDS/one"}
    assert len({record.stream_id for _, record in scene.delivery.sent}) == 24
    assert "CARDS/one may cut nothing more after 19 refused cuts" in scene.responder.refused()[0]


@pytest.mark.parametrize("live_streams", [60, 400])
async def test_more_live_streams_let_a_source_cut_more(live_streams: int) -> None:
    """The larger of five and two per cent, all of them at once: hundreds of matches at one instant change nothing."""
    scene = Scene(live_streams=live_streams)
    names = [f"S{number}" for number in range(int(0.3 * live_streams))]
    await asyncio.gather(*(scene.responder.respond(decision(session=n, stream=n), facts(n, n)) for n in names))
    await scene.responder.settle()
    assert len(scene.enforcer.targets) == max(5, live_streams // 50)
