"""What the service hears over MQTT: who listens to which topics, and what the broker denies."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

log = structlog.get_logger()

INBOX_LIMIT: Final = 256
"""Messages that came and were not handed on yet; beyond it new ones are dropped."""

UNANSWERED_LIMIT: Final = 64
"""Messages of a kept session that we ask for before we acknowledge them; mosquitto 2.0.11 sends more all the same."""

KEPT_INBOX_LIMIT: Final = 4096
"""As `INBOX_LIMIT`, of a kept session: what is dropped there comes again with the next connection alone."""

_FIRST_REFUSAL: Final = 0x80


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came; `at` is monotonic seconds. `is_retained`: the broker kept it, nobody says it now.

    Where the session is kept, whoever hears it calls `acknowledge` once it is dealt with; until then it comes again
    with every connection. Elsewhere the broker was answered already, and it does nothing.
    """

    topic: str
    payload: bytes
    at: float
    is_retained: bool = False
    acknowledge: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)


Hear = Callable[[Received], None]
"""Takes a message in without waiting for anything; what it cannot keep it drops and counts."""


class Inbox:
    """The topic filters that somebody listens to. Nothing is subscribed before somebody does."""

    def __init__(self) -> None:
        self._hearers: dict[str, Hear] = {}
        self._denied: set[str] = set()
        self.faults_total = 0

    def add(self, topic_filter: str, hear: Hear) -> None:
        """From now on hand what fits the filter to `hear`."""
        self._hearers[topic_filter] = hear

    def __contains__(self, topic_filter: str) -> bool:
        return topic_filter in self._hearers

    def missing(self, subscribed: Iterable[str]) -> list[str]:
        """The filters that are not subscribed yet."""
        return [each for each in self._hearers if each not in set(subscribed)]

    def take(self, received: Received) -> None:
        """Hand a message to whoever listens; one that nobody asked for is dropped."""
        for topic_filter, hear in self._hearers.items():
            if fits(received.topic, topic_filter):
                try:
                    hear(received)
                except Exception:  # the edge of the connection's task: a fault of one listener must not end that
                    self.faults_total += 1
                    if self.faults_total == 1:
                        log.warning("mqtt.listener_failed", exc_info=True)

    def note(self, topic_filter: str, code: int) -> None:
        """Keep what the broker's SUBACK said; a denial is logged once when it begins and once when it is over."""
        if code >= _FIRST_REFUSAL and topic_filter not in self._denied:
            self._denied.add(topic_filter)
            log.warning("mqtt.denied", topic=topic_filter)
        elif code < _FIRST_REFUSAL and topic_filter in self._denied:
            self._denied.discard(topic_filter)
            log.info("mqtt.allowed", topic=topic_filter)

    def problems(self) -> list[str]:
        """What the broker does not let us hear, with the remedy."""
        return [
            f"the MQTT broker denies subscribing to {each}: let this node's user read that in its ACL"
            for each in sorted(self._denied)
        ]


def fits(topic: str, topic_filter: str) -> bool:
    """Whether a topic fits a filter with `+` and `#` (MQTT 5, section 4.7); neither stands for a first level with $."""
    levels, wanted = topic.split("/"), topic_filter.split("/")
    if topic.startswith("$") and wanted[0] in {"+", "#"}:
        return False
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(levels) or level not in {"+", levels[place]}:
            return False
    return len(levels) == len(wanted)
