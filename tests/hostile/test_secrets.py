"""Canary secrets in every place that takes one, everything made to fail around them, and then a search for them."""

import asyncio
import base64
import contextlib
import json
import os
import re
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.loopback import serving
from benchmarks.ports import free_port
from tests.fixtures_brokers import Mosquitto
from tests.fixtures_cli import CommandLine
from tests.fixtures_media import Clip, MediaMaker
from tests.hostile.canaries import Canary, found_in
from tests.hostile.commands import Ask, commands
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.needs_mosquitto]


def test_the_search_finds_what_it_looks_for() -> None:
    """The search is no blank: raw, percent-encoded and in Basic authorization, at any offset, it finds a canary."""
    canary = Canary("c")
    for user in ("", "a", "ab", "abc", "user"):
        basic = base64.b64encode(f"{user}:{canary.value}".encode())
        places = {"raw": canary.value.encode(), "quoted": canary.quoted.encode(), "basic": basic}
        assert {hit.split(":")[0] for hit in found_in([canary], places)} == {"c in raw", "c in quoted", "c in basic"}


@contextlib.asynccontextmanager
async def _answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A server that reads a request's head, writes what `answer` makes of it, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await reader.readuntil(b"\r\n\r\n")))
        await writer.drain()

    async with serving(serve) as port:
        yield port


def _line(head: bytes) -> bytes:
    return head.split(b"\r\n")[0]


def _answers(media: MediaMaker) -> dict[str, Callable[[bytes], bytes]]:
    """Servers that refuse, send elsewhere, talk rubbish and repeat whatever they were asked with."""

    def titled(head: bytes) -> bytes:
        title = _line(head).decode("latin-1")
        clip = media.clip(Clip(frames=30, title=f"{title} {head!r}"[:200]))
        return b"HTTP/1.1 200 OK\r\nServer: " + _line(head) + b"\r\n\r\n" + clip

    return {
        "401": lambda head: b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\n\r\n" + head,
        "403": lambda head: b"HTTP/1.1 403 " + _line(head) + b"\r\n\r\n" + head,
        "302": lambda head: b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/" + head.split()[1] + b"\r\n\r\n",
        "garbage": lambda head: head + bytes(range(256)) * 50,
        "closed": lambda _: b"",
        "echo": titled,
    }


class Scene:
    """The service in a process of its own, and everything that anybody could read of it."""

    def __init__(self, stopframe: CommandLine) -> None:
        self.stopframe = stopframe
        self.canaries: list[Canary] = []
        self.places: dict[str, bytes] = {}
        self.environment: dict[str, str] = {}
        self.commands: Ask | None = None

    def secret(self, name: str, **parts: str) -> Canary:
        """A canary in a file of its own, to be named `{file: NAME}`."""
        canary = Canary(name, **parts)
        (self.stopframe.folder / name).write_text(canary.value + "\n")
        (self.stopframe.folder / name).chmod(0o600)
        self.canaries.append(canary)
        return canary

    def log(self) -> bytes:
        """What the service has written so far."""
        return (self.stopframe.folder / "log").read_bytes()

    @contextlib.asynccontextmanager
    async def running(self, config: str) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
        """Run the service on `config`; yields its HTTP address. What it wrote is kept in `places`."""
        self.stopframe.write_config(config)
        log = self.stopframe.folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.stopframe.command("run"),
                cwd=self.stopframe.folder,
                env=self.stopframe.environment() | self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            async with commands(self.stopframe, os.environ | self.environment) as self.commands:
                await until(lambda: b"service.ready" in log.read_bytes() or process.poll() is not None, 60)
                assert process.poll() is None, log.read_text()
                yield _http_address(log.read_text()), process
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
            self.places["log"] = log.read_bytes()

    async def ask(self, *arguments: str) -> None:
        """Run a command beside the service and keep what it wrote."""
        assert self.commands is not None
        run = await self.commands(*arguments)
        name = " ".join(arguments[:2])[:40] + f" #{len(self.places)}"
        self.places[name] = f"{run.out}\n{run.err}".encode()

    def look_at_processes(self, process: subprocess.Popen[bytes]) -> None:
        """What other users, and what caged children, could read of processes."""
        main = psutil.Process(process.pid)
        self.places["command line"] = " ".join(main.cmdline()).encode()
        assert main.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        for child in main.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                assert child.rlimit(psutil.RLIMIT_CORE)[0] == 0
                self.places[f"child {child.pid}"] = "\0".join(child.cmdline()).encode()
                environment = Path(f"/proc/{child.pid}/environ").read_bytes()
                assert environment == b""

    async def get(self, url: str, **options: object) -> None:
        """Keep an answer of the HTTP port."""
        async with httpx.AsyncClient() as client:
            answer = await client.request(**({"method": "GET", "url": url} | options))  # type: ignore[arg-type]
        self.places[f"{options.get('method', 'GET')} {url[-60:]} #{len(self.places)}"] = (
            f"{answer.status_code} {answer.headers}\n".encode() + answer.content
        )

    def check(self) -> None:
        """No canary stands anywhere; files that may hold some are nobody else's."""
        assert found_in(self.canaries, self.places) == []
        state = self.stopframe.folder / "state"
        for path in (state, *state.iterdir(), *(state / "secrets").iterdir()):
            mode = stat.S_IMODE(path.lstat().st_mode)
            assert mode & 0o077 == 0, f"{path} has mode {mode:o}"


def _http_address(log: str) -> str:
    for line in log.splitlines():
        if "service.ready" in line:
            if line.startswith("{"):
                return str(json.loads(line)["http"])
            return next(word.removeprefix("http=") for word in line.split() if word.startswith("http="))
    raise AssertionError(log)


@contextlib.contextmanager
def _subscriber(broker: Mosquitto, output: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """mosquitto_sub on every topic, retained ones too."""
    with output.open("wb") as heard:
        process = subprocess.Popen(
            ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-t", "#", "-v"], stdout=heard, stderr=heard
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


async def test_no_secret_of_a_failing_world_is_shown(
    stopframe: CommandLine, make_mosquitto: Callable[..., Mosquitto], media: MediaMaker, tmp_path: Path
) -> None:
    """A broker, an ingest API and sources that refuse, redirect, talk rubbish or echo: no secret leaves the process.

    Passwords, the token, URLs with keys in path, query and userinfo, and the hook's secret are searched for in the
    log (debug, JSON), health, metrics, the commands' output and the children's command lines and environments.
    """
    scene = Scene(stopframe)
    passwords = tmp_path / "passwd"
    passwords.touch(0o600)
    broker = make_mosquitto("allow_anonymous false", f"password_file {passwords}")
    mqtt, api, token = scene.secret("mqtt"), scene.secret("api"), scene.secret("token", after="_ascii")
    async with contextlib.AsyncExitStack() as stack:
        ports = {name: await stack.enter_async_context(_answering(a)) for name, a in _answers(media).items()}
        ports["nobody"] = free_port()
        sources = []
        for name, port in ports.items():
            path, query, user, password = (Canary(f"{name} {part}") for part in ("path", "query", "user", "password"))
            scene.canaries += [path, query, user, password]
            variable = f"URL_{name.upper()}"
            url = f"http://{user.quoted}:{password.quoted}@127.0.0.1:{port}/live/{path.quoted}.ts?key={query.quoted}"
            scene.environment[variable] = url
            sources.append(f'  - {{name: "s-{name}", url: "${{{variable}}}"}}\n')
        rtmp = Canary("rtmp")
        scene.canaries.append(rtmp)
        sources.append(f'  - {{name: rtmp, url: "rtmp://127.0.0.1:{ports["garbage"]}/live/{rtmp.quoted}"}}\n')
        config = (
            f"log: {{level: debug, format: json}}\n"
            f'http: {{listen: "127.0.0.1:0", token: {{file: token}}}}\n'
            f"ingest: {{kind: mediamtx, api: 'http://127.0.0.1:{ports['401']}', username: me, "
            f"password: {{file: api}}}}\n"
            f"alerts: {{mqtt: {{url: 'mqtt://127.0.0.1:{broker.port}', embedded_broker: false, username: me, "
            f"password: {{file: mqtt}}}}}}\n" + "sources:\n" + "".join(sources)
        )
        async with scene.running(config) as (http, process):
            hook = (stopframe.folder / "state/secrets/hook").read_text().strip()
            deployment = (stopframe.folder / "state/secrets/deployment").read_text().strip()
            scene.canaries += [Canary("hook", heart=hook), Canary("deployment", heart=deployment)]
            await until(lambda: len(_tried(scene.log())) >= len(sources), 60)
            for path in ("/health/ready", "/metrics", "/health/nothing", "/v1/streams"):
                await scene.get(http + path)
            bearer = {"Authorization": f"Bearer {token.value}"}
            for path in ("/v1/status", "/v1/streams", "/v1/incidents", "/v1/streams?keys=1", f"/v1/{'x' * 99}"):
                await scene.get(http + path, headers=bearer)
            await scene.get(f"{http}/hook/{hook}/mediamtx", method="POST", content=b"garbage")
            await scene.get(f"{http}/hook/{hook}/other", method="POST")
            await scene.get(f"{http}/hook/{hook}x/mediamtx", method="POST")
            scene.look_at_processes(process)
            for command in (("streams",), ("streams", "--json"), ("streams", "--keys"), ("incidents", "--json")):
                await scene.ask(*command)
            await scene.ask("cut", mqtt.value)
            await scene.ask("check", "stopframe.yaml")
            await scene.ask("models", "check")

    scene.check()
    assert b"session." in scene.places["log"]
    assert api.value
    assert all(json.loads(line) for line in scene.places["log"].splitlines())


async def test_no_publishers_key_is_shown(
    stopframe: CommandLine, make_mosquitto: Callable[..., Mosquitto], media: MediaMaker, tmp_path: Path
) -> None:
    """Publishers of the embedded ingest, watched, cut and refused: their keys stay in the database.

    Searched are the log (debug, console), every topic of the broker, health, metrics and the commands' output.
    """
    scene = Scene(stopframe)
    broker = make_mosquitto()
    scene.secret("mqtt")
    keys = [Canary(f"key {n}", before="cam-", after="-x") for n in range(4)]
    scene.canaries += keys
    ingest = free_port()
    config = (
        f"log: {{level: debug, format: console}}\n"
        f'http: {{listen: "127.0.0.1:0"}}\ningest: {{listen: "127.0.0.1:{ingest}"}}\n'
        f"alerts: {{mqtt: {{url: 'mqtt://127.0.0.1:{broker.port}', embedded_broker: false, username: me, "
        f"password: {{file: mqtt}}}}, coverage_every: 1s}}\n"
    )
    clip = media.clip(Clip(frames=300, title=f"title {keys[0].value}"))
    bodies = {
        keys[0]: clip,
        keys[1]: b"no media at all " * 9999,
        keys[2]: keys[2].value.encode() * 999,
        keys[3]: b"G" * 188,
    }
    with _subscriber(broker, tmp_path / "heard"):
        async with scene.running(config) as (http, process), httpx.AsyncClient(timeout=30) as client:
            tasks = [
                asyncio.create_task(
                    _publish(client, f"http://127.0.0.1:{ingest}/live/{key.quoted}?auth={key.quoted}", body)
                )
                for key, body in bodies.items()
            ]
            await until(lambda: len(_tried(scene.log())) >= len(keys), 60)
            for path in ("/health/ready", "/metrics"):
                await scene.get(http + path)
            await scene.ask("streams")
            await scene.ask("streams", "--json")
            scene.look_at_processes(process)
            rows = scene.places[next(name for name in scene.places if name.startswith("streams --json"))]
            assert b'"live/cam-***"' in rows
            for line in rows.decode().splitlines()[:4]:
                if line.startswith("{"):
                    await scene.ask("cut", json.loads(line)["stream_id"], "--json")
            for key in keys:
                refused = await client.post(f"http://127.0.0.1:{ingest}/live/{key.quoted}", content=b"")
                scene.places[f"refusal of {key.name}"] = refused.content
            await scene.ask("scan", f"http://127.0.0.1:{ingest}/live/{keys[1].quoted}?auth={keys[1].quoted}", "--json")
            await scene.ask("incidents")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    scene.places["heard"] = (tmp_path / "heard").read_bytes()

    scene.check()
    assert b"stopframe/stream/" in scene.places["heard"]
    assert any(key.value.encode() in _database(stopframe.folder) for key in keys)


def _tried(log: bytes) -> set[bytes]:
    """The streams that a reader opened or failed at."""
    lines = [line for line in log.splitlines() if re.search(rb"session\.(opened|reader_ended|reader_lost)", line)]
    return {found[0] for line in lines if (found := re.search(rb"\b[A-Z2-7]{26}\b", line))}


async def _publish(client: httpx.AsyncClient, url: str, body: bytes) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 8192):
            yield body[at : at + 8192]
            await asyncio.sleep(0.1)
        while True:  # whoever sends nothing is dropped
            yield body[:188]
            await asyncio.sleep(0.2)

    with contextlib.suppress(httpx.HTTPError):
        await client.post(url, content=slowly())


def _database(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (folder / "state").glob("stopframe.db*") if os.access(path, os.R_OK))
