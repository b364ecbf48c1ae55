"""From the config to the running sinks, with the embedded broker where the config wants one."""

from contextlib import AsyncExitStack

from detector.alerts.clock import Clock
from detector.alerts.embedded_broker import EmbeddedBroker
from detector.alerts.jsonl import JsonlSettings, JsonlSink
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import Connect, MqttSettings, connect
from detector.alerts.sink import Sink
from detector.alerts.webhook import WebhookSettings, WebhookSink
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
    config: Config,
    stack: AsyncExitStack,
    database: Database,
    *,
    connect: Connect = connect,
    clock: Clock | None = None,
) -> tuple[EmbeddedBroker | None, MqttSink]:
    """Start the embedded broker if the config has one, and the sink; `stack` ends them.

    Raises:
        BrokerUnavailable: the embedded broker cannot listen. A broker elsewhere that is away is a problem in health.
    """
    url, broker = config.alerts.mqtt.url, None
    if config.alerts.mqtt.embedded_broker:
        host = "127.0.0.1" if url.host == "localhost" else url.host
        broker = await stack.enter_async_context(EmbeddedBroker(host, url.port))
    settings, retained = mqtt_settings(config, broker), RetainedTopics(database)
    sink = MqttSink(settings, retained=retained, connect=connect, clock=clock)
    return broker, await stack.enter_async_context(sink)


def webhook_settings(config: Config) -> WebhookSettings | None:
    """Where alerts are posted; None where the config names no endpoint."""
    webhook = config.alerts.webhook
    if webhook.url is None or webhook.secret is None:
        return None
    return WebhookSettings(
        url=webhook.url.reveal(),
        secret=webhook.secret.current,
        ca_file=str(webhook.ca_file) if webhook.ca_file else None,
        timeout_seconds=webhook.timeout.seconds,
    )


async def start_other_sinks(config: Config, stack: AsyncExitStack) -> list[Sink]:
    """Start the sinks beside MQTT that the config names; `stack` ends them."""
    sinks: list[Sink] = []
    jsonl, webhook = config.alerts.jsonl, webhook_settings(config)
    if jsonl.path is not None:
        settings = JsonlSettings(path=jsonl.path, rotate_bytes=jsonl.rotate_at.bytes, keep=jsonl.keep)
        sinks.append(await stack.enter_async_context(JsonlSink(settings)))
    if webhook is not None:
        sinks.append(await stack.enter_async_context(WebhookSink(webhook)))
    return sinks
