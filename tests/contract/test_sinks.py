"""What every sink promises, held against each one in the registry. A new sink adds its receiver here."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from detector.alerts.embedded_broker import EmbeddedBroker
from detector.alerts.jsonl import JsonlSettings
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.registry import SINKS, SinkKind, make_sink, sink_kinds
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.alerts.webhook import WebhookSettings
from detector.store.database import Database
from detector.store.retained import RetainedTopics
from tests.fixtures_endpoint import SECRET, Endpoint


@dataclass
class Receiver:
    """The other side of a sink: how to reach it, and what arrived."""

    settings: Any
    payloads: Sequence[bytes]
    stop: Callable[[], Any]


@contextlib.asynccontextmanager
async def _mqtt() -> AsyncIterator[Receiver]:
    payloads: list[bytes] = []
    broker = EmbeddedBroker()
    await broker.__aenter__()

    async def listen() -> None:
        async with aiomqtt.Client(broker.host, broker.port) as client:
            await client.subscribe("stopframe/stream/+/alert", qos=1)
            subscribed.set()
            with contextlib.suppress(aiomqtt.MqttError):
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    payloads.append(message.payload)

    subscribed = asyncio.Event()
    listener = asyncio.create_task(listen())
    await subscribed.wait()

    async def stop() -> None:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await broker.__aexit__(None, None, None)

    try:
        yield Receiver(MqttSettings(host=broker.host, port=broker.port, node="n1"), payloads, stop)
    finally:
        await stop()


@contextlib.asynccontextmanager
async def _jsonl() -> AsyncIterator[Receiver]:
    """Its other side is a folder; without that there is nowhere to write."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "alerts"
        folder.mkdir()
        path = folder / "alerts.jsonl"
        payloads = _Lines(path)

        async def stop() -> None:
            shutil.rmtree(folder, ignore_errors=True)

        yield Receiver(JsonlSettings(path=path), payloads, stop)


class _Lines(Sequence[bytes]):
    """The lines of a file, as they are now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, place: Any) -> Any:
        return (self._path.read_bytes().splitlines() if self._path.exists() else [])[place]

    def __len__(self) -> int:
        return len(self[:])


@contextlib.asynccontextmanager
async def _webhook() -> AsyncIterator[Receiver]:
    async with Endpoint() as endpoint:
        yield Receiver(WebhookSettings(url=endpoint.url, secret=lambda: SECRET), endpoint.bodies, endpoint.stop)


RECEIVERS: dict[str, Callable[[], AbstractAsyncContextManager[Receiver]]] = {
    "mqtt": _mqtt,
    "jsonl": _jsonl,
    "webhook": _webhook,
}


def _notice(number: int) -> Notice:
    expires_at_ms = int(time.time() * 1000) + 60_000
    return Notice(f"id-{number}", f"stream{number % 3}", True, b'{"n":%d}' % number, expires_at_ms, number)


@pytest.fixture
async def retained(tmp_path: Path) -> AsyncIterator[RetainedTopics]:
    async with Database.open(tmp_path / "s.db") as database:
        yield RetainedTopics(database)


def test_every_sink_has_a_receiver() -> None:
    """No sink of the registry goes untested."""
    assert set(SINKS) == set(RECEIVERS)


def test_entry_points_never_replace_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink of another package is found by its name; one that takes our name is passed over."""

    @dataclass
    class Point:
        name: str

        def load(self) -> SinkKind:
            return SinkKind(MqttSettings, MqttSink)

    monkeypatch.setattr("detector.alerts.registry.entry_points", lambda *, group: [Point("theirs"), Point("mqtt")])

    assert set(sink_kinds()) == {"theirs", *SINKS}
    assert sink_kinds()["mqtt"] is SINKS["mqtt"]


@pytest.mark.parametrize("name", SINKS)
async def test_accepted_alerts_arrive_unchanged(name: str, retained: RetainedTopics) -> None:
    """What the sink calls accepted has arrived, byte for byte, also when many deliver at once."""
    async with RECEIVERS[name]() as receiver, make_sink(name, receiver.settings, retained=retained) as sink:
        async with asyncio.timeout(30):
            await sink.wait_ready()
            receipts = await asyncio.gather(*(sink.deliver(_notice(n)) for n in range(12)))
            while len(receiver.payloads) < 12:
                await asyncio.sleep(0.01)
        arrived = sorted(receiver.payloads)

    assert set(receipts) == {Receipt.ACCEPTED}
    assert arrived == sorted(_notice(n).payload for n in range(12))


@pytest.mark.parametrize("name", SINKS)
async def test_sink_is_named_as_registered(name: str, retained: RetainedTopics) -> None:
    """The name in the outbox is the name in the registry, and settings are of the registered type."""
    async with RECEIVERS[name]() as receiver:
        assert isinstance(receiver.settings, SINKS[name].settings_type)
        assert make_sink(name, receiver.settings, retained=retained).name == name


@pytest.mark.parametrize("name", SINKS)
async def test_absent_receiver_is_a_problem_and_never_a_hang(name: str, retained: RetainedTopics) -> None:
    """Without its other side a sink starts, says what to do in one sentence, refuses by name, and ends promptly."""
    async with RECEIVERS[name]() as receiver:
        await receiver.stop()
        started_at = time.monotonic()
        async with make_sink(name, receiver.settings, retained=retained) as sink:
            async with asyncio.timeout(30):
                with pytest.raises(SinkUnavailable):
                    await sink.deliver(_notice(1))
                while not sink.problems():
                    await asyncio.sleep(0.01)
            problems = sink.problems()

    assert time.monotonic() - started_at < 20
    assert all("\n" not in problem and ": " in problem for problem in problems)
    assert list(receiver.payloads) == []
