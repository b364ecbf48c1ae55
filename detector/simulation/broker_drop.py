"""A broker that is away for a while."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from detector.alerts.mqtt_connection import Connect, ConnectionFailed, MqttLink, MqttSettings
from detector.alerts.mqtt_inbox import Inbox
from detector.simulation.fault import LastingFault

_WHY = "it is away in this rehearsal; wait until --simulate broker-drop is over"
_LOOK_SECONDS = 0.1


class BrokerDrop(LastingFault):
    """The connection breaks when it begins, and none comes about until it is over."""

    name = "broker-drop"
    usual = "30s"

    def connect(self, connect: Connect) -> Connect:
        """As `Fault.connect`."""

        @contextlib.asynccontextmanager
        async def connect_unless_away(
            settings: MqttSettings, *, is_five: bool, will_topic: str, inbox: Inbox
        ) -> AsyncIterator[MqttLink]:
            if self.is_on:
                raise ConnectionFailed(_WHY)
            async with connect(settings, is_five=is_five, will_topic=will_topic, inbox=inbox) as link:
                breaking = asyncio.create_task(self._break(link), name="simulation.broker-drop")
                try:
                    yield link
                finally:
                    breaking.cancel()

        return connect_unless_away

    async def _break(self, link: MqttLink) -> None:
        while not self.is_on:  # noqa: ASYNC110 - no event tells the time
            await asyncio.sleep(_LOOK_SECONDS)
        link.fail(_WHY)
