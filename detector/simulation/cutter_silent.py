"""A cutter elsewhere that says nothing."""

from detector.alerts.mqtt_inbox import Hear, Received
from detector.alerts.sink import Receipt
from detector.config.config import Config
from detector.simulation.fault import LastingFault
from detector.trust.commands import Line


class CutterSilent(LastingFault):
    """What the cutter answers over MQTT is not heard, whatever it does; the second channel's answers are."""

    name = "cutter-silent"
    usual = "60s"
    needs_cuts = True

    def objection(self, config: Config) -> str | None:
        """As `Fault.objection`."""
        return None if config.enforcement.where == "remote" else "no cutter is asked; set enforcement.where to remote"

    def answers(self, line: Line) -> Line:
        """As `Fault.answers`."""
        return _SilentLine(line, self)


class _SilentLine:
    """A line of which nothing is heard while a fault is on; what is said on it goes out as ever."""

    def __init__(self, line: Line, fault: CutterSilent) -> None:
        self._line = line
        self._fault = fault

    def listen(self, topic_filter: str, hear: Hear) -> None:
        """As `detector.trust.commands.Line.listen`."""

        def hear_or_not(received: Received) -> None:
            if not self._fault.is_on:
                hear(received)

        self._line.listen(topic_filter, hear_or_not)

    async def send(self, topic: str, payload: bytes, *, expires_in_seconds: int) -> Receipt:
        """As `detector.trust.commands.Line.send`."""
        return await self._line.send(topic, payload, expires_in_seconds=expires_in_seconds)
