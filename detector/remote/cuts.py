"""Cuts by a cutter elsewhere: waited for until it acknowledges, then proved by our own eyes."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, Unpack

import structlog

from detector.cut_journal import CutOutcome, CutRecords
from detector.cut_work import Clocks, CutWork
from detector.enforcement import CutTarget, EnforcerSettings
from detector.events import CutState, StreamKey
from detector.ingest.adapter import IngestServer, IngestUnavailable, answer_within
from detector.metric_words import RemoteWord
from detector.remote.desk import AnswerDesk, Awaited
from detector.remote.parts import RemoteCounters, Surroundings
from detector.store.faults import StoreUnavailable
from detector.store.incidents import TAKEN_BACK
from detector.trust.messages import Ack, AckState

log = structlog.get_logger()

_OUTCOMES_KEPT: Final = 1024
_UNSEEN_KEPT: Final = 1024
_TASKS_LIMIT: Final = 4096


@dataclass(slots=True)
class _Run:
    """One cut that is waited for, shared by everyone who asks for it."""

    target: CutTarget
    last_packet_at: Callable[[], float | None]
    done: "asyncio.Future[CutOutcome]"
    incident_ids: list[str] = field(default_factory=list)


class RemoteCuts(CutWork):
    """As `detector.enforcement.Enforcer`, for cuts that a cutter elsewhere makes.

    A cut is confirmed when the cutter said so, its server lists the publisher no more where we can ask it, and no
    packet has reached our reader for a second. If that is not so, the alert goes out again and health is red.
    """

    def __init__(
        self,
        ingest: IngestServer,
        records: CutRecords,
        desk: AnswerDesk,
        surroundings: Surroundings,
        settings: EnforcerSettings | None = None,
        **clocks: Unpack[Clocks],
    ) -> None:
        super().__init__(ingest, records, settings or EnforcerSettings(), **clocks)
        self.counters = RemoteCounters()
        self._desk = desk
        self._around = surroundings
        self._runs: dict[tuple[str, str], _Run] = {}
        self._outcomes: OrderedDict[tuple[str, str], CutOutcome] = OrderedDict()
        self._ended: OrderedDict[str, tuple[StreamKey, str]] = OrderedDict()
        self._proofs: dict[str, asyncio.Task[None]] = {}
        self._unproved: dict[str, float] = {}
        self._refused: dict[str, None] = {}

    async def __aenter__(self) -> Self:
        """Begin to listen to what comes in by `hear`."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop waiting: the alerts are on disk, and the next start goes on."""
        await self._give_up()

    async def cut(self, target: CutTarget, *, last_packet_at: Callable[[], float | None]) -> CutOutcome:
        """Wait until the cutter's work is proved, refused or out of time; as `Enforcer.cut`.

        The alert is on its way already; only a cut by hand, which has none, is asked for here. What comes after the
        deadline is still heard, proved and written down.
        """
        identity = (target.stream_id, target.session)
        known = self._outcomes.get(identity)
        if known is not None and known.confirmed_at is not None:
            last_at = last_packet_at()
            if last_at is None or last_at <= known.confirmed_at:
                if target.incident_id:
                    await self.journal.note([target.incident_id], known, hit_at=target.hit_at)
                return known
        run = self._runs.get(identity)
        is_new = run is None
        if run is None:
            run = self._runs[identity] = _Run(target, last_packet_at, asyncio.get_running_loop().create_future())
        if target.incident_id is not None and target.incident_id not in run.incident_ids:
            run.incident_ids.append(target.incident_id)
        if is_new:
            self._spawn(self._wait(identity, run), f"remote.cut[{target.stream_id}]")
        return await asyncio.shield(run.done)

    async def undo(self, key: StreamKey, *, stream_id: str = "", incident_id: str = "") -> None:
        """Have the cutter let `key` publish again; what was on its way to be cut is called back.

        Raises `IngestUnavailable` where the cutter does not answer: then nothing is restored for sure.
        """
        for awaited in self._desk.of_incident(incident_id):
            proof = self._proofs.pop(awaited.alert_id, None)
            if proof is not None:  # it would deny the key once more
                proof.cancel()
            await self._end(awaited)
        self._ended.pop(incident_id, None)
        self._unproved.pop(stream_id, None)
        self._refused.pop(stream_id, None)
        with contextlib.suppress(StoreUnavailable):
            for alert_id in await self._around.open_of(incident_id):  # a broker that is away was never shown it
                await self._around.settle(alert_id)
        for identity, run in list(self._runs.items()):
            if run.target.key == key:
                self._finish(identity, run, CutOutcome(CutState.FAILED, 0, 0, detail=TAKEN_BACK))
        for identity in [identity for identity in self._outcomes if identity[0] == stream_id]:
            del self._outcomes[identity]
        await self.journal.withdraw(incident_id, key)
        if self._ingest.can_cut:
            await answer_within(self._settings.call_seconds, self._ingest.restore(key))
        await self._around.order_undo(incident_id)
        log.info("cut.undone", server=key.server, stream=stream_id, incident=incident_id)

    def hear(self, ack: Ack) -> None:
        """Take a believed acknowledgement; what waits for none is counted and passed over."""
        awaited = self._desk.find(ack.alert_id)
        if awaited is not None:
            self._take(ack, awaited)
        elif self._desk.is_over(ack.alert_id) or len(self._tasks) >= _TASKS_LIMIT:
            self._pass_over()
        else:
            self._spawn(self._find(ack), f"remote.find[{ack.stream}]")

    def _count(self, word: RemoteWord) -> None:
        self.counters.by_word_total[word] += 1
        self._around.count(word)

    def _pass_over(self) -> None:
        self.counters.unknown_total += 1
        self._around.unknown_ack()

    async def _find(self, ack: Ack) -> None:
        """What an earlier run sent is answered now, before this one has come to send it again."""
        try:
            awaited = await self._around.find_open(ack.alert_id)
        except StoreUnavailable:
            awaited = None
        if awaited is None:
            self._pass_over()
        else:
            self._take(ack, awaited)

    def _take(self, ack: Ack, awaited: Awaited) -> None:
        if awaited.stream_id != ack.stream:
            self._pass_over()
        elif ack.state is AckState.RECEIVED:
            self._count(RemoteWord.RECEIVED)
            self._desk.hold(awaited, self._clock())
        elif ack.state is AckState.REJECTED:
            self._count(RemoteWord.REJECTED)
            log.warning("cut.rejected", stream=ack.stream, alert=ack.alert_id, by=ack.by, detail=ack.detail or "")
            self._spawn(self._reject(awaited, ack), f"remote.reject[{ack.stream}]")
        elif ack.alert_id not in self._proofs:
            self._count(RemoteWord.CUT)
            task = self._spawn(self._prove(awaited), f"remote.prove[{ack.stream}]")
            self._proofs[ack.alert_id] = task
            task.add_done_callback(lambda _: self._proofs.pop(ack.alert_id, None))

    def problems(self) -> list[str]:
        """What must be seen to: a cutter that does not answer, and streams that it says are cut and are not."""
        self._desk.drop_expired(round(self._wall_clock() * 1000))
        told = []
        overdue = sum(1 for _ in self._desk.overdue(self._clock()))
        if overdue:
            told.append(
                f"the cutter has not answered {overdue} cuts for more than a few seconds: see that 'stopframe cutter' "
                "runs and reaches its ingest server, and that its key may ack under trust.trusted_keys"
            )
        gone = [stream for stream in self._unproved if self._around.last_packet_at(stream) is None]
        for stream in gone:
            del self._unproved[stream]
        self._refused = {s: None for s in self._refused if self._around.last_packet_at(s) is not None}
        if self._refused:
            told.append(
                f"the cutter refused to cut {len(self._refused)} streams that are still live: see its log; its secret "
                "must be a copy of this node's state_dir/secrets/deployment, its ingest the server of these streams"
            )
        if self._unproved:
            told.append(
                f"{len(self._unproved)} streams are cut by the cutter's word, yet packets keep arriving: "
                "stop them at the ingest server"
            )
        return told

    async def _wait(self, identity: tuple[str, str], run: _Run) -> None:
        """Give everyone who waits an outcome, whatever breaks."""
        try:
            await self._wait_until_deadline(identity, run)
        except (
            Exception
        ):  # a fault of ours, told where the task ends: nobody may wait for ever, the next hit tries again
            if not run.done.done():
                self._finish(
                    identity, run, CutOutcome(CutState.FAILED, 0, 0, detail="a fault of Stopframe: see its log")
                )
            await self.journal.note(run.incident_ids, run.done.result(), hit_at=run.target.hit_at)
            raise

    async def _wait_until_deadline(self, identity: tuple[str, str], run: _Run) -> None:
        """Ask for the cut where no alert does, and give up waiting at the deadline."""
        await self.journal.note(run.incident_ids, CutOutcome(CutState.PENDING, 0, 0), hit_at=run.target.hit_at)
        trouble = "the cutter has not answered in time; its alert goes out again"
        try:
            async with asyncio.timeout(self._settings.deadline_seconds):
                if run.target.is_by_hand or not await self._is_on_its_way(run.target.incident_id):
                    await self._around.order_cut(run.target.stream_id, run.target.incident_id)
                    outcome = await self._look(run.target.stream_id, run)
                    if outcome.state is CutState.CONFIRMED:
                        await self._deny_keys(run.target.stream_id, {run.target.key})
                    self._finish(identity, run, outcome)
                await asyncio.shield(run.done)
        except IngestUnavailable as error:
            trouble = str(error)
        except TimeoutError:
            pass
        if not run.done.done():
            self._count(RemoteWord.UNANSWERED)
            self._finish(identity, run, CutOutcome(CutState.FAILED, 1, 0, detail=trouble))
        await self.journal.note(run.incident_ids, run.done.result(), hit_at=run.target.hit_at)

    async def _is_on_its_way(self, incident_id: str | None) -> bool:
        """Whether an alert asks for this cut: what an operator released from the breaker was told as a review."""
        if incident_id is None or self._desk.of_incident(incident_id):
            return True
        try:
            return bool(await self._around.open_of(incident_id))
        except StoreUnavailable:  # then it goes out from memory
            return True

    def _finish(self, identity: tuple[str, str], run: _Run, outcome: CutOutcome) -> None:
        """Give everyone who waits the outcome."""
        if self._runs.get(identity) is run:
            del self._runs[identity]
        self._remember(identity, run, outcome)
        if not run.done.done():
            say = log.info if outcome.state is CutState.CONFIRMED else log.warning
            say(
                f"cut.{outcome.state.value}",
                stream=run.target.stream_id,
                attempts=outcome.attempts,
                count=outcome.count,
                detail=outcome.detail,
            )
            run.done.set_result(outcome)

    def _remember(self, identity: tuple[str, str], run: _Run, outcome: CutOutcome) -> None:
        self._outcomes[identity] = outcome
        while len(self._outcomes) > _OUTCOMES_KEPT:
            self._outcomes.popitem(last=False)
        for incident_id in run.incident_ids:  # an answer after the deadline still finds them
            self._ended[incident_id] = (run.target.key, run.target.session)
        while len(self._ended) > _OUTCOMES_KEPT:
            self._ended.popitem(last=False)

    async def _reject(self, awaited: Awaited, ack: Ack) -> None:
        if self._around.last_packet_at(awaited.stream_id) is not None and len(self._refused) < _UNSEEN_KEPT:
            self._refused[awaited.stream_id] = None
        await self._end(awaited)
        detail = f"the cutter {ack.by} refused: {ack.detail or 'it gave no reason'}"
        await self._conclude(awaited, CutOutcome(CutState.FAILED, 1, 0, detail=detail))

    async def _prove(self, awaited: Awaited) -> None:
        """The cutter says that it cut: look for ourselves."""
        run = next((run for _, run in self._runs_of(awaited)), None)
        outcome = await self._look(awaited.stream_id, run)
        if outcome.state is CutState.CONFIRMED:
            self._unproved.pop(awaited.stream_id, None)
            await self._end(awaited)
        else:
            self._count(RemoteWord.UNPROVED)
            if len(self._unproved) < _UNSEEN_KEPT:
                self._unproved[awaited.stream_id] = self._clock()
            self._desk.release(awaited)
            self._around.send_again(awaited.stream_id)
        await self._conclude(awaited, outcome)

    async def _look(self, stream_id: str, run: _Run | None) -> CutOutcome:
        """Whether no packet comes for `quiet_seconds` and the server, where it can be asked, lists nobody."""
        settings = self._settings
        last_packet_at = run.last_packet_at if run is not None else lambda: self._around.last_packet_at(stream_id)
        answered_at = self._clock()
        give_up_at = answered_at + 2 * settings.quiet_seconds
        if not await self._is_quiet(last_packet_at, answered_at, give_up_at=give_up_at):
            return CutOutcome(
                CutState.UNCUTTABLE, 1, 0, detail="the cutter says that it cut, yet packets keep arriving"
            )
        if await self._is_listed(stream_id):
            return CutOutcome(CutState.UNCUTTABLE, 1, 0, detail="the cutter says that it cut, yet the server lists it")
        return CutOutcome(CutState.CONFIRMED, 1, 1, gone_at=last_packet_at(), confirmed_at=self._clock())

    async def _is_listed(self, stream_id: str) -> bool:
        """Where the server cannot be asked from here, the packets that do not come must do."""
        try:
            listed = await answer_within(self._settings.call_seconds, self._ingest.publishers())
        except IngestUnavailable:
            return False
        key = next((one.key for one in listed if self._around.stream_of(one.key) == stream_id), None)
        return key is not None

    async def _conclude(self, awaited: Awaited, outcome: CutOutcome) -> None:
        """Tell whoever waits; where nobody does any more, write it down all the same."""
        runs = list(self._runs_of(awaited))
        if outcome.state is CutState.CONFIRMED:
            await self._deny(awaited, [run.target.key for _, run in runs])
        for identity, run in runs:
            self._finish(identity, run, outcome)
        if not runs and awaited.incident_id is not None:
            await self.journal.note([awaited.incident_id], outcome, hit_at=None)

    async def _deny(self, awaited: Awaited, keys: list[StreamKey]) -> None:
        """Where an ingest server asks us who may publish, whom the cutter cut may not."""
        late = self._ended.get(awaited.incident_id or "")
        await self._deny_keys(awaited.stream_id, {*keys, *([late[0]] if late else [])})

    async def _deny_keys(self, stream_id: str, keys: Iterable[StreamKey]) -> None:
        for key in keys:
            if self._ingest.can_cut and key.server == self._ingest.name:
                try:
                    await answer_within(self._settings.call_seconds, self._ingest.revoke(key))
                except IngestUnavailable as error:
                    log.warning("cut.key_not_denied_here", stream=stream_id, why=str(error))

    async def _end(self, awaited: Awaited) -> None:
        self._desk.settle(awaited.alert_id)
        await self._around.settle(awaited.alert_id)

    def _runs_of(self, awaited: Awaited) -> list[tuple[tuple[str, str], _Run]]:
        return [
            (identity, run)
            for identity, run in self._runs.items()
            if awaited.incident_id in run.incident_ids
            or (awaited.incident_id is None and run.target.stream_id == awaited.stream_id)
        ]

    def _has_ended(self, task: "asyncio.Task[Any]") -> None:
        super()._has_ended(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            stream = task.get_name().partition("[")[2].rstrip("]")
            log.error("cut.broke", stream=stream, exc_info=error)
