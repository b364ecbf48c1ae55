"""The sinks that exist: one line each, and those of other packages through the entry points `stopframe.sinks`."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from detector.alerts.clock import Clock
from detector.alerts.jsonl import JsonlSettings, JsonlSink
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.sink import Sink
from detector.alerts.webhook import WebhookSettings, WebhookSink
from detector.store.retained import RetainedTopics


@dataclass(frozen=True, slots=True)
class SinkKind:
    """How a sink is made: `make(settings, retained=..., clock=...)`, with settings of type `settings_type`."""

    settings_type: type[Any]
    make: Callable[..., Sink]


SINKS: Final[dict[str, SinkKind]] = {
    "mqtt": SinkKind(MqttSettings, MqttSink),
    "jsonl": SinkKind(JsonlSettings, JsonlSink),
    "webhook": SinkKind(WebhookSettings, WebhookSink),
}

ENTRY_POINT_GROUP: Final = "stopframe.sinks"


def sink_kinds() -> dict[str, SinkKind]:
    """Return every known sink by name; an entry point loads to a `SinkKind` and never replaces a sink of ours."""
    foreign = {point.name: point.load() for point in entry_points(group=ENTRY_POINT_GROUP)}
    return foreign | SINKS


def make_sink(name: str, settings: Any, *, retained: RetainedTopics, clock: Clock | None = None) -> Sink:
    """Return the sink called `name`.

    Raises:
        KeyError: there is none of that name.
    """
    return sink_kinds()[name].make(settings, retained=retained, clock=clock)
