"""The cut: revoke the key, cut the publisher, prove that it is gone, and watch for its return."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol, Self, TypeVar, Unpack

import structlog

from detector.cut_journal import CutOutcome, CutRecords
from detector.cut_work import Clocks, CutWork
from detector.events import CutState, StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable, answer_within
from detector.returns import Pace, ReturnWatch
from detector.store.incidents import TAKEN_BACK

log = structlog.get_logger()

T = TypeVar("T")

_OUTCOMES_KEPT = 1024


@dataclass(frozen=True, slots=True)
class EnforcerSettings:
    """How long each part of a cut may take, in seconds.

    A cut ends within `deadline_seconds`, whatever the ingest server does; one question to the server within
    `call_seconds`; a disk that has to write it down holds it up for `record_seconds` at most. A publisher is gone when
    no packet has come for `quiet_seconds` after the server said that it cut.
    """

    deadline_seconds: float = 15.0
    call_seconds: float = 2.0
    quiet_seconds: float = 1.0
    poll_seconds: float = 0.05
    first_backoff_seconds: float = 0.1
    longest_backoff_seconds: float = 2.0
    drain_seconds: float = 5.0
    record_seconds: float = 0.5

    @property
    def pace(self) -> Pace:
        """The same limits, for publishers who come back."""
        return Pace(self.deadline_seconds, self.call_seconds, self.first_backoff_seconds, self.longest_backoff_seconds)


@dataclass(frozen=True, slots=True)
class CutTarget:
    """Whom to cut.

    `connection` is the server's id of the publisher that was seen; `hit_at` the monotonic arrival of the frame that
    asked for the cut, from which `time_to_cut_ms` counts. `is_by_hand`: an operator asked, and no alert did.
    """

    stream_id: str
    session: str
    key: StreamKey
    connection: str | None = None
    incident_id: str | None = None
    hit_at: float | None = None
    is_by_hand: bool = False


@dataclass(slots=True)
class _Run:
    """One cut under way, shared by everyone who asks for it."""

    target: CutTarget
    last_packet_at: Callable[[], float | None]
    deadline_at: float
    incident_ids: list[str] = field(default_factory=list)
    attempts: int = 0
    count: int = 0
    returns: int = 0
    is_revoked: bool = False
    is_undone: bool = False
    gone_at: float | None = None
    empty_since: float | None = None
    trouble: str = ""
    note: str = ""
    task: "asyncio.Task[CutOutcome] | None" = None


@dataclass(slots=True)
class EnforcerCounters:
    """What happened since the start."""

    cuts_total: dict[CutState, int] = field(default_factory=dict)
    unavailable_total: int = 0


class Cutting(Protocol):
    """Whoever cuts: `Enforcer` here, or `detector.remote.cuts.RemoteCuts` through a cutter elsewhere."""

    async def cut(self, target: CutTarget, *, last_packet_at: Callable[[], float | None]) -> CutOutcome:
        """Cut, and return when it is proved, refused or out of time."""

    async def undo(self, key: StreamKey, *, stream_id: str = "", incident_id: str = "") -> None:
        """Let `key` publish again. Raises `IngestUnavailable`."""

    async def settle(self) -> None:
        """Let what is under way end, for a while."""

    def reconfigure(self, settings: EnforcerSettings) -> None:
        """Go by other limits."""


class Enforcer(CutWork):
    """Cuts publishers of one ingest server; an async context manager that owns every cut under way.

    `clocks` are those of `CutWork`.
    """

    def __init__(
        self,
        ingest: IngestServer,
        records: CutRecords,
        settings: EnforcerSettings | None = None,
        **clocks: Unpack[Clocks],
    ) -> None:
        super().__init__(ingest, records, settings or EnforcerSettings(), **clocks)
        self.counters = EnforcerCounters()
        self._runs: dict[tuple[str, str], _Run] = {}
        self._outcomes: OrderedDict[tuple[str, str], tuple[StreamKey, CutOutcome]] = OrderedDict()
        self._is_settled = False
        pace = self._settings.pace
        self._watch = ReturnWatch(ingest, pace, self._wait_for_cut, clock=self._clock, sleep=self._sleep)

    async def __aenter__(self) -> Self:
        """Begin to watch for publishers of revoked keys."""
        await self._watch.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the cuts under way end, for a while, then give them up."""
        await self._watch.__aexit__(kind, error, trace)
        if not self._is_settled:
            await self.settle()
        await self._give_up()

    async def settle(self) -> None:
        """As `CutWork.settle`, once."""
        self._is_settled = True
        await super().settle()

    def reconfigure(self, settings: EnforcerSettings) -> None:
        """As `CutWork.reconfigure`."""
        super().reconfigure(settings)
        self._watch.pace = settings.pace

    @property
    def returns_total(self) -> int:
        """Publishers of a revoked key that came back after a cut was over, and were cut again."""
        return self._watch.returns_total

    async def cut(self, target: CutTarget, *, last_packet_at: Callable[[], float | None]) -> CutOutcome:
        """Cut, and return when it is proved, refused or out of time; never raises for what the server does.

        Everyone who asks for the same stream and session shares one run and its outcome; a session whose cut was
        confirmed is not cut again. Cancelling a caller does not stop the cut. `last_packet_at` is when a packet last
        reached our reader, None where none ever did.
        """
        identity = (target.stream_id, target.session)
        known = self._outcomes.get(identity)
        if known is not None and self._still_holds(known[1], last_packet_at()):
            if target.incident_id:
                await self.journal.note([target.incident_id], known[1], hit_at=target.hit_at)
            return known[1]
        run = self._runs.get(identity)
        if run is None:
            run = _Run(target, last_packet_at, self._clock() + self._settings.deadline_seconds)
            self._runs[identity] = run
            run.task = self._spawn(self._carry_out(identity, run), f"enforcer.cut[{target.stream_id}]")
        if target.incident_id is not None and target.incident_id not in run.incident_ids:
            run.incident_ids.append(target.incident_id)
        assert run.task is not None
        return await asyncio.shield(run.task)

    async def undo(self, key: StreamKey, *, stream_id: str = "", incident_id: str = "") -> None:
        """Let `key` publish again; a cut of it that is under way is given up. Raises `IngestUnavailable`.

        No restart goes on with it from before the key is allowed again: a crash in between must not cut once more. The
        log says it of the stream and the incident, where they are given.
        """
        for run in self._runs.values():
            run.is_undone = run.is_undone or run.target.key == key
        for identity, (cut_key, _) in list(self._outcomes.items()):
            if cut_key == key:
                del self._outcomes[identity]
        await self.journal.withdraw(incident_id, key)
        await answer_within(self._settings.call_seconds, self._ingest.restore(key))
        log.info("cut.undone", server=key.server, stream=stream_id, incident=incident_id)

    async def _carry_out(self, identity: tuple[str, str], run: _Run) -> CutOutcome:
        refusal = self._why_uncuttable(run.target.key)
        try:
            if refusal:
                outcome = CutOutcome(CutState.UNCUTTABLE, attempts=0, count=0, detail=refusal)
            else:
                if not run.is_undone:  # else a restart would find it begun
                    await self._note(run, CutOutcome(CutState.PENDING, 0, 0))
                outcome = await self._try_until_deadline(run)
        finally:
            del self._runs[identity]
        self.counters.cuts_total[outcome.state] = self.counters.cuts_total.get(outcome.state, 0) + 1
        if not run.is_undone:
            self._outcomes[identity] = (run.target.key, outcome)
            while len(self._outcomes) > _OUTCOMES_KEPT:
                self._outcomes.popitem(last=False)
        say = log.info if outcome.state is CutState.CONFIRMED else log.warning
        say(
            f"cut.{outcome.state.value}",
            stream=run.target.stream_id,
            attempts=outcome.attempts,
            count=outcome.count,
            detail=outcome.detail,
        )
        await self._note(run, outcome)
        return outcome

    async def _note(self, run: _Run, outcome: CutOutcome) -> None:
        await self.journal.note(run.incident_ids, outcome, hit_at=run.target.hit_at)

    def _still_holds(self, outcome: CutOutcome, last_packet_at: float | None) -> bool:
        if outcome.state is CutState.CONFIRMED and outcome.confirmed_at is not None:
            return last_packet_at is None or last_packet_at <= outcome.confirmed_at
        return outcome.state is CutState.UNCUTTABLE and outcome.attempts == 0

    async def _wait_for_cut(self, key: StreamKey) -> None:
        """Return when no cut of `key` is under way."""
        tasks = [run.task for run in self._runs.values() if run.target.key == key and run.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def _why_uncuttable(self, key: StreamKey) -> str:
        if not self._ingest.can_cut:
            return "no ingest server is configured, so nobody can be cut: name one under `ingest`"
        if key.server != self._ingest.name:
            return "the stream is watched by its URL and published elsewhere: cut it there"
        return ""

    async def _try_until_deadline(self, run: _Run) -> CutOutcome:
        backoff = self._settings.first_backoff_seconds
        while not run.is_undone:
            run.attempts += 1
            try:
                outcome = await self._try_once(run)
            except IngestUnavailable as error:
                self.counters.unavailable_total += 1
                # A question that our own deadline cut short says less than the trouble before it.
                if not run.trouble or self._clock() < run.deadline_at:
                    run.trouble = str(error)
                outcome = None
            if outcome is not None:
                return outcome
            left = run.deadline_at - self._clock()
            if left <= 0:
                break
            await self._sleep(min(backoff, left))
            backoff = min(2 * backoff, self._settings.longest_backoff_seconds)
        detail = TAKEN_BACK if run.is_undone else run.trouble or "no proof came in time"
        return self._outcome(run, CutState.FAILED, detail)

    async def _try_once(self, run: _Run) -> CutOutcome | None:
        """Revoke, cut, verify; None where another attempt is due.

        Where the key is denied before that is on disk, nothing waits for the disk but the verdict.
        """
        revoking = None
        if not run.is_revoked:
            revoking = self._spawn(self._revoke(run), f"enforcer.revoke[{run.target.stream_id}]")
            await asyncio.sleep(0)  # its first step: what can be denied in memory is denied now
            if not self._ingest.is_revoked(run.target.key):
                await asyncio.shield(revoking)
        try:
            await self._drop(run)
            answered_at = self._clock()
            if await self._is_listed(run):
                run.trouble = "the ingest server still lists the publisher"
                run.empty_since = None
                return None
            is_quiet = await self._wait_for_quiet(run, answered_at)
            if await self._is_listed(run):
                run.returns += 1
                run.trouble = "the publisher came back"
                run.empty_since = None
                return None
        finally:
            if revoking is not None:
                await asyncio.shield(revoking)
        if not run.is_revoked:
            run.trouble = run.trouble or "the key could not be revoked"
            return None
        if run.count and is_quiet:
            return self._outcome(run, CutState.CONFIRMED, run.note)
        return self._judge_nobody(run, answered_at, is_quiet=is_quiet)

    def _judge_nobody(self, run: _Run, answered_at: float, *, is_quiet: bool) -> CutOutcome | None:
        """What it means that the server lists nobody, while either packets keep arriving or it never cut anyone."""
        if is_quiet:
            if run.attempts > 1:
                return replace(
                    self._outcome(
                        run, CutState.FAILED, "the publisher had left before it could be cut; its key is revoked"
                    ),
                    has_left=True,
                )
            return None
        run.trouble = "packets keep arriving"
        if run.count:
            return None
        if run.empty_since is None:
            run.empty_since = answered_at
            return None
        return self._outcome(
            run,
            CutState.UNCUTTABLE,
            "the ingest server knows no such publisher, yet packets keep arriving: stop it there",
        )

    async def _revoke(self, run: _Run) -> None:
        if run.is_undone:
            return  # taken back before this began: what was allowed a moment ago stays allowed
        try:
            await self._ask_in_time(run, self._ingest.revoke(run.target.key))
            run.is_revoked = True
        except IngestUnavailable as error:
            # Cut all the same: every second on air counts, and the next attempt revokes again.
            self.counters.unavailable_total += 1
            run.trouble = str(error)

    async def _drop(self, run: _Run) -> None:
        key = run.target.key
        result = await self._ask_in_time(run, self._ingest.cut(key, run.target.connection))
        if result.count == 0 and run.target.connection is not None and not run.is_undone:
            # The publisher may have reconnected since it was seen. Its key is denied: whoever holds it now goes too.
            result = await self._ask_in_time(run, self._ingest.cut(key))
        run.count += result.count
        run.note = result.note or run.note
        if result.gone_at is not None:
            run.gone_at = max(result.gone_at, run.gone_at or result.gone_at)

    async def _wait_for_quiet(self, run: _Run, answered_at: float) -> bool:
        give_up_at = min(answered_at + 2 * self._settings.quiet_seconds, run.deadline_at)
        return await self._is_quiet(
            run.last_packet_at, answered_at, give_up_at=give_up_at, is_over=lambda: run.is_undone
        )

    async def _is_listed(self, run: _Run) -> bool:
        listed = await self._ask_in_time(run, self._ingest.publishers())
        return any(publisher.key == run.target.key for publisher in listed)

    def _outcome(self, run: _Run, state: CutState, detail: str) -> CutOutcome:
        is_confirmed = state is CutState.CONFIRMED
        return CutOutcome(
            state=state,
            attempts=run.attempts,
            count=run.count,
            gone_at=(run.gone_at if run.gone_at is not None else run.last_packet_at()) if is_confirmed else None,
            confirmed_at=self._clock() if is_confirmed else None,
            returns=run.returns,
            detail=detail,
        )

    async def _ask_in_time(self, run: _Run, question: Awaitable[T]) -> T:
        left = run.deadline_at - self._clock()
        return await answer_within(max(0.0, min(self._settings.call_seconds, left)), question)
