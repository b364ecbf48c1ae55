"""Damaged inputs through the real reader: caged, started by the forkserver, heard by the keeper, on every way in.

Input `number` of `seed` is always the same bytes on the same way in, so that one that did harm can be run again.
"""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Self

from benchmarks.fuzz_seeds import make_seeds, of_container
from benchmarks.mutations import Seed, mutate
from detector.blindness import cause_of
from detector.config.addresses import ListenAddress
from detector.ingest.embedded import EmbeddedIngest, EmbeddedSettings
from detector.ingest.revocations import FileRevocations, Revocations
from streams.frame import Frame
from streams.job import Job, SandboxMode, SourceKind
from streams.keeper import Keeper, Nursery, ReaderFailed, SourceUnreachable
from streams.reach import reach
from streams.sampling import SamplingSettings
from streams.wire import EndCode, Ended, Opened

HANG_SECONDS: Final = 5.0

# Jumps of a file's clock are capped at `detect_within`: what is paced ends in time, whatever its timestamps say.
_SAMPLING: Final = SamplingSettings(detect_within_seconds=0.2, interval_seconds=0.1)
_OPEN_SECONDS, _READ_SECONDS = 2.0, 1.0
_PUBLISHED_SECONDS = 0.3
_GIVEN_UP_SECONDS = 30.0
_WAYS: Final = (("scan", 70), ("live file", 14), ("ingest", 8), ("hls", 8))
_UNEXPECTED = "unexpected "
_HUNG = "hang"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one input came to.

    `end` is the reader's last word, or how it failed; `cause` is the service's word for it. `fault` names an exception
    that nobody expected: in the reader, or, where `is_ours`, in the service. `late_seconds` is how much longer it took
    than the media's own time; of a playlist, which is read at the pace at which it is shown and may name a segment many
    times, the longest that nothing of it was seen.
    """

    number: int
    way: str
    seed: str
    end: str
    cause: str
    late_seconds: float
    frames: int = 0
    fault: str = ""
    is_ours: bool = False

    @property
    def is_crash(self) -> bool:
        """Whether the reader ended by a signal, or without a word."""
        return self.end.startswith("ReaderCrashed")

    @property
    def is_hang(self) -> bool:
        """Whether it took too long."""
        return self.late_seconds > HANG_SECONDS


class _Seen:
    """What a reader has said so far: how many frames, and how long nothing of the media was seen at most."""

    def __init__(self, at: float) -> None:
        self.frames = 0
        self.longest_seconds = 0.0
        self._last_at = at

    def note(self, message: object) -> None:
        self.frames += isinstance(message, Frame)
        if isinstance(message, Opened | Frame | Ended):
            now = time.monotonic()
            self.longest_seconds = max(self.longest_seconds, now - self._last_at)
            self._last_at = now


class Fuzzer:
    """The ways in, open for inputs. `async with open_fuzzer(...)` gives one."""

    def __init__(self, seed: int, nursery: Nursery, ingest: EmbeddedIngest, playlists: "PlaylistServer") -> None:
        self._seed = seed
        self._nursery = nursery
        self._ingest = ingest
        self._playlists = playlists
        self._media = make_seeds()

    def input(self, number: int) -> tuple[str, Seed]:
        """Return the way in and the bytes of an input."""
        draw = Random(f"{self._seed}/{number}")
        (way,) = draw.choices([way for way, _ in _WAYS], [share for _, share in _WAYS])
        files = of_container(self._media, "ts", "flv", "mp4", "mkv")
        fitting = {"ingest": of_container(self._media, "ts"), "hls": of_container(self._media, "hls")}.get(way, files)
        return way, mutate(draw.choice(fitting), files, draw)

    async def run(self, number: int) -> Outcome:
        """Send one input through the reader."""
        way, media = self.input(number)
        begun_at = time.monotonic()
        media_seconds, seen, fault, is_ours = 0.0, _Seen(begun_at), "", False
        try:
            async with asyncio.timeout(_GIVEN_UP_SECONDS), self._source(way, media, number) as (job, media_fd):
                ended = await self._read(job, media_fd, seen)
            media_seconds = ended.media_end_seconds if way == "live file" else 0.0
            end, cause = ended.code.value, _cause(ended)
            fault = ended.detail.removeprefix(_UNEXPECTED) if ended.detail.startswith(_UNEXPECTED) else ""
        except ReaderFailed as failure:
            end, cause = f"{type(failure).__name__}: {failure}", cause_of(failure).value
        except SourceUnreachable as failure:
            end, cause = type(failure).__name__, cause_of(failure).value
        except TimeoutError:
            end, cause = "given up", _HUNG
        except Exception as error:  # noqa: BLE001 - whatever an input raises in the service is the finding
            end, cause, fault, is_ours = "service fault", "none", type(error).__name__, True
        taken = time.monotonic() - begun_at
        late = taken - (0.0 if math.isnan(media_seconds) else max(0.0, media_seconds))
        if way == "hls" and cause != _HUNG:
            late = seen.longest_seconds
        return Outcome(number, way, media.name, end, cause, late, seen.frames, fault, is_ours)

    async def _read(self, job: Job, media_fd: int | None, seen: "_Seen") -> Ended:
        async with reach(job) as reached:
            descriptor = reached.media_fd if media_fd is None else media_fd
            async with Keeper(self._nursery, reached.job, descriptor) as keeper:
                async for message in keeper.messages():
                    seen.note(message)
                    if isinstance(message, Ended):
                        return message
        return Ended(EndCode.INTERNAL, math.nan, "unexpected silence")

    @asynccontextmanager
    async def _source(self, way: str, media: Seed, number: int) -> AsyncIterator[tuple[Job, int | None]]:
        if way == "ingest":
            path = f"/live/input{number}"
            async with _published(self._ingest.port, path, media.content):
                yield _job(SourceKind.HTTP_TS, f"{self._ingest.url}{path}"), None
        elif way == "hls":
            with self._playlists.serving(number, media) as url:
                yield _job(SourceKind.HLS, url), None
        else:
            with _in_memory(media.content) as descriptor:
                yield _job(SourceKind.FILE, "", live=way == "live file"), descriptor


@asynccontextmanager
async def open_fuzzer(seed: int, folder: Path) -> AsyncIterator[Fuzzer]:
    """Start the forkserver, the embedded ingest and the server of playlists."""
    revocations = Revocations(FileRevocations(folder / "revoked"), lambda key: key.name)
    settings = EmbeddedSettings(listen=ListenAddress("127.0.0.1", 0))
    async with (
        Nursery("streams.reader:main") as nursery,
        EmbeddedIngest(settings, revocations) as ingest,
        PlaylistServer() as playlists,
    ):
        yield Fuzzer(seed, nursery, ingest, playlists)


class PlaylistServer:
    """Serves each input's playlist and segment over HTTP, one answer for each connection."""

    def __init__(self) -> None:
        self._inputs: dict[str, Seed] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @contextmanager
    def serving(self, number: int, media: Seed) -> Iterator[str]:
        """Serve an input for as long as the block lasts; gives the playlist's URL."""
        assert self._server is not None
        self._inputs[str(number)] = media
        try:
            yield f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{number}/index.m3u8"
        finally:
            del self._inputs[str(number)]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            number, name = _named(head)
            media = self._inputs.get(number)
            if media is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                body = media.content if name.endswith("m3u8") else media.segment
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
        writer.close()


def _named(head: bytes) -> tuple[str, str]:
    """Return the input's number and the file's name of a request: `GET /NUMBER/NAME?...`, or a whole URL."""
    target = head.split(b" ")[1].decode("ascii", "replace").partition("?")[0]
    *_, number, name = ["", "", *target.split("/")]
    return number, name


def _cause(ended: Ended) -> str:
    return "none" if ended.code is EndCode.END_OF_STREAM else cause_of(ended).value


def _job(kind: SourceKind, url: str, *, live: bool = True) -> Job:
    return Job(
        kind,
        url,
        0,
        live=live,
        sampling=_SAMPLING,
        sandbox=SandboxMode.PREFER,
        open_timeout_seconds=_OPEN_SECONDS,
        read_timeout_seconds=_READ_SECONDS,
    )


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("input")
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _published(port: int, path: str, content: bytes) -> AsyncIterator[None]:
    """Publish `content` and leave a little later, so that a reader has come by then."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode() + b"%x\r\n%b\r\n" % (len(content), content))
    await writer.drain()

    async def leave() -> None:
        await asyncio.sleep(_PUBLISHED_SECONDS)
        writer.write(b"0\r\n\r\n")
        with contextlib.suppress(OSError):
            await writer.drain()

    leaving = asyncio.create_task(leave(), name="fuzz.publisher")
    try:
        yield
    finally:
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def run_all(fuzzer: Fuzzer, numbers: Sequence[int], workers: int) -> AsyncIterator[Outcome]:
    """Yield the outcome of every input; `workers` are under way at once."""
    waiting: Iterator[int] = iter(numbers)
    done: asyncio.Queue[Outcome] = asyncio.Queue(workers)

    async def work() -> None:
        for number in waiting:
            await done.put(await fuzzer.run(number))

    async with asyncio.TaskGroup() as group:
        for index in range(workers):
            group.create_task(work(), name=f"fuzz[{index}]")
        for _ in numbers:
            yield await done.get()


def unhandled(found: list[str]) -> Any:
    """Return an exception handler for the loop that notes what no task took."""

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        found.append(f"{context.get('message', '')}: {type(error).__name__}")

    return note
