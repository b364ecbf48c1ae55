"""Signed commands over MQTT: heard, believed in their order, obeyed, and answered."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from detector.alerts.mqtt_inbox import Hear, Received
from detector.alerts.sink import Receipt, SinkUnavailable
from detector.store.faults import StoreUnavailable
from detector.trust.distrust import Distrust
from detector.trust.messages import (
    Answer,
    Command,
    Result,
    answer_topic,
    build_answer,
    command_topic,
    read_command,
)
from detector.trust.orders import Actor, obey
from detector.trust.replay import CommandNumbers
from detector.trust.signing import NodeSigner, NotTrusted, Purpose, Reason, TrustedKeys

log = structlog.get_logger()

_WAITING_LIMIT: Final = 64
"""Commands that were heard and not looked at yet."""

_PER_SECOND: Final = 50.0
"""Messages looked at: what a signature costs to verify is bounded, whoever sends how many."""

_AT_ONCE: Final = 16
"""Commands under way: a cut is proved within seconds, and another stream's must not wait for it."""

_ANSWER_EXPIRES_SECONDS: Final = 60


class Line(Protocol):
    """The connection that commands come through."""

    def listen(self, topic_filter: str, hear: Hear) -> None:
        """As `MqttSink.listen`."""

    async def send(self, topic: str, payload: bytes, *, expires_in_seconds: int) -> Receipt:
        """As `MqttSink.send`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskParts:
    """What the desk is made of. `keys` returns those in force; `wall_ms` is the wall clock."""

    line: Line
    prefix: str
    signer: NodeSigner
    keys: Callable[[], TrustedKeys]
    numbers: CommandNumbers
    distrust: Distrust
    told: Callable[[Result], None] = lambda _result: None
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


class CommandDesk:
    """Takes commands for one node: `async with`, then `listen` whenever the trusted keys may have changed.

    Nothing is subscribed while no key may command. A message that is not believed is counted and gets no answer: who
    may not command learns nothing, and can make nobody else hear anything.
    """

    def __init__(self, actor: Actor, parts: DeskParts, clock: Callable[[], float] = time.monotonic) -> None:
        self._actor = actor
        self._parts = parts
        self._clock = clock
        self._waiting: asyncio.Queue[Received] = asyncio.Queue(_WAITING_LIMIT)
        self._allowance = _PER_SECOND
        self._allowed_at = clock()
        self._under_way: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to obey."""
        self._task = asyncio.create_task(self._run(), name="commands")
        self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more; what is under way is left to the parts that do it."""
        tasks = [task for task in (self._task, *self._under_way) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def listen(self) -> None:
        """Subscribe to this node's commands as soon as any key may give them."""
        if self._parts.keys().any_may(Purpose.COMMAND.value):
            self._parts.line.listen(command_topic(self._parts.prefix, self._parts.signer.node, "+"), self.hear)

    def hear(self, received: Received) -> None:
        """Take a message in; what is too much is dropped and counted before anything is looked at."""
        now = self._clock()
        self._allowance = min(_PER_SECOND, self._allowance + (now - self._allowed_at) * _PER_SECOND)
        self._allowed_at = now
        if self._allowance < 1.0 or self._waiting.full():
            self._parts.distrust.note(Purpose.COMMAND, Reason.TOO_MANY)
            return
        self._allowance -= 1.0
        self._waiting.put_nowait(received)

    async def _run(self) -> None:
        while True:
            received = await self._waiting.get()
            try:
                command = self._believe(received)
                await self._parts.numbers.take(str(command.key_id), command.seq)
            except NotTrusted as error:
                self._parts.distrust.note(Purpose.COMMAND, error.reason)
                await asyncio.sleep(0)  # a flood of them must not hold up frames and alerts
            except StoreUnavailable:
                # It could be sent again and would be obeyed twice: so it is not obeyed at all.
                await self._answer(command, Result.REFUSED, "disk")
            else:
                await self._begin(command)

    def _believe(self, received: Received) -> Command:
        parts = self._parts
        if received.is_retained:
            raise NotTrusted(Reason.RETAINED, "the broker kept it: nobody says it now")
        name = received.topic.rsplit("/", 1)[-1]
        return read_command(received.payload, parts.keys(), node=parts.signer.node, name=name, now_ms=parts.wall_ms())

    async def _begin(self, command: Command) -> None:
        """Obey, in the order in which they came; a slow one holds up nobody until too many are under way."""
        if len(self._under_way) >= _AT_ONCE:
            await self._answer(command, Result.REFUSED, "busy")
            return
        task = asyncio.create_task(self._obey(command), name=f"command[{command.command.value}]")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.sleep(0)

    async def _obey(self, command: Command) -> None:
        try:
            result, reason = await obey(self._actor, command.command, command.arguments)
        except Exception:  # a task's edge: whoever commands hears of a fault of ours
            log.warning("command.fault", command=command.command.value, exc_info=True)
            result, reason = Result.FAILED, "fault"
        await self._answer(command, result, reason)

    async def _answer(self, command: Command, result: Result, reason: str) -> None:
        parts = self._parts
        log.info(
            "command.answered",
            command=command.command.value,
            key=command.key_id,
            seq=command.seq,
            result=result.value,
            reason=reason,
        )
        parts.told(result)
        answer = Answer(
            parts.signer.node, command.command, str(command.key_id), command.seq, result, reason, parts.wall_ms()
        )
        topic = answer_topic(parts.prefix, parts.signer.node)
        with contextlib.suppress(SinkUnavailable):  # it was obeyed; whoever asked sees that in the stream's status
            await parts.line.send(
                topic, build_answer(answer, parts.signer.signer), expires_in_seconds=_ANSWER_EXPIRES_SECONDS
            )
