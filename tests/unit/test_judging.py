"""What a judge remembers of the frames that it judged, and what it lets the incident bank do."""

import asyncio
from dataclasses import replace
from typing import Any

from detector.blindness import default_rules
from detector.events import Decision, Step
from detector.judging import Judge, JudgeParts
from detector.metrics import Metrics
from detector.policy import BankRule, ClassRule, PolicySettings
from detector.sight import Sight, SightSettings
from detector.trail import Trail
from models.bank_store import INCIDENT_BANK
from models.cascade import Asking, ModelRule
from models.evidence import ClassScore, HashMatch, Inspection, ModelUse, Opinion
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame, SampleReason
from streams.sampling import SamplingSettings

POLICY = PolicySettings(
    banks={INCIDENT_BANK: BankRule(Step.CUT), "CARDS": BankRule(Step.CUT)},
    classes={"cards/bars": ClassRule(Step.CUT, 0.5, 0.9)},
)
MATCH = HashMatch("CARDS", "card", "pdq", 256, 10, 31, "identity", 80, Opinion.POSITIVE, "gen-1")


class FakePool:
    """Gives the inspections that it was given, one for each frame."""

    bank_generation = 0
    model_rules = (ModelRule("cards", reuse_seconds=2.0),)

    def __init__(self, inspections: list[Inspection]) -> None:
        self.inspections = inspections
        self.asked: list[Asking] = []

    async def inspect(self, _frame: Frame, *, asking: Asking, **_: Any) -> Inspection:
        self.asked.append(asking)
        found = self.inspections.pop(0)
        use = ModelUse("cards", is_reused=True) if asking.rested else ModelUse("cards", looks=1)
        return replace(found, model_uses=(use,), scores=() if asking.rested else found.scores)


def found(number: int, *matches: HashMatch, score: float = 0.0) -> Inspection:
    scores = (ClassScore("cards", "bars", score, "ab"),)
    return Inspection(90, True, False, bytes([number]) * 32, matches, scores)


def frame(number: int) -> Frame:
    at = float(number)
    return Frame(
        number, at, at, None, SampleReason.KEYFRAME, False, 64, 64, bytes(PLANE_BYTES), bytes(PICTURE_BYTES)
    )  # fmt: skip


async def judged(
    *inspections: Inspection, standing: bool | None = None, pools: list[FakePool] | None = None
) -> tuple[Trail, list[Decision]]:
    """Have one stream's frames judged; gives its trail and what was decided."""
    decisions: list[Decision] = []
    trail = Trail("stream", "session", 0.0, lambda _trail, _entry: standing)

    async def respond(decision: Decision) -> None:
        decisions.append(decision)

    async def nothing() -> None:
        return

    pool: Any = FakePool(list(inspections))
    if pools is not None:
        pools.append(pool)
    sight = Sight(0.0, SightSettings(SamplingSettings(), default_rules(), 2.0))
    parts = JudgeParts(pool, Metrics(), sight, respond, nothing, lambda: None, lambda: 0.0, trail=trail)
    judge = Judge("stream", "session", parts)
    running = asyncio.create_task(judge.run(lambda: POLICY, lambda: 1.0))
    for number in range(len(inspections)):
        judge.take(frame(number))
    await judge.finish(5.0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert judge.faults == 0
    return trail, decisions


async def test_frames_at_the_threshold_of_a_cut_are_kept_and_no_others() -> None:
    """Each frame that voted for the cut by itself is there when the quorum is reached; those between are not."""
    trail, decisions = await judged(
        found(1, score=0.95), found(2, score=0.6), found(3, score=0.95), found(4), found(5, MATCH)
    )
    assert [hit.frame.sequence for hit in trail.hits] == [0, 2, 4]
    assert decisions[-1].action is Step.CUT
    assert len(trail.shown(0.0).hashes) >= 5


async def test_what_the_incident_bank_found_is_not_kept_for_it() -> None:
    """A re-stream is cut, but adds nothing to the bank: it would creep from copy to copy."""
    again = replace(MATCH, bank=INCIDENT_BANK)
    trail, decisions = await judged(found(1, again), standing=True)
    assert [decision.action for decision in decisions] == [Step.CUT]
    assert not trail.hits


async def test_a_stream_that_was_there_before_is_looked_at_by_people() -> None:
    """The bank's match asks for a review where it may not cut, and for nothing where it says nothing."""
    again = replace(MATCH, bank=INCIDENT_BANK)
    _, early = await judged(found(1, again), standing=False)
    _, own = await judged(found(1, again), standing=None)
    assert ([decision.action for decision in early], own) == ([Step.REVIEW], [])


async def test_an_unchanged_picture_is_scored_once_unless_its_score_votes() -> None:
    """What votes is looked at again each time; a quorum is made of looks, not of one score counted three times."""
    pools: list[FakePool] = []
    _, calm = await judged(*(found(number, score=0.1) for number in range(4)), pools=pools)
    _, votes = await judged(*(found(number, score=0.95) for number in range(4)), pools=pools)

    assert [bool(asking.rested) for asking in pools[0].asked] == [False, True, True, True]
    assert [bool(asking.rested) for asking in pools[1].asked] == [False] * 4
    assert [asking.is_suspicious for asking in pools[1].asked] == [False, True, True, True]
    assert calm == []
    assert votes[-1].votes == (3, 5) or votes[-1].votes == (4, 5)
