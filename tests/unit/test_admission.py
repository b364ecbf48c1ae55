"""The gate: a few readers start at once, the risky first, and nobody is let in for whom there is no room."""

import asyncio
from dataclasses import dataclass, field

import pytest

from detector.cpu import admission as admission_module
from detector.cpu.admission import STARTS_PER_CORE, Admission, Newcomer


@dataclass
class Stream:
    stream_id: str
    started_at: float = 0.0
    risk: int = 1
    log: list[str] = field(default_factory=list)

    @property
    def session(self) -> str:
        return f"session-of-{self.stream_id}-{self.started_at}"

    def admit(self) -> None:
        self.log.append("admitted")

    def refuse(self) -> None:
        self.log.append("refused")


class Scene:
    def __init__(self) -> None:
        self.now = 0.0
        self.taken: list[str] = []
        self.gate = Admission(1.0, self._take_in, lambda: self.now)

    def _take_in(self, newcomer: Newcomer) -> None:
        self.taken.append(newcomer.stream_id)


async def test_a_crowd_starts_a_few_at_a_time_and_all_of_it_starts() -> None:
    """Of 500 that come at once only so many readers start before others have their source open."""
    scene = Scene()
    crowd = [Stream(f"s{number}", number / 1e6) for number in range(500)]
    for each in crowd:
        scene.gate.enter(each)
    assert len(scene.taken) == STARTS_PER_CORE
    for each in crowd:
        before = len(scene.taken)
        scene.gate.arrived(each)
        assert len(scene.taken) - before <= 1
    assert scene.taken == [each.stream_id for each in crowd]
    assert all(each.log == ["admitted"] for each in crowd)


async def test_a_source_that_does_not_open_holds_nobody_up() -> None:
    """After a moment the next ones start, whatever those before them wait for."""
    scene = Scene()
    for number in range(3 * STARTS_PER_CORE):
        scene.gate.enter(Stream(f"s{number}", number))
    scene.now += admission_module.START_SECONDS + 0.01
    scene.gate.look()
    assert len(scene.taken) == 2 * STARTS_PER_CORE
    scene.now += admission_module.START_SECONDS + 0.01
    await asyncio.sleep(admission_module.START_SECONDS + 0.05)
    assert len(scene.taken) == 3 * STARTS_PER_CORE


async def test_without_room_newcomers_are_refused_once_and_let_in_by_risk_then_age() -> None:
    """Who is of higher risk goes first, then who came first; nobody who is in has to go."""
    scene = Scene()
    first = Stream("first")
    scene.gate.room_cores, scene.gate.newcomer_cores = 0.1, 0.1
    scene.gate.enter(first)
    old, new, risky = Stream("old", 1.0), Stream("new", 2.0), Stream("risky", 3.0, risk=2)
    for each in (old, new, risky):
        scene.gate.enter(each)
        scene.gate.look()
    assert (first.log, old.log, new.log, risky.log) == (["admitted"], ["refused"], ["refused"], ["refused"])
    assert (scene.gate.refused, scene.gate.refused_total) == (3, 3)
    for _ in range(3):
        scene.gate.room_cores = 0.1
        scene.gate.look()
    assert scene.taken == ["first", "risky", "old", "new"]
    assert scene.gate.refused == 0


async def test_whoever_was_watched_and_comes_back_takes_his_place() -> None:
    """A reconnect must not lose what was watched; a place is kept for a few seconds only."""
    scene = Scene()
    one = Stream("one")
    scene.gate.enter(one)
    scene.gate.room_cores, scene.gate.newcomer_cores = 0.0, 0.1
    scene.gate.leave(one)
    scene.now = 4.0
    back = Stream("one", 4.0)
    scene.gate.enter(back)
    assert back.log == ["admitted"]
    scene.gate.leave(back)
    scene.now = 10.0
    late = Stream("one", 10.0)
    scene.gate.enter(late)
    assert late.log == ["refused"]


async def test_who_leaves_while_he_waits_is_forgotten() -> None:
    """A publisher who was refused and goes is counted no more."""
    scene = Scene()
    scene.gate.room_cores, scene.gate.newcomer_cores = 0.0, 0.1
    one = Stream("one")
    scene.gate.enter(one)
    scene.gate.leave(one)
    scene.gate.room_cores = 1.0
    scene.gate.look()
    assert (scene.gate.refused, one.log) == (0, ["refused"])


async def test_a_crowd_that_waits_for_its_start_is_looked_at_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait, one timer is set: a crowd must not take the service's own time."""
    monkeypatch.setattr(admission_module, "START_SECONDS", 0.01)
    scene = Scene()
    for number in range(300):
        scene.gate.enter(Stream(f"s{number}", number))
    looks = 0
    look = scene.gate.look

    def counted() -> None:
        nonlocal looks
        looks += 1
        look()

    monkeypatch.setattr(scene.gate, "look", counted)
    await asyncio.sleep(0.1)
    assert 1 <= looks <= 15


async def test_whoever_takes_over_while_the_one_before_is_still_leaving_has_his_place() -> None:
    """A publisher who reconnects to a full node is watched at once, though his last session is still being judged."""
    scene = Scene()
    one = Stream("one")
    scene.gate.enter(one)
    scene.gate.room_cores, scene.gate.newcomer_cores = 0.0, 0.1
    back = Stream("one", 1.0)
    scene.gate.enter(back)
    assert back.log == ["admitted"]
    assert scene.gate.room_cores == 0.0


async def test_who_comes_and_goes_without_a_pause_has_few_readers_and_holds_nobody_up() -> None:
    """One stream has a few sessions with readers at most, and whoever waits for longer goes first."""
    scene = Scene()
    flaps = [Stream("flapper", number / 100) for number in range(20)]
    for each in flaps:
        scene.gate.enter(each)
        scene.gate.arrived(each)
    assert sum(each.log == ["admitted"] for each in flaps) == admission_module.MOST_OF_ONE_STREAM
    scene.gate.leave(flaps[0])
    assert flaps[admission_module.MOST_OF_ONE_STREAM].log == ["admitted"]
    for each in flaps:
        scene.gate.leave(each)
    crowd = [Stream(f"s{number}", 1.0) for number in range(STARTS_PER_CORE)]
    for each in crowd:
        scene.gate.enter(each)
    waiting, back = Stream("waiting", 2.0), Stream("flapper", 3.0)
    scene.gate.enter(waiting)
    scene.gate.enter(back)
    scene.gate.arrived(crowd[0])
    assert (waiting.log, back.log) == (["admitted"], [])


async def test_those_who_may_come_back_are_let_in_past_those_without_room() -> None:
    """A line of newcomers for whom there is no room keeps nobody from his own place."""
    scene = Scene()
    scene.gate.room_cores, scene.gate.newcomer_cores = 0.1, 0.1
    one, other = Stream("one"), Stream("other", 0.5, risk=2)
    scene.gate.enter(one)
    scene.gate.leave(one)
    back = Stream("one", 1.0)
    scene.gate.enter(other)
    scene.gate.enter(back)
    assert (other.log, back.log) == (["refused"], ["admitted"])
