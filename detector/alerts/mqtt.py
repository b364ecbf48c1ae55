"""MQTT: alerts that count as delivered when the broker's PUBACK says so, and the node's retained state."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import structlog

from detector.alerts.backoff import backoff_seconds
from detector.alerts.clock import Clock
from detector.alerts.mqtt_connection import (
    Connect,
    ConnectionFailed,
    MqttLink,
    MqttSettings,
    connect,
    has_mqtt_5,
)
from detector.alerts.mqtt_inbox import Hear, Inbox
from detector.alerts.mqtt_name import must_resolve
from detector.alerts.retained_state import RetainedState
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.store.faults import StoreUnavailable
from detector.store.retained import RetainedTopics

log = structlog.get_logger()

_RECEIPTS: Final = {
    0x00: Receipt.ACCEPTED,
    0x10: Receipt.NOBODY_LISTENS,
    0x87: Receipt.NOT_AUTHORIZED,
}
"""PUBACK reason codes of MQTT 5, section 3.4.2.1; every other one is a refusal. MQTT 3.1.1 knows only 0."""

_STREAM_KINDS: Final = {"alert", "status", "coverage"}

_SELFTEST_EXPIRES_SECONDS: Final = 120
"""Nobody needs an old self-test: it must not wait in the broker's queue beside alerts."""

_GOODBYE_SECONDS: Final = 1.0
_BRIEF_LIMIT: Final = 3
"""So many brief connections in a row are a problem of their own: a broker that closes them, or a second client with
our identifier, whose connection we end by connecting and which ends ours in turn."""


@dataclass(slots=True)
class MqttCounters:
    """What happened on the connection since start."""

    connects_total: int = 0
    connection_errors_total: int = 0
    coverage_dropped_total: int = 0


class MqttSink:
    """The MQTT sink and status board of one node.

    Keeps one connection, brings it back by itself, and after every connect sends the retained state before
    `available` says `online`. `deliver` may be called from many tasks.
    """

    name = "mqtt"

    def __init__(
        self,
        settings: MqttSettings,
        *,
        retained: RetainedTopics | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        connect: Connect = connect,
    ) -> None:
        self.counters = MqttCounters()
        self._connect = connect
        self._settings = settings
        self._retained = retained
        self._clock = clock or Clock()
        self._jitter = jitter
        self._node_topic = f"{settings.prefix}/{settings.node}"
        self._state = RetainedState()
        self._inbox = Inbox()
        self._remembered: set[str] = set()
        self._news = asyncio.Event()
        self._ready = asyncio.Event()
        self._link: MqttLink | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_five = settings.protocol != "3.1.1"
        self._is_version_known = settings.protocol != "auto"
        self._outage: str | None = None
        self._is_leaving = False
        self._connected_at: float | None = None
        self._brief_in_a_row = 0
        self._denied_kinds: set[str] = set()
        self._nobody_listens = False

    @property
    def protocol(self) -> str:
        """The MQTT version in use or about to be tried."""
        return "5" if self._is_five else "3.1.1"

    @property
    def is_connected(self) -> bool:
        """Whether alerts can go out now."""
        return self._ready.is_set()

    async def __aenter__(self) -> Self:
        """Begin connecting; what an earlier run left retained is cleared as soon as the broker is there."""
        if self._retained is not None:
            try:
                for topic in await self._retained.all():
                    self._state.clear_at(topic, 0.0)
            except StoreUnavailable as error:
                log.warning("mqtt.retained_unknown", reason=str(error))
        self._task = asyncio.create_task(self._keep_connected(), name="mqtt-connection")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish `stopped` and disconnect, within a second or two."""
        self._is_leaving = True
        if self._link is not None:
            with contextlib.suppress(SinkUnavailable, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._link.publish(f"{self._node_topic}/available", b"stopped", retain=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def wait_ready(self) -> None:
        """Return once there is a connection."""
        await self._ready.wait()

    async def deliver(self, notice: Notice) -> Receipt:
        """Publish one alert and return what the broker's PUBACK said.

        On MQTT 3.1.1 a PUBACK carries no reason, so every answer is `ACCEPTED`.

        Raises:
            SinkUnavailable: there is no connection, or it gave no answer.
        """
        if self._link is None:
            raise SinkUnavailable("the connection to the broker is down")
        topic = f"{self._settings.prefix}/stream/{notice.stream_id}/alert"
        left_ms = notice.expires_at_ms - self._clock.wall_ms()
        code = await self._link.publish(topic, notice.payload, expires_in_seconds=max(1, -(-left_ms // 1000)))
        receipt = _RECEIPTS.get(code, Receipt.REFUSED)
        self._note_permission("alert", receipt)
        if receipt in {Receipt.ACCEPTED, Receipt.NOBODY_LISTENS}:
            self._nobody_listens = receipt is Receipt.NOBODY_LISTENS
        return receipt

    def listen(self, topic_filter: str, hear: Hear) -> None:
        """Subscribe to a filter, now and after every connect; what fits it goes to `hear`."""
        if topic_filter not in self._inbox:
            self._inbox.add(topic_filter, hear)
            self._news.set()

    async def send(self, topic: str, payload: bytes, *, expires_in_seconds: int) -> Receipt:
        """Publish with QoS 1, not retained, and return what the broker's PUBACK said.

        Raises:
            SinkUnavailable: there is no connection, or it gave no answer.
        """
        if self._link is None:
            raise SinkUnavailable("the connection to the broker is down")
        code = await self._link.publish(topic, payload, expires_in_seconds=expires_in_seconds)
        receipt = _RECEIPTS.get(code, Receipt.REFUSED)
        self._note_permission(topic.rsplit("/", 1)[-1], receipt)
        return receipt

    def set_health(self, health: Mapping[str, Any]) -> None:
        """Retain the node's health."""
        self._set(f"{self._node_topic}/health", health)

    def set_status(self, stream_id: str, status: Mapping[str, Any]) -> None:
        """Retain one stream's state, until an hour (`retain_ended_seconds`) after `end_stream`."""
        self._set(self._status_topic(stream_id), status)

    def end_stream(self, stream_id: str) -> None:
        """Let the stream's last state stand for `retain_ended_seconds`, then clear it from the broker."""
        topic = self._status_topic(stream_id)
        if self._state.holds(topic):
            self._state.clear_at(topic, self._clock.monotonic() + self._settings.retain_ended_seconds)
            self._news.set()

    def send_coverage(self, stream_id: str, coverage: Mapping[str, Any]) -> None:
        """Publish one stream's coverage with QoS 0; dropped and counted while there is no connection."""
        topic = f"{self._settings.prefix}/stream/{stream_id}/coverage"
        if self._link is None or not self._link.publish_unanswered(topic, _json(coverage)):
            self.counters.coverage_dropped_total += 1

    async def send_selftest(self, report: Mapping[str, Any]) -> Receipt:
        """Publish a result of the self-test with QoS 1 and return what the broker's PUBACK said.

        Raises:
            SinkUnavailable: there is no connection, or it gave no answer.
        """
        topic = f"{self._node_topic}/selftest"
        return await self.send(topic, _json(report), expires_in_seconds=_SELFTEST_EXPIRES_SECONDS)

    def retain_ended(self, seconds: float) -> None:
        """Let the last state of streams that end from now on stand for so long."""
        self._settings = replace(self._settings, retain_ended_seconds=seconds)

    def problems(self) -> list[str]:
        """Return what an operator must fix about the broker, its permissions or its subscribers."""
        where = f"{self._settings.host}:{self._settings.port}"
        told = []
        if self._outage is not None:
            told.append(f"no connection to the MQTT broker {where}: {self._outage}")
        if self._flickers:
            told.append(
                f"the connection to the MQTT broker {where} breaks again and again: see the broker's log, "
                f"and give every service a node name of its own, {self._settings.node} may be taken"
            )
        told += [
            f"the MQTT broker denies publishing {kind}: let this node's user write {self._topic_of(kind)} in its ACL"
            for kind in sorted(self._denied_kinds)
        ]
        told += self._inbox.problems()
        if self._nobody_listens:
            told.append(
                f"nobody subscribes to {self._settings.prefix}/stream/+/alert: start the consumer, or check its filter"
            )
        return told

    def notes(self) -> list[str]:
        """Say where the protocol limits what can be known, or the password what is safe."""
        told = []
        if not self._is_five:
            told.append("MQTT 3.1.1: the broker cannot tell whether anyone subscribes to alerts; MQTT 5 could")
        if self._settings.has_open_password:
            where = f"{self._settings.section}.url: mqtts://HOST:PORT"
            told.append(f"the MQTT password crosses the network unencrypted: write {where}")
        return told

    def _topic_of(self, kind: str) -> str:
        """The topics of one kind, as an ACL names them."""
        prefix = self._settings.prefix
        return f"{prefix}/stream/+/{kind}" if kind in _STREAM_KINDS else f"{self._node_topic}/{kind}"

    def _status_topic(self, stream_id: str) -> str:
        return f"{self._settings.prefix}/stream/{stream_id}/status"

    def _set(self, topic: str, content: Mapping[str, Any]) -> None:
        self._state.want(topic, _json(content))
        self._news.set()

    def _note_permission(self, kind: str, receipt: Receipt) -> None:
        """Log a denial once when it begins and once when it is over."""
        is_denied = receipt is Receipt.NOT_AUTHORIZED
        if is_denied and kind not in self._denied_kinds:
            self._denied_kinds.add(kind)
            log.warning("mqtt.denied", topic=kind)
        elif not is_denied and kind in self._denied_kinds:
            self._denied_kinds.discard(kind)
            log.info("mqtt.allowed", topic=kind)

    async def _keep_connected(self) -> None:
        """Connect, stay, and connect again: at once after a steady connection, else with backoff."""
        attempts = 0
        while True:
            why = await self._stay_connected()
            self.counters.connection_errors_total += 1
            self._note_end(why)
            attempts = 0 if self._was_steady() else attempts + 1
            self._connected_at = None
            if attempts:
                settings = self._settings
                pause = backoff_seconds(
                    attempts,
                    first_seconds=settings.reconnect_first_seconds,
                    limit_seconds=settings.reconnect_limit_seconds,
                    jitter=self._jitter(),
                )
                await asyncio.sleep(pause)

    def _note_end(self, why: str) -> None:
        """Keep why there is no connection; log it once per outage, and flickering once as well."""
        if self._connected_at is not None:
            self._brief_in_a_row = 0 if self._was_steady() else self._brief_in_a_row + 1
            if self._brief_in_a_row == _BRIEF_LIMIT:
                log.warning("mqtt.flickering", reason=why)
        if self._outage is None and self._brief_in_a_row < _BRIEF_LIMIT:
            log.warning("mqtt.disconnected", reason=why)
        self._outage = why

    def _was_steady(self) -> bool:
        """Whether the connection lasts, or lasted, longer than the longest wait for one: then it may return at once."""
        steady_seconds = 2 * self._settings.reconnect_limit_seconds
        return self._connected_at is not None and self._clock.monotonic() - self._connected_at >= steady_seconds

    @property
    def _flickers(self) -> bool:
        return self._brief_in_a_row >= _BRIEF_LIMIT and not self._was_steady()

    async def _stay_connected(self) -> str:
        """Hold one connection as long as it lasts; returns why it ended or did not come about."""
        try:
            await must_resolve(self._settings)
            if not self._is_version_known:
                self._is_five = await has_mqtt_5(self._settings)
                self._is_version_known = True
            will_topic = f"{self._node_topic}/available"
            settings, inbox = self._settings, self._inbox
            async with self._connect(settings, is_five=self._is_five, will_topic=will_topic, inbox=inbox) as link:
                return await self._use(link)
        except ConnectionFailed as error:
            return str(error).replace("alerts.mqtt.", f"{self._settings.section}.")

    async def _use(self, link: MqttLink) -> str:
        """Let alerts out and keep the retained state up to date until the connection breaks."""
        state = asyncio.create_task(self._keep_state(link), name="mqtt-state")
        state.add_done_callback(lambda _: link.fail("the retained state cannot be published"))
        self.counters.connects_total += 1
        self._connected_at = self._clock.monotonic()
        try:
            # Alerts do not wait for the retained state of a thousand streams.
            self._link = link
            self._ready.set()
            if self._outage is not None:
                if self._brief_in_a_row < _BRIEF_LIMIT:
                    errors_total = self.counters.connection_errors_total
                    log.info("mqtt.connected", protocol=self.protocol, errors_total=errors_total)
                self._outage = None
            return await link.broken
        finally:
            self._ready.clear()
            self._link = None
            state.cancel()
            await asyncio.gather(state, return_exceptions=True)

    async def _keep_state(self, link: MqttLink) -> None:
        """Publish all retained state, then `online`, then every change; clear what is due."""
        self._state.forget_sent()
        subscribed: set[str] = set()
        try:
            await self._subscribe(link, subscribed)
            await self._publish_unsent(link)
            if not self._is_leaving:  # else `stopped` is out and stays the last word
                await self._publish_retained(link, f"{self._node_topic}/available", b"online")
            while True:
                self._news.clear()
                await self._subscribe(link, subscribed)
                await self._publish_unsent(link)
                await self._clear_due(link)
                next_at = self._state.next_due_at()
                pause = None if next_at is None else max(0.0, next_at - self._clock.monotonic())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._news.wait()
        except SinkUnavailable as error:
            link.fail(str(error))

    async def _subscribe(self, link: MqttLink, subscribed: set[str]) -> None:
        """Subscribe to what somebody listens to and is not in `subscribed`, and add it there."""
        for topic_filter in self._inbox.missing(subscribed):
            self._inbox.note(topic_filter, await link.subscribe(topic_filter))
            subscribed.add(topic_filter)

    async def _publish_unsent(self, link: MqttLink) -> None:
        while (unsent := self._state.next_unsent()) is not None:
            topic, payload = unsent
            await self._remember(topic)
            await self._publish_retained(link, topic, payload)

    async def _clear_due(self, link: MqttLink) -> None:
        for topic in self._state.due(self._clock.monotonic()):
            is_done = await self._publish_retained(link, topic, b"")  # a denied one is tried again at the next start
            self._state.cleared(topic)
            if self._retained is not None and is_done and not self._state.holds(topic):
                with contextlib.suppress(StoreUnavailable):  # it is cleared once more at the next start
                    await self._retained.forget(topic)
                    self._remembered.discard(topic)

    async def _remember(self, topic: str) -> None:
        if self._retained is not None and topic.endswith("/status") and topic not in self._remembered:
            with contextlib.suppress(StoreUnavailable):  # the disk's fault is reported by the outbox
                await self._retained.remember(topic)
                self._remembered.add(topic)

    async def _publish_retained(self, link: MqttLink, topic: str, payload: bytes) -> bool:
        """Publish, and return whether the broker keeps it: whether anybody listens now is no matter."""
        receipt = _RECEIPTS.get(await link.publish(topic, payload, retain=True), Receipt.REFUSED)
        self._note_permission(topic.rsplit("/", 1)[-1], receipt)
        return receipt in {Receipt.ACCEPTED, Receipt.NOBODY_LISTENS}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
