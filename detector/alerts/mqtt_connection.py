"""The MQTT connection: the only file that knows the libraries behind it."""

import asyncio
import contextlib
import ipaddress
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, MQTT_ERR_SUCCESS
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from detector.alerts.forgiving_loop import ForgivingLoop
from detector.alerts.mqtt_faults import BROKEN, explain_failure, explain_refusal
from detector.alerts.mqtt_inbox import INBOX_LIMIT, KEPT_INBOX_LIMIT, Inbox, Received
from detector.alerts.mqtt_properties import connect_properties
from detector.alerts.mqtt_tls import TlsFileUnusable, tls_context
from detector.alerts.sink import SinkUnavailable

_UNSUPPORTED_VERSION: Final = (0x01, 0x84)
"""CONNACK codes by which a broker says that it has no MQTT 5: 3.1.1's own and MQTT 5's."""

_UNSPECIFIED: Final = 0x80
"""What paho calls any end of a connection that the broker did not explain."""

_GOODBYE_SECONDS: Final = 1.0
_LAST_WORD_SECONDS: Final = 0.1


class ConnectionFailed(Exception):
    """Raised where no connection came about or it ended: why and what to do about it; the text names no secret.

    `code` is the broker's reason code, where it gave one.
    """

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Where the broker is and how to speak to it.

    `password` is asked at every connect and never kept or logged. With `tls`, the broker's certificate is always
    verified, against `ca_file` or the system's authorities, and so is its host name. `protocol`: `auto` tries MQTT 5
    and falls back to 3.1.1 if the broker says that it has no 5. With `session_seconds` the broker keeps what comes for
    us for so long while we are away, and each message until we acknowledge it. `section` is where the config has this.
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
    reconnect_limit_seconds: float = 4.0
    retain_ended_seconds: float = 3600.0
    session_seconds: int = 0
    section: str = "alerts.mqtt"

    def __post_init__(self) -> None:
        """Refuse names that would make other topics than promised."""
        for name, value in (("prefix", self.prefix), ("node", self.node)):
            if not value or any(c in value for c in "+#\0") or value.startswith("$") or "/" in (value[0], value[-1]):
                raise ValueError(f"{name} {value!r} is no topic name: leave out + # $ and / at its ends")

    @property
    def has_open_password(self) -> bool:
        """Whether a password crosses a network that others may read."""
        try:
            is_here = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            is_here = self.host == "localhost"
        return self.password is not None and not self.tls and not is_here


class MqttLink:
    """One connection: publishes, and pairs every PUBACK with its publish.

    aiomqtt's own `publish` returns on any PUBACK, also on one that says `Not authorized`; so paho's callback is taken
    over. It subscribes to what it is told to, and to nothing by itself.
    """

    def __init__(self, client: aiomqtt.Client, timeout_seconds: float, *, has_properties: bool) -> None:
        self.has_properties = has_properties
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client = client
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
            raise SinkUnavailable(BROKEN)
        answer: asyncio.Future[ReasonCode] = asyncio.get_running_loop().create_future()
        self._waiting[info.mid] = answer
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return int((await answer).value)
        except TimeoutError:
            # A broker that takes bytes and answers nothing is frozen: only a new connection tells when it is back.
            self.fail("it stopped answering; check that the broker runs and is not overloaded")
            raise SinkUnavailable("the broker did not answer") from None
        finally:
            self._waiting.pop(info.mid, None)

    async def subscribe(self, topic_filter: str) -> int:
        """Subscribe with QoS 1 and return the SUBACK's reason code: below 0x80 it is granted.

        With MQTT 5 a message that its sender wants retained says so, whether or not it came from the broker's memory.

        Raises:
            SinkUnavailable: no SUBACK came in time, or the connection broke.
        """
        try:
            if self.has_properties:
                options = SubscribeOptions(qos=1, retainAsPublished=True)
                codes = await self._client.subscribe(topic_filter, options=options)
            else:
                codes = await self._client.subscribe(topic_filter, qos=1)
        except aiomqtt.MqttError:
            self.fail("it did not answer a subscription; check that the broker runs and is not overloaded")
            raise SinkUnavailable("the broker did not answer") from None
        first = codes[0]
        return first if isinstance(first, int) else int(first.value)

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


Connect = Callable[..., contextlib.AbstractAsyncContextManager[MqttLink]]
"""As `connect`."""


async def has_mqtt_5(settings: MqttSettings) -> bool:
    """Ask the broker with the plainest connect whether it has MQTT 5; False only if it says no.

    A broker of 3.1.1 may misread a last will in MQTT 5's form and never answer (amqtt does), which looks like a
    frozen broker; and a frozen one must not be taken for an old one.

    Raises:
        ConnectionFailed: the broker cannot be asked.
    """
    if settings.protocol != "auto":
        return settings.protocol == "5"
    try:
        async with _connected(_make_client(settings, is_five=True, will_topic=None)):
            return True
    except aiomqtt.MqttError as error:
        failed = _failure(error, settings)
        if failed.code in _UNSUPPORTED_VERSION:
            return False
        raise failed from None


@contextlib.asynccontextmanager
async def connect(settings: MqttSettings, *, is_five: bool, will_topic: str, inbox: Inbox) -> AsyncIterator[MqttLink]:
    """Connect with `offline` as the retained last will on `will_topic`; the link breaks when the connection ends.

    What comes goes to `inbox`.

    Raises:
        ConnectionFailed: no connection came about.
    """
    try:
        limit = KEPT_INBOX_LIMIT if settings.session_seconds else INBOX_LIMIT
        client = _make_client(settings, is_five=is_five, will_topic=will_topic, inbox_limit=limit)
        async with _connected(client) as lost:
            link = MqttLink(client, settings.answer_timeout_seconds, has_properties=is_five)
            # aiomqtt forgets a loss between the broker's yes and its own; where the watch sees it, it knows more.
            lost.add_done_callback(lambda _: lost.get_loop().call_later(_LAST_WORD_SECONDS, link.fail, BROKEN))
            watch = asyncio.create_task(_watch(client, link, inbox), name="mqtt-watch")
            try:
                yield link
            finally:
                link.fail("the connection ended")
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
    except aiomqtt.MqttError as error:
        raise _failure(error, settings) from None


@contextlib.asynccontextmanager
async def listen(settings: MqttSettings, topic_filter: str) -> AsyncIterator[AsyncIterator[Received]]:
    """Subscribe with QoS 1, and yield what comes; the subscription stands when the block begins.

    For consumers such as the demo; what the service itself hears goes through its inbox. `settings.node` must be a
    name of its own, else the broker takes this connection for the node's and ends that.

    Raises:
        ConnectionFailed: no connection came about, or it ended.
    """
    try:
        is_five = await has_mqtt_5(settings)
        client = _make_client(settings, is_five=is_five, will_topic=None)
        async with _connected(client):
            await client.subscribe(topic_filter, qos=1)
            yield _received(client)
    except aiomqtt.MqttError as error:
        raise _failure(error, settings) from None


async def _received(client: aiomqtt.Client) -> AsyncIterator[Received]:
    async for message in client.messages:
        yield _as_received(message)


def _as_received(message: aiomqtt.Message, acknowledge: Callable[[], None] = lambda: None) -> Received:
    return Received(str(message.topic), bytes(message.payload), time.monotonic(), bool(message.retain), acknowledge)


def _acknowledge(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
    """Answer the broker, where that was left to us; it sends again what a lost connection kept from being answered."""
    client._client.ack(message.mid, message.qos)  # noqa: SLF001 - aiomqtt has no way of its own


@contextlib.asynccontextmanager
async def _connected(client: aiomqtt.Client) -> AsyncIterator[asyncio.Future[None]]:
    """Connect, and disconnect whatever happens: aiomqtt leaves the socket of a failed or cancelled try open.

    Yields a future that is done when the connection is lost.
    """
    lost = _loss(client)
    entering = asyncio.create_task(client.__aenter__(), name="mqtt-connect")
    either: tuple[asyncio.Future[Any], ...] = (entering, lost)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():  # a refusal is told just before the connection is closed: it is on its way
            await asyncio.wait({entering}, timeout=_LAST_WORD_SECONDS)
        if not entering.done():
            raise aiomqtt.MqttError("closed before the broker let us in") from ConnectionResetError()
        await entering
        yield lost
    finally:
        if not entering.done():  # cancelled while a thread is connecting, which cannot be
            await asyncio.wait({entering}, timeout=_GOODBYE_SECONDS)
            entering.add_done_callback(lambda _: _close(client))
            entering.add_done_callback(lambda task: task.cancelled() or task.exception())
        elif entering.exception() is None:
            with contextlib.suppress(aiomqtt.MqttError):  # we leave; whether it hears our goodbye is no matter
                await client.__aexit__(None, None, None)
        _close(client)


def _failure(error: aiomqtt.MqttError, settings: MqttSettings) -> ConnectionFailed:
    """Say why a connection failed, from whichever exception knows: aiomqtt hides the socket's in the context."""
    known = error if isinstance(error, aiomqtt.MqttCodeError) else (error.__cause__ or error.__context__ or error)
    if isinstance(known, aiomqtt.MqttCodeError) and isinstance(known.rc, ReasonCode) and known.rc.is_failure:
        code = int(known.rc.value)
        return ConnectionFailed(explain_refusal(code, str(known.rc)), code)
    if isinstance(known, aiomqtt.MqttError):
        # No answer in time, or the connection ended before or after the broker let us in.
        known = TimeoutError() if "timed out" in str(known).lower() else ConnectionResetError()
    return ConnectionFailed(explain_failure(known, host=settings.host, has_tls=settings.tls))


def _loss(client: aiomqtt.Client) -> asyncio.Future[None]:
    """Return what is done when the connection is lost: aiomqtt takes no notice before the broker let it in."""
    loop, lost = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    paho: PahoClient = client._client  # noqa: SLF001
    inner: Callable[..., None] = paho.on_disconnect  # type: ignore[assignment]

    def note() -> None:
        if not lost.done():
            lost.set_result(None)

    def on_disconnect(*words: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(note)
        inner(*words)
        _look_at_end(client)

    paho.on_disconnect = on_disconnect
    return lost


def _look_at_end(client: aiomqtt.Client) -> None:
    """Take note of how the connection ended: asyncio complains of a future whose exception nobody looked at."""
    ended = client._disconnected  # noqa: SLF001
    if ended.done() and not ended.cancelled():
        ended.exception()


async def _watch(client: aiomqtt.Client, link: MqttLink, inbox: Inbox) -> None:
    """Hand on what comes, and notice the end of the connection: the stream of messages ends with it."""
    try:
        async for message in client.messages:
            inbox.take(_as_received(message, partial(_acknowledge, client, message)))
    except aiomqtt.MqttError as error:
        code = getattr(error.__cause__ or error, "rc", None)
        if isinstance(code, ReasonCode) and code.value != _UNSPECIFIED:
            link.fail(explain_refusal(int(code.value), str(code)))
        link.fail(BROKEN)


def _close(client: aiomqtt.Client) -> None:
    """Close the socket if there is one, and take note of how the connection ended, which nobody else asks."""
    _look_at_end(client)
    with contextlib.suppress(OSError, ValueError):
        client._client.disconnect()  # noqa: SLF001 - aiomqtt offers this only for established connections


def _make_client(
    settings: MqttSettings, *, is_five: bool, will_topic: str | None, inbox_limit: int | None = None
) -> aiomqtt.Client:
    quiet = logging.getLogger("stopframe.mqtt")
    quiet.setLevel(logging.CRITICAL + 1)  # counters and problems say what these libraries would
    client = aiomqtt.Client(
        settings.host,
        settings.port,
        # A fixed identifier: a new connection then takes the place of a half-dead one at once, whose last will
        # would otherwise arrive after our `online` and stay.
        identifier=f"stopframe-{settings.node}",
        username=settings.username,
        password=_password(settings),
        protocol=aiomqtt.ProtocolVersion.V5 if is_five else aiomqtt.ProtocolVersion.V311,
        clean_session=None if is_five else not settings.session_seconds,
        clean_start=False if settings.session_seconds else MQTT_CLEAN_START_FIRST_ONLY,
        will=None if will_topic is None else aiomqtt.Will(will_topic, b"offline", qos=1, retain=True),
        timeout=settings.answer_timeout_seconds,
        keepalive=settings.keepalive_seconds,
        tls_context=_tls_context(settings),
        logger=quiet,
        max_queued_incoming_messages=inbox_limit,
        properties=connect_properties(settings.session_seconds) if is_five else None,
    )
    if settings.session_seconds:
        client._client.manual_ack_set(True)  # noqa: SLF001 - aiomqtt has no way of its own
    client._client.connect_timeout = settings.answer_timeout_seconds  # noqa: SLF001 - aiomqtt gives no way in
    client._loop = ForgivingLoop(client._loop)  # type: ignore[assignment]  # noqa: SLF001
    return client


def _tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        return tls_context(settings.ca_file, settings.certificate_file, settings.key_file)
    except TlsFileUnusable as error:
        raise ConnectionFailed(str(error)) from None


def _password(settings: MqttSettings) -> str | None:
    if settings.password is None:
        return None
    try:
        return settings.password()
    except OSError as error:
        why = str(error.strerror).lower()
        raise ConnectionFailed(f"the password cannot be read ({why}); make its file readable") from None
