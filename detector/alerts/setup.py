"""From the config to the running MQTT sink, with the embedded broker where the config wants one."""

from contextlib import AsyncExitStack

from detector.alerts.embedded_broker import EmbeddedBroker
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.config.config import Config
from detector.store.database import Database
from detector.store.retained import RetainedTopics


def mqtt_settings(config: Config, broker: EmbeddedBroker | None = None) -> MqttSettings:
    """How a config speaks to its broker, or to the embedded one that runs for it."""
    mqtt = config.alerts.mqtt
    return MqttSettings(
        host=broker.host if broker else mqtt.url.host,
        port=broker.port if broker else mqtt.url.port,
        node=config.node,
        prefix=mqtt.prefix,
        username=mqtt.username,
        password=mqtt.password.current if mqtt.password else None,
        tls=mqtt.url.has_tls,
        ca_file=str(mqtt.ca_file) if mqtt.ca_file else None,
        certificate_file=str(mqtt.certificate_file) if mqtt.certificate_file else None,
        key_file=str(mqtt.key_file) if mqtt.key_file else None,
        retain_ended_seconds=config.alerts.retain_ended.seconds,
        protocol="3.1.1" if broker else "auto",
    )


async def start_mqtt(
    config: Config, stack: AsyncExitStack, database: Database
) -> tuple[EmbeddedBroker | None, MqttSink]:
    """Start the embedded broker if the config has one, and the sink; `stack` ends them.

    Raises:
        BrokerUnavailable: the embedded broker cannot listen. A broker elsewhere that is away is a problem in health.
    """
    url, broker = config.alerts.mqtt.url, None
    if config.alerts.mqtt.embedded_broker:
        host = "127.0.0.1" if url.host == "localhost" else url.host
        broker = await stack.enter_async_context(EmbeddedBroker(host, url.port))
    sink = MqttSink(mqtt_settings(config, broker), retained=RetainedTopics(database))
    return broker, await stack.enter_async_context(sink)
