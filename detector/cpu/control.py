"""Keeps the CPU time of readers, analysis and service within `sampling.max_cpu`: gathers, plans, and gives rations."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import structlog

from detector.cpu.admission import Admission, Newcomer
from detector.cpu.cores import usable_cores
from detector.cpu.easing import Easing
from detector.cpu.metering import total_cores
from detector.cpu.rationing import Costs, Demand, Plan, Rank, Ration, Risk, predicted, resting, typical
from detector.hints import CLOSER_FROM, MOST_IN_ALL, Hint, Hints, TooManyHints, closer_until, raised
from detector.metrics import Metrics
from detector.reader_orders import Why
from detector.session import StreamSession
from streams.sampling import SamplingSettings

log = structlog.get_logger()

ROUND_SECONDS = 1.0

_SOONEST_SECONDS = 0.2
"""However many hints come, the next round is no sooner."""

_TYPICAL_ROUNDS = 10
"""What a stream costs on the whole is worked out so often."""

_CALM_ROUNDS = 4
"""While nobody is short of anything a plan is made so often."""

_CALM_BELOW = 0.7
"""Part of the budget."""

_MARGIN = 1.1
"""What a newcomer needs must be there with so much to spare: nobody who was let in has to go again."""

_SERVICE_MOST = 0.5
"""A service that is busy for another reason takes no more than this part of the budget from streams."""

_SERVICE_MEMORY = 0.8
"""How much of the service's own figure is kept from one round to the next."""

_CORRECTION = (0.85, 2.0)
"""What was measured may differ from what was predicted by so much; more is a passing thing."""

_WEAK_HIT_SCORE = 1.0
"""What a weak hit counts among risk hints: it was seen, and not only said."""

_RESTS_AFTER_SECONDS = 10.0
"""A stream of which no reader reported for so long uses nothing now."""

_MANY_HINTS = MOST_IN_ALL // 2
"""From so many on, those of streams that are gone make room."""

_UNFIT_ROUNDS = 5
"""So many rounds on end not even the floor must fit until that is told: what passes by itself is no news."""

REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class CpuLimits:
    """What the config says: the share of all cores (0-1), and how often each stream is looked at whatever happens."""

    max_cpu: float
    floor_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How one stream stands: its tier with hints counted in, a word for its ration, and the hints that hold."""

    risk: Risk
    ration: str = "full"
    hints: tuple[Hint, ...] = ()
    is_close: bool = False


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU seconds a second by part, and what all of them may take."""

    readers: float = 0.0
    analysis: float = 0.0
    service: float = 0.0
    budget: float = 0.0


@dataclass(slots=True)
class _Own:
    """The service's own CPU time, as cores."""

    clock: Callable[[], float]
    cores: float = 0.0
    used_seconds: float = 0.0
    noted_at: float = 0.0

    def note(self, now: float) -> None:
        used = self.clock()
        if self.noted_at and now > self.noted_at:
            latest = (used - self.used_seconds) / (now - self.noted_at)
            self.cores = _SERVICE_MEMORY * self.cores + (1.0 - _SERVICE_MEMORY) * latest
        self.used_seconds, self.noted_at = used, now


class CpuControl:
    """Gives every stream its ration, lets new ones in, and keeps the risk hints. `run` is the task of it all.

    `sessions` are those that are live now, `limits` what the config in force says. `cores` is what this process may
    use in all, `own_seconds` the CPU time that it has used itself.
    """

    def __init__(
        self,
        sessions: Callable[[], Collection[StreamSession]],
        limits: Callable[[], CpuLimits],
        metrics: Metrics,
        *,
        cores: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self.hints = Hints()
        self.use = CpuUse()
        self._sessions = sessions
        self._limits = limits
        self._metrics = metrics
        self._cores = usable_cores() if cores is None else cores
        self._clock = clock
        self.admission = Admission(self._cores, self._take_in, clock)
        self._easing = Easing()
        self._own = _Own(own_seconds)
        self._plan = Plan()
        self._demands: dict[str, Demand] = {}
        self._at_work: list[StreamSession] = []
        self._typical = Costs()
        self._rounds = self._typical_due = 0
        self._is_short = False
        self._refused_told = self._unfit_rounds = 0
        self._soon = asyncio.Event()
        self._set_room(Plan(), self._limits().max_cpu * self._cores)

    async def run(self) -> None:
        """Plan anew every second, and soon after a hint, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_SOONEST_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_SECONDS - _SOONEST_SECONDS):
                    await self._soon.wait()
            self._soon.clear()

    async def look(self) -> None:
        """One round: gather what everything costs, plan, give the rations, and let in who there is room for."""
        now, limits, sessions = self._clock(), self._limits(), list(self._sessions())
        self.hints.end(now)
        if len(self.hints) > _MANY_HINTS:  # else they wait for a publisher who is away: a pause must not shed them
            self.hints.keep_only(session.stream_id for session in sessions)
        watched = [session for session in sessions if self.admission.is_watched(session)]
        self._at_work = [session for session in watched if self._is_at_work(session, now)]
        budget = self._note_use(limits, now)
        for session in watched:
            await session.orders.catch_up()
        self._rounds += 1
        if self._is_calm(watched) and self._rounds % _CALM_ROUNDS:
            return
        self._note_typical(watched)
        demands = [self._demand(session, limits.floor_seconds, now) for session in watched]
        self._easing.keep_only({*(each.stream for each in demands), *self.admission.places})
        plan = self._easing.plan(demands, budget / self._correction(), limits.floor_seconds, now)
        self._plan, self._demands = plan, {each.stream: each for each in demands}
        self._unfit_rounds = 0 if plan.fits else self._unfit_rounds + 1
        for session in watched:
            await self._give(session, plan.rations[session.stream_id])
        for session in sessions:
            session.risk = self._risk(session).tier
        self._set_room(plan, budget / self._correction())
        self.admission.look()
        self._tell()

    def hint(self, session: StreamSession, score: float, source: str, reason: str, lasts_seconds: float) -> None:
        """Take a risk hint in; raises `TooManyHints`, and nothing was done."""
        now = self._clock()
        try:
            self.hints.add(session.stream_id, Hint(score, source, reason, now + lasts_seconds), now)
        except TooManyHints:
            self._metrics.hint(is_taken=False)
            raise
        self._metrics.hint(is_taken=True)
        log.info(
            "hint.taken", stream=session.stream_id, source=source, reason=reason, score=score, seconds=lasts_seconds
        )
        self._soon.set()

    def standing(self, session: StreamSession) -> Standing:
        """How a stream stands now."""
        hints = self.hints.of(session.stream_id)
        demand, ration = self._demands.get(session.stream_id), session.orders.ration
        word = "full" if demand is None else ration.word(demand.full)
        if self.admission.is_refused(session):
            word = REFUSED
        return Standing(self._risk(session), word, hints, ration.is_close)

    def shortages(self) -> Iterator[tuple[int, str]]:
        """How many streams CPU time is too short for now, and the sentence about them with its remedy."""
        live = len(self._sessions())
        remedy = "give this node fewer streams or more cores, or raise sampling.max_cpu"
        if self.admission.refused:
            yield live, f"{self.admission.refused} of {live} streams are not watched for want of CPU time; {remedy}"
        if self._unfit_rounds >= _UNFIT_ROUNDS:
            yield live, f"the floor of all streams takes more CPU time than there is, and may not be kept; {remedy}"
        slowed = self._slowed()
        if slowed:
            longest = max(slowed)
            words = f"are looked at every {longest:.0f} s at worst, later than detect_within, for want of CPU time"
            yield len(slowed), f"{len(slowed)} of {live} streams {words}; {remedy}"

    def _slowed(self) -> list[float]:
        """How far those are slowed whose promise is not kept."""
        return [
            ration.slowed_to_seconds
            for stream, ration in self._plan.rations.items()
            if ration.slowed_to_seconds > self._demands[stream].settings.detect_within_seconds
        ]

    # Gathering

    def _is_calm(self, watched: Collection[StreamSession]) -> bool:
        """Whether there is so much room, and so little news, that a new plan would say what the last one said."""
        use, news = self.use, len(self.hints) or self.admission.refused or len(watched) != len(self._demands)
        has_room = use.readers + use.analysis + use.service < _CALM_BELOW * use.budget
        return has_room and not news and not self._is_short

    def _note_typical(self, watched: Collection[StreamSession]) -> None:
        if self._rounds >= self._typical_due:
            measured = [session for session in watched if session.meter.is_measured]
            self._typical = typical(self._costs(session) for session in measured)
            self._typical_due = self._rounds + _TYPICAL_ROUNDS

    def _is_at_work(self, session: StreamSession, now: float) -> bool:
        return now - max(session.meter.heard_at, session.started_at) <= _RESTS_AFTER_SECONDS

    def _note_use(self, limits: CpuLimits, now: float) -> float:
        """What streams may take now, in CPU seconds a second."""
        self._own.note(now)
        budget = limits.max_cpu * self._cores
        readers, analysis = total_cores(session.meter for session in self._at_work)
        self.use = CpuUse(readers, analysis, self._own.cores, budget)
        return budget - min(self._own.cores, _SERVICE_MOST * budget)

    def _correction(self) -> float:
        """By how much streams cost more than was predicted for what they were given."""
        expected = sum(session.meter.expected_cores for session in self._at_work)
        if expected <= 0.0:
            return 1.0
        measured = sum(session.meter.cores for session in self._at_work)
        least, most = _CORRECTION
        return min(max(measured / expected, least), most)

    def _costs(self, session: StreamSession) -> Costs:
        settings = session.settings
        return session.meter.costs(
            self._typical,
            frames_when_closer=1.0 / settings.rank.hint_interval_seconds,
            within_seconds=settings.job.sampling.detect_within_seconds,
        )

    def _demand(self, session: StreamSession, floor_seconds: float, now: float) -> Demand:
        costs = self._costs(session)
        hints, rank = self.hints.of(session.stream_id), session.settings.rank
        risk = raised(rank.risk, hints)
        return Demand(
            stream=session.stream_id,
            settings=session.settings.job.sampling,
            rank=rank if risk is rank.risk else replace(rank, risk=risk),
            costs=costs if self._is_at_work(session, now) else resting(costs, floor_seconds),
            is_spikes_blind=session.figures.is_spikes_blind,
            hint_score=self._closer_score(session, hints),
        )

    def _closer_score(self, session: StreamSession, hints: tuple[Hint, ...]) -> float:
        """How strongly a closer look is asked for; 0 if it is not."""
        if session.orders.until(Why.WEAK_HIT) > self._clock():
            return _WEAK_HIT_SCORE
        return hints[0].score if hints and hints[0].score >= CLOSER_FROM else 0.0

    def _risk(self, session: StreamSession) -> Risk:
        return raised(session.settings.rank.risk, self.hints.of(session.stream_id))

    # Giving

    async def _give(self, session: StreamSession, ration: Ration) -> None:
        demand = self._demands[session.stream_id]
        session.meter.expected = predicted(demand, ration)
        if ration != session.orders.ration:
            await session.give(ration)
        await session.orders.allow(Why.WEAK_HIT, is_allowed=ration.is_close or not demand.hint_score)
        if not ration.is_close and not session.orders.has_looks:
            return
        until = closer_until(self.hints.of(session.stream_id)) if ration.is_close else None
        if until is None:
            await session.orders.end_look(Why.HINT)
        elif until != session.orders.until(Why.HINT):
            await session.orders.look(Why.HINT, session.settings.rank.hint_interval_seconds, until)

    def _take_in(self, newcomer: Newcomer) -> None:
        """While others are short, a newcomer begins at the floor: what it takes beyond that is given in time."""
        session = next((each for each in self._sessions() if each.session == newcomer.session), None)
        if session is None:
            return
        ration = self._easing.of(session.stream_id)
        if ration is None and self._is_short:
            slowed = self._limits().floor_seconds if self._slowed() else 0.0
            ration = Ration(0.0, spikes=False, slowed_to_seconds=slowed)
        if ration is not None:
            self._easing.begin(session.stream_id, ration)
            session.start_with(ration)

    def _set_room(self, plan: Plan, budget: float) -> None:
        floor = self._limits().floor_seconds
        at_floor = Ration(0.0, spikes=False, slowed_to_seconds=floor)
        newcomer_cores = _MARGIN * predicted(_anybody(self._typical), at_floor)
        # Those who are on their way out and may be back, and those who came while the plan was carried out.
        beside = len(self.admission.places - plan.rations.keys())
        self.admission.newcomer_cores = newcomer_cores
        self.admission.room_cores = budget - _MARGIN * plan.floor_cores - beside * newcomer_cores

    def _tell(self) -> None:
        is_short = any(
            ration.word(self._demands[stream].full) != "full" for stream, ration in self._plan.rations.items()
        )
        slowed = len(self._slowed())
        if is_short != self._is_short:
            self._is_short = is_short
            used = round(self.use.readers + self.use.analysis + self.use.service, 2)
            if is_short:
                log.warning("cpu.short", cores=used, budget=round(self.use.budget, 2), streams=len(self._demands))
            else:
                log.info("cpu.enough", cores=used, budget=round(self.use.budget, 2))
        self._metrics.set_cpu(
            readers=self.use.readers, analysis=self.use.analysis, service=self.use.service, budget=self.use.budget
        )
        self._metrics.streams_refused(self.admission.refused_total - self._refused_told)
        self._refused_told = self.admission.refused_total
        self._metrics.set_rations(slowed=slowed, refused=self.admission.refused, hints=len(self.hints))


def _anybody(costs: Costs) -> Demand:
    return Demand("", SamplingSettings(), Rank(), costs)
