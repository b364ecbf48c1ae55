"""The service's side of analysis: frames of all streams in, inspections out, by earliest deadline.

One process per core looks at frames; each has a private socket, so that one that dies takes no lock with it. A frame
in a process that dies goes to another at once. A frame whose deadline passed is dropped and counted, never shown late.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import structlog

from detector.analysis import messages
from detector.analysis.answers import ScoreDrift, without_canary
from detector.analysis.blame import Blame
from detector.analysis.channel import Channel, open_channel
from detector.analysis.gpu_keeper import GpuKeeper
from detector.analysis.line import Line, Waiting
from detector.analysis.messages import AnalysisProtocolError, Kind, WorkerReady, WorkerSetup
from detector.analysis.provider_choice import run_by
from models.cascade import TEST, Asking, ModelRule
from models.evidence import Inspection
from models.hashing.scenes import Look
from streams.frame import Frame
from streams.nursery import Nursery, NurseryBroken

log = structlog.get_logger()

MODEL_STAGE = "model:"
_MAX_ATTEMPTS = 2
"""A frame whose process died may have been there by chance; that of a stream which did it before was not."""

_UNKNOWN = Look()
"""A frame of a stream of which nothing is known."""

_EVERYBODY = Asking()

_START_TIMEOUT_SECONDS = 30.0
_RESTART_PAUSE_SECONDS = 0.5


class FrameDropped(Exception):
    """Raised by `AnalysisPool.inspect`: the frame was not looked at. `cause` is stale, overload or crash."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class _WorkerHung(Exception):
    """Raised inside a worker's task: the process gave no sign within the model's time."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many processes, how many frames may wait, and how long one model may think."""

    workers: int
    queue_limit: int
    model_timeout_seconds: float
    setup: WorkerSetup


@dataclass(slots=True)
class _Slot:
    """One place for a process: what is known of the process that fills it now."""

    index: int
    channel: Channel | None = None
    ready: WorkerReady | None = None
    bank_generation: int = -1
    stage: str = ""
    canary: Waiting | None = None
    stream: str = ""


class AnalysisPool:
    """Owns the analysis processes. Use as `async with AnalysisPool(...) as pool`."""

    def __init__(self, settings: PoolSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self.providers: Mapping[str, str] = {}  # what runs a model, by its name, whatever the settings say
        self.slowness: dict[str, float] = {}  # what each look of a model takes longer, in a rehearsal
        self.gpu: GpuKeeper | None = None  # where models run on one; it is entered before the pool and left after
        self._clock = clock
        self._queue = Line()
        self._resting: list[Channel] = []
        self._first_ready = asyncio.Event()
        self._nursery = Nursery(entry="detector.analysis.worker:main")
        self._slots = [_Slot(index) for index in range(settings.workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._next_number = 0
        self._bank_generation = 0
        self._blame = Blame()
        self._drift = ScoreDrift()
        self.restarts = 0
        self.dropped: Counter[str] = Counter()
        self.refused_models: Mapping[str, str] = {}  # configured models that no process is told of, and why

    async def __aenter__(self) -> Self:
        """Start the processes and wait until the first is warm, so that the first frame finds one."""
        await self._nursery.__aenter__()
        self._tasks = [
            asyncio.create_task(self._keep_worker(slot), name=f"analysis[{slot.index}]") for slot in self._slots
        ]
        try:
            async with asyncio.timeout(_START_TIMEOUT_SECONDS):
                await self._first_ready.wait()
        except TimeoutError:
            log.warning("analysis.slow_start", waited_seconds=_START_TIMEOUT_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes; frames still waiting are dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._queue:
            self._drop(self._queue.take_most_urgent(), "stale")
        await self._nursery.__aexit__(kind, error, trace)

    @property
    def workers(self) -> int:
        """How many processes there should be."""
        return len(self._slots)

    @property
    def model_rules(self) -> tuple[ModelRule, ...]:
        """When each of the configured models is asked, in the order in which `Asking` counts them."""
        return tuple(model.rule or ModelRule(model.name) for model in self._settings.setup.models)

    def is_ready(self, process: int) -> bool:
        """Whether the process of that place (0 to `workers` - 1) is warm."""
        return self._slots[process].ready is not None

    @property
    def ready_workers(self) -> int:
        """How many processes are warm."""
        return sum(slot.ready is not None for slot in self._slots)

    @property
    def forkserver_restarts(self) -> int:
        """How often the process that forks the processes was lost."""
        return self._nursery.restarts

    @property
    def bank_generation(self) -> int:
        """Changes with what is in the banks; frames that are handed in from then on are held against that."""
        return self._bank_generation

    @property
    def waiting(self) -> int:
        """How many frames wait for a process."""
        return len(self._queue)

    def state(self) -> WorkerReady | None:
        """What the processes loaded, by the word of one of them; None while none is warm."""
        return next((slot.ready for slot in self._slots if slot.ready is not None), None)

    def problems(self) -> list[str]:
        """One sentence for each thing that an operator should know of."""
        found = [f"model {name} is not in use: {why}" for name, why in sorted(self.refused_models.items())]
        found += self._blame.problems() + ([] if self.gpu is None else self.gpu.problems())
        state = self.state()
        if state is None:
            return [*found, "no analysis process is running; see the log for why they end"]
        found += [f"model {name} is not in use: {why}" for name, why in sorted(state.refused.items())]
        found += [f"bank {name} is not in use: {why}" for name, why in sorted(state.refused_banks.items())]
        return found + self._drift.problems()

    def reconfigure(self, settings: PoolSettings) -> None:
        """Go by other limits from the next frame on: of the queue, of a model's time, of distances, of views.

        Raises:
            ValueError: what only a start can change differs.
        """
        before, setup = self._settings, settings.setup
        changed = replace(before.setup, bank_limits=setup.bank_limits, views=setup.views, banks=setup.banks)
        if replace(changed, read_bases=setup.read_bases) != setup:
            raise ValueError("the processes are set up already")
        self._settings = settings
        if setup != before.setup:
            self.reload_banks()

    def reload_banks(self) -> None:
        """Make every process take up the banks as they are on disk now, between two frames."""
        self._bank_generation += 1
        while self._resting:
            self._resting.pop().wake()

    def restart(self, process: int) -> None:
        """End the process of that place: another one, which loads everything anew, takes its place."""
        channel = self._slots[process].channel
        if channel is not None:
            channel.close()

    async def inspect(
        self,
        frame: Frame,
        *,
        deadline_at: float,
        look: Look | None = _UNKNOWN,
        asking: Asking = _EVERYBODY,
        stream: str = "",
        risk: int = 0,
    ) -> Inspection:
        """Return what is in `frame`; raise `FrameDropped` if it could not be looked at by `deadline_at` (monotonic).

        `look` is what its stream was looked at lately; None for a single picture, which is looked at in every way.
        `asking` says which models are asked, and of what.
        `stream` says whose frame it is, for the blame if it ends its process; without one it stands for itself.
        Where too many wait, the frame of the lowest `risk` goes, the oldest of these first.
        """
        entry = Waiting(deadline_at, self._number(), frame, self._promise(), look, asking, stream, risk)
        self._queue.put(entry)
        while len(self._queue) > self._settings.queue_limit:  # by more than one where the limit was lowered
            self._drop(self._queue.take_least_wanted(), "overload")
        self._wake_one()
        try:
            return await entry.done
        finally:
            # A drop's traceback holds this call: did the call hold the drop, the frame would stay as garbage.
            del entry

    async def inspect_canary(
        self, frame: Frame, process: int, *, deadline_at: float, asking: Asking = TEST
    ) -> Inspection:
        """As `inspect`, but in the process of that place (0 to `workers` - 1) and no other, as its very next frame.

        Only this answer tells of the canary's bank. Raises `FrameDropped` with cause crash when the process ends
        meanwhile, stale when it has not begun by the deadline or a later canary took this one's place.
        """
        slot = self._slots[process]
        if slot.canary is not None:
            self._drop(slot.canary, "stale")
        slot.canary = entry = Waiting(
            deadline_at, self._number(), frame, self._promise(), _UNKNOWN, asking, is_canary=True
        )
        if slot.channel is not None:
            slot.channel.wake()
        try:
            async with asyncio.timeout(deadline_at - self._clock()):
                return await entry.done
        except TimeoutError:
            raise FrameDropped("stale") from None

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _promise(self) -> asyncio.Future[Inspection]:
        return asyncio.get_running_loop().create_future()

    def _drop(self, entry: Waiting, cause: str) -> None:
        if not entry.done.done():
            self.dropped[cause] += not entry.is_canary
            entry.done.set_exception(FrameDropped(cause))

    def _next_entry(self, slot: _Slot) -> Waiting | None:
        canary, slot.canary = slot.canary, None
        if canary is not None and not canary.done.done():
            return canary
        while self._queue:
            entry = self._queue.take_most_urgent()
            if entry.done.done():  # its session ended meanwhile
                continue
            if entry.deadline_at >= self._clock():
                return entry
            self._drop(entry, "stale")
        return None

    async def _keep_worker(self, slot: _Slot) -> None:
        while True:
            was_ready = False
            try:
                links = () if self.gpu is None else self.gpu.descriptors_of(slot.index)
                async with await self._nursery.spawn(extra_fds=links) as child:
                    with contextlib.closing(await open_channel(child.socket)) as channel:
                        await self._set_up(slot, channel)
                        was_ready = True
                        await self._serve(slot, channel)
            except (OSError, EOFError, AnalysisProtocolError, NurseryBroken, TimeoutError, _WorkerHung) as error:
                self._note_loss(slot, error)
            finally:
                slot.ready = slot.channel = None
                self._wake_one()  # for the frame that it may have been woken for
            if not was_ready:  # a process that cannot start would else be started in a tight loop
                await asyncio.sleep(_RESTART_PAUSE_SECONDS)

    def _note_loss(self, slot: _Slot, error: Exception) -> None:
        self.restarts += 1
        model = slot.stage.removeprefix(MODEL_STAGE) if slot.stage.startswith(MODEL_STAGE) else ""
        log.warning("analysis.process_lost", process=slot.index, stage=slot.stage, why=type(error).__name__)
        stream, slot.stage, slot.stream = slot.stream, "", ""
        if not model:
            return
        losses = self._blame.lost(model, stream or f"?{self.restarts}")  # what no stream did is nobody's to repeat
        if losses:
            log.warning("analysis.model_quarantined", model=model, losses=losses)

    async def _set_up(self, slot: _Slot, channel: Channel) -> None:
        setup = self._settings.setup
        self._drift.forget(slot.index)
        models = run_by(self.providers, [model for model in setup.models if model.name not in self._blame.quarantined])
        slot.bank_generation = self._bank_generation
        slot.channel = channel
        patience = 0.0 if self.gpu is None else self._settings.model_timeout_seconds / 2
        told = replace(setup, models=models, slowness=self.slowness, gpu_patience_seconds=patience)
        channel.send(messages.pack_setup(told))
        async with asyncio.timeout(_START_TIMEOUT_SECONDS):
            slot.ready = messages.parse_ready(await self._answer(slot, channel, Kind.READY))
        self._first_ready.set()

    async def _serve(self, slot: _Slot, channel: Channel) -> None:
        while True:
            if slot.bank_generation != self._bank_generation:
                await self._reload(slot, channel)
            entry = self._next_entry(slot)
            if entry is None:
                await self._rest(channel)
            else:
                await self._inspect_one(slot, channel, entry)

    async def _rest(self, channel: Channel) -> None:
        """Wait for work; raise `EOFError` at once if the process dies meanwhile, so that a fresh one is warm soon."""
        self._resting.append(channel)
        try:
            await channel.rest()
        finally:
            if channel in self._resting:
                self._resting.remove(channel)

    def _wake_one(self) -> None:
        """Have one process that rests look for work; those that work look when they are done."""
        while self._queue and self._resting:
            if self._resting.pop().wake():
                return

    async def _inspect_one(self, slot: _Slot, channel: Channel, entry: Waiting) -> None:
        entry.attempts += 1
        slot.stream = entry.stream
        try:
            asking = entry.to_ask(is_behind=len(self._queue) >= len(self._slots))
            left = entry.deadline_at - self._clock()
            channel.send(messages.pack_inspect(entry.number, entry.frame, entry.look, asking, left))
            number, inspection = messages.parse_result(await self._answer(slot, channel, Kind.RESULT))
            if number != entry.number:
                raise AnalysisProtocolError("an answer to another frame")
        except BaseException:
            self._hand_on(entry)
            raise
        slot.stage = slot.stream = ""
        if not entry.done.done():
            if not entry.is_canary:
                self._drift.heard(slot.index, entry.stream, inspection)
            entry.done.set_result(inspection if entry.is_canary else without_canary(inspection))

    def _hand_on(self, entry: Waiting) -> None:
        self._blame.note_stream(entry.stream)
        is_notorious = self._blame.is_notorious(entry.stream)
        if entry.attempts < _MAX_ATTEMPTS and not entry.is_canary and not is_notorious:
            self._queue.put(entry)
            self._wake_one()
        else:
            self._drop(entry, "crash")

    async def _reload(self, slot: _Slot, channel: Channel) -> None:
        slot.bank_generation = self._bank_generation
        channel.send(messages.pack_reload(self._settings.setup))
        slot.ready = messages.parse_ready(await self._answer(slot, channel, Kind.RELOADED))

    async def _answer(self, slot: _Slot, channel: Channel, wanted: Kind) -> bytes:
        """Return the body of the next `wanted` message, noting stages on the way; each step has the model's time."""
        limit = self._settings.model_timeout_seconds if wanted is Kind.RESULT else _START_TIMEOUT_SECONDS
        while True:
            try:
                async with asyncio.timeout(limit):
                    kind, body = await channel.receive()
            except TimeoutError as error:
                raise _WorkerHung(slot.stage) from error
            if kind is Kind.STAGE:
                slot.stage = body[:200].decode("utf-8", "replace")
            elif kind is wanted:
                return body
            else:
                raise AnalysisProtocolError(f"{kind.name} instead of {wanted.name}")
