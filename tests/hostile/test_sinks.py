"""Sinks whose other side hangs, lies, floods or breaks, in every phase: each ends in time, and no other notices."""

import asyncio
import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loopback import Serve, serving
from detector.alerts.delivery import Delivery
from detector.alerts.jsonl import JsonlSettings, JsonlSink
from detector.alerts.mqtt import MqttSink
from detector.alerts.mqtt_connection import MqttSettings
from detector.alerts.resolving import HostResolver
from detector.alerts.sink import Notice, Receipt, SinkUnavailable
from detector.alerts.webhook import WebhookSettings, WebhookSink
from detector.store.database import Database
from detector.store.outbox import Outbox
from tests.fixtures_endpoint import SECRET, Endpoint
from tests.fixtures_web import MakeAuthority
from tests.waiting import until

SECONDS = 0.5
MIB = 2**20


class Numbered:
    """One of many alerts."""

    incident_id, urgency = None, 1

    def __init__(self, number: int) -> None:
        self.alert_id, self.stream_id = f"id-{number:03}", f"S{number}"
        self.expires_at_ms = int(time.time() * 1000) + 60_000

    def encode(self, seq: int | None, *, durable: bool) -> bytes:
        return b'{"seq":%d}' % (seq or 0)


def _notice(number: int = 1) -> Notice:
    return Notice(f"id-{number}", f"S{number}", True, b'{"a":1}', int(time.time() * 1000) + 60_000, 1.0)


def _sink(url: str, seconds: float = SECONDS, **more: Any) -> WebhookSink:
    return WebhookSink(WebhookSettings(url=url, secret=lambda: SECRET, timeout_seconds=seconds, **more))


async def _hang(*_: Any) -> None:
    await asyncio.Event().wait()


async def _say(words: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer so, and hang."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(words)
    await _hang()


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte of the body now and then, for ever."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.05)


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


async def _head_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)


PHASES: dict[str, tuple[str, Serve]] = {
    "TLS": ("https", _hang),
    "head": ("http", _hang),
    "after the status": ("http", partial(_say, b"HTTP/1.1 200 OK\r\n")),
    "body": ("http", partial(_say, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")),
    "trickled body": ("http", _trickle),
    "reset": ("http", _reset),
    "no HTTP": ("http", partial(_say, b"220 smtp ready\r\n\r\n")),
    "endless head": ("http", _head_without_end),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_a_webhook_that_hangs_or_breaks_is_left_in_time(phase: str) -> None:
    """In each phase: no answer within the timeout is no answer, with one sentence in health."""
    scheme, serve = PHASES[phase]
    async with serving(serve) as port, _sink(f"{scheme}://127.0.0.1:{port}/x") as sink:
        async with asyncio.timeout(30):
            with pytest.raises(SinkUnavailable):
                await sink.deliver(_notice())
        assert len(sink.problems()) == 1
        assert "\n" not in sink.problems()[0]


async def test_a_hundred_megabytes_of_answer_are_not_read() -> None:
    """The status counts; of the rest no more than the buffers of a connection is ever sent."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
        while sent < 100 * MIB:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with serving(flood) as port, _sink(f"http://127.0.0.1:{port}/x", 10.0) as sink:
        sink.hear = lambda *_: pytest.fail("a flood is no acknowledgement")
        assert await sink.deliver(_notice()) is Receipt.ACCEPTED
        assert sent < 32 * MIB


async def test_a_connection_that_is_never_taken_is_left_in_time() -> None:
    """A full backlog stands for a firewall that drops: connecting ends with the timeout."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        async with _sink(f"http://127.0.0.1:{listening.getsockname()[1]}/x", 0.5) as sink:
            async with asyncio.timeout(30):
                with pytest.raises(SinkUnavailable):
                    await sink.deliver(_notice())
            assert "did not answer within" in sink.problems()[0]


@pytest.fixture
def dead_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A name server that answers nothing until it is told to."""
    is_back = threading.Event()
    usual = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "sink.example":
            is_back.wait(60)
            host = "127.0.0.1"
        return usual(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield is_back
    is_back.set()


async def test_a_dead_name_server_takes_nobody_elses_threads(dead_resolver: threading.Event) -> None:
    """Forty alerts wait for one look-up; the loop's own threads are free, and the sink ends at once."""
    async with Endpoint() as endpoint:
        settings = MqttSettings(host="sink.example", port=1, node="n1")
        async with _sink(f"http://sink.example:{endpoint.port}/x", 0.5) as sink, MqttSink(settings):
            tries = [asyncio.create_task(sink.deliver(_notice(number))) for number in range(40)]
            async with asyncio.timeout(30):
                await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(40)))
            assert {type(one) for one in await asyncio.gather(*tries, return_exceptions=True)} == {SinkUnavailable}
            assert "see this machine's resolver" in sink.problems()[0]
            assert sum(one.name == "stopframe-resolve" for one in threading.enumerate()) <= 3
            dead_resolver.set()
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(SinkUnavailable):
                        assert await sink.deliver(_notice()) is Receipt.ACCEPTED
                        break
            assert endpoint.heads[0]["host"] == f"sink.example:{endpoint.port}"


async def test_an_address_of_before_serves_while_names_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """For an hour, whether the resolver fails or hangs; then its word counts again."""
    now = 1000.0
    resolver = HostResolver("sink.example", 80, clock=lambda: now)
    answers: list[Any] = [
        [(2, 1, 6, "", ("127.0.0.1", 80)), (10, 1, 6, "", ("::1", 80, 0, 0))],
        socket.gaierror(-2, "no"),
    ]

    def look_up(*_: Any, **__: Any) -> Any:
        answer = answers[0] if len(answers) == 1 else answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert await resolver.addresses() == ("127.0.0.1", "::1")
    now += 60.0
    assert await resolver.addresses() == ("127.0.0.1", "::1")
    now += 3600.0
    with pytest.raises(socket.gaierror):
        await resolver.addresses()
    assert await HostResolver("::1", 80).addresses() == ("::1",)


async def test_the_certificate_has_to_be_that_of_the_name(
    make_authority: MakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the address is what is connected to; and the next address is tried where nobody listens on the first."""
    usual = socket.getaddrinfo

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".example"):
            return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]
        return usual(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    authority = make_authority("DNS:sink.example")
    async with Endpoint(tls=authority.server()) as endpoint:
        for host in ("sink.example", "other.example"):
            async with _sink(f"https://{host}:{endpoint.port}/x", 5.0, ca_file=str(authority.ca_file)) as sink:
                if host == "sink.example":
                    assert await sink.deliver(_notice()) is Receipt.ACCEPTED
                    continue
                with pytest.raises(SinkUnavailable):
                    await sink.deliver(_notice())
                assert "certificate is not trusted" in sink.problems()[0]


async def test_a_webhook_that_hangs_delays_no_line_and_no_timeout_is_cut_short(tmp_path: Path) -> None:
    """A hundred alerts are in the file while each try at the webhook hangs; and a slow endpoint gets its whole time."""
    async with serving(_hang) as port, Database.open(tmp_path / "s.db") as database:
        outbox = Outbox(database)
        webhook, jsonl = _sink(f"http://127.0.0.1:{port}/x", 20.0), JsonlSink(JsonlSettings(path=tmp_path / "a.jsonl"))
        async with webhook, jsonl, Delivery(outbox, [webhook, jsonl]) as delivery:
            assert delivery._couriers["webhook"]._longest_seconds == 21.0
            assert delivery._couriers["jsonl"]._longest_seconds == 10.0
            for number in range(100):
                await delivery.submit(Numbered(number))
            path = tmp_path / "a.jsonl"
            await until(lambda: path.exists() and path.read_bytes().count(b"\n") == 100)


# The file


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size`, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_keeps_whole_lines_and_resumes(tmp_path: Path) -> None:
    """A line that has no room is refused, nothing of it stays, and with room it is taken."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * (4 * MIB - 1) + b"\n")
    async with JsonlSink(JsonlSettings(path=path)) as sink:
        with small_files(4 * MIB + 3):
            with pytest.raises(SinkUnavailable):
                await sink.deliver(_notice())
            assert sink.problems()
        assert path.stat().st_size == 4 * MIB
        assert await sink.deliver(_notice()) is Receipt.ACCEPTED
        assert sink.problems() == []
    assert path.read_bytes().splitlines()[1:] == [b'{"a":1}']


async def test_a_folder_that_forbids_renaming_stops_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file grows on and health says so; when the folder is writable again, it is turned over."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 99 + b"\n")
    async with JsonlSink(JsonlSettings(path=path, rotate_bytes=100, keep=2)) as sink:
        with monkeypatch.context() as forbidden:

            def forbid(*_: Any) -> Any:
                raise PermissionError(13, "Permission denied")

            forbidden.setattr(Path, "replace", forbid)
            for number in range(3):
                assert await sink.deliver(_notice(number)) is Receipt.ACCEPTED
            assert "cannot be renamed: permission denied" in sink.problems()[0]
            assert path.read_bytes().count(b"\n") == 4
        sink._file._turn_at = 0.0  # ten seconds later
        assert await sink.deliver(_notice()) is Receipt.ACCEPTED
        assert sink.problems() == []
    assert (path.read_bytes(), (tmp_path / "a.jsonl.1").read_bytes().count(b"\n")) == (b'{"a":1}\n', 4)


async def test_a_link_in_the_files_place_is_refused_and_its_end_untouched(tmp_path: Path) -> None:
    """Whether it was there or came since; what it leads to is not even cut to whole lines."""
    path, victim = tmp_path / "a.jsonl", tmp_path / "victim"
    victim.write_bytes(b"no newline at its end")
    async with JsonlSink(JsonlSettings(path=path)) as sink:
        assert await sink.deliver(_notice()) is Receipt.ACCEPTED
        path.unlink()
        path.symlink_to(victim)
        with pytest.raises(SinkUnavailable):
            await sink.deliver(_notice())
        assert "it is a link" in sink.problems()[0]
        path.unlink()
        for _ in range(2):  # removed again while it is open
            assert await sink.deliver(_notice()) is Receipt.ACCEPTED
            assert path.read_bytes() == b'{"a":1}\n'
            path.unlink()
    assert victim.read_bytes() == b"no newline at its end"


async def test_a_disk_that_hangs_is_told_and_writes_no_line_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given up is not written when the disk is back: it comes again by itself."""
    monkeypatch.setattr("detector.alerts.jsonl._DISK_SECONDS", 0.2)
    is_back, usual = threading.Event(), os.fsync

    def hang(descriptor: int) -> None:
        is_back.wait(30)
        usual(descriptor)

    monkeypatch.setattr(os, "fsync", hang)
    path = tmp_path / "a.jsonl"
    async with JsonlSink(JsonlSettings(path=path)) as sink:
        tries = await asyncio.gather(*(sink.deliver(_notice(n)) for n in range(5)), return_exceptions=True)
        assert {type(one) for one in tries} == {SinkUnavailable}
        assert "the disk does not answer" in sink.problems()[0]
        again = [await asyncio.gather(sink.deliver(_notice(n)), return_exceptions=True) for n in range(2)]
        assert all(isinstance(one[0], SinkUnavailable) for one in again)
        is_back.set()
        monkeypatch.setattr("detector.alerts.jsonl._DISK_SECONDS", 10.0)
        assert await sink.deliver(_notice(9)) is Receipt.ACCEPTED
        assert sink.problems() == []
    assert path.read_bytes().count(b"\n") <= 6  # the five that hung in the disk itself, and the last
