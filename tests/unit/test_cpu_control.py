"""The controller on a virtual clock: streams whose readers cost what their rations have them do."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from detector.config.config import CloserLook
from detector.coverage import Cause
from detector.cpu import control as cpu_control
from detector.cpu.control import CpuControl, CpuLimits
from detector.cpu.rationing import Costs, Demand, Rank, Ration, Risk, predicted
from detector.events import StreamKey
from detector.hints import TooManyHints
from detector.metrics import Metrics
from detector.policy import PolicySettings
from detector.reader_orders import Why
from detector.session import SessionParts, StreamSession
from detector.session_settings import SessionSettings
from streams.frame import SampleReason
from streams.job import Job, SandboxMode, SourceKind
from streams.sampling import SamplingSettings
from streams.wire import Heartbeat

FLOOR = 10.0
SAMPLING = SamplingSettings(burst_share=0.05, spikes=True)
USUAL = Costs(0.01, 0.016, 0.5, 0.0, 0.09, 0.02, 0.12, 2.0)
ANALYSIS = 0.004


class Reader:
    """Takes orders and keeps count of them."""

    def __init__(self) -> None:
        self.adjusted: list[SamplingSettings] = []
        self.looks: list[tuple[float, float]] = []
        self.is_listening = True

    async def adjust(self, sampling: SamplingSettings) -> bool:
        self.adjusted.append(sampling)
        return self.is_listening

    async def look_closer(self, interval_seconds: float, until: float) -> bool:
        self.looks.append((interval_seconds, until))
        return self.is_listening


class Stream:
    """One stream of the machine: a session, and what its looks truly cost."""

    def __init__(self, session: StreamSession, costs: Costs, now: float) -> None:
        self.session, self.costs, self.reader = session, costs, Reader()
        self.beat = Heartbeat(now, now, math.nan, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, costs.gop_seconds)
        self._carry = 0.0
        self.is_away = False

    @property
    def cores(self) -> float:
        """What it costs a second on the ration that it has."""
        orders = self.session.orders
        ration = replace(orders.ration, is_close=orders.is_close)
        demand = Demand("", SAMPLING, self.session.settings.rank, self.costs)
        return predicted(demand, ration)

    def live(self, seconds: float) -> None:
        """Report what a reader would have done."""
        costs, orders, beat = self.costs, self.session.orders, self.beat
        ration = orders.ration
        looking = self.cores - costs.reading
        whole = costs.whole * (ration.burst_share + (costs.spike_share if ration.spikes else 0.0))
        whole = 0.0 if orders.is_close else whole
        rate = costs.keyframes_per_second
        if ration.slowed_to_seconds:
            rate = min(rate, 1.0 / (0.6 * ration.slowed_to_seconds))
        keyframes = 0.0 if orders.is_close else costs.keyframe_seconds * rate
        through = max(0.0, looking - whole - keyframes)
        self._carry += rate * seconds
        decoded = int(self._carry)
        self._carry -= decoded
        gops = whole / costs.whole / costs.gop_seconds if costs.whole else 0.0
        self.beat = replace(
            beat,
            sent_at=beat.sent_at + seconds,
            last_packet_at=beat.sent_at + seconds,
            cpu_seconds=beat.cpu_seconds + self.cores * seconds,
            keyframes_decoded=beat.keyframes_decoded + decoded,
            keyframe_cpu_seconds=beat.keyframe_cpu_seconds + keyframes * seconds,
            through_cpu_seconds=beat.through_cpu_seconds + through * seconds,
            whole_cpu_seconds=beat.whole_cpu_seconds + whole * seconds,
            bursts=beat.bursts + (1 if gops else 0),
        )
        self.session.meter.beat(self.beat, ration, is_close=orders.is_close)


class Machine:
    """A node with its controller; `second` passes one."""

    def __init__(self, cores: float, max_cpu: float = 1.0) -> None:
        self.now = 1000.0
        self.cores, self.max_cpu = cores, max_cpu
        self.metrics = Metrics()
        self.streams: dict[str, Stream] = {}
        self.control = CpuControl(
            lambda: [each.session for each in self.streams.values()],
            lambda: CpuLimits(self.max_cpu, FLOOR),
            self.metrics,
            cores=cores,
            clock=self.clock,
            own_seconds=lambda: 0.0,
        )
        nothing: Any = None
        self._parts = SessionParts(nothing, nothing, self.metrics, nothing, self.clock, self.control.admission)

    def clock(self) -> float:
        return self.now

    async def begin(self, name: str, costs: Costs = USUAL, risk: Risk = Risk.NORMAL) -> Stream:
        job = Job(SourceKind.HTTP_TS, "http://h/x", 0, True, SAMPLING, SandboxMode.PREFER)
        settings = SessionSettings(job, CloserLook(0.3, 5.0), 1.0, PolicySettings(), rank=Rank(risk, 0.33))
        session = StreamSession(name, StreamKey("test", "live", name), settings, self._parts)
        self.streams[name] = stream = Stream(session, costs, self.now)
        self.control.admission.enter(session)
        self.control.admission.arrived(session)
        if self.control.admission.is_watched(session):
            await session.orders.begin(stream.reader, session.orders.sampling)
        return stream

    def end(self, name: str) -> None:
        self.control.admission.leave(self.streams.pop(name).session)

    async def second(self) -> None:
        for _ in range(2):
            self.now += 0.5
            for stream in self.streams.values():
                if not stream.is_away and self.control.admission.is_watched(stream.session):
                    stream.live(0.5)
        await self.control.look()

    async def seconds(self, count: int, check: Callable[[], None] = lambda: None) -> None:
        for _ in range(count):
            await self.second()
            check()

    @property
    def used(self) -> float:
        return sum(each.cores for each in self.streams.values() if self.control.admission.is_watched(each.session))

    def rations(self) -> dict[str, Ration]:
        return {name: each.session.orders.ration for name, each in self.streams.items()}

    def words(self) -> set[str]:
        return {self.control.standing(each.session).ration for each in self.streams.values()}


async def test_while_there_is_room_nobody_is_told_anything() -> None:
    """A node with cores to spare sends no order and says that all is full."""
    machine = Machine(4.0)
    for number in range(10):
        await machine.begin(f"s{number}")
    await machine.seconds(20)
    assert machine.words() == {"full"}
    assert not any(each.reader.adjusted for each in machine.streams.values())
    assert not list(machine.control.shortages())


async def test_twice_the_load_is_cut_to_the_budget_and_stays_there() -> None:
    """Within seconds what is used fits, then rations hardly move; when the load goes, all are back."""
    machine = Machine(8.0)
    for number in range(40):
        await machine.begin(f"s{number}", replace(USUAL, through=0.09, gop_seconds=8.0, keyframes_per_second=0.125))
    await machine.seconds(15)
    machine.max_cpu = 0.5 * machine.used / machine.cores
    budget = machine.max_cpu * machine.cores
    await machine.seconds(6)
    assert machine.used <= 1.05 * budget
    told = sum(len(each.reader.adjusted) for each in machine.streams.values())
    await machine.seconds(60)
    assert 0.8 * budget <= machine.used <= 1.02 * budget
    assert sum(len(each.reader.adjusted) for each in machine.streams.values()) - told <= 3 * len(machine.streams)
    assert all(each.slowed_to_seconds <= FLOOR for each in machine.rations().values())
    machine.max_cpu = 1.0
    await machine.seconds(30)
    assert machine.words() == {"full"}


async def test_a_costly_publisher_slows_himself() -> None:
    """One all-intra stream of ten times the cost is slowed; the others keep what they had."""
    machine = Machine(1.0)
    for number in range(20):
        await machine.begin(f"s{number}")
    await machine.begin("dear", replace(USUAL, keyframe_seconds=0.2, keyframes_per_second=2.0, gop_seconds=0.5))
    machine.max_cpu = 0.6
    await machine.seconds(30)
    rations = machine.rations()
    assert rations["dear"].slowed_to_seconds > 0
    assert all(not rations[f"s{number}"].slowed_to_seconds for number in range(20))


async def test_a_thousand_spoofed_hints_take_nobody_below_the_floor() -> None:
    """Whoever floods a node with hints has as many streams decoded through as there is room for, and no more."""
    machine = Machine(2.0)
    for number in range(40):
        await machine.begin(f"s{number}")
    await machine.begin("guarded", risk=Risk.HIGH)
    await machine.seconds(10)
    refused = 0
    for number in range(1000):
        name = f"s{number % 30}"
        try:
            machine.control.hint(machine.streams[name].session, 0.9, f"spoof{number}", "spoof", 600.0)
        except TooManyHints:
            refused += 1
    assert refused == 1000 - 30 * 8
    await machine.seconds(20)
    assert machine.used <= 1.05 * machine.cores
    assert all(each.slowed_to_seconds <= FLOOR for each in machine.rations().values())
    assert not machine.rations()["guarded"].slowed_to_seconds
    looked_at = [each for each in machine.streams.values() if each.session.orders.is_close]
    assert 1 <= len(looked_at) < 30
    assert machine.metrics.value("stopframe_hints_total", state="refused") == refused
    machine.now += 600.0
    await machine.seconds(40)
    assert machine.words() == {"full"}
    assert machine.metrics.value("stopframe_hints_in_force") == 0


async def test_a_hint_is_told_to_the_reader_and_to_its_successor() -> None:
    """The stream is decoded through at `hint_interval` until the hint ends, whichever reader it has by then."""
    machine = Machine(4.0)
    stream = await machine.begin("a")
    await machine.seconds(3)
    machine.control.hint(stream.session, 0.8, "reports", "violence", 30.0)
    until = machine.now + 30.0
    await machine.second()
    assert stream.reader.looks == [(0.2, until)]
    standing = machine.control.standing(stream.session)
    assert (standing.risk, standing.is_close, stream.session.risk) == (Risk.HIGH, True, 2)
    successor = Reader()
    stream.session.orders.end()
    await stream.session.orders.begin(successor, stream.session.orders.sampling)
    await stream.session.orders.opened()
    assert successor.looks == [(0.2, until)]
    machine.now = until
    await machine.second()
    assert not stream.session.orders.is_close
    assert machine.control.standing(stream.session) == machine.control.standing(stream.session)
    assert machine.control.standing(stream.session).risk is Risk.NORMAL


async def test_a_publisher_sheds_no_hint_by_leaving_for_a_while() -> None:
    """What was said of a stream holds for its next session, too, until the time that was named is over."""
    machine = Machine(4.0)
    stream = await machine.begin("a")
    machine.control.hint(stream.session, 0.8, "reports", "violence", 60.0)
    machine.end("a")
    await machine.seconds(30)
    stream = await machine.begin("a")
    await machine.second()
    assert machine.control.standing(stream.session).is_close
    await machine.seconds(30)
    assert not stream.session.orders.is_close


async def test_hints_for_streams_that_are_gone_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """They never keep out those for streams that are live."""
    monkeypatch.setattr(cpu_control, "_MANY_HINTS", 2)
    machine = Machine(4.0)
    for name in ("a", "b", "c"):
        machine.control.hint((await machine.begin(name)).session, 0.8, "reports", "word", 60.0)
    machine.end("a")
    await machine.second()
    assert len(machine.control.hints) == 2


async def test_a_closer_look_after_a_weak_hit_goes_on_beside_a_hint() -> None:
    """The denser of two looks holds; when it ends the other one is told again."""
    machine = Machine(4.0)
    stream = await machine.begin("a")
    orders = stream.session.orders
    await orders.look(Why.WEAK_HIT, 0.1, machine.now + 3.0)
    machine.control.hint(stream.session, 0.8, "reports", "word", 10.0)
    await machine.second()
    assert [interval for interval, _ in stream.reader.looks] == [0.1]
    await machine.seconds(3)
    assert [interval for interval, _ in stream.reader.looks] == [0.1, 0.2]


async def test_weak_hits_take_nobody_below_the_floor() -> None:
    """Publishers who show what nearly matches for hours are decoded through as far as there is room, and no further."""
    machine = Machine(1.0)
    for number in range(10):
        await machine.begin(f"s{number}")
    hostile = [await machine.begin(f"near{number}", replace(USUAL, closer=0.3)) for number in range(20)]
    await machine.seconds(10)
    used = []
    for _ in range(40):
        for each in hostile:
            await each.session.orders.look(Why.WEAK_HIT, 0.3, machine.now + 5.0)
        await machine.second()
        used.append(machine.used)
    assert max(used[10:]) <= 1.05 * machine.cores
    assert any(each.session.orders.is_close for each in hostile)
    assert all(each.slowed_to_seconds <= FLOOR for each in machine.rations().values())
    machine.max_cpu = 8.0
    await machine.seconds(12)
    for each in hostile:
        await each.session.orders.look(Why.WEAK_HIT, 0.3, machine.now + 5.0)
    assert all(each.session.orders.is_close for each in hostile)


async def test_health_says_where_not_even_floors_fit() -> None:
    """Who became dear after he was let in cannot be sent away; what is promised to all is then told to be in doubt."""
    machine = Machine(1.0)
    streams = [await machine.begin(f"s{number}") for number in range(20)]
    await machine.seconds(10)
    assert not list(machine.control.shortages())
    for each in streams:
        each.costs = replace(USUAL, reading=0.1)
    await machine.seconds(20)
    count, sentence = next(iter(machine.control.shortages()))
    assert count == 20
    assert sentence.startswith("the floor of all streams takes more CPU time than there is, and may not be kept; give")


async def test_what_a_reader_could_not_be_told_is_told_again() -> None:
    """A full socket loses no ration."""
    machine = Machine(1.0)
    stream = await machine.begin("a", replace(USUAL, keyframe_seconds=0.5))
    await machine.seconds(5)
    stream.reader.is_listening = False
    machine.max_cpu = 0.05
    await machine.second()
    stream.reader.is_listening = True
    count = len(stream.reader.adjusted)
    await machine.second()
    assert len(stream.reader.adjusted) == count + 1
    assert stream.reader.adjusted[-1].slowed_to_seconds == stream.session.orders.ration.slowed_to_seconds > 0


async def test_slowing_is_written_down_as_skipped_for_overload() -> None:
    """A session that is slowed accounts for what lies beyond its promise as overload, and is not blind."""
    machine = Machine(1.0)
    stream = await machine.begin("a", replace(USUAL, keyframe_seconds=0.5))
    sight = stream.session.sight
    sight.note(Cause.UNSAMPLED, machine.now)
    machine.max_cpu = 0.05
    await machine.seconds(5)
    assert stream.session.orders.ration.slowed_to_seconds == FLOOR
    assert sight._ledger.latest_cause is Cause.OVERLOAD
    assert stream.session.blind_since is None


async def test_where_floors_do_not_fit_newcomers_wait_and_health_says_why() -> None:
    """A stream is refused before those that are watched fall below the floor; it is let in when one leaves."""
    machine = Machine(0.5)
    dear = replace(USUAL, reading=0.1)
    number = 0
    while machine.control.admission.refused == 0:
        await machine.begin(f"s{number}", dear)
        await machine.seconds(4)
        number += 1
        assert number < 12
    assert machine.used <= 0.5
    refused = machine.streams[f"s{number - 1}"].session
    assert (refused.state, refused.code, machine.control.standing(refused).ration) == ("refused",) * 3
    count, sentence = next(iter(machine.control.shortages()))
    assert count == number
    assert sentence.startswith(f"1 of {number} streams are not watched for want of CPU time; give this node")
    machine.end("s0")
    await machine.seconds(6)
    assert refused.state == "connecting"


async def test_publishers_who_take_turns_take_no_more_than_there_is_room_for() -> None:
    """Whose place is kept has his room kept, too: by leaving and coming back in turn nobody gets past the gate."""
    machine = Machine(1.0)
    dear = replace(USUAL, reading=0.1)
    await machine.begin("stays", dear)
    await machine.seconds(12)
    gone: set[str] = set()
    for turn in range(3):
        for number in range(10):
            await machine.begin(f"turn{turn}-{number}", dear)
        await machine.second()
        for name in [each for each in machine.streams if each != "stays"]:
            gone.add(name)
            machine.end(name)
        await machine.second()
    for name in gone:
        await machine.begin(name, dear)
    await machine.seconds(4)
    assert 0.5 < machine.used <= machine.cores


async def test_streams_without_a_reader_take_nothing_from_the_others() -> None:
    """Sources that are down, or publishers in quarantine, cost nothing: only their floor is kept for them."""
    machine = Machine(1.0)
    for number in range(10):
        await machine.begin(f"s{number}")
    away = [await machine.begin(f"dear{number}", replace(USUAL, through=0.3, gop_seconds=8.0)) for number in range(5)]
    await machine.seconds(20)
    assert "slowed" in machine.words()
    for each in away:
        each.is_away = True
        each.session.meter.ended()
    await machine.seconds(30)
    full = [machine.control.standing(machine.streams[f"s{number}"].session).ration for number in range(10)]
    assert set(full) == {"full"}
    assert machine.control.use.readers < 0.4
    for each in away:
        each.is_away, each.beat = False, replace(each.beat, sent_at=machine.now)
    await machine.seconds(8)
    assert sum(each.cores for each in machine.streams.values()) <= 1.05 * machine.cores


async def test_a_reload_holds_at_once_and_within_the_ration() -> None:
    """Less than the ration is told at once, more waits for the next plan."""
    machine = Machine(4.0)
    stream = await machine.begin("a")
    orders = stream.session.orders
    await orders.give(Ration(0.0, spikes=False, slowed_to_seconds=5.0))
    await orders.ask(replace(SAMPLING, detect_within_seconds=7.0, burst_share=0.5))
    assert orders.ration == Ration(0.0, spikes=False, slowed_to_seconds=7.0)
    await orders.give(Ration(0.5, spikes=True))
    await orders.ask(replace(SAMPLING, burst_share=0.1, spikes=False))
    assert orders.ration == Ration(0.1, spikes=False)


@pytest.mark.parametrize("max_cpu", [1.0, 0.5])
async def test_the_controller_itself_costs_little(max_cpu: float) -> None:
    """One round for 200 streams takes a few milliseconds at most, whether there is room or not."""
    machine = Machine(12.0)
    for number in range(200):
        await machine.begin(f"s{number:03}", replace(USUAL, keyframe_seconds=0.016 + number / 1e5))
    await machine.seconds(4)
    machine.max_cpu = max_cpu * machine.used / machine.cores if max_cpu < 1.0 else 1.0
    best = math.inf
    for _ in range(4):
        for stream in machine.streams.values():
            stream.session.meter.analysed(SampleReason.KEYFRAME, ANALYSIS)
            stream.live(1.0)
        machine.now += 1.0
        begun = time.process_time()
        await machine.control.look()
        best = min(best, time.process_time() - begun)
    assert best < 0.05
