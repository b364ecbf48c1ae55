"""The cutter itself: believes alerts, cuts whom they mean, and answers with its signature."""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self

import structlog

from detector.alerts.ids import RisingIds
from detector.alerts.mqtt_inbox import Received
from detector.api.view import (
    CutReport,
    HintReport,
    HintRequest,
    NoSuchIncident,
    NoSuchStream,
    UndoReport,
    ViewError,
)
from detector.cut_journal import CutOutcome
from detector.cutter.asked import CUT, REJECTED, UNDER_WAY, Asked
from detector.cutter.book import AskedBook, keep
from detector.cutter.finder import Finder
from detector.cutter.parts import CutterCounters, CutterParts
from detector.cutter.waiting import WaitingAlerts, stream_of
from detector.enforcement import CutTarget
from detector.events import CutState, Publisher, Step, StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.metric_words import CutterWord
from detector.store.faults import StoreUnavailable
from detector.store.incidents import TAKEN_BACK, IncidentNotFound, IncidentRecord
from detector.trust.messages import Ack, AckState, build_ack, read_alert
from detector.trust.signing import MESSAGE_LIMIT_BYTES, NotTrusted, Purpose, Reason, Verified, parse, time_ms

log = structlog.get_logger()

_WAITING_LIMIT: Final = 4096
"""Alerts, of 4 KiB at most, that wait to be read: mosquitto 2.0.11 sends on, whatever it was told of our room."""

_AT_ONCE: Final = 64
"""Cuts at the same time: whose publisher is looked for, and what waits for its next try, takes nobody's place."""

_BEGUN_LIMIT: Final = 2048
"""Cuts under way. While there are so many, the broker keeps the next alerts: it has no answer for them yet."""

_TAKERS: Final = 8
"""Alerts that are written down at the same time: they share what the disk takes for it."""

_AGAIN_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.25
_SLOW_SECONDS: Final = 15.0


class Cutter:
    """Takes alerts by `hear`; `async with` owns every cut under way. Implements `detector.trust.orders.Actor`.

    An alert is on disk before the broker is told that it was taken, and its answer before it is sent: `kill -9` at any
    moment cuts nobody twice and forgets nobody. A disk that refuses does not keep anybody on air: then memory stands
    for it, and `problems` says so.
    """

    def __init__(
        self,
        parts: CutterParts,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counters = CutterCounters(parts.told)
        self._parts = parts
        self._clock = clock
        self._wall_ms = wall_ms
        self._sleep = sleep
        self._ids = RisingIds(wall_ms)
        self._book = AskedBook(parts.asked, parts.seen, self.counters, wall_ms)
        self._finder = Finder(parts.ingest, parts.secret, clock=clock, sleep=sleep)
        self._waiting = WaitingAlerts(_WAITING_LIMIT)
        self._room = asyncio.Semaphore(_BEGUN_LIMIT)
        self._tries = asyncio.Semaphore(_AT_ONCE)
        self._begun: dict[str, float] = {}
        self._awaited: dict[str, asyncio.Future[bytes]] = {}
        self._targets: OrderedDict[str, tuple[str, StreamKey]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble: str | None = None

    async def __aenter__(self) -> Self:
        """Go on with what an earlier run began, then take what comes."""
        self._spawn(self._finder.follow(), "cutter.publishers")
        self._spawn(self._prefer_live(), "cutter.live")
        # Many may be under way, of a server that is down.
        self._spawn(self._resume(await self._book.under_way()), "cutter.resume")
        for number in range(_TAKERS):
            self._spawn(self._take_forever(), f"cutter.take[{number}]")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more; what is under way goes on at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._finder.__aexit__(kind, error, trace)

    async def drain(self, seconds: float) -> None:
        """Let the cuts under way end, for so long at most."""
        until = self._clock() + seconds
        while self._begun and self._clock() < until:
            await self._sleep(0.02)

    async def _resume(self, begun: Iterable[Asked]) -> None:
        for asked in begun:
            log.info("cut.resumed", stream=asked.stream_id, incident=asked.incident_id)
            await self._begin(asked)

    def hear(self, received: Received) -> None:
        """Take an alert in. One that has no room here is left unanswered: its service sends it again."""
        if len(received.payload) > MESSAGE_LIMIT_BYTES:
            self._parts.distrust.note(Purpose.ALERT, Reason.TOO_LARGE)
            received.acknowledge()
            return
        if not self._waiting.put(received):
            self.counters.count(CutterWord.OVERFLOWED)

    def problems(self) -> list[str]:
        """What keeps cuts from being made or remembered, one sentence each."""
        told = self._book.problems()
        slow = sum(self._clock() - begun_at > _SLOW_SECONDS for begun_at in self._begun.values())
        if slow:
            why = f": {self._trouble}" if self._trouble else "; see the ingest server's log"
            told.append(f"{slow} cuts have been under way for more than {_SLOW_SECONDS:.0f} s{why}")
        return told

    # What commands ask for

    async def cut(self, stream: str) -> CutReport:
        """Cut a live stream because an operator says so. Raises NoSuchStream, ViewError."""
        return await self.cut_for(stream, self._ids.next())

    async def cut_for(self, stream: str, incident: str) -> CutReport:
        """As `cut`, under the incident of a service: its undo finds what was cut. Raises NoSuchStream, ViewError."""
        try:
            publisher = await self._finder.find(stream)
        except IngestUnavailable as error:
            raise ViewError(str(error)) from error
        if publisher is None:
            raise NoSuchStream("nobody publishes this stream here")
        outcome = await self._enforce(stream, f"command-{incident}", incident, publisher, publisher.key)
        return CutReport(stream, incident, outcome.state, outcome.count, None, outcome.detail)

    async def undo(self, incident: str) -> UndoReport:
        """Let whom an incident cut publish again, and cut nobody for it any more. Raises NoSuchIncident, ViewError."""
        await self._book.take_back(incident)
        try:
            stream, key = await self._cut_of(incident)
            await self._parts.enforcer.undo(key, stream_id=stream, incident_id=incident)
        except IncidentNotFound as error:
            raise NoSuchIncident("nothing was cut for this incident; nothing will be") from error
        except (IngestUnavailable, StoreUnavailable) as error:
            raise ViewError(str(error)) from error
        with contextlib.suppress(StoreUnavailable, IncidentNotFound):
            await self._parts.incidents.mark_undone(incident, self._wall_ms())
        return UndoReport(incident, stream, is_restored=True, detail="the key may publish again")

    async def _cut_of(self, incident: str) -> tuple[str, StreamKey]:
        """Whose stream an incident cut. Raises IncidentNotFound, StoreUnavailable."""
        if incident in self._targets:
            return self._targets[incident]
        record = await self._parts.incidents.get(incident)
        return record.stream_id, record.key

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        """A cutter looks at nothing."""
        raise NoSuchStream(f"a cutter looks at no stream; send hints of {stream} ({hint.source}) to a service")

    def sample_closer(self, stream: str, detect_within_seconds: float, lasts_seconds: float) -> None:
        """A cutter looks at nothing."""
        raise NoSuchStream(
            f"a cutter looks at no stream; {stream} is a service's ({detect_within_seconds}, {lasts_seconds})"
        )

    # Alerts

    async def _prefer_live(self) -> None:
        """While many wait, know who is on air."""
        while True:
            await self._waiting.until_long()
            with contextlib.suppress(IngestUnavailable):
                self._waiting.prefer(await self._finder.live())
            await asyncio.sleep(_LOOK_SECONDS)

    async def _take_forever(self) -> None:
        while True:
            received = await self._waiting.get()
            try:
                await self._take(received)
            except NotTrusted as error:
                self._parts.distrust.note(Purpose.ALERT, error.reason)
                received.acknowledge()  # or it would come back for ever
                await asyncio.sleep(0)
            except Exception:  # a task's edge: one alert that we cannot handle must not keep the others on air
                log.warning("cutter.fault", exc_info=True)
                received.acknowledge()

    async def _take(self, received: Received) -> None:
        """Believe, remember, tell the broker, begin."""
        if received.is_retained:
            raise NotTrusted(Reason.RETAINED, "the broker kept it: nobody says it now")
        alert, new = self._believe(received.payload, stream_of(received))
        if new is not None:
            known = await self._book.remember(alert, new)
            if known is not new:
                await self._repeat(known)
            else:
                await self._begin(new, is_told=True)
        received.acknowledge()

    def _believe(self, payload: bytes, stream: str) -> tuple[Verified, Asked | None]:
        """The alert, and what it asks for, if that is a cut. Raises NotTrusted."""
        alert = read_alert(payload, self._parts.keys(), stream=stream, now_ms=self._wall_ms())
        if (alert.object.get("action"), alert.object.get("mode")) != ("cut", "live"):
            self.counters.count(CutterWord.IGNORED)
            return alert, None
        return alert, _asked(alert.object)

    async def answer(self, payload: bytes, *, within_seconds: float) -> bytes:
        """Act on an alert that did not come by the broker, and return the signed final answer.

        Empty where none is due, or there is none in time: the same alert again gets it then. Raises NotTrusted.
        """
        alert, new = self._believe(payload, str(parse(payload).get("stream")))
        if new is None:
            return b""
        known = await self._book.remember(alert, new)
        if known is not new:
            self.counters.count(CutterWord.REPEATED)
        if known.is_over and not (known.state == CUT and await self._is_live(known)):
            return known.ack
        waiter = self._awaited.setdefault(known.alert_id, asyncio.get_running_loop().create_future())
        self._spawn(self._begin(known), f"cutter.begin[{known.stream_id}]")
        try:
            async with asyncio.timeout(within_seconds):
                return await asyncio.shield(waiter)
        except TimeoutError:
            return b""

    async def _repeat(self, known: Asked) -> None:
        """It came before: say again what became of it; a publisher that is live all the same is cut once more."""
        self.counters.count(CutterWord.REPEATED)
        if known.alert_id in self._begun:
            await self._answer(known, AckState.RECEIVED)
        elif not known.is_over or (known.state == CUT and await self._is_live(known)):
            await self._begin(known, is_told=True)
        else:
            await self._parts.send_ack(known.stream_id, known.ack)

    async def _is_live(self, known: Asked) -> bool:
        with contextlib.suppress(IngestUnavailable):
            return await self._finder.look_up(known.stream_id) is not None
        return False

    async def _begin(self, asked: Asked, *, is_told: bool = False) -> None:
        """Begin to cut, and return once `received` was said: a broker that does not take that keeps nobody on air."""
        if asked.alert_id in self._begun:
            return
        self._begun[asked.alert_id] = self._clock()
        await self._room.acquire()
        promise = self._spawn(self._answer(asked, AckState.RECEIVED), "cutter.received") if is_told else None
        self._spawn(self._carry_out(asked, promise), f"cutter.cut[{asked.stream_id}]")
        if promise is not None:
            await asyncio.wait({promise})

    async def _carry_out(self, asked: Asked, promise: "asyncio.Task[None] | None") -> None:
        """Try until it is done, refused, or nobody needs it any more; `promise` is said before what became of it."""
        try:
            while self._wall_ms() < asked.expires_at_ms:
                state, detail = await self._try_once(asked)
                if state is not UNDER_WAY:
                    self._trouble = None
                    if promise is not None:
                        await asyncio.wait({promise})
                    await self._conclude(asked, state, detail)
                    return
                self._trouble = detail
                await self._sleep(_AGAIN_SECONDS)
            self.counters.count(CutterWord.EXPIRED)
            log.warning("cut.expired", stream=asked.stream_id, alert=asked.alert_id)
        except Exception:  # a task's edge: the service sends it again, and we try again
            log.warning("cutter.fault", exc_info=True)
        finally:
            self._begun.pop(asked.alert_id, None)
            self._room.release()
            self._tell(asked.alert_id, b"")

    def _tell(self, alert_id: str, ack: bytes) -> None:
        """Give whoever waits for the answer to an alert what there is."""
        waiter = self._awaited.pop(alert_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(ack)

    async def _try_once(self, asked: Asked) -> tuple[str, str]:
        """One try: the state afterwards, `UNDER_WAY` where another is due, and why."""
        if await self._book.is_taken_back(asked.incident_id):
            return REJECTED, TAKEN_BACK
        try:
            publisher = await self._finder.find(asked.stream_id)
        except IngestUnavailable as error:
            return UNDER_WAY, str(error)
        key = publisher.key if publisher is not None else await self._known_key(asked)
        if key is None:
            return REJECTED, "nobody publishes this stream here"
        async with self._tries:
            return _judge(await self._enforce(asked.stream_id, asked.session, asked.incident_id, publisher, key))

    async def _enforce(
        self, stream: str, session: str, incident_id: str, publisher: Publisher | None, key: StreamKey
    ) -> CutOutcome:
        connection = publisher.connection if publisher is not None else ""
        record = IncidentRecord(
            incident_id=incident_id,
            stream_id=stream,
            session=session,
            key=key,
            connection=connection,
            opened_at_ms=self._wall_ms(),
            action=Step.CUT,
            is_live=True,
            signals="asked by a signed alert",
            cut_state=CutState.PENDING,
        )
        with contextlib.suppress(StoreUnavailable):  # it is written when the disk takes it
            await self._parts.incidents.open(record)
        listed_at = self._clock() if publisher is not None else None
        target = CutTarget(stream, session, key, connection or None, incident_id, listed_at)
        keep(self._targets, incident_id, (stream, key))
        # Nothing is waited for from here until the cut is one that an undo finds.
        if self._book.is_taken_back_here(incident_id):
            return CutOutcome(CutState.FAILED, 0, 0, detail=TAKEN_BACK)
        try:
            return await self._parts.enforcer.cut(target, last_packet_at=lambda: listed_at)
        finally:
            self._finder.has_cut()

    async def _conclude(self, asked: Asked, state: str, detail: str) -> None:
        ack = self._signed(asked, AckState(state), detail)
        self.counters.count(CutterWord(state))
        await self._book.answer(asked, state, ack)
        log.info("cutter.answered", stream=asked.stream_id, alert=asked.alert_id, state=state, detail=detail)
        self._tell(asked.alert_id, ack)
        await self._parts.send_ack(asked.stream_id, ack)

    async def _answer(self, asked: Asked, state: AckState) -> None:
        await self._parts.send_ack(asked.stream_id, self._signed(asked, state, ""))

    def _signed(self, asked: Asked, state: AckState, detail: str) -> bytes:
        by = self._parts.node.lower()
        ack = Ack(asked.alert_id, asked.stream_id, state, by, self._wall_ms(), detail or None)
        return build_ack(ack, self._parts.signer)

    async def _known_key(self, asked: Asked) -> StreamKey | None:
        """Whose stream it was when it was cut before: a crash may have come between the cut and its answer."""
        with contextlib.suppress(IncidentNotFound, StoreUnavailable):
            return (await self._parts.incidents.get(asked.incident_id)).key
        return self._finder.key_of(asked.stream_id)

    def _spawn(self, work: Any, name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _judge(outcome: CutOutcome) -> tuple[str, str]:
    """What a cut's outcome means for its alert."""
    if outcome.state is CutState.CONFIRMED:
        return CUT, ""
    if outcome.has_left:
        return CUT, "it had left; its key is denied"
    if outcome.detail == TAKEN_BACK or outcome.state is CutState.UNCUTTABLE:
        return REJECTED, outcome.detail
    return UNDER_WAY, outcome.detail


def _asked(said: Any) -> Asked:
    alert_id, stream = str(said["alert_id"]), str(said["stream"])
    incident_id = str(said.get("incident_id") or alert_id)
    return Asked(alert_id, stream, incident_id, str(said.get("session", "")), time_ms(said["expires_at"]))
