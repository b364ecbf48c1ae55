"""From the config to the parts that wait for a cutter elsewhere."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Self

from detector.alerts.delivery import Delivery
from detector.alerts.mqtt import MqttSink
from detector.alerts.sink import Notice, Sink
from detector.alerts.urgency import Urgency
from detector.alerts.webhook import WebhookSink
from detector.config.config import Config
from detector.credentials import stream_id
from detector.ingest.adapter import IngestServer, IngestUnavailable
from detector.metric_words import RemoteWord
from detector.remote.cuts import RemoteCuts
from detector.remote.desk import AnswerDesk, AnswerSettings, Awaited
from detector.remote.line import AckEar, Orders
from detector.remote.parts import Surroundings
from detector.remote.ways import AnsweredSink, await_answer
from detector.settings import enforcer_settings
from detector.store.database import Database
from detector.store.incidents import Incidents
from detector.store.outbox import Outbox, OutgoingAlert
from detector.trust.commands import Line
from detector.trust.distrust import Distrust
from detector.trust.messages import CommandName, Result
from detector.trust.signing import NodeSigner, TrustedKeys

_ENOUGH_SECONDS = 10.0
"""So much longer than the second channel a cut may go unanswered until that is a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteParts:
    """What the service has, and remote cuts need. `line` is where the cutter answers, by default the MQTT sink."""

    delivery: Delivery
    ingest: IngestServer
    incidents: Incidents
    database: Database
    signer: NodeSigner
    secret: bytes = field(repr=False)
    distrust: Distrust
    keys: Callable[[], TrustedKeys]
    last_packet_at: Callable[[str], float | None]
    unknown_ack: Callable[[], None] = lambda: None
    count: Callable[[RemoteWord], None] = lambda _: None
    line: Line | None = None
    wall_clock: Callable[[], float] = time.time


class Remote:
    """The way to the cutter. First `sinks` and `takes` go into delivery, then `cuts` is made around that."""

    def __init__(self, config: Config, mqtt: MqttSink, others: Sequence[Sink]) -> None:
        after_seconds = config.alerts.second_channel.after.seconds
        self._config = config
        self._mqtt = mqtt
        self._webhook = next((sink for sink in others if isinstance(sink, WebhookSink)), None)
        self.desk = AnswerDesk(AnswerSettings(overdue_seconds=after_seconds + _ENOUGH_SECONDS), random)
        self._first = AnsweredSink(mqtt, self.desk)
        self.sinks: list[Sink] = [self._first]
        self.takes: Mapping[str, Callable[[OutgoingAlert], bool]] = {}
        for sink in others:
            if sink is self._webhook and config.alerts.webhook.takes == "unanswered":
                self.sinks.append(AnsweredSink(sink, self.desk, after_seconds=after_seconds))
                self.takes = {sink.name: _is_cut}
            else:
                self.sinks.append(sink)

    @classmethod
    def of(cls, config: Config, mqtt: MqttSink, others: Sequence[Sink]) -> Self | None:
        """The way to the cutter, where the config has one."""
        return cls(config, mqtt, others) if config.enforcement.where == "remote" else None

    def cuts(self, parts: RemoteParts) -> RemoteCuts:
        """Return what waits for the cutter, listening to it already; to be entered with `async with`."""
        prefix, cutter = self._config.alerts.mqtt.prefix, self._config.enforcement.cutter
        line = parts.line or self._mqtt
        orders = Orders(line, parts.database, parts.signer, parts.keys, prefix=prefix, node=cutter)

        async def order_cut(stream: str, incident: str | None) -> None:
            arguments = {"stream": stream} | ({} if incident is None else {"incident": incident})
            result, reason = await orders.order(CommandName.CUT, arguments)
            if result is not Result.DONE:
                raise IngestUnavailable(f"the cutter {cutter} answers {result.value} ({reason}); see its log")

        async def order_undo(incident: str) -> None:
            result, reason = await orders.order(CommandName.UNDO, {"incident": incident})
            if result is not Result.DONE and reason != "not_found":  # what it never cut it need not restore
                raise IngestUnavailable(f"the cutter {cutter} answers {result.value} ({reason}); see its log")

        async def settle(alert_id: str) -> None:
            await parts.delivery.settle(alert_id, [sink.name for sink in self.sinks if isinstance(sink, AnsweredSink)])

        outbox = Outbox(parts.database)

        async def find_open(alert_id: str) -> Awaited | None:
            row = await outbox.find_open(alert_id, self._first.name)
            if row is None or row.urgency != Urgency.CUT:
                return None
            notice = Notice(row.alert_id, row.stream_id, row.urgency, row.payload, row.expires_at_ms, row.seq)
            return await_answer(self.desk, notice, time.monotonic())

        made = RemoteCuts(
            parts.ingest,
            parts.incidents,
            self.desk,
            Surroundings(
                settle=settle,
                send_again=lambda stream: parts.delivery.send_again(stream, self._first.name),
                open_of=lambda incident: outbox.open_of_incident(incident, self._first.name),
                find_open=find_open,
                order_cut=order_cut,
                order_undo=order_undo,
                stream_of=lambda key: stream_id(parts.secret, key),
                last_packet_at=parts.last_packet_at,
                unknown_ack=parts.unknown_ack,
                count=parts.count,
            ),
            enforcer_settings(self._config),
            wall_clock=parts.wall_clock,
        )
        ear = AckEar(parts.keys, parts.distrust, made.hear)
        self._first.watch = made.problems
        ear.listen(line, prefix)
        orders.listen()
        if self._webhook is not None:
            self._webhook.hear = ear.take_body
        return made


def _is_cut(alert: OutgoingAlert) -> bool:
    return alert.urgency == Urgency.CUT
