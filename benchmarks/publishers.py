"""Many publishers in one process: they replay encoded clips at real pace over plain sockets, and note when what left.

Nothing is encoded while the clock runs, so that what a benchmark measures is the service, not the publishers.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Self

from benchmarks.clips import Clip

_BUFFER_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class CardSwitch:
    """The first bytes of a card went to the socket at `sent_at` (monotonic)."""

    card: str
    sent_at: float


@dataclass(slots=True)
class Publication:
    """One publisher's record. Times are monotonic seconds, None until it happened.

    `connected_at`: the server took the connection. `started_at`: the first media bytes went out. `closed_at`: the
    server ended the connection; `stopped_at`: we did. `latest_seconds`: how far it ever was behind its pace.
    """

    path: str
    connected_at: float | None = None
    started_at: float | None = None
    closed_at: float | None = None
    stopped_at: float | None = None
    why: str = ""
    sent_bytes: int = 0
    latest_seconds: float = 0.0
    switches: list[CardSwitch] = field(default_factory=list)

    def switched_at(self, card: str) -> float | None:
        """Return when `card` was first sent."""
        return next((switch.sent_at for switch in self.switches if switch.card == card), None)


class PacedPublishers:
    """`async with PacedPublishers(host, port) as publishers`: every publisher still running ends with the block."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.publications: dict[str, Publication] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        for path in self._tasks:
            await self.stop(path)

    def start(self, path: str, clip: Clip, *, delay_seconds: float = 0.0, rounds: int | None = None) -> Publication:
        """Publish `clip` to `app/key` after `delay_seconds`, `rounds` times (None: until cut or stopped)."""
        if path in self._tasks and not self._tasks[path].done():
            raise ValueError("this path is being published")
        publication = Publication(path)
        work = self._publish(publication, clip, delay_seconds, rounds)
        self._tasks[path] = asyncio.create_task(work, name=f"publisher[{len(self._tasks)}]")
        self.publications[path] = publication
        return publication

    def start_many(self, count: int, clip: Clip, *, spread_seconds: float, prefix: str = "live/p") -> list[Publication]:
        """Publish `clip` to `count` paths whose starts are spread evenly, so that their keyframes are, too."""
        step = spread_seconds / max(1, count)
        return [self.start(f"{prefix}{number}", clip, delay_seconds=number * step) for number in range(count)]

    async def wait(self, path: str) -> Publication:
        """Wait until this publisher was cut or is done; raise OSError where it could not connect."""
        await self._tasks[path]
        return self.publications[path]

    async def stop(self, path: str) -> Publication:
        """End this publisher's connection, as one who leaves; raise OSError where it never got one."""
        task = self._tasks[path]
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return self.publications[path]

    async def _publish(self, publication: Publication, clip: Clip, delay_seconds: float, rounds: int | None) -> None:
        await asyncio.sleep(delay_seconds)
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(lambda: _Connection(publication), self._host, self._port)
        transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        publication.connected_at = time.monotonic()
        head = (
            f"POST /{publication.path} HTTP/1.1\r\nHost: {self._host}\r\n"
            "Content-Type: video/mp2t\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        transport.write(head.encode())
        try:
            await _replay(publication, clip, rounds, transport, connection)
            connection.stopped("done")
            transport.close()
        finally:
            connection.stopped("stopped")
            if not transport.is_closing():
                transport.abort()
            await connection.lost.wait()


async def _replay(
    publication: Publication, clip: Clip, rounds: int | None, transport: asyncio.Transport, connection: "_Connection"
) -> None:
    """Send the clip at its pace until it is done or the server ends the connection."""
    begun_at = time.monotonic()
    number = 0
    while rounds is None or number < rounds:
        for index, chunk in enumerate(clip.chunks):
            due_at = begun_at + number * clip.seconds + chunk.offset_seconds
            if await connection.ended_before(due_at):
                return
            if not await connection.may_write():
                return
            payload = clip.payload(index, number)
            sent_at = time.monotonic()
            transport.write(b"%x\r\n%b\r\n" % (len(payload), payload))
            publication.sent_bytes += len(payload)
            publication.latest_seconds = max(publication.latest_seconds, sent_at - due_at)
            publication.started_at = publication.started_at or sent_at
            if chunk.card is not None:
                publication.switches.append(CardSwitch(chunk.card, sent_at))
        number += 1
    await connection.ended_before(begun_at + number * clip.seconds)
    transport.write(b"0\r\n\r\n")


class _Connection(asyncio.Protocol):
    """Notes the instant at which the server ends the connection or answers before the end."""

    def __init__(self, publication: Publication) -> None:
        self._publication = publication
        self._ended = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost = asyncio.Event()

    async def ended_before(self, due_at: float) -> bool:
        """Wait until `due_at` (monotonic) or the end, whichever is first; True for the end."""
        seconds = max(0.0, due_at - time.monotonic())
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    async def may_write(self) -> bool:
        """Wait until the server takes bytes again; False where it ended the connection."""
        await self._writable.wait()
        return not self._ended.is_set()

    def stopped(self, why: str) -> None:
        """Note that we end the connection, unless it has ended."""
        if self._publication.closed_at is None and self._publication.stopped_at is None:
            self._publication.stopped_at, self._publication.why = time.monotonic(), why

    def data_received(self, data: bytes) -> None:
        """Take an answer: anything but an interim one, before the end, is the server's cut."""
        if data[9:10] != b"1":
            self._end(f"answered {data[9:12].decode('ascii', 'replace')}")

    def eof_received(self) -> bool:
        """Take the server's orderly end."""
        self._end("closed")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take any other end."""
        self._end("closed" if exc is None else "reset")
        self.lost.set()

    def pause_writing(self) -> None:
        """Stop: the server takes no more bytes now."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()

    def _end(self, why: str) -> None:
        if self._publication.closed_at is None and self._publication.stopped_at is None:
            self._publication.closed_at, self._publication.why = time.monotonic(), why
        self._ended.set()
        self._writable.set()
