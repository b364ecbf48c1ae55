"""MQTT: alerts that count as delivered when the broker's PUBACK says so, and the node's retained state."""

import asyncio
import contextlib
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

import aiomqtt
import structlog
from paho.mqtt.client import MQTT_ERR_SUCCESS
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from detector.alerts.backoff import backoff_seconds
from detector.alerts.clock import Clock
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.store.database import StoreUnavailable
from detector.store.retained import RetainedTopics

log = structlog.get_logger()

_RECEIPTS: Final = {
    0x00: Receipt.ACCEPTED,
    0x10: Receipt.NOBODY_LISTENS,
    0x87: Receipt.NOT_AUTHORIZED,
}
"""PUBACK reason codes of MQTT 5, section 3.4.2.1; every other one is a refusal. MQTT 3.1.1 knows only 0."""

_UNSUPPORTED_VERSION: Final = (0x01, 0x84)
"""CONNACK codes by which a broker says that it has no MQTT 5: 3.1.1's own and MQTT 5's."""

_GOODBYE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Where the broker is and how to speak to it.

    `password` is asked at every connect and never kept or logged. With `tls`, the broker's certificate is checked
    against `ca_file`, or the system's authorities. `protocol`: `auto` tries MQTT 5 and falls back to 3.1.1 if the
    broker says that it has no 5.
    """

    host: str
    node: str
    port: int = 1883
    prefix: str = "stopframe"
    username: str | None = None
    password: Callable[[], str | None] | None = None
    tls: bool = False
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive_seconds: int = 10
    answer_timeout_seconds: float = 3.0
    reconnect_first_seconds: float = 0.25
    reconnect_limit_seconds: float = 5.0
    retain_ended_seconds: float = 3600.0


@dataclass(slots=True)
class MqttCounters:
    """What happened on the connection since start."""

    connects_total: int = 0
    connection_errors_total: int = 0
    coverage_dropped_total: int = 0


class _Link:
    """One connection: publishes, and pairs every PUBACK with its publish.

    aiomqtt's own `publish` returns on any PUBACK, also on one that says `Not authorized`; so paho's callback is taken
    over. Nothing is ever subscribed to.
    """

    def __init__(self, client: aiomqtt.Client, timeout_seconds: float, *, has_properties: bool) -> None:
        self.has_properties = has_properties
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._timeout_seconds = timeout_seconds
        self._waiting: dict[int, asyncio.Future[ReasonCode]] = {}
        self._paho: PahoClient = client._client  # noqa: SLF001 - aiomqtt hides the reason codes
        self._paho.on_publish = self._on_puback

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_in_seconds: int | None = None
    ) -> int:
        """Publish with QoS 1 and return the PUBACK's reason code.

        Raises:
            SinkUnavailable: no PUBACK came in time, or the connection broke.
        """
        info = self._paho.publish(topic, payload, 1, retain, self._properties(expires_in_seconds))
        if info.rc != MQTT_ERR_SUCCESS or self.broken.done():
            raise SinkUnavailable("the connection to the broker is down")
        answer: asyncio.Future[ReasonCode] = asyncio.get_running_loop().create_future()
        self._waiting[info.mid] = answer
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return int((await answer).value)
        except TimeoutError:
            # A broker that takes bytes and answers nothing is frozen: only a new connection tells when it is back.
            self.fail("the broker stopped answering")
            raise SinkUnavailable("the broker did not answer") from None
        finally:
            self._waiting.pop(info.mid, None)

    def publish_unanswered(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 0; False if not even the sending worked."""
        return bool(self._paho.publish(topic, payload, 0, False).rc == MQTT_ERR_SUCCESS)

    def fail(self, why: str) -> None:
        """Mark the connection as broken and wake all who wait for an answer."""
        if not self.broken.done():
            self.broken.set_result(why)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(SinkUnavailable(why))

    def _properties(self, expires_in_seconds: int | None) -> Properties | None:
        if not self.has_properties:
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "application/json"
        if expires_in_seconds is not None:
            properties.MessageExpiryInterval = expires_in_seconds
        return properties

    def _on_puback(self, _client: Any, _userdata: Any, mid: int, reason_code: ReasonCode, _properties: Any) -> None:
        answer = self._waiting.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(reason_code)


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
    ) -> None:
        self.counters = MqttCounters()
        self._settings = settings
        self._retained = retained
        self._clock = clock or Clock()
        self._jitter = jitter
        self._node_topic = f"{settings.prefix}/{settings.node}"
        self._state: dict[str, bytes] = {}
        self._dirty: dict[str, None] = {}
        self._clear_at: dict[str, float] = {}
        self._news = asyncio.Event()
        self._ready = asyncio.Event()
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_five = settings.protocol != "3.1.1"
        self._is_version_known = settings.protocol != "auto"
        self._outage: str | None = None
        self._denied_topics: set[str] = set()
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
                    self._clear_at[topic] = 0.0
            except StoreUnavailable as error:
                log.warning("mqtt.retained_unknown", reason=str(error))
        self._task = asyncio.create_task(self._keep_connected(), name="mqtt-connection")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish `stopped` and disconnect, within about a second."""
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

    def set_health(self, health: Mapping[str, Any]) -> None:
        """Retain the node's health."""
        self._set(f"{self._node_topic}/health", health)

    def set_status(self, stream_id: str, status: Mapping[str, Any]) -> None:
        """Retain one stream's state, until an hour (`retain_ended_seconds`) after `end_stream`."""
        topic = self._status_topic(stream_id)
        self._clear_at.pop(topic, None)
        self._set(topic, status)

    def end_stream(self, stream_id: str) -> None:
        """Let the stream's last state stand for `retain_ended_seconds`, then clear it from the broker."""
        topic = self._status_topic(stream_id)
        if topic in self._state:
            self._clear_at[topic] = self._clock.monotonic() + self._settings.retain_ended_seconds
            self._news.set()

    def send_coverage(self, stream_id: str, coverage: Mapping[str, Any]) -> None:
        """Publish one stream's coverage with QoS 0; dropped and counted while there is no connection."""
        topic = f"{self._settings.prefix}/stream/{stream_id}/coverage"
        if self._link is None or not self._link.publish_unanswered(topic, _json(coverage)):
            self.counters.coverage_dropped_total += 1

    def problems(self) -> list[str]:
        """Return what an operator must fix about the broker, its permissions or its subscribers."""
        where = f"{self._settings.host}:{self._settings.port}"
        told = []
        if self._outage is not None:
            told.append(f"no connection to the MQTT broker {where} ({self._outage}): check that it runs and lets us in")
        told += [
            f"the MQTT broker denies publishing {topic}: let this node's user write {self._settings.prefix}/#"
            for topic in sorted(self._denied_topics)
        ]
        if self._nobody_listens:
            told.append(
                f"nobody subscribes to {self._settings.prefix}/stream/+/alert: start the consumer, or check its filter"
            )
        return told

    def notes(self) -> list[str]:
        """Say which MQTT is spoken where that limits what can be known."""
        if self._is_five:
            return []
        return ["MQTT 3.1.1: the broker cannot tell whether anyone subscribes to alerts; MQTT 5 could"]

    def _status_topic(self, stream_id: str) -> str:
        return f"{self._settings.prefix}/stream/{stream_id}/status"

    def _set(self, topic: str, content: Mapping[str, Any]) -> None:
        payload = _json(content)
        if self._state.get(topic) != payload:
            self._state[topic] = payload
            self._dirty[topic] = None
            self._news.set()

    def _note_permission(self, topic_kind: str, receipt: Receipt) -> None:
        """Log a denial once when it begins and once when it is over."""
        is_denied = receipt is Receipt.NOT_AUTHORIZED
        if is_denied and topic_kind not in self._denied_topics:
            self._denied_topics.add(topic_kind)
            log.warning("mqtt.denied", topic=topic_kind)
        elif not is_denied and topic_kind in self._denied_topics:
            self._denied_topics.discard(topic_kind)
            log.info("mqtt.allowed", topic=topic_kind)

    async def _keep_connected(self) -> None:
        """Connect, stay, and connect again: at once the first time, then with backoff."""
        attempts = 0
        while True:
            before = self.counters.connects_total
            why = await self._stay_connected()
            self.counters.connection_errors_total += 1
            if self._outage is None:
                log.warning("mqtt.disconnected", reason=why)
            self._outage = why
            attempts = 0 if self.counters.connects_total > before else attempts + 1
            if attempts:
                settings = self._settings
                pause = backoff_seconds(
                    attempts,
                    first_seconds=settings.reconnect_first_seconds,
                    limit_seconds=settings.reconnect_limit_seconds,
                    jitter=self._jitter(),
                )
                await asyncio.sleep(pause)

    async def _stay_connected(self) -> str:
        """Hold one connection as long as it lasts; returns why it ended or did not come about."""
        try:
            if not self._is_version_known:
                await self._learn_version()
            async with self._connection(will=self._will()) as client:
                return await self._use(client)
        except aiomqtt.MqttError as error:
            return str(error)
        except (OSError, ssl.SSLError) as error:
            return f"the TLS files cannot be used: {error.strerror or type(error).__name__}"

    async def _learn_version(self) -> None:
        """Ask the broker with the plainest connect whether it has MQTT 5; fall back to 3.1.1 only if it says no.

        A broker of 3.1.1 may misread a last will in MQTT 5's form and never answer (amqtt does), which looks like a
        frozen broker; and a frozen one must not be taken for an old one.
        """
        try:
            async with self._connection(will=None):
                pass
        except aiomqtt.MqttError as error:
            if _code_value(error) not in _UNSUPPORTED_VERSION:
                raise
            self._is_five = False
        self._is_version_known = True

    @contextlib.asynccontextmanager
    async def _connection(self, *, will: aiomqtt.Will | None) -> AsyncIterator[aiomqtt.Client]:
        client = self._make_client(will)
        try:
            async with client:
                yield client
        finally:
            _release(client)

    def _will(self) -> aiomqtt.Will:
        return aiomqtt.Will(f"{self._node_topic}/available", b"offline", qos=1, retain=True)

    async def _use(self, client: aiomqtt.Client) -> str:
        """Announce ourselves, then keep the retained state up to date until the connection breaks."""
        link = _Link(client, self._settings.answer_timeout_seconds, has_properties=self._is_five)
        watch = asyncio.create_task(_watch(client, link), name="mqtt-watch")
        state = asyncio.create_task(self._keep_state(link), name="mqtt-state")
        self.counters.connects_total += 1
        try:
            # Alerts do not wait for the retained state of a thousand streams.
            self._link = link
            self._ready.set()
            if self._outage is not None:
                log.info("mqtt.connected", protocol=self.protocol, errors_total=self.counters.connection_errors_total)
                self._outage = None
            return await link.broken
        finally:
            self._ready.clear()
            self._link = None
            link.fail("the connection ended")
            watch.cancel()
            state.cancel()
            await asyncio.gather(watch, state, return_exceptions=True)

    async def _keep_state(self, link: _Link) -> None:
        """Publish all retained state, then `online`, then every change; clear what is due."""
        self._dirty = dict.fromkeys(self._state)
        try:
            await self._publish_dirty(link)
            await self._publish_retained(link, f"{self._node_topic}/available", b"online")
            while True:
                self._news.clear()
                await self._publish_dirty(link)
                await self._clear_due(link)
                next_at = min(self._clear_at.values(), default=None)
                pause = None if next_at is None else max(0.0, next_at - self._clock.monotonic())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._news.wait()
        except SinkUnavailable as error:
            link.fail(str(error))

    async def _publish_dirty(self, link: _Link) -> None:
        while self._dirty:
            topic = next(iter(self._dirty))
            del self._dirty[topic]
            payload = self._state.get(topic)
            if payload is not None:
                await self._remember(topic)
                await self._publish_retained(link, topic, payload)

    async def _clear_due(self, link: _Link) -> None:
        now = self._clock.monotonic()
        for topic in [topic for topic, at in self._clear_at.items() if at <= now]:
            del self._clear_at[topic]
            self._state.pop(topic, None)
            await self._publish_retained(link, topic, b"")
            if self._retained is not None:
                with contextlib.suppress(StoreUnavailable):  # it is cleared once more at the next start
                    await self._retained.forget(topic)

    async def _remember(self, topic: str) -> None:
        if self._retained is not None and topic.endswith("/status"):
            with contextlib.suppress(StoreUnavailable):  # the disk's fault is reported by the outbox
                await self._retained.remember(topic)

    async def _publish_retained(self, link: _Link, topic: str, payload: bytes) -> None:
        code = await link.publish(topic, payload, retain=True)
        self._note_permission(topic.rsplit("/", 1)[-1], _RECEIPTS.get(code, Receipt.REFUSED))

    def _make_client(self, will: aiomqtt.Will | None) -> aiomqtt.Client:
        settings = self._settings
        quiet = logging.getLogger("stopframe.mqtt")
        quiet.setLevel(logging.CRITICAL + 1)  # counters and problems say what these libraries would
        client = aiomqtt.Client(
            settings.host,
            settings.port,
            # A fixed identifier: a new connection then takes the place of a half-dead one at once, whose last will
            # would otherwise arrive after our `online` and stay.
            identifier=f"stopframe-{settings.node}",
            username=settings.username,
            password=settings.password() if settings.password is not None else None,
            protocol=aiomqtt.ProtocolVersion.V5 if self._is_five else aiomqtt.ProtocolVersion.V311,
            clean_session=None if self._is_five else True,
            will=will,
            timeout=settings.answer_timeout_seconds,
            keepalive=settings.keepalive_seconds,
            tls_context=self._tls_context(),
            logger=quiet,
        )
        client._client.connect_timeout = settings.answer_timeout_seconds  # noqa: SLF001 - aiomqtt gives no way in
        return client

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self._settings.tls:
            return None
        context = ssl.create_default_context(cafile=self._settings.ca_file)
        if self._settings.certificate_file is not None:
            context.load_cert_chain(self._settings.certificate_file, self._settings.key_file)
        return context


def _code_value(error: aiomqtt.MqttError) -> int | None:
    """Return the number of the broker's reason, if the error carries one."""
    code = getattr(error, "rc", None)
    return code.value if isinstance(code, ReasonCode) else code


async def _watch(client: aiomqtt.Client, link: _Link) -> None:
    """Notice the end of the connection: the stream of messages, of which there are none, ends with it."""
    try:
        async for _ in client.messages:
            continue
    except aiomqtt.MqttError as error:
        cause = error.__cause__
        link.fail(str(getattr(cause, "rc", None) or error))


def _release(client: aiomqtt.Client) -> None:
    """Close what a connection attempt that got no answer leaves open: aiomqtt keeps its socket."""
    with contextlib.suppress(OSError, ValueError):
        client._client.disconnect()  # noqa: SLF001 - aiomqtt offers this only for established connections


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
