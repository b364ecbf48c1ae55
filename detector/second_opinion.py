"""A second opinion: an HMA elsewhere is asked about the hashes of some samples, beside what is judged here.

No sample waits for it. What it answers comes late, if at all, as a signal of its own that may ask for a review at most:
the list that it rests on cannot be looked into here. Of each stream the newest sample waits alone; a server that fails
is left alone for a while.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from detector.config.second_opinion import SecondOpinionSection
from detector.events import Decision, Observation, Signal, Step
from detector.exchanges.hma_client import MOST_BITS, HmaClient, HmaUnavailable, RemoteMatch
from detector.metric_words import SecondOpinionEnd
from detector.metrics import Metrics
from detector.policy import Verdict
from detector.works import Work

log = structlog.get_logger()

Judged = Callable[[Observation, Verdict], None]

MOST_WAITING = 256
"""Streams whose sample may wait; the one that waited longest makes room."""

MIN_QUALITY = 50
"""PDQ's quality below which HMA itself asks nobody (python-threatexchange, `QUALITY_THRESHOLD`)."""

CHANGED_BITS = 10
"""So many bits off, a sample shows something else than the one that was asked about last."""

_MOST_SIGNALS = 4
_FAILURES = 3
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 300.0
_STEPS = {"shadow": Step.SHADOW, "review": Step.REVIEW}


@dataclass(frozen=True, slots=True)
class SecondOpinionParts:
    """`section` and `is_live` are those in force; `heard` passes a decision on, and is False where nobody is there."""

    section: Callable[[], SecondOpinionSection]
    is_live: Callable[[], bool]
    heard: Callable[[Decision], Awaitable[bool]]
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic


class SecondOpinion:
    """Asks about samples that showed something new; `notes` says where nobody answers."""

    def __init__(self, parts: SecondOpinionParts) -> None:
        self._parts = parts
        self._line = _Line()
        self._last_asked: dict[str, int] = {}
        self._failures = 0
        self._left_alone_until = float("-inf")
        self._outage: str | None = None

    def works(self) -> tuple[Work, ...]:
        """What runs for as long as the service does."""
        return (Work("second_opinion", self._run),)

    def notes(self) -> list[str]:
        """One sentence where the other server does not answer: nothing waits for it, so it is no problem."""
        if self._outage is None or self._parts.section().url is None:
            return []
        return [f"the second opinion of {self._outage}; samples are judged without it"]

    def beside(self, judged: Judged) -> Judged:
        """What hears of a stream's judged samples, this included."""

        def both(observation: Observation, verdict: Verdict) -> None:
            judged(observation, verdict)
            self.offer(observation, verdict)

        return both

    def offer(self, observation: Observation, verdict: Verdict) -> None:
        """A sample was judged: ask about it if it shows something new and nothing was found here. Never waits."""
        if self._parts.section().url is None or verdict.action >= Step.REVIEW or not _is_askable(observation):
            return
        value = int.from_bytes(observation.inspection.fingerprint)
        before = self._last_asked.get(observation.session)
        if before is not None and (before ^ value).bit_count() < CHANGED_BITS:
            return
        if self._parts.clock() < self._left_alone_until:
            self._count(SecondOpinionEnd.SKIPPED)
            return
        self._last_asked[observation.session] = value
        self._count(SecondOpinionEnd.REPLACED, self._line.put(observation))

    def ended(self, session: str) -> None:
        """A stream is gone: nothing of it is asked about any more."""
        self._last_asked.pop(session, None)
        self._count(SecondOpinionEnd.LATE, self._line.forget(session))

    async def _run(self) -> None:
        while True:
            await self._line.has_work.wait()
            section = self._parts.section()
            if section.url is None:
                self._drop()
                continue
            try:
                async with HmaClient(section) as client:
                    await self._serve(client, section)
            except HmaUnavailable as error:
                self._failed(error, section)
                self._drop()

    async def _serve(self, client: HmaClient, section: SecondOpinionSection) -> None:
        """Ask about what comes, no more at once and no faster than the config allows, until that is another."""
        room = asyncio.Semaphore(section.at_once)
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._line.has_work.wait()
                await room.acquire()
                if self._parts.section() != section:
                    return
                observation = self._line.take()
                if observation is None:
                    room.release()
                    continue
                task = asyncio.create_task(self._one(client, section, observation, room), name="second_opinion.ask")
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                await asyncio.sleep(1 / section.per_second)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _one(
        self, client: HmaClient, section: SecondOpinionSection, observation: Observation, room: asyncio.Semaphore
    ) -> None:
        try:
            await self._ask(client, section, observation)
        except Exception as error:  # noqa: BLE001 - the task's edge: one answer must not end the others
            log.warning("second_opinion.fault", stream=observation.stream_id, why=type(error).__name__)
        finally:
            room.release()

    def _drop(self) -> None:
        """Ask nothing of what waits."""
        self._count(SecondOpinionEnd.SKIPPED, self._line.clear())

    async def _ask(self, client: HmaClient, section: SecondOpinionSection, observation: Observation) -> None:
        if self._parts.clock() < self._left_alone_until:
            self._count(SecondOpinionEnd.SKIPPED)
            return
        try:
            matches = await client.lookup(observation.inspection.fingerprint)
        except HmaUnavailable as error:
            self._count(SecondOpinionEnd.FAILED)
            self._last_asked.pop(observation.session, None)  # what it shows is still to be asked about
            self._failed(error, section)
            return
        self._answered(client.origin)
        if not matches:
            self._count(SecondOpinionEnd.CLEAN)
            return
        is_heard = await self._parts.heard(self._decision(section, observation, matches))
        self._count(SecondOpinionEnd.MATCHED if is_heard else SecondOpinionEnd.LATE)

    def _decision(
        self, section: SecondOpinionSection, observation: Observation, matches: tuple[RemoteMatch, ...]
    ) -> Decision:
        step = _STEPS[section.step]
        signals = tuple(_signal(section.name, step, match, observation) for match in matches[:_MOST_SIGNALS])
        return Decision(
            stream_id=observation.stream_id,
            session=observation.session,
            observation=observation,
            action=step,
            is_live=self._parts.is_live(),
            signals=signals,
            votes=(1, 1),
        )

    def _failed(self, error: HmaUnavailable, section: SecondOpinionSection) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(self._failures - _FAILURES, 16), _LONGEST_PAUSE_SECONDS)
            self._left_alone_until = self._parts.clock() + pause
        if self._failures == _FAILURES:
            log.warning("second_opinion.unreachable", name=section.name, why=str(error))
        if self._failures >= _FAILURES:
            self._outage = f"{section.name} is not to be had: {error}"

    def _answered(self, origin: str) -> None:
        if self._outage is not None:
            log.info("second_opinion.reached", server=origin)
        self._failures, self._outage, self._left_alone_until = 0, None, float("-inf")

    def _count(self, end: SecondOpinionEnd, count: int = 1) -> None:
        self._parts.metrics.second_opinion(end, count)


class _Line:
    """The newest sample of each stream that waits to be asked about, in the order in which the streams came."""

    def __init__(self) -> None:
        self.has_work = asyncio.Event()
        self._waiting: OrderedDict[str, Observation] = OrderedDict()

    def put(self, observation: Observation) -> int:
        """Let one wait; gives how many make room for it: its stream's older one, or the one that waited longest."""
        replaced = 0
        if observation.session in self._waiting:
            replaced = 1
        elif len(self._waiting) >= MOST_WAITING:
            self._waiting.popitem(last=False)
            replaced = 1
        self._waiting[observation.session] = observation
        self.has_work.set()
        return replaced

    def take(self) -> Observation | None:
        """The first in line."""
        if not self._waiting:
            self.has_work.clear()
            return None
        return self._waiting.popitem(last=False)[1]

    def forget(self, session: str) -> int:
        """Whatever waits of a stream goes; gives how much that was."""
        return 0 if self._waiting.pop(session, None) is None else 1

    def clear(self) -> int:
        """Everything goes; gives how much that was."""
        count = len(self._waiting)
        self._waiting.clear()
        self.has_work.clear()
        return count


def _is_askable(observation: Observation) -> bool:
    inspection = observation.inspection
    is_clear = inspection.quality >= MIN_QUALITY and inspection.is_stable and not inspection.is_low_information
    return is_clear and not observation.is_corrupt and len(inspection.fingerprint) == 32


def _signal(name: str, step: Step, match: RemoteMatch, observation: Observation) -> Signal:
    bank, entry = f"hma:{name}", f"{match.bank}/{match.content_id}"
    return Signal(
        kind="hash",
        name="pdq",
        source=f"{bank}/{entry}",
        step=step,
        threshold=MOST_BITS,
        bank=bank,
        entry=entry,
        distance=match.distance,
        view="identity",
        quality=observation.inspection.quality,
        exchange=name,
        reaches=Step.REVIEW,
    )
