"""An MQTT 3.1.1 broker inside the service, for the demo and for tests: loopback only, nothing survives it."""

import asyncio
import contextlib
import ipaddress
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from amqtt.broker import Broker

_SHUTDOWN_SECONDS = 2.0


class BrokerUnavailable(Exception):
    """Raised by `EmbeddedBroker` when it cannot listen; nothing is left running."""


class EmbeddedBroker:
    """amqtt on one loopback port.

    It has no MQTT 5, no shared subscriptions and no queue for absent subscribers: production needs a real broker.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the embedded broker has no passwords and listens on loopback only, not on {host}")
        self.host = host
        self._port = port
        self._broker: Broker | None = None
        self._levels: dict[str, int] = {}

    @property
    def port(self) -> int:
        """The port that it listens on; a free one was chosen where 0 was asked for."""
        return self._port

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            BrokerUnavailable: the port is taken.
        """
        from amqtt.broker import Broker  # noqa: PLC0415 - a service with a broker elsewhere never comes here
        from amqtt.errors import BrokerError  # noqa: PLC0415

        self._hush()
        bind = f"[{self.host}]:{self._port}" if ":" in self.host else f"{self.host}:{self._port}"
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": bind}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        try:
            await broker.start()
        except BrokerError:
            self._unhush()
            raise BrokerUnavailable(
                f"port {self._port} of {self.host} is taken: end what listens there, write "
                "alerts.mqtt.embedded_broker: false if it is the broker to use, or another port (0 for any) under "
                "alerts.mqtt.url"
            ) from None
        self._broker = broker
        self._port = broker._servers["default"].instance.sockets[0].getsockname()[1]  # noqa: SLF001 - no other way
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and drop every client."""
        broker, self._broker = self._broker, None
        if broker is not None:
            # amqtt drops its clients before it stops listening: one that returns at once would talk to a ghost.
            broker._servers["default"].instance.close()  # noqa: SLF001
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SHUTDOWN_SECONDS):
                    await broker.shutdown()
        self._unhush()

    def _hush(self) -> None:
        """Silence libraries that log every packet, and a failed start with a traceback."""
        for name in ("amqtt", "transitions"):
            logger = logging.getLogger(name)
            self._levels[name] = logger.level
            logger.setLevel(logging.CRITICAL + 1)

    def _unhush(self) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
