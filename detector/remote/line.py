"""What is said between the service and its cutter beside alerts: acknowledgements, commands and their answers."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from detector.alerts.mqtt_inbox import Received
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.ingest.adapter import IngestUnavailable
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.trust.commands import Line
from detector.trust.distrust import Distrust
from detector.trust.messages import (
    Ack,
    Command,
    CommandName,
    Result,
    ack_topic,
    answer_topic,
    build_command,
    command_topic,
    read_ack,
)
from detector.trust.signing import NodeSigner, NotTrusted, Purpose, Reason, TrustedKeys, parse

log = structlog.get_logger()

_ACKS_PER_SECOND: Final = 200.0
"""Acknowledgements whose signature is verified: what that costs is bounded, whoever sends how many."""

_COMMAND_LIFE_MS: Final = 60_000
_ANSWER_SECONDS: Final = 5.0
_WAITING_LIMIT: Final = 64


def wall_ms() -> int:
    """Milliseconds since the epoch: what others compare with their own clocks."""
    return time.time_ns() // 1_000_000


class AckEar:
    """Hears acknowledgements, over MQTT and in answers of the webhook, and hands on those that are believed.

    What is no acknowledgement at all, and what is too much, is passed over before its signature is looked at.
    """

    def __init__(
        self,
        keys: Callable[[], TrustedKeys],
        distrust: Distrust,
        hear: Callable[[Ack], None],
    ) -> None:
        self._keys = keys
        self._distrust = distrust
        self._hear = hear
        self._allowance = _ACKS_PER_SECOND
        self._allowed_at = 0.0

    def listen(self, line: Line, prefix: str) -> None:
        """Subscribe to the acknowledgements of all streams."""
        line.listen(ack_topic(prefix, "+"), self.take)

    def take(self, received: Received) -> None:
        """Take what came over MQTT."""
        if received.is_retained:
            self._distrust.note(Purpose.ACK, Reason.RETAINED)
        else:
            self._read(received.payload, received.topic.split("/")[-2])

    def take_body(self, notice: Notice, body: bytes) -> None:
        """Take what an endpoint answered to one alert; an answer that is no acknowledgement is none."""
        if body.lstrip().startswith(b"{") and b'"sig"' in body:
            self._read(body, notice.stream_id)

    def _read(self, payload: bytes, stream: str) -> None:
        try:
            self._spend()
            ack = read_ack(payload, self._keys(), stream=stream, now_ms=wall_ms())
        except NotTrusted as error:
            self._distrust.note(Purpose.ACK, error.reason)
        else:
            self._hear(ack)

    def _spend(self) -> None:
        now = time.monotonic()
        self._allowance = min(_ACKS_PER_SECOND, self._allowance + (now - self._allowed_at) * _ACKS_PER_SECOND)
        self._allowed_at = now
        if self._allowance < 1.0:
            raise NotTrusted(Reason.TOO_MANY, "too many came at once")
        self._allowance -= 1.0


class Orders:
    """Signed commands to one other node, each answered or refused by name.

    Numbers rise across restarts: the last one is on disk, and where no disk takes it the wall clock stands for it.
    """

    def __init__(
        self,
        line: Line,
        database: Database,
        signer: NodeSigner,
        keys: Callable[[], TrustedKeys],
        *,
        prefix: str,
        node: str,
    ) -> None:
        self._line = line
        self._database = database
        self._signer = signer
        self._keys = keys
        self._prefix = prefix
        self._node = node
        self._last_seq = 0
        self._waiting: dict[int, asyncio.Future[tuple[Result, str]]] = {}

    def listen(self) -> None:
        """Subscribe to the node's answers."""
        self._line.listen(answer_topic(self._prefix, self._node), self.take)

    async def order(self, name: CommandName, arguments: dict[str, Any]) -> tuple[Result, str]:
        """Command, and return the answer.

        Raises:
            IngestUnavailable: the node cannot be reached, or does not answer within five seconds.
        """
        if len(self._waiting) >= _WAITING_LIMIT:
            raise IngestUnavailable(f"too many commands wait for an answer of {self._node}; try again later")
        seq, now_ms = await self._next_seq(), wall_ms()
        command = Command(self._node, name, arguments, seq, now_ms, now_ms + _COMMAND_LIFE_MS)
        answer: asyncio.Future[tuple[Result, str]] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = answer
        topic = command_topic(self._prefix, self._node, name.value)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                receipt = await self._line.send(
                    topic, build_command(command, self._signer.signer), expires_in_seconds=_COMMAND_LIFE_MS // 1000
                )
                if receipt is not Receipt.ACCEPTED:
                    raise IngestUnavailable(
                        f"the broker does not hand {topic} on ({receipt.value}); "
                        "start the cutter, or let this node's user write there in its ACL"
                    )
                return await answer
        except SinkUnavailable as error:
            raise IngestUnavailable(f"the cutter {self._node} cannot be reached: {error}; see the broker") from None
        except TimeoutError:
            raise IngestUnavailable(
                f"the cutter {self._node} has not answered yet; see that it runs and trusts this node's key to command"
            ) from None
        finally:
            self._waiting.pop(seq, None)

    def take(self, received: Received) -> None:
        """Take what came as an answer; one that answers nothing of ours is passed over."""
        try:
            said = parse(received.payload)
            waiting = self._waiting.get(said.get("seq", 0)) if said.get("to") == self._signer.signer.key_id else None
            if waiting is None or waiting.done() or received.is_retained:
                return
            self._keys().verify(said, Purpose.ANSWER, now_ms=wall_ms())
            if said.get("node") != self._node:
                raise NotTrusted(Reason.OTHER_NODE, "it is another node's answer")
            waiting.set_result((Result(str(said.get("result"))), str(said.get("reason"))[:200]))
        except NotTrusted as error:
            log.info("cutter.answer_refused", reason=error.reason.value)
        except (ValueError, TypeError):
            log.info("cutter.answer_refused", reason=Reason.MALFORMED.value)

    async def _next_seq(self) -> int:
        try:
            async with asyncio.timeout(1.0):
                stored = await self._database.write(lambda c: _count(c, max(self._last_seq + 1, wall_ms())))
        except (StoreUnavailable, TimeoutError):
            stored = max(self._last_seq + 1, wall_ms())
        self._last_seq = max(self._last_seq + 1, stored)
        return self._last_seq


def _count(connection: sqlite3.Connection, at_least: int) -> int:
    row = connection.execute("SELECT value FROM counters WHERE name = 'command_seq'").fetchone()
    value = max(at_least, int(row[0]) + 1 if row else 0)
    connection.execute("INSERT OR REPLACE INTO counters VALUES ('command_seq', ?)", (value,))
    return value
