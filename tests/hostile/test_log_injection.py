"""Names, titles and fields that try to write lines of their own into a log, or to move a terminal's cursor."""

import asyncio
import contextlib
import io
import json
import logging
import random
import re
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from urllib.parse import quote_from_bytes, urlencode

import httpx
import pytest
import structlog

from benchmarks.ports import free_port
from detector.cli.output import note, table
from detector.config.servers import HttpServerUrl
from detector.events import StreamKey
from detector.ingest.adapter import IngestUnavailable
from detector.ingest.nginx_rtmp import NginxRtmp
from detector.ingest.nginx_settings import NginxRtmpSettings
from detector.ingest.revocations import FileRevocations, Revocations
from detector.logs import VALUE_CHARACTERS, configure_logs
from detector.metrics import LABEL_LIMIT, Metrics
from tests.fixtures_cli import CommandLine
from tests.fixtures_media import Clip, MediaMaker
from tests.hostile.commands import Ask, commands
from tests.waiting import until

SEEDS = [
    b"\xff\xfe\x80",
    b"a\nb",
    b"a\r\n2026-01-01T00:00:00Z [error    ] service.ready          http=http://evil",
    b'"}\n{"event": "cut.confirmed", "level": "info"}',
    b"\x1b[2J\x1b[31mred\x1b]0;title\x07",
    b"\x9b31m\x90\x9d",
    "\u2028\u2029\x85".encode(),
    "\u202egnp.\u2066\u2069\u200f".encode(),
    b"nul\0nul",
    b"%s%n%(event)s{0}{event}",
    b"[red]markup[/red] \\x1b \\n",
    b"\xed\xa0\x80",
    b"timestamp=1999-01-01T00:00:00Z level=error",
    "\U000e0001\U000e007f\ufeff\u200b".encode(),
]
LONG = b"long\n" * 200_000


def hostile_names(count: int = 200) -> list[bytes]:
    """`count` names, all different, each with one of the tricks, the last one a megabyte long."""
    draw = random.Random(4)
    made = [b"%s-%d-%s" % (draw.choice(SEEDS), n, draw.choice(SEEDS)) for n in range(count - 1)]
    return [*made, LONG]


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_value_is_part_of_one_line(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """200 hostile texts as values, in lists and dicts, as a library's message and in an error: a line each, capped."""
    configure_logs("info", form)  # type: ignore[arg-type]
    texts = [name.decode("utf-8", "surrogateescape") for name in hostile_names()]
    log, library = structlog.get_logger(), logging.getLogger("some.library")

    for text in texts:
        log.info("session.opened", stream=text, title=text, more=[text, {text: text}], thing=Path(text[:50]))
        library.warning(text)

    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 2 * len(texts) + 1
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 12 * VALUE_CHARACTERS * 5
    if form == "json":
        events = [json.loads(line) for line in lines[:-1]]
        assert {event["event"] for event in events[::2]} == {"session.opened"}
        assert all(event["level"] == "info" for event in events[::2])


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.usefixtures("expects_errors")
def test_an_errors_text_makes_no_event(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """What an exception quotes stands indented below its event, or within the event's object."""
    configure_logs("info", form)  # type: ignore[arg-type]
    for name in hostile_names(40):
        try:
            raise ValueError(name.decode("utf-8", "surrogateescape")[:2000])
        except ValueError:
            structlog.get_logger().exception("session.failed")

    lines = capsys.readouterr().err.split("\n")[:-1]
    starts = [line for line in lines if not line.startswith("    | ")]
    assert len(starts) == 40
    assert all(line.isprintable() for line in lines)
    if form == "json":
        assert all(json.loads(line)["event"] == "session.failed" for line in starts)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_table_moves_no_cursor(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> None:
    """What `streams` prints of hostile names is one line a row, printable, on a terminal and in a pipe."""
    output = io.StringIO()
    output.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", output)
    names = [name.decode("utf-8", "surrogateescape")[:300] for name in hostile_names()]

    table(("stream", "path"), [(str(number), name) for number, name in enumerate(names)])

    text = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())  # the heading's own
    assert len(text.split("\n")) == len(names) + 2
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_sentence_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """What a command says of an error that quotes hostile text is printable."""
    for name in hostile_names(50):
        note(f"refused: {name.decode('utf-8', 'replace')[:500]}")

    assert all(line.isprintable() for line in capsys.readouterr().err.split("\n"))


def test_a_label_makes_no_metric() -> None:
    """Labels stay few and each sample one line, whatever a word holds."""
    metrics = Metrics()
    for name in hostile_names():
        word = name.decode("utf-8", "replace")[:300]
        metrics.model_failure(word)
        metrics.dropped(word)
    text, _ = metrics.expose()

    lines = [line for line in text.decode().split("\n") if line and not line.startswith("#")]
    assert all(line.startswith(("stopframe_", "process_")) for line in lines)
    assert sum(line.startswith("stopframe_model_failures_total") for line in lines) <= LABEL_LIMIT + 1


@pytest.mark.parametrize("form", ["console", "json"])
async def test_the_hooks_fields_are_nobodys_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """200 hostile names, flash versions and addresses through nginx's hook: each is answered, none writes a line."""
    configure_logs("debug", form)  # type: ignore[arg-type]
    here = HttpServerUrl("http", "127.0.0.1", free_port())
    settings = NginxRtmpSettings.model_validate({"hook_deadline": "0s", "stat": f"{here}/stat", "poll": "1m"})
    revocations = Revocations(FileRevocations(tmp_path / "revoked"), lambda key: key.path.encode().hex()[:64])
    async with NginxRtmp(settings, revocations) as server:
        for number, name in enumerate(hostile_names()):
            fields = {"call": "publish", "app": b"live", "name": name[:2000], "clientid": number, "addr": name[:2000]}
            more = {"flashver": name[:500], "swfurl": name[:500], "pageurl": name[:500]}
            answer = await server.answer_hook(urlencode(fields | more).encode())
            assert answer.status in {200, 403, 413}
        with contextlib.suppress(IngestUnavailable):
            await server.cut(StreamKey(server.name, "live", "a\nb"))

    err = capsys.readouterr().err
    assert all(line.isprintable() for line in err.split("\n"))
    assert len(err.splitlines()) <= 3  # the stat page does not answer


@pytest.mark.integration
async def test_hostile_publishers_write_no_line_and_lose_no_stream(stopframe: CommandLine, media: MediaMaker) -> None:
    """200 hostile paths at the embedded ingest of the real service beside one ordinary publisher.

    Each gets an HTTP answer or is published; the ordinary one is seen all the while; the log has one line an event. It
    is the form for people, whose lines nothing but their beginning tells apart.
    """
    ingest = free_port()
    stopframe.write_config(
        f'log: {{level: debug, format: console}}\nhttp: {{listen: "127.0.0.1:0"}}\nmodels: []\n'
        f'ingest: {{listen: "127.0.0.1:{ingest}"}}\nalerts: {{mqtt: {{url: "mqtt://127.0.0.1:0"}}}}\n'
    )
    log = stopframe.folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *stopframe.command("run"),
            cwd=stopframe.folder,
            env=stopframe.environment(),
            stdout=output,
            stderr=output,
        )
        try:
            async with commands(stopframe) as ask:
                await until(lambda: b"service.ready" in log.read_bytes(), 60)
                await _publish_all(ask, ingest, media, log)
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)

    lines = log.read_bytes().decode().rstrip("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    events = [re.match(r"\d{4}-\d\d-\d\dT\S+Z \[(\w+) *\] (\S+)", line) for line in lines]
    assert [line for line, event in zip(lines, events, strict=True) if event is None] == []
    told = [event.groups() for event in events if event is not None]
    assert told.count(("info", "service.ready")) == 1
    assert not any(event == "cut.confirmed" or level == "error" for level, event in told)


async def _publish_all(ask: Ask, ingest: int, media: MediaMaker, log: Path) -> None:
    title = '\x1b[31m\n\u202e\u2028 {"event": "cut.confirmed"}\r'
    clip = media.clip(Clip(frames=600, title=title))
    ordinary = asyncio.create_task(_publish(ingest, b"ordinary", clip, 120), name="ordinary")
    await until(lambda: b"session.opened" in log.read_bytes(), 60)
    async with asyncio.TaskGroup() as crowd:
        room = asyncio.Semaphore(20)
        for name in hostile_names():
            crowd.create_task(_in_turn(room, _publish(ingest, name[:15_000], clip[:20_000], 0)), name="hostile")
    for extra in ((), ("--json",), ("--keys",), ("--keys", "--json")):
        shown = await ask("streams", *extra)
        assert shown.code == 0, shown.err
        assert all(line.isprintable() for line in (shown.out + shown.err).split("\n"))
    row = json.loads(next(line for line in shown.out.splitlines() if "live/ordinary" in line))
    ordinary.cancel()
    await asyncio.gather(ordinary, return_exceptions=True)
    assert row["state"] == "live"
    assert row["codec"] == "h264"


async def _in_turn(room: asyncio.Semaphore, publishing: Coroutine[None, None, None]) -> None:
    async with room:
        await publishing


async def _publish(ingest: int, name: bytes, body: bytes, seconds: float) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1316):
            yield body[at : at + 1316]
            await asyncio.sleep(seconds * 1316 / len(body))

    url = f"http://127.0.0.1:{ingest}/live/{quote_from_bytes(name)}"
    agent = {"User-Agent": "agent \\x1b[31m " + "x" * 1000}
    async with httpx.AsyncClient(timeout=60) as client:
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.post(url, content=slowly(), headers=agent)
            assert answer.status_code in {200, 400, 403, 431}
