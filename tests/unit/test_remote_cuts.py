"""Cuts that a cutter elsewhere makes: what its word is worth, and what we must see ourselves."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from detector.enforcement import CutTarget, EnforcerSettings
from detector.events import CutResult, CutState, Publisher, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.remote.cuts import RemoteCuts
from detector.remote.desk import AnswerDesk, AnswerSettings, Awaited
from detector.remote.parts import Surroundings
from detector.store.incidents import CutProgress
from detector.trust.messages import Ack, AckState

KEY = StreamKey("mtx", "live", "secret")
SETTINGS = EnforcerSettings(deadline_seconds=30.0, quiet_seconds=0.05, poll_seconds=0.005)


@dataclass
class FakeIngest:
    name: str = "mtx"
    can_cut: bool = True
    listed: list[StreamKey] = field(default_factory=list)
    revoked: set[StreamKey] = field(default_factory=set)
    is_down: bool = False

    async def publishers(self) -> list[Publisher]:
        if self.is_down:
            raise IngestUnavailable("down")
        return [Publisher(key, "c", 0.0) for key in self.listed]

    async def cut(self, key: StreamKey, connection: str | None = None) -> CutResult:
        raise AssertionError("only the cutter cuts")

    async def revoke(self, key: StreamKey) -> None:
        self.revoked.add(key)

    async def restore(self, key: StreamKey) -> None:
        self.revoked.discard(key)


class Scene:
    def __init__(self) -> None:
        self.ingest = FakeIngest()
        self.desk = AnswerDesk(AnswerSettings(overdue_seconds=0.0), lambda: 0.0)
        self.noted: list[tuple[str, CutState]] = []
        self.settled: list[str] = []
        self.sent_again: list[str] = []
        self.unsent: dict[str, list[str]] = {"i1": ["a1"]}
        self.orders: list[str] = []
        self.live: dict[str, float] = {}
        self.left_open: dict[str, Awaited] = {}
        self.answers = True
        self.unknown = 0
        self.breaks = False
        around = Surroundings(
            settle=self._settle,
            send_again=self.sent_again.append,
            open_of=self._open_of,
            find_open=self._find_open,
            order_cut=self._order_cut,
            order_undo=self._order,
            stream_of=lambda key: f"id-{key.name}",
            last_packet_at=self.live.get,
            unknown_ack=self._count_unknown,
        )
        self.cuts = RemoteCuts(self.ingest, self, self.desk, around, SETTINGS)  # type: ignore[arg-type]

    async def set_cut(self, incident_id: str, progress: CutProgress) -> None:
        self.noted.append((incident_id, progress.state))

    async def withdraw(self, incident_id: str, key: StreamKey) -> None:
        self.noted.append((incident_id, CutState.FAILED))

    async def _settle(self, alert_id: str) -> None:
        self.settled.append(alert_id)

    async def _open_of(self, incident_id: str) -> list[str]:
        if self.breaks:
            raise ZeroDivisionError
        return [each for each in self.unsent.get(incident_id, []) if each not in self.settled]

    async def _find_open(self, alert_id: str) -> Awaited | None:
        return self.left_open.get(alert_id)

    async def _order_cut(self, stream: str, _incident: str | None) -> None:
        await self._order(stream)

    async def _order(self, what: str) -> None:
        self.orders.append(what)
        if not self.answers:
            raise IngestUnavailable("the cutter has not answered")

    def _count_unknown(self) -> None:
        self.unknown += 1

    def sent(self) -> None:
        self.desk.await_answer("a1", "id-secret", "i1", expires_at_ms=2**60, now=0.0)

    def say(self, state: AckState, stream: str = "id-secret", detail: str | None = None) -> None:
        self.cuts.hear(Ack("a1", stream, state, "cutter", 0, detail))

    def begin(self, *, is_by_hand: bool = False, last_at: float | None = None) -> "asyncio.Task[object]":
        target = CutTarget("id-secret", "s1", KEY, "c", "i1", None, is_by_hand)
        return asyncio.create_task(self.cuts.cut(target, last_packet_at=lambda: last_at))


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    async with made.cuts:
        yield made


async def test_the_cutters_word_and_a_silent_stream_confirm_a_cut(scene: Scene) -> None:
    """Then its delivery ends, its key is denied here as well, and the same session is not waited for again."""
    scene.sent()
    waiting = scene.begin()
    await asyncio.sleep(0.01)
    scene.say(AckState.CUT)
    outcome = await waiting
    assert outcome.state is CutState.CONFIRMED  # type: ignore[attr-defined]
    assert (scene.settled, scene.ingest.revoked) == (["a1"], {KEY})
    assert scene.noted[-1] == ("i1", CutState.CONFIRMED)
    assert (await scene.begin()).state is CutState.CONFIRMED  # type: ignore[attr-defined]
    assert scene.cuts.problems() == []


@pytest.mark.parametrize("what", ["packets", "list"])
async def test_a_word_that_our_eyes_deny_is_uncuttable_and_ends_nothing(scene: Scene, what: str) -> None:
    """Packets that keep arriving, or a publisher still listed: health is red, and the alert is not settled."""
    loop = asyncio.get_running_loop()
    if what == "list":
        scene.ingest.listed = [KEY]
    scene.live["id-secret"] = loop.time()
    scene.sent()
    target = CutTarget("id-secret", "s1", KEY, "c", "i1")
    last = loop.time if what == "packets" else (lambda: None)
    waiting = asyncio.create_task(scene.cuts.cut(target, last_packet_at=last))
    await asyncio.sleep(0.01)
    scene.say(AckState.CUT)
    assert (await waiting).state is CutState.UNCUTTABLE
    assert scene.settled == []
    assert any("packets keep arriving" in problem for problem in scene.cuts.problems())
    scene.ingest.listed.clear()
    del scene.live["id-secret"]
    scene.say(AckState.CUT)  # it was sent again, and this time it is so
    await scene.cuts.settle()
    assert (scene.settled, scene.cuts.problems()) == (["a1"], [])


async def test_a_rejected_cut_ends_with_its_reason(scene: Scene) -> None:
    """The platform decides; the incident says why."""
    scene.sent()
    waiting = scene.begin()
    await asyncio.sleep(0.01)
    scene.say(AckState.REJECTED, detail="a known broadcaster")
    outcome = await waiting
    assert (outcome.state, scene.settled) == (CutState.FAILED, ["a1"])  # type: ignore[attr-defined]
    assert "a known broadcaster" in outcome.detail  # type: ignore[attr-defined]
    assert scene.ingest.revoked == set()


async def test_a_silent_cutter_fails_the_cut_and_its_late_answer_is_still_heard(scene: Scene) -> None:
    """The deadline ends the waiting, not the delivery; what comes later is proved and written down."""
    scene.cuts.reconfigure(replace(SETTINGS, deadline_seconds=0.1))
    scene.sent()
    outcome = await scene.begin()
    assert outcome.state is CutState.FAILED  # type: ignore[attr-defined]
    assert any("has not answered 1 cuts" in problem for problem in scene.cuts.problems())
    scene.say(AckState.RECEIVED)
    scene.say(AckState.CUT)
    await scene.cuts.settle()
    assert scene.noted[-1] == ("i1", CutState.CONFIRMED)
    assert (scene.settled, scene.ingest.revoked) == (["a1"], {KEY})


async def test_an_answer_to_nothing_is_counted_and_passed_over(scene: Scene) -> None:
    """Repeated, unknown, or of another stream: none of them ends anything."""
    scene.say(AckState.CUT)
    await scene.cuts.settle()
    scene.sent()
    scene.say(AckState.CUT, stream="id-another")
    await scene.cuts.settle()
    assert (scene.cuts.counters.unknown_total, scene.unknown, scene.settled) == (2, 2, [])


async def test_an_answer_to_what_an_earlier_run_sent_is_no_stranger(scene: Scene) -> None:
    """After a restart the alert is on disk, and its answer ends it before it is sent again."""
    scene.left_open["a1"] = Awaited("a1", "id-secret", "i1", 2**60, 0.0)
    scene.say(AckState.CUT)
    await asyncio.sleep(0.01)
    await scene.cuts.settle()
    assert (scene.settled, scene.noted[-1]) == (["a1"], ("i1", CutState.CONFIRMED))


async def test_a_cut_by_hand_is_a_command(scene: Scene) -> None:
    """No alert asks for it, so the cutter is told; one that does not answer fails it with its sentence."""
    assert (await scene.begin(is_by_hand=True)).state is CutState.CONFIRMED  # type: ignore[attr-defined]
    assert scene.orders == ["id-secret"]
    scene.answers = False
    target = CutTarget("id-secret", "s2", KEY, "c", "i2", None, is_by_hand=True)
    outcome = await scene.cuts.cut(target, last_packet_at=lambda: None)
    assert (outcome.state, outcome.detail) == (CutState.FAILED, "the cutter has not answered")


async def test_undo_calls_back_what_is_on_its_way(scene: Scene) -> None:
    """Open alerts of the incident are settled, whoever waits hears of it, the key is allowed here and there."""
    scene.sent()
    waiting = scene.begin()
    await asyncio.sleep(0.01)
    scene.ingest.revoked.add(KEY)
    await scene.cuts.undo(KEY, stream_id="id-secret", incident_id="i1")
    assert (await waiting).state is CutState.FAILED  # type: ignore[attr-defined]
    assert (scene.settled, scene.orders, scene.ingest.revoked) == (["a1"], ["i1"], set())
    scene.answers = False
    with pytest.raises(IngestUnavailable):
        await scene.cuts.undo(KEY, stream_id="id-secret", incident_id="i1")


async def test_what_our_eyes_deny_goes_out_again_at_once(scene: Scene) -> None:
    """Not when the promise or the backoff is over: the stream is on air."""
    scene.ingest.listed = [KEY]
    scene.sent()
    scene.say(AckState.RECEIVED)
    scene.say(AckState.CUT)
    await scene.cuts.settle()
    awaited = scene.desk.find("a1")
    assert awaited is not None
    assert (scene.sent_again, awaited.held_until) == (["id-secret"], 0.0)


async def test_a_promise_holds_once(scene: Scene) -> None:
    """`received` for ever keeps an alert neither from being sent again nor from the second channel."""
    scene.sent()
    awaited = scene.desk.find("a1")
    assert awaited is not None
    for now in (1.0, 20.0, 30.0, 40.0):
        scene.desk.hold(awaited, now)
    assert scene.desk.due_at(awaited, "second", 5.0) == 31.0


async def test_a_refusal_of_what_is_live_is_red_until_it_is_gone(scene: Scene) -> None:
    """A cutter with another deployment secret refuses everybody: nobody may take that for a quiet night."""
    scene.live["id-secret"] = 1.0
    scene.sent()
    scene.say(AckState.REJECTED, detail="nobody publishes this stream here")
    await scene.cuts.settle()
    assert any("refused to cut 1 streams that are still live" in problem for problem in scene.cuts.problems())
    scene.live.clear()
    assert scene.cuts.problems() == []


async def test_an_undo_during_the_proof_denies_nobody_again(scene: Scene) -> None:
    """The key stays allowed, the alert goes out no more, and nothing of the cut is left in health."""
    scene.sent()
    scene.unsent["i1"] = ["a1", "never-sent"]
    scene.live["id-secret"] = 1.0
    waiting = scene.begin()
    await asyncio.sleep(0.01)
    scene.say(AckState.CUT)
    await asyncio.sleep(0)
    await scene.cuts.undo(KEY, stream_id="id-secret", incident_id="i1")
    await scene.cuts.settle()
    await waiting
    assert scene.ingest.revoked == set()
    assert {"a1", "never-sent"} <= set(scene.settled)
    assert scene.cuts.problems() == []


async def test_a_cut_by_hand_denies_the_key_here_too(scene: Scene) -> None:
    """A server that asks us who may publish would let the publisher in again at once."""
    outcome = await scene.begin(is_by_hand=True)
    assert outcome.state is CutState.CONFIRMED  # type: ignore[attr-defined]
    assert scene.ingest.revoked == {KEY}


async def test_a_cut_that_no_alert_asks_for_is_ordered(scene: Scene) -> None:
    """What the breaker refused went out as a review; when an operator says yes, nobody else tells the cutter."""
    scene.unsent.clear()
    assert (await scene.begin()).state is CutState.CONFIRMED  # type: ignore[attr-defined]
    assert scene.orders == ["id-secret"]


@pytest.mark.usefixtures("expects_errors")
async def test_a_fault_of_ours_leaves_nobody_waiting(scene: Scene) -> None:
    """Everyone who waits hears that it failed, it is written down, and the next hit tries again."""
    scene.breaks = True
    first, second = scene.begin(), scene.begin()
    async with asyncio.timeout(10):
        assert [one.state for one in await asyncio.gather(first, second)] == [CutState.FAILED] * 2  # type: ignore[attr-defined]
    assert scene.noted[-1] == ("i1", CutState.FAILED)
    scene.breaks = False
    scene.sent()
    waiting = scene.begin()
    await asyncio.sleep(0.01)
    scene.say(AckState.CUT)
    assert (await waiting).state is CutState.CONFIRMED  # type: ignore[attr-defined]
